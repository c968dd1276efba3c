"""The protocols of a pool's store: leases, claims, reading, writing and numbers of tasks; `PoolStore` is all of them.

    Leases       what a pilot writes to tasks that it holds: heartbeats (`renew`), `settle`, `release`
    Backlog      how much is left, and what dead pilots held: `counts`, `reap`, `sweep`
    TaskSource   both, and `claim`: what a pilot needs
    TaskReader   tasks and their events
    Statistics   numbers of tasks
    TaskWriter   what people do to tasks: `add`, `move`, `undo`

Who uses a pool names the smallest of them. A store holds one pool. It decides nothing: which move is legal and what
comes of it stands in `moves`, and a store makes each move with one conditional write. Of a held task the condition is
owner and fencing number, of any other its `moves`. While a claim stands nobody but its holder writes to the task, so
that the holder computes what comes next from the task as it was claimed, without reading it again.

**Time.** No store looks at a clock: `now_ms` (since 1970, UTC) is handed in. Nothing that must hold depends on it. A
clock that is wrong takes a task from a live pilot too early or from a dead one too late; either way the fencing number
has the former holder refused, and each task settles once. Where all callers share a host's clock (memory, SQLite)
a lease is over when `now_ms` has passed it. Where they do not (DynamoDB, CouchDB; neither tells its own time in a
condition) `stores.leases.LeaseWatch` compares no two clocks: a lease is over when the reaper has seen it unchanged
for as long as it lasts, by the reaper's own clock.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from fnmatch import fnmatchcase
from typing import Protocol

from batch_pipeline.pool.task import Action, Nest, Task, TaskEvent, TaskOutcome, TaskSpec, TaskState

#: How many names a report lists; it counts the rest.
MOST_LISTED = 100


@dataclass(frozen=True, kw_only=True, slots=True)
class Claim:
    """A task that is held: what its pilot runs, and the only key to its later writes."""

    #: The task as it was claimed.
    task: Task

    @property
    def id(self) -> str:
        """The task's id."""
        return self.task.spec.id


@dataclass(frozen=True, kw_only=True, slots=True)
class Settlement:
    """How the attempt of a claim ended."""

    claim: Claim
    outcome: TaskOutcome


class WriteResult(Enum):
    """What a store says to a holder's write."""

    ACCEPTED = "accepted"
    #: This very write was here before: its first answer was lost on the way.
    REPEATED = "repeated"
    #: Somebody else holds the task, or nobody may: stop writing. Nothing was changed.
    REFUSED = "refused"


@dataclass(frozen=True, kw_only=True)
class AddReport:
    """What came of adding tasks."""

    added: int = 0
    #: The same task was there, in whatever state; it was left alone.
    unchanged: int = 0
    #: A task of this id was there and something else is asked of it; it was left alone. The first names.
    differing: int = 0
    differing_ids: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Filter:
    """Which tasks are meant: those to which all that is given applies. Nothing given: all."""

    states: frozenset[TaskState] = frozenset()
    classes: frozenset[str] = frozenset()
    ids: frozenset[str] = frozenset()
    #: `*`, `?` and `[…]`, as a shell has them.
    id_pattern: str = ""
    parent: str = ""
    owner: str = ""
    #: Changed last before this moment: claimed, ended or added, whichever came last.
    changed_before_ms: int | None = None
    #: Part of the last error, in either case.
    error: str = ""

    def accepts(self, task: Task) -> bool:
        """Whether a task is meant."""
        changed = max(task.added_at_ms, task.claimed_at_ms, task.ended_at_ms)
        error = task.outcome.error if task.outcome else ""
        return (
            (not self.states or task.state in self.states)
            and (not self.classes or task.spec.resource_class in self.classes)
            and (not self.ids or task.id in self.ids)
            and (not self.id_pattern or fnmatchcase(task.id, self.id_pattern))
            and (not self.parent or task.spec.parent == self.parent)
            and (not self.owner or task.owner == self.owner)
            and (self.changed_before_ms is None or changed < self.changed_before_ms)
            and self.error.lower() in error.lower()
        )


@dataclass(frozen=True, kw_only=True)
class Page:
    """Some of the tasks that a filter means."""

    tasks: tuple[Task, ...]
    #: Where the next page begins; None: this was the last.
    cursor: str | None = None


@dataclass(frozen=True, kw_only=True)
class MoveReport:
    """What came of a person's action on tasks, or would come of it."""

    moved: int = 0
    #: The first ids.
    moved_ids: tuple[str, ...] = ()
    refused: int = 0
    #: Id -> why not; the first ones.
    refusals: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Counts:
    """How many tasks there are: resource class -> state -> number, those that are not 0."""

    by_class: Mapping[str, Mapping[TaskState, int]]

    def of(self, state: TaskState, classes: Collection[str] | None = None) -> int:
        """How many are in a state, of all classes or of some."""
        named = self.by_class if classes is None else classes
        return sum(self.by_class.get(name, {}).get(state, 0) for name in named)

    @property
    def total(self) -> int:
        """How many there are."""
        return sum(sum(states.values()) for states in self.by_class.values())


class Statistics(Protocol):
    """Numbers of tasks."""

    def counts(self) -> Counts:
        """How many tasks are in each state, of each class."""

    def nests(self) -> Iterator[Nest]:
        """The items that have sub-tasks, each with what its sub-tasks are at."""

    def ends_since(self, since_ms: int) -> int:
        """How many tasks became done or failed since then: for rates."""


class TaskReader(Protocol):
    """Tasks and their history."""

    def get(self, task_id: str) -> Task | None:
        """A task as it stands; None: there is none."""

    def find(self, wanted: Filter, *, limit: int = 1000, cursor: str | None = None) -> Page:
        """Up to `limit` of the tasks that are meant, in an order of the store's own that does not change.

        A page may be short, or empty, and still have a next one.
        """

    def events(self, *, task_id: str = "", act: str = "") -> Iterator[TaskEvent]:
        """The events of a task or of an action, the oldest first; those of deleted tasks too."""


class PoolReader(TaskReader, Statistics, Protocol):
    """All that can be read."""


class Leases(Protocol):
    """What a pilot writes to tasks that it holds. All lists of results are in the order of the arguments."""

    @property
    def name(self) -> str:
        """Where the pool is, for people."""

    def renew(
        self, claims: Sequence[Claim], *, now_ms: int, progress: Mapping[str, float] | None = None
    ) -> list[WriteResult]:
        """Heartbeat: prolongs leases to `lease_ms` from now; notes the progress of ids.

        Refused: another holds the task, so stop it.
        """

    def settle(self, settlements: Sequence[Settlement], *, now_ms: int) -> list[WriteResult]:
        """Ends attempts: a task becomes done, failed, or is to be done again if it has attempts left.

        Idempotent: accepted at most once for a claim, however often it is sent. A write whose answer was lost may be
        sent again and is answered `REPEATED`. What waited for a task that became done is to be done when this returns.
        """

    def release(self, claims: Sequence[Claim], *, now_ms: int, why: str, counted: bool = False) -> list[WriteResult]:
        """Gives tasks back, to be done by another. `counted`: it had been started, and counts among its returns."""


class Backlog(Protocol):
    """How much is left to do, and the repair of what a dead process left."""

    def counts(self) -> Counts:
        """See `Statistics.counts`."""

    def reap(self, *, now_ms: int) -> list[str]:
        """Takes tasks back whose lease is over, each once; returns their ids. Any pilot may call it at any time.

        What a process that died had moved and not propagated is propagated: no task waits for one that is done.
        """

    def sweep(self, *, now_ms: int) -> int:
        """Looks at every waiting task again: frees those that wait for nothing, writes down what the others lack.

        Nothing of that is left after a `reap`. It is for when nothing moves any more: a pool may have been written by
        an earlier version, or be in a cluster whose views are late. Returns how many were freed.
        """


class TaskSource(Leases, Backlog, Protocol):
    """What a pilot needs of a pool."""

    def claim(
        self,
        owner: str,
        count: int,
        *,
        lease_ms: int,
        now_ms: int,
        classes: Collection[str] | None = None,
        native_id: str = "",
    ) -> list[Claim]:
        """Holds up to `count` tasks that are to be done, the highest priority first, then the one added first.

        Each returned task is held by this owner and nobody else, with a fencing number that no other claim of it has
        or will have. A store over a network may be a little out of order. Fewer than `count`: there was no more, or
        others were faster; none: nothing was to do at that moment. `classes`: only of these; None: of any.

        Raises
        ------
        PoolFailed
            The store could not be reached; what it holds for this owner all the same goes back when its lease ends.
        """


class TaskWriter(Protocol):
    """What people do to tasks."""

    def add(self, specs: Iterable[TaskSpec], *, now_ms: int) -> AddReport:
        """Adds tasks that are not there, in any number, streaming; leaves those that are there alone.

        A task that waits for others which are not all done (or not there yet) is waiting, any other is to be done.
        Idempotent: after an interruption add them all again.

        Raises
        ------
        InvalidTasks
            A task breaks a rule. Those before it may have been added.
        """

    def move(
        self,
        wanted: Filter,
        action: Action,
        *,
        now_ms: int,
        act: str,
        who: str = "",
        force: bool = False,
        dry_run: bool = False,
    ) -> MoveReport:
        """Does a person's action to all tasks that are meant; each move is an event named `act`.

        A task under a live lease is refused unless forced; its holder is then refused. Tasks that the action does
        not suit are refused with the reason, the others moved. `dry_run`: says what it would do and changes nothing.
        """

    def undo(self, act: str, *, now_ms: int, who: str = "", dry_run: bool = False) -> MoveReport:
        """Gives tasks back what they were before an action, those to which nothing happened since.

        The fencing number is not set back: who held a task before a forced move stays refused, and the task goes back
        to be done. Undoing a deletion brings the task back.
        """


class PoolStore(TaskSource, PoolReader, TaskWriter, Protocol):
    """A whole pool. Who needs less of it names one of the protocols above."""

    def close(self) -> None:
        """Lets go of connections and files."""
