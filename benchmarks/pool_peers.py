"""What a pool's claims are measured against, all on SQLite: the bare store, and the loops of PiCaS and of PyAnamo.

Each loop is the protocol of that tool as its code has it, written anew and without its network: PiCaS looks at a window
of 100, picks one at random, writes it on the condition of its revision; PyAnamo lists everything that is to be done,
shuffles it, looks at the state of one, writes its lock without a condition, waits, and reads the lock back. None keeps
a lease, a history or a fencing number; the bare store does the two writes of a task and nothing else.
"""

from __future__ import annotations

import os
import random
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

from batch_pipeline.pool.base import Settlement
from batch_pipeline.pool.stores.sqlite.store import BUSY_SECONDS, SqliteStore
from batch_pipeline.pool.task import TaskOutcome, TaskSpec
from batch_pipeline.wire.contract import EndReason

#: What a process that drains a pool tells: tasks that it settled, and the seconds of each claim.
Told = tuple[int, list[float]]
Ready = Callable[[], object]
#: Opens a pool, says that it is ready, drains it.
Drain = Callable[[Path, Ready], Told]
_FINE = TaskOutcome(end_reason=EndReason.FINISHED, exit_code=0)
_WINDOW = 100


def fill_pool(path: Path, count: int) -> None:
    """A pool with tasks."""
    store = SqliteStore(path)
    store.add((TaskSpec(id=f"t{number}", command=("true",)) for number in range(count)), now_ms=_now_ms())
    store.close()


def drain_pool(claimed: int) -> Drain:
    """Ours, with claims of so many tasks."""

    def drain(path: Path, ready: Ready) -> Told:
        store = SqliteStore(path)
        ready()
        done, seconds = 0, []
        while True:
            began = time.perf_counter()
            claims = store.claim(f"pilot-{os.getpid()}", claimed, lease_ms=60_000, now_ms=_now_ms())
            seconds.append(time.perf_counter() - began)
            if not claims:
                return done, seconds
            store.settle([Settlement(claim=claim, outcome=_FINE) for claim in claims], now_ms=_now_ms())
            done += len(claims)

    return drain


def fill_bare(path: Path, count: int) -> None:
    """A table with tasks, and an index of what is to be done."""
    with _opened(path) as connection:
        connection.execute("CREATE TABLE task (id INTEGER PRIMARY KEY, state INTEGER, lock TEXT, revision INTEGER)")
        connection.execute("CREATE INDEX todo ON task (id) WHERE state = 0")
        connection.execute("BEGIN IMMEDIATE")
        rows = ((number, 0, "", 0) for number in range(count))
        connection.executemany("INSERT INTO task VALUES (?, ?, ?, ?)", rows)
        connection.execute("COMMIT")
    connection.close()


def drain_bare(claimed: int) -> Drain:
    """The bare store, with claims of so many tasks: one statement to claim, one to settle, a transaction each."""
    claim = """UPDATE task SET state = 1, lock = ? WHERE id IN (SELECT id FROM task WHERE state = 0 LIMIT ?)
    RETURNING id"""

    def drain(path: Path, ready: Ready) -> Told:
        connection, owner = _opened(path), f"pilot-{os.getpid()}"
        ready()
        done, seconds = 0, []
        while True:
            began = time.perf_counter()
            connection.execute("BEGIN IMMEDIATE")
            ids = connection.execute(claim, (owner, claimed)).fetchall()
            connection.execute("COMMIT")
            seconds.append(time.perf_counter() - began)
            if not ids:
                return done, seconds
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany("UPDATE task SET state = 2 WHERE id = ? AND state = 1", ids)
            connection.execute("COMMIT")
            done += len(ids)

    return drain


def drain_like_picas(path: Path, ready: Ready) -> Told:
    """PiCaS's loop."""
    connection, owner = _opened(path), f"pilot-{os.getpid()}"
    window = "SELECT id FROM task WHERE state = 0 LIMIT ?"
    write = "UPDATE task SET state = ?, lock = ?, revision = revision + 1 WHERE id = ? AND revision = ?"
    ready()
    done, seconds, began = 0, list[float](), time.perf_counter()
    while True:
        rows = connection.execute(window, (_WINDOW,)).fetchall()
        if not rows:
            return done, seconds
        name = random.choice(rows)[0]
        _, revision = connection.execute("SELECT state, revision FROM task WHERE id = ?", (name,)).fetchone()
        if connection.execute(write, (1, owner, name, revision)).rowcount:
            seconds.append(time.perf_counter() - began)
            connection.execute(write, (2, owner, name, revision + 1))
            done += 1
            began = time.perf_counter()


def drain_like_pyanamo(*, pauses: bool) -> Drain:
    """PyAnamo's loop, with its pauses of one to four seconds, one in each lock and one after each item, or without."""

    def pause() -> None:
        if pauses:
            time.sleep(random.uniform(1, 4))

    def drain(path: Path, ready: Ready) -> Told:
        connection, owner = _opened(path), f"pilot-{os.getpid()}"
        ready()
        done, seconds = 0, list[float]()
        while rows := connection.execute("SELECT id FROM task WHERE state = 0").fetchall():
            random.shuffle(rows)
            for (name,) in rows:
                began = time.perf_counter()
                if connection.execute("SELECT state FROM task WHERE id = ?", (name,)).fetchone()[0] == 0:
                    lock = f"{owner}-{random.random()}"
                    connection.execute("UPDATE task SET state = 1, lock = ? WHERE id = ?", (lock, name))
                    pause()
                    if connection.execute("SELECT lock FROM task WHERE id = ?", (name,)).fetchone()[0] == lock:
                        seconds.append(time.perf_counter() - began)
                        connection.execute("UPDATE task SET state = 2 WHERE id = ?", (name,))
                        done += 1
                        pause()
        return done, seconds

    return drain


def _opened(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None)
    for setting in ("journal_mode = WAL", "synchronous = NORMAL", "cache_size = -65536", "wal_autocheckpoint = 4000"):
        connection.execute(f"PRAGMA {setting}")
    return connection


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
