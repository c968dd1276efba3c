"""A virtual Batch with a client, and real servers that are gone when the test is."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from botocore.exceptions import ClientError

from batch_pipeline.localbatch.client import ensure, find, stop
from batch_pipeline.localbatch.endpoint import Endpoint
from batch_pipeline.localbatch.testing import VirtualBatch

if TYPE_CHECKING:
    from mypy_boto3_batch import BatchClient

Document = dict[str, Any]
Submit = Callable[..., str]


def define(client: BatchClient, name: str = "tool", *, vcpus: str = "1", memory: str = "100", **more: Any) -> str:
    container: Any = {
        "image": "none",
        "command": more.pop("command", ["true"]),
        "environment": more.pop("environment", []),
        "resourceRequirements": [{"type": "VCPU", "value": vcpus}, {"type": "MEMORY", "value": memory}],
    }
    answer = client.register_job_definition(
        jobDefinitionName=name, type="container", containerProperties=container, **more
    )
    return f"{name}:{answer['revision']}"


def submit(client: BatchClient, name: str = "job", size: int | None = None, after: Any = (), **more: Any) -> str:
    request: Document = {"jobName": name, "jobQueue": "default", "jobDefinition": "tool", **more}
    if size is not None:
        request["arrayProperties"] = {"size": size}
    if after:
        request["dependsOn"] = after
    return client.submit_job(**request)["jobId"]


def describe(client: BatchClient, *ids: str) -> list[Document]:
    found = {job["jobId"]: job for job in client.describe_jobs(jobs=list(ids))["jobs"]}
    return [dict(found[each]) for each in ids]


def statuses(client: BatchClient, job_id: str, size: int) -> list[str]:
    return [job["status"] for job in describe(client, *(f"{job_id}:{index}" for index in range(size)))]


def refusal(call: Callable[[], object]) -> str:
    """The message of the ClientException that a call must raise."""
    with pytest.raises(ClientError) as caught:
        call()
    assert caught.value.response["Error"]["Code"] == "ClientException"
    return str(caught.value.response["Error"]["Message"])


def eventually(condition: Callable[[], object], seconds: float = 60.0) -> None:
    """Waits for something that real processes do."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


@pytest.fixture
def batch() -> VirtualBatch:
    return VirtualBatch(vcpus=2)


@pytest.fixture
def client(batch: VirtualBatch) -> BatchClient:
    made = batch.client("batch")
    define(made)
    return made


def connect(endpoint: Endpoint, service: str = "batch", **changed: Any) -> Any:
    import boto3

    keys = {"aws_access_key_id": endpoint.access_key, "aws_secret_access_key": endpoint.secret_key, **changed}
    session = boto3.session.Session(region_name=endpoint.region, **keys)
    return session.client(service, endpoint_url=endpoint.url)  # type: ignore[call-overload]


@pytest.fixture
def state(tmp_path: Path) -> Iterator[Path]:
    """A state folder whose server, if a test starts one, is stopped afterwards."""
    folder = tmp_path / "state"
    yield folder
    if find(folder):
        stop(folder)


@pytest.fixture
def endpoint(state: Path) -> Endpoint:
    """A real server that stops soon after SIGTERM and takes short timeouts."""
    return start(state)


def is_running(pid: int) -> bool:
    """Whether a process is there and has not ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def start(state: Path, **options: Any) -> Endpoint:
    """A server as tests want it."""
    usual = {"vcpus": 2, "memory_mib": 2000, "grace_seconds": 1, "minimum_timeout": 1, "idle_seconds": 60}
    return ensure(state, **{**usual, **options})


@pytest.fixture
def real(endpoint: Endpoint) -> BatchClient:
    """A client of the real server, with a queue and a definition."""
    made: BatchClient = connect(endpoint)
    make_queue(made)
    define(made)
    return made


def make_queue(client: BatchClient) -> None:
    client.create_job_queue(
        jobQueueName="default",
        priority=1,
        computeEnvironmentOrder=[{"order": 1, "computeEnvironment": "embedded"}],
    )
