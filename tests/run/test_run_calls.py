"""Calls of each verb for three samples in stores of three sizes: they follow what is asked, not what is there."""

from __future__ import annotations

import pytest

from benchmarks.calls import calls_of_all, calls_of_three, excess


@pytest.mark.parametrize("size", [10, 1_000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_three_samples_cost_as_many_calls_in_a_store_of_any_size(size: int) -> None:
    taken = calls_of_three(size)
    assert excess(size, taken) == {}
    if size == 10:
        assert taken["plan"]["list"] <= 7


@pytest.mark.parametrize("size", [10, pytest.param(5_000, marks=pytest.mark.slow)])
def test_all_samples_cost_a_call_a_page_and_a_range(size: int) -> None:
    assert excess(size, calls_of_all(size)) == {}
