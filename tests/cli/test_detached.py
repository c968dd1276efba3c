"""A run that is queued here and looked after from elsewhere, with its store's URL and nothing else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from batch_pipeline.localbatch.client import stop
from batch_pipeline.wire.contract import CommandExit
from tests.cli.prompt import ROOT, all_said, lay_out, started
from tests.flow.lab import until

pytestmark = [pytest.mark.engine, pytest.mark.slow]


@dataclass(frozen=True, kw_only=True)
class Person:
    """Somebody with a home and a folder of their own."""

    folder: Path
    store: Path
    settings: dict[str, str] = field(default_factory=dict)

    def start(self, *command: str) -> subprocess.Popen[str]:
        home = self.folder / "home"
        home.mkdir(exist_ok=True)
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("XDG_", "HOME"))}
        environment = {**kept, "HOME": str(home), "PYTHONPATH": str(ROOT), **self.settings}
        return started([sys.executable, *command, "--store", self.store], self.folder, environment)

    def __call__(self, *command: str, code: int = CommandExit.DONE) -> str:
        return all_said(self.start(*command), code)

    def alone(self, *command: str, code: int = CommandExit.DONE) -> str:
        """A command of the package's own, without any pipeline."""
        return self("-m", "batch_pipeline", *command, code=code)


@pytest.fixture
def people(tmp_path: Path) -> Iterator[tuple[Person, Person, Path]]:
    """Who has the pipeline, who has the store's URL, and the file that lets the steps go on."""
    store, first, other = tmp_path / "store", tmp_path / "first", tmp_path / "other"
    for folder in (first, other):
        folder.mkdir()
    lay_out(first, store / "SR")
    settings = {
        "BATCH_PIPELINE__EMBEDDED__IDLE_SECONDS": "20",
        "BATCH_PIPELINE__EMBEDDED__VCPUS": "4",
        "BATCH_PIPELINE__SAMPLES__FILE": "list.txt",
    }
    yield (
        Person(folder=first, store=store, settings=settings),
        Person(folder=other, store=store, settings={"BATCH_PIPELINE__WATCH__POLL_SECONDS": "0.2"}),
        tmp_path / "go",
    )
    stop(first / "home" / ".local" / "state" / "batch_pipeline" / "localbatch")


def test_from_elsewhere_a_run_is_looked_after_to_its_end(people: tuple[Person, Person, Path]) -> None:
    owner, other, go = people
    owner("main.py", "--detach", "--hold", str(go))

    until(lambda: _speaks(other), "a line of S2")
    (run,) = json.loads(other.alone("runs", "--json"))
    assert run["place"]["embedded.state"] == str(owner.folder / "home/.local/state/batch_pipeline/localbatch")
    told = json.loads(other.alone("status", "--json").partition("\n}\n")[0] + "\n}")
    assert (told["live_runs"], [step["total"] for step in told["steps"]]) == ([run["run_id"]], [3, 3])

    said = other.alone("cancel", "--samples", "S2", "--yes")
    assert said.startswith("Cancelled 2 cells of 2 jobs.\n  count: job count-0-0")
    watcher = other.start("-m", "batch_pipeline", "watch")
    go.touch()
    out, err = watcher.communicate(timeout=60)

    assert watcher.returncode == CommandExit.FAILED, out + err
    assert "upper: 2/3 done, 1 cancelled\ncount: 2/3 done, 1 cancelled\n" in out
    said = other.alone("status")
    assert "cancelled" in said
    assert "S2" in said
    assert "Nothing to watch" in other.alone("watch")
    assert "Nothing to cancel" in other.alone("cancel", "--yes")
    assert "S1: shouting letters of S1\nS3: shouting letters of S3\n" in other.alone(
        "logs", "--step", "upper", "--samples", "S1,S3", "--grep", "shout"
    )
    assert "shouting letters of S2" in other.alone("logs", "S2", "upper")
    assert not (other.folder / "home" / ".local").exists(), "no server of their own was started"
    (ended,) = json.loads(other.alone("runs", "--json"))
    assert (ended["ended"], ended["done"], ended["failed"]) == (True, 4, 2)
    assert "memory" in other.alone("rightsize")
    assert "upper: 3/3 done" in owner("main.py", "--hold", str(go))


def _speaks(other: Person) -> bool:
    """Whether the second sample's first attempt runs and has said something."""
    process = other.start("-m", "batch_pipeline", "logs", "S2", "upper")
    out, _ = process.communicate(timeout=60)
    return "shouting letters of S2\n" in out
