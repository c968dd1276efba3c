"""Plans of steps with different cells: samples, parts and groups."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batch_pipeline.pipeline.plan import CellState, Plan, Selection
from batch_pipeline.pipeline.step import Scope
from batch_pipeline.wire.errors import InvalidPipeline
from tests.examples import examples
from tests.pipeline.promises import above, cells_in, check_plan, finish, sent_cells, states_of
from tests.pipeline.worlds import MIXED_WORLDS, World, count, flag, graph_of, some


def calls(plan: Plan) -> list[tuple[str, int, tuple[tuple[str, bool], ...]]]:
    """Name, size and dependencies of each call."""
    return [(job.name, job.size, tuple((edge.job, edge.index_by_index) for edge in job.after)) for job in plan.jobs]


Wire = tuple[str, Scope, list[str]]


def world(*wires: Wire, samples: int = 2, most_calls: int = 200, max_array_size: int = 99) -> World:
    names = [f"x{i}" for i in range(samples)]
    return World(graph=graph_of(*wires), samples=names, max_array_size=max_array_size, most_calls=most_calls)


ALIGN: Wire = ("align", Scope.SAMPLE, [])
CALL = ("call", Scope.PART, ["align"])
FILTER = ("filter", Scope.PART, ["call"])
JOIN = ("join", Scope.SAMPLE, ["filter"])
COMPARE = ("compare", Scope.GROUP, ["align"])


def test_the_parts_of_a_sample_wait_for_their_sample_alone_and_are_gathered_by_it() -> None:
    plan = world(ALIGN, CALL, FILTER, JOIN).plan()
    assert calls(plan) == [
        ("align-0-0", 1, ()),
        ("align-1-0", 1, ()),
        ("call-2-0", 2, (("align-0-0", False),)),
        ("call-3-0", 1, (("align-1-0", False),)),
        ("filter-2-0", 2, (("call-2-0", True),)),
        ("filter-3-0", 1, (("call-3-0", False),)),
        ("join-0-0", 1, (("filter-2-0", False),)),
        ("join-1-0", 1, (("filter-3-0", False),)),
    ]
    assert plan.form == (
        "call, join: jobs for single samples or groups, so that none waits for another: 8 calls of at most 200"
        " (backend.most_calls)."
    )
    assert [name for name, _ in plan.cells("call")] == ["x0@p", "x0@q", "x1@p"]


def test_a_group_waits_for_its_members_which_share_an_array() -> None:
    plan = world(ALIGN, COMPARE, samples=5).plan()
    assert calls(plan) == [
        ("align-0-0", 2, ()),
        ("align-1-0", 2, ()),
        ("align-2-0", 1, ()),
        ("compare-3-0", 1, (("align-0-0", False),)),
        ("compare-4-0", 1, (("align-1-0", False),)),
        ("compare-5-0", 1, (("align-2-0", False),)),
    ]
    assert plan.members_of(plan.jobs[0])[1][0] == "x3"


def test_above_the_bound_of_calls_what_crosses_waits_for_a_later_plan() -> None:
    here = world(ALIGN, CALL, FILTER, JOIN, samples=9, most_calls=10)
    plans = finish(here)
    assert [calls(plan) for plan in plans] == [
        [("align-0-0", 9, ())],
        [("call-0-0", 14, ()), ("filter-0-0", 14, (("call-0-0", True),))],
        [("join-0-0", 9, ())],
    ]
    assert plans[0].form == (
        "call, join: planned by this command when what they read is done, as jobs for single samples or groups would be"
        " 36 calls where backend.most_calls is 10."
    )
    assert plans[0].is_deferred
    assert not plans[2].form


def test_a_failed_part_stops_its_own_sample_alone() -> None:
    for most_calls in (1, 200):
        here = world(ALIGN, CALL, FILTER, JOIN, most_calls=most_calls)
        failing = {("call", "x0@q")}
        failed: dict[tuple[str, str], str] = {}
        for _ in range(3):
            plan = here.plan(failed=failed)
            here.send(plan)
            here.run(failing=failing)
            failed = dict.fromkeys(failing, "It failed.")
        assert {cell for cell in states_of(plan) if cell not in here.receipts} == {
            ("call", "x0@q"),
            ("filter", "x0@q"),
            ("join", "x0"),
        }


def test_one_changed_part_runs_again_with_what_reads_it() -> None:
    here = world(ALIGN, CALL, FILTER, JOIN, COMPARE)
    finish(here)
    here.receipts.pop(("call", "x0@q"))
    assert set(sent_cells(here.plan())) == {("call", "x0@q"), ("filter", "x0@q"), ("join", "x0")}


def test_a_group_is_chosen_with_any_member_and_not_run_before_the_others_are_done() -> None:
    here = world(ALIGN, COMPARE, samples=4)
    plan = here.plan(Selection(samples=frozenset({"x0"})))
    assert set(sent_cells(plan)) == {("align", "x0")}
    assert states_of(plan)["compare", "g0"] is CellState.SKIPPED
    finish(here, Selection(steps=frozenset({"align"})))
    assert set(sent_cells(here.plan(Selection(samples=frozenset({"x0"}))))) == {("compare", "g0")}


def test_a_gather_of_steps_with_different_cells_is_refused() -> None:
    with pytest.raises(InvalidPipeline, match="reads align and compare, which have different cells"):
        world(ALIGN, COMPARE, ("all", Scope.COHORT, ["align", "compare"])).plan()


def test_a_thousand_samples_with_24_parts_are_planned_in_waves_of_few_calls() -> None:
    here = world(ALIGN, CALL, FILTER, JOIN, samples=1000, max_array_size=10_000)
    assert [(name, size) for name, size, _ in calls(here.plan())] == [("align-0-0", 1000)]


pytestmark = pytest.mark.properties


def everything(here: World) -> set[tuple[str, str]]:
    return set(states_of(here.plan()))


@examples(60)
@given(MIXED_WORLDS)
def test_a_fresh_run_makes_every_cell_once_however_few_calls(here: World) -> None:
    plans = finish(here)
    assert sorted(here.ran) == sorted(everything(here))
    assert not here.plan().jobs
    assert len(plans) == 1 or here.most_calls < 1000


@examples(60)
@given(st.data(), MIXED_WORLDS)
def test_exactly_what_lacks_a_receipt_and_what_reads_it_runs_again(data: st.DataObject, here: World) -> None:
    finish(here)
    lost = set(some(data, sorted(everything(here)), 4, "receipts lost"))
    for cell in lost:
        here.receipts.pop(cell)
    if flag(data, "order changed"):
        here.samples.reverse()
    plan = here.plan()
    gathers = {cell for cell in states_of(plan) if plan.graph[cell[0]].scope in (Scope.COHORT, Scope.GROUP)}
    here.ran.clear()
    finish(here)
    due = {cell for cell in states_of(plan) if lost.intersection({cell} | above(plan, cell))}
    assert len(set(here.ran)) == len(here.ran)
    # A gather or group goes with the order of its samples, and so does what reads it.
    again = {cell for cell in states_of(plan) if gathers.intersection({cell} | above(plan, cell))}
    assert due <= set(here.ran) <= due | again
    assert cells_in(here.plan(), CellState.DONE) == everything(here)


@examples(60)
@given(st.data(), MIXED_WORLDS)
def test_a_killed_driver_is_followed_by_one_that_makes_the_rest(data: st.DataObject, here: World) -> None:
    for _ in range(2):
        plan = here.plan()
        check_plan(plan, here)
        sent = here.send(plan, plan.jobs[: count(data, len(plan.jobs), "jobs sent")])
        here.run(children=count(data, sum(len(job.children) for job in sent), "children that ended"))
    finish(here)
    assert sorted(here.ran) == sorted(everything(here))


@examples(60)
@given(st.data(), MIXED_WORLDS)
def test_what_failed_stops_what_reads_it_and_nothing_else(data: st.DataObject, here: World) -> None:
    failing = set(some(data, sorted(everything(here)), 2, "cells that fail"))
    failed: dict[tuple[str, str], str] = {}
    for _ in range(len(here.graph.names) + 1):
        plan = here.plan(failed=failed)
        check_plan(plan, here)
        here.send(plan)
        here.run(failing=failing)
        failed = {cell: "It failed." for cell in failing if cell not in here.receipts}
    stopped = {cell for cell in states_of(plan) if failing.intersection({cell} | above(plan, cell))}
    assert set(here.ran) == everything(here) - stopped
