"""Events of a driver's work as values, and the `Listener` protocol that receives them.

The command line listens to draw bars, Luigi's adapter to report to its scheduler; neither is known to the driver.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from batch_pipeline.pipeline.plan import Plan
from batch_pipeline.wire.contract import EndReason
from batch_pipeline.wire.plain_text import one_line

_COUNTS = ("done_before", "done", "running", "waiting", "left_out", "excluded")
#: Reasons that are nobody's failure.
_WORDS = {EndReason.DEPENDENCY: "not run", EndReason.CANCELLED: "cancelled"}


@dataclass(frozen=True, kw_only=True)
class StepProgress:
    """How far a step is, over all jobs that a driver watches. Counts are cells."""

    step: str
    #: Cells that were done before this run, then cells done since.
    done_before: int = 0
    done: int = 0
    running: int = 0
    #: Queued, not yet running.
    waiting: int = 0
    #: Ended otherwise than done, by reason; DEPENDENCY ones never ran.
    failed: Mapping[EndReason, int] = field(default_factory=dict)
    #: Cells that this run does not touch: blocked, deferred, not chosen.
    left_out: int = 0
    #: Cells that the condition of their step excludes; they are not in `total`.
    excluded: int = 0

    @classmethod
    def sum_of(cls, name: str, steps: Collection[StepProgress]) -> StepProgress:
        """The counts of several steps together, under a name: the pipeline's."""
        failed: Counter[EndReason] = sum((Counter(step.failed) for step in steps), Counter())
        return cls(step=name, failed=failed, **{key: sum(getattr(step, key) for step in steps) for key in _COUNTS})

    @property
    def total(self) -> int:
        """All cells of the step that no condition excludes."""
        return self.done_before + self.done + self.running + self.waiting + self.failures + self.left_out

    @property
    def failures(self) -> int:
        """Cells that ended otherwise than done."""
        return sum(self.failed.values())

    @property
    def over(self) -> bool:
        """Whether nothing of it is running or waiting."""
        return not self.running and not self.waiting

    @property
    def fraction(self) -> float:
        """Share of its cells that ended, 0 to 1."""
        moving = self.running + self.waiting
        return 1.0 if not self.total else 1 - moving / self.total

    @property
    def line(self) -> str:
        """The status in words: `7/9 done, 1 running, 1 failed: out of memory`."""
        parts = [f"{self.done_before + self.done}/{self.total} done"]
        parts += [f"{count} {word}" for count, word in ((self.running, "running"), (self.waiting, "waiting")) if count]
        for reason, count in sorted(self.failed.items(), key=lambda item: (-item[1], item[0].value)):
            bare = _WORDS.get(reason)
            parts.append(f"{count} {bare}" if bare else f"{count} failed: {reason.words}")
        if self.left_out:
            parts.append(f"{self.left_out} left out")
        if self.excluded:
            parts.append(f"{self.excluded} excluded")
        return ", ".join(parts)


@dataclass(frozen=True, kw_only=True)
class FailedCell:
    """A cell that ended otherwise than done."""

    step: str
    sample: str
    reason: EndReason
    #: One printable line (`plain_text`): from the failure record, else the backend's words.
    message: str
    run_id: str = ""
    attempt: int | None = None
    exit_code: int | None = None
    #: The upstream cell on whose account it never ran (`step`), when reason is DEPENDENCY.
    because_of: str = ""
    #: MiB that it had, and the queue where it was; 0 and empty where nobody wrote it down.
    memory_mb: int = 0
    queue: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "message", one_line(self.message))


@dataclass(frozen=True, kw_only=True)
class RetrySummary:
    """Cells of a step that are sent again, all for one reason and with the same."""

    step: str
    reason: EndReason
    cells: int
    #: None: as defined.
    memory_mb: int | None = None
    #: Empty: the run's own.
    queue: str = ""

    @property
    def line(self) -> str:
        """In words: `picard: 12 cells sent again with 8,192 MiB (out of memory)`."""
        how = f" with {self.memory_mb:,} MiB" if self.memory_mb else ""
        where = f" to queue {self.queue}" if self.queue else ""
        what = "cell" if self.cells == 1 else "cells"
        return f"{self.step}: {self.cells:,} {what} sent again{how}{where} ({self.reason.words})"


@dataclass(frozen=True, kw_only=True)
class Removed:
    """Files of temporary outputs that were removed."""

    files: int = 0
    size_bytes: int = 0

    def __add__(self, other: Removed) -> Removed:
        return Removed(files=self.files + other.files, size_bytes=self.size_bytes + other.size_bytes)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a driver's work ended."""

    #: Runs that it submitted or adopted, newest last; empty when nothing was to do.
    run_ids: Sequence[str]
    progress: Mapping[str, StepProgress]
    failed: Sequence[FailedCell]
    #: Cells that could not be planned: (step, sample, sentence).
    blocked: Sequence[tuple[str, str, str]] = ()
    #: Jobs go on without the driver.
    detached: bool = False
    #: Somebody pressed Ctrl-C.
    interrupted: bool = False
    #: Jobs that were sent.
    submitted: int = 0
    #: Cells of later waves, gathers among them, that are not sent: the command does not wait for room, or was stopped.
    unsent: int = 0
    #: What was sent again in the course of it, in this order.
    again: Sequence[RetrySummary] = ()
    #: Why nothing more was sent, neither later waves nor what could be sent again; empty: it was.
    stopped_by: str = ""
    #: Temporary outputs that every reader was done with.
    removed: Removed = field(default_factory=Removed)
    store_calls: Mapping[str, int] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether every chosen cell is done (or, detached, on its way)."""
        is_sent = self.detached or not self.unsent
        return is_sent and not self.failed and not self.blocked and not self.interrupted


class Listener(Protocol):
    """Hears what a driver does, in this order; planned to again may repeat (waves). Must not raise."""

    def planned(self, plan: Plan) -> None:
        """The plan of a wave, before anything is recorded or sent."""

    def run_began(self, run_id: str, folder: str) -> None:
        """The run record is in the store; `folder` is its URL."""

    def submitted(self, run_id: str, step: str, job: str, native_id: str, size: int) -> None:
        """One job is queued."""

    def progressed(self, progress: Mapping[str, StepProgress]) -> None:
        """The counts changed. Every step of the pipeline is there, in order."""

    def stuck(self, step: str, sentence: str) -> None:
        """Jobs of a step have waited for long, and why: told once for each reason."""

    def again(self, lines: Sequence[RetrySummary]) -> None:
        """These cells ended and will be sent again; the next wave follows."""

    def ended(self, outcome: Outcome) -> None:
        """The driver is about to return."""


class NullListener:
    """A listener that does nothing; base of those that handle some events only."""

    def planned(self, plan: Plan) -> None:
        """See `Listener.planned`."""

    def run_began(self, run_id: str, folder: str) -> None:
        """See `Listener.run_began`."""

    def submitted(self, run_id: str, step: str, job: str, native_id: str, size: int) -> None:
        """See `Listener.submitted`."""

    def progressed(self, progress: Mapping[str, StepProgress]) -> None:
        """See `Listener.progressed`."""

    def stuck(self, step: str, sentence: str) -> None:
        """See `Listener.stuck`."""

    def again(self, lines: Sequence[RetrySummary]) -> None:
        """See `Listener.again`."""

    def ended(self, outcome: Outcome) -> None:
        """See `Listener.ended`."""


class CompositeListener(NullListener):
    """Several listeners as one: each event goes to all of them, in their order."""

    def __init__(self, listeners: Sequence[Listener]) -> None:
        self._listeners = listeners

    def planned(self, plan: Plan) -> None:
        """See `Listener.planned`."""
        for listener in self._listeners:
            listener.planned(plan)

    def run_began(self, run_id: str, folder: str) -> None:
        """See `Listener.run_began`."""
        for listener in self._listeners:
            listener.run_began(run_id, folder)

    def submitted(self, run_id: str, step: str, job: str, native_id: str, size: int) -> None:
        """See `Listener.submitted`."""
        for listener in self._listeners:
            listener.submitted(run_id, step, job, native_id, size)

    def progressed(self, progress: Mapping[str, StepProgress]) -> None:
        """See `Listener.progressed`."""
        for listener in self._listeners:
            listener.progressed(progress)

    def stuck(self, step: str, sentence: str) -> None:
        """See `Listener.stuck`."""
        for listener in self._listeners:
            listener.stuck(step, sentence)

    def again(self, lines: Sequence[RetrySummary]) -> None:
        """See `Listener.again`."""
        for listener in self._listeners:
            listener.again(lines)

    def ended(self, outcome: Outcome) -> None:
        """See `Listener.ended`."""
        for listener in self._listeners:
            listener.ended(outcome)
