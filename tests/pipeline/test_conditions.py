"""Conditions of steps: the small language, what each mistake says, and what the readers of an excluded cell read."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pytest

from batch_pipeline.pipeline.columns import columns_of
from batch_pipeline.pipeline.conditions import Condition, excluded_cells, explanation_of
from batch_pipeline.pipeline.plan import CellState
from batch_pipeline.pipeline.samples import SampleList, parse_samples
from batch_pipeline.pipeline.step import Column, Input, Output, Param, Scope, Step
from batch_pipeline.pipeline.workflow import Graph, WorkflowTask
from batch_pipeline.wire.errors import InvalidPipeline, InvalidSampleList
from batch_pipeline.wire.layout import COHORT
from tests.pipeline.promises import cells_in, check_plan, finish, states_of
from tests.pipeline.worlds import OR_FIRST, OR_SOURCE, World, graph_of

SHEET = "sample,strand,lane\nann,forward,1\nbob,none,2\ncid,,10\n"


class Trim(Step):
    """Cuts reads."""

    when = "strand != 'none' and trims"
    reads = Input()
    trimmed = Output("trimmed.fq")
    trims: bool = Param(True)
    length: int = Param(20)


class Count(Step):
    """Counts reads."""

    reads = Input()
    table = Output("table.tsv")


class MayCount(Step):
    """Counts reads, where there are any."""

    reads = Input(optional=True)
    table = Output("table.tsv")


class Merge(Step):
    """Merges tables."""

    scope = Scope.COHORT
    tables = Input()
    all = Output("all.tsv")


def samples() -> SampleList:
    return parse_samples(SHEET.encode(), "sheet.csv")


def excluded(made: Graph, sheet: SampleList) -> dict[str, frozenset[str]]:
    excluded_by_step = excluded_cells(made, sheet)
    columns_of(made, sheet, excluded_by_step)
    return excluded_by_step


def graph(wire: Any, params: dict[str, Any] | None = None) -> Graph:
    """The graph of a pipeline that `wire` makes, from a workflow."""

    class Pipeline(WorkflowTask):
        def workflow(self) -> None:
            wire(self)

    return Graph.of(Pipeline, params)


def trimmed(flow: WorkflowTask, step: type[Step] = Trim, **options: Any) -> Any:
    trim = flow.new_task("trim", step, **options)
    trim.in_reads = flow.source("{sample}.fq")
    return trim


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("strand == 'forward'", True),
        ("strand in ('reverse', 'none')", False),
        ("strand not in ['reverse']", True),
        ("'ward' in strand", True),
        ("not trims", False),
        ("trims and not (depth > 30 or depth < -1)", True),
        ("1 <= depth <= 7.5", True),
        ("depth == 7.0", True),
        ("batch is None or batch == 'x'", True),
        ("batch == None", True),
        ("True", True),
    ],
)
def test_the_language_is_comparisons_and_or_not_in(text: str, holds: bool) -> None:
    values = {"strand": "forward", "trims": True, "depth": 7, "batch": None}
    condition = Condition.parse(text, "here")
    assert condition.holds({name: values[name] for name in condition.names}) is holds


@pytest.mark.parametrize(
    "text",
    [
        "",
        "strand =",
        "__import__('os').system('true')",
        "strand.upper() == 'A'",
        "strand[0] == 'f'",
        "depth + 1 > 2",
        "[x for x in strand]",
        "(lambda: True)()",
        "f'{strand}' == 'a'",
        "strand == b'a'",
        "-strand == 1",
        "x if trims else y",
        "(y := trims)",
        "strand in (1, (2, 3))",
    ],
)
def test_nothing_else_is_allowed_and_the_place_is_named(text: str) -> None:
    with pytest.raises(InvalidPipeline, match=r"^main.py, line 7: .*when = "):
        Condition.parse(text, "main.py, line 7")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("lane == 1", "compares text with a number"),
        ("lane < 5", "compares text with a number"),
        ("lane in (1, 2)", "compares text with a list"),
        ("trims == 'yes'", "compares true or false with text"),
        ("trims == 1", "compares true or false with a number"),
        ("lane", "is text, not true or false"),
        ("trims and lane", "is text, not true or false"),
        ("batch < 3", "compares nothing with a number"),
        ("lane is 'x'", "compares text with text"),
    ],
)
def test_a_value_of_another_kind_is_refused_and_not_false(text: str, why: str) -> None:
    values = {"lane": "1", "trims": True, "batch": None}
    condition = Condition.parse(text, "main.py, line 7")
    with pytest.raises(InvalidPipeline, match=why) as refused:
        condition.holds({name: values[name] for name in condition.names})
    assert "main.py, line 7" in str(refused.value)


def test_cells_are_excluded_by_columns_and_parameters() -> None:
    made = graph(trimmed)
    assert excluded(made, samples()) == {"trim": frozenset({"bob"})}
    assert explanation_of(made["trim"], samples()["bob"]) == (
        "when = \"strand != 'none' and trims\", with strand = 'none', trims = True"
    )
    assert excluded(graph(trimmed, {"trims": "no"}), samples()) == {"trim": frozenset({"ann", "bob", "cid"})}
    assert not excluded(graph(lambda flow: trimmed(flow, when="length == 20")), samples())


def test_a_condition_of_the_task_replaces_that_of_the_class_and_its_line_is_named() -> None:
    with pytest.raises(InvalidPipeline, match=rf"{Path(__file__).name}, line \d+: sense in when") as refused:
        excluded(graph(lambda flow: trimmed(flow, when="sense == 'forward'")), samples())
    assert "a parameter of trim (trims, length) nor a column of the sample sheet (strand, lane)" in str(refused.value)


def test_the_line_of_a_class_with_a_wrong_condition_is_named() -> None:
    line = next(
        i for i, text in enumerate(Path(__file__).read_text().splitlines(), 1) if "strand != 'none' and" in text
    )
    with pytest.raises(InvalidPipeline, match=rf"{Path(__file__).name}, line {line}: strand in when"):
        excluded(graph(trimmed), SampleList.of(["ann"]))


def test_a_name_of_a_parameter_and_a_column_is_refused() -> None:
    sheet = parse_samples(b"sample,trims\nann,x\n", "sheet.csv")
    with pytest.raises(InvalidPipeline, match=r"trims in when = 'trims' is a parameter of trim and a column"):
        excluded(graph(lambda flow: trimmed(flow, when="trims")), sheet)


class Typed(Trim):
    """Cuts reads of lanes."""

    number: int = Column("lane", default=0)


def test_a_declared_column_has_its_type_and_another_one_is_text() -> None:
    made = graph(lambda flow: trimmed(flow, step=Typed, when="number > 1"))
    assert excluded(made, samples()) == {"trim": frozenset({"ann"})}
    assert explanation_of(made["trim"], samples()["bob"]) == 'when = "number > 1", with number = 2'
    with pytest.raises(InvalidPipeline, match="lane < 5 compares text with a number in when"):
        excluded(graph(lambda flow: trimmed(flow, when="lane < 5")), samples())


def test_a_condition_is_decided_once_for_samples_with_the_same_texts() -> None:
    """A list may have a million samples, and few values in a column."""
    converted: list[str] = []

    def convert(text: str) -> str:
        converted.append(text)
        return text

    class Declared(Trim):
        strand: str = Column(convert=convert)

    rows = "".join(f"s{number},{('forward', 'none')[number % 2]}\n" for number in range(100))
    sheet = parse_samples(f"sample,strand\n{rows}".encode(), "sheet.csv")
    made = graph(lambda flow: trimmed(flow, Declared))
    assert len(excluded_cells(made, sheet)["trim"]) == 50
    assert converted == ["forward", "none"]


def test_lines_of_one_sample_have_one_value() -> None:
    sheet = parse_samples(b"sample,kind\nann,x\nann,y\n", "sheet.csv", lanes=True)
    with pytest.raises(InvalidPipeline, match=r"kind in when .* has several values for sample 'ann', whose first line"):
        excluded(graph(lambda flow: trimmed(flow, when="kind == 'x'")), sheet)


class Whole(Merge):
    """Merges tables, if told."""

    when: ClassVar[str] = "merges"
    merges: bool = Param(False)


def test_a_gathers_condition_is_of_parameters_alone() -> None:
    def wire(flow: WorkflowTask, when: str = "") -> None:
        count = flow.new_task("count", Count)
        count.in_reads = flow.source("{sample}.fq")
        flow.new_task("whole", Whole, when=when).in_tables = count.out_table

    assert excluded(graph(wire), samples()) == {"whole": frozenset({COHORT})}
    with pytest.raises(InvalidPipeline, match=r"strand in when .*\(a gather has no columns\)"):
        excluded(graph(lambda flow: wire(flow, "strand == 'none'")), samples())


def _reads_trim(flow: WorkflowTask, step: type[Step] = Count) -> None:
    flow.new_task("count", step).in_reads = trimmed(flow).out_trimmed


def _behind_a_source(flow: WorkflowTask) -> None:
    flow.new_task("count", Count).in_reads = flow.source("{sample}.fq") | trimmed(flow).out_trimmed


def _behind_a_step_without(flow: WorkflowTask) -> None:
    count = flow.new_task("first", Count)
    count.in_reads = flow.source("{sample}.fq")
    flow.new_task("count", Count).in_reads = count.out_table | trimmed(flow).out_trimmed


def _no_alternative(flow: WorkflowTask) -> None:
    flow.new_task("count", Count).in_reads = trimmed(flow).out_trimmed | "reads.fq"


class Folder(Trim):
    """Cuts reads into a directory."""

    when = ""
    trimmed = Output("cut/")


def _a_directory_or_a_file(flow: WorkflowTask) -> None:
    trim = trimmed(flow, step=Folder, when="trims")
    flow.new_task("count", Count).in_reads = trim.out_trimmed | flow.source("{sample}.fq")


@pytest.mark.parametrize(
    ("wire", "sentence"),
    [
        (_a_directory_or_a_file, r"count.in_reads has a directory as an alternative; those of a port are all files"),
        (_reads_trim, r"count.in_reads reads trim, which may be excluded .*Give it an alternative: trim.out_trimmed"),
        (_behind_a_source, r"count.in_reads names alternatives after a source, which are never read"),
        (_behind_a_step_without, r"count.in_reads names alternatives after first.out_table, .*first has no condition"),
        (_no_alternative, r"count.in_reads takes another task's out_… port or self.source\(…\), not 'reads.fq'"),
    ],
)
def test_wrong_alternatives_are_refused(wire: Any, sentence: str) -> None:
    with pytest.raises(InvalidPipeline, match=sentence) as refused:
        graph(wire)
    assert wire is _no_alternative or f"{__file__}, line " in str(refused.value)


def test_an_optional_input_needs_no_alternative_and_no_connection() -> None:
    graph(lambda flow: _reads_trim(flow, MayCount))
    made = graph(lambda flow: flow.new_task("count", MayCount))
    assert made["count"].inputs == {}
    with pytest.raises(InvalidPipeline, match="input in_reads of task count is not connected"):
        graph(lambda flow: flow.new_task("count", Count))


def test_a_gather_has_results_of_samples_or_of_gathers_as_alternatives() -> None:
    def wire(flow: WorkflowTask) -> None:
        count = flow.new_task("count", Count, when="strand == 'none'")
        count.in_reads = flow.source("{sample}.fq")
        first = flow.new_task("first", Merge)
        first.in_tables = count.out_table
        flow.new_task("second", Merge).in_tables = count.out_table | first.out_all

    with pytest.raises(InvalidPipeline, match=r"second.in_tables has results of samples and of a gather"):
        graph(wire)


SAMPLE, GATHER = Scope.SAMPLE, Scope.COHORT
TRIMMED = (("first", SAMPLE, ()), ("trim", SAMPLE, ["first"]), ("count", SAMPLE, ["trim"]), ("all", GATHER, ["count"]))


def test_samples_that_take_different_alternatives_are_arrays_of_their_own() -> None:
    world = World(graph=graph_of(*TRIMMED, conditions={"trim": OR_FIRST}), samples=["x0", "x1", "x2"])
    world.excluded = {("trim", "x1")}
    plan = world.plan()
    check_plan(plan, world)
    assert {job.name: [edge.job for edge in job.after] for job in plan.jobs} == {
        "first-0-0": [],
        "first-1-0": [],
        "trim-0-0": ["first-0-0"],
        "count-0-0": ["trim-0-0"],
        "count-1-0": ["first-1-0"],
        "all": ["count-0-0", "count-1-0"],
    }


def test_a_cell_waits_for_no_alternative_that_it_does_not_read() -> None:
    """Where the chosen alternative is done, the other one may run in the same array."""
    world = World(graph=graph_of(*TRIMMED, conditions={"trim": OR_FIRST}), samples=["x0", "x1"])
    world.excluded = {("trim", "x1")}
    finish(world)
    for cell in (("first", "x0"), ("first", "x1"), ("count", "x0"), ("count", "x1")):
        del world.receipts[cell]
    del world.receipts["trim", "x0"]
    plan = world.plan()
    check_plan(plan, world)
    assert [edge.job for job in plan.jobs if job.name == "count-0-0" for edge in job.after] == ["trim-0-0"]


def test_a_step_with_a_condition_reads_another_one_only_where_both_hold() -> None:
    world = World(graph=graph_of(*TRIMMED[:3], conditions={"trim": 0, "count": 0}), samples=["x0", "x1", "x2"])
    node = world.graph["count"]
    strict = graph_of(*TRIMMED[:3], conditions={"trim": 0})["trim"].step
    object.__setattr__(node, "step", strict)
    world.excluded = {("trim", "x1"), ("count", "x1"), ("trim", "x2")}
    plan = world.plan()
    assert [states_of(plan)["count", name] for name in world.samples] == [
        CellState.TO_RUN,
        CellState.EXCLUDED,
        CellState.BLOCKED,
    ]
    assert plan.blocked["count", "x2"] == (
        "Its input p0 has nothing to read, for conditions exclude trim. Give the input an alternative, or count a"
        " `when` that excludes this cell too."
    )


def test_an_alternative_that_was_made_again_meanwhile_does_not_count_when_its_condition_is_back() -> None:
    """What reads the trimmed file now is not below the source's step, but its older receipt is."""
    wires = (("first", SAMPLE, ()), ("other", SAMPLE, ()), ("trim", SAMPLE, ["other"]), ("count", SAMPLE, ["trim"]))
    world = World(graph=graph_of(*wires, conditions={"trim": OR_FIRST}), samples=["x0"])
    world.excluded = {("trim", "x0")}
    finish(world)
    world.change_condition(("trim", "x0"))
    del world.receipts["first", "x0"]
    plan = world.plan()
    assert ("count", "x0") in {name[:2] for name in plan.retires}
    world.send(plan, [job for job in plan.jobs if job.step == "first"])
    world.run()
    world.change_condition(("trim", "x0"))
    assert cells_in(world.plan(), CellState.TO_RUN) == {("count", "x0")}


def test_a_cell_of_before_its_condition_keeps_its_result_and_does_not_count() -> None:
    world = World(graph=graph_of(*TRIMMED, conditions={"trim": OR_SOURCE}), samples=["x0", "x1"])
    finish(world)
    world.change_condition(("trim", "x0"))
    assert cells_in(world.plan(), CellState.TO_RUN) == {("count", "x0"), ("all", COHORT)}
    world.ran.clear()
    finish(world)
    assert set(world.ran) == {("count", "x0"), ("all", COHORT)}
    assert world.receipts["trim", "x0"], "nothing was removed"


def test_what_a_live_gather_reads_is_left_alone_though_an_alternative_that_it_does_not_read_failed() -> None:
    wires = (("first", SAMPLE, ()), ("other", SAMPLE, ()), ("trim", SAMPLE, ["other"]), ("all", GATHER, ["trim"]))
    world = World(graph=graph_of(*wires, conditions={"trim": OR_FIRST}), samples=["x0", "x1", "x2"])
    world.excluded = {("trim", "x1")}
    for job in world.send(world.plan()):
        for child in job.children:
            ended = (job.step, child.sample)
            if job.step in ("other", "trim"):
                child.state = "done"
                world.receipts[ended] = frozenset({child.fingerprint})
            elif ended == ("first", "x0"):
                child.state = "failed"
    assert world.may_run(("all", COHORT))
    del world.receipts["other", "x0"]
    plan = world.plan()
    check_plan(plan, world)
    assert states_of(plan)["other", "x0"] is CellState.DEFERRED


class NoText(Count):
    """Has a flag for a condition."""

    when = True  # type: ignore[assignment]


class Build(Step):
    """Builds a reference under a condition."""

    scope = Scope.REFERENCE
    when: ClassVar[str] = "yes"
    index = Output("index")


class Built(WorkflowTask):
    """Names a builder with a condition."""

    reference_builder = Build


def test_a_condition_is_a_text_and_not_of_a_reference() -> None:
    with pytest.raises(InvalidPipeline, match=r"line \d+: when of count must be a text with a condition, not True"):
        graph(lambda flow: setattr(flow.new_task("count", NoText), "in_reads", flow.source("{sample}.fq")))
    with pytest.raises(InvalidPipeline, match="Build has a condition"):
        Graph.of_reference(Built)


class Stranded(Count):
    """Counts by strand, where there is one."""

    when = "protocol == 'stranded'"
    protocol: str = Column()
    strand: str = Column(choices=("forward", "reverse"))


def strands(flow: Any) -> None:
    flow.new_task("count", Stranded).in_reads = flow.source("{sample}.fq")


@pytest.mark.parametrize(
    "text",
    [
        "sample,protocol,strand\nann,stranded,forward\nbob,plain,\n",
        "sample,protocol,strand\nann,stranded,forward\nbob,plain,unknown\n",
    ],
)
def test_a_sample_without_the_step_needs_no_value_of_its_columns(text: str) -> None:
    made, sheet = graph(strands), parse_samples(text.encode(), "sheet.csv")
    assert excluded(made, sheet) == {"count": frozenset({"bob"})}
    values = columns_of(made, sheet, excluded(made, sheet))
    assert values == {"count": [{"protocol": "stranded", "strand": "forward"}, {}]}
    assert explanation_of(made["count"], sheet["bob"]).endswith("with protocol = 'plain'")


def test_a_sheet_needs_no_column_that_only_excluded_cells_read() -> None:
    sheet = parse_samples(b"sample,protocol\nann,plain\nbob,plain\n", "sheet.csv")
    assert excluded(graph(strands), sheet) == {"count": frozenset({"ann", "bob"})}


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("sample,strand\nann,forward\n", "Step count needs the column 'protocol', which sheet.csv does not have"),
        ("sample,protocol,strand\nann,,forward\n", "(line 2 of sheet.csv), column 'protocol': it is empty"),
        ("sample,protocol,strand\nann,stranded,\n", "(line 2 of sheet.csv), column 'strand': it is empty"),
        ("sample,protocol\nann,stranded\nbob,plain\n", "Step count needs the column 'strand'"),
    ],
)
def test_a_sample_that_may_have_the_step_needs_its_values(text: str, rule: str) -> None:
    with pytest.raises(InvalidSampleList) as refused:
        excluded(graph(strands), parse_samples(text.encode(), "sheet.csv"))
    assert rule in refused.value.message


class Labelled(Merge):
    """Merges tables under labels of their samples."""

    label: str = Column()


def gathers(flow: Any) -> None:
    count = flow.new_task("count", Count, when="protocol == 'stranded'")
    count.in_reads = flow.source("{sample}.fq")
    flow.new_task("merge", Labelled).in_tables = count.out_table


def test_a_gather_needs_the_columns_of_what_it_takes() -> None:
    text = "sample,protocol,label\nann,stranded,A\nbob,plain,\n"
    made, sheet = graph(gathers), parse_samples(text.encode(), "sheet.csv")
    assert columns_of(made, sheet, excluded_cells(made, sheet)) == {"merge": [{"label": "A"}, {}]}
    with pytest.raises(InvalidSampleList, match="column 'label': it is empty"):
        excluded(made, parse_samples(text.replace(",A", ",").encode(), "sheet.csv"))


def alternatives(flow: Any) -> None:
    trim = flow.new_task("trim", Trim)
    trim.in_reads = flow.source("{sample}.fq")
    flow.new_task("count", Count).in_reads = trim.out_trimmed | flow.source(column="trimmed_before")


def test_a_column_of_files_that_no_sample_reads_may_be_absent() -> None:
    sheet = "sample,strand\nann,forward\n"
    assert excluded(graph(alternatives), parse_samples(sheet.encode(), "sheet.csv")) == {}
    with pytest.raises(InvalidSampleList, match="reads the column 'trimmed_before', which"):
        excluded(graph(alternatives), parse_samples(f"{sheet}bob,none\n".encode(), "sheet.csv"))
