"""Plans of more children than may be on the queue at once: their waves, and what no wave can take."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batch_pipeline.pipeline.plan import CellState, Plan, Selection
from batch_pipeline.pipeline.step import Scope
from batch_pipeline.pipeline.waves import cells_after_wave, children_by_wave, plan_of_wave
from batch_pipeline.wire.layout import COHORT
from tests.examples import examples
from tests.pipeline.promises import (
    MOVING,
    cells_in,
    check_finished,
    check_plan,
    check_waves,
    finish,
    finish_in_waves,
    sent_cells,
    states_of,
)
from tests.pipeline.test_planner_properties import disturb, everything, some_selection
from tests.pipeline.worlds import WORLDS, World, count, flag, graph_of, one

SAMPLE, GATHER = Scope.SAMPLE, Scope.COHORT
CHAIN = (("picard", SAMPLE, ()), ("kallisto", SAMPLE, ("picard",)), ("pizzly", SAMPLE, ("kallisto",)))
TO_RUN, LIVE, DEFERRED = CellState.TO_RUN, CellState.LIVE, CellState.DEFERRED


def chain(samples: int, bound: int | None, *more: tuple[str, Scope, tuple[str, ...]], array: int = 10_000) -> World:
    names = [f"x{i}" for i in range(samples)]
    world = World(graph=graph_of(*CHAIN, *more), samples=names, max_array_size=array, max_dependencies=20)
    world.max_live_children = bound
    return world


def test_what_fits_below_the_bound_is_planned_as_without_one() -> None:
    world = chain(4, 12)
    plan, without = world.plan(), plan_without_bound(world, Selection())
    assert replace(plan, limits=without.limits) == without
    assert children_by_wave(plan) == [12]
    assert plan_of_wave(plan, 0) is plan


def test_a_million_samples_are_released_in_whole_shards_the_next_ones_at_half_of_the_bound() -> None:
    plan = chain(1000, 900, array=10).plan()
    assert children_by_wave(plan) == [900, 450, 450, 450, 450, 300]
    assert len(plan.jobs) == 300
    assert cells_in(plan, DEFERRED) == set()
    for job in plan.jobs:
        assert len(job.members) == 10
    picard, kallisto, pizzly = (
        [job for job in plan.jobs if job.step == step] for step in ("picard", "kallisto", "pizzly")
    )
    assert [job.members for job in picard] == [job.members for job in kallisto] == [job.members for job in pizzly]
    assert [job.wave for job in picard] == [job.wave for job in kallisto] == [job.wave for job in pizzly]


def test_arrays_are_cut_smaller_only_where_half_of_the_bound_holds_none_of_full_size() -> None:
    plan = chain(100, 12).plan()
    assert {len(job.members) for job in plan.jobs} == {2}
    assert children_by_wave(plan) == [12] + [6] * 48


def test_a_bound_below_one_sample_still_sends_a_sample_a_wave() -> None:
    plan = chain(3, 1).plan()
    assert children_by_wave(plan) == [3, 3, 3]


def test_children_of_live_jobs_count_and_with_a_full_queue_the_first_wave_is_empty() -> None:
    world = chain(4, 6, array=1)
    world.send(world.plan(Selection(samples=frozenset({"x0", "x1"}))))
    assert world.live_children() == 6
    plan = world.plan()
    assert children_by_wave(plan) == [0, 3, 3]
    assert cells_in(plan, LIVE) == {(step, name) for step in ("picard", "kallisto", "pizzly") for name in ("x0", "x1")}
    world.run(children=3)
    assert children_by_wave(world.plan())[0] == 3


def test_what_follows_a_live_array_is_in_the_first_wave() -> None:
    world = chain(9, 18, array=3)
    plan = world.plan()
    late = [job for job in plan.jobs if job.members == (6, 7, 8)]
    world.send(replace(plan, jobs=tuple(late[:1])))
    again = world.plan()
    following = [job for job in again.jobs if any(edge.live for edge in job.after)]
    assert [(job.step, job.members, job.wave) for job in following] == [("kallisto", (6, 7, 8), 0)]


def test_a_gather_of_later_samples_is_deferred_with_what_reads_it_and_one_of_the_first_wave_is_not() -> None:
    more = (("table", GATHER, ("pizzly",)), ("share", SAMPLE, ("table",)))
    world = chain(4, 8, *more, array=1)
    plan = world.plan()
    assert children_by_wave(plan) == [6, 3, 3]
    assert cells_in(plan, DEFERRED) == {("table", COHORT), *(("share", name) for name in world.samples)}
    check_plan(plan, world)
    plans = finish_in_waves(world)
    assert [len(plan.jobs) for plan in plans] == [12, 5]
    assert children_by_wave(plans[1]) == [4]
    check_finished(world)


def test_cells_of_a_later_wave_that_wait_for_a_gather_are_deferred() -> None:
    world = chain(5, 2, ("table", GATHER, ("pizzly",)), ("share", SAMPLE, ("table",)), array=1)
    finish_in_waves(world, Selection(steps=frozenset({"picard", "kallisto", "pizzly"})))
    plan = world.plan()
    assert [(job.step, job.members) for job in plan.jobs] == [("table", ()), ("share", (0,)), ("share", (1,))]
    assert cells_in(plan, DEFERRED) == {("share", name) for name in ("x2", "x3", "x4")}
    finish_in_waves(world)
    check_finished(world)


def test_the_plan_of_a_wave_has_earlier_cells_live_and_later_ones_deferred() -> None:
    plan = chain(3, 1).plan()
    second = plan_of_wave(plan, 1)
    assert second.states["kallisto"] == [LIVE, TO_RUN, DEFERRED]
    assert [job.members for job in second.jobs] == [(1,)] * 3
    assert second.is_deferred
    assert plan.states["kallisto"] == [TO_RUN] * 3
    assert cells_after_wave(plan, 0) == {"picard": 2, "kallisto": 2, "pizzly": 2}


def test_all_that_is_made_again_is_retired_with_the_first_wave() -> None:
    world = chain(3, None)
    finish(world)
    world.max_live_children = 1
    plan = world.plan(Selection(force=True))
    assert {name[:2] for name in plan.retires} == everything(world)
    assert plan_of_wave(plan, 0).retires == plan.retires
    assert plan_of_wave(plan, 1).retires == {}


def bounded(data: st.DataObject, world: World) -> World:
    """The world with a bound, often too low for one sample."""
    world.max_live_children = 1 + count(data, 12, "bound")
    return world


def plan_without_bound(world: World, selection: Selection) -> Plan:
    bound, world.max_live_children = world.max_live_children, None
    plan = world.plan(selection)
    world.max_live_children = bound
    return plan


@pytest.mark.properties
@examples(200)
@given(st.data(), WORLDS)
def test_below_any_bound_each_missing_cell_is_made_once(data: st.DataObject, world: World) -> None:
    finish_in_waves(bounded(data, world))
    assert sorted(world.ran) == sorted(everything(world)), "nothing lost, nothing twice"
    check_finished(world)


@pytest.mark.properties
@examples(300)
@given(st.data(), WORLDS)
def test_a_bound_changes_when_cells_are_sent_and_nothing_else(data: st.DataObject, world: World) -> None:
    if flag(data, "run before"):
        finish(world)
    disturb(data, world)
    selection = some_selection(data, bounded(data, world))
    without, plan = plan_without_bound(world, selection), world.plan(selection)
    check_plan(plan, world)
    check_waves(plan, world)
    for cell, state in states_of(plan).items():
        before = states_of(without)[cell]
        assert state is before or (before, state) == (TO_RUN, DEFERRED)
    assert set(plan.retires) == set(without.retires)
    world.ran.clear()
    plans = finish_in_waves(world, selection)
    assert len(set(world.ran)) == len(world.ran), "a command makes a cell once"
    check_finished(world, selection, plans)


@pytest.mark.properties
@examples(300)
@given(st.data(), WORLDS)
def test_drivers_killed_between_and_within_waves_lose_nothing_and_send_nothing_twice(
    data: st.DataObject, world: World
) -> None:
    for _ in range(1 + count(data, 3, "killed drivers")):
        plan = bounded(data, world).plan()
        check_plan(plan, world)
        check_waves(plan, world)
        waves = count(data, len(children_by_wave(plan)) - 1, "waves sent")
        for wave in range(waves + 1):
            view = plan_of_wave(plan, wave)
            last = count(data, len(view.jobs), "jobs sent") if wave == waves else len(view.jobs)
            world.send(view, view.jobs[:last])
            world.run(children=count(data, world.live_children(), "children that ended"))
    finish_in_waves(world)
    assert sorted(world.ran) == sorted(everything(world)), "nothing lost, nothing twice"
    check_finished(world)
    assert not cells_in(world.plan(), *MOVING)
    assert not sent_cells(world.plan())


@pytest.mark.properties
@examples(100)
@given(st.data(), WORLDS)
def test_what_failed_in_a_wave_does_not_hold_the_others(data: st.DataObject, world: World) -> None:
    bounded(data, world)
    failing = {one(data, sorted(everything(world)), "failing")}
    plan = world.plan()
    for wave in range(len(children_by_wave(plan))):
        world.send(plan_of_wave(plan, wave))
        world.run(failing=failing)
    expected = set(sent_cells(plan)) - failing
    assert set(world.ran) <= expected
    finish_in_waves(world)
    check_finished(world)
