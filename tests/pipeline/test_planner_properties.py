"""The planner's promises over any pipeline, any store and any history of killed drivers."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batch_pipeline.pipeline.choices import NONE
from batch_pipeline.pipeline.plan import AS_DEFINED, CellNeed, CellState, Plan, RetryOverrides, Selection
from batch_pipeline.pipeline.resource_groups import MOST_GROUPS
from batch_pipeline.pipeline.step import Scope
from batch_pipeline.pipeline.wiring import options_of
from batch_pipeline.pipeline.workflow import Port
from batch_pipeline.wire.layout import COHORT
from tests.examples import examples
from tests.pipeline.promises import (
    MOVING,
    cells_in,
    check_finished,
    check_plan,
    check_true,
    expected_states,
    fingerprint_of,
    finish,
    sent_cells,
    source_read,
    states_of,
)
from tests.pipeline.worlds import WORLDS, Cell, World, count, flag, one, reads, some

pytestmark = pytest.mark.properties


def below(world: World, start: set[Cell]) -> set[Cell]:
    """The cells and everything that depends on them."""
    plan, found = world.plan(), start - world.excluded
    for step in world.graph.names:
        found |= {(step, name) for name, _ in plan.cells(step) if found.intersection(reads(plan, (step, name)))}
        found -= world.excluded
    return found


def everything(world: World) -> set[Cell]:
    """All cells that no condition excludes."""
    return states_of(world.plan()).keys() - world.excluded


def disturb(data: st.DataObject, world: World) -> None:
    """Any history: code and sources changed, receipts lost or doubled, samples gone, added, moved, without a source."""
    cells = sorted(everything(world))
    for cell in some(data, cells, 4, "receipts lost"):
        world.receipts.pop(cell, None)
    for cell in some(data, cells, 2, "receipts of before"):
        world.receipts[cell] = world.receipts.get(cell, frozenset()) | {"of-before"}
    for step in some(data, world.graph.names, 2, "code changed"):
        world.change_code(step)
    for sample in some(data, world.samples, 2, "source changed"):
        world.change_source(sample)
    for cell in some(data, world.conditional_cells() or [("", "")], 3, "conditions changed"):
        world.change_condition(cell)
    world.absent = set(some(data, world.samples, 1, "source missing"))
    if flag(data, "order changed"):
        world.samples.reverse()
    world.samples += [f"new{len(world.samples) + i}" for i in range(count(data, 2, "samples added"))]


def some_selection(data: st.DataObject, world: World) -> Selection:
    return Selection(
        samples=frozenset(some(data, world.samples, 4, "samples")) or None,
        steps=frozenset(some(data, world.graph.names, 4, "steps")) or None,
        force=flag(data, "force"),
        accept_code_changes=flag(data, "accept"),
        min_success=one(data, (1.0, 1.0, 0.5), "min_success"),
    )


def kill(data: st.DataObject, world: World, selection: Selection | None = None) -> bool:
    """A driver dies after some submissions, and the backend goes on for a while. Says whether nothing was done yet."""
    plan = world.plan(selection)
    sent = world.send(plan, plan.jobs[: count(data, len(plan.jobs), "jobs sent")])
    children = sum(len(job.children) for job in sent)
    ended = count(data, children, "children that ended")
    world.run(children=ended)
    return not ended


@examples(200)
@given(WORLDS)
def test_a_fresh_run_makes_every_cell_once_and_a_second_plan_is_empty(world: World) -> None:
    plans = finish(world)
    assert len(plans) == 1
    assert sorted(world.ran) == sorted(everything(world))
    check_finished(world)


@examples(300)
@given(st.data(), WORLDS)
def test_every_missing_chosen_cell_that_can_run_is_in_one_job_whatever_the_store_holds(
    data: st.DataObject, world: World
) -> None:
    if flag(data, "run before"):
        finish(world)
    disturb(data, world)
    selection = some_selection(data, world)
    plan = world.plan(selection)
    check_plan(plan, world)
    assert states_of(plan) == expected_states(plan, world)
    world.ran.clear()
    plans = finish(world, selection)
    assert len(set(world.ran)) == len(world.ran), "a command makes a cell once"
    if selection.force:
        forced = {cell for cell in cells_in(plan, *MOVING) if selection.takes(*cell)}
        assert forced <= set(world.ran) | cells_in(plans[-1], CellState.BLOCKED)
    check_finished(world, selection, plans)


@examples(200)
@given(st.data(), WORLDS)
def test_overrides_change_with_what_a_cell_is_sent_and_nothing_else(data: st.DataObject, world: World) -> None:
    if flag(data, "run before"):
        finish(world)
    disturb(data, world)
    kill(data, world)
    kinds = (
        RetryOverrides(memory_mb=4096),
        RetryOverrides(queue="steady"),
        RetryOverrides(memory_mb=4096, queue="steady"),
    )
    cells = some(data, sorted(everything(world)), 4, "cells that go again")
    overrides = {cell: one(data, kinds, "overrides") for cell in cells}
    without, plan = world.plan(), world.plan(overrides=overrides)
    if plan.conflicts:
        return
    check_plan(plan, world)
    # A smaller group may no longer follow a live array, so that a cell waits that could have run.
    for cell, state in states_of(plan).items():
        before = states_of(without)[cell]
        assert state is before or (before, state) == (CellState.TO_RUN, CellState.DEFERRED)
    for job in plan.jobs:
        if not job.join:
            for sample, _ in plan.members_of(job):
                assert job.overrides == overrides.get((job.step, sample), AS_DEFINED)


@examples(200)
@given(st.data(), WORLDS)
def test_no_cell_is_sent_with_less_than_it_asks_for_and_nothing_else_changes(data: st.DataObject, world: World) -> None:
    if flag(data, "run before"):
        finish(world)
    disturb(data, world)
    kill(data, world)
    without = world.plan()
    sent = sorted(cell for cell, state in states_of(without).items() if state is CellState.TO_RUN)
    needs: dict[str, dict[str, CellNeed]] = {}
    asking = some(data, world.graph.names, 4, "steps that ask")
    for step, sample in (cell for cell in sent if cell[0] in asking):
        need = CellNeed(memory_mb=one(data, (500, 510, 4_000, 9_000, 64_000), "memory"))
        needs.setdefault(step, {})[sample] = need
    plan = world.plan(needs=needs)
    # Samples that follow one live array stay together, so that none of them has to wait.
    assert states_of(plan) == states_of(without)
    if plan.conflicts:
        return
    check_plan(plan, world)
    numbers: dict[str, set[int]] = {}
    for job in plan.jobs:
        for sample, _ in () if job.join else plan.members_of(job):
            need = needs.get(job.step, {}).get(sample, CellNeed())
            assert (job.overrides.memory_mb or 0) >= (need.memory_mb or 0)
            assert (job.overrides.memory_mb is None) == (need.memory_mb is None)
            numbers.setdefault(job.step, set()).add(job.overrides.memory_mb or 0)
    assert all(len(of_step - {0}) <= MOST_GROUPS for of_step in numbers.values())


@examples(200)
@given(st.data(), WORLDS)
def test_a_lost_receipt_reruns_its_cell_and_what_depends_on_it(data: st.DataObject, world: World) -> None:
    finish(world)
    lost = one(data, sorted(everything(world)), "cell")
    del world.receipts[lost]
    assert set(sent_cells(world.plan())) == below(world, {lost})


@examples(200)
@given(st.data(), WORLDS)
def test_two_receipts_prove_nothing(data: st.DataObject, world: World) -> None:
    finish(world)
    doubtful = one(data, sorted(everything(world)), "cell")
    world.receipts[doubtful] |= {one(data, ("0" * 16, "f" * 16), "other receipt")}
    for accept in (False, True):
        plan = world.plan(Selection(accept_code_changes=accept))
        assert set(sent_cells(plan)) == below(world, {doubtful})
    finish(world)
    check_finished(world)


@examples(200)
@given(st.data(), WORLDS)
def test_a_changed_step_reruns_with_what_is_below_it_and_nothing_else(data: st.DataObject, world: World) -> None:
    finish(world)
    step = one(data, world.graph.names, "step")
    before = world.plan()
    world.change_code(step)
    plan = world.plan()
    changed = below(world, {cell for cell in everything(world) if cell[0] == step})
    assert {name for name, _ in changed} <= world.graph.downstream(step)
    assert set(sent_cells(plan)) == changed
    assert changed == {cell for cell in everything(world) if fingerprint_of(before, cell) != fingerprint_of(plan, cell)}
    assert not world.plan(Selection(accept_code_changes=True)).jobs
    finish(world)
    check_finished(world)


@examples(200)
@given(st.data(), WORLDS)
def test_a_changed_source_reruns_its_sample_and_the_gathers_of_it(data: st.DataObject, world: World) -> None:
    finish(world)
    sample = one(data, world.samples, "sample")
    world.change_source(sample)
    plan = world.plan()
    readers = {(node.name, sample) for node in world.graph if source_read(plan, (node.name, sample))}
    assert set(sent_cells(plan)) == below(world, readers)
    others = {name for _, name in sent_cells(plan)} - {sample, COHORT}
    gathers_below = any(node.upstream and node.scope.value == "sample" for node in world.graph)
    assert not others or gathers_below


@examples(200)
@given(st.data(), WORLDS)
def test_added_samples_run_alone_but_for_the_gathers(data: st.DataObject, world: World) -> None:
    finish(world)
    before = everything(world)
    place = count(data, len(world.samples), "place")
    world.samples[place:place] = ["new1", "new2"]
    gathers = {cell for cell in before if cell[1] == COHORT and _gathers_samples(world, cell[0])}
    new = everything(world) - before
    assert set(sent_cells(world.plan())) == new | below(world, gathers)
    finish(world)
    check_finished(world)


@examples(100)
@given(WORLDS)
def test_the_order_of_the_list_is_an_input_of_gathers_alone(world: World) -> None:
    # A gather is handed its samples in the order of the list, and its table may have that order.
    finish(world)
    world.samples.reverse()
    plan = world.plan()
    gathers = {cell for cell in everything(world) if cell[1] == COHORT and _gathers_several(plan, cell[0])}
    assert set(sent_cells(plan)) == below(world, gathers)


def _gathers_several(plan: Plan, step: str) -> bool:
    """Whether a port of a gather has the results of several samples, or conditions exclude several."""
    node, choices = plan.graph[step], plan.choices.get(step)
    read = [0, len(plan.excluded.get(step, ()))]
    for port, connection in node.inputs.items():
        first = options_of(connection)[0]
        if isinstance(first, Port) and plan.graph[first.task.name].scope is Scope.SAMPLE:
            chosen = choices.by_port[port] if choices and port in node.choosing else [0] * len(plan.samples)
            read.append(sum(at != NONE for at in chosen))
    return max(read) > 1


def _gathers_samples(world: World, step: str) -> bool:
    return any(world.graph[upstream].scope is Scope.SAMPLE for upstream in world.graph[step].upstream)


@examples(300)
@given(st.data(), WORLDS)
def test_the_same_command_adopts_what_a_killed_driver_left(data: st.DataObject, world: World) -> None:
    selection = Selection(min_success=one(data, (1.0, 0.5), "min_success"))
    held = selection.min_success < 1
    for _ in range(1 + count(data, 2, "killed drivers")):
        kill(data, world, selection)
        plan = world.plan(selection)
        assert not plan.conflicts
        check_plan(plan, world)
        assert held or not cells_in(plan, CellState.DEFERRED), "jobs of live arrays follow them index by index"
    plans = finish(world, selection)
    assert sorted(world.ran) == sorted(everything(world)), "nothing lost, nothing twice"
    check_finished(world, selection, plans)


@examples(300)
@given(st.data(), WORLDS)
def test_a_rerun_is_adopted_index_by_index_while_nothing_is_done(data: st.DataObject, world: World) -> None:
    finish(world)
    disturb(data, world)
    selection = replace(some_selection(data, world), min_success=1.0)
    before = cells_in(world.plan(selection), CellState.TO_RUN)
    if kill(data, world, selection):
        plan = world.plan(selection)
        assert not plan.conflicts
        check_plan(plan, world)
        assert cells_in(plan, *MOVING) == before
        assert not cells_in(plan, CellState.DEFERRED)
    check_finished(world, selection, finish(world, selection))


@examples(300)
@given(st.data(), WORLDS)
def test_any_later_command_is_right_or_refused(data: st.DataObject, world: World) -> None:
    """Killed drivers, failed children, lost receipts, other commands, changed lists: never a wrong job."""
    for _ in range(1 + count(data, 2, "earlier commands")):
        selection = some_selection(data, world)
        plan = world.plan(selection)
        if plan.conflicts:
            continue
        check_plan(plan, world)
        world.send(plan, plan.jobs[: count(data, len(plan.jobs), "jobs sent")])
        waiting = sum(child.state == "waiting" for job in world.jobs for child in job.children)
        failing = set(some(data, sorted(everything(world)), 3, "failing"))
        world.run(children=count(data, waiting, "children that ended"), failing=failing)
        if flag(data, "disturbed"):
            disturb(data, world)
    selection = some_selection(data, world)
    if world.plan(selection).conflicts:
        world.run()  # What the message says: wait for it.
    finish(world, selection)
    # A child of an earlier command's job may have failed while this one followed it; the next command takes its cell.
    again = replace(selection, force=False)
    check_finished(world, again, finish(world, again))


@examples(300)
@given(st.data(), WORLDS)
def test_what_failed_in_this_command_is_not_sent_again(data: st.DataObject, world: World) -> None:
    failing = set(some(data, sorted(everything(world)), 3, "failing"))
    world.send(world.plan())
    world.run(failing=failing)
    failed = {cell for cell in failing if not world.receipts.get(cell)}
    world_plan = world.plan(failed=dict.fromkeys(failed, "It failed."))
    assert not world_plan.jobs
    assert cells_in(world_plan, CellState.BLOCKED) >= failed
    assert set(sent_cells(world.plan())) == everything(world) - set(world.receipts)


@examples(300)
@given(st.data(), WORLDS)
def test_a_changed_condition_runs_what_reads_otherwise_and_back_again_what_is_lost(
    data: st.DataObject, world: World
) -> None:
    finish(world)
    cells = some(data, world.conditional_cells() or [("", "")], 3, "conditions changed")
    before = world.plan()
    for cell in cells:
        world.change_condition(cell)
    plan = world.plan()
    changed = {cell for cell in everything(world) if fingerprint_of(before, cell) != fingerprint_of(plan, cell)}
    new = {cell for cell in cells if cell[0] and cell not in world.excluded}
    assert set(sent_cells(plan)) == changed | below(world, new)
    assert below(world, new) | changed == changed | new, "what reads a new cell has another fingerprint"
    retired = {(step, sample) for step, sample, _ in plan.retires}
    # A receipt does not tell a plan what it read: what is excluded now may have read what is made again.
    assert retired - set(sent_cells(plan)) <= world.excluded
    finish(world)
    check_finished(world)
    for cell in cells:
        world.change_condition(cell)
    # Results of before count again, but for those that were replaced.
    again = below(world, changed | retired)
    assert again == (changed | retired | below(world, retired)) & everything(world)
    assert set(sent_cells(world.plan())) == again
    finish(world)
    check_finished(world)
    check_true(world)
