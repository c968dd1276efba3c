"""`logs --driver`, `--verbose` and `--log-file`: what a driver decided, in the store, on stderr and in a file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from batch_pipeline import backends
from batch_pipeline.run import live
from batch_pipeline.wire.contract import CommandExit
from batch_pipeline.wire.store import open_store
from tests.cli.letters import Run
from tests.run import small
from tests.run.small import Stage, drive, request_of

ALONE = {"workflow": None}
LIST = ("--sample-list-file", "list.txt")


@pytest.fixture
def stage(world: Path, monkeypatch: pytest.MonkeyPatch) -> Stage:
    made = Stage(open_store(str(world / "store" / "default")))
    monkeypatch.setattr(backends, "create", lambda settings: made)
    monkeypatch.setattr(live, "LOOK_SECONDS", 0.0)
    return made


def test_the_log_of_a_driver_is_printed(stage: Stage, run: Run) -> None:
    (first,) = drive(request_of(stage.store, "ann"), stage).run_ids
    (second,) = drive(request_of(stage.store, "ann", "bob"), stage).run_ids
    lines = run("logs", "--driver", first, **ALONE).out.splitlines()
    assert "driver began" in lines[0]
    assert "driver ended" in lines[-1]
    assert all(f" {first} " in line for line in lines)
    assert run("logs", "--driver", first[-8:], **ALONE).out.splitlines() == lines
    newest = run("logs", "--driver", "last", "--grep", "submitted job=upper", **ALONE).out
    assert f" INFO    {second} run.submit: submitted job=upper-0-0 step=upper " in newest
    line = json.loads(run("logs", "--driver", "last", "--grep", "submitted job=total", "--json", **ALONE).out)
    assert (line["level"], line["run_id"], line["logger"]) == ("INFO", second, "run.submit")
    assert line["at"].endswith("Z")
    assert line["text"].startswith("submitted job=total step=total ")


def test_a_driver_without_a_log_is_told(world: Path, stage: Stage, run: Run) -> None:
    told = run("logs", "--driver", "last", **ALONE)
    assert told.code == CommandExit.USAGE
    assert "No driver has left a log in" in told.err
    (run_id,) = drive(request_of(stage.store, "ann"), stage).run_ids
    stage.store.delete(list(stage.store.keys(f"runs/{run_id}/driver/")))
    assert f"No driver of run {run_id} has left a log" in run("logs", "--driver", run_id, **ALONE).err
    assert "There is no run 'nowhere'" in run("logs", "--driver", "nowhere", **ALONE).err


@pytest.mark.parametrize("words", [["ann"], ["--step", "count"], ["--failed"], ["--follow"], ["--run", "last"]])
def test_what_chooses_logs_of_cells_goes_without_driver(world: Path, run: Run, words: list[str]) -> None:
    told = run("logs", *words, "--driver", "last", **ALONE)
    assert told.code == CommandExit.USAGE
    assert "--driver goes with --grep and --json alone" in told.err


def test_verbose_and_a_log_file_say_what_the_driver_decides(world: Path, stage: Stage, run: Run) -> None:
    request_of(stage.store, "S1", "S2")
    told = run("run", *LIST, "--verbose", "--log-file", "driver.txt", workflow=small.Letters)
    assert told.code == CommandExit.DONE
    lines = (world / "driver.txt").read_text().splitlines()
    assert [line for line in told.err.splitlines() if line in lines] == lines
    assert sum(" run.submit: submitted " in line for line in lines) == 3
    quiet = run("run", *LIST, "--force", "--log-file", "driver.txt", workflow=small.Letters)
    assert "run.submit" not in quiet.err
    assert len((world / "driver.txt").read_text().splitlines()) > len(lines)


def test_a_log_file_that_cannot_be_opened_is_refused_before_anything_is_done(
    world: Path, stage: Stage, run: Run
) -> None:
    told = run("run", *LIST, "--log-file", "nowhere/driver.txt", workflow=small.Letters)
    assert told.code == CommandExit.USAGE
    assert "nowhere/driver.txt cannot be opened" in told.err
    assert not stage.jobs
