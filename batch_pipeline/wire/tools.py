"""Runs the tools of a step: their output goes to the cell's log, every exit code is checked, failures are sentences.

`Job.run` and `Job.pipe` are the way in. A tool runs through `sh` in the cell's own process group, so that a signal to
the cell reaches it. What it prints is passed on to the log as it comes, and kept, up to a bound, since half of what
tools know stands only there.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import threading
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from batch_pipeline.wire.errors import BatchPipelineError, DiskFull, StepFailed

#: Characters of a tool's line that a message repeats.
LINE_CHARACTERS: Final = 300
#: Bytes of each stream that are kept from its beginning, and as many from its end; the log has all of it.
KEPT_BYTES: Final = 1 << 20
#: What a container ends with when the kernel took it for memory; the driver then asks for more.
_OUT_OF_MEMORY: Final = 128 + signal.SIGKILL

_TELLING = re.compile(r"error|exception|assert|what\(\)|zero reads|fail|not found", re.IGNORECASE)
#: Lines that look like trouble and are none: picard's native compression, Java's stack frames, C++'s preamble.
_NOISE = re.compile(r"libgkl|NativeLibraryLoader|^\s*at |^\s*\.\.\. \d+ more|^terminate called")
_NO_MEMORY = re.compile(r"java\.lang\.OutOfMemoryError|std::bad_alloc|Cannot allocate memory")
#: What bash ends with when a command of a pipe was cut off by the next one.
_CUT_OFF: Final = frozenset({-signal.SIGPIPE, 128 + signal.SIGPIPE})


@dataclass(frozen=True, kw_only=True)
class ToolOutput:
    """What a tool printed: its standard output, unless that went to a file, and its standard error."""

    #: Standard output, of a long one its beginning and end; empty if that went to a file.
    kept: str
    #: Standard error, of a long one its beginning and end.
    err: str
    #: Whether `kept` is not all of it.
    is_cut: bool = False

    @property
    def out(self) -> str:
        """Standard output; empty if that went to a file. Raises StepFailed when it was too long to be kept whole."""
        if self.is_cut:
            raise StepFailed(
                f"A tool printed more than the {KEPT_BYTES:,} bytes that are surely kept, so its output cannot be read"
                " as a whole. Send it to a file: job.run(…, stdout=path)."
            )
        return self.kept

    def find(self, pattern: str) -> re.Match[str] | None:
        """The first match of a pattern in its standard error, then in its standard output."""
        return re.search(pattern, self.err, re.MULTILINE) or re.search(pattern, self.kept, re.MULTILINE)


@dataclass(frozen=True, kw_only=True)
class Streams:
    """Where the tools of a pipe read from and write to."""

    #: File that the first one reads; None: nothing.
    stdin: Path | None = None
    #: File that gets the standard output of the last one; None: the cell's log.
    stdout: Path | None = None
    #: File at whose end stands what all of them print to standard error, which goes to the cell's log too.
    stderr: Path | None = None


def run_tools(
    commands: Sequence[Sequence[object]],
    *,
    folder: Path | None = None,
    streams: Streams | None = None,
    name: str = "",
    environment: Mapping[str, str] | None = None,
) -> ToolOutput:
    """Runs tools, each reading what the one before it writes, until all have ended; returns what they printed.

    Parameters
    ----------
    commands: a program with its arguments each.
    folder: their working directory; the current one by default.
    name: what messages call the tool, if not by its program's name; for one command only.
    environment: variables set for them besides the cell's own.

    Raises
    ------
    StepFailed: one cannot be found or started, ended with another exit code than 0, or was ended by a signal; with exit
    code 137 when it ran out of memory. One that was cut off because the next one had read enough has not failed.
    DiskFull: one said that no space was left.
    """
    streams = streams or Streams()
    for command in commands:
        _require_words(command)
    programs = [_program(command[0]) for command in commands]
    with ExitStack() as stack:
        out = stack.enter_context(_open(streams.stdout, "wb")) if streams.stdout else _Tee(1)
        copy = [stack.enter_context(_open(streams.stderr, "ab")).fileno()] if streams.stderr else []
        tees = [_Tee(2, *copy) for _ in commands]
        reading = stack.enter_context(_open(streams.stdin or Path(os.devnull), "rb")).fileno()
        with ExitStack() as running:
            mouth = running.enter_context(out).mouth if isinstance(out, _Tee) else out.fileno()
            ends = [running.enter_context(tee).mouth for tee in tees]
            started = _start(programs, commands, reading, mouth, ends, folder, environment)
            codes = [_code(process) for process in started]
        printed = out.text if isinstance(out, _Tee) else ""
    errors = [tee.text for tee in tees]
    titles = [name if name and len(commands) == 1 else Path(str(command[0])).name for command in commands]
    _require_success(titles, codes, [*errors[:-1], printed + errors[-1]])
    return ToolOutput(kept=printed, err="".join(errors), is_cut=isinstance(out, _Tee) and out.is_cut)


def _require_words(command: Sequence[object]) -> None:
    """Raises StepFailed for what would be another word than its author means: `str` takes everything."""
    if isinstance(command, str) or not command:
        raise StepFailed(
            f'{command!r} is no command; write a program and its arguments, each apart: job.pipe(("sort", file), …).'
        )
    for argument in command:
        if argument is None or (isinstance(argument, Iterable) and not isinstance(argument, str)):
            raise StepFailed(
                f"An argument of {command[0]!s} is a {type(argument).__name__}, not a text, number or path:"
                f" {argument!r:.80}. Give the items of several one by one: job.run(…, *files)."
            )


def _program(program: object) -> Any:
    # A tenth of a second to import, which planning, that imports the steps too, need not pay.
    import sh

    try:
        return sh.Command(str(program))
    except sh.CommandNotFound as error:
        raise StepFailed(
            f"{program!s} is not on the PATH; install it, or run the step in an image that has it."
        ) from error


def _start(
    programs: Sequence[Any],
    commands: Sequence[Sequence[object]],
    reading: int,
    mouth: int,
    ends: Sequence[int],
    folder: Path | None,
    environment: Mapping[str, str] | None,
) -> list[Any]:
    """The running processes of a pipe, each connected to the next."""
    started = []
    options = {"_tty_in": False, "_bg": True, "_bg_exc": False, "_env": {**os.environ, **(environment or {})}}
    if folder is not None:
        options["_cwd"] = str(folder)
    between: list[int] = []
    try:
        for position, (program, command) in enumerate(zip(programs, commands, strict=True)):
            source = between.pop() if between else reading
            target = mouth
            if position < len(commands) - 1:
                next_source, target = os.pipe()
                between.append(next_source)
            ends_of_it = {"_in": source, "_out": target, "_err": ends[position]}
            try:
                started.append(_process(program, command, **ends_of_it, **options))
            finally:
                for descriptor in {source, target} - {reading, mouth}:
                    os.close(descriptor)
    finally:
        for descriptor in between:
            os.close(descriptor)
    return started


def _process(program: Any, command: Sequence[object], **options: Any) -> Any:
    """A running process. Raises StepFailed when the kernel does not take it."""
    import sh

    try:
        return program(*map(str, command[1:]), _preexec_fn=_restore_signals, **options)
    except sh.ForkException as error:
        why = str(error).strip().splitlines()[-1].strip()
        hint = " Write what is long to a file, and give it that." if "too long" in why else ""
        raise StepFailed(f"{command[0]!s} could not be started: {why}.{hint}") from error


def _restore_signals() -> None:
    """Python ignores SIGPIPE, and a tool that inherited that would complain where it should just end."""
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)


def _code(process: Any) -> int:
    """Exit code of a process that is waited for; negative: the signal that ended it."""
    import sh

    try:
        process.wait()
    except sh.ErrorReturnCode as error:
        return int(error.exit_code)
    return 0


def _open(path: Path, mode: str) -> Any:
    try:
        return path.open(mode)
    except OSError as error:
        raise StepFailed(f"{path} cannot be opened: {error.strerror}.") from error


class _Tee:
    """A pipe whose other end, `mouth`, a tool writes to: what comes is passed on to descriptors at once, and kept.

    `sh` could call a function for each line, but then takes a tenth of a second longer for every command.
    """

    def __init__(self, *descriptors: int) -> None:
        self.descriptors = descriptors
        self.text = ""
        #: Whether `text` is without its middle.
        self.is_cut = False

    def __enter__(self) -> _Tee:
        self._reading, self.mouth = os.pipe()
        self._head, self._tail = bytearray(), bytearray()
        self._thread = threading.Thread(target=self._pass_on, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *raised: object) -> None:
        os.close(self.mouth)
        self._thread.join()
        os.close(self._reading)
        self.text = bytes(self._head + self._tail).decode("utf-8", "replace")

    def _pass_on(self) -> None:
        while chunk := os.read(self._reading, 1 << 16):
            room = KEPT_BYTES - len(self._head)
            self._head += chunk[:room]
            self._tail += chunk[max(room, 0) :]
            if len(self._tail) > 2 * KEPT_BYTES:
                del self._tail[:-KEPT_BYTES]
                self.is_cut = True
            for descriptor in self.descriptors:
                # A log that cannot be written to is the container's trouble: the tool must not stall for it.
                with contextlib.suppress(OSError):
                    os.write(descriptor, chunk)


def last_line(text: str) -> str:
    """The line that most likely says why a tool failed: the last one that speaks of an error, else the last one.

    At most `LINE_CHARACTERS` of it: what a tool prints may have no line breaks.
    """
    lines = [line.strip() for line in text.splitlines() if line.strip() and not _NOISE.search(line)]
    telling = [line for line in lines if _TELLING.search(line)]
    return (telling or lines or ["it printed nothing"])[-1][:LINE_CHARACTERS]


def _require_success(titles: Sequence[str], codes: Sequence[int], texts: Sequence[str]) -> None:
    """Raises the failure of the first tool that failed by itself."""
    failed = [position for position, code in enumerate(codes) if code]
    # One that the next tool no longer read from tells nothing, whether that ended well or not.
    own = [position for position in failed if codes[position] not in _CUT_OFF or position == len(codes) - 1]
    if own:
        raise _failure(titles[own[0]], codes[own[0]], texts[own[0]])


def _failure(title: str, code: int, text: str) -> BatchPipelineError:
    line = last_line(text)
    if "No space left on device" in text:
        return DiskFull(f"{title} found no space left: {line}. Give the job a larger scratch disk, or set its folder.")
    starved = code in (-signal.SIGKILL, _OUT_OF_MEMORY) or _NO_MEMORY.search(text) is not None
    hint = " It most likely needed more memory than the job has: give the step more." if starved else ""
    failed: BatchPipelineError = StepFailed(f"{title} {_how(code)}: {line.rstrip('.')}.{hint}")
    if starved:
        failed.exit_code = _OUT_OF_MEMORY
    return failed


def _how(code: int) -> str:
    if code < 0:
        return f"was ended by signal {-code} ({signal.Signals(-code).name})"
    return f"ended with exit code {code}"
