from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from batch_pipeline.backends.definitions import definitions_of
from batch_pipeline.backends.payload import RunContext
from batch_pipeline.pipeline.fingerprint import StepParts
from batch_pipeline.pipeline.plan import Inventory, Plan, Selection
from batch_pipeline.pipeline.planner import make_plan
from batch_pipeline.pipeline.step import Input, Output, Scope, Step
from batch_pipeline.pipeline.workflow import Graph, WorkflowTask
from batch_pipeline.wire.manifest import SourceFile

RUN_ID = "01J00000000000000000000000"


class Upper(Step):
    """Makes letters large."""

    text = Input()
    upper = Output("{sample}.txt")


class Count(Step):
    """Counts lines."""

    cpus = 2
    memory_mb = 64
    timeout_seconds = 600

    text = Input()
    count = Output("count.txt")


class Total(Step):
    """Adds the counts up."""

    scope = Scope.COHORT

    counts = Input()
    total = Output("total.txt")


class Letters(WorkflowTask):
    """Two steps a sample, and a gather."""

    def workflow(self) -> None:
        upper, count = self.new_task("upper", Upper), self.new_task("count", Count)
        total = self.new_task("total", Total)
        upper.in_text = self.source("{sample}.txt")
        count.in_text = upper.out_upper
        total.in_counts = count.out_count


@pytest.fixture
def graph() -> Graph:
    return Graph.of(Letters)


@pytest.fixture
def plan_of(graph: Graph) -> Callable[..., Plan]:
    def make(samples: Sequence[str], max_dependencies: int = 20, max_array_size: int = 10_000) -> Plan:
        file = SourceFile(url="SR/x", etag="e", size_bytes=1)
        return make_plan(
            graph,
            samples,
            {node.name: StepParts(code=node.name, params={}, image="", references={}) for node in graph},
            Inventory(sources={sample: {"upper.text": (file,)} for sample in samples}),
            Selection(),
            max_dependencies=max_dependencies,
            max_array_size=max_array_size,
        )

    return make


@pytest.fixture
def context(graph: Graph) -> RunContext:
    return RunContext(
        run_id=RUN_ID,
        pipeline_name="letters",
        queue="mixed",
        store_url="file:///store/b",
        bundle_url="file:///store/b/code/abc.zip",
        bundle_sha256="abc",
        definitions=definitions_of(graph, pipeline="letters", attempts=3),
        bucket_name="b",
    )
