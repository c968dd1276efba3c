"""When a pilot starts no more tasks: stop criteria, the prediction of run times, backoff of an idle pilot. Pure.

`RuntimeEstimator` predicts: a task is not begun if, by the time that nine of ten of its class took, it would end after
the wall time. All times are in seconds, on one clock that only goes forward, and there is one wall time for a pilot
with all that it runs at once.
"""

from __future__ import annotations

import random
from bisect import insort
from collections import deque
from typing import Final

from batch_pipeline.pool.pilots.pilot_config import PilotStats, StopCriteria

#: The part of a class's tasks that must have been as fast as the time that is left.
QUANTILE: Final = 0.9
#: Tasks of a class that are remembered.
REMEMBERED: Final = 200
#: The first and the longest pause of a pilot that finds nothing to do, and how they grow.
SHORTEST_PAUSE: Final = 0.05
LONGEST_PAUSE: Final = 5.0
_GROWTH: Final = 1.7


def stop_reason(criteria: StopCriteria, stats: PilotStats, begun: int) -> str:
    """Why nothing more is begun, of `begun` tasks so far; empty: go on."""
    if criteria.tasks is not None and begun >= criteria.tasks:
        return f"{begun} tasks were begun"
    if criteria.total_seconds is not None and stats.seconds >= criteria.total_seconds:
        return f"{criteria.total_seconds:g} s are over"
    if criteria.wall_seconds is not None and stats.seconds >= criteria.wall_seconds:
        return f"the wall time of {criteria.wall_seconds:g} s is over"
    if criteria.scrubs is not None and stats.failed + stats.again >= criteria.scrubs:
        return f"{stats.failed + stats.again} attempts failed"
    if criteria.idle_seconds is not None and stats.idle_seconds >= criteria.idle_seconds:
        return f"there was nothing to do for {criteria.idle_seconds:g} s"
    return ""


class RuntimeEstimator:
    """Knows how long tasks took, and tells whether another would end in time."""

    def __init__(self, wall_at: float | None) -> None:
        self._wall_at = wall_at
        self._latest: dict[str, deque[float]] = {}
        self._sorted: dict[str, list[float]] = {}
        #: Of all that are remembered.
        self._sum, self._count = 0.0, 0

    def took(self, resource_class: str, seconds: float) -> None:
        """A task of a class ended by itself after so long."""
        latest = self._latest.setdefault(resource_class, deque())
        ordered = self._sorted.setdefault(resource_class, [])
        latest.append(seconds)
        insort(ordered, seconds)
        self._sum, self._count = self._sum + seconds, self._count + 1
        if len(latest) > REMEMBERED:
            oldest = latest.popleft()
            ordered.remove(oldest)
            self._sum, self._count = self._sum - oldest, self._count - 1

    def expected(self, resource_class: str) -> float | None:
        """What nine of ten tasks of a class took at most; None: none has ended yet."""
        ordered = self._sorted.get(resource_class)
        return ordered[min(len(ordered) - 1, int(QUANTILE * len(ordered)))] if ordered else None

    def mean(self) -> float | None:
        """What the latest tasks of all classes took, on average."""
        return max(0.0, self._sum) / self._count if self._count else None

    def fits(self, resource_class: str, now: float, limit: float | None = None) -> bool:
        """Whether a task begun now would end in time. Of a class that nobody knows: if its own limit, if any, does."""
        if self._wall_at is None:
            return True
        expected = self.expected(resource_class)
        needed = expected if expected is not None else limit or 0.0
        return now + needed < self._wall_at


class Pauses:
    """The pauses of a pilot that finds nothing: longer and longer, no two pilots in step."""

    def __init__(self, longest: float = LONGEST_PAUSE, chance: random.Random | None = None) -> None:
        self._longest = longest
        self._chance = chance or random.Random()
        self._next = SHORTEST_PAUSE

    def next(self) -> float:
        """The next pause."""
        pause = min(self._next, self._longest)
        self._next = min(self._next * _GROWTH, self._longest)
        return pause * self._chance.uniform(0.5, 1.0)

    def reset(self) -> None:
        """Something was found."""
        self._next = SHORTEST_PAUSE
