"""Done means made as asked, just now: over any pipeline, selection, way of failing and history of killed drivers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batch_pipeline.pipeline.plan import CellState, Selection, Why
from batch_pipeline.pipeline.step import Scope
from batch_pipeline.pipeline.workflow import Graph, Node, Task
from tests.examples import examples
from tests.pipeline.promises import (
    above,
    cells_in,
    check_as_asked,
    check_plan,
    check_true,
    drive,
    finish,
    sent_cells,
)
from tests.pipeline.test_planner_properties import disturb, everything, some_selection
from tests.pipeline.worlds import WORLDS, Cell, PerSample, World, count, flag, graph_of, one, some

pytestmark = pytest.mark.properties


def some_failing(data: st.DataObject, world: World) -> set[Cell]:
    return set(some(data, sorted(everything(world)), 3, "failing"))


def killed(data: st.DataObject, world: World, selection: Selection) -> None:
    """A driver dies between any two of its calls, from the retiring on; the backend goes on for a while."""
    plan = world.plan(selection)
    check_plan(plan, world)
    world.send(plan, plan.jobs[: count(data, len(plan.jobs), "jobs sent")])
    waiting = sum(child.state not in ("done", "failed") for job in world.jobs for child in job.children)
    world.run(children=count(data, waiting, "children that ended"), failing=some_failing(data, world))


@examples(400)
@given(st.data(), WORLDS)
def test_what_was_asked_for_is_done_only_if_it_was_made_or_kept(data: st.DataObject, world: World) -> None:
    if not flag(data, "new"):
        finish(world)
    for _ in range(1 + count(data, 2, "earlier commands")):
        if flag(data, "disturbed"):
            disturb(data, world)
            world.untrue = set(some(data, sorted(everything(world)), 2, "results missing")) & set(world.receipts)
        selection = some_selection(data, world)
        if world.plan(selection).conflicts:
            world.run()
        if flag(data, "killed"):
            killed(data, world, selection)
        else:
            # What a live job made already is not made once more by a command that follows it.
            live = [job for job in world.jobs if not job.over]
            ran = {(job.step, child.sample) for job in live for child in job.children if child.state == "done"}
            before = len(world.ran)
            plans = drive(world, selection, some_failing(data, world))
            check_as_asked(world, selection, plans, ran.union(world.ran[before:]))
        check_true(world)
        check_true(world, some_selection(data, world))
    world.absent.clear()
    if world.plan().conflicts:
        world.run()
    # A child of an earlier command's job may fail while the next one follows it.
    for _ in range(2):
        finish(world)
        check_true(world)
    assert cells_in(world.plan(), CellState.DONE) == everything(world)


@examples(200)
@given(st.data(), WORLDS)
def test_a_cell_made_again_that_fails_takes_everything_below_it_along(data: st.DataObject, world: World) -> None:
    finish(world)
    cell = one(data, sorted(everything(world)), "cell")
    plan = world.plan()
    below = {other for other in everything(world) if cell in above(plan, other)} | {cell}
    if flag(data, "its receipt is lost"):
        del world.receipts[cell]
        selection = Selection()
    else:
        selection = Selection(steps=frozenset({cell[0]}), samples=frozenset({cell[1]}) & set(world.samples), force=True)
        selection = replace(selection, samples=selection.samples or None)
    remade = {other for other in below if selection.takes(*other)}
    drive(world, selection, {cell})
    assert not cells_in(world.plan(), CellState.DONE) & below
    assert remade <= cells_in(world.plan(), CellState.TO_RUN)
    finish(world)
    assert cells_in(world.plan(), CellState.DONE) == everything(world)
    check_true(world)


@examples(200)
@given(st.data(), WORLDS)
def test_equal_bytes_replace_nothing(data: st.DataObject, world: World) -> None:
    world.deterministic = True
    finish(world)
    before = dict(world.results)
    cell = one(data, sorted(everything(world)), "cell")
    del world.receipts[cell]
    world.ran.clear()
    finish(world)
    assert world.results == before
    assert set(world.kept) == set(world.ran) - {cell}


@examples(200)
@given(st.data(), WORLDS)
def test_what_was_forced_and_failed_runs_the_next_time_whatever_it_reads(data: st.DataObject, world: World) -> None:
    world.deterministic = True
    finish(world)
    failing = some_failing(data, world)
    forced = set(sent_cells(world.plan(Selection(force=True))))
    world.ran.clear()
    drive(world, Selection(force=True), failing)
    made = set(world.ran)
    finish(world)
    assert set(world.ran) == forced
    assert not world.kept
    assert made | failing <= forced
    check_true(world)


@examples(100)
@given(st.data(), WORLDS)
def test_a_plan_retires_nothing_where_nothing_stands_or_nothing_is_made_again(
    data: st.DataObject, world: World
) -> None:
    assert not world.plan().retires
    finish(world)
    assert not world.plan().retires
    world.change_code(one(data, world.graph.names, "step"))
    plan = world.plan()
    sent = set(sent_cells(plan))
    # What changed itself has another fingerprint; what is below it is named, so that no option trusts it.
    assert {name[:2] for name in plan.retires} == {cell for cell in sent if sent & above(plan, cell)}
    assert not world.plan(Selection(accept_code_changes=True)).retires


def test_a_retired_cell_says_why_it_runs() -> None:
    world = World(graph=some_chain(), samples=["x0"])
    finish(world)
    drive(world, Selection(force=True, steps=frozenset({"a"})), {("a", "x0")})
    plan = world.plan()
    assert plan.why == {"a": [Why.RETIRED], "b": [Why.RETIRED]}


def some_chain() -> Graph:
    return graph_of(("a", Scope.SAMPLE, ()), ("b", Scope.SAMPLE, ["a"]))


def test_a_gather_that_does_without_a_sample_is_done_though_that_sample_is_made_again() -> None:
    graph = graph_of(("a", Scope.SAMPLE, ()), ("b", Scope.SAMPLE, ["a"]), ("table", Scope.COHORT, ["b"]))
    world = World(graph=graph, samples=["x0", "x1"])
    drive(world, Selection(min_success=0.5), {("b", "x0")})
    assert cells_in(world.plan(Selection(min_success=0.5, steps=frozenset({"table"}))), CellState.DONE) >= {
        ("table", "_cohort")
    }
    chosen = Selection(steps=frozenset({"a", "table"}), samples=frozenset({"x0"}), force=True, min_success=0.5)
    plan = world.plan(replace(chosen, force=False))
    assert plan.states == {
        "a": [CellState.DONE, CellState.DONE],
        "b": [CellState.SKIPPED, CellState.DONE],
        "table": [CellState.DONE],
    }
    forced = world.plan(replace(chosen, steps=frozenset({"a"})))
    assert sent_cells(forced) == [("a", "x0")]
    assert forced.states["table"] == [CellState.DONE], "it was made without that sample"
    assert not forced.retires.keys() - {name for name in forced.retires if name[0] == "a"}


def test_a_gather_of_two_steps_of_which_one_has_no_fingerprint_has_none() -> None:
    graph = graph_of(
        ("a", Scope.SAMPLE, ()),
        ("of_a", Scope.COHORT, ["a"]),
        ("b", Scope.SAMPLE, ()),
        ("page", Scope.COHORT, ["of_a", "b"]),
    )
    world = World(graph=graph, samples=["x0", "x1"], absent={"x0"})
    plan = world.plan(Selection(min_success=0.5))
    assert plan.fingerprints["of_a"] == [""]
    assert plan.fingerprints["page"] == [""]


def test_a_step_that_reads_nothing_has_a_cell_a_sample() -> None:
    node = Node(name="draw", step=Task("draw", PerSample).step_class(), inputs={})
    world = World(graph=Graph(name="World", root=Path("/"), nodes=(node,)), samples=["x0", "x1"])
    assert sent_cells(world.plan()) == [("draw", "x0"), ("draw", "x1")]
    assert len(set(world.plan().fingerprints["draw"])) == 1


def below_a_gather() -> World:
    graph = graph_of(
        ("a", Scope.SAMPLE, ()),
        ("table", Scope.COHORT, ["a"]),
        ("share", Scope.SAMPLE, ["table"]),
        ("tail", Scope.SAMPLE, ["a", "share"]),
        ("apart", Scope.SAMPLE, ["a"]),
    )
    return World(graph=graph, samples=["x0", "x1", "x2"])


def test_what_reads_a_gather_in_samples_that_are_off_the_list_is_not_done_either() -> None:
    world = below_a_gather()
    drive(world, Selection(min_success=0.6), {("a", "x2")})
    assert world.counting(("share", "x2"))
    world.samples = ["x0", "x1"]
    finish(world, Selection(force=True, steps=frozenset({"table"})))
    finish(world)
    assert not world.counting(("share", "x2"))
    world.samples = ["x0", "x1", "x2"]
    drive(world, Selection(min_success=0.6, steps=frozenset({"share"})))
    check_true(world, Selection(min_success=0.6))


def test_samples_off_the_list_keep_what_reads_no_gather() -> None:
    world = below_a_gather()
    finish(world)
    world.samples = ["x0", "x1"]
    plan = world.plan(Selection(force=True, steps=frozenset({"a"})))
    # The gather is another one for the shorter list, and its readers are retired with it.
    assert not {name[:2] for name in plan.retires} & {("a", "x2"), ("apart", "x2")}
    finish(world, Selection(force=True))
    assert world.counting(("a", "x2"))
    assert world.counting(("apart", "x2"))
    assert not world.counting(("share", "x2"))
    assert not world.counting(("tail", "x2"))


def test_a_gather_is_another_one_when_other_samples_are_missing() -> None:
    """Its step can see which, and may tell of them in what it makes."""
    graph = graph_of(("a", Scope.SAMPLE, ()), ("table", Scope.COHORT, ["a"]))
    world = World(graph=graph, samples=["x0", "x1"])
    finish(world)
    world.samples = ["x0", "x1", "x2"]
    assert ("table", "_cohort") in drive(world, Selection(min_success=0.5), {("a", "x2")})[-1].under_way()
    world.samples = ["x0", "x1"]
    assert sent_cells(world.plan()) == [("table", "_cohort")]
