"""Positions in a command, `{reads[1]}`: those that no sample has are refused before anything is sent."""

from __future__ import annotations

from pathlib import Path

import pytest

from batch_pipeline import Column, Input, Output, Param, Reference, Scope, Step, WorkflowTask
from batch_pipeline.pipeline.review import code_problems
from batch_pipeline.pipeline.workflow import Connection, Graph


class Split(Step):
    """Makes files of each form."""

    reads = Input()
    pair = Output("1.fq", "2.fq")
    one = Output("1.txt")
    parts = Output("*.part", many=True)
    folder = Output("qc/")

    def run(self, job: object) -> None:
        """Not run here."""


def problems_of(
    command: str, feed: str, *, scope: Scope = Scope.SAMPLE, lanes: bool = False, when: str = ""
) -> list[str]:
    """The problems of a step whose port `reads` is fed as a line of wiring says."""

    class Align(Step):
        """Is reviewed."""

        reads = Input()
        index = Reference("genome.idx")
        bam = Output("a.bam", "a.bai")
        seed: int = Param(1)
        strand: str = Column()

    Align.command, Align.scope = command, scope

    class Aligned(WorkflowTask):
        """Has it behind one that makes its files."""

        def workflow(self) -> None:
            split = self.new_task("split", Split, when=when)
            split.in_reads = self.source("{sample}.fq")
            align = self.new_task("align", Align)
            connection: Connection = eval(feed, {"split": split, "self": self})
            align.in_reads = connection

    Aligned.lanes = lanes
    return [problem for problem in code_problems(Graph.of(Aligned)) if "top level" not in problem]


@pytest.mark.parametrize(
    ("command", "feed", "count"),
    [
        ("bwa {reads[1]}", 'self.source("{sample}.fq")', "has 1 file or value"),
        ("bwa {input.reads[1]}", 'self.source(column="bam")', "has 1 file or value"),
        ("bwa {reads[2]}", 'self.source("{sample}_1.fq", "{sample}_2.fq")', "has 2 files"),
        ("bwa {reads[2]}", 'self.source(columns=("fastq_1", "fastq_2"))', "has 2 files"),
        ("bwa {reads[2]}", "split.out_pair", "has 2 files"),
        ("bwa {reads[1]}", "split.out_one", "has 1 file or value"),
        ("bwa {reads[1]}", "split.out_folder", "has 1 file or value"),
        ("bwa {bam[2]} {reads}", "split.out_one", "has 2 files"),
        ("bwa {index[1]} {reads}", "split.out_one", "has 1 file or value"),
        ("bwa {seed[1]} {reads}", "split.out_one", "has 1 file or value"),
        ("bwa {strand[1]} {reads}", "split.out_one", "has 1 file or value"),
        ("bwa {sample[1]} {reads}", "split.out_one", "has 1 file or value"),
    ],
)
def test_a_position_that_no_sample_has_is_refused_with_its_line(command: str, feed: str, count: str) -> None:
    (problem,) = problems_of(command, feed)
    assert problem.startswith(f"{Path(__file__)}, line ")
    assert "} in the command of Align is out of range for task align: " in problem
    assert count in problem


def test_alternatives_have_the_files_of_the_longest_one() -> None:
    feed = 'split.out_one | self.source("{sample}_1.fq", "{sample}_2.fq")'
    assert problems_of("bwa {reads[1]}", feed, when="True == True") == []
    assert len(problems_of("bwa {reads[2]}", feed, when="True == True")) == 1


@pytest.mark.parametrize(
    ("command", "feed"),
    [
        ("bwa {reads[0]}", 'self.source("{sample}.fq")'),
        ("bwa {reads[1]} {bam[1]}", 'self.source(columns=("fastq_1", "fastq_2"))'),
        ("bwa {reads[1]}", "split.out_pair"),
        ("bwa {reads[9]}", "split.out_parts"),
    ],
)
def test_a_position_that_a_sample_may_have_is_sound(command: str, feed: str) -> None:
    assert problems_of(command, feed) == []


def test_rows_of_a_sample_have_any_number_of_files() -> None:
    assert problems_of("bwa {reads[9]}", 'self.source(columns=("fastq_1", "fastq_2"))', lanes=True) == []
    assert len(problems_of("bwa {reads[1]}", 'self.source("{sample}.fq")', lanes=True)) == 1


def test_a_gather_has_the_files_of_all_samples() -> None:
    for command in ("cat {reads[9]}", "cat {reads} {samples[9]} {strand[9]}"):
        assert problems_of(command, "split.out_one", scope=Scope.COHORT) == []
    assert len(problems_of("cat {bam[2]} {reads}", "split.out_one", scope=Scope.COHORT)) == 1
