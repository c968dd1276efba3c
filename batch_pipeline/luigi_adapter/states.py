"""Decides what Luigi's page shows of a run. Pure, and free of Luigi.

Every step that is not over is RUNNING, also while all of its cells wait: luigid takes no PENDING for ten seconds after
a task was DONE, as each is once it is submitted. A detached run's tasks stay DONE; a driver that ends without an
outcome leaves them FAILED. The page takes a status line for HTML, so no name that a user gave, of a sample say, may
stand in one; explanations are escaped there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

from batch_pipeline.records.events import Outcome, StepProgress

#: How many cells an explanation names.
CELLS_NAMED: Final = 20

#: Below an explanation luigid's page shows a command that would find no such task.
_REMEDY: Final = "To run what is missing, give the pipeline's own command again (not the one that Luigi shows)."
_ABANDONED: Final = "The driver ended before the jobs did; they may go on. The same command adopts them."


@dataclass(frozen=True, kw_only=True)
class LuigiTaskStatus:
    """What the page shows of a task; the explanation says why it failed."""

    status: Literal["RUNNING", "DONE", "FAILED"]
    percent: int = 0
    line: str = ""
    explanation: str = ""


NOTHING_TO_SUBMIT: Final = LuigiTaskStatus(status="DONE", percent=100, line="nothing to submit")
PREPARED: Final = LuigiTaskStatus(status="DONE", percent=100, line="prepared")


def status_of(
    progress: StepProgress, *, outcome: Outcome | None = None, reasons: Sequence[str] = ()
) -> LuigiTaskStatus:
    """The status of a step, or of all: while the driver watches, or when it returns, and why cells failed."""
    # Rounded down: 100 is for those that are over.
    status = LuigiTaskStatus(status="RUNNING", percent=int(100 * progress.fraction), line=progress.line)
    if reasons or (progress.over and progress.failures):
        explanation = "\n".join([f"{progress.step}: {progress.line}.", *reasons])
        return replace(status, status="FAILED", explanation=explanation)
    if progress.over:
        return replace(status, status="DONE")
    if outcome is None:
        return status
    if outcome.detached:
        line = f"submitted, driver detached: {progress.line}; the jobs go on, see `status`"
        return replace(status, status="DONE", line=line)
    explanation = f"The driver was {'interrupted' if outcome.interrupted else 'ended'} at: {progress.line}."
    return replace(status, status="FAILED", explanation=explanation)


def last_statuses_of(name: str, outcome: Outcome) -> dict[str, LuigiTaskStatus]:
    """The statuses of the steps, and of all under the pipeline's name, when the driver returns."""
    reasons = {step: _reasons(step, outcome) for step in outcome.progress}
    reasons[name] = ["See its steps."] if outcome.failed or outcome.blocked else []
    progress = {**outcome.progress, name: StepProgress.sum_of(name, outcome.progress.values())}
    return {step: status_of(progress[step], outcome=outcome, reasons=reasons[step]) for step in progress}


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
    return replace(status, status="FAILED", explanation=_ABANDONED) if status.status == "RUNNING" else status
