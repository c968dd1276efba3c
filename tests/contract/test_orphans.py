"""Whatever a step leaves behind ends with it, wherever it runs and however it ends, and nobody else's process does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from batch_pipeline.localbatch.client import stop
from batch_pipeline.pool.base import Filter
from batch_pipeline.pool.stores.sqlite.store import SqliteStore
from batch_pipeline.pool.task import Action, TaskSpec, TaskState
from batch_pipeline.wire import processes
from batch_pipeline.wire.processes import Limit, carries, identity_of, kill_all, marking, new_mark, parent_of
from batch_pipeline.wire.store import open_store
from tests.container.conftest import Workshop
from tests.contract import leaver
from tests.localbatch.conftest import connect, define, describe, eventually, make_queue, start, submit

pytestmark = pytest.mark.faults

ROOT = Path(__file__).resolve().parents[2]


class Left:
    """The processes that one step has left, and is."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.folder = folder

    def command(self, end: str) -> list[str]:
        return [sys.executable, "-S", leaver.__file__, str(self.folder), end]

    def is_there(self) -> bool:
        return (self.folder / "there").exists()

    @property
    def parent(self) -> int:
        """Who runs the step."""
        return int((self.folder / "parent").read_text())

    def alive(self) -> list[int]:
        pids = []
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                arguments = (process / "cmdline").read_bytes().split(b"\0")
                if os.fsencode(self.folder) in arguments and Path(arguments[0].decode()).name.startswith("python"):
                    pids.append(int(process.name))
        return pids

    def hops(self) -> int:
        hops = self.folder / "hops"
        return hops.stat().st_size if hops.exists() else 0

    def is_gone(self) -> bool:
        """A look may miss the one that is never the same process for long; so it is counted too."""
        hops = self.hops()
        return not any(self.alive() for _ in range(3)) and self.hops() == hops

    def lives(self) -> bool:
        hops = self.hops()
        eventually(lambda: self.hops() > hops)
        # The step, one of each other way but the chain, and those that one of them has started.
        return len(self.alive()) >= len(leaver.WAYS) + leaver.MANY

    def go(self) -> None:
        (self.folder / "go").touch()


@pytest.fixture
def left(tmp_path: Path) -> Left:
    return Left(tmp_path / "left")


@pytest.fixture
def neighbour(tmp_path: Path) -> Iterator[Left]:
    """Somebody else's processes, of the very same kind, started by nobody who has to do with the step."""
    neighbour = Left(tmp_path / "neighbour")
    mark = new_mark(Limit.ATTEMPT)
    with marking(Limit.ATTEMPT, mark):
        process = subprocess.Popen(neighbour.command("stay"), start_new_session=True)
    try:
        eventually(neighbour.is_there)
        yield neighbour
        assert neighbour.lives()
    finally:
        eventually(lambda: kill_all(carries(Limit.ATTEMPT, mark)))
        process.wait()


def test_what_no_listing_shows_is_ended(left: Left, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has started the next one and ended before a slow look at all processes comes to it."""
    listed = processes._newest_first

    def late() -> list[int]:
        pids = listed()
        time.sleep(0.02)
        return pids

    mark = new_mark(Limit.ATTEMPT)
    with marking(Limit.ATTEMPT, mark):
        process = subprocess.Popen(left.command("stay"), start_new_session=True)
    eventually(left.is_there)
    monkeypatch.setattr(processes, "_newest_first", late)
    assert kill_all(carries(Limit.ATTEMPT, mark))
    process.wait()
    assert left.is_gone()


# The container's entry.


def cell(folder: Path, left: Left, end: str) -> subprocess.Popen[bytes]:
    workshop = Workshop(root=folder, store=open_store(str(folder / "store"), create=True))
    line = " ".join(left.command(end))
    return workshop.start(workshop.script(f'#!/bin/sh\ncp "$INPUT_X" y\n{line}\n'))


@pytest.mark.parametrize(("end", "code"), [("0", 0), ("3", 3)])
def test_at_the_end_of_a_container(tmp_path: Path, left: Left, neighbour: Left, end: str, code: int) -> None:
    process = cell(tmp_path, left, end)
    process.communicate()
    assert process.returncode == code
    assert left.is_gone()


def test_when_a_container_is_interrupted(tmp_path: Path, left: Left, neighbour: Left) -> None:
    process = cell(tmp_path, left, "stay")
    eventually(left.is_there)
    process.terminate()
    process.communicate()
    assert process.returncode == 75
    assert left.is_gone()


# The worker of the embedded Batch.


class Batch:
    """A server with a job that leaves processes behind, and beside it another one, which goes on."""

    def __init__(self, folder: Path) -> None:
        self.state = folder / "state"
        self.beside = Left(folder / "beside")
        self.connect()
        make_queue(self.client)
        define(self.client)
        self.submit(self.beside, "go")
        eventually(self.beside.is_there)

    def connect(self) -> None:
        self.endpoint = start(self.state)
        self.client = connect(self.endpoint)

    def submit(self, left: Left, end: str, **more: Any) -> str:
        return submit(self.client, containerOverrides={"command": left.command(end)}, **more)

    def has_ended(self, job: str) -> bool:
        return describe(self.client, job)[0]["status"] in ("SUCCEEDED", "FAILED")

    def exit_code(self, job: str) -> int:
        return int(describe(self.client, job)[0]["container"]["exitCode"])

    def close(self) -> None:
        assert self.beside.lives()
        self.beside.go()
        eventually(self.beside.is_gone)
        stop(self.state)


@pytest.fixture
def batch(tmp_path: Path) -> Iterator[Batch]:
    batch = Batch(tmp_path)
    yield batch
    batch.close()


@pytest.mark.parametrize("end", ["0", "3"])
def test_at_the_end_of_a_job(batch: Batch, left: Left, end: str) -> None:
    job = batch.submit(left, end)
    eventually(lambda: batch.has_ended(job))
    assert left.is_there()
    assert left.is_gone()
    assert batch.exit_code(job) == int(end)


def test_after_a_jobs_time_limit(batch: Batch, left: Left) -> None:
    job = batch.submit(left, "stay", timeout={"attemptDurationSeconds": 1})
    eventually(lambda: batch.has_ended(job))
    assert left.is_gone()


@pytest.mark.parametrize(("end", "code"), [("stay", 143), ("deaf", 137)])
def test_when_a_job_is_terminated(batch: Batch, left: Left, end: str, code: int) -> None:
    job = batch.submit(left, end)
    eventually(left.is_there)
    batch.client.terminate_job(jobId=job, reason="enough")
    eventually(lambda: batch.has_ended(job))
    assert left.is_gone()
    assert batch.exit_code(job) == code


def test_when_a_worker_dies(batch: Batch, left: Left) -> None:
    job = batch.submit(left, "stay")
    eventually(left.is_there)
    os.kill(left.parent, signal.SIGKILL)
    eventually(lambda: batch.has_ended(job))
    assert left.is_gone()


@pytest.mark.parametrize("together", [True, False])
def test_when_a_server_dies(batch: Batch, left: Left, together: bool) -> None:
    """With a worker, or alone: that goes on, and the next server adopts it."""
    job = batch.submit(left, "go")
    eventually(left.is_there)
    os.kill(batch.endpoint.pid, signal.SIGKILL)
    if together:
        os.kill(left.parent, signal.SIGKILL)
    batch.connect()
    if not together:
        assert left.lives()
        batch.client.terminate_job(jobId=job, reason="enough")
    eventually(lambda: batch.has_ended(job))
    assert left.is_gone()


# A pilot.


class Pool:
    """A pilot with two slots and a task that leaves processes behind, and beside it another one, which goes on."""

    def __init__(self, folder: Path) -> None:
        self.store = SqliteStore(folder / "pool.sqlite")
        self.beside = Left(folder / "beside")
        self.add("beside", self.beside, "go")
        line = (
            "pool",
            "work",
            "--pool",
            f"sqlite://{folder}/pool.sqlite",
            "--lease",
            "1",
            "--items",
            "2",
            "--grace",
            "1",
        )
        self.pilot = subprocess.Popen(
            [sys.executable, "-m", "batch_pipeline", *line],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            cwd=folder,
            stderr=subprocess.DEVNULL,
        )
        eventually(self.beside.is_there)

    def add(self, name: str, left: Left, end: str, **more: Any) -> None:
        self.store.add([TaskSpec(id=name, command=tuple(left.command(end)), **more)], now_ms=0)

    def state(self) -> TaskState:
        task = self.store.get("left")
        assert task is not None
        return task.state

    def close(self) -> None:
        if self.pilot.poll() is None:
            assert self.beside.lives()
            self.beside.go()
            assert self.pilot.wait(60) in (0, 1)
        eventually(self.beside.is_gone)
        self.store.close()


def test_when_a_worker_dies_that_runs_a_pilot(batch: Batch, left: Left, tmp_path: Path) -> None:
    """The guard dies with the pilot, so the worker's mark must be on the task too."""
    url = tmp_path / "pool.sqlite"
    store = SqliteStore(url)
    store.add([TaskSpec(id="left", command=tuple(left.command("stay")))], now_ms=0)
    store.close()
    command = [sys.executable, "-m", "batch_pipeline", "pool", "work", "--pool", f"sqlite://{url}"]
    variables = [{"name": "PYTHONPATH", "value": str(ROOT)}]
    job = submit(batch.client, containerOverrides={"command": command, "environment": variables})
    eventually(left.is_there)
    os.kill(parent_of(left.parent), signal.SIGKILL)
    eventually(lambda: batch.has_ended(job))
    assert left.is_gone()
    assert identity_of(left.parent) is None


@pytest.fixture
def pool(tmp_path: Path) -> Iterator[Pool]:
    pool = Pool(tmp_path)
    try:
        yield pool
        pool.close()
    finally:
        pool.pilot.kill()
        pool.pilot.wait()


@pytest.mark.parametrize(("end", "state"), [("0", TaskState.DONE), ("3", TaskState.FAILED)])
def test_at_the_end_of_a_task(pool: Pool, left: Left, end: str, state: TaskState) -> None:
    pool.add("left", left, end)
    eventually(lambda: pool.state() is state)
    assert left.is_there()
    assert left.is_gone()


@pytest.mark.parametrize("end", ["stay", "deaf"])
def test_after_a_tasks_time_limit(pool: Pool, left: Left, end: str) -> None:
    pool.add("left", left, end, time_limit_seconds=1)
    eventually(lambda: pool.state() is TaskState.FAILED)
    assert left.is_gone()


def test_when_a_task_is_cancelled(pool: Pool, left: Left) -> None:
    pool.add("left", left, "stay")
    eventually(left.is_there)
    pool.store.move(Filter(ids=frozenset({"left"})), Action.CANCEL, now_ms=1, act="a", force=True)
    eventually(left.is_gone)


def test_when_a_pilot_is_told_to_end(pool: Pool, left: Left) -> None:
    pool.add("left", left, "deaf")
    eventually(left.is_there)
    pool.pilot.terminate()
    pool.pilot.wait(60)
    assert left.is_gone()
    assert pool.beside.is_gone()


def test_when_a_pilot_dies(pool: Pool, left: Left) -> None:
    pool.add("left", left, "stay")
    eventually(left.is_there)
    pool.pilot.kill()
    pool.pilot.wait()
    eventually(left.is_gone)


def test_a_thread_of_what_is_killed_stands_in_no_ones_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its number is in /proc, carries the mark, and is no process's."""
    over = threading.Event()
    thread = threading.Thread(target=over.wait)
    thread.start()
    try:
        monkeypatch.setattr(processes, "_newest_pid", lambda: thread.native_id)
        monkeypatch.setattr(processes, "_ORDERLY_LOOKS", 0)
        looked_at: list[int] = []

        def is_thread(pid: int) -> bool:
            looked_at.append(pid)
            return pid == thread.native_id

        assert not kill_all(is_thread), "it lives on"
        assert thread.native_id in looked_at
    finally:
        over.set()
        thread.join()
