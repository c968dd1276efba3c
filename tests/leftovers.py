"""Finds processes that tests leave behind: children and what has become of them, detached, orphaned or forked.

A process is a session's (with pytest-xdist: a worker's) if it descends from it, if it has inherited its mark, or if it
has to do with its folder of temporary files, be it by a variable (all tests have their home there), an argument or its
working directory, or if it is a fork of it that somebody else has inherited. Sessions that run beside are told apart.
"""

from __future__ import annotations

import atexit
import os
import re
import select
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import pytest

#: The variable that all children inherit, unless somebody clears their environment.
MARK = "TESTS_OF_SESSION"
#: What has been told to end may take so long: a server hands its work over, a worker cleans up.
PATIENCE_SECONDS = 15.0
#: Ends what lives as long as the session, before its end is looked at; where there is no session, with the process.
at_the_end = ExitStack()
atexit.register(at_the_end.close)
#: What names processes that may live until then: a folder that is theirs.
_kept: set[bytes] = set()


def keep_until_the_end(folder: Path | str) -> None:
    """Says that processes which name this folder, and their children, live as long as the session."""
    _kept.add(os.fsencode(folder))


@dataclass(frozen=True, kw_only=True)
class Process:
    """A living process."""

    pid: int
    parent: int
    #: In clock ticks since the boot.
    start_ticks: int
    #: As they were when its program began.
    environment: bytes
    arguments: bytes
    folder: bytes

    @property
    def command(self) -> str:
        """What it was called with."""
        return os.fsdecode(self.arguments.replace(b"\0", b" ")).strip()

    @property
    def texts(self) -> tuple[bytes, ...]:
        """Where its origin may be told."""
        return self.environment, self.arguments, self.folder + b"/"

    def names(self, sign: bytes) -> bool:
        """Whether its environment, its arguments or its working directory have a text."""
        return any(sign in text for text in self.texts)

    def looks_like(self, other: Process) -> bool:
        """Whether it has the same program, arguments and environment: it, or one of the two's parents, forked."""
        return (self.environment, self.arguments) == (other.environment, other.arguments)

    def variable(self, name: str) -> str:
        """What its environment says; empty: nothing."""
        _, there, rest = (b"\0" + self.environment).partition(b"\0" + name.encode() + b"=")
        return os.fsdecode(rest.partition(b"\0")[0]) if there else ""


def living() -> Iterator[Process]:
    """All processes of this user, but those that have ended and not been waited for."""
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal():
            continue
        # It may end at any moment.
        with suppress(OSError):
            fields = (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()
            if fields[0] not in "ZX":
                yield Process(
                    pid=int(entry.name),
                    parent=int(fields[1]),
                    start_ticks=int(fields[19]),
                    environment=(entry / "environ").read_bytes(),
                    arguments=(entry / "cmdline").read_bytes(),
                    folder=os.fsencode((entry / "cwd").readlink()),
                )


class Watch:
    """Looks for what this session leaves behind."""

    def __init__(self, folder: Path) -> None:
        self.mark = uuid4().hex
        self._folder = os.fsencode(folder) + b"/"
        self._signs = (f"{MARK}={self.mark}".encode(), self._folder)
        #: Home -> the test whose home it is.
        self.homes: dict[str, str] = {}

    def check(self, *, at_the_end: bool) -> None:
        """Fails if processes are left, and ends them. Those that are kept until the end are looked at then."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while left := self.left(at_the_end=at_the_end):
            if time.monotonic() > deadline:
                break
            _await_end(left[0], deadline)
        if left:
            self._kill(at_the_end=at_the_end)
            pytest.fail("\n".join(["Processes were left behind:", *map(self.told, left)]), pytrace=False)

    def _kill(self, *, at_the_end: bool) -> None:
        """Ends what is left, and what that has started meanwhile."""
        for _ in range(5):
            for process in self.left(at_the_end=at_the_end):
                with suppress(ProcessLookupError):
                    os.kill(process.pid, signal.SIGKILL)

    def left(self, *, at_the_end: bool) -> list[Process]:
        """The session's processes but itself, and until the end but those that are kept."""
        processes = {process.pid: process for process in living()}
        session = processes.pop(os.getpid())
        left = []
        for process in processes.values():
            family = list(_family(process, processes))
            ours = (
                family[-1].parent == session.pid
                or any(process.names(sign) for sign in self._signs)
                or is_inherited_fork(process, session, processes)
            )
            kept = any(one.names(folder) for one in family for folder in _kept)
            if ours and (at_the_end or not kept):
                left.append(process)
        return left

    def told(self, process: Process) -> str:
        """A process and the test that started it, as far as can be told."""
        test = process.variable("PYTEST_CURRENT_TEST") or self.homes.get(process.variable("HOME"), "")
        if not test:
            below = (text.partition(self._folder)[2] for text in process.texts)
            folders = [os.fsdecode(re.split(rb"[/\0]", path, maxsplit=1)[0]) for path in below if path]
            test = f"a test with the folder {folders[0]}" if folders else "an unknown test"
        return f"  {process.pid}: {process.command or 'no arguments'} -- started by {test}"


def is_inherited_fork(process: Process, session: Process, processes: Mapping[int, Process]) -> bool:
    """Whether it is a fork of the session whose parent has ended: another session's forks have theirs."""
    if process.parent == session.parent or not process.looks_like(session) or process.start_ticks < session.start_ticks:
        return False
    parent = processes.get(process.parent)
    return parent is None or not parent.looks_like(session)


def _family(process: Process, processes: Mapping[int, Process]) -> Iterator[Process]:
    """A process, its parent and so on, up to one that is not among them."""
    current: Process | None = process
    while current is not None:
        yield current
        current = processes.get(current.parent)


def _await_end(process: Process, deadline: float) -> None:
    try:
        descriptor = os.pidfd_open(process.pid)
    except OSError:
        return
    try:
        select.select([descriptor], [], [], max(0.0, min(1.0, deadline - time.monotonic())))
    finally:
        os.close(descriptor)
