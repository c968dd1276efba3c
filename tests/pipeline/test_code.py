"""Which files are a step's code, and that only their bytes count."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from batch_pipeline.pipeline.code import code_digest, code_of, entry_of, script_of
from batch_pipeline.pipeline.step import Step
from batch_pipeline.wire.errors import InvalidPipeline

STEP = "from batch_pipeline import Step\n"
Make = Callable[[Mapping[str, str], str], type[Step]]


@pytest.fixture(name="root")
def _root(tmp_path: Path) -> Path:
    root = tmp_path / "pipeline"
    root.mkdir()
    return root


@pytest.fixture(name="make")
def _make(root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    """Writes files below the root and imports `module:Class` from there; nothing of it stays imported."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(root))

    def make(files: Mapping[str, str], entry: str) -> type[Step]:
        for name, text in files.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(text)
        importlib.invalidate_caches()
        module, _, name = entry.partition(":")
        found: type[Step] = getattr(importlib.import_module(module), name)
        return found

    yield make
    for name in set(sys.modules) - before:
        del sys.modules[name]


def names(step: type[Step], root: Path) -> list[str]:
    return [str(file) for file in code_of(step, root)]


def test_a_step_alone_is_its_module(make: Make, root: Path) -> None:
    step = make({"alone.py": f"import os, json\n{STEP}class A(Step): pass\n", "other.py": ""}, "alone:A")
    assert names(step, root) == ["alone.py"]
    assert entry_of(step, root) == "alone:A"
    assert script_of(step, root) == ""


def test_what_it_imports_counts_however_deep_and_in_every_way_to_write_it(make: Make, root: Path) -> None:
    files = {
        "tools_t/__init__.py": "",
        "tools_t/step.py": (
            f"{STEP}from . import near\nfrom .beside import thing\nimport far_t.away\nclass A(Step): pass\n"
        ),
        "tools_t/near.py": "def late():\n    from tools_t.hidden import x\n",
        "tools_t/beside.py": "thing = 1\n",
        "tools_t/hidden.py": "x = 1\n",
        "tools_t/unrelated.py": "",
        "far_t/__init__.py": "from far_t.first import one\n",
        "far_t/first.py": "one = 1\n",
        "far_t/away.py": "import top_t\n",
        "top_t.py": "import far_t.away\n",
    }
    step = make(files, "tools_t.step:A")
    assert names(step, root) == [
        "far_t/__init__.py",
        "far_t/away.py",
        "far_t/first.py",
        "tools_t/__init__.py",
        "tools_t/beside.py",
        "tools_t/hidden.py",
        "tools_t/near.py",
        "tools_t/step.py",
        "top_t.py",
    ]
    assert entry_of(step, root) == "tools_t.step:A"


def test_relative_imports_go_up_by_their_dots(make: Make, root: Path) -> None:
    files = {
        "up_t/__init__.py": "",
        "up_t/shared.py": "value = 1\n",
        "up_t/deep/__init__.py": "",
        "up_t/deep/step.py": f"{STEP}from ..shared import value\nfrom .. import more\nclass A(Step): pass\n",
        "up_t/more.py": "",
        "shared.py": "",
    }
    assert names(make(files, "up_t.deep.step:A"), root) == [
        "up_t/__init__.py",
        "up_t/deep/__init__.py",
        "up_t/deep/step.py",
        "up_t/more.py",
        "up_t/shared.py",
    ]


def test_the_packages_above_a_step_are_run_before_it_and_count(make: Make, root: Path) -> None:
    files = {
        "above_t/__init__.py": "import setting_t\n",
        "setting_t.py": "",
        "above_t/step.py": f"{STEP}class A(Step): pass\n",
    }
    assert names(make(files, "above_t.step:A"), root) == ["above_t/__init__.py", "above_t/step.py", "setting_t.py"]


def test_a_folder_without_init_is_a_package_too(make: Make, root: Path) -> None:
    files = {"plain_t/step.py": f"{STEP}from plain_t import tool\nclass A(Step): pass\n", "plain_t/tool.py": ""}
    assert names(make(files, "plain_t.step:A"), root) == ["plain_t/step.py", "plain_t/tool.py"]


def test_a_package_goes_before_a_module_of_its_name_as_in_python(make: Make, root: Path) -> None:
    files = {
        "both_t.py": "",
        "both_t/__init__.py": "",
        "asks_t.py": f"{STEP}import both_t\nclass A(Step): pass\n",
    }
    assert names(make(files, "asks_t:A"), root) == ["asks_t.py", "both_t/__init__.py"]


def test_a_script_and_further_files_count(make: Make, root: Path) -> None:
    files = {
        "work_t/step.py": f"{STEP}class A(Step):\n    script = 'run.sh'\n    files = ('lib/a.awk', '../shared.txt')\n",
        "work_t/run.sh": "#!/bin/sh\n",
        "work_t/lib/a.awk": "",
        "shared.txt": "",
        "work_t/other.sh": "",
    }
    step = make(files, "work_t.step:A")
    assert names(step, root) == ["shared.txt", "work_t/lib/a.awk", "work_t/run.sh", "work_t/step.py"]
    assert script_of(step, root) == "work_t/run.sh"


def test_only_the_bytes_of_its_files_change_the_digest(make: Make, root: Path) -> None:
    files = {
        "bytes_t.py": f"{STEP}import helper_t\nclass A(Step):\n    script = 'run_t.sh'\n    files = ('table_t.tsv',)\n",
        "helper_t.py": "",
        "run_t.sh": "",
        "table_t.tsv": "",
        "unrelated_t.py": "",
    }
    step = make(files, "bytes_t:A")
    first = code_digest(step, root)
    (root / "unrelated_t.py").write_text("x = 1\n")
    (root / "notes.md").write_text("text")
    (root / "helper_t.py").touch()
    assert code_digest(step, root) == first
    digests = {first}
    for name in ("bytes_t.py", "helper_t.py", "run_t.sh", "table_t.tsv"):
        (root / name).write_text((root / name).read_text() + "# more\n")
        digests.add(code_digest(step, root))
    assert len(digests) == 5


def test_where_the_folder_lies_is_no_part_of_the_digest(make: Make, root: Path, tmp_path: Path) -> None:
    source = f"{STEP}class A(Step): pass\n"
    here = code_digest(make({"moved_t.py": source}, "moved_t:A"), root)
    del sys.modules["moved_t"]
    (root / "moved_t.py").unlink()
    sub = root / "sub"
    assert code_digest(make({"sub/moved_t.py": source}, "sub.moved_t:A"), sub) == here


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ("script = 'gone.sh'", "A names the file 'gone.sh', which is not beside"),
        ("files = ('folder_t',)", "A names the file 'folder_t', which is not beside"),
        ("files = ('../outside.txt',)", r"A names the file '../outside.txt', which lies outside"),
    ],
)
def test_a_file_that_cannot_be_bundled_is_refused(make: Make, root: Path, body: str, sentence: str) -> None:
    (root / "folder_t").mkdir()
    (root.parent / "outside.txt").write_text("")
    step = make({"refused_t.py": f"{STEP}class A(Step):\n    {body}\n"}, "refused_t:A")
    with pytest.raises(InvalidPipeline, match=sentence):
        code_of(step, root)


def test_a_step_outside_of_the_pipeline_s_folder_is_refused(make: Make, root: Path) -> None:
    step = make({"outside_t.py": f"{STEP}class A(Step): pass\n"}, "outside_t:A")
    inner = root / "inner"
    inner.mkdir()
    with pytest.raises(InvalidPipeline, match=r"outside of the pipeline's folder .* Move or copy the file there"):
        code_of(step, inner)


def test_an_import_that_is_no_python_is_told_by_line(make: Make, root: Path) -> None:
    step = make({"lazy_t.py": f"{STEP}class A(Step):\n    def run(self, job):\n        import broken_t\n"}, "lazy_t:A")
    (root / "broken_t.py").write_text("x = 1\ndef (:\n")
    with pytest.raises(InvalidPipeline, match=r"broken_t\.py, line 2: "):
        code_of(step, root)
