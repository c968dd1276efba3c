"""Estimates how long a step still takes, from the counts of its cells over time. Pure.

The time that cells have run together, divided by those that have ended and half of those that run, is what a cell
takes; so is half of that left for one that runs. What is left is done by as many at a time as run now. Nothing is said
before some cells have ended, and nothing of a step that waits.
"""

from __future__ import annotations

from typing import Final

from batch_pipeline.records.events import StepProgress

#: Cells that must have ended before anything is said.
LEAST_ENDED: Final = 3


class TimeLeft:
    """The evidence of one step, from its first counts on."""

    def __init__(self) -> None:
        self._cell_seconds = 0.0
        self._first: StepProgress | None = None
        self._latest: tuple[float, int] = (0.0, 0)

    def seconds(self, progress: StepProgress, now: float) -> float | None:
        """Adds counts, as they are at a moment in seconds, and returns how long the step still takes; None: unknown."""
        if self._first is None:
            self._first = progress
        else:
            since, running = self._latest
            # Of the cells that began or ended between two looks, half is taken to have run.
            self._cell_seconds += (now - since) * (running + progress.running) / 2
        self._latest = (now, progress.running)
        ended = _ended(progress) - _ended(self._first)
        # Where cells had ended before the first look, those that ran then had run for half of their time, unseen.
        unseen = self._first.running if _ended(self._first) else 0
        cells = ended + (progress.running - unseen) / 2
        if min(ended, cells) < LEAST_ENDED or not progress.running:
            return None
        left = progress.waiting + progress.running / 2
        return left * self._cell_seconds / cells / progress.running


def _ended(progress: StepProgress) -> int:
    return progress.done + progress.failures
