"""The contract of a backend: protocols for submitting, observing and cancelling jobs, and what each call promises.

A backend never decides anything: the plan says what is sent, receipts say what is done. What it says of a job is a
hint, and a job that it has forgotten is `unknown`, never an error.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Protocol

from batch_pipeline.pipeline.plan import Limits
from batch_pipeline.wire.contract import EndReason


class JobState(Enum):
    """What a backend says of a job or child, in the order in which it moves."""

    SUBMITTED = "SUBMITTED"  #: Accepted.
    PENDING = "PENDING"  #: Waits for dependencies; an array parent: its children are on their way.
    RUNNABLE = "RUNNABLE"  #: Waits for resources.
    STARTING = "STARTING"  #: Its host or image is being made ready.
    RUNNING = "RUNNING"  #: It runs.
    SUCCEEDED = "SUCCEEDED"  #: It ended with exit code 0.
    FAILED = "FAILED"  #: It ended otherwise, or was never run.
    UNKNOWN = "UNKNOWN"  #: The backend does not know it (any more).

    @property
    def final(self) -> bool:
        """Whether it will not change again."""
        return self in (JobState.SUCCEEDED, JobState.FAILED, JobState.UNKNOWN)


@dataclass(frozen=True, kw_only=True)
class JobSummary:
    """One job: an array with the counts of its children, or a plain job as an array of one."""

    native_id: str
    name: str
    state: JobState
    #: Children in each state; of a plain job, one.
    counts: Mapping[JobState, int]
    size: int
    is_array: bool
    status_reason: str = ""

    @property
    def unended(self) -> int:
        """Children that may still change."""
        return sum(number for state, number in self.counts.items() if not state.final)


@dataclass(frozen=True, kw_only=True)
class ArrayChild:
    """One child of an array, or a plain job as its own only child (index 0)."""

    index: int
    state: JobState
    #: Why it ended; None while it has not.
    end_reason: EndReason | None = None
    exit_code: int | None = None
    #: The backend's own words.
    status_reason: str = ""


@dataclass(frozen=True, kw_only=True)
class After:
    """One dependency of a job that is already queued."""

    native_id: str
    #: Child i waits for child i (`N_TO_N`); else for the whole job.
    index_by_index: bool


@dataclass(frozen=True, kw_only=True)
class JobRequest:
    """One job to be queued, in terms that every backend understands."""

    #: Unique to the run: the job can be found by it.
    name: str
    queue: str
    #: Number of children; 1 means a plain job.
    size: int
    #: What `definitions.definitions_of` makes: AWS's RegisterJobDefinition, its name ending in its own digest.
    definition: Mapping[str, Any]
    environment: Mapping[str, str]
    command: Sequence[str] = ()
    after: Sequence[After] = ()
    tags: Mapping[str, str] = field(default_factory=dict)
    #: The width (`WidthLimiter`) that the job's children share; empty: as many run as there is room for.
    width: str = ""
    #: Memory instead of the definition's; None: as defined.
    memory_mb: int | None = None
    #: Seconds that an attempt may run, instead of the definition's; None: as defined.
    timeout_seconds: int | None = None
    #: For a queue with a fair share policy; empty: none.
    share_identifier: str = ""
    #: Priority within the share; None: as the definition says.
    priority: int | None = None


class JobLookup(Protocol):
    """Finds a job by its name: the base of the others, because a doubt about any call is settled by looking."""

    #: As in the settings: `aws`, `embedded`.
    name: str

    def find(self, name: str, queue: str) -> str | None:
        """Native id of the newest job of exactly that name, or None."""


class JobSubmitter(JobLookup, Protocol):
    """Queues jobs."""

    def limits(self) -> Limits:
        """What one submission may not exceed."""

    def wake(self) -> None:
        """Says that jobs will come, and returns at once: a place that must start first may begin to. Never raises."""

    def prepare(self, definitions: Iterable[Mapping[str, Any]]) -> Mapping[str, str]:
        """Makes known what jobs will be submitted by, with one look-up for all; `submit` does it too, one by one.

        Returns under which name and revision (`name:1`) each definition's name is known. Raises what `submit` raises,
        SubmissionUnknown aside.
        """

    def submit(self, request: JobRequest) -> str:
        """Queues a job and returns its native id.

        Returning means: it is queued, once. SubmissionRefused means: nothing was queued and the same request will be
        refused again. SubmissionUnknown means: it may be queued; `find` it by name before sending it again. Any other
        BackendFailed means: nothing was queued, the backend could not be asked.
        """


class JobObserver(JobLookup, Protocol):
    """Reads states, descriptions and log lines of jobs.

    Any call raises BackendFailed where the backend could not be asked, and that says nothing of the jobs.
    """

    def summaries(self, native_ids: Sequence[str]) -> Mapping[str, JobSummary]:
        """The jobs' states and counts, in bulk (100 a request); a forgotten id is there as UNKNOWN."""

    def descriptions(self, native_ids: Sequence[str]) -> Mapping[str, Mapping[str, Any]]:
        """What the backend itself says of jobs, in its own words, in bulk; a forgotten id is not there."""

    def children(self, native_id: str, states: Iterable[JobState]) -> Iterator[ArrayChild]:
        """The children of an array in the given states (pages of 1,000); of a plain job, itself."""

    def logs(self, native_id: str, index: int, attempt: int | None = None) -> Iterator[str]:
        """The lines that an attempt (default: the last) has written so far; empty when there are none."""


class JobCanceller(JobLookup, Protocol):
    """Ends jobs.

    Returning means: the backend has the order, and carries it out in its own time. BackendFailed means: it may have
    it in part; the same call again is harmless.
    """

    def cancel(self, native_id: str, reason: str) -> None:
        """Ends a job and all its children, whatever their state. Idempotent; a forgotten id is no error."""

    def cancel_children(self, native_id: str, indices: Sequence[int], reason: str) -> None:
        """Ends some children of an array and leaves their siblings alone; of a plain job, index 0 is itself.

        As idempotent as `cancel`. Children that wait for others end when those have.
        """


class WidthLimiter(JobLookup, Protocol):
    """Limits how many children run side by side, over all jobs that name one width (`JobRequest.width`).

    Any call raises BackendFailed where the backend could not be asked or may not do it; the same call again is
    harmless. Who cannot limit (`Limits.holds_widths`) has no widths.
    """

    def set_width(self, name: str, most: int) -> None:
        """Makes a width of so many children at most, or changes one; fewer lets those go on that run."""

    def widths(self, prefix: str) -> Mapping[str, int]:
        """Name -> children side by side, of the widths whose names begin so."""

    def remove_width(self, name: str) -> bool:
        """Removes a width unless a job that names it has not ended. Returns whether it is gone."""


class Backend(JobSubmitter, JobObserver, JobCanceller, WidthLimiter, Protocol):
    """A place where jobs run: all of the above. Who needs less names less in its annotation."""

    def close(self) -> None:
        """Lets go of connections; jobs go on."""
