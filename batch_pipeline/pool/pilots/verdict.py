"""How an attempt at a task ended, in a reason, an exit code and a sentence. Pure."""

from __future__ import annotations

from typing import Final

from batch_pipeline.pool.task import Task, TaskOutcome, TaskSpec
from batch_pipeline.wire.contract import ContainerExit, EndReason, Variable
from batch_pipeline.wire.errors import BatchPipelineError, InvalidOutput, MissingInput, StoreFailed

#: Codes that mean the same whatever the command: put me back (BSD's EX_TEMPFAIL), killed, ended.
_OF_ANY: Final = (ContainerExit.INTERRUPTED, 137, 143)
_WORDS: Final = {
    EndReason.OUT_OF_MEMORY: "SIGKILL ended it. Unless a person sent that, it needed more memory than there was.",
    EndReason.INTERRUPTED: "It was interrupted.",
}
_MOST_CHARACTERS: Final = 300


def outcome_of_exit(task: Task, code: int, *, end_reason: EndReason | None, tail: str) -> TaskOutcome:
    """How it ended, from its exit code (-signal) and from what the pilot had told it."""
    exit_code = code if code >= 0 else 128 - code
    reason = _reason(task, exit_code, end_reason)
    return TaskOutcome(
        end_reason=reason, exit_code=exit_code, error=_error(task.spec, reason, exit_code, tail), log_tail=tail
    )


def outcome_of_error(error: Exception, spec: TaskSpec) -> TaskOutcome:
    """How it ended, from what went wrong around its command."""
    if isinstance(error, OSError):
        program = spec.command[0] if spec.command else "bash"
        missing = isinstance(error, (FileNotFoundError, PermissionError))
        hint = "It is no program of this host's PATH. Install it, or name its path." if missing else "Look at the host."
        error_text = f"{error.filename or program}: {error.strerror}"
        return TaskOutcome(
            end_reason=EndReason.STEP_FAILED,
            exit_code=127,
            error=f"{program} could not be started: {error_text}. {hint}",
        )
    reasons = (
        (MissingInput, EndReason.MISSING_INPUT),
        (InvalidOutput, EndReason.INVALID_OUTPUT),
        (StoreFailed, EndReason.STORE),
    )
    reason = next((reason for kind, reason in reasons if isinstance(error, kind)), EndReason.STEP_FAILED)
    return TaskOutcome(end_reason=reason, error=error.message if isinstance(error, BatchPipelineError) else str(error))


def _reason(task: Task, exit_code: int, end_reason: EndReason | None) -> EndReason:
    if end_reason is EndReason.TIMEOUT:
        return EndReason.TIMEOUT
    if exit_code == 0:
        return EndReason.FINISHED
    if end_reason is not None:
        return end_reason
    is_cell = Variable.MANIFEST in task.spec.environment
    return EndReason.of_exit(exit_code) if is_cell or exit_code in _OF_ANY else EndReason.STEP_FAILED


def _error(spec: TaskSpec, reason: EndReason, exit_code: int, tail: str) -> str:
    if reason is EndReason.FINISHED:
        return ""
    if reason is EndReason.TIMEOUT:
        return f"It ran longer than its time limit of {spec.time_limit_seconds:g} s and was ended."
    lines = [line for line in tail.splitlines() if line.strip() and not line.startswith("::")]
    last = f" Its last line: {lines[-1].strip()[:_MOST_CHARACTERS]}" if lines else ""
    return f"{_WORDS.get(reason, f'Exit code {exit_code}.')}{last}"
