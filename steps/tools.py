"""Runs the tools of the steps, with their talk in the log and their failures in one sentence.

A tool runs through `sh` in the cell's own process group, so that a signal to the cell reaches it. Both its streams are
passed on to the log as they come, and kept, since half of what these tools know is only in their talk.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from batch_pipeline.wire.errors import BatchPipelineError, DiskFull, StepFailed

#: What a container ends with when the kernel took it for memory; the driver then asks for more.
_OUT_OF_MEMORY: Final = 128 + signal.SIGKILL

_TELLING = re.compile(r"error|exception|assert|what\(\)|zero reads|fail|not found", re.IGNORECASE)
#: Lines that look like trouble and are none: picard's native compression, Java's stack frames, C++'s preamble.
_NOISE = re.compile(r"libgkl|NativeLibraryLoader|^\s*at |^\s*\.\.\. \d+ more|^terminate called")
_NO_MEMORY = re.compile(r"java\.lang\.OutOfMemoryError|std::bad_alloc|Cannot allocate memory")


@dataclass(frozen=True, kw_only=True)
class Talk:
    """What a tool said while it ran."""

    out: str
    err: str

    def find(self, pattern: str) -> re.Match[str] | None:
        """The first match in the tool's standard error, then in its standard output."""
        return re.search(pattern, self.err, re.MULTILINE) or re.search(pattern, self.out, re.MULTILINE)


def run_tool(
    program: str | Path,
    *arguments: object,
    name: str = "",
    keep: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> Talk:
    """Runs a tool in the current folder until it ends and returns what it said.

    Parameters
    ----------
    name: what messages call it, if not by the program's name.
    keep: a file that gets its standard error too.
    environment: variables set for it besides the cell's own.

    Raises
    ------
    StepFailed: it cannot be found, ended with another exit code than 0, or was ended by a signal. With exit code 137
    when it ran out of memory.
    DiskFull: it said that no space was left.
    """
    # A tenth of a second to import, which planning, that imports the steps too, need not pay.
    import sh

    title = name or Path(program).name
    try:
        command = sh.Command(str(program))
    except sh.CommandNotFound as error:
        raise StepFailed(
            f"{program!s} is not on the PATH; install it, or run the step in an image that has it."
        ) from error
    failed: sh.ErrorReturnCode | None = None
    with _Ear(1) as out, _Ear(2, keep) as err:
        try:
            command(
                *map(str, arguments),
                _out=out.mouth,
                _err=err.mouth,
                _tty_in=False,
                _env={**os.environ, **(environment or {})},
            )
        except sh.ErrorReturnCode as error:
            failed = error
    if failed is not None:
        raise _failure(title, int(failed.exit_code), out.text + err.text) from failed
    return Talk(out=out.text, err=err.text)


class _Ear:
    """A pipe whose other end, `mouth`, a tool writes to; what comes is passed on to a descriptor at once, and kept.

    `sh` could call a function for each line, but then takes a tenth of a second longer for every command.
    """

    def __init__(self, descriptor: int, keep: Path | None = None) -> None:
        self.descriptor = descriptor
        self.keep = keep
        self.text = ""

    def __enter__(self) -> _Ear:
        self._heard, self.mouth = os.pipe()
        self._chunks: list[bytes] = []
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *raised: object) -> None:
        os.close(self.mouth)
        self._thread.join()
        os.close(self._heard)
        content = b"".join(self._chunks)
        self.text = content.decode("utf-8", "replace")
        if self.keep is not None:
            self.keep.write_bytes(content)

    def _listen(self) -> None:
        while chunk := os.read(self._heard, 1 << 16):
            self._chunks.append(chunk)
            # A log that cannot be written to is the container's trouble: the tool must not stall for it.
            with contextlib.suppress(OSError):
                os.write(self.descriptor, chunk)


def last_word(text: str) -> str:
    """The line that most likely says why a tool failed: the last one that speaks of an error, else the last one."""
    said = [line.strip() for line in text.splitlines() if line.strip() and not _NOISE.search(line)]
    telling = [line for line in said if _TELLING.search(line)]
    return (telling or said or ["it said nothing"])[-1]


def _failure(title: str, code: int, text: str) -> BatchPipelineError:
    word = last_word(text)
    if "No space left on device" in text:
        return DiskFull(f"{title} found no space left: {word}. Give the job a larger scratch disk, or set its folder.")
    starved = code == -signal.SIGKILL or _NO_MEMORY.search(text) is not None
    failed = StepFailed(f"{title} {_how(code)}: {word.rstrip('.')}.{_memory_hint(starved)}")
    return _ending_with(failed, _OUT_OF_MEMORY) if starved else failed


def _ending_with(error: BatchPipelineError, code: int) -> BatchPipelineError:
    error.exit_code = code
    return error


def _how(code: int) -> str:
    if code < 0:
        return f"was ended by signal {-code} ({signal.Signals(-code).name})"
    return f"ended with exit code {code}"


def _memory_hint(starved: bool) -> str:
    return " It most likely needed more memory than the job has: give the step more." if starved else ""
