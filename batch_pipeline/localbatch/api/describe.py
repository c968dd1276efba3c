"""Jobs in the shapes of DescribeJobs and ListJobs."""

from __future__ import annotations

from typing import Any

from batch_pipeline.localbatch.api.registry import ACCOUNT, ARN, COMPUTE_ENVIRONMENT, REGION
from batch_pipeline.localbatch.engine.job import (
    FAILED,
    NONE,
    RUNNABLE,
    RUNNING,
    STATES,
    TERMINAL,
    BatchJob,
    Cancellation,
    Document,
    JobAttempt,
)
from batch_pipeline.localbatch.engine.retry import CONTAINER_EXITED

_CLUSTER = f"arn:aws:ecs:{REGION}:{ACCOUNT}"
_HOST_ARN = f"{_CLUSTER}:container-instance/{COMPUTE_ENVIRONMENT}/embedded"


def task_id(job: BatchJob, index: int, attempt: int) -> str:
    """32 hexadecimal digits like ECS's, which say by themselves where the log lies: job, attempt, index."""
    return f"{job.spec.id.replace('-', '')[:20]}{attempt:04x}{index:08x}"


def log_stream(job: BatchJob, index: int, attempt: int) -> str:
    """The name of an attempt's log stream."""
    return f"{job.spec.log_prefix}/{task_id(job, index, attempt)}"


def job_arn(native_id: str) -> str:
    """A job's ARN."""
    return f"{ARN}:job/{native_id}"


def detail(job: BatchJob, index: int | None) -> Document:
    """A job, or a child of an array, as DescribeJobs shows it."""
    if job.spec.size and index is None:
        return _parent_detail(job)
    return _child_detail(job, index or 0)


def _parent_detail(job: BatchJob) -> Document:
    shown = {**_summary_of_parent(job), **job.spec.shown, "attempts": []}
    shown["container"] = {**job.spec.shown["container"]}
    return shown


def _child_detail(job: BatchJob, index: int) -> Document:
    attempts = job.attempts(index)
    shown = {
        **_summary_of_child(job, index),
        **job.spec.shown,
        "attempts": [_attempt(job, index, number, each) for number, each in enumerate(attempts, 1)],
    }
    container = {**job.spec.shown["container"], **shown_exit(job, index)}
    if job.tries[index] and job.started[index] != NONE:
        container |= _placement(job, index, job.tries[index])
    shown["container"] = container
    if job.spec.size:
        shown["tags"] = {}
    return shown


def _attempt(job: BatchJob, index: int, number: int, ended: JobAttempt) -> Document:
    container = _placement(job, index, number)
    if ended.exit_code is not None:
        container["exitCode"] = ended.exit_code
    if ended.reason is not None:
        container["reason"] = ended.reason[:255]
    return {
        "startedAt": ended.started_ms,
        "stoppedAt": ended.stopped_ms,
        "statusReason": ended.status_reason or CONTAINER_EXITED,
        "container": container,
    }


def _placement(job: BatchJob, index: int, attempt: int) -> Document:
    return {
        "containerInstanceArn": _HOST_ARN,
        "taskArn": f"{_CLUSTER}:task/{COMPUTE_ENVIRONMENT}/{task_id(job, index, attempt)}",
        "logStreamName": log_stream(job, index, attempt),
        "networkInterfaces": [],
    }


def shown_exit(job: BatchJob, index: int) -> Document:
    """Exit code and container reason of the last attempt, as far as there are any."""
    shown: Document = {}
    if job.exits[index] != NONE:
        shown["exitCode"] = job.exits[index]
    reason = job.reasons[job.reason_ids[index]][1]
    if reason is not None:
        shown["reason"] = reason[:255]
    return shown


def summary(job: BatchJob, index: int | None) -> Document:
    """A job, or a child, as ListJobs shows it."""
    if job.spec.size and index is None:
        return {**_summary_of_parent(job), "jobDefinition": job.spec.shown["jobDefinition"]}
    shown = _summary_of_child(job, index or 0)
    return {**shown, "jobDefinition": job.spec.shown["jobDefinition"], "container": shown_exit(job, index or 0)}


def _common(job: BatchJob, native_id: str, state: int) -> Document:
    return {
        "jobArn": job_arn(native_id),
        "jobId": native_id,
        "jobName": job.spec.name,
        "createdAt": job.spec.created_ms,
        "status": STATES[state],
    }


def _summary_of_parent(job: BatchJob) -> Document:
    shown = _common(job, job.spec.id, job.state)
    shown["arrayProperties"] = {
        "size": job.spec.size,
        "statusSummary": dict(zip(STATES, job.counts, strict=True)),
        "statusSummaryLastUpdatedAt": job.counts_changed_ms,
    }
    shown |= _cancelled(job.cancellation, job.ended and job.state != FAILED)
    if job.status_reason:
        shown["statusReason"] = job.status_reason
    if job.stopped_ms != NONE:
        shown["stoppedAt"] = job.stopped_ms
    return shown


def _summary_of_child(job: BatchJob, index: int) -> Document:
    state = job.states[index]
    shown = _common(job, job.spec.child_id(index), state)
    if job.spec.size:
        shown["arrayProperties"] = {"index": index}
    reason = _status_reason(job, index, state)
    if reason:
        shown["statusReason"] = reason
    if job.started[index] != NONE and state in (RUNNING, *TERMINAL):
        shown["startedAt"] = job.started[index]
    if state in TERMINAL:
        earlier = job.earlier.get(index)
        stopped = job.stopped[index] if job.stopped[index] != NONE or not earlier else earlier[-1].stopped_ms
        shown["stoppedAt"] = stopped
    cancellation = job.cancellation_of(index)
    mine = state not in TERMINAL or (cancellation is not None and reason == cancellation.reason)
    return shown | _cancelled(cancellation, not mine)


def _status_reason(job: BatchJob, index: int, state: int) -> str | None:
    if state in TERMINAL or (state == RUNNABLE and job.tries[index]):
        return job.reasons[job.reason_ids[index]][0]
    return job.status_reason if state == RUNNABLE else None


def _cancelled(cancellation: Cancellation | None, too_late: bool) -> dict[str, Any]:
    if cancellation is None or too_late:
        return {"isCancelled": False, "isTerminated": False}
    return {"isCancelled": not cancellation.terminate, "isTerminated": cancellation.terminate}
