"""Which tasks wait for which: what a move concerns, what a waiting task lacks, and when it is freed. Pure.

A task with `after` waits until all that it names is done. A move that may change that for others is propagated to them
(`stores.propagation`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from batch_pipeline.pool.moves import Transition, moved
from batch_pipeline.pool.task import Move, Task, TaskEvent, TaskState

_WAITING, _TODO, _HELD = TaskState.WAITING, TaskState.TODO, TaskState.HELD
_DONE, _FAILED, _CANCELLED = TaskState.DONE, TaskState.FAILED, TaskState.CANCELLED
_OPEN = (_WAITING, _TODO)


def concerns_others(event: TaskEvent) -> bool:
    """Whether tasks that wait for this one may have to be looked at again."""
    ended = (None, _DONE, _FAILED, _CANCELLED)
    return event.source in ended or event.target in ended


def concerns_itself(change: Transition) -> bool:
    """Whether the task must be looked at again: it needs others, of which it is not said what they are by now."""
    if change.event is None or change.after is None or not change.after.spec.after:
        return False
    return change.after.state in _OPEN and change.event.move is not Move.FREED


def must_propagate(change: Transition, *, needed: bool) -> bool:
    """Whether tasks are to be looked at after a change. `needed`: others wait for its task, or may."""
    return change.event is not None and (concerns_itself(change) or (needed and concerns_others(change.event)))


def needs(states: Mapping[str, TaskState | None]) -> str | None:
    """What a task lacks, from the states of what it waits for (None: not in the pool); None: nothing, free it.

    Empty: what it waits for is on its way.
    """
    if all(state is _DONE for state in states.values()):
        return None
    words = ((name, "is not in the pool" if state is None else state.value) for name, state in states.items())
    hopeless = [f"{name} {word}" for name, word in words if word not in _ON_THEIR_WAY]
    more = f" and {len(hopeless) - 3} more" if len(hopeless) > 3 else ""
    return ", ".join(hopeless[:3]) + more


_ON_THEIR_WAY = frozenset(state.value for state in (_WAITING, _TODO, _HELD, _DONE))


def reconsidered(task: Task, lack: str | None, *, now_ms: int) -> Transition | None:
    """Frees a waiting task that lacks nothing, withholds one to be done that lacks something.

    Writes down what a waiting one lacks. None: it stays as it is.
    """
    if task.state is _WAITING and lack is None:
        after = replace(task, state=_TODO, moves=task.moves + 1, reason="")
        return moved(task, after, Move.FREED, now_ms=now_ms)
    if task.state is _TODO and lack is not None:
        after = replace(task, state=_WAITING, moves=task.moves + 1, reason=lack)
        return moved(task, after, Move.WITHHELD, now_ms=now_ms, why=lack)
    if task.state is _WAITING and lack != task.reason:
        return Transition(before=task, after=replace(task, reason=lack or ""), event=None)
    return None
