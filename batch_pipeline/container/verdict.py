"""Says in one sentence, an exit code and a reason how an attempt ended: one table from what was raised to what is told.

Steps raise our own errors, those of `sh` and `subprocess` (known by their attributes: neither is imported here), or
anything else, which is a bug in the step and leaves its traceback in the log.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from batch_pipeline.container.log import say
from batch_pipeline.container.logger import without_log_lines
from batch_pipeline.wire.contract import ContainerExit, EndReason
from batch_pipeline.wire.durable import NO_SPACE
from batch_pipeline.wire.errors import BatchPipelineError, DiskFull, InvalidUse, StepError, StoreFailed

#: 128 + SIGKILL: what a container ends with whose step needed more memory than there was.
KILLED = 137
#: How a process that SIGKILL ended is told: by the kernel, and by a shell of what it ran.
_SIGKILLED = (-9, KILLED)
#: Part of the job's memory below which a kill is not for memory, where the kernel does not count its own.
_FAR_BELOW = 0.5

_HINT = "It most likely needed more memory than its job has: raise memory_mb."
#: What tools print when they ran out of something, by the exit code that says so.
_SIGNS = (
    (b"No space left on device", ContainerExit.DISK_FULL, "No space was left on its disk: give it a larger one."),
    (b"Disk quota exceeded", ContainerExit.DISK_FULL, "Its disk quota was used up: raise it."),
    (b"java.lang.OutOfMemoryError", KILLED, _HINT),
    (b"std::bad_alloc", KILLED, _HINT),
    (b"Cannot allocate memory", KILLED, _HINT),
)


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """How an attempt, or the part of it that ran the step, ended."""

    exit_code: int = ContainerExit.DONE
    message: str = ""
    #: Whether the last line of the log would say more; `with_log` adds it.
    wants_log: bool = False
    #: Whether SIGKILL ended it and why is not known yet; `explained` tells.
    killed: bool = False
    metrics: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)

    @property
    def reason(self) -> EndReason:
        """Why it ended; a script may use our codes too, for the driver reads nothing else."""
        return EndReason.of_exit(self.exit_code)

    def with_log(self, tail: bytes) -> Verdict:
        """With what the end of the log adds: a sign of a full disk or memory, and the last line."""
        if not self.wants_log:
            return self
        by_sign = _from_signs(self.message, tail)
        if by_sign is not None:
            return replace(by_sign, metrics=self.metrics, versions=self.versions)
        if self.killed:
            return self
        line = last_line(tail)
        return replace(self, message=f"{self.message}: {line}" if line else f"{self.message}.", wants_log=False)

    def explained(self, tail: bytes, *, oom_killed: bool | None, peak_bytes: int, memory_mb: int) -> Verdict:
        """With what the end of the log adds and, where SIGKILL ended it, with whether that was for memory.

        The kernel sends SIGKILL when memory runs out, and so may anybody else. These decide, in this order: the
        count of the kernel's OOM killer (`oom_killed`; None where it does not count), words in the log, the peak.
        Where none of them tells, the kill was most likely for memory.
        """
        verdict = self if self.killed and oom_killed else self.with_log(without_log_lines(tail))
        if not verdict.killed:
            return verdict
        peak = f"{peak_bytes >> 20:,} of {memory_mb:,} MiB"
        if oom_killed:
            why = "The kernel killed for lack of memory: raise memory_mb."
        elif peak_bytes >= memory_mb << 20:
            why = f"It took more memory than its job has ({peak}): raise memory_mb."
        elif oom_killed is None and peak_bytes >= _FAR_BELOW * (memory_mb << 20):
            why = _HINT
        else:
            why = f"Not for lack of memory (its peak was {peak}): look for a kill or a time limit in the step."
            return verdict._known(ContainerExit.STEP_FAILED, why)
        return verdict._known(KILLED, why)

    def _known(self, exit_code: int, why: str) -> Verdict:
        return replace(self, exit_code=exit_code, message=f"{self.message}. {why}", killed=False, wants_log=False)


def verdict_of_code(name: str, code: int) -> Verdict:
    """The verdict of a tool that ended with a code other than 0; negative for a signal."""
    if code in _SIGKILLED:
        how = "was killed" if code < 0 else f"ended with exit code {code}"
        return Verdict(exit_code=KILLED, message=f"{name} {how} (signal 9)", wants_log=True, killed=True)
    if code < 0:
        return Verdict(exit_code=128 - code, message=f"{name} was ended by signal {-code}", wants_log=True)
    return Verdict(exit_code=code, message=f"{name} ended with exit code {code}", wants_log=True)


def verdict_of(error: BaseException) -> Verdict:
    """The verdict of an error that a step raised, or that we raised around it."""
    if isinstance(error, BatchPipelineError):
        cause = error.__cause__
        if cause is not None and exit_code_of(error) == KILLED and _tool_of(cause)[1] in _SIGKILLED:
            # What the step says of the kill is a guess; `explained` will know more.
            return verdict_of(cause)
        return Verdict(exit_code=exit_code_of(error), message=error.message)
    if isinstance(error, MemoryError):
        return Verdict(exit_code=KILLED, message=f"The step ran out of memory (MemoryError). {_HINT}")
    if isinstance(error, OSError) and error.errno in NO_SPACE:
        place = f" ({error.filename})" if error.filename else ""
        return Verdict(exit_code=DiskFull.exit_code, message=f"The step found no space left on its disk{place}.")
    command, code = _tool_of(error)
    if code is not None:
        return _verdict_of_tool(command, code, getattr(error, "stderr", None))
    text = str(error).strip().split("\n", 1)[0]
    return Verdict(exit_code=ContainerExit.STEP_FAILED, message=f"{type(error).__name__}: {text}".rstrip(": "))


def guarded(act: Callable[[], Mapping[str, Any]]) -> dict[str, Any]:
    """Runs a step's own code and returns `act`'s values, or the verdict's if it raises. Never raises.

    A border: what a step may raise is anything, SystemExit and KeyboardInterrupt included.
    """
    try:
        return {"exit_code": 0, **act()}
    except BaseException as error:
        verdict = verdict_of(error)
        if not isinstance(error, BatchPipelineError):
            say_traceback(error)
        return {
            "exit_code": int(verdict.exit_code),
            "message": verdict.message,
            "wants_log": verdict.wants_log,
            "killed": verdict.killed,
        }


def say_traceback(error: BaseException) -> None:
    """Prints an error's traceback to the log."""
    import traceback

    say("".join(traceback.format_exception(error)).rstrip())


def last_line(text: bytes) -> str:
    """The last line with something in it, at most 300 characters."""
    for line in reversed(text.splitlines()):
        words = line.decode(errors="replace").strip()
        if words:
            return words[:300]
    return ""


def exit_code_of(error: BatchPipelineError) -> int:
    """The container's code; errors of the client's side have codes of the command line."""
    if isinstance(error, StepError):
        return error.exit_code
    if isinstance(error, StoreFailed):
        return ContainerExit.STORE_UNREACHABLE
    return ContainerExit.CONTRACT_BROKEN if isinstance(error, InvalidUse) else ContainerExit.STEP_FAILED


def _tool_of(error: BaseException) -> tuple[Any, int | None]:
    """Command line and exit code of a tool whose end this error tells, or None."""
    command = getattr(error, "full_cmd", None) or getattr(error, "cmd", None)
    code = getattr(error, "exit_code", getattr(error, "returncode", None))
    return (command, code) if command is not None and isinstance(code, int) else (None, None)


def _verdict_of_tool(command: Any, code: int, stderr: Any) -> Verdict:
    name = _short(command)
    output = stderr.encode(errors="replace") if isinstance(stderr, str) else stderr or b""
    verdict = verdict_of_code(name, code)
    # A tool's code is not the container's: only signals keep theirs.
    keeps = code < 0 or verdict.killed
    verdict = replace(verdict, exit_code=verdict.exit_code if keeps else int(ContainerExit.STEP_FAILED))
    return verdict.with_log(bytes(output)) if last_line(bytes(output)) else verdict


def _short(command: Any) -> str:
    """`kallisto quant …` for a whole command line."""
    if isinstance(command, bytes):
        command = command.decode(errors="replace")
    words = command.split() if isinstance(command, str) else [os.fsdecode(word) for word in command]
    if not words:
        return "The tool"
    shown = [os.path.basename(words[0]), *(words[1:2] if words[1:] and not words[1].startswith("-") else [])]
    return " ".join(shown) + (" …" if len(words) > len(shown) else "")


def _from_signs(name: str, output: bytes) -> Verdict | None:
    for sign, code, sentence in _SIGNS:
        if sign in output:
            return Verdict(exit_code=code, message=f"{name}. {sentence}")
    return None
