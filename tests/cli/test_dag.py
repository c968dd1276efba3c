"""`dag` and `plan --dag`: the pipeline as a drawing, on stdout or in a file."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest

from batch_pipeline.wire.contract import CommandExit
from tests.cli.letters import Run


def test_dag_needs_neither_store_nor_sample_list(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    told = run("dag")
    assert (told.code, told.err) == (CommandExit.DONE, "")
    assert told.out == (
        "flowchart TD\n"
        '    source_1[/"{sample}.txt"/]\n'
        '    step_upper[["upper<br/>each sample"]]\n'
        '    step_count[["count<br/>each sample"]]\n'
        '    result_count(["count.txt"])\n'
        '    source_1 -->|"text"| step_upper\n'
        '    step_upper -->|"upper → text"| step_count\n'
        '    step_count -->|"count"| result_count\n'
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("form", ["mermaid", "dot", "svg"])
def test_a_file_has_what_stdout_has(run: Run, world: Path, form: str) -> None:
    told = run("dag", "--format", form, "-o", "new/dag.txt")
    assert (told.code, told.out, told.err) == (CommandExit.DONE, "", "The diagram is in new/dag.txt.\n")
    assert (world / "new/dag.txt").read_text() == run("dag", "--format", form).out


def test_a_file_that_cannot_be_written_is_told(run: Run, world: Path) -> None:
    (world / "folder").mkdir()
    (world / "file").write_text("")
    for name in ("folder", "/dev/null", "file/dag.svg"):
        told = run("dag", "--output", name)
        assert told.code == CommandExit.USAGE
        assert told.err.startswith(f"Error: {name} ")
        assert told.err.endswith("Name another file.\n")


def test_plan_draws_the_steps_with_their_cells(run: Run, world: Path) -> None:
    told = run("plan", "--sample-list-file", "list.txt", "--dag", "mermaid")
    assert told.code == CommandExit.DONE
    assert '    step_upper[["upper<br/>each sample<br/>2 to run"]]\n' in told.out
    ElementTree.fromstring(run("plan", "--sample-list-file", "list.txt", "--dag", "svg").out.encode())


def test_plan_draws_or_prints_json(run: Run, world: Path) -> None:
    told = run("plan", "--sample-list-file", "list.txt", "--dag", "svg", "--json")
    assert told.code == CommandExit.USAGE
    assert told.err == "Error: --dag and --json exclude each other. Give one of them.\n"
