"""What Luigi's page shows of a run, decided from what the driver tells. Pure, and free of Luigi.

Every step that is not over is RUNNING, also while all of its cells wait: luigid takes no PENDING for ten seconds after
a task was DONE, and Luigi's part of the step, its submission, is behind it. The page takes a status line for HTML, so
no name that a user gave, of a sample say, may stand in one; explanations are escaped there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from batch_pipeline.records.events import FailedCell, Outcome, StepProgress
from batch_pipeline.wire.contract import EndReason

RUNNING: Final = "RUNNING"
DONE: Final = "DONE"
FAILED: Final = "FAILED"

#: How many cells an explanation names.
CELLS_NAMED: Final = 20

#: Below an explanation luigid's page shows a command that would find no such task.
NOT_LUIGIS: Final = "To run what is missing, give the pipeline's own command again (not the one that Luigi shows)."


@dataclass(frozen=True, kw_only=True)
class TaskState:
    """What the page shows of a task."""

    #: RUNNING, DONE or FAILED.
    status: str
    percent: int = 0
    line: str = ""
    #: Why it failed.
    explanation: str = ""


def whole(name: str, progress: Mapping[str, StepProgress]) -> StepProgress:
    """The counts of all steps together, under the workflow's name."""
    steps = progress.values()
    failed: Counter[EndReason] = Counter()
    for step in steps:
        failed.update(step.failed)
    return StepProgress(
        step=name,
        done_before=sum(step.done_before for step in steps),
        done=sum(step.done for step in steps),
        running=sum(step.running for step in steps),
        waiting=sum(step.waiting for step in steps),
        failed=failed,
        left_out=sum(step.left_out for step in steps),
    )


def state_of(progress: StepProgress) -> TaskState:
    """A step's, or the workflow's, state while the driver watches."""
    # Rounded down: 100 is for those that are over.
    shown = TaskState(status=RUNNING, percent=int(100 * progress.fraction), line=progress.line)
    if not progress.over:
        return shown
    if progress.failures:
        return replace(shown, status=FAILED, explanation=f"{progress.step}: {progress.line}.")
    return replace(shown, status=DONE)


def last_state_of(progress: StepProgress, outcome: Outcome) -> TaskState:
    """A step's state when the driver returns."""
    failed = [cell for cell in outcome.failed if cell.step == progress.step]
    blocked = [f"{sample}: {sentence}" for step, sample, sentence in outcome.blocked if step == progress.step]
    state = state_of(progress)
    if failed or blocked:
        lines = [f"{progress.step}: {progress.line}.", *_shortened([*map(_words, failed), *blocked]), NOT_LUIGIS]
        return replace(state, status=FAILED, explanation="\n".join(lines))
    return _left(state, outcome) if state.status == RUNNING else state


def last_state_of_all(progress: StepProgress, outcome: Outcome) -> TaskState:
    """The workflow's state when the driver returns."""
    state = state_of(progress)
    if outcome.failed or outcome.blocked:
        return replace(state, status=FAILED, explanation=f"{progress.step}: {progress.line}. See its steps.")
    return _left(state, outcome) if state.status == RUNNING else state


def abandoned(state: TaskState) -> TaskState:
    """The state of a task whose driver ended without saying how."""
    sentence = "The driver ended before the jobs did; they may go on. The same command adopts them."
    return replace(state, status=FAILED, explanation=sentence) if state.status == RUNNING else state


def _left(state: TaskState, outcome: Outcome) -> TaskState:
    if outcome.detached:
        return replace(
            state, status=DONE, line=f"submitted, driver detached: {state.line}; the jobs go on, see `status`"
        )
    word = "interrupted" if outcome.interrupted else "ended"
    return replace(state, status=FAILED, explanation=f"The driver was {word} at: {state.line}.")


def _words(cell: FailedCell) -> str:
    because = f" of {cell.because_of}" if cell.because_of else ""
    return f"{cell.sample}: {cell.reason.words}{because}: {cell.message}"


def _shortened(lines: Sequence[str]) -> list[str]:
    more = len(lines) - CELLS_NAMED
    return [*lines[:CELLS_NAMED], *([f"and {more} more"] if more > 0 else [])]
