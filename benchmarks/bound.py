"""The durable bound: the least that an engine which can be trusted must do for many small tasks.

`python bound.py FOLDER SAMPLES SLOTS` copies in/S.txt -> out/S.1 -> out/S.2 -> out/S.3. Each task is an `sh -ec` in a
process group of its own with a log file; its output appears under its name only when it is whole; its start and its
end are committed to SQLite (WAL, synchronous=NORMAL) every 50 ms; it is skipped when that record and its output's size
and time agree. Standard library only, and nothing of ours.
"""

from __future__ import annotations

import os
import sqlite3
import sys
import time
from collections import deque

STEPS = 3
COMMIT_SECONDS = 0.05


def main(folder: str, samples: int, slots: int) -> int:
    """Makes what is missing and returns the exit code."""
    os.chdir(folder)
    os.makedirs("out", exist_ok=True)
    os.makedirs("log", exist_ok=True)
    database = sqlite3.connect("record.sqlite")
    database.executescript("PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;")
    database.execute(
        "CREATE TABLE IF NOT EXISTS task (name TEXT PRIMARY KEY, started REAL, ended REAL, code, size, mtime)"
    )
    rows = database.execute("SELECT name, size, mtime FROM task WHERE code = 0")
    done = {name: (size, mtime) for name, size, mtime in rows}
    ready = deque(item for i in range(samples) if (item := _first_open(i, done)))
    running: dict[int, tuple[int, int, str, float]] = {}
    failed = False
    committed = time.monotonic()
    while ready or running:
        while ready and len(running) < slots:
            sample, step = ready.popleft()
            name = f"{sample}.{step}"
            source = f"in/{sample}.txt" if step == 1 else f"out/{sample}.{step - 1}"
            database.execute("REPLACE INTO task (name, started) VALUES (?, ?)", (name, time.time()))
            running[_spawn(f'cp "{source}" "out/.{name}.part"', f"log/{name}.log")] = (sample, step, name, time.time())
        pid, status = os.wait()
        if pid not in running:
            continue  # not ours: a process of whoever calls this function
        sample, step, name, started = running.pop(pid)
        code = os.waitstatus_to_exitcode(status)
        size = mtime = 0
        if code == 0:
            os.rename(f"out/.{name}.part", f"out/{name}")
            found = os.stat(f"out/{name}")
            size, mtime = found.st_size, found.st_mtime_ns
        row = (name, started, time.time(), code, size, mtime)
        database.execute("REPLACE INTO task VALUES (?, ?, ?, ?, ?, ?)", row)
        failed = failed or code != 0
        if code == 0 and step < STEPS:
            ready.appendleft((sample, step + 1))
        if time.monotonic() - committed > COMMIT_SECONDS:
            database.commit()
            committed = time.monotonic()
    database.commit()
    return int(failed)


def _first_open(sample: int, done: dict[str, tuple[int, int]]) -> tuple[int, int] | None:
    """The first step of a sample whose output is not as recorded; those behind it are made again with it."""
    for step in range(1, STEPS + 1):
        name = f"{sample}.{step}"
        try:
            found = os.stat(f"out/{name}")
        except FileNotFoundError:
            return sample, step
        if done.get(name) != (found.st_size, found.st_mtime_ns):
            return sample, step
    return None


def _spawn(script: str, log: str) -> int:
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    actions = [(os.POSIX_SPAWN_OPEN, 1, log, flags, 0o600), (os.POSIX_SPAWN_DUP2, 1, 2)]
    return os.posix_spawn("/bin/sh", ["sh", "-ec", script], os.environ, file_actions=actions, setpgroup=0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
