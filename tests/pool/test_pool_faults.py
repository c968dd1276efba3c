"""Sixteen real processes on one pool: undisturbed, and killed, stopped and woken at random with clocks that are wrong.

`POOL_TASKS=20000` is the full size; the default is a smaller one of the same kind.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from batch_pipeline.pool.base import WriteResult
from batch_pipeline.pool.stores.sqlite.store import SqliteStore
from tests.pool.swarm import COUNT, MOST_CLAIMS, Swarm

TASKS = int(os.environ.get("POOL_TASKS", "4000"))
PILOTS = 16

pytestmark = pytest.mark.faults


def swarm_in(folder: Path, *, lease_ms: int, skew_ms: int = 0) -> Swarm:
    path = folder / "pool.sqlite"
    return Swarm(opened=lambda: SqliteStore(path), folder=folder, size=PILOTS, lease_ms=lease_ms, skew_ms=skew_ms)


def test_sixteen_processes_run_each_task_exactly_once(tmp_path: Path) -> None:
    swarm = swarm_in(tmp_path, lease_ms=600_000)
    swarm.fill(TASKS)
    swarm.run(seconds_between=0.2, most_kills=0)
    swarm.check(TASKS)
    answers = swarm.answers()
    assert answers.total() == TASKS
    assert {answer for _, answer in answers} == {WriteResult.ACCEPTED}


def test_killed_stopped_and_skewed_each_task_settles_exactly_once(tmp_path: Path) -> None:
    swarm = swarm_in(tmp_path, lease_ms=500, skew_ms=1000)
    swarm.fill(TASKS)
    swarm.run(seconds_between=0.1, most_kills=TASKS // 100)
    swarm.check(TASKS)
    # So many claims are more than the living can have made.
    assert swarm.killed >= min(TASKS // COUNT // MOST_CLAIMS - PILOTS, TASKS // 100 - PILOTS)
