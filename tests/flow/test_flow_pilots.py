"""Runs through pilots: the same cells, receipts and reruns as through array jobs, with real pilots as processes."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from batch_pipeline.config import Settings
from batch_pipeline.pool.base import Filter
from batch_pipeline.pool.pilots.jobs import BatchLauncher
from batch_pipeline.pool.settings import batch_launcher
from batch_pipeline.pool.stores.sqlite.store import SqliteStore
from batch_pipeline.pool.task import Move, Task, TaskState
from batch_pipeline.records.place import pool_url
from batch_pipeline.wire.store import open_store
from tests.flow.lab import ALL, PATIENCE, SAMPLES, Lab, until
from tests.servers import databases

pytestmark = pytest.mark.engine

PILOTS = ("--pilots", "2")


@pytest.fixture
def gate(gate: Path, lab: Lab) -> Iterator[Path]:
    """See the gate of all labs; when it is opened at the end, nothing is left running."""
    yield gate
    gate.touch()
    until(lambda: not (lab.store / "pool").exists() or not held(lab), "the pilots end")


def pool_of(lab: Lab) -> SqliteStore:
    return SqliteStore(lab.store / "pool" / "pool.sqlite")


def held(lab: Lab) -> list[Task]:
    return list(pool_of(lab).find(Filter(states=frozenset({TaskState.HELD}))).tasks)


def test_pilots_make_what_array_jobs_make(lab: Lab) -> None:
    ran = lab.run(*PILOTS, "--items", "2")

    assert ran.calls.total() == 0
    assert set(lab.receipts()) == ALL
    assert (lab.store / "cohort/count/words.tsv").read_text() == "ann\t4\nbob\t4\ncid\t4\ntotal\t12\n"
    assert "count: 1/1 done" in ran.err
    assert not lab.live()
    counts = pool_of(lab).counts()
    assert (counts.total, counts.of(TaskState.DONE)) == (7, 7)
    assert set(counts.by_class) == {"lower", "words", "count"}
    again = lab.run(*PILOTS)
    assert "Nothing to do: 7 of 7 cells are done." in again.out
    # To array jobs these are the same cells: same fingerprints, same receipts.
    assert "Nothing to do: 7 of 7 cells are done." in lab.run().out
    assert len(lab.runs()) == 1


def test_the_pilots_may_be_an_array_job_of_batch(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on AWS: pilots are sent to the queue. Here it is the embedded Batch that runs them, so they reach SQLite."""

    def on_batch(settings: Settings, *, cpus: int, memory_mb: int) -> BatchLauncher:
        assert cpus >= 1
        store = open_store(settings.store_location)
        return batch_launcher(settings, store, pool_url(settings), ("--items", "2"), cpus=1, memory_mb=memory_mb + 256)

    monkeypatch.setattr("batch_pipeline.pool.pooled_pilots.run_launcher", on_batch)
    ran = lab.run(*PILOTS)
    assert set(lab.receipts()) == ALL
    assert ran.calls["SubmitJob"] == 1
    [kept] = (lab.store / "pool" / "pilots").glob("*.json")
    launched = json.loads(kept.read_text())
    tasks = pool_of(lab).find(Filter()).tasks
    assert {task.native_id.partition(":")[0] for task in tasks} == {launched["native_id"]}
    assert launched["count"] == 2


@pytest.mark.servers
def test_the_pool_may_be_on_a_server(lab: Lab) -> None:
    url = f"couchdb://127.0.0.1:{databases.pouchdb().port}/pool-{uuid4().hex}"
    lab.run(*PILOTS, "--pool", url)
    assert set(lab.receipts()) == ALL
    assert not (lab.store / "pool").exists()
    assert "Nothing to do: 7 of 7 cells are done." in lab.run().out


def test_a_rerun_makes_exactly_what_is_missing(lab: Lab) -> None:
    lab.run()
    lab.receipt_of("words", "bob").unlink()
    lab.run(*PILOTS)
    assert lab.sent() == {("words", "bob"), ("count", "_cohort")}
    assert set(lab.receipts()) == ALL
    assert pool_of(lab).counts().total == 2


def test_a_failing_sample_leaves_the_others_alone(lab: Lab) -> None:
    lab.text("bob", "FAIL\n")
    ran = lab.run(*PILOTS, code=1)
    assert set(lab.receipts()) == {(step, sample) for step in ("lower", "words") for sample in ("ann", "cid")}
    assert "lower, step failed: bob" in ran.out
    assert "words: 1 not run: 1 because lower failed (1 step failed)" in ran.out
    assert "the text of bob cannot be read" in lab.run("logs", "bob").out
    lab.text("bob", "Fine now\n")
    lab.run(*PILOTS)
    assert set(lab.receipts()) == ALL


def test_a_tolerant_gather_does_without_a_sample_that_failed_and_is_made_again_with_it(lab: Lab) -> None:
    lab.edit("parts/count.py", "    scope = Scope.COHORT\n", "    scope = Scope.COHORT\n    tolerant = True\n")
    lab.text("bob", "FAIL\n")
    lab.run(*PILOTS, code=1)
    table = lab.store / "cohort/count/words.tsv"
    assert table.read_text() == "ann\t4\ncid\t4\nbob\tmissing\ntotal\t8\n"
    lab.text("bob", "Fine now\n")
    lab.run(*PILOTS)
    assert table.read_text() == "ann\t4\nbob\t2\ncid\t4\ntotal\t10\n"
    assert "Nothing to do: 7 of 7 cells are done." in lab.run(*PILOTS).out


def test_a_pilot_that_is_killed_loses_nothing(lab: Lab, gate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BATCH_PIPELINE__POOL__LEASE_SECONDS", "1.5")
    process = lab.start(*PILOTS)
    first = until(lambda: len(held(lab)) == 2 and held(lab)[0] if is_made(lab) else None, "two tasks are held")
    os.kill(int(first.native_id.rpartition("/")[2]), signal.SIGKILL)
    until(lambda: pool_of(lab).get(first.id) != first, "its lease ends")
    gate.touch()
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, f"{out}\n{err}"
    assert set(lab.receipts()) == ALL
    moves = [event.move for event in pool_of(lab).events(task_id=first.id)]
    assert moves == [Move.ADDED, Move.CLAIMED, Move.EXPIRED, Move.CLAIMED, Move.DONE]
    assert lab.receipts()[(first.spec.resource_class, SAMPLES[int(first.id[-1])])]["attempt"] == 2


def test_a_driver_that_is_killed_is_followed_by_the_next(lab: Lab, gate: Path) -> None:
    process = lab.start(*PILOTS)
    until(lambda: is_made(lab) and held(lab), "a task is held")
    process.kill()
    process.communicate(timeout=PATIENCE)
    told = lab.json("status")
    assert told["live_runs"] == lab.runs()
    gate.touch()
    # The record says that pilots are at it: the next command need not be told.
    lab.run()
    assert set(lab.receipts()) == ALL
    assert len(lab.runs()) == 1


def test_a_detached_run_goes_on_by_itself(lab: Lab) -> None:
    assert "go on by themselves" in lab.run(*PILOTS, "--detach").out
    until(lambda: set(lab.receipts()) == ALL, "the pilots do everything")
    until(lambda: not held(lab), "the last task is settled")
    assert "Nothing to do: 7 of 7 cells are done." in lab.run().out
    assert not lab.live()


def test_a_run_is_cancelled_wherever_its_cells_are(lab: Lab, gate: Path) -> None:
    lab.run(*PILOTS, "--detach")
    until(lambda: len(held(lab)) == 2, "two tasks are held")
    told = lab.run("cancel", "--yes")
    assert told.out.startswith("Cancelled 7 cells of 3 jobs.\n")
    assert pool_of(lab).counts().of(TaskState.CANCELLED) == 7
    lab.run("status", code=None)
    gate.touch()
    lab.run(*PILOTS)
    assert set(lab.receipts()) == ALL


def test_array_jobs_and_pilots_do_not_mix_within_a_live_run(lab: Lab, gate: Path) -> None:
    lab.run("--detach")
    told = lab.run(*PILOTS, code=3)
    assert "array jobs, not pilots" in told.err


def test_pilots_that_cannot_work_are_told(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BATCH_PIPELINE__POOL__LEASE_SECONDS", "60")
    monkeypatch.setattr("batch_pipeline.pool.pilots.launch.sys.executable", "/bin/false")
    told = lab.run(*PILOTS, code=4)
    assert "pilots ended without having done anything, and 3 tasks are left" in told.err
    assert "batch-pipeline pool work --pool sqlite://" in told.err
    monkeypatch.undo()


def is_made(lab: Lab) -> bool:
    return (lab.store / "pool" / "pool.sqlite").exists() and bool(
        list((lab.store / "runs").glob("*/submissions/count*/sent.json"))
    )
