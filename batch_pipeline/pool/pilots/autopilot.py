"""The autopilot: as many pilots as the backlog of each resource class needs, up to a cap, those queued counted in.

`wanted` decides, purely; `Autopilot` asks and launches. It never ends a pilot: pilots end by themselves when nothing is
left for them.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Protocol

from batch_pipeline.log import Facts
from batch_pipeline.pool.base import Backlog, Counts
from batch_pipeline.pool.pilots.stop_policy import Pauses
from batch_pipeline.pool.task import TaskState

_LOG: Final = logging.getLogger(__name__)


class Launcher(Protocol):
    """Starts pilots of one place, and knows how many there are."""

    def alive(self, resource_class: str) -> int:
        """Pilots of a class that run or are queued."""

    def launch(self, resource_class: str, count: int) -> str:
        """Starts so many of a class; says what was started, for people."""


@dataclass(frozen=True, kw_only=True)
class Sizing:
    """How many pilots there shall be."""

    #: Pilots of each class at the most, unless `caps` says otherwise of a class.
    most: int = 4
    caps: Mapping[str, int] | None = None
    #: Tasks for which one pilot is enough.
    tasks_per_pilot: int = 10

    def cap(self, resource_class: str) -> int:
        """Pilots of a class at the most."""
        return (self.caps or {}).get(resource_class, self.most)


def wanted(counts: Counts, resource_class: str, sizing: Sizing, alive: int) -> int:
    """How many pilots of a class are to be launched now: for what is to be done, not for what others hold."""
    backlog = counts.of(TaskState.TODO, [resource_class])
    held = counts.of(TaskState.HELD, [resource_class])
    # Pilots that are queued have claimed nothing yet; those that hold tasks will go on to the next ones.
    needed = math.ceil((backlog + held) / sizing.tasks_per_pilot) if backlog else 0
    return max(0, min(needed, sizing.cap(resource_class)) - alive)


class Autopilot:
    """Looks at a pool and launches what it lacks. `classes` None: those that the pool has."""

    def __init__(
        self,
        pool: Backlog,
        launcher: Launcher,
        sizing: Sizing,
        *,
        classes: Collection[str] | None,
        now_ms: Callable[[], int],
    ) -> None:
        self._pool = pool
        self._launcher = launcher
        self._sizing = sizing
        self._classes = classes
        self._now_ms = now_ms

    def look(self) -> Iterator[str]:
        """Launches what is lacking now, and takes back what dead pilots held; says what it did."""
        if expired_ids := self._pool.reap(now_ms=self._now_ms()):
            yield f"Took {len(expired_ids)} tasks back from pilots that were not heard of."
        counts = self._pool.counts()
        for name in sorted(counts.by_class if self._classes is None else self._classes):
            alive = self._launcher.alive(name)
            if count := wanted(counts, name, self._sizing, alive):
                launched = self._launcher.launch(name, count)
                _LOG.info("launched %s", Facts(resource_class=name, pilots=count, alive=alive))
                yield f"{name}: {launched}, beside {alive} there already."

    def over(self) -> bool:
        """Whether nothing is left that a pilot could do, now or when what is held ends."""
        counts = self._pool.counts()
        moving = counts.of(TaskState.TODO) + counts.of(TaskState.HELD)
        return not moving and not (counts.of(TaskState.WAITING) and self._pool.sweep(now_ms=self._now_ms()))

    def until_over(self, sleep: Callable[[float], object], longest_pause: float) -> Iterator[str]:
        """Looks again and again, with pauses that grow while nothing is to be launched, until the pool is drained."""
        pauses = Pauses(longest_pause)
        while True:
            sentences = list(self.look())
            yield from sentences
            if self.over():
                return
            if sentences:
                pauses.reset()
            sleep(pauses.next())
