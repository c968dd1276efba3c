"""Values of parameters in the wiring: defaults of one task, and how each mistake is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import pytest

from batch_pipeline import Input, Output, Param, Reference, Step, WorkflowTask
from batch_pipeline.cli.options import SettingOption, parameter_options
from batch_pipeline.pipeline.fingerprint import step_parts
from batch_pipeline.pipeline.workflow import Graph, tasks_of
from batch_pipeline.wire.errors import InvalidPipeline


class Call(Step):
    """Calls variants."""

    reads = Input()
    genome = Reference("genome.fa")
    vcf = Output("calls.vcf")
    quality: int = Param(20, minimum=0, maximum=60, help="Least quality.")
    mode: str = Param("fast", choices=("fast", "exact"))
    strict: bool = Param(False)

    def run(self, job: Any) -> None:
        """Not run here."""


class Two(WorkflowTask):
    """One class twice, with other values."""

    def workflow(self) -> None:
        plain = self.new_task("plain", Call)
        call = self.new_task("call", Call, quality=30, strict=True)
        plain.in_reads = call.in_reads = self.source("{sample}.bam")


def wired(**params: Any) -> type[WorkflowTask]:
    """A pipeline with one task; the line of its wiring is LINE."""

    class One(WorkflowTask):
        def workflow(self) -> None:
            self.new_task("call", Call, **params).in_reads = self.source("{sample}.bam")

    return One


LINE = next(
    number for number, line in enumerate(Path(__file__).read_text().splitlines(), 1) if "Call, **params" in line
)


@pytest.mark.parametrize(
    ("params", "plain", "call"),
    [
        ({}, 20, 30),
        ({"quality": 25}, 25, 25),
        ({"call.quality": "10"}, 20, 10),
        ({"quality": 25, "call.quality": 10}, 25, 10),
        ({"plain.quality": 5}, 5, 30),
    ],
)
def test_a_setting_goes_before_the_tasks_default_and_that_before_the_classs(
    params: dict[str, Any], plain: int, call: int
) -> None:
    graph = Graph.of(Two, params)
    assert (graph["plain"].step.params["quality"], graph["call"].step.params["quality"]) == (plain, call)
    assert graph["call"].step.params["strict"] is True


def test_a_value_that_equals_the_classs_changes_no_fingerprint() -> None:
    entry: Any = type("Entry", (), {"etag": "e", "size_bytes": 1})()
    digests = {
        step_parts(graph["call"], graph.root, "hg38", {"genome.fa": entry}).digest()
        for graph in map(Graph.of, (wired(), wired(quality=20), wired(quality="20", mode="fast"), wired(quality=20.0)))
    }
    assert len(digests) == 1


@pytest.mark.parametrize(
    ("params", "sentence"),
    [
        ({"qualty": 3}, "Call has no parameter 'qualty'; it has: quality, mode, strict."),
        ({"quality": "high"}, "task call: quality must be of type int, not 'high'."),
        ({"quality": 99}, "task call: quality must be at most 60, not 99."),
        ({"quality": None}, "task call: quality must be of type int, not None."),
        ({"mode": "slow"}, "task call: mode must be one of fast, exact, not 'slow'."),
        ({"strict": 2}, "task call: strict must be of type bool, not 2."),
        ({"memory_mb": 4000}, "task call takes no memory_mb, which is a resource. Set it in Call, or in the settings"),
        ({"in_reads": "x.bam"}, "task call takes no port. Connect it after the task is made: call.in_reads = …"),
        ({"reads": "x.bam"}, "task call takes no port. Connect it after the task is made: call.in_reads = …"),
        ({"vcf": "x.vcf"}, "task call takes no Output; Call.vcf is declared in the class."),
        ({"genome": "x.fa"}, "task call takes no Reference; Call.genome is declared in the class."),
    ],
)
def test_a_mistake_in_the_wiring_is_told_with_its_line(params: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InvalidPipeline) as refused:
        Graph.of(wired(**params))
    assert refused.value.message.startswith(f"{Path(__file__)}, line {LINE}: {sentence}")


def options_of(workflow: type[WorkflowTask]) -> dict[str, SettingOption]:
    options = parameter_options(tasks_of(workflow), [])
    return {option.opts[0]: option for option in options if isinstance(option, SettingOption)}


def default_of(option: SettingOption) -> str:
    default: str = option.get_help_extra(click.Context(click.Command("run")))["default"]
    return default


@pytest.mark.parametrize(
    ("flag", "key", "default"),
    [
        ("--quality", "params.quality", "20, call: 30"),
        ("--call.quality", "params.call.quality", "30"),
        ("--plain.quality", "params.plain.quality", "20"),
        ("--strict", "params.strict", "false, call: true"),
        ("--call.strict", "params.call.strict", "true"),
        ("--mode", "params.mode", "fast"),
    ],
)
def test_the_help_shows_each_tasks_own_default(flag: str, key: str, default: str) -> None:
    option = options_of(Two)[flag]
    assert (option.key, default_of(option), option.hidden) == (key, default, False)


def test_the_option_of_the_only_task_with_a_parameter_is_there_and_hidden() -> None:
    options = options_of(wired(quality=40))
    assert (options["--call.quality"].hidden, options["--quality"].hidden) == (True, False)
    assert default_of(options["--quality"]) == "40"


class Label(Step):
    """Writes a label."""

    text = Input()
    label = Output("label.txt")
    quality: str = Param("20")


def test_an_option_of_a_number_and_a_text_changes_neither() -> None:
    class Wired(WorkflowTask):
        """Has both."""

        def workflow(self) -> None:
            self.new_task("call", Call)
            self.new_task("label", Label)

    option = options_of(Wired)["--quality"]
    assert option.type.convert("007", option, None) == "007"
