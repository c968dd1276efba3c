"""What a pool is at: counts, how far items with sub-tasks are, rate and time left, and who holds what. Reads only.

Every task is counted, in whatever state, and an item's progress follows from the states of its sub-tasks.
"""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Final

from batch_pipeline.pool.base import MOST_LISTED, Counts, Filter, PoolReader, Statistics, TaskReader
from batch_pipeline.pool.stores.storage import chunks
from batch_pipeline.pool.task import Nest, Task, TaskState
from batch_pipeline.wire.processes import identity_of

#: Windows over which the rate is taken, in seconds: the first in which so many tasks ended tells.
WINDOWS: Final = (60, 600, 3600, 86_400)
ENOUGH_ENDS: Final = 20
#: Held and waiting tasks that are looked at, to tell who holds them and which wait in vain.
MOST_LOOKED_AT: Final = 10_000
#: How far items are: the words, and the progress above which the next begins.
QUARTILES: Final = (("0 %", 0.0), ("1-25 %", 0.25), ("26-50 %", 0.5), ("51-75 %", 0.75), ("76-99 %", 0.999_999))
WHOLE: Final = "100 %"
_WAITING: Final = frozenset({TaskState.WAITING})
_HELD: Final = frozenset({TaskState.HELD})
_DONE: Final = frozenset({TaskState.DONE})


@dataclass(frozen=True, kw_only=True)
class PilotView:
    """A pilot that holds tasks."""

    owner: str
    native_id: str
    #: How many, and the first ids.
    held: int
    ids: Sequence[str]
    #: When it was heard of last, and whether a lease of its has ended.
    heartbeat_at_ms: int
    is_late: bool
    #: What the place where it runs says of it; empty: nobody was asked, or knows.
    job_state: str = ""


@dataclass(frozen=True, kw_only=True)
class Overview:
    """What a pool is at."""

    counts: Counts
    #: Items with sub-tasks by how far they are: words -> number, and the first ids.
    progress: Mapping[str, int]
    progress_ids: Mapping[str, Sequence[str]]
    #: Items with sub-tasks by the state of the whole.
    items: Mapping[TaskState, int]
    #: Tasks that ended a second, lately; None: none did.
    rate: float | None
    holders: Sequence[PilotView] = ()
    #: Waiting tasks, of those looked at, that wait for something that failed, was cancelled or is not there.
    stuck: int = 0
    stuck_reasons: Mapping[str, str] = field(default_factory=dict)
    #: Waiting tasks, of those looked at, whose needs are all done: how many, and the first ids.
    unreleased: int = 0
    unreleased_ids: Sequence[str] = ()

    @property
    def left(self) -> int:
        """Tasks that are still to end, those that never will aside."""
        moving = (TaskState.WAITING, TaskState.TODO, TaskState.HELD)
        return sum(self.counts.of(state) for state in moving) - self.stuck

    @property
    def seconds_left(self) -> float | None:
        """How long the rest takes at this rate; None: nobody can tell."""
        return self.left / self.rate if self.rate and self.left > 0 else None


def overview(pool: PoolReader, *, now_ms: int, job_states: Callable[[Sequence[str]], Mapping[str, str]]) -> Overview:
    """Looks at a pool. `job_states` is asked for the states of native ids; what it does not know it leaves out."""
    counts = pool.counts()
    progress: Counter[str] = Counter()
    ids: dict[str, list[str]] = {}
    items: Counter[TaskState] = Counter()
    for nest in pool.nests():
        word = quartile(nest)
        progress[word] += 1
        items[nest.state] += 1
        if len(ids.setdefault(word, [])) < MOST_LISTED:
            ids[word].append(nest.parent)
    waiting = list(islice(_all(pool, Filter(states=_WAITING)), MOST_LOOKED_AT)) if counts.of(TaskState.WAITING) else []
    stuck = [task for task in waiting if task.reason]
    unreleased = _unreleased(pool, [task for task in waiting if not task.reason])
    return Overview(
        counts=counts,
        progress=progress,
        progress_ids=ids,
        items=items,
        rate=rate_of(pool, now_ms=now_ms),
        holders=_holders(pool, now_ms, job_states) if counts.of(TaskState.HELD) else (),
        stuck=len(stuck),
        stuck_reasons={task.id: task.reason for task in stuck[:MOST_LISTED]},
        unreleased=len(unreleased),
        unreleased_ids=unreleased[:MOST_LISTED],
    )


def _unreleased(pool: TaskReader, waiting: Sequence[Task]) -> list[str]:
    """Waiting tasks whose needs are all done: somebody is about to free them, or died before."""
    names = {name for task in waiting for name in task.spec.after}
    done = {task.id for some in chunks(names) for task in _all(pool, Filter(ids=frozenset(some), states=_DONE))}
    return [task.id for task in waiting if done.issuperset(task.spec.after)]


def quartile(nest: Nest) -> str:
    """How far an item is, in the words of `QUARTILES`."""
    return next((word for word, most in QUARTILES if nest.progress <= most), WHOLE)


def rate_of(pool: Statistics, *, now_ms: int) -> float | None:
    """Tasks that ended a second, over the shortest window that says enough, else over the longest with any."""
    rate = None
    for seconds in WINDOWS:
        ends = pool.ends_since(now_ms - 1000 * seconds)
        if ends:
            rate = rate if rate is not None and ends < ENOUGH_ENDS else ends / seconds
        if ends >= ENOUGH_ENDS:
            break
    return rate


def process_states(native_ids: Iterable[str]) -> dict[str, str]:
    """The states of pilots that are processes of this machine: `host/pid` as `pilot_id` makes it."""
    here = f"{socket.gethostname()}/"
    ours = {name: name.removeprefix(here) for name in native_ids if name.startswith(here)}
    return {name: "RUNNING" if pid.isdecimal() and identity_of(int(pid)) else "GONE" for name, pid in ours.items()}


def _all(pool: TaskReader, wanted: Filter) -> Iterator[Task]:
    cursor: str | None = None
    while True:
        page = pool.find(wanted, cursor=cursor)
        yield from page.tasks
        cursor = page.cursor
        if cursor is None:
            return


def _holders(
    pool: TaskReader, now_ms: int, job_states: Callable[[Sequence[str]], Mapping[str, str]]
) -> Sequence[PilotView]:
    by_owner: dict[tuple[str, str], list[Task]] = {}
    for task in islice(_all(pool, Filter(states=_HELD)), MOST_LOOKED_AT):
        by_owner.setdefault((task.owner, task.native_id), []).append(task)
    states = job_states([native_id for _, native_id in by_owner if native_id])
    return [
        PilotView(
            owner=owner,
            native_id=native_id,
            held=len(tasks),
            ids=[task.id for task in tasks[:MOST_LISTED]],
            heartbeat_at_ms=max(task.heartbeat_at_ms for task in tasks),
            is_late=any(not task.is_live(now_ms) for task in tasks),
            job_state=states.get(native_id, ""),
        )
        for (owner, native_id), tasks in sorted(by_owner.items())
    ]
