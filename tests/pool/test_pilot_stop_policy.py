"""When a pilot starts nothing more, and how long it pauses. Pure."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from batch_pipeline.pool.pilots.stop_policy import LONGEST_PAUSE, REMEMBERED, SHORTEST_PAUSE, Pauses, RuntimeEstimator


def test_a_class_that_nobody_knows_fits_until_the_wall_time() -> None:
    keeper = RuntimeEstimator(100.0)
    assert keeper.fits("new", 99.0)
    assert not keeper.fits("new", 100.0)
    assert not keeper.fits("new", 95.0, limit=10.0)


def test_it_predicts_by_the_time_of_nine_in_ten_of_the_class() -> None:
    keeper = RuntimeEstimator(100.0)
    for seconds in (1.0,) * 9 + (30.0,):
        keeper.took("a", seconds)
    keeper.took("b", 60.0)
    assert keeper.expected("a") == 30.0
    assert keeper.fits("a", 69.0)
    assert not keeper.fits("a", 71.0)
    assert not keeper.fits("b", 69.0)
    assert keeper.fits("c", 99.0)


def test_without_a_wall_time_everything_fits() -> None:
    keeper = RuntimeEstimator(None)
    keeper.took("a", 1e9)
    assert keeper.fits("a", 1e9)


@given(st.lists(st.floats(0.0, 1e6), min_size=1, max_size=3 * REMEMBERED))
def test_it_remembers_the_latest(times: list[float]) -> None:
    """PyAnamo collapsed its list to the mean again and again, so that old times never went."""
    keeper = RuntimeEstimator(0.0)
    for seconds in times:
        keeper.took("a", seconds)
    latest = sorted(times[-REMEMBERED:])
    assert keeper.expected("a") == latest[min(len(latest) - 1, int(0.9 * len(latest)))]


def test_pauses_grow_to_their_longest_and_begin_anew() -> None:
    pauses = Pauses(chance=random.Random(1))
    taken = [pauses.next() for _ in range(20)]
    assert taken[0] <= SHORTEST_PAUSE
    assert all(LONGEST_PAUSE / 2 <= pause <= LONGEST_PAUSE for pause in taken[10:])
    assert len(set(taken)) == len(taken)
    pauses.reset()
    assert pauses.next() <= SHORTEST_PAUSE
