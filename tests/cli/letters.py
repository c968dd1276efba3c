"""The pipelines of these tests, and what a command told."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from batch_pipeline import Input, Job, Output, Param, Reference, Scope, Step, WorkflowTask


@dataclass(frozen=True, kw_only=True)
class Told:
    """What a command printed, and its exit code."""

    code: int
    out: str
    err: str


Run = Callable[..., Told]


class Sketch(Step):
    """A step that only a backend in memory runs, which writes the receipts itself."""

    def run(self, job: Job) -> None:
        """Makes nothing."""


class Upper(Sketch):
    """Makes letters large."""

    text = Input()
    upper = Output("{sample}.upper.txt")
    times: int = Param(1, help="How often.", minimum=1, maximum=9)
    style: str = Param("plain", choices=("plain", "fancy"))


class Count(Sketch):
    """Counts letters."""

    text = Input()
    count = Output("count.txt")
    with_blanks: bool = Param(True, help="Whether blanks count.")


class Letters(WorkflowTask):
    """Counts large letters."""

    def workflow(self) -> None:
        upper, count = self.new_task("upper", Upper), self.new_task("count", Count)
        upper.in_text = self.source("{sample}.txt")
        count.in_text = upper.out_upper


class Build(Sketch):
    """Makes an index."""

    scope = Scope.REFERENCE

    fasta = Input(help="Sequences.")
    gtf = Input()
    index = Output("the.idx")
    k: int = Param(31, help="Length of words.")


class Align(Sketch):
    """Uses the index."""

    reads = Input()
    index = Reference("the.idx")
    out = Output("out.txt")


class Aligned(WorkflowTask):
    """Needs a reference."""

    reference_builder = Build

    def workflow(self) -> None:
        align = self.new_task("align", Align)
        align.in_reads = self.source("{sample}.txt")
