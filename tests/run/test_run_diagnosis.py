"""Why a job waits: decided from descriptions, and asked of a virtual Batch and of answers written down."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from batch_pipeline.backends.account import Waiting
from batch_pipeline.backends.aws_clients import Clients, attached_maker
from batch_pipeline.backends.base import JobRequest
from batch_pipeline.backends.batch import BatchBackend
from batch_pipeline.backends.capacity import Environment, InstanceType, Queue, ResourceRequest
from batch_pipeline.backends.definitions import named
from batch_pipeline.backends.memory import MemoryBackend
from batch_pipeline.config import load_settings
from batch_pipeline.localbatch.api.model import ApiError, ApiRequest
from batch_pipeline.localbatch.testing import VirtualBatch
from batch_pipeline.records.submissions import Submission
from batch_pipeline.run.diagnosis import CODES, diagnose, reasons_of

WANTED = ResourceRequest(vcpus=2, memory_mb=4096)


def queue(**changes: Any) -> Queue:
    environment = Environment(name="spot", enabled=True, valid=True, kind="SPOT", max_vcpus=64, present_vcpus=0)
    environment = replace(environment, **changes)
    return Queue(name="mixed", enabled=True, valid=True, environments=(environment,))


def told(
    reason: str = "",
    there: Queue | None = None,
    *,
    head: str = "",
    machines: dict[str, list[InstanceType]] | None = None,
) -> str:
    waiting = Waiting(wanted=WANTED, status_reason=reason)
    problems = reasons_of(waiting, there or queue(), machines or {}, name="mixed", head=head)
    return " ".join(problem.words for problem in problems)


# Decided.


@pytest.mark.parametrize(("code", "problem"), CODES)
def test_every_code_of_aws_has_a_sentence_and_a_remedy(code: str, problem: Any) -> None:
    words = told(f"{code} - as AWS says it.")
    assert words.startswith(problem.sentence)
    assert f"({code} - as AWS says it.)" in words
    assert problem.remedy in words


def test_the_codes_stand_from_the_particular_to_the_general() -> None:
    codes = [code for code, _ in CODES]
    assert not [(early, late) for i, early in enumerate(codes) for late in codes[i + 1 :] if late.startswith(early)]


def test_spot_machines_that_cannot_be_had_suggest_a_queue_without() -> None:
    reason = "CAPACITY:INSUFFICIENT_INSTANCE_CAPACITY - Service cannot fulfill the capacity requested"
    assert "--queue can name one with on-demand machines" in told(reason)
    assert "--queue" not in told(reason, queue(kind="EC2"))


def test_words_that_nobody_knows_are_passed_on_as_one_line() -> None:
    assert told("Something\nnew.") == "AWS Batch says: Something new. Fix what it names."


def test_what_is_surely_wrong_is_told_whatever_aws_says() -> None:
    words = told("UNDETERMINED - Batch job is blocked", queue(enabled=False))
    assert words.startswith("The compute environment spot of queue mixed is disabled and starts no jobs.")
    assert "does not say why" not in words
    small = {"spot": [InstanceType(name="m5.large", vcpus=1, memory_mb=1024)]}
    assert "fits no compute environment" in told("CAPACITY:X", machines=small)


@pytest.mark.parametrize("reason", ["", "UNDETERMINED - Batch job is blocked, root cause is undetermined."])
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"present_vcpus": 63}, "has 63 of at most 64 vCPUs"),
        ({"present_vcpus": 8}, "may not reach ECS"),
        ({"present_vcpus": 0}, "the account's quota of vCPUs or of Spot machines"),
        ({"present_vcpus": 0, "kind": "EC2"}, "the account's quota of vCPUs (Service Quotas"),
        ({"present_vcpus": None, "kind": "FARGATE"}, "does not say why the job of queue mixed waits"),
        ({"max_vcpus": None, "kind": ""}, "other jobs seem to hold its vCPUs or memory"),
    ],
)
def test_where_aws_says_nothing_it_is_inferred(reason: str, changes: dict[str, Any], words: str) -> None:
    there = queue(**changes)
    capability = "FARGATE" if changes.get("kind") == "FARGATE" else "EC2"
    asked = Waiting(wanted=ResourceRequest(vcpus=2, memory_mb=4096, capability=capability), status_reason=reason)
    (problem,) = reasons_of(asked, there, {}, name="mixed")
    assert words in problem.words


def test_a_job_behind_anothers_says_so() -> None:
    assert "Another job, theirs, is first in queue mixed" in told(head="theirs")


# Asked.


@pytest.fixture
def batch() -> VirtualBatch:
    return VirtualBatch(vcpus=4, memory_mib=8192, queues=("mixed",))


@pytest.fixture
def backend(batch: VirtualBatch) -> BatchBackend:
    settings = load_settings({}, environ={}, folder=Path("/nonexistent"))
    return BatchBackend(settings, clients=Clients(attached_maker(batch.attach)))


@pytest.fixture
def send(backend: BatchBackend) -> Callable[..., Submission]:
    def send(size: int = 3, vcpus: int = 1) -> Submission:
        needs = [{"type": "VCPU", "value": str(vcpus)}, {"type": "MEMORY", "value": "64"}]
        definition = named({"type": "container", "containerProperties": {"image": "i", "resourceRequirements": needs}})
        request = JobRequest(name="job", queue="mixed", size=size, definition=definition, environment={})
        native_id = backend.submit(request)
        return Submission(
            run_id="r", job="job", step="count", native_id=native_id, queue="mixed", native_name="job", size=size
        )

    return send


def test_a_disabled_environment_is_found(
    batch: VirtualBatch, backend: BatchBackend, send: Callable[..., Submission]
) -> None:
    batch.client("batch").update_compute_environment(computeEnvironment="embedded", state="DISABLED")
    job = send()
    before = backend.calls.total()
    assert diagnose(backend, job).startswith("The compute environment embedded of queue mixed is disabled")
    assert backend.calls.total() - before <= 5


@pytest.mark.parametrize("size", [1, 3])
def test_a_job_that_the_embedded_batch_can_never_start_says_so(
    size: int, backend: BatchBackend, send: Callable[..., Submission]
) -> None:
    assert diagnose(backend, send(size, vcpus=5)).startswith("No machine of the queue is large enough for the job.")


def test_a_queue_without_capacity_says_so(
    batch: VirtualBatch, backend: BatchBackend, send: Callable[..., Submission]
) -> None:
    batch.starve("mixed")
    job = send()
    batch.starve("mixed")
    assert diagnose(backend, job).startswith("AWS has no free machine")


def test_a_queue_that_is_disabled_half_way_is_found(
    batch: VirtualBatch, backend: BatchBackend, send: Callable[..., Submission]
) -> None:
    job = send()
    batch.client("batch").update_job_queue(jobQueue="mixed", state="DISABLED")
    assert diagnose(backend, job).startswith("The job queue mixed is disabled and takes no jobs.")


def test_who_may_ask_for_jobs_only_is_told_what_they_say(
    batch: VirtualBatch, backend: BatchBackend, send: Callable[..., Submission]
) -> None:
    job = send(vcpus=5)

    class Denied:
        def before(self, request: ApiRequest) -> None:
            if request.operation not in ("DescribeJobs", "ListJobs"):
                raise ApiError("not you", code="AccessDeniedException", status=403)

        def after(self, request: ApiRequest, answer: Any) -> Any:
            return answer

    batch.faults = Denied()
    assert diagnose(backend, job).startswith("No machine of the queue is large enough")


def test_a_forgotten_job_and_a_backend_that_tells_nothing_give_no_reason(
    backend: BatchBackend, send: Callable[..., Submission]
) -> None:
    job = send()
    assert diagnose(backend, replace(job, native_id="0b0e5f0c-0000-4000-8000-000000000000")) == ""
    assert diagnose(MemoryBackend(), job) == ""
