"""What an earlier version left in a store counts while the bytes of the steps' files are the same."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from batch_pipeline.pipeline.plan import CellState, Selection, Why
from batch_pipeline.pipeline.step import Scope
from tests.pipeline.worlds import World, graph_of

STEPS = [
    ("trim", Scope.SAMPLE, ()),
    ("map", Scope.SAMPLE, ["trim"]),
    ("index", Scope.COHORT, ["trim"]),
    ("count", Scope.SAMPLE, ["map", "index"]),
    ("report", Scope.COHORT, ["count"]),
]


def upgraded(world: World) -> None:
    """From now on plans are made by the present version; the bytes were all that counted before."""
    world.parts = {step: replace(part, code=f"names of {step}", files=part.code) for step, part in world.parts.items()}


@pytest.fixture
def world() -> World:
    """All is done, by an earlier version."""
    world = World(graph=graph_of(*STEPS), samples=["x", "y", "z"])
    finish(world)
    upgraded(world)
    return world


def finish(world: World) -> set[tuple[str, str]]:
    """Runs what a plan sends until all is done; the cells that were made."""
    before = len(world.ran)
    for _ in range(9):
        plan = world.plan()
        if not plan.jobs:
            break
        world.send(plan)
        world.run()
    assert all(set(states) == {CellState.DONE} for states in world.plan().states.values())
    return set(world.ran[before:])


def to_run(world: World) -> dict[str, set[Why | None]]:
    """Steps of which cells would run, with why."""
    plan = world.plan()
    return {step: set(why) - {None} for step, why in plan.why.items() if set(why) != {None}}


def test_what_an_earlier_version_made_is_done(world: World) -> None:
    assert to_run(world) == {}
    assert finish(world) == set()


def test_a_change_of_bytes_alone_makes_again_what_an_earlier_version_made_but_only_once(world: World) -> None:
    world.parts["map"] = replace(world.parts["map"], files="map 2")
    assert to_run(world) == {"map": {Why.CHANGED}, "count": {Why.CHANGED}, "report": {Why.CHANGED}}
    assert {step for step, _ in finish(world)} == {"map", "count", "report"}
    # All of these have a present fingerprint now: bytes count no more.
    for step in ("map", "count", "report"):
        world.parts[step] = replace(world.parts[step], files=f"{step} 3")
    assert to_run(world) == {}


def test_a_change_of_what_a_step_uses_counts_as_ever(world: World) -> None:
    world.parts["map"] = replace(world.parts["map"], code="other names", files="map 2")
    assert {step for step, _ in finish(world)} == {"map", "count", "report"}
    assert to_run(world) == {}


@pytest.mark.parametrize(
    ("change", "made"),
    [
        (lambda world: world.samples.append("new"), {("trim", "new"), ("map", "new")}),
        (lambda world: world.change_source("y"), {("trim", "y"), ("map", "y"), ("count", "y")}),
        (lambda world: world.receipts.pop(("map", "y")), {("map", "y"), ("count", "y")}),
        (lambda world: world.receipts.pop(("index", "_cohort")), {("index", "_cohort")}),
    ],
    ids=["a new sample", "another source", "a receipt lost", "a gather's receipt lost"],
)
def test_a_mixed_store_counts(change: Callable[[World], object], made: set[tuple[str, str]], world: World) -> None:
    change(world)
    assert made <= finish(world)
    assert finish(world) == set()
    assert to_run(world) == {}


def test_only_what_was_made_under_a_former_fingerprint_depends_on_bytes(world: World) -> None:
    world.change_source("y")
    finish(world)
    for step in world.parts:
        world.parts[step] = replace(world.parts[step], files=f"{step}, with a comment")
    plan = world.plan()
    position = world.samples.index("y")
    for step in ("trim", "map"):
        assert [state is CellState.DONE for state in plan.states[step]] == [i == position for i in range(3)]


def test_a_job_of_an_earlier_version_that_still_runs_is_no_conflict() -> None:
    world = World(graph=graph_of(*STEPS), samples=["x", "y", "z"])
    world.send(world.plan())
    world.run(children=2)
    upgraded(world)
    plan = world.plan()
    assert plan.conflicts == ()
    assert CellState.LIVE in (*plan.states["trim"], *plan.states["map"])
    world.run()
    assert finish(world) == set()


def test_a_forced_cell_keeps_its_fingerprint_so_that_its_readers_may_be_found_unchanged(world: World) -> None:
    plan = world.plan(Selection(steps=frozenset({"map"}), force=True))
    assert [len(world.receipts["map", sample] & {plan.fingerprints["map"][i]}) for i, sample in enumerate("xyz")] == [
        1
    ] * 3


def test_no_former_fingerprint_is_made_while_all_receipts_have_present_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(graph=graph_of(*STEPS), samples=["x", "y"])
    upgraded(world)
    finish(world)
    monkeypatch.setattr("batch_pipeline.pipeline.fingerprint.StepParts.former_digest", None)
    assert to_run(world) == {}
