"""What a submitted job is, and what became of its children so far.

A `JobSpec` never changes after SubmitJob; a `BatchJob` holds the engine's notes on it in columns, some 25 bytes a
child, so that arrays of 10,000 cost kilobytes. Only what is rare (a second attempt, a cancelled child) lives in
dictionaries.

(Longer than most modules: the columns and all that reads or writes them stand together.)
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from batch_pipeline.localbatch.engine.units import Needs
from batch_pipeline.wire.durable import Seal
from batch_pipeline.wire.native_id import NativeId
from batch_pipeline.wire.toolchain import Toolchain

#: A JSON object as it comes over the wire.
Document = dict[str, Any]

#: Batch's states in the order of a job's life; the columns hold their positions.
STATES = ("SUBMITTED", "PENDING", "RUNNABLE", "STARTING", "RUNNING", "SUCCEEDED", "FAILED")
SUBMITTED, PENDING, RUNNABLE, STARTING, RUNNING, SUCCEEDED, FAILED = range(7)
TERMINAL = (SUCCEEDED, FAILED)

#: Stands for "no exit code" and "never" in the columns.
NONE = -1


@dataclass(frozen=True, kw_only=True, slots=True)
class Dependency:
    """One entry of `dependsOn` that names a job."""

    #: The job waited for.
    job_id: str
    #: Its child, when a child's id was given.
    index: int | None = None
    #: `N_TO_N`: each child waits for the child of the same index.
    each: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Rule:
    """One entry of `evaluateOnExit`: retry or give up when all given patterns fit."""

    retry: bool
    on_status_reason: str | None = None
    on_reason: str | None = None
    on_exit_code: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class JobSpec:
    """A job as submitted, resolved against its definition; immutable and stored as JSON."""

    id: str
    name: str
    #: Name of the queue.
    queue: str
    #: Number of children of an array; 0 for a plain job.
    size: int
    #: Thousandths of a vCPU that a child occupies.
    vcpus: int
    #: MiB that a child may use; more of it ends the child.
    memory_mib: int
    #: Unix milliseconds.
    created_ms: int
    #: How often a child may be started in all.
    attempts: int
    #: Seconds an attempt may run.
    timeout_seconds: int | None
    #: A job that needs what no host here has, such as a GPU.
    impossible: bool
    #: Child i+1 starts when child i has succeeded.
    sequential: bool
    dependencies: tuple[Dependency, ...]
    rules: tuple[Rule, ...]
    #: What the child executes: the command after substitution.
    command: tuple[str, ...]
    #: Definition's and override's variables, merged.
    environment: dict[str, str]
    #: First part of the log streams' names.
    log_prefix: str
    #: The rest of what DescribeJobs shows, in its shape.
    shown: Document
    #: Why the job fails instead of being scheduled, when AWS accepts it and fails it later.
    fails_on_submit: str | None = None
    #: Consumable resources with the units that each child holds while it runs.
    consumes: Needs = ()
    #: With what its attempts run; None: with the server's own.
    toolchain: Toolchain | None = None

    @property
    def count(self) -> int:
        """How many children run: those of the array, or the job itself."""
        return self.size or 1

    def child_id(self, index: int) -> str:
        """The id that AWS would give: `parent:index`, or the job's own."""
        return str(NativeId.of_child(self.id, index, is_array=bool(self.size)))


@dataclass(frozen=True, kw_only=True, slots=True)
class AttemptOutcome:
    """How one attempt ended, as the executor saw it."""

    exit_code: int | None
    #: AWS's sentence; None stands for `Essential container in task exited`.
    status_reason: str | None = None
    #: The container's reason, such as `OutOfMemoryError: …`.
    reason: str | None = None
    started_ms: int | None = None
    stopped_ms: int | None = None
    #: What has to be done before it counts as ended.
    seals: tuple[Seal, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class JobAttempt:
    """One ended attempt, for DescribeJobs."""

    started_ms: int
    stopped_ms: int
    exit_code: int | None
    status_reason: str | None
    reason: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Cancellation:
    """The reason of a CancelJob or TerminateJob."""

    reason: str
    terminate: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredChild:
    """One child as stored and restored: its columns as values."""

    index: int
    state: int
    tries: int
    started_ms: int
    stopped_ms: int
    exit_code: int
    status_reason: str | None
    reason: str | None
    earlier: tuple[JobAttempt, ...] = ()
    cancellation: Cancellation | None = None


@dataclass(kw_only=True, slots=True)
class BatchJob:
    """The engine's notes on a job; changed by the engine alone, and therefore not frozen."""

    spec: JobSpec
    #: Position in the order of submission.
    number: int
    states: bytearray = field(init=False)
    #: Attempts begun.
    tries: bytearray = field(init=False)
    #: Per child: dependencies (N_TO_N, SEQUENTIAL) that have not succeeded yet.
    blocked: bytearray = field(init=False)
    #: Whole jobs and children of others waited for.
    waiting: int = 0
    #: Times of the last attempt.
    started: array[int] = field(init=False)
    stopped: array[int] = field(init=False)
    exits: array[int] = field(init=False)
    #: Per child: which of `reasons`.
    reason_ids: array[int] = field(init=False)
    #: Pairs (status reason, container reason).
    reasons: list[tuple[str | None, str | None]] = field(default_factory=lambda: [(None, None)])
    #: How many children are in each state.
    counts: list[int] = field(init=False)
    counts_changed_ms: int = 0
    #: Why the job as a whole ended.
    status_reason: str | None = None
    stopped_ms: int = NONE
    #: Attempts before the last one, of the few children that have any.
    earlier: dict[int, list[JobAttempt]] = field(default_factory=dict)
    #: Of the whole job.
    cancellation: Cancellation | None = None
    #: Of single children.
    cancellations: dict[int, Cancellation] = field(default_factory=dict)
    #: Who waits for the whole of this job, for child i of it at their child i, for one child of it.
    dependents: list[BatchJob] = field(default_factory=list)
    dependents_each: list[BatchJob] = field(default_factory=list)
    dependents_of_child: dict[int, list[BatchJob]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        count = self.spec.count
        self.states = bytearray([PENDING]) * count
        self.tries = bytearray(count)
        self.blocked = bytearray(count)
        self.started = array("q", [NONE]) * count
        self.stopped = array("q", [NONE]) * count
        self.exits = array("i", [NONE]) * count
        self.reason_ids = array("H", [0]) * count
        self.counts = [0, count, 0, 0, 0, 0, 0]
        self.counts_changed_ms = self.spec.created_ms

    @property
    def ended(self) -> bool:
        """Whether all children are terminal."""
        return self.counts[SUCCEEDED] + self.counts[FAILED] == self.spec.count

    @property
    def state(self) -> int:
        """The state of the job as a whole: an array is PENDING until its last child has ended."""
        if not self.spec.size:
            return self.states[0]
        if not self.ended:
            return PENDING
        return FAILED if self.counts[FAILED] else SUCCEEDED

    def move(self, index: int, state: int, now: int) -> None:
        """Changes a child's state and the counts."""
        self.counts[self.states[index]] -= 1
        self.counts[state] += 1
        self.states[index] = state
        self.counts_changed_ms = now

    def set_status_reason(self, index: int, status_reason: str | None, reason: str | None) -> None:
        """Notes why a child ended; equal sentences are kept once."""
        pair = (status_reason, reason)
        try:
            position = self.reasons.index(pair, -8 if len(self.reasons) > 8 else 0)
        except ValueError:
            position = self._new_reason(pair)
        self.reason_ids[index] = position

    def _new_reason(self, pair: tuple[str | None, str | None]) -> int:
        if len(self.reasons) >= 0xFFFF:
            return self.reasons.index((None, None))
        self.reasons.append(pair)
        return len(self.reasons) - 1

    def cancellation_of(self, index: int) -> Cancellation | None:
        """What was written when this child, or its whole job, was cancelled."""
        return self.cancellations.get(index) or self.cancellation

    def last_attempt(self, index: int) -> JobAttempt | None:
        """The latest attempt that has ended."""
        if not self.tries[index] or self.stopped[index] == NONE:
            return None
        status_reason, reason = self.reasons[self.reason_ids[index]]
        code = self.exits[index]
        return JobAttempt(
            started_ms=self.started[index],
            stopped_ms=self.stopped[index],
            exit_code=None if code == NONE else code,
            status_reason=status_reason,
            reason=reason,
        )

    def attempts(self, index: int) -> list[JobAttempt]:
        """All ended attempts of a child, in order."""
        last = self.last_attempt(index)
        return [*self.earlier.get(index, ()), *([last] if last else ())]

    def child(self, index: int) -> StoredChild:
        """A child's columns as values."""
        status_reason, reason = self.reasons[self.reason_ids[index]]
        return StoredChild(
            index=index,
            state=self.states[index],
            tries=self.tries[index],
            started_ms=self.started[index],
            stopped_ms=self.stopped[index],
            exit_code=self.exits[index],
            status_reason=status_reason,
            reason=reason,
            earlier=tuple(self.earlier.get(index, ())),
            cancellation=self.cancellations.get(index),
        )

    def put(self, child: StoredChild) -> None:
        """Sets a child's columns from stored values; one that had not ended is PENDING again.

        An attempt that had begun and not ended is forgotten: the workers' journals know it.
        """
        index, earlier = child.index, list(child.earlier)
        self.move(
            index, child.state if child.state in TERMINAL else PENDING, max(child.stopped_ms, self.counts_changed_ms)
        )
        self.tries[index] = child.tries
        self.started[index], self.stopped[index] = child.started_ms, child.stopped_ms
        self.exits[index] = child.exit_code
        self.set_status_reason(index, child.status_reason, child.reason)
        if child.state not in TERMINAL and child.stopped_ms == NONE:
            self._put_last(index, earlier.pop() if earlier else None, len(earlier))
        if earlier:
            self.earlier[index] = earlier
        if child.cancellation:
            self.cancellations[index] = child.cancellation

    def recall(self, index: int) -> None:
        """Makes the attempt before the last one the last again: the last never began."""
        tries, earlier = self.tries[index] - 1, self.earlier.pop(index, [])
        self._put_last(index, earlier.pop() if earlier else None, len(earlier))
        self.tries[index] = tries
        if earlier:
            self.earlier[index] = earlier

    def _put_last(self, index: int, last: JobAttempt | None, before: int) -> None:
        self.tries[index] = before + 1 if last else 0
        self.started[index] = last.started_ms if last else NONE
        self.stopped[index] = last.stopped_ms if last else NONE
        self.exits[index] = NONE if last is None or last.exit_code is None else last.exit_code
        self.set_status_reason(index, last.status_reason if last else None, last.reason if last else None)

    def indexes_in(self, state: int, start: int = 0) -> Iterator[int]:
        """The children in a state, from an index on, in order."""
        index = start - 1
        while (index := self.states.find(state, index + 1)) >= 0:
            yield index
