"""Wiring: what follows from it, and how each mistake is told."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, ClassVar

import pytest

from batch_pipeline.pipeline.step import Column, Input, Output, Param, Scope, Step
from batch_pipeline.pipeline.workflow import Graph, Port, Source, Task, WorkflowTask
from batch_pipeline.wire.errors import InvalidConfig, InvalidPipeline


class Trim(Step):
    """Cuts reads."""

    reads = Input()
    trimmed = Output("trimmed.fq")
    rest = Output("rest.fq")
    length: int = Param(20)


class Count(Step):
    """Counts in two files."""

    left = Input()
    right = Input()
    table = Output("table.tsv")
    length: int = Param(5)
    depth: int = Param(1)


class Merge(Step):
    """Merges tables."""

    scope = Scope.COHORT
    tables = Input()
    all = Output("all.tsv")


class Build(Step):
    """Builds a reference."""

    scope = Scope.REFERENCE
    fasta = Input()
    index = Output("index.idx")
    k: int = Param(31)


class Diamond(WorkflowTask):
    """Two roots, a join and a gather, written from the end."""

    reference_builder: ClassVar[type[Step] | None] = Build

    def workflow(self) -> None:
        merge = self.new_task("merge", Merge)
        count = self.new_task("count", Count)
        one = self.new_task("one", Trim)
        two = self.new_task("two", Trim)
        merge.in_tables = count.out_table
        count.in_right = two.out_rest
        count.in_left = one.out_trimmed
        one.in_reads = self.source("{sample}_1.fq", column="first")
        two.in_reads = self.source("{sample}_2.fq")


def refused(workflow: type[WorkflowTask], **params: object) -> str:
    with pytest.raises(InvalidPipeline) as told:
        Graph.of(workflow, params)
    return told.value.message


def without_place(problem: str) -> str:
    """A problem behind the file and line that it has to name."""
    place, _, sentence = problem.partition(": ")
    assert re.fullmatch(rf"{re.escape(__file__)}, line \d+", place), problem
    return sentence


def test_steps_come_after_those_that_they_read_from() -> None:
    graph = Graph.of(Diamond)
    assert graph.names == ("one", "two", "count", "merge")
    assert graph["count"].upstream == ("one", "two")
    assert graph["one"].sources == {"reads": Source(files=("{sample}_1.fq",), column="first")}
    assert graph.root == Path(__file__).parent
    assert graph.name == "Diamond"


def test_inputs_stand_in_the_order_of_their_declaration() -> None:
    assert list(Graph.of(Diamond)["count"].inputs) == ["left", "right"]


def test_downstream_is_the_step_and_all_that_depends_on_it() -> None:
    graph = Graph.of(Diamond)
    assert graph.downstream("two") == {"two", "count", "merge"}
    assert graph.downstream("merge") == {"merge"}


def test_an_unknown_step_lists_the_known_ones() -> None:
    graph = Graph.of(Diamond)
    with pytest.raises(InvalidPipeline, match=r"There is no step 'three' .* it has: one, two, count, merge\."):
        graph["three"]


def test_one_name_is_one_option_and_a_step_can_be_named() -> None:
    graph = Graph.of(Diamond, {"length": "9", "two.length": 3, "depth": 4})
    assert [graph[name].step.params.get("length") for name in graph.names] == [9, 3, 9, None]
    assert graph["count"].step.params["depth"] == 4


def test_an_unknown_parameter_is_told_with_the_known_ones() -> None:
    with pytest.raises(InvalidConfig, match=r"No step has a parameter 'widht'; there are: count.depth, .*two.length\."):
        Graph.of(Diamond, {"widht": 3})
    with pytest.raises(InvalidConfig, match=r"'merge\.length'"):
        Graph.of(Diamond, {"merge.length": 3})


def test_the_graph_of_a_reference_has_one_step_fed_by_its_ports_names() -> None:
    graph = Graph.of_reference(Diamond, {"k": "21"})
    assert graph.names == ("reference",)
    assert graph["reference"].sources == {"fasta": Source(files=(), column="fasta")}
    assert graph["reference"].step.params == {"k": 21}


def test_a_pipeline_without_a_reference_builder_says_so() -> None:
    class Plain(Diamond):
        reference_builder = None

    with pytest.raises(InvalidPipeline, match="Plain names no reference_builder"):
        Graph.of_reference(Plain)


def test_a_cycle_is_told_by_name() -> None:
    class Circle(WorkflowTask):
        def workflow(self) -> None:
            start = self.new_task("start", Trim)
            one, two, three = (self.new_task(name, Count) for name in ("one", "two", "three"))
            start.in_reads = self.source("{sample}.fq")
            one.in_left = two.in_left = three.in_left = start.out_trimmed
            one.in_right = three.out_table
            two.in_right = one.out_table
            three.in_right = two.out_table

    assert refused(Circle) == (
        "The steps form a cycle: one -> three -> two -> one. A step cannot wait for itself; cut one port."
    )


def test_a_step_that_feeds_itself_is_a_cycle() -> None:
    class Snake(WorkflowTask):
        def workflow(self) -> None:
            tail = self.new_task("tail", Trim)
            tail.in_reads = tail.out_rest

    assert "cycle: tail -> tail." in refused(Snake)


def test_an_unconnected_input_is_told_by_port_and_task() -> None:
    class Loose(WorkflowTask):
        def workflow(self) -> None:
            count = self.new_task("count", Count)
            count.in_left = self.source("{sample}.tsv")

    problem = refused(Loose)
    assert problem.startswith(f"{__file__}, line ")
    assert problem.endswith(
        ": input in_right of task count is not connected. Write count.in_right = …, another task's out_… port or"
        " self.source(…)."
    )


def test_unknown_ports_list_the_declared_ones() -> None:
    class Misspelt(WorkflowTask):
        def workflow(self) -> None:
            self.new_task("trim", Trim).in_raeds = self.source("x")

    class Wrong(WorkflowTask):
        def workflow(self) -> None:
            trim = self.new_task("trim", Trim)
            trim.in_reads = trim.out_trimed

    class Bare(WorkflowTask):
        def workflow(self) -> None:
            self.new_task("trim", Trim).reads = self.source("x")

    assert without_place(refused(Misspelt)) == "Task trim has no port 'in_raeds'; Trim declares: in_reads."
    assert without_place(refused(Wrong)) == "Task trim has no port 'out_trimed'; Trim declares: out_trimmed, out_rest."
    assert without_place(refused(Bare)) == "Task trim has no port 'reads'; Trim declares: in_reads."


class Bracketless(Step):
    """Has the classes of ports for ports."""

    reads = Input
    counts = Output


def test_ports_of_the_wrong_way_and_classes_for_ports_are_named() -> None:
    class FromInput(WorkflowTask):
        def workflow(self) -> None:
            trim, other = self.new_task("trim", Trim), self.new_task("other", Trim)
            other.in_reads = trim.in_reads

    class IntoOutput(WorkflowTask):
        def workflow(self) -> None:
            self.new_task("trim", Trim).in_trimmed = self.source("x")

    class NoBrackets(WorkflowTask):
        def workflow(self) -> None:
            self.new_task("count", Bracketless).in_reads = self.source("x")

    class NoFile(WorkflowTask):
        def workflow(self) -> None:
            self.new_task("trim", Trim).in_reads = self.new_task("count", Bracketless).out_counts

    class Swapped(WorkflowTask):
        def workflow(self) -> None:
            self.new_task(Trim, "trim")  # type: ignore[arg-type]

    assert without_place(refused(FromInput)).startswith("trim.in_reads is an input, and only an out_… port can be read")
    assert without_place(refused(IntoOutput)).startswith("trim.in_trimmed is an output, and only an in_… port can be")
    assert without_place(refused(NoBrackets)) == (
        "Bracketless.reads is the class Input itself, which declares no port. Write reads = Input()."
    )
    assert without_place(refused(NoFile)).endswith('Write counts = Output("FILE").')
    assert without_place(refused(Swapped)).endswith('Write self.new_task("NAME", CLASS).')


def test_a_port_takes_a_port_or_a_source_alone() -> None:
    class Text(WorkflowTask):
        def workflow(self) -> None:
            self.new_task("trim", Trim).in_reads = "reads.fq"  # type: ignore[assignment]

    assert without_place(refused(Text)).startswith(
        "trim.in_reads takes another task's out_… port or self.source(…), not 'reads.fq'"
    )


def test_a_task_of_elsewhere_is_refused() -> None:
    class Foreign(WorkflowTask):
        def workflow(self) -> None:
            self.new_task("trim", Trim).in_reads = Port(Task("other", Trim), "trimmed")

    class Namesake(WorkflowTask):
        def workflow(self) -> None:
            self.new_task("trim", Trim).in_reads = Port(Task("trim", Trim), "trimmed")

    assert refused(Foreign) == "trim.in_reads is fed by a task that self.new_task() did not make."
    assert refused(Namesake) == "trim.in_reads is fed by a task that self.new_task() did not make."


def test_two_tasks_of_one_name_are_refused() -> None:
    class Twins(WorkflowTask):
        def workflow(self) -> None:
            self.new_task("trim", Trim)
            self.new_task("trim", Trim)

    assert without_place(refused(Twins)) == "two tasks are called 'trim'; give each its own name."


@pytest.mark.parametrize("name", ["", "Trim", "1st", "a-b", "a" * 33, "trim\n", "_x"])
def test_a_name_that_is_no_key_is_refused(name: str) -> None:
    with pytest.raises(InvalidPipeline, match="1 to 32 lower-case letters"):
        Diamond().new_task(name, Trim)


@pytest.mark.parametrize("step_class", [Trim(), object, "Trim"], ids=["an instance", "another class", "a text"])
def test_a_task_needs_the_class_of_a_step(step_class: Any) -> None:
    with pytest.raises(
        InvalidPipeline,
        match=r"line \d+: task 'trim' needs a subclass of Step, not .*: self\.new_task\('trim', NAME\)",
    ):
        Diamond().new_task("trim", step_class)


@pytest.mark.parametrize("name", ["files", "check", "cpus", "params"])
@pytest.mark.parametrize("declaration", [Input(), Output("a.txt"), Param(1), Column()])
def test_what_a_step_declares_hides_no_attribute_of_every_step(name: str, declaration: object) -> None:
    with pytest.raises(InvalidPipeline, match=f"py: Hiding declares the name '{name}', which has another meaning in"):
        Diamond().new_task("trim", type("Hiding", (Trim,), {name: declaration}))


def test_a_reference_builder_is_no_task_and_no_task_is_no_pipeline() -> None:
    class Empty(WorkflowTask):
        def workflow(self) -> None:
            """Makes nothing."""

    with pytest.raises(InvalidPipeline, match="Build builds references"):
        Diamond().new_task("build", Build)
    assert refused(Empty) == "Empty.workflow() makes no task."


def test_a_source_names_a_file_or_a_column() -> None:
    with pytest.raises(InvalidPipeline, match="a column, or both"):
        Diamond().source()


def test_a_pipeline_that_is_in_no_file_is_refused() -> None:
    nowhere = type("Nowhere", (Diamond,), {"__module__": "sys"})
    assert refused(nowhere).startswith("Nowhere is not defined in a file")


@pytest.mark.parametrize("column", [["reads"], ("reads",), 1])
def test_a_column_of_a_source_is_a_text(column: Any) -> None:
    class Reads(WorkflowTask):
        def workflow(self) -> None:
            self.source(column=column)

    with pytest.raises(InvalidPipeline, match=r"takes column=\"bam\", or a tuple of different names"):
        Reads().tasks()


def test_a_source_is_named_by_a_parameter_of_its_step_and_an_empty_one_names_none() -> None:
    class Mapped(Step):
        """Maps reads to a genome."""

        reads = Input()
        genome = Input(optional=True)
        genome_file: str = Param("")

    class Mapping(WorkflowTask):
        """One step."""

        def workflow(self) -> None:
            task = self.new_task("mapped", Mapped)
            task.in_reads = self.source("{sample}.fq")
            task.in_genome = self.source("{genome_file}")

    assert Graph.of(Mapping)["mapped"].sources["genome"].files == ()
    node = Graph.of(Mapping, {"genome_file": "hg38.fa"})["mapped"]
    assert [source.files for source in node.sources.values()] == [("{sample}.fq",), ("hg38.fa",)]


def test_a_value_in_the_name_of_a_source_is_written_as_in_commands_and_never_read_again() -> None:
    class Mapped(Step):
        """Reads a file whose name has three parameters."""

        reads = Input()
        genome: str = Param("{build}")
        build: str = Param("hg38")
        masked: bool = Param(True)

    class Mapping(WorkflowTask):
        """One step."""

        def workflow(self) -> None:
            self.new_task("mapped", Mapped).in_reads = self.source("{genome}/{build}.{masked}.fa")

    assert Graph.of(Mapping)["mapped"].sources["reads"].files == ("{build}/hg38.true.fa",)


def test_a_name_in_a_source_that_stands_for_nothing_is_refused() -> None:
    class Mapped(Step):
        """Reads a file of the sample."""

        reads = Input()
        genome_file: str = Param("")

    class Mapping(WorkflowTask):
        """One step."""

        def workflow(self) -> None:
            self.new_task("mapped", Mapped).in_reads = self.source("{sample}{1}.fq", "{genome}")

    with pytest.raises(
        InvalidPipeline,
        match=r"test_workflow\.py, line \d+: \{genome\} in the source of mapped\.in_reads stands for nothing; there are"
        r" \{sample\}, \{genome_file\}\.",
    ):
        Graph.of(Mapping)
