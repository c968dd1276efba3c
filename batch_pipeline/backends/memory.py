"""The backend in memory: a twin of AWS Batch for tests, whose children end when they are told to.

It obeys the same contract suite as the real ones: index by index, failed dependencies, cancelling, forgetting.
`finish` ends one child, `drain` all that can run; `fail_next` makes the next submission go wrong, before or after it
took effect. Of the children that share a width, the oldest can run, as many as it has.

(A little longer than most modules: every promise of a backend in one place.)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from batch_pipeline.backends.base import ArrayChild, JobRequest, JobState, JobSummary
from batch_pipeline.backends.limits import check
from batch_pipeline.backends.parsing import forgotten
from batch_pipeline.backends.quotas import AWS_BATCH
from batch_pipeline.backends.reasons import end_reason
from batch_pipeline.pipeline.plan import Limits
from batch_pipeline.wire.errors import BackendFailed, SubmissionRefused
from batch_pipeline.wire.native_id import NativeId

DEPENDENCY_FAILED = "Dependent Job failed"
CHILD_FAILED = "Array Child Job failed"
CONTAINER_EXITED = "Essential container in task exited"


@dataclass(kw_only=True, slots=True)
class MemoryChild:
    """One child as it stands."""

    state: JobState = JobState.PENDING
    exit_code: int | None = None
    status_reason: str = ""
    container_reason: str = ""
    cancelled: bool = False
    log: list[str] = field(default_factory=list)


@dataclass(kw_only=True, slots=True)
class MemoryJob:
    """One job as it was submitted, and its children."""

    native_id: str
    request: JobRequest
    children: list[MemoryChild]

    @property
    def counts(self) -> Counter[JobState]:
        """Children by state."""
        return Counter(child.state for child in self.children)

    @property
    def state(self) -> JobState:
        """As AWS says it: a parent is PENDING while children move, and FAILED when all ended and one failed."""
        if self.request.size == 1:
            return self.children[0].state
        states = self.counts
        if not all(state.final for state in states):
            return JobState.PENDING
        return JobState.FAILED if states[JobState.FAILED] else JobState.SUCCEEDED

    @property
    def status_reason(self) -> str:
        """A plain job's own; of a failed array, that a child failed."""
        if self.request.size == 1:
            return self.children[0].status_reason
        return CHILD_FAILED if self.state is JobState.FAILED else ""


class MemoryBackend:
    """See `base.Backend`."""

    name = "memory"

    def __init__(self, limits: Limits | None = None) -> None:
        self._limits = limits or AWS_BATCH
        self._next: list[tuple[BackendFailed, bool]] = []
        self._numbers = count(1)
        self._draining = False
        #: Native id -> job, in the order of submission.
        self.jobs: dict[str, MemoryJob] = {}
        self._widths: dict[str, int] = {}
        #: Methods called, by name.
        self.calls: Counter[str] = Counter()

    # What a test tells it.

    def finish(
        self,
        native_id: str,
        index: int = 0,
        exit_code: int | None = 0,
        *,
        status_reason: str = CONTAINER_EXITED,
        container_reason: str = "",
        log: Sequence[str] = (),
    ) -> None:
        """Ends a child that could run. Raises LookupError for one that could not."""
        job = self.jobs[native_id]
        child = job.children[index]
        if child.state is not JobState.RUNNABLE:
            raise LookupError(f"Child {index} of {native_id} is {child.state.value}, not RUNNABLE.")
        if job.request.width and (native_id, index) not in self.ready():
            raise LookupError(f"Child {index} of {native_id} waits for others of width {job.request.width}.")
        child.state = JobState.SUCCEEDED if exit_code == 0 else JobState.FAILED
        child.exit_code = exit_code
        child.status_reason, child.container_reason = status_reason, container_reason
        child.log.extend(log)
        if not self._draining:
            self._propagate()

    def ready(self) -> list[tuple[str, int]]:
        """Native id and index of every child that could run, oldest first."""
        left = dict(self._widths)
        ready = []
        for job in self.jobs.values():
            width = job.request.width
            for index, child in enumerate(job.children):
                if child.state is JobState.RUNNABLE and (not width or left.get(width, 0) > 0):
                    ready.append((job.native_id, index))
                    left[width] = left.get(width, 0) - 1
        return ready

    def drain(self, exit_code_of: Callable[[JobRequest, int], int] = lambda request, index: 0) -> None:
        """Ends all children that can run, and those that can run then, until none is left."""
        self._draining = True
        while ready := self.ready():
            for native_id, index in ready:
                self.finish(native_id, index, exit_code_of(self.jobs[native_id].request, index))
            self._propagate()
        self._draining = False

    def fail_next(self, error: BackendFailed, *, queued: bool = False) -> None:
        """Makes the next submission raise the error; with `queued` only after the job was queued."""
        self._next.append((error, queued))

    def forget(self, native_id: str) -> None:
        """Forgets a job, as AWS does after some days."""
        del self.jobs[native_id]

    # What a backend does.

    def limits(self) -> Limits:
        """See `Backend.limits`."""
        return self._limits

    def wake(self) -> None:
        """See `Backend.wake`."""

    def prepare(self, definitions: Iterable[Mapping[str, Any]]) -> Mapping[str, str]:
        """See `Backend.prepare`."""
        self.calls["prepare"] += 1
        return {name: f"{name}:1" for name in (definition["jobDefinitionName"] for definition in definitions)}

    def submit(self, request: JobRequest) -> str:
        """See `Backend.submit`."""
        self.calls["submit"] += 1
        check(request, self._limits)
        self._check_dependencies(request)
        if request.width and request.width not in self._widths:
            raise SubmissionRefused(f"Job {request.name} names the width {request.width}, which is not there.")
        error, queued = self._next.pop(0) if self._next else (None, True)
        if error is not None and not queued:
            raise error
        native_id = f"00000000-0000-4000-8000-{next(self._numbers):012d}"
        children = [MemoryChild() for _ in range(request.size)]
        self.jobs[native_id] = MemoryJob(native_id=native_id, request=request, children=children)
        self._propagate()
        if error is not None:
            raise error
        return native_id

    def find(self, name: str, queue: str) -> str | None:
        """See `Backend.find`."""
        self.calls["find"] += 1
        same = (j for j in reversed(self.jobs.values()) if (j.request.name, j.request.queue) == (name, queue))
        return next((job.native_id for job in same), None)

    def summaries(self, native_ids: Sequence[str]) -> Mapping[str, JobSummary]:
        """See `Backend.summaries`."""
        self.calls["summaries"] += 1
        return {native_id: self._summary(native_id) for native_id in native_ids}

    def descriptions(self, native_ids: Sequence[str]) -> Mapping[str, Mapping[str, Any]]:
        """See `Backend.descriptions`."""
        self.calls["descriptions"] += 1
        return {native_id: self._description(native_id) for native_id in native_ids if self._job(native_id)}

    def children(self, native_id: str, states: Iterable[JobState]) -> Iterator[ArrayChild]:
        """See `Backend.children`."""
        self.calls["children"] += 1
        wanted_states = set(states)
        job = self.jobs.get(native_id)
        for index, child in enumerate(job.children if job else ()):
            if child.state in wanted_states:
                yield _child(index, child)

    def logs(self, native_id: str, index: int, attempt: int | None = None) -> Iterator[str]:
        """See `Backend.logs`. Every child has one attempt."""
        self.calls["logs"] += 1
        if native_id in self.jobs and attempt in (None, 1):
            yield from self.jobs[native_id].children[index].log

    def cancel(self, native_id: str, reason: str) -> None:
        """See `Backend.cancel`. Children that wait end at once; AWS ends them when what they wait for has ended."""
        self.calls["cancel"] += 1
        wanted = NativeId.parse(native_id)
        children = self.jobs[wanted.job].children if wanted.job in self.jobs else []
        self._end(children if wanted.index is None else children[wanted.index : wanted.index + 1], reason)

    def cancel_children(self, native_id: str, indices: Sequence[int], reason: str) -> None:
        """See `Backend.cancel_children`."""
        self.calls["cancel_children"] += 1
        children = self.jobs[native_id].children if native_id in self.jobs else []
        self._end([children[index] for index in indices if index < len(children)], reason)

    def set_width(self, name: str, most: int) -> None:
        """See `Backend.set_width`."""
        self.calls["set_width"] += 1
        self._widths[name] = most

    def widths(self, prefix: str) -> Mapping[str, int]:
        """See `Backend.widths`."""
        return {name: most for name, most in self._widths.items() if name.startswith(prefix)}

    def remove_width(self, name: str) -> bool:
        """See `Backend.remove_width`."""
        using = (job for job in self.jobs.values() if job.request.width == name)
        if any(not child.state.final for job in using for child in job.children):
            return False
        self._widths.pop(name, None)
        return True

    def close(self) -> None:
        """See `Backend.close`."""

    def _end(self, children: Sequence[MemoryChild], reason: str) -> None:
        for child in children:
            if not child.state.final:
                child.state, child.status_reason, child.cancelled = JobState.FAILED, reason, True
        self._propagate()

    def _check_dependencies(self, request: JobRequest) -> None:
        for after in request.after:
            upstream = self.jobs.get(after.native_id)
            if upstream is None:
                raise SubmissionRefused(f"Job {request.name} depends on {after.native_id}, which is not known.")
            if after.index_by_index and upstream.request.size != request.size:
                raise SubmissionRefused(f"Job {request.name} waits index by index for an array of another size.")

    def _propagate(self) -> None:
        """Moves on what waited; jobs stand after those that they depend on, so one pass is enough."""
        for job in self.jobs.values():
            for index, child in enumerate(job.children):
                if child.state is JobState.PENDING:
                    states = [
                        self._awaited(after.native_id, index, after.index_by_index) for after in job.request.after
                    ]
                    if JobState.FAILED in states:
                        child.state, child.status_reason = JobState.FAILED, DEPENDENCY_FAILED
                    elif all(state is JobState.SUCCEEDED for state in states):
                        child.state = JobState.RUNNABLE

    def _awaited(self, native_id: str, index: int, index_by_index: bool) -> JobState:
        """The state of what a child waits for; what was forgotten had ended, and whoever waits for it was told."""
        job = self.jobs.get(native_id)
        if job is None:
            return JobState.SUCCEEDED
        return job.children[index].state if index_by_index else job.state

    def _job(self, native_id: str) -> MemoryJob | None:
        """The job of a native id, or of a child's."""
        return self.jobs.get(NativeId.parse(native_id).job)

    def _description(self, native_id: str) -> dict[str, Any]:
        """Of a job or child, as far as it has begun."""
        wanted = NativeId.parse(native_id)
        job = self.jobs[wanted.job]
        description: dict[str, Any] = {"jobId": native_id, "jobName": job.request.name, "status": job.state.value}
        if wanted.index is None and job.request.size > 1:
            return description
        child = job.children[wanted.index or 0]
        begun = child.log or child.exit_code is not None
        stream = {"container": {"logStreamName": native_id}} if begun else {}
        return description | {"status": child.state.value} | stream

    def _summary(self, native_id: str) -> JobSummary:
        job = self.jobs.get(native_id)
        if job is None:
            return forgotten(native_id)
        return JobSummary(
            native_id=native_id,
            name=job.request.name,
            state=job.state,
            counts=dict(job.counts),
            size=job.request.size,
            is_array=job.request.size > 1,
            status_reason=job.status_reason,
        )


def _child(index: int, child: MemoryChild) -> ArrayChild:
    reason = None
    if child.state.final:
        reason = end_reason(
            succeeded=child.state is JobState.SUCCEEDED,
            status_reason=child.status_reason,
            container_reason=child.container_reason,
            exit_code=child.exit_code,
            cancelled=child.cancelled,
        )
    return ArrayChild(
        index=index,
        state=child.state,
        end_reason=reason,
        exit_code=child.exit_code,
        status_reason=" ".join(filter(None, (child.status_reason, child.container_reason))),
    )
