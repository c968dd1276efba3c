"""Propagates moves to dependents: frees tasks that wait for nothing any more, withholds those that lack something.

Optimistic, as all writes of a pool are: a task is read, changed if it still is as it was read, and read again until
that changes nothing. The moved tasks themselves are not read: if their marks in the outbox stand afterwards, nobody has
moved them meanwhile, so a chain of tasks costs no read of what has just been written. A process that dies on the way
leaves the marks, and `recover` in any other one goes on from there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from batch_pipeline.pool import dependencies
from batch_pipeline.pool.moves import Transition
from batch_pipeline.pool.stores.storage import CommitResult, Outbox, PendingMove, chunks
from batch_pipeline.pool.task import Move, Task, TaskState

#: How often tasks that keep changing are read again. Then their marks are left to the next reaper.
_ROUNDS: Final = 4
_OPEN: Final = (TaskState.WAITING, TaskState.TODO)
States = Mapping[str, TaskState | None]


@dataclass(kw_only=True)
class _Looked:
    """What came of looking at tasks."""

    freed: int = 0
    #: Whether the last look at each task changed nothing.
    complete: bool = True
    #: The marks of withheld tasks: what such a task lacks may have ended at this moment.
    withheld: list[PendingMove] = field(default_factory=list)


class Propagation:
    """See the module."""

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox

    def follow(self, written: Iterable[tuple[Transition, CommitResult]], now_ms: int) -> None:
        """Propagates changes that were just written."""
        entries = (PendingMove.of(change, result) for change, result in written)
        self._propagate([entry for entry in entries if entry], now_ms)

    def recover(self, now_ms: int) -> None:
        """Propagates what others wrote and have not propagated: they died, or are about to."""
        for some in chunks(self._outbox.pending()):
            self._propagate(some, now_ms)

    def sweep(self, now_ms: int) -> int:
        """See `Backlog.sweep`."""
        looked = self._reconsider(self._outbox.waiting(), {}, now_ms)
        if looked.complete:
            self._outbox.propagated(looked.withheld)
        return looked.freed

    def _propagate(self, pending: Sequence[PendingMove], now_ms: int) -> None:
        if not pending:
            return
        withheld: list[PendingMove] = []
        moved: States = {entry.task_id: entry.state for entry in pending}
        for known in (moved, {}):
            looked = self._reconsider(self._concerned(pending), known, now_ms)
            withheld += looked.withheld
            if looked.complete and self._outbox.propagated(pending):
                break
        if looked.complete:
            self._outbox.propagated(withheld)

    def _concerned(self, pending: Sequence[PendingMove]) -> Iterable[Task]:
        needed = {entry.task_id for entry in pending if entry.needed}
        opened = {entry.task_id for entry in pending if entry.state in _OPEN}
        tasks = {task.id: task for task in self._outbox.dependents(needed)} if needed else {}
        return (tasks | dict(self._outbox.read(opened)) if opened else tasks).values()

    def _reconsider(self, tasks: Iterable[Task], known: States, now_ms: int) -> _Looked:
        looked = _Looked()
        for some in chunks(tasks):
            self._look(some, known, looked, now_ms)
        return looked

    def _look(self, tasks: Sequence[Task], known: States, looked: _Looked, now_ms: int) -> None:
        """Looks at tasks until that changes nothing. `known`: states that the outbox vouches for, so are not read."""
        there = self._outbox.read({name for task in tasks for name in task.spec.after} - known.keys())
        for _ in range(_ROUNDS):
            changes = []
            for task in tasks:
                states = {name: known[name] if name in known else _state(there.get(name)) for name in task.spec.after}
                if change := dependencies.reconsidered(task, dependencies.needs(states), now_ms=now_ms):
                    changes.append(change)
            written = list(zip(changes, self._outbox.write(changes) if changes else [], strict=True))
            looked.freed += sum(
                _is(change, Move.FREED) and result is not CommitResult.REFUSED for change, result in written
            )
            entries = (PendingMove.of(change, result) for change, result in written)
            looked.withheld += [entry for entry in entries if entry]
            again = {
                change.task_id: set(change.after.spec.after)
                for change, result in written
                if change.after and (result is CommitResult.REFUSED or not known.keys() >= set(change.after.spec.after))
            }
            if not again:
                return
            there, known = self._outbox.read(set(again).union(*again.values())), {}
            tasks = [there[name] for name in again if name in there]
        looked.complete = False


def _state(task: Task | None) -> TaskState | None:
    return task.state if task else None


def _is(change: Transition, move: Move) -> bool:
    return change.event is not None and change.event.move is move
