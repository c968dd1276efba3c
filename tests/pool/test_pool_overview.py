"""What a pool is said to be at."""

from __future__ import annotations

import os
import socket

import pytest

from batch_pipeline.pool.base import Settlement
from batch_pipeline.pool.overview import Overview, overview, process_states, quartile, rate_of
from batch_pipeline.pool.stores.memory import MemoryStore
from batch_pipeline.pool.task import Nest, TaskOutcome, TaskSpec, TaskState
from batch_pipeline.wire.contract import EndReason

HOUR_MS = 3_600_000


def nest(done: int, of: int) -> Nest:
    return Nest(parent="i", counts={TaskState.DONE: done, TaskState.TODO: of - done})


@pytest.mark.parametrize(
    ("done", "of", "word"),
    [
        (0, 4, "0 %"),
        (1, 100, "1-25 %"),
        (1, 4, "1-25 %"),
        (26, 100, "26-50 %"),
        (2, 4, "26-50 %"),
        (51, 100, "51-75 %"),
        (3, 4, "51-75 %"),
        (76, 100, "76-99 %"),
        (9_999, 10_000, "76-99 %"),
        (4, 4, "100 %"),
    ],
)
def test_items_are_told_by_the_part_that_is_done(done: int, of: int, word: str) -> None:
    assert quartile(nest(done, of)) == word


def ended(pool: MemoryStore, count: int, *, at_ms: int) -> None:
    before = pool.counts().total
    pool.add([TaskSpec(id=f"t{before + n}", command=("true",)) for n in range(count)], now_ms=0)
    claims = pool.claim("p", count, lease_ms=1000, now_ms=at_ms)
    fine = TaskOutcome(end_reason=EndReason.FINISHED)
    pool.settle([Settlement(claim=claim, outcome=fine) for claim in claims], now_ms=at_ms)


@pytest.mark.parametrize(
    ("latest", "earlier", "rate"),
    [(0, 0, None), (0, 6, 6 / 3600), (30, 0, 0.5), (3, 0, 3 / 60), (3, 60, 63 / 3600)],
)
def test_the_rate_is_that_of_the_shortest_time_that_says_enough(latest: int, earlier: int, rate: float | None) -> None:
    pool = MemoryStore()
    now_ms = 10 * HOUR_MS
    ended(pool, earlier, at_ms=now_ms - HOUR_MS // 2)
    ended(pool, latest, at_ms=now_ms - 1000)
    assert rate_of(pool, now_ms=now_ms) == rate


def look(pool: MemoryStore, *, now_ms: int = 0) -> Overview:
    return overview(pool, now_ms=now_ms, job_states=lambda ids: {"job:1": "RUNNING"})


def test_an_empty_pool_is_at_nothing() -> None:
    found = look(MemoryStore())
    assert (found.counts.total, found.left, found.rate, found.seconds_left, found.holders) == (0, 0, None, None, ())


def test_who_holds_what_is_told_and_who_is_late() -> None:
    pool = MemoryStore()
    pool.add([TaskSpec(id=f"t{n}", command=("true",)) for n in range(3)], now_ms=0)
    pool.claim("a", 2, lease_ms=1000, now_ms=0, native_id="job:1")
    pool.claim("b", 1, lease_ms=9000, now_ms=0)
    first, second = look(pool, now_ms=5000).holders
    assert (first.owner, first.held, first.ids, first.is_late, first.job_state) == (
        "a",
        2,
        ["t0", "t1"],
        True,
        "RUNNING",
    )
    assert (second.owner, second.native_id, second.is_late, second.job_state) == ("b", "", False, "")


def test_what_waits_in_vain_is_not_left() -> None:
    pool = MemoryStore()
    specs = [TaskSpec(id="a", command=("true",)), TaskSpec(id="b", command=("true",), after=("nowhere",))]
    pool.add([*specs, TaskSpec(id="c", command=("true",), after=("a",))], now_ms=0)
    found = look(pool)
    assert (found.left, found.stuck, dict(found.stuck_reasons)) == (2, 1, {"b": "nowhere is not in the pool"})


def test_pilots_here_are_looked_up_as_processes() -> None:
    host = socket.gethostname()
    assert process_states([f"{host}/{os.getpid()}", f"{host}/4194303", "elsewhere/1", "job:1"]) == {
        f"{host}/{os.getpid()}": "RUNNING",
        f"{host}/4194303": "GONE",
    }
