"""What a fingerprint depends on: every part of a step, its wiring and its inputs, and nothing else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from batch_pipeline.pipeline.fingerprint import StepParts, cell_fingerprint, gather_part, source_part, step_parts
from batch_pipeline.pipeline.step import Input, Output, Param, Reference, Scope, Step
from batch_pipeline.pipeline.workflow import Graph, WorkflowTask
from batch_pipeline.wire.errors import InvalidUse
from batch_pipeline.wire.manifest import SourceFile
from batch_pipeline.wire.store import StoreEntry
from tests.pipeline.worlds import World, graph_of

PARTS = StepParts(code="c", params={"k": 31}, image="i", references={"idx": "e 1"}, inputs={"reads": "one.out"})


class Trim(Step):
    """Cuts reads."""

    reads = Input()
    one = Output("1.fq")
    two = Output("2.fq")


class Map(Step):
    """Maps reads."""

    reads = Input()
    index = Reference("genome.idx")
    out = Output("out.bam")
    seed: int = Param(1)


class Mapped(WorkflowTask):
    """Trims and maps."""

    def workflow(self) -> None:
        trim, mapped = self.new_task("trim", Trim), self.new_task("map", Map)
        trim.in_reads = self.source("{sample}.fq")
        mapped.in_reads = trim.out_one


class Rewired(WorkflowTask):
    """The same with the other port."""

    def workflow(self) -> None:
        mapped, trim = self.new_task("map", Map), self.new_task("trim", Trim)
        mapped.in_reads = trim.out_two
        trim.in_reads = self.source("{sample}.fq")


def parts(workflow: type[WorkflowTask], step: str = "map", etag: str = "e", **params: int) -> StepParts:
    graph = Graph.of(workflow, params)
    there = {"genome.idx": StoreEntry(key="references/hg/genome.idx", etag=etag, size_bytes=7)}
    return step_parts(graph[step], graph.root, "hg", there)


@pytest.mark.parametrize(
    "changed",
    [
        replace(PARTS, code="d"),
        replace(PARTS, params={"k": 29}),
        replace(PARTS, params={"k": 31, "more": 1}),
        replace(PARTS, params={"k": "31"}),
        replace(PARTS, image="j"),
        replace(PARTS, references={"idx": "e 2"}),
        replace(PARTS, references={}),
        replace(PARTS, inputs={"reads": "one.other"}),
        replace(PARTS, inputs={"mates": "one.out"}),
    ],
)
def test_every_part_of_a_step_counts(changed: StepParts) -> None:
    assert changed.digest() != PARTS.digest()


def test_the_order_of_parameters_does_not_count() -> None:
    assert replace(PARTS, params={"a": 1, "b": 2}).digest() == replace(PARTS, params={"b": 2, "a": 1}).digest()


def test_the_same_parts_have_the_fingerprint_that_stores_of_earlier_versions_name() -> None:
    """One that differs makes every cell of every store run again: raise FORMAT, and say so in the changelog."""
    file = SourceFile(url="x", etag="e", size_bytes=7)
    assert PARTS.digest() == "9ef32bc4f2f3023e"
    assert cell_fingerprint("p", ["a", "b"]) == "c51e402e8a058825"
    assert gather_part([("s1", "a"), ("s2", "b")]) == "d2fdf72afa5ccbdb"
    assert source_part([file, file]) == "e:7 e:7"


def test_the_parts_of_a_step_name_what_it_is_made_of() -> None:
    found = parts(Mapped, seed=3)
    assert found.params == {"seed": 3}
    assert found.references == {"genome.idx": "e 7"}
    assert found.inputs == {"reads": "trim.one"}
    assert parts(Mapped, "trim").inputs == {"reads": "source"}


def test_a_changed_reference_parameter_or_wire_changes_the_digest() -> None:
    first = parts(Mapped).digest()
    assert parts(Mapped).digest() == first
    assert parts(Mapped, etag="f").digest() != first
    assert parts(Mapped, seed=2).digest() != first
    assert parts(Rewired).digest() != first
    assert parts(Rewired, "trim") == parts(Mapped, "trim")


@pytest.mark.parametrize(
    ("reference", "there", "sentence"),
    [
        ("", [], "Step map needs the reference file 'genome.idx', but the store holds no reference. Put the"),
        ("hg", [], "There is no reference 'hg' in the store (step map needs its genome.idx)."),
        (
            "hg",
            ["a.fa", "b.gtf"],
            "Reference 'hg' has no file 'genome.idx', which step map needs; it has: a.fa, b.gtf.",
        ),
    ],
)
def test_a_reference_file_that_is_not_there_is_told(reference: str, there: list[str], sentence: str) -> None:
    graph = Graph.of(Mapped)
    entries = {name: StoreEntry(key=name, etag="e", size_bytes=1) for name in there}
    with pytest.raises(InvalidUse) as told:
        step_parts(graph["map"], Path(__file__).parent, reference, entries)
    assert told.value.message.startswith(sentence)


def test_each_file_of_a_reference_counts_and_a_missing_one_is_named() -> None:
    class Align(Step):
        genome = Reference("genome.fa", "genome.fa.fai")

    class Aligned(WorkflowTask):
        def workflow(self) -> None:
            self.new_task("align", Align)

    node = Graph.of(Aligned)["align"]
    entries = {name: StoreEntry(key=name, etag="e", size_bytes=7) for name in ("genome.fa", "genome.fa.fai")}
    assert step_parts(node, Path(__file__).parent, "hg", entries).references == {
        "genome.fa": "e 7",
        "genome.fa.fai": "e 7",
    }
    del entries["genome.fa.fai"]
    with pytest.raises(InvalidUse, match=r"has no file 'genome.fa.fai', which step align needs"):
        step_parts(node, Path(__file__).parent, "hg", entries)


def test_a_source_is_its_etags_and_sizes_in_order_and_not_its_place() -> None:
    one, two = (SourceFile(url=name, etag=f"e{name}", size_bytes=3) for name in "ab")
    assert source_part((one, two)) == source_part((replace(one, url="moved"), two))
    different = {
        source_part(files)
        for files in [(one, two), (two, one), (one,), (replace(one, size_bytes=4),), (replace(one, etag="f"),)]
    }
    assert len(different) == 5
    assert source_part(()) == ""


def test_a_gather_is_its_samples_with_their_fingerprints_in_order() -> None:
    cells = [("a", "1"), ("b", "2")]
    different = [cells, cells[::-1], cells[:1], [("a", "2"), ("b", "1")], [("a", "1"), ("c", "2")]]
    assert len({gather_part(some) for some in different}) == 5


def test_a_cell_is_its_step_and_its_inputs_in_order() -> None:
    assert len({cell_fingerprint("s", i) for i in ([], ["a"], ["b"], ["a", "b"], ["b", "a"], ["ab"])}) == 6
    assert cell_fingerprint("s", ["a"]) != cell_fingerprint("t", ["a"])
    assert len(cell_fingerprint("s", ())) == 16


def test_one_change_reaches_all_that_is_below_it_and_nothing_else() -> None:
    wires = [
        ("a", Scope.SAMPLE, ()),
        ("b", Scope.SAMPLE, ["a"]),
        ("c", Scope.SAMPLE, ()),
        ("d", Scope.COHORT, ["b", "c"]),
    ]
    world = World(graph=graph_of(*wires), samples=["x", "y"])
    before = world.plan().fingerprints
    world.change_code("b")
    after = world.plan().fingerprints
    assert {step for step in before if before[step] != after[step]} == {"b", "d"}
    world.change_source("y")
    last = world.plan().fingerprints
    assert [last[step][0] == after[step][0] for step in "abcd"] == [True, True, True, False]
    assert [last[step][1] == after[step][1] for step in "abc"] == [False, False, False]
