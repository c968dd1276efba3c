"""The pool in memory: for tests, and the plainest example of `Rows`. One process; its threads may share it."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from itertools import islice
from threading import RLock

from batch_pipeline.pool.base import Counts, Filter, Page
from batch_pipeline.pool.moves import Step
from batch_pipeline.pool.stores.rows import PendingMove, Written
from batch_pipeline.pool.stores.stepped import SteppedStore
from batch_pipeline.pool.task import Event, Nest, Task, TaskState


class MemoryStore(SteppedStore):
    """A pool that is gone with its process."""

    def __init__(self) -> None:
        super().__init__(MemoryRows())


class MemoryRows:
    """Tasks in a dictionary, events in another."""

    name = "memory"

    def __init__(self) -> None:
        self._lock = RLock()
        self._tasks: dict[str, Task] = {}
        self._events: dict[str, list[Event]] = defaultdict(list)
        #: Id -> place in the order of adding; those of deleted tasks too.
        self._places: dict[str, int] = {}
        self._outbox: dict[str, PendingMove] = {}

    def together(self) -> AbstractContextManager[object]:
        """See `Rows.together`."""
        return self._lock

    def read(self, ids: Collection[str]) -> Mapping[str, Task]:
        """See `Rows.read`."""
        with self._lock:
            return {name: self._tasks[name] for name in ids if name in self._tasks}

    def past(self, ids: Collection[str]) -> Mapping[str, Event]:
        """See `Rows.past`."""
        with self._lock:
            gone = (name for name in ids if name in self._events and name not in self._tasks)
            return {name: self._events[name][-1] for name in gone}

    def write(self, steps: Sequence[Step]) -> list[Written]:
        """See `Rows.write`."""
        with self._lock:
            return [self._write(step) for step in steps]

    def _write(self, step: Step) -> Written:
        current, before, after = self._tasks.get(step.task_id), step.before, step.after
        if _version(current) != _version(before):
            return Written.REFUSED
        if current and before and step.lease_counts and current.lease_until_ms != before.lease_until_ms:
            return Written.REFUSED
        if entry := PendingMove.of(step, Written.NEEDED):
            self._outbox[step.task_id] = entry
        if step.event:
            self._events[step.task_id].append(step.event)
        if after is None:
            del self._tasks[step.task_id]
            return Written.NEEDED
        self._places.setdefault(step.task_id, len(self._places))
        if current and step.event is None:
            told = current.progress if after.progress is None else after.progress
            after = replace(current, lease_until_ms=after.lease_until_ms, progress=told, reason=after.reason)
        self._tasks[step.task_id] = after
        return Written.NEEDED

    def pending(self) -> Sequence[PendingMove]:
        """See `Rows.pending`."""
        with self._lock:
            return list(self._outbox.values())

    def propagated(self, pending: Sequence[PendingMove]) -> bool:
        """See `Rows.propagated`."""
        with self._lock:
            stood = [entry for entry in pending if self._outbox.get(entry.task_id) == entry]
            for entry in stood:
                del self._outbox[entry.task_id]
        return len(stood) == len(pending)

    def candidates(self, count: int, classes: Collection[str] | None) -> Sequence[Task]:
        """See `Rows.candidates`."""
        with self._lock:
            found = [task for task in self._tasks.values() if task.state is TaskState.TODO]
            wanted = (task for task in found if classes is None or task.spec.resource_class in classes)
            return sorted(wanted, key=lambda task: (-task.spec.priority, self._places[task.id]))[:count]

    def over(self, now_ms: int) -> Sequence[Task]:
        """See `Rows.over`. All callers share one clock."""
        with self._lock:
            held = (task for task in self._tasks.values() if task.state is TaskState.HELD)
            return [task for task in held if not task.is_live(now_ms)]

    def dependents(self, ids: Collection[str]) -> Sequence[Task]:
        """See `Rows.dependents`."""
        with self._lock:
            open_ones = (TaskState.WAITING, TaskState.TODO)
            waiting = (task for task in self._tasks.values() if task.spec.after and task.state in open_ones)
            return [task for task in waiting if not set(ids).isdisjoint(task.spec.after)]

    def waiting(self) -> Sequence[Task]:
        """See `Rows.waiting`."""
        with self._lock:
            return [task for task in self._tasks.values() if task.state is TaskState.WAITING]

    def find(self, wanted: Filter, limit: int, cursor: str | None) -> Page:
        """See `Rows.find`."""
        with self._lock:
            first = int(cursor or 0)
            order = sorted(self._tasks.values(), key=lambda task: self._places[task.id])
            later = (task for task in order if self._places[task.id] >= first and wanted.accepts(task))
            found = list(islice(later, limit + 1))
        more = str(self._places[found[limit].id]) if len(found) > limit else None
        return Page(tasks=tuple(found[:limit]), cursor=more)

    def counts(self) -> Counts:
        """See `Rows.counts`."""
        counts: dict[str, Counter[TaskState]] = defaultdict(Counter)
        with self._lock:
            for task in self._tasks.values():
                counts[task.spec.resource_class][task.state] += 1
        return Counts(by_class=dict(counts))

    def nests(self) -> Iterator[Nest]:
        """See `Rows.nests`."""
        counts: dict[str, Counter[TaskState]] = defaultdict(Counter)
        with self._lock:
            for task in self._tasks.values():
                if task.spec.parent:
                    counts[task.spec.parent][task.state] += 1
        return (Nest(parent=parent, counts=counts[parent]) for parent in sorted(counts))

    def ends_since(self, since_ms: int) -> int:
        """See `Rows.ends_since`."""
        ends = (TaskState.DONE, TaskState.FAILED)
        with self._lock:
            events = [event for told in self._events.values() for event in told]
        return sum(event.at_ms >= since_ms and event.target in ends for event in events)

    def events(self, *, task_id: str, act: str) -> Iterator[Event]:
        """See `Rows.events`."""
        with self._lock:
            told = [self._events.get(task_id, [])] if task_id else list(self._events.values())
            return iter([event for events in told for event in events if not act or event.act == act])

    def close(self) -> None:
        """See `Rows.close`. Nothing is let go of, so that a test may look at what is left."""


def _version(task: Task | None) -> tuple[object, ...] | None:
    return (task.state, task.moves, task.fence) if task else None
