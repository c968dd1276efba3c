"""Which moves a task may make and what comes of each: one table and pure functions, shared by all stores.

A function takes a task and returns a `Transition`: the task after the move, and the event that tells of it. A store
writes both in one optimistic write: if the task still is what the transition began with.

Each claim gives a task a new fencing number (`Task.fence`), and so does each forced move: who held it before is refused
from then on. (A little longer than most modules: one function a move, beside the table of them all.)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from batch_pipeline.pool.base import WriteResult
from batch_pipeline.pool.task import Action, Move, Task, TaskEvent, TaskOutcome, TaskSpec, TaskState, problems_of
from batch_pipeline.wire.contract import EndReason
from batch_pipeline.wire.errors import IllegalMove, InvalidTasks

_WAITING, _TODO, _HELD = TaskState.WAITING, TaskState.TODO, TaskState.HELD
_DONE, _FAILED, _CANCELLED = TaskState.DONE, TaskState.FAILED, TaskState.CANCELLED
_OPEN = frozenset({_WAITING, _TODO})
_ANY = frozenset(TaskState)

#: Move -> the states that it may leave, the states that it may reach. Any other raises `IllegalMove`.
LEGAL: Mapping[Move, tuple[frozenset[TaskState | None], frozenset[TaskState | None]]] = {
    Move.ADDED: (frozenset({None}), _OPEN),
    Move.FREED: (frozenset({_WAITING}), frozenset({_TODO})),
    Move.WITHHELD: (frozenset({_TODO}), frozenset({_WAITING})),
    Move.CLAIMED: (frozenset({_TODO}), frozenset({_HELD})),
    Move.DONE: (frozenset({_HELD}), frozenset({_DONE})),
    Move.FAILED: (frozenset({_HELD}), frozenset({_FAILED})),
    Move.AGAIN: (frozenset({_HELD}), frozenset({_TODO})),
    Move.RELEASED: (frozenset({_HELD}), frozenset({_TODO})),
    Move.EXPIRED: (frozenset({_HELD}), frozenset({_TODO})),
    Move.LOST: (frozenset({_HELD}), frozenset({_FAILED})),
    Move.RETRIED: (frozenset({_FAILED, _CANCELLED}), _OPEN),
    Move.RESET: (_ANY, _OPEN),
    Move.CANCELLED: (frozenset({_WAITING, _TODO, _HELD}), frozenset({_CANCELLED})),
    Move.DELETED: (_ANY, frozenset({None})),
    Move.UNDONE: (_ANY | {None}, _ANY - {_HELD}),
}
#: The move of each action.
MOVE_OF: Mapping[Action, Move] = {
    Action.RETRY: Move.RETRIED,
    Action.RESET: Move.RESET,
    Action.CANCEL: Move.CANCELLED,
    Action.DELETE: Move.DELETED,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Transition:
    """What a store is to write, if the task still is as it was: same state, same `moves`, same fencing number."""

    #: None: the task was not there.
    before: Task | None
    #: None: the task is gone.
    after: Task | None
    #: None: a lease is prolonged or a reason written down, which is no move.
    event: TaskEvent | None
    #: The lease too must be as it was: the task is taken from its holder, who may just have prolonged it.
    lease_counts: bool = False

    @property
    def task_id(self) -> str:
        """The task's id."""
        task = self.after or self.before
        return task.id if task else ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Holder:
    """Who claims tasks, since when, and under which lease."""

    owner: str
    native_id: str
    lease_ms: int
    now_ms: int


def moved(before: Task | None, after: Task | None, move: Move, /, *, now_ms: int, **fields: Any) -> Transition:
    """Makes the change from one state to another.

    Raises
    ------
    IllegalMove
        The table has no such move.
    """
    source, target = before and before.state, after and after.state
    sources, targets = LEGAL[move]
    task = after or before
    if task is None or source not in sources or target not in targets:
        names = [state.value if state else "absent" for state in (source, target)]
        raise IllegalMove(f"Task {task.id if task else ''} cannot go from {names[0]} to {names[1]} ({move.value}).")
    number = after.moves if after else task.moves + 1
    event = TaskEvent(
        task_id=task.id,
        number=number,
        at_ms=now_ms,
        move=move,
        source=source,
        target=target,
        fence=task.fence,
        **fields,
    )
    return Transition(before=before, after=after, event=event)


def added(spec: TaskSpec, *, now_ms: int, past: TaskEvent | None = None) -> Transition:
    """Adds a task; one that names others waits until it is reconsidered, even if they are done.

    `past`: the last event of a deleted task of this id. Its numbers go on, so that who held that one stays refused.

    Raises
    ------
    InvalidTasks
        It breaks a rule.
    """
    if problem := next(problems_of(spec), ""):
        raise InvalidTasks(f"Task {spec.id!r}: {problem}")
    moves, fence = (past.number + 1, past.fence + 1) if past else (1, 0)
    task = Task(spec=spec, state=_opened(spec), moves=moves, fence=fence, added_at_ms=now_ms)
    return moved(None, task, Move.ADDED, now_ms=now_ms)


def claimed(task: Task, holder: Holder) -> Transition:
    """Holds a task, with a new fencing number."""
    after = replace(
        task,
        state=_HELD,
        moves=task.moves + 1,
        fence=task.fence + 1,
        owner=holder.owner,
        native_id=holder.native_id,
        lease_ms=holder.lease_ms,
        lease_until_ms=holder.now_ms + holder.lease_ms,
        progress=None,
        reason="",
        claimed_at_ms=holder.now_ms,
    )
    return moved(task, after, Move.CLAIMED, now_ms=holder.now_ms, owner=holder.owner)


def renewed(task: Task, *, now_ms: int, progress: float | None) -> Transition:
    """Prolongs a lease."""
    kept = task.progress if progress is None else progress
    after = replace(task, lease_until_ms=now_ms + task.lease_ms, progress=kept)
    return Transition(before=task, after=after, event=None)


def settled(task: Task, outcome: TaskOutcome, *, now_ms: int) -> Transition:
    """Ends an attempt: done, failed for good, or to be done again."""
    move, attempts, returns = judged(task, outcome.end_reason)
    after = replace(_let_go(task, STATE_AFTER[move], now_ms), attempts=attempts, returns=returns, outcome=outcome)
    return moved(task, after, move, now_ms=now_ms, owner=task.owner, why=outcome.error, outcome=briefly(outcome))


#: Where a move that ends an attempt leads.
STATE_AFTER = {
    Move.DONE: _DONE,
    Move.FAILED: _FAILED,
    Move.AGAIN: _TODO,
    Move.RELEASED: _TODO,
    Move.LOST: _FAILED,
}


def briefly(outcome: TaskOutcome) -> TaskOutcome:
    """An outcome as events keep it: without the last lines of the log, whose key it has."""
    return replace(outcome, log_tail="") if outcome.log_tail else outcome


def judged(task: Task, end_reason: EndReason) -> tuple[Move, int, int]:
    """What an end means for a task: the move, and its attempts and returns from now on."""
    if end_reason is EndReason.FINISHED:
        return Move.DONE, task.attempts, task.returns
    if end_reason.is_blameless:
        # The task goes back without counting as failed.
        move = Move.RELEASED if task.returns < task.spec.most_returns else Move.LOST
        return move, task.attempts, task.returns + 1
    move = Move.AGAIN if task.attempts + 1 < task.spec.most_attempts else Move.FAILED
    return move, task.attempts + 1, task.returns


def released(task: Task, *, now_ms: int, why: str, counted: bool) -> Transition:
    """Gives a task back. Counted, it may thereby be lost."""
    if counted and task.returns >= task.spec.most_returns:
        return _lost(task, now_ms, why)
    after = replace(_let_go(task, _TODO, now_ms), returns=task.returns + counted)
    return moved(task, after, Move.RELEASED, now_ms=now_ms, owner=task.owner, why=why)


def expired(task: Task, *, now_ms: int) -> Transition:
    """Takes a task back from a holder that was not heard of."""
    why = f"{task.owner} was not heard of for {task.lease_ms / 1000:g} s"
    if task.returns >= task.spec.most_returns:
        return replace(_lost(task, now_ms, why), lease_counts=True)
    after = replace(_let_go(task, _TODO, now_ms), returns=task.returns + 1)
    change = moved(task, after, Move.EXPIRED, now_ms=now_ms, owner=task.owner, why=why)
    return replace(change, lease_counts=True)


def _lost(task: Task, now_ms: int, why: str) -> Transition:
    error = f"It came back {task.returns + 1} times, at last because: {why}. See what kills its pilots, then retry it."
    outcome = TaskOutcome(end_reason=EndReason.LOST, error=error)
    after = replace(_let_go(task, _FAILED, now_ms), returns=task.returns + 1, outcome=outcome)
    return moved(task, after, Move.LOST, now_ms=now_ms, owner=task.owner, why=why, outcome=outcome)


def _let_go(task: Task, state: TaskState, now_ms: int) -> Task:
    progress = task.progress if state is not _DONE else 1.0
    return replace(
        task, state=state, moves=task.moves + 1, lease_ms=0, lease_until_ms=0, progress=progress, ended_at_ms=now_ms
    )


def answered(change: Transition, current: Task | None) -> WriteResult:
    """What a holder is told whose write did not pass: it was here before, or it is refused.

    Two writes of one claim are the same if they left the same state by the same move; no other claim can have made it,
    for the fencing number is this claim's.
    """
    return (
        WriteResult.REPEATED
        if current and change.after and _left(current) == _left(change.after)
        else WriteResult.REFUSED
    )


def _left(task: Task) -> tuple[object, ...]:
    return task.fence, task.moves, task.state, task.attempts, task.returns, task.outcome


def acted(task: Task, action: Action, *, now_ms: int, act: str, who: str = "", force: bool = False) -> Transition:
    """Does a person's action to a task.

    Raises
    ------
    IllegalMove
        The action does not suit the task's state, or a pilot holds it and `force` is not said.
    """
    move = MOVE_OF[action]
    if task.is_live(now_ms) and not force:
        raise IllegalMove(
            f"Task {task.id} is held by {task.owner} for another {(task.lease_until_ms - now_ms) / 1000:.0f} s; wait "
            "for it, or use --force to take it away."
        )
    return moved(task, _AFTER_ACTION[action](task, now_ms), move, now_ms=now_ms, owner=who, act=act, before=task)


def _cleared(task: Task, now_ms: int) -> Task:
    del now_ms
    return Task(
        spec=task.spec,
        state=_opened(task.spec),
        moves=task.moves + 1,
        fence=task.fence + (task.state is _HELD),
        added_at_ms=task.added_at_ms,
    )


def _retried(task: Task, now_ms: int) -> Task:
    # What is known of the last attempt stays to be seen until the next one ends.
    cleared = _cleared(task, now_ms)
    return replace(
        cleared, owner=task.owner, outcome=task.outcome, claimed_at_ms=task.claimed_at_ms, ended_at_ms=task.ended_at_ms
    )


def _cancelled(task: Task, now_ms: int) -> Task:
    fence = task.fence + (task.state is _HELD)
    return replace(_let_go(task, _CANCELLED, now_ms), fence=fence)


_AFTER_ACTION: Mapping[Action, Callable[[Task, int], Task | None]] = {
    Action.RETRY: _retried,
    Action.RESET: _cleared,
    Action.CANCEL: _cancelled,
    Action.DELETE: lambda task, now_ms: None,
}


def undone(
    event: TaskEvent, current: Task | None, *, past: TaskEvent | None, now_ms: int, act: str, who: str = ""
) -> Transition:
    """Gives a task back what it was before a person's move. `past`: if it is deleted, its last event.

    Raises
    ------
    IllegalMove
        The event was no person's, or something happened to the task since.
    """
    before = event.before
    if before is None:
        raise IllegalMove(f"Move {event.number} of task {event.task_id} ({event.move.value}) cannot be undone.")
    if (current.moves if current else past and past.number) != event.number:
        raise IllegalMove(f"Task {event.task_id} has moved since it was {event.move.value}; look at its events.")
    held = before.state is _HELD
    after = replace(
        before,
        state=_opened(before.spec) if held else before.state,
        moves=event.number + 1,
        fence=max(before.fence, current.fence if current else 0) + held,
        lease_ms=0,
        lease_until_ms=0,
    )
    return moved(
        current, after, Move.UNDONE, now_ms=now_ms, owner=who, act=act, before=current, why=f"undid {event.act}"
    )


def _opened(spec: TaskSpec) -> TaskState:
    return _WAITING if spec.after else _TODO
