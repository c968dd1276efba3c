"""Runs the payload in a process group of its own: forwards signals, ends what does not end, says what it took.

A tool is spawned (vfork and exec); a Python step is forked off this process, which has imported it already. The fork
never touches obstore, whose threads do not survive it. What a Python step has to say (`Verdict`) comes back through a
file in memory, so that a full disk cannot silence it.

When the payload's first process has ended, whatever it left behind is killed, as at the end of a container: its group,
and where this process adopts orphans and has no other children, all that left the group.

While a life lasts, TERM, INT and HUP mean: interrupted. Before the payload starts they raise StepInterrupted at once,
while it runs they are forwarded to its group, which is killed after a grace, and later they are remembered.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Self, TextIO

from batch_pipeline.container.meter import Meter
from batch_pipeline.wire import orphans, processes
from batch_pipeline.wire.errors import ContractBroken, StepInterrupted

#: Seconds between a forwarded signal and SIGKILL: below the 30 s that Batch leaves between its TERM and its KILL,
#: https://docs.aws.amazon.com/batch/latest/userguide/job_timeouts.html
GRACE_SECONDS = 20.0

_FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
#: Python ignores these two; a tool must find them as everybody does, or `yes | head` never ends.
_DEFAULTED = (signal.SIGPIPE, signal.SIGXFSZ)
_OUTCOME = 3


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How a process ended and what it and its children took.

    The peak of a spawned tool is never below this process's own: Linux counts what it was before exec.
    """

    #: As `os.waitstatus_to_exitcode`: negative for a signal.
    code: int
    peak_memory_bytes: int
    cpu_seconds: float

    @property
    def exit_code(self) -> int:
        """As a shell says it: 128 and the number of a signal."""
        return self.code if self.code >= 0 else 128 - self.code


class Signals:
    """Holds the signals of one life. A context; afterwards all handlers are as they were."""

    def __init__(self, grace_seconds: float = GRACE_SECONDS) -> None:
        self._grace_seconds = grace_seconds
        self._group = 0
        self._raises = False
        self._handlers: list[tuple[int, Any]] = []
        #: The first that came, or 0.
        self.received = 0
        #: Measures payloads while they are waited for; None: nobody does.
        self.meter: Meter | None = None
        #: Called at the first signal, in its handler; None: nobody is.
        self.on_first: Callable[[], None] | None = None

    def __enter__(self) -> Self:
        for number in _FORWARDED:
            # Whoever started us with a signal ignored (nohup, a job of a script) means it.
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._handlers.append((number, signal.signal(number, self._handle)))
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._handlers:
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._handlers.clear()

    def check(self) -> None:
        """Raises StepInterrupted when a signal came."""
        if self.received:
            raise StepInterrupted(
                f"{signal.Signals(self.received).name} ended the attempt. The sample is not to blame: the same command "
                "runs it again."
            )

    @contextmanager
    def raising(self) -> Iterator[None]:
        """While it lasts, a signal raises StepInterrupted wherever this thread is."""
        self.check()
        self._raises = True
        try:
            yield
        finally:
            self._raises = False

    @contextmanager
    def forwarding(self, start: Callable[[], int]) -> Iterator[int]:
        """While it lasts, a signal goes to the process group that `start` made; yields its leader's id."""
        self.check()
        self._group = start()
        try:
            if self.received:
                self._forward(self.received)
            yield self._group
        finally:
            self.forget_group()

    def forget_group(self) -> None:
        """Forwards nothing more: called before the leader is reaped and its number may be another's."""
        self._group = 0
        if self.received:
            signal.setitimer(signal.ITIMER_REAL, 0)

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        if not self.received and self.on_first is not None:
            self.on_first()
        self.received = self.received or number
        if self._group:
            self._forward(number)
        elif self._raises:
            # Once: what cleans up must not be interrupted again.
            self._raises = False
            self.check()

    def _forward(self, number: int) -> None:
        processes.signal_group(self._group, number)
        handler = signal.signal(signal.SIGALRM, self._kill)
        if handler != self._kill:
            self._handlers.append((signal.SIGALRM, handler))
        signal.setitimer(signal.ITIMER_REAL, self._grace_seconds)

    def _kill(self, _number: int, _frame: FrameType | None) -> None:
        if self._group:
            processes.kill_group(self._group)


def spawn(command: Sequence[str], environment: Mapping[str, str], folder: Path | None, signals: Signals) -> Ended:
    """Runs a command to its end, in a folder if told.

    Raises ContractBroken when it cannot be started, StepInterrupted when a signal came before.
    """

    def start() -> int:
        with processes.working_in(folder):
            try:
                return os.posix_spawn(
                    command[0],
                    list(command),
                    environment,
                    file_actions=[(os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0)],
                    setpgroup=0,
                    setsigdef=_DEFAULTED,
                )
            except OSError as error:
                raise ContractBroken(
                    f"{command[0]} cannot be started: {error.strerror}. It needs a first line like #!/bin/sh, an "
                    "interpreter that is there, and the executable bit (chmod +x)."
                ) from error

    with signals.forwarding(start) as leader:
        return _wait(leader, signals)


def fork(
    act: Callable[[], Mapping[str, Any]], environment: Mapping[str, str], folder: Path, signals: Signals
) -> tuple[Ended, dict[str, Any] | None]:
    """Runs `act`, which must not raise, in a fork of this process; returns what it returned, or None if it died."""
    outcome = os.memfd_create("outcome")
    try:
        with signals.forwarding(lambda: _forked(act, environment, folder, outcome)) as leader:
            ended = _wait(leader, signals)
        text = os.pread(outcome, os.fstat(outcome).st_size, 0)
    finally:
        os.close(outcome)
    return ended, json.loads(text) if text and ended.code == 0 else None


def _forked(act: Callable[[], Mapping[str, Any]], environment: Mapping[str, str], folder: Path, outcome: int) -> int:
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    # A signal for the child must not meet our handlers there: it waits until the child has put them back.
    signal.pthread_sigmask(signal.SIG_BLOCK, _FORWARDED)
    child = os.fork()
    if child:
        try:
            os.setpgid(child, child)
        except OSError:
            pass  # The child was faster, and may have gone already.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _FORWARDED)
        return child
    code = 1
    try:
        _become_payload(environment, folder, outcome)
        fields = act()
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os.pwrite(_OUTCOME, json.dumps(fields, sort_keys=True, default=str).encode(), 0)
        code = 0
    finally:
        # Nothing of the parent's, above the forked one, may run again here: no clean-up, no return.
        os._exit(code)


def _become_payload(environment: Mapping[str, str], folder: Path, outcome: int) -> None:
    os.setpgid(0, 0)
    for number in (*_FORWARDED, signal.SIGALRM, *_DEFAULTED):
        if number in _DEFAULTED or signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _FORWARDED)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    # Neither the worker's sockets nor the log's pipes are the step's business.
    if outcome != _OUTCOME:
        os.dup2(outcome, _OUTCOME, inheritable=False)
    os.closerange(_OUTCOME + 1, 1 << 20)
    sys.stdout, sys.stderr = _line_by_line(1), _line_by_line(2)
    os.chdir(folder)
    # Most are there already, and setting one costs more than looking at it.
    before = dict(os.environ)
    for name in before.keys() - environment.keys():
        del os.environ[name]
    os.environ.update({name: value for name, value in environment.items() if before.get(name) != value})


def _line_by_line(descriptor: int) -> TextIO:
    """A stream to the log; what a step prints shall stand there before what its tools print next."""
    return open(descriptor, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False)


def _wait(leader: int, signals: Signals) -> Ended:
    """Waits for the leader, measuring meanwhile if told to, and ends all that it left behind."""
    usage = orphans.ResourceUsage()
    if signals.meter is not None:
        signals.meter.wait(leader, lambda: orphans.reap_orphans(leader, usage))
    orphans.await_end(leader, usage)
    signals.forget_group()
    status = orphans.reap_all(leader, usage)
    return Ended(
        code=os.waitstatus_to_exitcode(status),
        peak_memory_bytes=usage.peak_memory_bytes,
        cpu_seconds=round(usage.cpu_seconds, 3),
    )
