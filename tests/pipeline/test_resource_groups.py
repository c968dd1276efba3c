"""Samples are put into few groups by the memory that they ask for, and no cell gets less than that."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batch_pipeline.pipeline.plan import CellNeed, RetryOverrides
from batch_pipeline.pipeline.resource_groups import MOST_GROUPS, partition, sized
from tests.examples import examples

VECTORS = st.integers(1, 3).flatmap(
    lambda width: st.lists(st.tuples(*[st.integers(0, 1 << 20)] * width), min_size=1, max_size=40)
)


def given_memory(needs: Sequence[tuple[int, ...]], groups: list[int]) -> int:
    """What the cells of all rows are given."""
    rows: dict[int, list[tuple[int, ...]]] = {}
    for need, group in zip(needs, groups, strict=True):
        rows.setdefault(group, []).append(need)
    return sum(len(some) * sum(map(max, zip(*some, strict=True))) for some in rows.values())


def test_equal_needs_make_one_group() -> None:
    assert partition([(500, 20)] * 7) == [0] * 7


def test_few_large_samples_stand_apart() -> None:
    assert partition([(1000,), (64_000,), (1010,), (1000,), (63_000,)]) == [0, 1, 0, 0, 1]


def test_what_saves_next_to_nothing_makes_no_group() -> None:
    assert set(partition([(1000 + n,) for n in range(10)])) == {0}


def test_rows_of_one_key_stay_together() -> None:
    groups = partition([(10,), (9000,), (10,), (9000,)], together=["live", "live", None, None])
    assert groups[0] == groups[1]
    assert groups[2] != groups[3]


def test_what_takes_long_decides_where_a_group_ends() -> None:
    needs = [(100,), (500,), (900,)]
    assert partition(needs, weights=[1, 10, 1], most_groups=2) == [0, 0, 1]
    assert partition(needs, weights=[10, 1, 1], most_groups=2) == [0, 1, 1]


def test_four_clear_sizes_make_four_groups() -> None:
    sizes = [(1_000,), (4_000,), (16_000,), (64_000,)]
    assert partition(sizes * 3) == [0, 1, 2, 3] * 3


@pytest.mark.properties
@examples(200)
@given(VECTORS)
def test_at_most_four_groups_that_are_the_same_for_the_same_rows_in_any_order(needs: list[tuple[int, ...]]) -> None:
    groups = partition(needs)
    assert set(groups) == set(range(len(set(groups))))
    assert len(set(groups)) <= MOST_GROUPS
    assert partition(needs) == groups
    assert partition(needs[::-1]) == groups[::-1]


@pytest.mark.properties
@examples(100)
@given(st.lists(st.integers(0, 1 << 16), min_size=1, max_size=8))
def test_no_partition_of_one_step_gives_much_less(needs: list[int]) -> None:
    rows = sorted((need,) for need in needs)
    cuts = range(1, len(rows))
    others = {
        given_memory(rows, [sum(row >= cut for cut in chosen) for row in range(len(rows))])
        for chosen in ((a, b, c) for a in (0, *cuts) for b in (0, *cuts) for c in (0, *cuts))
    }
    assert given_memory(rows, partition(rows)) <= 1.02 * min(others)


@pytest.mark.properties
@examples(200)
@given(st.data(), VECTORS)
def test_no_cell_is_sent_with_less_than_it_asks_for_or_had_again(
    data: st.DataObject, rows: list[tuple[int, ...]]
) -> None:
    steps = {f"step{column}": [row[column] for row in rows] for column in range(len(rows[0]))}
    needs = {
        step: {
            i: CellNeed(memory_mb=need or None, timeout_seconds=need + 60)
            for i, need in enumerate(column)
            if data.draw(st.booleans(), label="runs")
        }
        for step, column in steps.items()
    }
    again = {"step0": {0: RetryOverrides(memory_mb=1 << 21, queue="steady")}} if needs["step0"].get(0) else {}
    sent = sized(needs, again, {})
    numbers = set()
    for step, cells in needs.items():
        for i, need in cells.items():
            one = sent[step][i]
            assert (one.memory_mb or 0) >= (need.memory_mb or 0)
            assert (one.timeout_seconds or 0) >= (need.timeout_seconds or 0)
        numbers.add(len({(one.memory_mb, one.timeout_seconds, one.queue) for one in sent.get(step, {}).values()}))
    assert max(numbers) <= MOST_GROUPS + bool(again)
    if again:
        assert sent["step0"][0].queue == "steady"
        assert (sent["step0"][0].memory_mb or 0) >= 1 << 21


@pytest.mark.slow
def test_time_grows_as_the_samples_do() -> None:
    draw = random.Random(16)
    needs = [(int(2000 * draw.paretovariate(1.2)), int(500 * draw.paretovariate(1.5))) for _ in range(100_000)]
    seconds = []
    for size in (10_000, 100_000):
        began = time.process_time()
        groups = partition(needs[:size])
        seconds.append(time.process_time() - began)
        assert len(set(groups)) == MOST_GROUPS
    assert seconds[1] < 20 * seconds[0] + 1
