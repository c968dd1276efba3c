"""The pool in memory: for tests, and the plainest example of `TaskStorage`. One process; its threads may share it."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from itertools import islice
from threading import RLock

from batch_pipeline.pool.base import Counts, Filter, Page
from batch_pipeline.pool.moves import Transition
from batch_pipeline.pool.stores.optimistic import OptimisticStore
from batch_pipeline.pool.stores.storage import CommitResult, PendingMove
from batch_pipeline.pool.task import Nest, Task, TaskEvent, TaskState


class MemoryStore(OptimisticStore):
    """A pool that is gone with its process."""

    def __init__(self) -> None:
        super().__init__(MemoryTasks())


class MemoryTasks:
    """Tasks in a dictionary, events in another."""

    name = "memory"

    def __init__(self) -> None:
        self._lock = RLock()
        self._tasks: dict[str, Task] = {}
        self._events: dict[str, list[TaskEvent]] = defaultdict(list)
        #: Id -> place in the order of adding; those of deleted tasks too.
        self._places: dict[str, int] = {}
        self._outbox: dict[str, PendingMove] = {}

    def together(self) -> AbstractContextManager[object]:
        """See `ConditionalTable.together`."""
        return self._lock

    def read(self, ids: Collection[str]) -> Mapping[str, Task]:
        """See `ConditionalTable.read`."""
        with self._lock:
            return {name: self._tasks[name] for name in ids if name in self._tasks}

    def past(self, ids: Collection[str]) -> Mapping[str, TaskEvent]:
        """See `ConditionalTable.past`."""
        with self._lock:
            gone = (name for name in ids if name in self._events and name not in self._tasks)
            return {name: self._events[name][-1] for name in gone}

    def write(self, changes: Sequence[Transition]) -> list[CommitResult]:
        """See `ConditionalTable.write`."""
        with self._lock:
            return [self._write(change) for change in changes]

    def _write(self, change: Transition) -> CommitResult:
        current, before, after = self._tasks.get(change.task_id), change.before, change.after
        if _version(current) != _version(before):
            return CommitResult.REFUSED
        if current and before and change.lease_counts and current.lease_until_ms != before.lease_until_ms:
            return CommitResult.REFUSED
        if entry := PendingMove.of(change, CommitResult.NEEDED):
            self._outbox[change.task_id] = entry
        if change.event:
            self._events[change.task_id].append(change.event)
        if after is None:
            del self._tasks[change.task_id]
            return CommitResult.NEEDED
        self._places.setdefault(change.task_id, len(self._places))
        if current and change.event is None:
            progress = current.progress if after.progress is None else after.progress
            after = replace(current, lease_until_ms=after.lease_until_ms, progress=progress, reason=after.reason)
        self._tasks[change.task_id] = after
        return CommitResult.NEEDED

    def pending(self) -> Sequence[PendingMove]:
        """See `Outbox.pending`."""
        with self._lock:
            return list(self._outbox.values())

    def propagated(self, pending: Sequence[PendingMove]) -> bool:
        """See `Outbox.propagated`."""
        with self._lock:
            stood = [entry for entry in pending if self._outbox.get(entry.task_id) == entry]
            for entry in stood:
                del self._outbox[entry.task_id]
        return len(stood) == len(pending)

    def candidates(self, count: int, classes: Collection[str] | None) -> Sequence[Task]:
        """See `TaskStorage.candidates`."""
        with self._lock:
            todo = [task for task in self._tasks.values() if task.state is TaskState.TODO]
            wanted = (task for task in todo if classes is None or task.spec.resource_class in classes)
            return sorted(wanted, key=lambda task: (-task.spec.priority, self._places[task.id]))[:count]

    def expired(self, now_ms: int) -> Sequence[Task]:
        """See `TaskStorage.expired`. All callers share one clock."""
        with self._lock:
            held = (task for task in self._tasks.values() if task.state is TaskState.HELD)
            return [task for task in held if not task.is_live(now_ms)]

    def dependents(self, ids: Collection[str]) -> Sequence[Task]:
        """See `Outbox.dependents`."""
        with self._lock:
            open_ones = (TaskState.WAITING, TaskState.TODO)
            waiting = (task for task in self._tasks.values() if task.spec.after and task.state in open_ones)
            return [task for task in waiting if not set(ids).isdisjoint(task.spec.after)]

    def waiting(self) -> Sequence[Task]:
        """See `Outbox.waiting`."""
        with self._lock:
            return [task for task in self._tasks.values() if task.state is TaskState.WAITING]

    def find(self, wanted: Filter, *, limit: int, cursor: str | None) -> Page:
        """See `TaskReader.find`."""
        with self._lock:
            first = int(cursor or 0)
            order = sorted(self._tasks.values(), key=lambda task: self._places[task.id])
            later = (task for task in order if self._places[task.id] >= first and wanted.accepts(task))
            tasks = list(islice(later, limit + 1))
        more = str(self._places[tasks[limit].id]) if len(tasks) > limit else None
        return Page(tasks=tuple(tasks[:limit]), cursor=more)

    def counts(self) -> Counts:
        """See `Statistics.counts`."""
        counts: dict[str, Counter[TaskState]] = defaultdict(Counter)
        with self._lock:
            for task in self._tasks.values():
                counts[task.spec.resource_class][task.state] += 1
        return Counts(by_class=dict(counts))

    def nests(self) -> Iterator[Nest]:
        """See `Statistics.nests`."""
        counts: dict[str, Counter[TaskState]] = defaultdict(Counter)
        with self._lock:
            for task in self._tasks.values():
                if task.spec.parent:
                    counts[task.spec.parent][task.state] += 1
        return (Nest(parent=parent, counts=counts[parent]) for parent in sorted(counts))

    def ends_since(self, since_ms: int) -> int:
        """See `Statistics.ends_since`."""
        ends = (TaskState.DONE, TaskState.FAILED)
        with self._lock:
            events = [event for history in self._events.values() for event in history]
        return sum(event.at_ms >= since_ms and event.target in ends for event in events)

    def events(self, *, task_id: str, act: str) -> Iterator[TaskEvent]:
        """See `TaskReader.events`."""
        with self._lock:
            histories = [self._events.get(task_id, [])] if task_id else list(self._events.values())
            return iter([event for events in histories for event in events if not act or event.act == act])

    def close(self) -> None:
        """See `TaskStorage.close`. Nothing is let go of, so that a test may look at what is left."""


def _version(task: Task | None) -> tuple[object, ...] | None:
    return (task.state, task.moves, task.fence) if task else None
