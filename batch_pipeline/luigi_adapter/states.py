"""Decides what Luigi's page shows of a run. Pure, and free of Luigi.

Every step that is not over is RUNNING, also while all of its cells wait: luigid takes no PENDING for ten seconds after
a task was DONE, and Luigi's part of the step, its submission, is behind it. The page takes a status line for HTML, so
no name that a user gave, of a sample say, may stand in one; explanations are escaped there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from batch_pipeline.records.events import Outcome, StepProgress

RUNNING: Final = "RUNNING"
DONE: Final = "DONE"
FAILED: Final = "FAILED"

#: How many cells an explanation names.
CELLS_NAMED: Final = 20

#: Below an explanation luigid's page shows a command that would find no such task.
_REMEDY: Final = "To run what is missing, give the pipeline's own command again (not the one that Luigi shows)."
_ABANDONED: Final = "The driver ended before the jobs did; they may go on. The same command adopts them."


@dataclass(frozen=True, kw_only=True)
class LuigiTaskStatus:
    """What the page shows of a task."""

    #: RUNNING, DONE or FAILED.
    status: str
    percent: int = 0
    line: str = ""
    #: Why it failed.
    explanation: str = ""


NOTHING_TO_SUBMIT: Final = LuigiTaskStatus(status=DONE, percent=100, line="nothing to submit")


def status_of(progress: StepProgress) -> LuigiTaskStatus:
    """The status of a step, or of all, while the driver watches."""
    # Rounded down: 100 is for those that are over.
    status = LuigiTaskStatus(status=RUNNING, percent=int(100 * progress.fraction), line=progress.line)
    if progress.over and progress.failures:
        return _failed(status, f"{progress.step}: {progress.line}.")
    return replace(status, status=DONE) if progress.over else status


def last_statuses_of(name: str, outcome: Outcome) -> dict[str, LuigiTaskStatus]:
    """The statuses of the steps, and of all under the pipeline's name, when the driver returns."""
    statuses = {step: _last(counts, outcome, _reasons(step, outcome)) for step, counts in outcome.progress.items()}
    see_steps = ["See its steps."] if outcome.failed or outcome.blocked else []
    return {**statuses, name: _last(StepProgress.sum_of(name, outcome.progress.values()), outcome, see_steps)}


def _last(progress: StepProgress, outcome: Outcome, reasons: Sequence[str]) -> LuigiTaskStatus:
    status = status_of(progress)
    if reasons:
        return _failed(status, "\n".join([f"{progress.step}: {progress.line}.", *reasons]))
    if status.status != RUNNING:
        return status
    if outcome.detached:
        line = f"submitted, driver detached: {status.line}; the jobs go on, see `status`"
        return replace(status, status=DONE, line=line)
    return _failed(status, f"The driver was {'interrupted' if outcome.interrupted else 'ended'} at: {status.line}.")


def _reasons(step: str, outcome: Outcome) -> list[str]:
    cells = [
        f"{cell.sample}: {cell.reason.words}{f' of {cell.because_of}' if cell.because_of else ''}: {cell.message}"
        for cell in outcome.failed
        if cell.step == step
    ]
    cells += [f"{sample}: {sentence}" for blocked, sample, sentence in outcome.blocked if blocked == step]
    more = [f"and {len(cells) - CELLS_NAMED} more"] if len(cells) > CELLS_NAMED else []
    return [*cells[:CELLS_NAMED], *more, _REMEDY] if cells else []


def abandoned(status: LuigiTaskStatus) -> LuigiTaskStatus:
    """The status of a task whose driver ended without an outcome."""
    return _failed(status, _ABANDONED) if status.status == RUNNING else status


def _failed(status: LuigiTaskStatus, explanation: str) -> LuigiTaskStatus:
    return replace(status, status=FAILED, explanation=explanation)
