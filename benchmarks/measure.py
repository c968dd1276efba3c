"""Runs a command and says what it and everything that it started took: time, CPU, memory.

A server that outlives the command is no child of it any more, so this process becomes the one that orphans fall to
(`PR_SET_CHILD_SUBREAPER`): whatever was started below it is either alive below it, where /proc tells its CPU time, or
was reaped by somebody below it, whose figures then include it.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from resource import RUSAGE_CHILDREN, getrusage

# https://man7.org/linux/man-pages/man2/PR_SET_CHILD_SUBREAPER.2const.html
_PR_SET_CHILD_SUBREAPER = 36
_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
#: How often memory is looked at; a look costs about a millisecond.
SAMPLE_SECONDS = 0.1


class BenchmarkFailed(Exception):
    """A command of a benchmark did not do what it should; what it said last is in the message."""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a command took, servers that it used or left behind included."""

    seconds: float
    cpu_seconds: float
    #: Resident memory at its highest: of the biggest process, and of all at once (shared pages counted in each).
    biggest_mib: float
    together_mib: float
    exit_code: int


def become_reaper() -> None:
    """Has the orphans of this process's descendants fall to this process. Linux."""
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def run(
    command: Sequence[str],
    *,
    folder: Path,
    environment: Mapping[str, str],
    log: Path,
    accept_failure: bool = False,
) -> Cost:
    """Runs a command to its end. Raises BenchmarkFailed unless it ends with 0 or failure is accepted."""
    reap()
    memory = _Memory()
    before = cpu_seconds()
    with log.open("ab") as sink, memory:
        began = time.perf_counter()
        process = subprocess.Popen(
            list(command), cwd=folder, env=dict(environment), stdin=subprocess.DEVNULL, stdout=sink, stderr=sink
        )
        code = process.wait()
        seconds = time.perf_counter() - began
    cost = Cost(
        seconds=seconds,
        cpu_seconds=cpu_seconds() - before,
        biggest_mib=memory.biggest / (1 << 20),
        together_mib=memory.together / (1 << 20),
        exit_code=code,
    )
    if code and not accept_failure:
        said = log.read_text(errors="replace")[-1500:]
        raise BenchmarkFailed(f"{' '.join(command)[:200]} ended with {code}: {said}")
    return cost


def cpu_seconds() -> float:
    """CPU time of everything that was ever started below this process, as far as the kernel tells by now."""
    reaped = getrusage(RUSAGE_CHILDREN)
    ticks = sum(_ticks(pid) for pid in descendants())
    return reaped.ru_utime + reaped.ru_stime + ticks / _TICKS


def reap() -> None:
    """Takes the orphans that have ended."""
    while True:
        try:
            if os.waitpid(-1, os.WNOHANG) == (0, 0):
                return
        except ChildProcessError:
            return


def descendants() -> Iterator[int]:
    """Processes below this one that are alive."""
    waiting = [os.getpid()]
    while waiting:
        children = _children(waiting.pop())
        yield from children
        waiting.extend(children)


def _children(pid: int) -> list[int]:
    """Children of all threads of a process."""
    found: list[int] = []
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/children") as file:
                found.extend(map(int, file.read().split()))
    except (FileNotFoundError, ProcessLookupError):
        pass
    return found


def _ticks(pid: int) -> int:
    """CPU time of a process and of those that it reaped."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return sum(map(int, fields[11:15]))


class _Memory(threading.Thread):
    """Looks at the memory of everything below this process. A context."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.biggest = 0
        self.together = 0
        self._over = threading.Event()

    def __enter__(self) -> _Memory:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self.join()

    def run(self) -> None:
        """Looks until the context ends."""
        while not self._over.wait(SAMPLE_SECONDS):
            sizes = [_resident(pid) for pid in descendants()]
            self.biggest = max(self.biggest, *sizes, 0)
            self.together = max(self.together, sum(sizes))


def _resident(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/statm", "rb") as file:
            return int(file.read().split()[1]) * _PAGE
    except (FileNotFoundError, ProcessLookupError, IndexError):
        return 0


def peak_mib(*, reset: bool) -> float:
    """The peak of this process's resident memory; with `reset`, a new peak begins now.

    https://www.kernel.org/doc/html/latest/filesystems/proc.html (clear_refs)
    """
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(fields["VmHWM"].split()[0]) / 1024
