"""State folders that an earlier version has written."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import pytest

from batch_pipeline.localbatch.api.logs import LogMemory
from batch_pipeline.localbatch.engine.state import SqliteStorage
from batch_pipeline.localbatch.hosts.scripted import ScriptedExecutor, VirtualClock
from batch_pipeline.localbatch.service import Batch

DUMP = Path(__file__).with_name("state_of_1.sql")


@pytest.fixture
def database(tmp_path: Path) -> Path:
    file = tmp_path / "batch.sqlite"
    with sqlite3.connect(file) as connection:
        connection.executescript(DUMP.read_text())
    return file


def test_jobs_of_an_earlier_version_go_on(database: Path) -> None:
    storage, clock, logs = SqliteStorage(database), VirtualClock(1_700_000_100_000), LogMemory()
    batch = Batch(clock=clock, storage=storage, logs=logs, vcpus=2, memory_mib=1000)
    batch.load(storage.documents(), storage.jobs())
    batch.resume(ScriptedExecutor(clock, batch, logs))
    done, waits, cancelled, late = batch.engine.jobs.values()
    assert [attempt.reason for attempt in done.attempts(1)] == ["OutOfMemoryError: x", None]
    assert late.status_reason == late.spec.fails_on_submit == "Container Overrides length must be at most 8192"
    assert not late.attempts(0)
    clock.advance_to(clock.now_ms() + 60_000)
    assert waits.ended
    assert [len(waits.attempts(index)) for index in range(2)] == [1, 1]
    assert cancelled.ended
    assert cancelled.status_reason == "not needed"


def test_jobs_are_stored_so_that_an_earlier_version_reads_them(database: Path) -> None:
    storage = SqliteStorage(database)
    *_, late = storage.jobs()
    storage.save_job(replace(late.spec, id=str(uuid4())))
    with sqlite3.connect(database) as connection:
        *_, before, after = (json.loads(body) for (body,) in connection.execute("SELECT body FROM job ORDER BY number"))
    assert {**after, "id": before["id"]} == before
