"""`run --driver batch`: the driver is a job of the embedded Batch, and the command that submitted it is gone."""

from __future__ import annotations

import json
import os
import random
import signal
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.flow.lab import ALL, Lab, until

pytestmark = [pytest.mark.engine, pytest.mark.slow]

TWENTY = tuple(f"s{number:02}" for number in range(20))


def driver_of(lab: Lab) -> str:
    """The newest run of kind driver."""
    return max(run for run in lab.runs() if record(lab, run)["kind"] == "driver")


def record(lab: Lab, run_id: str) -> dict[str, Any]:
    path = lab.store / "runs" / run_id / "run.json"
    return dict(json.loads(path.read_text())) if path.exists() else {"kind": "", "parent_run": ""}


def children(lab: Lab, driver: str) -> list[str]:
    return [run for run in lab.runs() if record(lab, run)["parent_run"] == driver]


def end_of(lab: Lab, driver: str) -> dict[str, Any] | None:
    path = lab.store / "runs" / driver / "end.json"
    return json.loads(path.read_text()) if path.exists() else None


def events_of(lab: Lab, driver: str) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted((lab.store / "runs" / driver / "events").glob("*.json"))]


def began(lab: Lab, driver: str) -> list[int]:
    """Process ids of the attempts of a driver: what supervises the pipeline's own process."""
    return [event["pid"] for event in events_of(lab, driver) if event["event"] == "driver began"]


def has_begun(lab: Lab, driver: str, attempt: int) -> bool:
    return len(began(lab, driver)) >= attempt


def pipeline_process(driver: str) -> int | None:
    """The process in which the driver's pipeline runs; it leads its group."""
    for path in Path("/proc").glob("[0-9]*"):
        try:
            words = (path / "cmdline").read_bytes().split(b"\0")
            environment = (path / "environ").read_bytes()
        except OSError:
            continue
        if b"batch_pipeline.cli.driver_job" in words and f"BATCH_PIPELINE_PARENT_RUN={driver}".encode() in environment:
            return int(path.name)
    return None


def sent_cells(lab: Lab, driver: str) -> list[tuple[str, str]]:
    return [cell for run in children(lab, driver) for cell in lab.sent(run)]


def test_the_run_goes_on_to_a_second_wave_when_the_command_is_gone(lab: Lab) -> None:
    lab.samples(*TWENTY)
    lab.text("s07", "HUNGRY\n")
    process = lab.start("--driver", "batch", "--detach")
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    driver = driver_of(lab)
    assert driver in out

    end = until(lambda: end_of(lab, driver), "the driver has ended")

    assert end["exit_code"] == 0
    assert len(lab.receipts()) == 41
    assert len(children(lab, driver)) == 3, "two more waves: 128 and 256 MiB"
    assert (lab.store / "cohort/count/words.tsv").exists()
    assert lab.live() == []
    until(lambda: not list((lab.store / "driving").glob("*")), "its marker is gone")
    user = record(lab, driver)["user"]
    assert all(record(lab, run)["user"] == user for run in children(lab, driver))
    assert "memory_mb=128" in lab.run("logs", "--driver", driver, "--grep", "submitted").out
    assert "Nothing to do" in lab.run("--driver", "batch").out
    assert driver_of(lab) == driver


@pytest.mark.faults
@pytest.mark.parametrize("seed", [1, 2])
def test_a_driver_that_is_killed_three_times_makes_every_cell_once(lab: Lab, gate: Path, seed: int) -> None:
    """By turns its pipeline with all of its group, and what supervises it, as a lost host would."""
    lab.text("bob", f"WAIT {gate}\nHUNGRY\n")
    chance = random.Random(seed)
    lab.run("--driver", "batch", "--detach")
    driver = driver_of(lab)
    for attempt in (1, 2, 3):
        until(partial(has_begun, lab, driver, attempt), "the attempt begins")
        leader = until(lambda: pipeline_process(driver), "the pipeline runs")
        pause = chance.uniform(0, 2.5)
        signal.sigtimedwait([], pause)
        if attempt == 3:
            gate.touch()
        if attempt % 2:
            os.killpg(leader, signal.SIGKILL)
        else:
            os.kill(began(lab, driver)[-1], signal.SIGKILL)

    end = until(lambda: end_of(lab, driver), "the driver has ended")

    assert end["exit_code"] == 0, events_of(lab, driver)
    assert end["attempt"] == 4
    assert set(lab.receipts()) == ALL
    cells = sent_cells(lab, driver)
    again = {("lower", "bob"), ("words", "bob"), ("count", "_cohort")}
    assert {cell for cell in cells if cells.count(cell) > 1} <= again, "but for what ran out of memory"
    assert {cell: cells.count(cell) for cell in again} == dict.fromkeys(again, 3), [
        (run, sorted(lab.sent(run))) for run in children(lab, driver)
    ]


def test_a_failed_sample_ends_the_driver_once_with_the_runs_exit_code(lab: Lab) -> None:
    lab.text("bob", "FAIL\n")

    ran = lab.run("--driver", "batch", code=1)

    driver = driver_of(lab)
    assert "the text of bob cannot be read" in ran.out
    assert len(began(lab, driver)) == 1
    (run,) = children(lab, driver)
    assert record(lab, driver)["bundle_sha256"] != record(lab, run)["bundle_sha256"]
    assert len(lab.json("runs")) == 2


@pytest.mark.faults
def test_what_failed_stays_failed_when_its_driver_is_started_again(lab: Lab, gate: Path) -> None:
    lab.text("bob", "FAIL\n")
    lab.run("--driver", "batch", "--detach")
    driver = driver_of(lab)
    failures = lab.store / "logs"
    until(lambda: list(failures.glob("*/lower/bob/*.failure.json")), "bob has failed")
    os.killpg(until(lambda: pipeline_process(driver), "the pipeline runs"), signal.SIGKILL)
    until(lambda: len(began(lab, driver)) == 2, "it is started again")
    gate.touch()

    end = until(lambda: end_of(lab, driver), "the driver has ended")

    assert end["exit_code"] == 1
    assert sent_cells(lab, driver).count(("lower", "bob")) == 1


@pytest.mark.faults
def test_what_is_forced_is_forced_once(lab: Lab) -> None:
    lab.run()
    path = lab.folder / "gate"
    before = {cell: receipt["run_id"] for cell, receipt in lab.receipts().items()}
    lab.edit("parts/lower.sh", "set -eu", f"set -eu\nwhile [ ! -e {path} ]; do sleep 0.02; done")
    lab.run("--driver", "batch", "--detach", "--force", "--accept-code-changes")
    driver = driver_of(lab)
    until(lambda: len(list((lab.store / "runs").glob("*/submissions/*/sent.json"))) >= 7, "all is sent")
    os.killpg(until(lambda: pipeline_process(driver), "the pipeline runs"), signal.SIGKILL)
    path.touch()

    end = until(lambda: end_of(lab, driver), "the driver has ended")

    assert end["exit_code"] == 0
    assert sorted(sent_cells(lab, driver)) == sorted(ALL)
    assert before.keys() == lab.receipts().keys()


def test_a_second_driver_is_refused_while_one_lives(lab: Lab, gate: Path) -> None:
    lab.run("--driver", "batch", "--detach")
    driver = driver_of(lab)

    ran = lab.run("--driver", "batch", code=3)

    assert f"The driver {driver} (job " in ran.err
    assert [run for run in lab.runs() if record(lab, run)["kind"] == "driver"] == [driver]
    gate.touch()
    until(lambda: end_of(lab, driver), "the driver has ended")
    assert set(lab.receipts()) == ALL


def test_it_is_looked_at_and_followed_from_anywhere(lab: Lab, gate: Path) -> None:
    lab.run("--driver", "batch", "--detach")
    driver = driver_of(lab)
    until(lambda: lab.live(), "its run has begun")

    assert lab.json("status")["drivers"] == [driver]
    assert f"Driver {driver} runs as job" in lab.run("status", "--run", lab.live()[0], code=None).err
    gate.touch()
    followed = lab.run("watch")

    assert f"The driver {driver} is done." in followed.err
    assert "lock acquired" in lab.run("logs", "--driver", driver).out
    assert lab.json("status")["drivers"] == []
    assert [run["kind"] for run in lab.json("runs")] == ["pipeline", "driver"]


def test_cancel_ends_the_driver_first_and_then_its_jobs(lab: Lab, gate: Path) -> None:
    lab.text("bob", f"WAIT {gate}\nHUNGRY\n")
    lab.run("--driver", "batch", "--detach")
    driver = driver_of(lab)
    until(lambda: lab.live(), "its run has begun")

    ran = lab.run("cancel", driver, "--yes")

    assert f"Cancelled the driver {driver}." in ran.out
    assert pipeline_process(driver) is None
    until(lambda: not lab.json("status", code=None)["live_runs"], "the jobs have ended")
    assert len(children(lab, driver)) == 1
    assert "cancelled" in (end_of(lab, driver) or {})["problem"]
    assert "has ended" in lab.run("cancel", driver, "--yes").out


def test_the_plan_of_a_driver_submits_nothing(lab: Lab) -> None:
    assert "3 SubmitJob calls" in lab.run("--driver", "batch", "--dry-run").out
    assert "3 SubmitJob calls" in lab.run("plan", "--driver", "batch").out
    assert not lab.store.exists()


def test_the_driver_runs_what_the_command_saw(lab: Lab, gate: Path) -> None:
    """Its code, its list and which samples were meant; what is changed after it was given has no say."""
    lab.run("--driver", "batch", "--detach", "--samples", "ann,cid", "--only-step", "lower")
    driver = driver_of(lab)
    lab.edit("parts/lower.sh", "tr '[:upper:]' '[:lower:]'", "cat")
    lab.samples("dan")
    gate.touch()

    end = until(lambda: end_of(lab, driver), "the driver has ended")

    assert end["exit_code"] == 0
    assert set(lab.receipts()) == {("lower", "ann"), ("lower", "cid")}
    assert (lab.store / "results/lower/ann/ann.lower.txt").read_text().endswith("the words of ann\n")


def test_what_a_command_left_that_died_before_it_submitted_stands_in_no_ones_way(lab: Lab) -> None:
    """Its driver is closed by the next one; a driver whose job is queued without its id is looked up."""
    lab.run("--driver", "batch")
    first = driver_of(lab)
    until(lambda: not list((lab.store / "driving").glob("*")), "its marker is gone")
    folder = lab.store / "runs" / first
    (lab.store / "driving" / f"{first}.json").write_text("{}")
    (folder / "end.json").unlink()
    (folder / "submissions/driver/sent.json").unlink()
    assert lab.json("status")["drivers"] == [], "its job has ended"

    lab.run("--driver", "batch", "--force", "--only-step", "count")

    assert driver_of(lab) != first
    assert "left no end" in (end_of(lab, first) or {})["problem"]
    until(lambda: not list((lab.store / "driving").glob("*")), "both markers are gone")


def test_the_events_of_a_driver_are_handed_on_and_the_driver_notifies(lab: Lab, tmp_path: Path) -> None:
    told, events = tmp_path / "told.jsonl", tmp_path / "events.jsonl"
    (tmp_path / "word.sh").write_text(f"cat >> {told}; echo >> {told}\n")
    printed = lab.run(
        *("--driver", "batch", "--events", str(events), "--notify-command", f"sh {tmp_path / 'word.sh'}"),
    )
    lines = [json.loads(line) for line in events.read_text().splitlines()]
    driver = driver_of(lab)
    assert [line["event"] for line in lines][:2] == ["planned", "wave"]
    assert [line["event"] for line in lines].count("ended") == 1
    assert lines[-1]["run_ids"] == children(lab, driver)
    assert [json.loads(line) for line in told.read_text().splitlines()] == [lines[-1]], "once, by the driver"
    assert '"event"' not in printed.out
    assert f"The driver {driver} is done" in printed.err
