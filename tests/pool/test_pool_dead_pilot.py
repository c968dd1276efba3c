"""A pilot died between the end of a task and the release of its dependents: whoever looks after the pool frees them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from batch_pipeline.config import load_settings
from batch_pipeline.pool.base import PoolStore, Settlement
from batch_pipeline.pool.overview import Overview, overview
from batch_pipeline.pool.pilots.autopilot import Autopilot, Sizing
from batch_pipeline.pool.pilots.pilot import Pilot
from batch_pipeline.pool.pilots.pilot_config import PilotConfig
from batch_pipeline.pool.pooled import PoolBackend
from batch_pipeline.pool.stores.memory import MemoryTasks
from batch_pipeline.pool.stores.optimistic import OptimisticStore
from batch_pipeline.pool.task import TaskOutcome, TaskSpec, TaskState
from batch_pipeline.wire.contract import EndReason
from tests.pool.interrupted import Killed, die, interrupted


class UnmarkedTasks(MemoryTasks):
    """Rows without an outbox, as earlier versions wrote them."""

    def pending(self) -> tuple[()]:
        return ()


@pytest.fixture(params=[MemoryTasks, UnmarkedTasks], ids=["marked", "unmarked"])
def pool(request: pytest.FixtureRequest) -> PoolStore:
    """A pool in which `a` is done, and `b` waits for it all the same."""
    pool = OptimisticStore(request.param())
    pool.add([TaskSpec(id="a", command=("true",)), TaskSpec(id="b", command=("true",), after=("a",))], now_ms=0)
    with interrupted(pool) as pilot, suppress(Killed):
        held = pilot.pool.claim("dead", 1, lease_ms=1000, now_ms=0)
        pilot.after(1, die)
        pilot.pool.settle([Settlement(claim=held[0], outcome=TaskOutcome(end_reason=EndReason.FINISHED))], now_ms=1)
    assert states(pool) == {"a": TaskState.DONE, "b": TaskState.WAITING}
    return pool


def states(pool: PoolStore) -> dict[str, TaskState]:
    return {name: task.state for name in "ab" if (task := pool.get(name))}


class Paper:
    """Launches pilots on paper."""

    def __init__(self) -> None:
        self.launched = 0

    def alive(self, resource_class: str) -> int:
        return self.launched

    def launch(self, resource_class: str, count: int) -> str:
        self.launched += count
        return f"started {count}"


def test_the_next_pilot(pool: PoolStore) -> None:
    Pilot(pool, PilotConfig(owner="next")).run()
    assert set(states(pool).values()) == {TaskState.DONE}


def test_the_autopilot(pool: PoolStore) -> None:
    paper = Paper()
    autopilot = Autopilot(pool, paper, Sizing(), classes=None, now_ms=lambda: 5)
    looks = autopilot.until_over(lambda seconds: None, 1.0)
    assert next(looks) == "default: started 1, beside 0 there already."
    assert states(pool)["b"] is TaskState.TODO


def test_who_follows_a_run_through_pilots(pool: PoolStore, tmp_path: Path) -> None:
    paper = Paper()
    settings = load_settings({"backend.name": "embedded", "pool.pilots": 2}, environ={}, folder=tmp_path)
    backend = PoolBackend(settings, opened=lambda: pool, launcher=paper, now_ms=lambda: 5)
    backend.summaries(["a"])
    assert (states(pool)["b"], paper.launched) == (TaskState.TODO, 1)


def look(pool: PoolStore) -> Overview:
    return overview(pool, now_ms=5, job_states=lambda ids: {})


@pytest.mark.parametrize("pool", [MemoryTasks], indirect=True)
@pytest.mark.parametrize("act", [lambda pool: pool.reap(now_ms=5), lambda pool: pool.sweep(now_ms=5)])
def test_until_then_it_is_told(pool: PoolStore, act: Callable[[PoolStore], object]) -> None:
    pool.add([TaskSpec(id="c", command=("true",), after=("a", "b"))], now_ms=4)
    seen = look(pool)
    assert (seen.unreleased, seen.unreleased_ids, seen.stuck, seen.left) == (1, ["b"], 0, 2)
    act(pool)
    assert look(pool).unreleased == 0
