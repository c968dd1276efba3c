"""Real pilots killed by -9 at random while they drain a pool: nothing is lost, and each task settles once."""

from __future__ import annotations

import os
import random
import socket
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from batch_pipeline.pool.base import Filter
from batch_pipeline.pool.stores.sqlite.store import SqliteStore
from batch_pipeline.pool.task import Move, TaskSpec, TaskState

pytestmark = pytest.mark.faults

TASKS = int(os.environ.get("PILOT_TASKS", "200"))
PILOTS = 4
KILLS = 12


def test_pilots_killed_at_random_lose_nothing_and_settle_each_task_once(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "pool.sqlite")
    # A first attempt that found its folder there would fail: somebody else would be at the task.
    alone = f"mkdir {tmp_path}/$TASK_ID || exit 9; sleep 0.05; rmdir {tmp_path}/$TASK_ID"
    left = f"rm -rf {tmp_path}/$TASK_ID; "
    shell = f'[ "$TASK_ATTEMPT" = 1 ] || {left}{alone}'
    after = {number: (f"t{number - 1}",) for number in range(9, TASKS, 10)}
    specs = (TaskSpec(id=f"t{n}", shell=shell, after=after.get(n, ()), most_returns=1000) for n in range(TASKS))
    store.add(specs, now_ms=0)
    pilots = [started(tmp_path) for _ in range(PILOTS)]
    chance = random.Random(1)
    killed = 0
    try:
        while killed < KILLS and store.counts().of(TaskState.DONE) < TASKS:
            victim = chance.randrange(PILOTS)
            holding = until_it_holds(store, pilots[victim])
            time.sleep(chance.uniform(0, 0.1))
            if pilots[victim].poll() is None:
                pilots[victim].kill()
                killed += holding
            pilots[victim].wait()
            pilots[victim] = started(tmp_path)
        codes = [pilot.wait(60) for pilot in pilots]
    finally:
        for pilot in pilots:
            pilot.kill()
            pilot.wait()
    assert killed > 2
    assert codes == [0] * PILOTS
    counts = store.counts()
    assert (counts.total, counts.of(TaskState.DONE)) == (TASKS, TASKS)
    ends = Counter(event.task_id for event in store.events() if event.move is Move.DONE)
    assert (len(ends), set(ends.values())) == (TASKS, {1})
    assert not [event for event in store.events() if event.move in (Move.FAILED, Move.AGAIN, Move.LOST)]
    assert [event for event in store.events() if event.move is Move.EXPIRED]
    store.close()


def until_it_holds(store: SqliteStore, pilot: subprocess.Popen[bytes]) -> bool:
    """Waits until a pilot has claimed a task; whether it has, and has not ended before."""
    owner = Filter(states=frozenset({TaskState.HELD}), owner=f"{socket.gethostname()}-{pilot.pid}")
    while pilot.poll() is None:
        if store.find(owner, limit=1).tasks:
            return True
        time.sleep(0.01)
    return False


def started(folder: Path) -> subprocess.Popen[bytes]:
    """A pilot as a process of its own."""
    line = ("pool", "work", "--pool", f"sqlite://{folder}/pool.sqlite", "--lease", "1", "--items", "2")
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    return subprocess.Popen(
        [sys.executable, "-m", "batch_pipeline", *line], env=environment, cwd=folder, stderr=subprocess.DEVNULL
    )
