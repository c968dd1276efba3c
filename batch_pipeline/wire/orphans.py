"""What children of this process leave behind: it comes to this process, is reaped, and ends with them.

Orphans become children of their nearest ancestor that is a subreaper. Whoever runs commands becomes one. So one system
call tells that nothing is left (`ECHILD`), wherever it went, and what is left is killed by numbers that nobody else can
have before it was reaped. This costs next to nothing, and holds as long as this process lives; afterwards marks tell
what was its own, see `processes`.
"""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from typing import Any

from batch_pipeline.wire.processes import Belongs, find, parent_of, signal_group

#: https://man7.org/linux/man-pages/man2/prctl.2.html
_PR_SET_CHILD_SUBREAPER, _PR_GET_CHILD_SUBREAPER = 36, 37
#: A process that the kernel cannot end so soon hangs in a device or a network file system.
_PATIENCE_SECONDS = 10.0


def adopt_orphans(yes: bool = True) -> None:
    """Makes this process a subreaper, parent of what its children leave behind, or no longer. Process 1 is one."""
    if os.getpid() != 1:
        import ctypes

        _prctl()(_PR_SET_CHILD_SUBREAPER, ctypes.c_ulong(yes), *[ctypes.c_ulong(0)] * 3)


def adopts_orphans() -> bool:
    """Whether this process does; a fork of it does not."""
    if os.getpid() == 1:
        return True
    import ctypes

    answer = ctypes.c_int()
    _prctl()(_PR_GET_CHILD_SUBREAPER, ctypes.byref(answer))
    return bool(answer.value)


@contextmanager
def adopting_orphans() -> Iterator[None]:
    """While it lasts, this process adopts them."""
    before = adopts_orphans()
    adopt_orphans()
    try:
        yield
    finally:
        adopt_orphans(before)


@cache
def _prctl() -> Any:
    # Loaded where it is needed: the first process of a container does without.
    import ctypes

    return ctypes.CDLL(None).prctl


def has_children() -> bool:
    """Whether this process has any, alive or to be reaped. Costs next to nothing."""
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


def children() -> list[int]:
    """The children of this process, alive or to be reaped: those of its main thread, which has the orphans too."""
    try:
        listing = os.pread(_listing(os.getpid()), 1 << 16, 0)
    except FileNotFoundError:  # A kernel without CONFIG_PROC_CHILDREN.
        return find(lambda pid: parent_of(pid) == os.getpid(), ended=True)
    return [int(pid) for pid in listing.split()]


@cache
def _listing(pid: int) -> int:
    """Kept open, for opening takes six times as long as reading. Of very many children it tells the oldest."""
    return os.open(f"/proc/self/task/{pid}/children", os.O_RDONLY | os.O_CLOEXEC)


def await_end(leader: int, usage: ResourceUsage) -> None:
    """Returns when a child has ended, which stays to be reaped. Where orphans are adopted, it reaps them meanwhile."""
    reap_orphans(leader, usage, wait=True)
    os.waitid(os.P_PID, leader, os.WEXITED | os.WNOWAIT)


def reap_orphans(leader: int, usage: ResourceUsage, *, wait: bool = False) -> None:
    """Where orphans are adopted, reaps those that have ended; while it waits, until a certain child has."""
    options = os.WEXITED | os.WNOWAIT | (0 if wait else os.WNOHANG)
    while adopts_orphans() and (ended := os.waitid(os.P_ALL, 0, options)) and ended.si_pid != leader:
        usage.reap(ended.si_pid)


def reap_all(leader: int, usage: ResourceUsage) -> int:
    """Reaps a child that has ended, the leader of a group, and kills all that it left behind; returns its status.

    That is its group, and where orphans are adopted, all that this process has as children.
    """
    # Before the leader is reaped nobody else can get its number.
    signal_group(leader, signal.SIGKILL)
    status = usage.reap(leader)
    if adopts_orphans() and has_children():
        end_children(lambda pid: True, usage)
    return status


def end_children(belongs: Belongs, usage: ResourceUsage) -> bool:
    """Kills and reaps children that belong, and in turn what these leave behind.

    False if one does not end: then it hangs in the kernel, where nobody can do anything about it.
    """
    while ours := [pid for pid in children() if belongs(pid)]:
        for pid in ours:
            # As long as it was not reaped, nobody else has its number.
            with suppress(PermissionError):
                os.kill(pid, signal.SIGKILL)
        for pid in ours:
            if not _ends(pid):
                return False
            usage.reap(pid)
    return True


def _ends(pid: int) -> bool:
    descriptor = os.pidfd_open(pid)
    try:
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        return bool(poll.poll(_PATIENCE_SECONDS * 1000))
    finally:
        os.close(descriptor)


@dataclass(slots=True)
class ResourceUsage:
    """What processes took that were reaped; not frozen, for it adds up."""

    peak_memory_bytes: int = 0
    cpu_seconds: float = 0.0

    def reap(self, pid: int) -> int:
        """Reaps a child that has ended and adds what it and its own children took; returns its status."""
        _, status, usage = os.wait4(pid, 0)
        self.peak_memory_bytes = max(self.peak_memory_bytes, usage.ru_maxrss * 1024)
        self.cpu_seconds += usage.ru_utime + usage.ru_stime
        return status
