"""Reads AWS Batch's descriptions of jobs, as DescribeJobs and ListJobs give them, into our values. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from batch_pipeline.backends.base import ArrayChild, JobState, JobSummary
from batch_pipeline.backends.reasons import end_reason

#: Where AWS Batch logs to, unless the job definition says otherwise.
LOG_GROUP: Final = "/aws/batch/job"

_STATES: Final = {state.value: state for state in JobState}


def forgotten(native_id: str) -> JobSummary:
    """The summary of a job that AWS left out."""
    return JobSummary(
        native_id=native_id, name="", state=JobState.UNKNOWN, counts={JobState.UNKNOWN: 1}, size=1, is_array=False
    )


def summary_of(detail: Mapping[str, Any]) -> JobSummary:
    """A job from DescribeJobs."""
    size = detail.get("arrayProperties", {}).get("size", 0)
    state = _STATES[detail["status"]]
    return JobSummary(
        native_id=str(detail["jobId"]),
        name=detail["jobName"],
        state=state,
        counts=_complete(counts_of(detail), size, state) if size else {state: 1},
        size=size or 1,
        is_array=bool(size),
        status_reason=detail.get("statusReason", ""),
    )


def counts_of(detail: Mapping[str, Any]) -> dict[JobState, int]:
    """The children that AWS has counted, by state; it lags behind."""
    summary = detail["arrayProperties"].get("statusSummary", {})
    return {_STATES[word]: number for word, number in summary.items() if number}


def _complete(counts: dict[JobState, int], size: int, state: JobState) -> dict[JobState, int]:
    """The counts with those children that AWS has not counted yet, in their parent's state.

    Of a failed parent some may have succeeded, so those are UNKNOWN, unless it failed before it had children.
    """
    uncounted = size - sum(counts.values())
    if uncounted > 0:
        into = JobState.UNKNOWN if state is JobState.FAILED and counts else state
        counts[into] = counts.get(into, 0) + uncounted
    return counts


def child_of(item: Mapping[str, Any]) -> ArrayChild:
    """A child from DescribeJobs or ListJobs."""
    state = _STATES[item["status"]]
    container = item.get("container", {})
    exit_code = container.get("exitCode")
    status_reason = item.get("statusReason", "")
    reason = None
    if state.final:
        reason = end_reason(
            succeeded=state is JobState.SUCCEEDED,
            status_reason=status_reason,
            container_reason=container.get("reason", ""),
            exit_code=exit_code,
            cancelled=bool(item.get("isCancelled") or item.get("isTerminated")),
        )
    return ArrayChild(
        index=item.get("arrayProperties", {}).get("index", 0),
        state=state,
        end_reason=reason,
        exit_code=exit_code,
        status_reason=" ".join(filter(None, (status_reason, container.get("reason", "")))),
    )


def stream_of(detail: Mapping[str, Any], attempt: int | None) -> str | None:
    """The log stream of an attempt: ended ones are in `attempts`, one that runs is in `container`."""
    streams = _streams(detail)
    if attempt is None:
        return next((stream for stream in reversed(streams) if stream), None)
    return streams[attempt - 1] if 1 <= attempt <= len(streams) else None


def attempts_of(detail: Mapping[str, Any]) -> int:
    """How many attempts of a child have begun, one that runs included."""
    return len(_streams(detail))


def _streams(detail: Mapping[str, Any]) -> list[str | None]:
    """The stream of each attempt; one that never ran has none."""
    streams = [ended.get("container", {}).get("logStreamName") for ended in detail.get("attempts", ())]
    current = detail.get("container", {}).get("logStreamName")
    return [*streams, current] if current and current not in streams else streams


def group_of(detail: Mapping[str, Any]) -> str:
    """The log group of a job."""
    options = detail.get("container", {}).get("logConfiguration", {}).get("options", {})
    return str(options.get("awslogs-group", LOG_GROUP))
