from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from batch_pipeline import WorkflowTask
from batch_pipeline.cli import run_command_line
from tests.cli.letters import Letters, Run, Told


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a list of two samples, their files in the default store, and no terminal."""
    monkeypatch.chdir(tmp_path)
    sources = tmp_path / "store" / "default" / "SR"
    sources.mkdir(parents=True)
    for name in ("S1", "S2"):
        (sources / f"{name}.txt").write_text(f"letters of {name}\n")
    (tmp_path / "list.txt").write_text("S1\nS2\n")
    return tmp_path


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs the command line in this process: `run("plan", "--json", workflow=Letters)`."""

    def call(*args: str, workflow: type[WorkflowTask] | None = Letters) -> Told:
        capsys.readouterr()
        code = run_command_line(workflow, list(args))
        captured = capsys.readouterr()
        return Told(code=code, out=captured.out, err=captured.err)

    return call


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes stdin look like a terminal."""
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
