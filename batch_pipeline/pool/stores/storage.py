"""What a database must offer, that a pool can be made of it: tasks as rows with optimistic, conditional writes.

**Outbox.** A move may concern other tasks: those that wait for the moved one. They are looked at after it was written,
and where both are not one transaction, the process may die in between. So the move itself marks its task, in the same
write, and the mark stands until all tasks that the move concerns were looked at (the pattern of the transactional
outbox). `Outbox.pending` finds exactly the moves that are not propagated, without a look at the tasks that wait. A move
that concerns no other task is not marked and costs no call.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from enum import Enum
from itertools import islice
from typing import Final, Protocol, TypeVar

from batch_pipeline.pool import dependencies
from batch_pipeline.pool.base import Filter, Page, Statistics
from batch_pipeline.pool.moves import Transition
from batch_pipeline.pool.task import Task, TaskEvent, TaskState

_Value = TypeVar("_Value")
#: Tasks a write.
CHUNK: Final = 500


class CommitResult(Enum):
    """What came of a change that was to be written."""

    #: The task is not as the change began with. Nothing was changed.
    REFUSED = "refused"
    #: It is written, and no task waits for this one.
    ALONE = "alone"
    #: It is written, and others wait for this one, or may.
    NEEDED = "needed"


@dataclass(frozen=True, kw_only=True, slots=True)
class PendingMove:
    """A move that is still to be propagated: an entry of the outbox."""

    task_id: str
    #: The move's number among the task's events.
    number: int
    #: The state of the task since then; None: it is deleted.
    state: TaskState | None
    #: Whether tasks that wait for this one are to be looked at.
    needed: bool

    @staticmethod
    def of(change: Transition, written: CommitResult) -> PendingMove | None:
        """The entry of a change that was written; None: it concerns no other task."""
        needed = written is CommitResult.NEEDED
        if (
            written is CommitResult.REFUSED
            or change.event is None
            or not dependencies.must_propagate(change, needed=needed)
        ):
            return None
        needed = needed and dependencies.concerns_others(change.event)
        return PendingMove(task_id=change.task_id, number=change.event.number, state=change.event.target, needed=needed)


class ConditionalTable(Protocol):
    """Tasks as rows with optimistic writes. Reads by id see every write that was answered before."""

    def together(self) -> AbstractContextManager[object]:
        """What is read and written inside is written at once or not at all, where the database can do that."""

    def read(self, ids: Collection[str]) -> Mapping[str, Task]:
        """The tasks of these ids, those that are there."""

    def past(self, ids: Collection[str]) -> Mapping[str, TaskEvent]:
        """The last events of those ids that are deleted tasks'."""

    def write(self, changes: Sequence[Transition]) -> list[CommitResult]:
        """Writes each change, with its event, if its task still is in state, `moves` and fencing number as before.

        And in its lease, if that counts. Of a renewal (no event) only lease and progress are written, of other changes
        without an event only the reason. A change without `before` is written if there is no such task, or a deleted
        one. Each alone: one that does not hold stops no other. No two changes are of one task.

        A change that `dependencies.must_propagate` is marked in the same write, in place of an earlier mark of its
        task.
        """


class Outbox(ConditionalTable, Protocol):
    """The moves that are still to be propagated, and the tasks that they may concern."""

    def pending(self) -> Iterable[PendingMove]:
        """The moves whose marks stand. None where `together` writes at once."""

    def propagated(self, pending: Sequence[PendingMove]) -> bool:
        """Takes marks away: all tasks that the moves concern were looked at.

        Returns whether all of the marks stood. Then none of their tasks has ended or been set back since.
        """

    def dependents(self, ids: Collection[str]) -> Iterable[Task]:
        """Tasks, waiting or to be done, that wait for any of these."""

    def waiting(self) -> Iterable[Task]:
        """All tasks that wait."""


class TaskStorage(Outbox, Statistics, Protocol):
    """All that a database must offer."""

    @property
    def name(self) -> str:
        """Where it is, for people."""

    def candidates(self, count: int, classes: Collection[str] | None) -> Sequence[Task]:
        """Up to `count` tasks that were to be done a moment ago, those to claim first foremost."""

    def expired(self, now_ms: int) -> Iterable[Task]:
        """Held tasks whose lease is over."""

    def find(self, wanted: Filter, *, limit: int, cursor: str | None) -> Page:
        """See `TaskReader.find`."""

    def events(self, *, task_id: str, act: str) -> Iterator[TaskEvent]:
        """See `TaskReader.events`."""

    def close(self) -> None:
        """See `PoolStore.close`."""


def chunks(values: Iterable[_Value]) -> Iterator[list[_Value]]:
    """The values in lists of at most `CHUNK`."""
    rest = iter(values)
    while some := list(islice(rest, CHUNK)):
        yield some
