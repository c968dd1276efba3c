"""The backend on a virtual Batch: what needs a Batch that behaves, rather than answers written down."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from batch_pipeline.backends.aws_clients import Clients, attached_maker
from batch_pipeline.backends.base import After, JobRequest, JobState
from batch_pipeline.backends.batch import BatchBackend
from batch_pipeline.backends.payload import RunContext, request_of
from batch_pipeline.backends.rate_limit import TokenBucket
from batch_pipeline.config import load_settings
from batch_pipeline.localbatch.api.middleware import AnswerLost
from batch_pipeline.localbatch.api.model import ApiRequest
from batch_pipeline.localbatch.engine.job import Document
from batch_pipeline.localbatch.testing import VirtualBatch
from batch_pipeline.pipeline.plan import Plan
from batch_pipeline.wire.contract import EndReason
from batch_pipeline.wire.errors import SubmissionRefused, SubmissionUnknown


@pytest.fixture
def batch() -> VirtualBatch:
    return VirtualBatch(queues=(), vcpus=4000)


@pytest.fixture
def connect(batch: VirtualBatch) -> Callable[[], BatchBackend]:
    """A new process of the same user, as often as called."""

    def make() -> BatchBackend:
        settings = load_settings({}, environ={}, folder=Path("/nonexistent"))
        unhurried = TokenBucket(50, sleep=lambda seconds: None)
        return BatchBackend(settings, clients=Clients(attached_maker(batch.attach)), pace=unhurried)

    return make


class LosesAnswers:
    """SubmitJob takes effect, and its answer never comes."""

    def before(self, request: ApiRequest) -> None:
        pass

    def after(self, request: ApiRequest, answer: Document) -> Document:
        if request.operation == "SubmitJob":
            raise AnswerLost
        return answer


def _send(backend: BatchBackend, plan: Plan, context: RunContext) -> dict[str, str]:
    sent: dict[str, str] = {}
    backend.prepare(context.definitions.values())
    for job in plan.jobs:
        after = [After(native_id=sent[edge.job], index_by_index=edge.index_by_index) for edge in job.after]
        sent[job.name] = backend.submit(request_of(plan, job, context, after))
    return sent


def test_a_run_is_a_handful_of_calls(
    connect: Callable[[], BatchBackend], batch: VirtualBatch, plan_of: Callable[..., Plan], context: RunContext
) -> None:
    plan = plan_of([f"s{i}" for i in range(9)])
    first = connect()
    sent = _send(first, plan, context)
    assert first.calls == {
        "DescribeJobQueues": 1,
        "CreateJobQueue": 1,
        "DescribeJobDefinitions": 1,
        "RegisterJobDefinition": 3,
        "SubmitJob": 3,
    }
    batch.run_until_idle()
    second = connect()
    jobs = second.summaries(list(sent.values()))
    assert all(job.state is JobState.SUCCEEDED for job in jobs.values())
    _send(second, plan, context)
    assert second.calls == {
        "DescribeJobs": 1,
        "DescribeJobQueues": 1,
        "DescribeJobDefinitions": 1,
        "SubmitJob": 3,
    }


def test_a_lost_answer_is_found_by_name(
    connect: Callable[[], BatchBackend], batch: VirtualBatch, job: JobRequest
) -> None:
    backend = connect()
    batch.faults = LosesAnswers()
    with pytest.raises(SubmissionUnknown):
        backend.submit(job)
    assert backend.calls["SubmitJob"] == 1
    native_id = backend.find(job.name, job.queue)
    assert native_id is not None
    assert backend.summaries([native_id])[native_id].size == job.size


@pytest.mark.parametrize(
    ("exit_code", "status_reason", "attempts"),
    [
        (75, None, 3),
        (69, None, 3),
        (None, "Host EC2 (instance i-1) terminated.", 3),
        (137, "Your Spot Task was interrupted.", 3),
        (1, None, 1),
        (65, None, 1),
        (137, None, 1),
        (143, None, 1),
    ],
)
def test_what_is_nobodys_fault_is_tried_again(
    exit_code: int | None,
    status_reason: str | None,
    attempts: int,
    connect: Callable[[], BatchBackend],
    batch: VirtualBatch,
    plan_of: Callable[..., Plan],
    context: RunContext,
) -> None:
    plan, backend = plan_of(["a", "b"]), connect()
    for attempt in (1, 2, 3):
        batch.outcome(
            index=1, attempt=attempt, exit_code=exit_code, status_reason=status_reason, log=f"attempt {attempt}\n"
        )
    native_id = backend.submit(request_of(plan, plan.jobs[0], context))
    batch.run_until_idle()
    (failed,) = backend.children(native_id, [JobState.FAILED])
    assert failed.index == 1
    assert list(backend.logs(native_id, 1)) == [f"attempt {attempts}"]
    assert list(backend.logs(native_id, 1, 1)) == ["attempt 1"]
    assert list(backend.logs(native_id, 1, attempts + 1)) == []


def test_thousands_of_children_are_listed_a_thousand_a_call(
    connect: Callable[[], BatchBackend], batch: VirtualBatch, plan_of: Callable[..., Plan], context: RunContext
) -> None:
    backend, plan = connect(), plan_of([f"s{i}" for i in range(2_500)])
    batch.outcome(index=2_499, exit_code=65)
    native_id = backend.submit(request_of(plan, plan.jobs[0], context))
    batch.run_until_idle()
    succeeded = backend.children(native_id, [JobState.SUCCEEDED])
    assert sorted(child.index for child in succeeded) == list(range(2_499))
    assert backend.calls["ListJobs"] == 3
    (failed,) = backend.children(native_id, [JobState.FAILED])
    assert (failed.index, failed.end_reason) == (2_499, EndReason.INVALID_OUTPUT)
    assert backend.calls["ListJobs"] == 4


def test_hundreds_of_jobs_are_described_a_hundred_a_call(
    connect: Callable[[], BatchBackend], batch: VirtualBatch, plan_of: Callable[..., Plan], context: RunContext
) -> None:
    backend, plan = connect(), plan_of([f"s{i}" for i in range(101)], max_array_size=1)
    uppers = [job for job in plan.jobs if job.step == "upper"]
    ids = [backend.submit(request_of(plan, job, context)) for job in uppers]
    jobs = backend.summaries(ids)
    assert list(jobs) == ids
    assert backend.calls["DescribeJobs"] == 2
    assert {job.size for job in jobs.values()} == {1}


@pytest.mark.parametrize("size", [(1, 2), (2, 1), (2, 3)])
def test_unequal_arrays_never_meet(
    size: Sequence[int], connect: Callable[[], BatchBackend], job: JobRequest, batch: VirtualBatch
) -> None:
    backend = connect()
    first = backend.submit(replace(job, size=size[0]))
    after = [After(native_id=first, index_by_index=True)]
    with pytest.raises(SubmissionRefused):
        backend.submit(replace(job, name="second", size=size[1], after=after))
    assert backend.find("second", job.queue) is None
