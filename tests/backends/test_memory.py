from __future__ import annotations

from dataclasses import replace

import pytest

from batch_pipeline.backends.base import After, JobRequest, JobState
from batch_pipeline.backends.memory import MemoryBackend
from batch_pipeline.wire.contract import EndReason
from batch_pipeline.wire.errors import SubmissionRefused, SubmissionUnknown


def test_children_end_when_they_are_told_to(job: JobRequest) -> None:
    backend = MemoryBackend()
    first = backend.submit(job)
    second = backend.submit(replace(job, name="second", after=[After(native_id=first, index_by_index=True)]))
    assert backend.ready() == [(first, 0), (first, 1), (first, 2)]
    backend.finish(first, 1)
    assert backend.ready() == [(first, 0), (first, 2), (second, 1)]
    with pytest.raises(LookupError, match="is PENDING, not RUNNABLE"):
        backend.finish(second, 0)
    assert backend.summaries([second])[second].counts == {JobState.PENDING: 2, JobState.RUNNABLE: 1}
    backend.drain(lambda request, index: 65 if request.name == "job" and index == 2 else 0)
    assert backend.ready() == []
    assert [child.end_reason for child in backend.children(second, [JobState.FAILED])] == [EndReason.DEPENDENCY]


def test_an_end_has_the_words_that_it_is_given(job: JobRequest) -> None:
    backend = MemoryBackend()
    native_id = backend.submit(job)
    backend.finish(native_id, 0, None, status_reason="Host EC2 (instance i-1) terminated.")
    backend.finish(native_id, 1, 137, container_reason="OutOfMemoryError: Container killed due to memory usage")
    reasons = [child.end_reason for child in backend.children(native_id, [JobState.FAILED])]
    assert reasons == [EndReason.INTERRUPTED, EndReason.OUT_OF_MEMORY]


def test_a_submission_can_go_wrong_before_or_after_it_took_effect(job: JobRequest) -> None:
    backend = MemoryBackend()
    backend.fail_next(SubmissionUnknown("lost"), queued=True)
    backend.fail_next(SubmissionUnknown("lost"))
    for name, queued in (("one", True), ("two", False)):
        with pytest.raises(SubmissionUnknown, match="lost"):
            backend.submit(replace(job, name=name))
        assert (backend.find(name, job.queue) is not None) is queued
    backend.submit(replace(job, name="three"))
    assert [made.request.name for made in backend.jobs.values()] == ["one", "three"]


def test_a_forgotten_job_is_unknown_and_its_id_is_not_given_again(job: JobRequest) -> None:
    backend = MemoryBackend()
    first, second = backend.submit(job), backend.submit(job)
    backend.drain()
    backend.forget(first)
    assert backend.summaries([first])[first].state is JobState.UNKNOWN
    assert backend.submit(job) not in (first, second)
    with pytest.raises(SubmissionRefused, match="is not known"):
        backend.submit(replace(job, after=[After(native_id=first, index_by_index=True)]))


def test_calls_are_counted(job: JobRequest) -> None:
    backend = MemoryBackend()
    backend.submit(job)
    backend.find("job", "mixed")
    list(backend.children("x", [JobState.FAILED]))
    assert backend.calls == {"submit": 1, "find": 1, "children": 1}
