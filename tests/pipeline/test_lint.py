"""What is legal and may be a mistake is told with file and line, and what is meant so is not."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from batch_pipeline import WorkflowTask
from batch_pipeline.pipeline.lint import lint
from batch_pipeline.pipeline.resources import with_step_settings
from batch_pipeline.pipeline.workflow import Graph

#: Its eighth line is the first that tests put into the step.
PIPELINE = """from __future__ import annotations
from batch_pipeline import Input, Job, Output, Param, Step, WorkflowTask
class Base(Step):
    def limit(self):
        return self.low
class Call(Base):
    reads = Input()
    {step}
class Count(Step):
    vcf = Input()
    table = Output("t.tsv")
    other = Output("o.tsv")
    def run(self, job): pass
class Calls(WorkflowTask):
    def workflow(self):
        call = self.new_task("call", Call)
        call.in_reads = self.source("x")
        self.new_task("count", Count).in_vcf = call.out_vcf
"""
VCF = 'vcf = Output("x.vcf")'
Make = Callable[[str], Graph]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    """The graph of a pipeline whose step has the test's lines."""
    (tmp_path / "call.sh").write_text('#!/bin/sh\necho "$PARAM_QUALITY"\n. ./more.sh\n')
    (tmp_path / "more.sh").write_text('echo "${PARAM_DEPTH}"\n')

    def made(step: str) -> Graph:
        (tmp_path / "linted.py").write_text(PIPELINE.format(step=step))
        spec = importlib.util.spec_from_file_location("linted", tmp_path / "linted.py")
        assert spec is not None
        assert spec.loader is not None
        module = sys.modules["linted"] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        workflow: type[WorkflowTask] = module.Calls
        return Graph.of(workflow)

    yield made
    sys.modules.pop("linted", None)


@pytest.mark.parametrize(
    ("step", "warnings"),
    [
        (f"{VCF}; run = lambda self, job: None", []),
        # An output that no step reads, beside one that is read. The last step's outputs are results.
        (
            f'{VCF}; log = Output("x.log")\n    def run(self, job): pass',
            ["line 8: no step reads out_log of task call, but out_vcf. Connect what was forgotten"],
        ),
        (
            f'{VCF}; log = Output("x.log"); l2 = Output("y")\n    def run(self, job): pass',
            ["no step reads out_log, out_l2 of"],
        ),
        (f'{VCF}; log = Output("x.log", help="What it did.")\n    def run(self, job): pass', []),
        # Parameters.
        (
            f"{VCF}\n    quality: int = Param(20)\n    def run(self, job): pass",
            ["line 9: Call does not use its parameter quality, so another value makes the same result again."],
        ),
        (f"{VCF}\n    quality: int = Param(20)\n    def run(self, job): print(self.quality)", []),
        (
            f"{VCF}\n    quality: int = Param(20)\n    def check(self, job): self.quality\n    script = 'more.sh'",
            [],
        ),
        (f"{VCF}\n    low: int = Param(20)\n    def run(self, job): print(self.limit())", []),
        (f"{VCF}\n    quality: int = Param(20)\n    def run(self, job): print(self.params)", []),
        (f"{VCF}\n    quality: int = Param(20)\n    def run(self, job): str(self)", []),
        (f"{VCF}\n    quality: int = Param(20)\n    command = 'x {{quality}} {{vcf}}'", []),
        (f"{VCF}\n    quality: int = Param(20)\n    command = 'x {{param.quality}} {{vcf}}'", []),
        (f"{VCF}\n    quality: int = Param(20)\n    command = 'x {{nothing}}'", []),
        (f"{VCF}\n    quality: int = Param(20)\n    command = 'x {{{{quality}}}} {{vcf}}'", ["Use it ({quality})"]),
        (f"{VCF}\n    quality: int = Param(20)\n    script = 'call.sh'", []),
        (f"{VCF}\n    depth: int = Param(20)\n    script = 'call.sh'; files = ('more.sh',)", []),
        (f"{VCF}\n    depth: int = Param(20)\n    script = 'call.sh'", ["line 9: Call does not", "$PARAM_DEPTH"]),
        # Resources.
        (f"{VCF}\n    def run(self, job): print(job.cpus, job.memory_mb)", []),
        (
            f"{VCF}\n    def run(self, job):\n        print(self.cpus)",
            ["line 10: self.cpus is what the class of Call says", "Use job.cpus."],
        ),
        # Images.
        (f"{VCF}; run = lambda self, job: None\n    image = 'r/call@sha256:0'", []),
        (
            f"{VCF}; run = lambda self, job: None\n    image = 'r/call:1'",
            ["line 9: the image r/call:1 of call is not pinned by its digest"],
        ),
    ],
)
def test_a_warning_has_file_and_line(make: Make, tmp_path: Path, step: str, warnings: list[str]) -> None:
    sentences = lint(make(step), place_of_setting=str)
    assert len(sentences) == bool(warnings)
    for part in warnings:
        assert part in sentences[0]
        assert sentences[0].startswith(f"{tmp_path / 'linted.py'}, line ")


def test_an_image_of_the_settings_has_the_place_of_the_setting(make: Make) -> None:
    graph = make(f"{VCF}; run = lambda self, job: None\n    image = 'r/call@sha256:0'")
    (sentence,) = lint(
        with_step_settings(graph, {"call": {"image": "r/call:2"}}, place_of=str),
        place_of_setting=lambda key: f"<{key}>",
    )
    assert sentence.startswith("<steps.call.image>: the image r/call:2 of call")
