"""A step that is run alone sees directories and any number of files as in a container."""

from __future__ import annotations

from pathlib import Path

import pytest

from batch_pipeline import Input, InvalidOutput, Job, Output, Step
from batch_pipeline.demo.alone import run_alone
from batch_pipeline.wire.errors import ContractBroken


class Split(Step):
    """Copies a directory, and leaves a file a name in it."""

    qc = Input()
    copy = Output("{sample}_copy/")
    parts = Output("*.part", many=True)

    def run(self, job: Job) -> None:
        for file in job.inputs("qc"):
            (job.output("copy") / file.relative_to(job.input_directory("qc")).name).touch()
            (job.work / f"{file.name}.part").touch()


def test_a_directory_is_given_and_left(tmp_path: Path) -> None:
    folder = tmp_path / "qc"
    (folder / "sub").mkdir(parents=True)
    (folder / "sub" / "b").touch()
    (folder / "a").touch()
    job = run_alone(Split(), tmp_path / "work", "S1", inputs={"qc": [folder]})
    assert job.inputs("qc") == (folder / "a", folder / "sub" / "b")
    assert sorted(path.name for path in (tmp_path / "work" / "S1_copy").iterdir()) == ["a", "b"]
    assert job.outputs("parts") == (job.work / "a.part", job.work / "b.part")
    with pytest.raises(ContractBroken, match=r"is a directory; use job.input_directory\('qc'\)"):
        job.input("qc")


@pytest.mark.parametrize(("port", "words"), [("copy", "left no S1_copy"), ("parts", r"left no file like \*\.part")])
def test_an_empty_one_is_no_output(tmp_path: Path, port: str, words: str) -> None:
    other = Output("a", optional=True)
    kind = type("Empty", (Split,), {"run": lambda self, job: None, "parts" if port == "copy" else "copy": other})
    with pytest.raises(InvalidOutput, match=words):
        run_alone(kind(), tmp_path / "work", "S1", inputs={"qc": []})
