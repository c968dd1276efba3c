"""Decides what is sent: from the graph, the samples and what the store holds, the jobs of a plan. Pure.

Every cell (step, sample) is looked at once, steps in order. A cell is done when a receipt with its current fingerprint
is there. Samples that need the same steps with the same overrides, and wait for the same live jobs, form a *group*; a
group is cut into *shards* as large as an array may be; each (shard, step) is one job, and the jobs of a shard hold the
same samples in the same order, so that `N_TO_N` never joins unequal arrays. A gather depends on all of its upstream
jobs, through joins where they are more than one job may depend on. Jobs of earlier runs that are still live are
depended on like planned ones. Shards beyond what may be on the queue at once are sent in later *waves* (`waves`).

`plan`, `run --dry-run`, `run` and `status` read the same Plan; nothing here knows a store, a backend or a clock.

(A line or two longer than most modules: every value that goes into a plan or comes out of it.)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from batch_pipeline.pipeline.choices import Choices
from batch_pipeline.pipeline.fingerprint import StepParts
from batch_pipeline.pipeline.rows import Rows
from batch_pipeline.pipeline.workflow import Graph
from batch_pipeline.wire.layout import COHORT
from batch_pipeline.wire.manifest import SourceFile
from batch_pipeline.wire.store import StoreEntry


class CellState(Enum):
    """What a cell means to a plan. The value is the word for people."""

    DONE = "done"  #: A receipt with the current fingerprint is there.
    TO_RUN = "to run"  #: It is part of a job of this plan.
    LIVE = "live"  #: A job of an earlier run is to do it.
    DEFERRED = "deferred"  #: It waits for live jobs that nothing can depend on now; a later plan takes it.
    BLOCKED = "blocked"  #: It cannot run: `Plan.blocked` says why.
    SKIPPED = "not chosen"  #: It is missing, but the command chose other cells.
    EXCLUDED = "excluded"  #: The step's condition (`Step.when`) is false for it: it is final, and has no receipt.

    # Enum hashes a member's name, in Python: a tenth of the time of a plan.
    __hash__ = object.__hash__


class Why(Enum):
    """Why a cell is to run."""

    NEVER_DONE = "never done"
    CHANGED = "changed since it was done"
    IN_DOUBT = "has several receipts, and one at most is right"
    RETIRED = "was to be made again and has not been since"
    UNTRUE = "its receipt is cut off, or a result is not what it says"
    UPSTREAM = "what it reads is made again"
    FORCED = "forced"
    REMOVED = "its results were removed after use, and a cell that reads them is to run"


@dataclass(frozen=True, kw_only=True, slots=True)
class Retired:
    """A success receipt that counts for nothing: its cell was to be made again, or what it says is not true."""

    #: The run that set out to make it, or that found it untrue.
    run_id: str
    #: Of the receipt (`Store.version`): another version at the same key is another receipt, and counts.
    version: str
    #: Whether the cell must run even if all that it reads is found unchanged.
    must_run: bool = False
    #: Whether a result was found that is not what the receipt says.
    untrue: bool = False


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one submission may not exceed, as its backend states it."""

    #: Children of an array.
    max_array_size: int
    #: Jobs that one waits for.
    max_dependencies: int
    #: Characters of a job's name.
    max_name: int
    max_request_bytes: int
    #: Environment and command as JSON.
    max_overrides_bytes: int
    #: Children on the queue at once, of all jobs; gathers and joins, a job each, come on top. None: any number.
    max_live_children: int | None = None
    #: Whether so many children of a step, and no more, can be made to run side by side (`Step.max_parallel`).
    holds_widths: bool = True
    #: Calls of a plan with jobs for single samples or groups (`backend.most_calls`).
    most_calls: int = 200


@dataclass(frozen=True, kw_only=True)
class LiveJob:
    """A job of an earlier run that has not ended."""

    native_id: str
    run_id: str
    step: str
    samples: tuple[str, ...]
    fingerprints: tuple[str, ...]
    #: Samples whose child has failed for good: it will read and publish nothing any more.
    ended: frozenset[str] = frozenset()


@dataclass(frozen=True, kw_only=True)
class CellNeed:
    """What a cell asks for, of a step whose resources are computed (`cell_facts`)."""

    #: MiB; None: the step's number.
    memory_mb: int | None = None
    #: Seconds; None: the step's number, or no limit.
    timeout_seconds: int | None = None
    #: How long the cell takes beside others of its step, as far as that can be told: the bytes of its sources.
    weight: int = 1


@dataclass(frozen=True, kw_only=True)
class RetryOverrides:
    """With what a cell is sent, where it asks for that itself or failed before through nobody's fault."""

    #: None: as the step's definition says.
    memory_mb: int | None = None
    #: Seconds that an attempt may run; None: as the step's definition says.
    timeout_seconds: int | None = None
    #: Empty: the run's own.
    queue: str = ""


#: The overrides of a cell that needs none.
AS_DEFINED = RetryOverrides()


@dataclass(frozen=True, kw_only=True)
class Inventory:
    """What the store and the backend hold, as far as a plan needs it."""

    #: Step -> sample -> fingerprints with a success receipt that counts.
    receipts: Mapping[str, Mapping[str, tuple[str, ...]]] = field(default_factory=dict)
    #: Step -> sample -> fingerprint -> why the success receipt that stands there does not count.
    retired: Mapping[str, Mapping[str, Mapping[str, Retired]]] = field(default_factory=dict)
    #: Step -> sample -> fingerprints whose receipt is cut off, or vouches for a result that is missing.
    untrue: Mapping[str, Mapping[str, tuple[str, ...]]] = field(default_factory=dict)
    #: Step -> sample -> fingerprint -> ports whose files were removed after use (`records.removals`).
    removed: Mapping[str, Mapping[str, Mapping[str, AbstractSet[str]]]] = field(default_factory=dict)
    #: (step, sample) -> what is wrong with its receipt or results, where somebody looked at them.
    problems: Mapping[tuple[str, str], str] = field(default_factory=dict)
    #: Gather -> samples that its success receipt names as read; only where results of other code are trusted.
    gathered: Mapping[str, frozenset[str]] = field(default_factory=dict)
    #: Sample -> port key (`step.port`) -> its files; a sample with a file that is not there lacks the key. Of an
    #: optional port without any file there are none.
    sources: Mapping[str, Mapping[str, tuple[SourceFile, ...]]] = field(default_factory=dict)
    #: Step -> samples (COHORT for a gather) whose cells its condition excludes.
    excluded: Mapping[str, AbstractSet[str]] = field(default_factory=dict)
    #: Sample -> sentence about its missing source.
    absent: Mapping[str, str] = field(default_factory=dict)
    #: Step of groups or parts -> its rows; one object for all steps of equal rows.
    rows: Mapping[str, Rows] = field(default_factory=dict)
    #: Step of groups with a column of roles -> the role of each sample, in order.
    roles: Mapping[str, Sequence[str]] = field(default_factory=dict)
    #: Step that declares columns of the sheet -> their values for each sample, in order; equal ones are one object.
    columns: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    #: File of the chosen reference -> its entry.
    references: Mapping[str, StoreEntry] = field(default_factory=dict)
    live: Sequence[LiveJob] = ()
    #: Children of the live jobs that have not ended.
    live_children: int = 0
    #: (step, sample) -> sentence, of cells that failed earlier in this very command: they are not tried again.
    failed: Mapping[tuple[str, str], str] = field(default_factory=dict)
    #: (step, sample) of cells that this very command sent or found on their way: `force` does not mean them again.
    made: AbstractSet[tuple[str, str]] = frozenset()
    #: (step, sample) -> with what the cell is sent, where that is not as its step says.
    overrides: Mapping[tuple[str, str], RetryOverrides] = field(default_factory=dict)
    #: Step whose resources are computed -> sample (COHORT for a gather) of each cell to run -> what it asks for.
    needs: Mapping[str, Mapping[str, CellNeed]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Which cells a command means."""

    #: None: all.
    samples: frozenset[str] | None = None
    #: None: all.
    steps: frozenset[str] | None = None
    #: Run chosen cells even when they are done.
    force: bool = False
    #: Trust a receipt of the cell whatever its fingerprint; of a gather if it is of the samples that it would take.
    accept_code_changes: bool = False
    #: Share of the samples that a gather needs; below 1 it is released by the driver, not by the backend.
    min_success: float = 1.0

    def takes(self, step: str, sample: str) -> bool:
        """Whether the cell is chosen; a gather is chosen by its step."""
        if self.steps is not None and step not in self.steps:
            return False
        return self.samples is None or sample == COHORT or sample in self.samples


@dataclass(frozen=True, kw_only=True)
class Edge:
    """One dependency of a planned job."""

    #: Name of a job of this plan, or native id of a live one.
    job: str
    #: Child i waits for child i; else for the whole job.
    index_by_index: bool
    live: bool = False


@dataclass(frozen=True, kw_only=True)
class PlannedJob:
    """One job to submit: a (shard, step), a gather, or a join."""

    #: `kallisto-0-0`: step, group, shard. Unique within the plan.
    name: str
    step: str
    #: Positions in the rows of its step, shared by all jobs of a shard; empty for a gather or join.
    members: tuple[int, ...] = ()
    after: tuple[Edge, ...] = ()
    #: Only joins more dependencies than one job may have; runs nothing.
    join: bool = False
    #: The same for all of its cells.
    overrides: RetryOverrides = AS_DEFINED
    #: With which wave of its plan it is sent, from 0.
    wave: int = 0

    @property
    def size(self) -> int:
        """Number of children; 1 means a plain job."""
        return max(1, len(self.members))


@dataclass(frozen=True, kw_only=True)
class Conflict:
    """A live job works on a cell that should now be made differently."""

    run_id: str
    step: str
    sample: str


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is sent, and the state of every cell."""

    graph: Graph
    samples: tuple[str, ...]
    #: Step -> the names of its cells, and the samples that each is of.
    rows: Mapping[str, Rows] = field(compare=False)
    selection: Selection
    #: Jobs, each after those that it depends on.
    jobs: tuple[PlannedJob, ...]
    #: Step -> state of each cell in the order of its rows; a gather has one.
    states: Mapping[str, Sequence[CellState]]
    fingerprints: Mapping[str, Sequence[str]]
    #: Step -> why each cell runs, where it does.
    why: Mapping[str, Sequence[Why | None]]
    parts: Mapping[str, StepParts]
    #: (step, sample) -> sentence.
    blocked: Mapping[tuple[str, str], str]
    conflicts: tuple[Conflict, ...]
    #: Samples that each gather does without (`min_success`).
    missing: Mapping[str, tuple[str, ...]]
    #: Gather -> samples of which one of its ports has nothing, for conditions exclude it.
    excluded: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    #: Step -> what each of its cells reads, where that depends on conditions.
    choices: Mapping[str, Choices] = field(default_factory=dict)
    #: (step, sample, fingerprint) of the receipts that count for nothing once anything is sent, each with whether its
    #: cell must run (`Retired.must_run`).
    retires: Mapping[tuple[str, str, str], bool] = field(default_factory=dict)
    #: (step, sample) -> what is wrong with its receipt or results, where somebody looked at them.
    problems: Mapping[tuple[str, str], str] = field(default_factory=dict)
    #: How it joins cells of different rows, a sentence; empty: there are none.
    form: str = ""
    #: What its jobs do not exceed: the backend's.
    limits: Limits

    def cells(self, step: str) -> Iterator[tuple[str, CellState]]:
        """Name (COHORT for a gather) and state of each cell of a step."""
        yield from zip(self.rows[step].names, self.states[step], strict=True)

    def under_way(self) -> frozenset[tuple[str, str]]:
        """(step, sample) of the cells that are sent with this plan or live: the next plan's `Inventory.made`."""
        moving = (CellState.TO_RUN, CellState.LIVE)
        return frozenset((step, name) for step in self.states for name, state in self.cells(step) if state in moving)

    def counts(self, step: str) -> Counter[CellState]:
        """Cells of a step by state."""
        return Counter(self.states[step])

    def members_of(self, job: PlannedJob) -> tuple[tuple[str, str], ...]:
        """Sample and fingerprint of each child of a job, in the order of its indices."""
        if not job.members:
            return ((COHORT, self.fingerprints[job.step][0]),)
        names, fingerprints = self.rows[job.step].names, self.fingerprints[job.step]
        return tuple((names[i], fingerprints[i]) for i in job.members)

    def reads(self, step: str, position: int = 0) -> tuple[str, ...]:
        """The steps that the cell of a sample reads from; those from which a gather reads the sample's results."""
        choices = self.choices.get(step)
        return self.graph[step].upstream if choices is None else choices.steps[position]

    def gathers(self, step: str, upstream: str) -> Iterator[int]:
        """Positions of the rows of a step whose results a gather reads."""
        without = frozenset(self.missing.get(step, ()))
        for position, name in enumerate(self.rows[upstream].names):
            if name not in without and upstream in self.reads(step, position):
                yield position

    def gathered(self, step: str) -> list[int]:
        """Positions of the rows of which a gather reads anything; it reads steps of equal rows."""
        upstream = [other for other in self.graph[step].upstream if not self._gathers(other)]
        return sorted({position for other in upstream for position in self.gathers(step, other)})

    def gathered_rows(self, step: str) -> Rows:
        """The rows that a gather reads; those of the samples where it reads none."""
        upstream = (self.rows[other] for other in self.graph[step].upstream)
        return next((rows for rows in upstream if not rows.is_cohort), Rows(names=self.samples))

    def no_longer_done(self) -> frozenset[tuple[str, str]]:
        """(step, sample) of cells that are done and not chosen, and will not be done: they read what is made again."""
        retired = {(step, sample) for step, sample, _ in self.retires}
        return frozenset(
            (step, name)
            for step in self.states
            for name, state in self.cells(step)
            if state is CellState.SKIPPED and (step, name) in retired
        )

    @property
    def is_deferred(self) -> bool:
        """Whether cells wait for live jobs, so that another plan follows."""
        return any(CellState.DEFERRED in states for states in self.states.values())

    @property
    def deferred(self) -> int:
        """Cells that wait for live jobs or a later wave."""
        return sum(states.count(CellState.DEFERRED) for states in self.states.values())

    def _gathers(self, step: str) -> bool:
        return self.graph[step].scope.value == "cohort"
