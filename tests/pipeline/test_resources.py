"""What the settings say of steps: whom it reaches, and that only an image changes fingerprints."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from batch_pipeline import Input, Output, Step, WorkflowTask
from batch_pipeline.backends.definitions import definitions_of, resources
from batch_pipeline.pipeline.fingerprint import step_parts
from batch_pipeline.pipeline.resources import with_step_settings
from batch_pipeline.pipeline.workflow import Graph
from batch_pipeline.wire.errors import InvalidConfig


class Call(Step):
    """Calls variants."""

    cpus = 2
    memory_mb = 2000
    timeout_seconds = 600
    image = "call:1"
    reads = Input()
    vcf = Output("calls.vcf")

    def run(self, job: Any) -> None:
        """Not run here."""


class Calls(WorkflowTask):
    """One step."""

    def workflow(self) -> None:
        self.new_task("call", Call).in_reads = self.source("{sample}.bam")


def graph_with(**of_call: Any) -> Graph:
    return with_step_settings(Graph.of(Calls), {"call": of_call} if of_call else {}, place_of=str)


def definition_of(graph: Graph) -> dict[str, Any]:
    return dict(definitions_of(graph, pipeline="calls", attempts=1)["call"])


@pytest.mark.parametrize(
    ("settings", "wanted", "image", "timeout"),
    [
        ({}, (2, 2000), "call:1", {"attemptDurationSeconds": 600}),
        ({"memory_mb": 1_500_000}, (2, 1_500_000), "call:1", {"attemptDurationSeconds": 600}),
        ({"cpus": 4.0}, (4, 2000), "call:1", {"attemptDurationSeconds": 600}),
        ({"image": "call:2"}, (2, 2000), "call:2", {"attemptDurationSeconds": 600}),
        ({"timeout_seconds": 60}, (2, 2000), "call:1", {"attemptDurationSeconds": 60}),
        ({"timeout_seconds": 0}, (2, 2000), "call:1", None),
    ],
)
@pytest.mark.parametrize("from_file", [False, True])
def test_settings_go_before_the_class_and_its_job_definition(
    settings: dict[str, Any], wanted: tuple[int, int], image: str, timeout: Any, from_file: bool, tmp_path: Path
) -> None:
    graph = graph_with(**settings)
    if from_file:
        (tmp_path / "job_definitions").mkdir()
        container = {"image": "call:1", "vcpus": 2, "memory": 2000}
        written = {"type": "container", "containerProperties": container, "timeout": {"attemptDurationSeconds": 600}}
        (tmp_path / "job_definitions" / "call.json").write_text(json.dumps(written))
        graph = replace(graph, root=tmp_path)
    definition = definition_of(graph)
    assert resources(definition) == wanted
    assert (definition["containerProperties"]["image"], definition.get("timeout")) == (image, timeout)


def test_what_the_class_says_already_changes_no_definition() -> None:
    same = graph_with(cpus=2.0, memory_mb=2000, timeout_seconds=600, image="call:1")
    assert definition_of(same) == definition_of(graph_with())


@pytest.mark.parametrize(
    ("settings", "changes"),
    [
        ({"memory_mb": 9000}, False),
        ({"cpus": 8}, False),
        ({"timeout_seconds": 0}, False),
        ({"max_parallel": 2}, False),
        ({"image": "call:2"}, True),
    ],
)
def test_only_the_image_is_part_of_the_fingerprint(settings: dict[str, Any], changes: bool) -> None:
    before, after = (step_parts(graph["call"], graph.root, "", {}) for graph in (graph_with(), graph_with(**settings)))
    assert (before.digest() != after.digest()) is changes


@pytest.mark.parametrize(
    ("of_class", "settings", "width"), [(None, {}, None), (3, {}, 3), (3, {"max_parallel": 0}, None)]
)
def test_the_settings_go_before_the_class_for_a_width_too(
    of_class: int | None, settings: dict[str, Any], width: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Call, "max_parallel", of_class)
    assert graph_with(**settings)["call"].max_parallel == width


def test_a_step_that_is_not_there_is_told_with_its_place_and_those_that_are() -> None:
    settings = {"cal": {"cpus": 1}, "reference": {"cpus": 1}}
    with pytest.raises(InvalidConfig) as refused:
        with_step_settings(Graph.of(Calls), settings, place_of=lambda key: f"<{key}>", also_known=("reference",))
    assert refused.value.message == (
        "<steps.cal.cpus>: there is no step 'cal' in this pipeline; it has: call, reference."
    )
