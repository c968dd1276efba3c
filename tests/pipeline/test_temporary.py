"""Temporary outputs: nothing that a cell still needs is ever removed, and what is needed again is made again."""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batch_pipeline.pipeline.code import code_digests
from batch_pipeline.pipeline.output_review import wrong_outputs
from batch_pipeline.pipeline.plan import CellState, Inventory, Plan, Selection, Why
from batch_pipeline.pipeline.step import Output, Scope, Step
from batch_pipeline.pipeline.temporary import UsedOutput, temporary_ports, used_outputs
from batch_pipeline.wire.layout import COHORT
from tests.examples import examples
from tests.pipeline.promises import MOVING, cells_in, check_plan, finish, sent_cells
from tests.pipeline.test_planner_properties import disturb, everything, kill, some_selection
from tests.pipeline.worlds import WORLDS, Cell, Child, Name, Sent, World, count, flag, graph_of, reads, some

SAMPLE, GATHER = Scope.SAMPLE, Scope.COHORT


@dataclass
class TemporaryWorld(World):
    """A world whose steps have temporary outputs, and the cells of which they were removed."""

    removed: set[Name] = field(default_factory=set)
    #: Cells whose bytes are not there.
    gone: set[Cell] = field(default_factory=set)

    @classmethod
    def of(cls, world: World, steps: AbstractSet[str] | None = None) -> TemporaryWorld:
        """The world with the outputs of these steps temporary, by default of all."""
        values = {name: getattr(world, name) for name in World.__dataclass_fields__}
        nodes = []
        for node in world.graph:
            if steps is None or node.name in steps:
                kind = type(node.step)
                node = replace(node, step=type(kind.__name__, (kind,), {"out": Output("out", temporary=True)})())
            nodes.append(node)
        return cls(**{**values, "graph": replace(world.graph, nodes=tuple(nodes))})

    def inventory(self) -> Inventory:
        removed: dict[str, dict[str, dict[str, frozenset[str]]]] = {}
        for step, sample, fingerprint in self.removed:
            removed.setdefault(step, {}).setdefault(sample, {})[fingerprint] = frozenset({"out"})
        return replace(super().inventory(), removed=removed)

    def tidy(self, kept: AbstractSet[Cell] = frozenset()) -> set[Cell]:
        """Removes what nothing needs, as `run.temporary` does; some of it only on the record, as if it was killed."""
        went = set()
        for used in used_outputs(self.plan(), self.inventory()):
            cell, name = (used.step, used.sample), (used.step, used.sample, used.fingerprint)
            if not self.is_read_as_it_is(used):
                continue
            for job in self.jobs:
                for child in job.children:
                    if child.state in ("waiting", "running"):
                        assert cell not in {(step, sample) for step, sample, _ in child.needs}, "a live cell reads it"
            self.removed.add(name)
            if cell not in kept:
                self.gone.add(cell)
                went.add(cell)
        return went

    def is_read_as_it_is(self, used: UsedOutput) -> bool:
        """Whether the receipt of every reader names the bytes that are there."""
        cell = (used.step, used.sample)
        return all(self.read.get(reader, {}).get(cell) == self.results.get(cell) for reader in used.readers)

    def _start(self, job: Sent, child: Child) -> None:
        super()._start(job, child)
        if child.state == "running":
            lost = {(step, sample) for step, sample, _ in child.needs} & self.gone
            assert not lost, f"{job.step} of {child.sample} reads {lost}, which was removed"

    def _end(self, job: Sent, child: Child, failing: AbstractSet[Cell]) -> None:
        cell = (job.step, child.sample)
        child.may_keep = child.may_keep and cell not in self.gone
        super()._end(job, child, failing)
        if child.state == "done" and not job.join:
            self.gone.discard(cell)
            self.removed = {name for name in self.removed if name[:2] != cell}


def chain() -> TemporaryWorld:
    """align -> call, align -> stats, call -> merge; alignments are temporary."""
    graph = graph_of(
        ("align", SAMPLE, []), ("call", SAMPLE, ["align"]), ("stats", SAMPLE, ["align"]), ("merge", GATHER, ["call"])
    )
    return TemporaryWorld.of(World(graph=graph, samples=["x", "y"], deterministic=True), {"align"})


def whys(plan: Plan) -> dict[str, set[Why]]:
    return {step: {why for why in plan.why[step] if why} for step in plan.states}


def test_what_all_readers_are_done_with_goes_and_nothing_is_to_do_then() -> None:
    world = chain()
    finish(world)
    assert world.tidy() == {("align", "x"), ("align", "y")}
    assert not world.plan().jobs
    assert not world.tidy()
    assert cells_in(world.plan(), CellState.DONE) == everything(world)


def test_what_one_reader_still_needs_stays() -> None:
    world = chain()
    world.send(world.plan())
    world.run(failing={("stats", "x")})
    assert world.tidy() == {("align", "y")}


def test_an_output_without_a_reader_stays() -> None:
    world = TemporaryWorld.of(World(graph=graph_of(("align", SAMPLE, [])), samples=["x"]))
    finish(world)
    assert not world.tidy()


def test_a_reader_that_must_run_has_its_input_made_again_and_no_other_sample() -> None:
    world = chain()
    finish(world)
    world.tidy()
    del world.receipts["stats", "x"]
    world.ran.clear()
    plan = world.plan()
    assert whys(plan)["align"] == {Why.REMOVED}
    assert whys(plan)["stats"] == {Why.NEVER_DONE}
    assert whys(plan)["call"] == {Why.UPSTREAM}
    assert {name for _, name in sent_cells(plan)} == {"x", COHORT}
    finish(world)
    assert world.kept == [("call", "x"), ("merge", COHORT)], "equal bytes replace nothing"
    assert world.tidy() == {("align", "x")}


def test_a_chain_of_removed_outputs_is_made_again_up_to_its_source() -> None:
    wires: tuple[tuple[str, Scope, list[str]], ...] = (("a", SAMPLE, []), ("b", SAMPLE, ["a"]), ("c", SAMPLE, ["b"]))
    world = TemporaryWorld.of(World(graph=graph_of(*wires), samples=["x"]))
    finish(world)
    assert world.tidy() == {("a", "x"), ("b", "x")}
    world.change_code("c")
    assert whys(world.plan()) == {"a": {Why.REMOVED}, "b": {Why.REMOVED}, "c": {Why.CHANGED}} or whys(world.plan()) == {
        "a": {Why.REMOVED},
        "b": {Why.UPSTREAM},
        "c": {Why.CHANGED},
    }
    finish(world)


def test_what_was_removed_is_made_again_though_its_step_was_not_chosen() -> None:
    world = chain()
    finish(world)
    world.tidy()
    selection = Selection(steps=frozenset({"stats"}), force=True)
    plan = world.plan(selection)
    assert whys(plan)["align"] == {Why.REMOVED}
    assert plan.no_longer_done() == {("call", "x"), ("call", "y"), ("merge", COHORT)}


def test_what_cannot_be_made_again_blocks_its_reader_and_leaves_the_others_done() -> None:
    world = chain()
    finish(world)
    world.tidy()
    del world.receipts["stats", "x"]
    failed = world.plan(failed={("align", "x"): "It failed in this run."})
    assert failed.blocked["stats", "x"] == "It needs align, which cannot run."
    assert ("call", "x") in cells_in(failed, CellState.DONE)


def test_a_gather_that_does_without_a_sample_keeps_what_it_would_take() -> None:
    world = TemporaryWorld.of(
        World(graph=graph_of(("a", SAMPLE, []), ("b", SAMPLE, []), ("all", GATHER, ["a", "b"])), samples=["x", "y"]),
        {"a"},
    )
    selection = Selection(min_success=0.5)
    world.send(world.plan(selection))
    world.run(failing={("b", "y")})
    plan = world.plan(selection, failed={("b", "y"): "It failed."})
    world.send(plan)
    world.run()
    plan = world.plan(selection, failed={("b", "y"): "It failed."})
    assert {(one.step, one.sample) for one in used_outputs(plan, world.inventory())} == {("a", "x")}


def test_that_an_output_is_temporary_is_no_part_of_the_code(tmp_path: pytest.TempPathFactory) -> None:
    digests = {_digests(tmp_path, text) for text in ("Output('x')", "Output('x', temporary=True)")}
    assert len(digests) == 1
    assert len({*digests, _digests(tmp_path, "Output('x', optional=True)")}) == 2
    assert len({_digests(tmp_path, f"Output('x', temporary={text})") for text in ("bool(1)", "True")}) == 2


def _digests(folder: pytest.TempPathFactory, declaration: str) -> str:
    from batch_pipeline.pipeline.analysis.reachable import reachable

    del folder
    text = f"from batch_pipeline import Output, Step\nclass A(Step):\n    out = {declaration}\n"
    return repr(reachable({"one.py": text.encode()}, "one", "A", classes={("one", "A")}))


class Builder(Step):
    """Builds a reference."""

    scope = Scope.REFERENCE
    index = Output("genome.idx", temporary=True)


def test_a_reference_is_never_temporary() -> None:
    [sentence] = wrong_outputs(Builder)
    assert sentence.endswith(
        "Builder.index is temporary, but every later run reads a reference. Remove temporary=True."
    )
    assert code_digests is not None


@pytest.mark.properties
@examples(60)
@given(WORLDS)
def test_after_a_run_just_the_outputs_that_are_read_go_and_a_rerun_does_nothing(drawn: World) -> None:
    world = TemporaryWorld.of(drawn)
    finish(world)
    plan = world.plan()
    read = {cell for one in everything(world) for cell in reads(plan, one)}
    assert world.tidy() == read - world.excluded
    assert not world.plan().jobs
    assert not world.tidy()


@pytest.mark.properties
@examples(60)
@given(st.data(), WORLDS)
def test_nothing_that_a_cell_still_needs_is_removed_whatever_happens(data: st.DataObject, drawn: World) -> None:
    """Selections, failures, killed drivers and killed removals; `TemporaryWorld._start` tells what was read in vain."""
    world = TemporaryWorld.of(drawn, set(some(data, drawn.graph.names, 4, "temporary steps")))
    for _ in range(1 + count(data, 3, "earlier commands")):
        selection = some_selection(data, world)
        plan = world.plan(selection)
        if not plan.conflicts:
            check_plan(plan, world)
            world.send(plan, plan.jobs[: count(data, len(plan.jobs), "jobs sent")])
            waiting = sum(child.state == "waiting" for job in world.jobs for child in job.children)
            failing = set(some(data, sorted(everything(world)), 3, "failing"))
            world.run(children=count(data, 2 * waiting, "children that ended"), failing=failing)
        world.tidy(kept=set(some(data, sorted(everything(world)), 3, "recorded, and not removed")))
        if flag(data, "disturbed"):
            disturb(data, world)
    world.absent.clear()
    if world.plan().conflicts:
        world.run()
    finish(world)
    finish(world)
    assert not cells_in(world.plan(), *MOVING)
    assert cells_in(world.plan(), CellState.DONE) == everything(world)
    world.tidy()
    assert not world.plan().jobs


@pytest.mark.properties
@examples(60)
@given(st.data(), WORLDS)
def test_a_killed_command_goes_on_with_what_it_makes_again(data: st.DataObject, drawn: World) -> None:
    world = TemporaryWorld.of(drawn)
    finish(world)
    world.tidy()
    for cell in some(data, sorted(everything(world)), 3, "receipts lost"):
        world.receipts.pop(cell, None)
    for _ in range(1 + count(data, 2, "killed drivers")):
        kill(data, world)
        world.tidy()
    finish(world)
    assert cells_in(world.plan(), CellState.DONE) == everything(world)


@pytest.mark.properties
@examples(60)
@given(st.data(), WORLDS)
def test_only_what_a_cell_that_runs_reads_is_made_again(data: st.DataObject, drawn: World) -> None:
    world = TemporaryWorld.of(drawn)
    finish(world)
    world.tidy()
    disturb(data, world)
    plan = world.plan(some_selection(data, world))
    sent = set(sent_cells(plan))
    for step in plan.states:
        for (sample, _), why in zip(plan.cells(step), plan.why[step], strict=True):
            if why is Why.REMOVED:
                assert (step, sample) in world.gone
                assert any((step, sample) in set(reads(plan, reader)) for reader in sent)
    for cell in sent:
        for read in reads(plan, cell):
            assert read in sent or read not in world.gone, f"{cell} reads what was removed"


def test_ports_are_temporary_by_their_declaration() -> None:
    assert [temporary_ports(node) for node in chain().graph] == [["out"], [], [], []]
