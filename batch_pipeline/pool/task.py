"""A task of the pool: its specification, its state with lease and fencing number, and the event of each move. Values.

A sub-task is a task with a `parent`. The parent is the name of its group and has no row, so nothing about it can be
counted wrongly: its state and its progress follow from those of its sub-tasks (`Nest`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum

from batch_pipeline.wire.contract import EndReason

#: Ids become keys of stores, of logs and of documents; CouchDB keeps those that begin with `_` to itself.
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:+=@,~/-]{0,254}")
_PORT = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")
_NO_TEXT = re.compile("[\0\ud800-\udfff]")
#: What every store can hold as a number.
MOST_PRIORITY = 1_000_000_000
ID_RULE = (
    "it begins with a letter or digit and has at most 255 letters, digits and . _ : + = @ , ~ / -, no // and no .."
)
#: A task's resource class when none is named.
DEFAULT_CLASS = "default"


class TaskState(Enum):
    """Where a task stands."""

    WAITING = "waiting"  #: For other tasks.
    #: Ready to be claimed.
    TODO = "todo"
    HELD = "held"  #: By a pilot, under a lease.
    DONE = "done"  #: Its command ended with 0.
    FAILED = "failed"  #: It ended otherwise, as often as it may.
    CANCELLED = "cancelled"  #: Somebody cancelled it.

    @property
    def final(self) -> bool:
        """Whether it changes no more unless somebody asks for it."""
        return self in (TaskState.DONE, TaskState.FAILED, TaskState.CANCELLED)


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskSpec:
    """What is asked of a task. It never changes: an import that differs is told, not taken."""

    id: str
    #: The program and its arguments. Empty if `shell` is there.
    command: tuple[str, ...] = ()
    #: A line for `bash -c`, instead of `command`.
    shell: str = ""
    #: Pilots claim by it: `small`, `gpu`, …
    resource_class: str = DEFAULT_CLASS
    #: The higher goes first.
    priority: int = 0
    environment: Mapping[str, str] = field(default_factory=dict)
    #: Port -> URL or key in the store; fetched before the command, stored after it.
    inputs: Mapping[str, str] = field(default_factory=dict)
    outputs: Mapping[str, str] = field(default_factory=dict)
    #: Ids of tasks that must be done before.
    after: tuple[str, ...] = ()
    #: Failures until it has failed.
    most_attempts: int = 1
    #: How often it may come back from a pilot that died or was interrupted: a task that kills its hosts stops here.
    most_returns: int = 20
    time_limit_seconds: float | None = None
    #: The item that this is a sub-task of; empty: of none.
    parent: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskOutcome:
    """How an attempt ended, as its pilot tells it."""

    end_reason: EndReason
    exit_code: int | None = None
    #: One sentence; empty if it went well.
    error: str = ""
    #: Key of the whole log in the store, and its last lines.
    log_key: str = ""
    log_tail: str = ""
    #: What the task said by `::result key=value`.
    fields: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """A task as it stands."""

    spec: TaskSpec
    state: TaskState
    #: Moves so far: the number of its last event, and the version that every write is conditional on.
    moves: int = 1
    #: Fencing number: grows with each claim and each forced move, is never set back.
    fence: int = 0
    #: Failures that count towards `most_attempts`; interruptions count as `returns`.
    attempts: int = 0
    returns: int = 0
    #: Who holds it, or held it last; and the native id of the job that this pilot is.
    owner: str = ""
    native_id: str = ""
    lease_ms: int = 0
    #: Until when it is held, by the clock of who claimed it; 0 if nobody does.
    lease_until_ms: int = 0
    #: Between 0 and 1, if the task tells.
    progress: float | None = None
    #: Why it waits or was cancelled.
    reason: str = ""
    #: How its last attempt ended.
    outcome: TaskOutcome | None = None
    added_at_ms: int = 0
    claimed_at_ms: int = 0
    #: When its last attempt ended.
    ended_at_ms: int = 0

    @property
    def id(self) -> str:
        """Its id."""
        return self.spec.id

    @property
    def heartbeat_at_ms(self) -> int:
        """When its holder was heard of last."""
        return self.lease_until_ms - self.lease_ms

    def is_live(self, now_ms: int) -> bool:
        """Whether it is held under a lease that has not ended."""
        return self.state is TaskState.HELD and self.lease_until_ms > now_ms


class Move(Enum):
    """What happens to a task. Which states each may join stands in `moves.LEGAL`."""

    ADDED = "added"
    FREED = "freed"  #: All that it waited for is done.
    WITHHELD = "withheld"  #: Something that it needs is not done any more.
    CLAIMED = "claimed"
    DONE = "done"
    FAILED = "failed"  #: For good.
    AGAIN = "again"  #: It failed and has attempts left.
    RELEASED = "released"  #: Given back by its holder, through no fault of its own.
    EXPIRED = "expired"  #: Taken back from a holder that was not heard of.
    LOST = "lost"  #: It came back too often.
    RETRIED = "retried"
    RESET = "reset"
    CANCELLED = "cancelled"
    DELETED = "deleted"
    UNDONE = "undone"


class Action(Enum):
    """What a person may do to tasks; the move that each makes has the same name."""

    RETRY = "retry"  #: What failed or was cancelled is to be done.
    RESET = "reset"  #: Whatever it is, it is to be done from the beginning.
    CANCEL = "cancel"  #: What has not ended is not to be done.
    DELETE = "delete"  #: It is gone, but for its history.


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskEvent:
    """One move of one task. Events are never changed or removed, so history survives a reset and a deletion."""

    task_id: str
    #: Counts from 1 for each task.
    number: int
    at_ms: int
    move: Move
    #: None: the task was not there.
    source: TaskState | None
    #: None: the task is not there any more.
    target: TaskState | None
    owner: str = ""
    fence: int = 0
    why: str = ""
    #: How the attempt ended, if this move ended one.
    outcome: TaskOutcome | None = None
    #: Of a person's moves: what they did at once has one name, and the task as it was before, for `undo`.
    act: str = ""
    before: Task | None = None


@dataclass(frozen=True, kw_only=True)
class Nest:
    """An item with sub-tasks: how many of them are in each state."""

    parent: str
    counts: Mapping[TaskState, int]

    @property
    def size(self) -> int:
        """How many sub-tasks there are."""
        return sum(self.counts.values())

    @property
    def progress(self) -> float:
        """The part of the sub-tasks that is done, between 0 and 1."""
        return self.counts.get(TaskState.DONE, 0) / self.size

    @property
    def state(self) -> TaskState:
        """The state of the whole: held while any is, to do while any is, else the worst end of one."""
        order = (TaskState.HELD, TaskState.TODO, TaskState.FAILED, TaskState.CANCELLED, TaskState.WAITING)
        return next((state for state in order if self.counts.get(state)), TaskState.DONE)


def problems_of(spec: TaskSpec) -> Iterator[str]:
    """What is wrong with a task, in sentences; nothing: it may be added."""
    names = [("id", spec.id), ("class", spec.resource_class), *[("after", other) for other in spec.after]]
    if spec.parent:
        names.append(("parent", spec.parent))
    for kind, name in names:
        if not _ID.fullmatch(name) or ".." in name or "//" in name or name.endswith("/"):
            yield f"{kind} {name!r} breaks the rule for ids: {ID_RULE}. Rename it."
    if bool(spec.command) == bool(spec.shell):
        yield "it needs either a command (a list of words) or a shell line; give one of them."
    if spec.id in spec.after:
        yield "it waits for itself; take it out of `after`."
    if spec.most_attempts < 1 or spec.most_returns < 0:
        yield f"it may be tried {spec.most_attempts} times; at least 1."
    if spec.time_limit_seconds is not None and not spec.time_limit_seconds > 0:
        yield f"its time limit is {spec.time_limit_seconds} seconds; it must be more than 0."
    if abs(spec.priority) > MOST_PRIORITY:
        yield f"its priority is {spec.priority}; it may be from -{MOST_PRIORITY} to {MOST_PRIORITY}."
    yield from _unfit(spec)


def _unfit(spec: TaskSpec) -> Iterator[str]:
    """What no program could be handed."""
    named = (spec.environment, spec.inputs, spec.outputs)
    texts = [*spec.command, spec.shell]
    for pairs in named:
        texts += [*pairs, *pairs.values()]
    if _NO_TEXT.search("\n".join(texts)):
        yield "a NUL character, or half of a character, cannot be handed to a program; take it out."
    if wrong := [name for name in spec.environment if not name or "=" in name]:
        yield f"a variable of its environment is called {wrong[0]!r}; it must have a name without =."
    if wrong := [name for name in (*spec.inputs, *spec.outputs) if not _PORT.fullmatch(name)]:
        yield f"a port is called {wrong[0]!r}; it may have letters, digits, _ and -, and begins with a letter."
