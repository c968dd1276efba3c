from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from botocore.awsrequest import AWSResponse

from batch_pipeline.backends.aws_clients import Clients, attached_maker
from batch_pipeline.backends.base import JobRequest
from batch_pipeline.backends.batch import BatchBackend
from batch_pipeline.backends.definitions import definitions_of, named
from batch_pipeline.backends.payload import RunContext
from batch_pipeline.backends.quotas import AWS_BATCH
from batch_pipeline.config import load_settings
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
            replace(AWS_BATCH, max_array_size=max_array_size, max_dependencies=max_dependencies),
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


class _Raw:
    """The body of an HTTP answer as urllib3 hands it over."""

    def __init__(self, body: bytes) -> None:
        self._body = body

    def stream(self, *_: Any, **__: Any) -> Iterator[bytes]:
        yield self._body


class Wire:
    """botocore's own clients with the last metre cut: requests are kept, and answered by a function.

    An answer is a document, or a pair of HTTP status and document.
    """

    def __init__(self) -> None:
        self.requests: list[tuple[str, dict[str, Any]]] = []
        self.answers: dict[str, Callable[[dict[str, Any]], Any]] = {}

    def of(self, operation: str) -> list[dict[str, Any]]:
        return [parameters for name, parameters in self.requests if name == operation]

    def attach(self, client: Any) -> None:
        client.meta.events.register("before-send", self._send)

    def _send(self, request: Any, event_name: str, **_: Any) -> AWSResponse:
        operation = event_name.rpartition(".")[2]
        parameters = json.loads(request.body or b"{}")
        self.requests.append((operation, parameters))
        answer = self.answers[operation](parameters)
        status, document = answer if isinstance(answer, tuple) else (200, answer)
        headers: Any = {"Content-Type": "application/json"}
        if status >= 400:
            headers["x-amzn-ErrorType"] = document["__type"]
        return AWSResponse(request.url, status, headers, _Raw(json.dumps(document).encode()))

    @staticmethod
    def refusal(code: str, status: int = 400, message: str = "no") -> tuple[int, dict[str, Any]]:
        return status, {"__type": code, "message": message}


@pytest.fixture
def wire() -> Wire:
    """A Batch that knows every definition and takes every job."""
    made = Wire()
    names = iter(range(1_000_000))
    made.answers["DescribeJobDefinitions"] = lambda asked: {
        "jobDefinitions": [
            {"jobDefinitionName": name.split(":")[0], "revision": 1, "status": "ACTIVE"}
            for name in asked["jobDefinitions"]
        ]
    }
    made.answers["SubmitJob"] = lambda asked: {"jobName": asked["jobName"], "jobId": f"id-{next(names)}"}
    return made


@pytest.fixture
def backend(wire: Wire) -> BatchBackend:
    """The backend for AWS on that wire."""
    settings = load_settings({"backend.name": "aws"}, environ={}, folder=Path("/nonexistent"))
    return BatchBackend(settings, clients=Clients(attached_maker(wire.attach)))


@pytest.fixture
def job() -> JobRequest:
    """A job of three children with an image."""
    definition = {
        "type": "container",
        "containerProperties": {
            "image": "registry.example/letters@sha256:0",
            "resourceRequirements": [{"type": "VCPU", "value": "1"}, {"type": "MEMORY", "value": "64"}],
        },
    }
    return JobRequest(name="job", queue="mixed", size=3, definition=named(definition), environment={"A": "1"})
