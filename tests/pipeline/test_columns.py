"""Columns of the sheet that steps declare: typed values, and every problem of a sheet at once."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from batch_pipeline import Column, Job, Output, Step
from batch_pipeline.demo.alone import run_alone
from batch_pipeline.pipeline.columns import MAX_VALUE, column_values, columns_of, named_files, typed_values
from batch_pipeline.pipeline.samples import Sample, SampleList, parse_samples
from batch_pipeline.pipeline.workflow import Graph, Node, Source
from batch_pipeline.wire.errors import ContractBroken, InvalidConfig, InvalidPipeline, InvalidSampleList


class Align(Step):
    """Aligns."""

    strand: str = Column("strandedness", choices=("auto", "forward", "reverse"), default="auto")
    depth: int = Column(type=int, minimum=1, help="Reads to keep, in millions.")


def graph_of(*steps: type[Step]) -> Graph:
    nodes = tuple(Node(name=step.__name__.lower(), step=step(), inputs={}) for step in steps)
    return Graph(name="Columns", root=Path("/"), nodes=nodes)


def sheet(text: str, *, lanes: bool = False) -> SampleList:
    return parse_samples(text.encode(), "s.csv" if "," in text else "s.txt", lanes=lanes)


def problems_of(text: str, *steps: type[Step], lanes: bool = False) -> str:
    with pytest.raises(InvalidSampleList) as caught:
        columns_of(graph_of(*(steps or (Align,))), sheet(text, lanes=lanes), {})
    return caught.value.message


def test_values_are_typed_and_an_empty_field_has_the_default() -> None:
    samples = sheet("sample,strandedness,depth,note\nA,forward,7,x\nB,,12,\n")

    values = columns_of(graph_of(Align), samples, {})

    assert values == {"align": [{"strand": "forward", "depth": 7}, {"strand": "auto", "depth": 12}]}
    assert column_values(Align, samples["A"]) == {"strand": "forward", "depth": 7}


def test_equal_values_are_one_object() -> None:
    """A hundred thousand samples with four kinds of values hold four."""
    values = columns_of(graph_of(Align), sheet("sample,strandedness,depth\nA,auto,7\nB,auto,7\n"), {})["align"]
    assert values[0] is values[1]


def test_a_pipeline_without_columns_looks_at_no_sample() -> None:
    class Plain(Step):
        """Declares none."""

    assert columns_of(graph_of(Plain), SampleList(samples=None, origin="-"), {}) == {}  # type: ignore[arg-type]


def test_a_list_has_the_defaults() -> None:
    class Named(Step):
        """Has a default."""

        strand: str = Column(default="auto")

    assert columns_of(graph_of(Named), SampleList.of(["A"]), {}) == {"named": [{"strand": "auto"}]}


@pytest.mark.parametrize(
    ("declared", "text", "value"),
    [
        ({"type": int}, "12", 12),
        ({"default": 1.5}, "2", 2.0),
        ({"default": False}, "yes", True),
        ({"choices": (1, 2)}, "2", 2),
        ({}, "012", "012"),
        ({"type": str, "default": ""}, "x", "x"),
    ],
    ids=repr,
)
def test_the_type_is_the_one_declared_or_that_of_default_or_choices(
    declared: Mapping[str, Any], text: str, value: object
) -> None:
    step: type[Step] = type("Typed", (Step,), {"x": Column(**declared)})
    (values,) = columns_of(graph_of(step), sheet(f"sample,x\nA,{text}\n"), {})["typed"]
    assert values["x"] == value
    assert type(values["x"]) is type(value)


def test_all_problems_of_a_sheet_are_shown_at_once_with_line_and_column() -> None:
    lines = problems_of("sample,strandedness,depth\nA,back,1\nB,auto,many\nC,auto,0\nD,auto,\n").split("\n")
    assert lines == [
        "The sample list s.csv has 4 problems; nothing was done.",
        "Sample 'A' (line 2 of s.csv), column 'strandedness':"
        " strand must be one of auto, forward, reverse, not 'back'.",
        "Sample 'B' (line 3 of s.csv), column 'depth': depth must be of type int, not 'many'.",
        "Sample 'C' (line 4 of s.csv), column 'depth': depth must be at least 1, not '0'.",
        "Sample 'D' (line 5 of s.csv), column 'depth': it is empty. Write a value.",
    ]


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("sample,note\nA,x\n", "needs the column 'depth' (Reads to keep, in millions), which s.csv does not have"),
        ("sample,note\nA,x\n", "its columns are: note. Add it to the sheet"),
        ("sample,Depth\nA,x\n", "s.csv has a column 'Depth', step align one named 'depth'. Rename one."),
        ("sample,de-pth\nA,x\n", "s.csv has a column 'de-pth', step align one named 'depth'. Rename one."),
        ("sample,depth,Strandedness\nA,1,forward\n", "has a column 'Strandedness'"),
        (f"sample,depth\nA,{'1' * (MAX_VALUE + 1)}\n", "has 1,025 characters"),
        ('sample,depth\nA,"1\n2"\n', "has a control character (U+000A)"),
        ('sample,depth\nA,"1\t2"\n', "has a control character (U+0009)"),
        ("sample,depth\nA,1\x7f2\n", "has a control character (U+007F)"),
        ("sample,depth\nA,1\u20282\n", "has a control character (U+2028)"),
    ],
)
def test_what_a_column_cannot_be_is_refused(text: str, rule: str) -> None:
    assert rule in problems_of(text)


@pytest.mark.parametrize(
    ("made", "rule"),
    [("a\nb", "a control character (U+000A)"), ("x" * 1025, "1,025 characters")],
    ids=["a line", "length"],
)
def test_what_a_function_makes_obeys_the_same_rules(made: str, rule: str) -> None:
    class Made(Step):
        """Has a value that a function makes."""

        kind: str = Column("kind", convert=lambda _: made)

    with pytest.raises(InvalidConfig, match=re.escape(f"it has {rule}")):
        column_values(Made, Sample(name="A", line=2, columns={"kind": "k"}))


def test_rows_of_one_sample_must_agree_in_the_columns_of_steps() -> None:
    text = "sample,lane,strandedness,depth\nA,1,,7\nB,1,auto,7\nA,2,auto,7\nB,2,reverse,7\n"
    assert problems_of(text, lanes=True) == (
        "Sample 'B' has strandedness 'auto' on line 3 of s.csv and 'reverse' on line 5; the rows of a sample must"
        " agree. Correct one of them."
    )


PAIRED = Source(files=(), columns=("fastq_1", "fastq_2"))


def files_of(text: str, source: Source = PAIRED, *, lanes: bool = True) -> dict[str, list[str]]:
    """The names that a sheet gives for a port, where it has no problem."""
    graph = Graph(name="Files", root=Path("/"), nodes=(Node(name="trim", step=Step(), inputs={"reads": source}),))
    samples = sheet(text, lanes=lanes)
    columns_of(graph, samples, {})
    return {sample.name: [name for *_, name in named_files(source, sample)] for sample in samples}


def test_files_come_row_by_row_with_the_columns_in_order() -> None:
    text = "sample,fastq_2,fastq_1\nA,a2,a1\nB,,b1\nA,a4,a3\n"
    assert files_of(text) == {"A": ["a1", "a2", "a3", "a4"], "B": ["b1"]}


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("sample,fastq_1\nA,a\n", "trim.in_reads reads the column 'fastq_2', which s.csv does not have"),
        ("sample,x\nA,a\n", "trim.in_reads reads the column 'fastq_1', which s.csv does not have; its columns are: x."),
        ("sample,fastq_1,fastq2\nA,a,b\n", "its columns are: fastq_1, fastq2. Did you mean 'fastq2'? Add it"),
        (
            "sample,fastq_1,fastq_2\nA,,a2\n",
            "(line 2 of s.csv) has nothing in the column 'fastq_1' and a file in a later",
        ),
        ("sample,fastq_1,fastq_2\nA,a1,a2\nA,a3,\n", "(line 3 of s.csv) has another number of files than line 2"),
        ("sample,fastq_1,fastq_2\nA,a1,a1\n", "(line 2 of s.csv) names the file 'a1' twice for trim.in_reads"),
        ("sample,fastq_1,fastq_2\nA,a1,a2\nA,a3,a1\n", "names the file 'a1' twice"),
        ("sample,fastq_1,fastq_2\nA,https://x/a,\n", "(line 2 of s.csv), column 'fastq_1': https://x/a cannot be read"),
    ],
)
def test_a_file_is_neither_left_out_nor_read_twice_unseen(text: str, rule: str) -> None:
    with pytest.raises(InvalidSampleList) as caught:
        files_of(text)
    assert rule in caught.value.message


def test_one_column_is_read_as_before() -> None:
    one = Source(files=(), column="bam")
    assert files_of("sample,bam\nA,a\nB,a\n", one, lanes=False) == {"A": ["a"], "B": ["a"]}
    assert files_of("sample,bam\nA,a\nA,b\n", one) == {"A": ["a", "b"]}
    assert files_of("sample,x\nA,a\n", Source(files=("{sample}.fq",), columns=PAIRED.columns)) == {"A": []}


@pytest.mark.parametrize("text", ["sample,reads\nA,a\nB,b\n", "A\nB\n"])
def test_a_column_that_no_sheet_has_is_refused_once(text: str) -> None:
    with pytest.raises(InvalidSampleList) as caught:
        files_of(text, Source(files=(), column="raeds"), lanes=False)
    file, there = ("s.csv", "reads. Did you mean 'reads'?") if "," in text else ("s.txt", "none beside the sample.")
    assert caught.value.message == (
        f"trim.in_reads reads the column 'raeds', which {file} does not have; its columns are: {there} Add it, with an"
        " empty field for a sample that has no such file, or name the files in self.source()."
    )


def test_a_sheet_without_the_column_falls_back_to_the_name() -> None:
    source = Source(files=("{sample}.fq",), column="bam")
    assert files_of("sample,x\nA,a\n", source, lanes=False) == {"A": []}


def test_a_step_has_the_value_of_its_sample_as_an_attribute() -> None:
    step = Align()
    assert step.strand == "auto"
    with pytest.raises(ContractBroken, match=r"job\.gathered_columns"):
        _ = step.depth
    step.column_values = {"strand": "forward", "depth": 3}
    assert (step.strand, step.depth) == ("forward", 3)


@pytest.mark.parametrize(
    ("declared", "rule"),
    [
        ({"default": None}, "its type must be bool, int, float or str"),
        ({"type": list}, "its type must be bool, int, float or str"),
        ({"default": "x", "choices": ("a", "b")}, "The default of column 'c' breaks its own rule"),
    ],
)
def test_a_declaration_that_cannot_be_is_refused(declared: Mapping[str, Any], rule: str) -> None:
    with pytest.raises(InvalidPipeline, match=rule):
        Column("c", **declared)


@pytest.mark.parametrize(
    ("values", "rule"),
    [
        ({"depth": "x"}, "depth must be of type int"),
        ({}, "Align needs a value of its column 'depth'"),
        ({"deep": 1}, "no column 'deep'"),
    ],
)
def test_values_of_a_test_of_a_step_are_checked_too(values: Mapping[str, Any], rule: str) -> None:
    assert typed_values(Align(), {"depth": 3}) == {"strand": "auto", "depth": 3}
    with pytest.raises(InvalidConfig, match=rule):
        typed_values(Align(), values)


def test_a_step_that_is_tested_alone_has_its_columns(tmp_path: Path) -> None:
    class Written(Align):
        """Writes what it knows."""

        out = Output("out.txt")

        def run(self, job: Job) -> None:
            job.output("out").write_text(f"{self.strand} {job.columns['depth']}")

    job = run_alone(Written(), tmp_path / "work", "S1", inputs={}, columns={"depth": 2})
    assert job.output("out").read_text() == "auto 2"


def reads_of(bam: str, fastq: str) -> str:
    if bam and fastq:
        raise ValueError(f"{bam} and {fastq} are both named; leave one of them out.")
    return "fastq" if fastq else "bam"


class Convert(Step):
    """Has a value of two columns."""

    reads: str = Column("bam", "fastq_1", default="bam", convert=reads_of)


def test_a_value_is_made_of_several_columns_and_rows_of_a_sample_may_have_other_texts() -> None:
    samples = sheet("sample,fastq_1,bam\nA,a1.fq,\nA,a2.fq,\nB,,b.bam\nC,,\n", lanes=True)

    values = columns_of(graph_of(Convert), samples, {})["convert"]

    assert [one["reads"] for one in values] == ["fastq", "bam", "bam"]
    assert values[1] is values[2]
    assert columns_of(graph_of(Convert), SampleList.of(["A"]), {}) == {"convert": [{"reads": "bam"}]}
    assert columns_of(graph_of(Convert), sheet("sample,bam\nA,a.bam\n"), {}) == {"convert": [{"reads": "bam"}]}


def test_a_row_that_a_conversion_refuses_is_named_by_its_line() -> None:
    both = problems_of("sample,fastq_1,bam\nA,a1.fq,a.bam\n", Convert)
    assert "Sample 'A' (line 2 of s.csv), column 'bam, fastq_1': a.bam and a1.fq are both named" in both
    mixed = problems_of("sample,fastq_1,bam\nA,a1.fq,\nA,,a.bam\n", Convert, lanes=True)
    assert "has bam, fastq_1 'fastq' on line 2 of s.csv and 'bam' on line 3" in mixed
    assert "has a column 'Fastq_1', step convert one named 'fastq_1'" in problems_of(
        "sample,Fastq_1\nA,a1.fq\n", Convert
    )


def test_several_columns_need_a_conversion() -> None:
    with pytest.raises(InvalidPipeline, match="'bam, fastq_1' has several columns and no function"):
        Column("bam", "fastq_1")
