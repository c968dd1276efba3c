"""Pilot configuration, stop criteria and statistics (dataclasses)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum


class Until(Enum):
    """Until when a pilot looks for tasks."""

    EMPTY = "empty"  #: Nothing is to be done, and nothing waits for a task that is held.
    SETTLED = "settled"  #: Nothing is to be done and nobody holds anything, so that nothing can come back.
    ENDLESS = "endless"  #: For ever: only the other criteria end it.


@dataclass(frozen=True, kw_only=True)
class StopCriteria:
    """When a pilot stops; None: never for that reason. The task that it is at goes on to its end."""

    until: Until = Until.SETTLED
    tasks: int | None = None
    #: From its start: no task is begun that would most likely end later, and what runs then is given back.
    wall_seconds: float | None = None
    #: From its start: no task is begun later.
    total_seconds: float | None = None
    #: Without a task.
    idle_seconds: float | None = None
    #: Attempts that failed or had to be given back: a host on which nothing works shall not go through all tasks.
    scrubs: int | None = None

    @property
    def any(self) -> bool:
        """Whether there is one, `until` aside."""
        return self != StopCriteria(until=self.until)


@dataclass(frozen=True, kw_only=True)
class PilotStats:
    """What a pilot has done so far: what criteria, those of a user too, are asked with."""

    done: int = 0
    failed: int = 0
    #: To be done again.
    again: int = 0
    #: Given back.
    released: int = 0
    #: Taken from it by another.
    refused: int = 0
    seconds: float = 0.0
    idle_seconds: float = 0.0

    @property
    def ended(self) -> int:
        """Attempts that it settled."""
        return self.done + self.failed + self.again


@dataclass(frozen=True, kw_only=True)
class PilotConfig:
    """How a pilot works."""

    owner: str
    native_id: str = ""
    items: int = 1
    nests: int = 1
    #: Classes that it claims; None: all.
    classes: frozenset[str] | None = None
    #: Class -> how many of it may run at once.
    class_slots: Mapping[str, int] = field(default_factory=dict)
    criteria: StopCriteria = field(default_factory=StopCriteria)
    lease_seconds: float = 60.0
    grace_seconds: float = 5.0
    #: Tasks that it holds ahead of its slots at the most.
    most_ahead: int = 10
    longest_pause: float = 5.0
    #: Variables of all commands; None: the pilot's own.
    environment: Mapping[str, str] | None = None
    #: Where logs and staged files lie while commands run; empty: the temporary folder.
    scratch: str = ""

    @property
    def slots(self) -> int:
        """Commands at once."""
        return self.items * self.nests


@dataclass(frozen=True, kw_only=True)
class Report:
    """What a pilot did, and why it ended."""

    stats: PilotStats
    why: str
    #: The signal that ended it; 0: none.
    signal: int = 0
