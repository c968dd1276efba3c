"""Measures what a step takes while it runs: disk of its scratch folder, memory of its processes together.

The kernel tells the peak of the largest process alone, and of a folder nothing. So the one thread, which does nothing
but wait, looks now and then: first after a second, later so seldom that looking stays below a hundredth of the time.
A cell that ends sooner is looked at once, at its end.

The kernel's OOM killer counts whom it ended, a cgroup at a time. In a container that is the container; without one, all
that runs in the cgroup where this process was started.
"""

from __future__ import annotations

import os
import select
import time
from collections.abc import Callable
from functools import lru_cache

from batch_pipeline.wire import processes

#: Seconds between two looks at the least.
PAUSE_SECONDS = 1.0
#: A look may take so much of the time until the next.
_SHARE = 100
_CGROUPS = "/sys/fs/cgroup"
_OWN_CGROUPS = "/proc/self/cgroup"


class Meter:
    """The peaks of one attempt so far."""

    def __init__(self, scratch: str) -> None:
        self._scratch = scratch
        self.peak_disk_bytes = 0
        self.peak_memory_bytes = 0
        self._oom_kills = oom_kills() if scratch else None

    @property
    def oom_killed(self) -> bool | None:
        """Whether the kernel's OOM killer ended a process since this was made; None where the kernel does not say."""
        now = oom_kills()
        return None if now is None or self._oom_kills is None else now > self._oom_kills

    def wait(self, leader: int, meanwhile: Callable[[], object]) -> None:
        """Returns when a process has ended, or at once where the kernel cannot say that; looks meanwhile.

        Calls now and then, however seldom it looks.
        """
        try:
            descriptor = os.pidfd_open(leader)
        except OSError:
            return
        try:
            poll = select.poll()
            poll.register(descriptor, select.POLLIN)
            due = 0.0
            while not poll.poll(PAUSE_SECONDS * 1000):
                meanwhile()
                if (began := time.perf_counter()) >= due:
                    self.look(leader)
                    due = began + (_SHARE + 1) * (time.perf_counter() - began)
        finally:
            os.close(descriptor)

    def look(self, leader: int = 0) -> None:
        """Takes the disk of the scratch folder, and the memory of all that belongs to a step, as they are now."""
        self.peak_disk_bytes = max(self.peak_disk_bytes, disk_bytes(self._scratch))
        if leader:
            self.peak_memory_bytes = max(self.peak_memory_bytes, memory_bytes(leader))


def oom_kills() -> int | None:
    """Processes of this one's cgroup that the kernel's OOM killer ended so far; None where it does not say.

    https://docs.kernel.org/admin-guide/cgroup-v2.html, memory.events; of version 1, memory.oom_control.
    """
    try:
        with open(_counter(), "rb") as file:
            return next((int(line.split()[1]) for line in file if line.startswith(b"oom_kill ")), None)
    except OSError:
        return None


@lru_cache(maxsize=1)
def _counter() -> str:
    """The file in which the kernel counts them, or nothing."""
    try:
        with open(_OWN_CGROUPS, encoding="utf-8", errors="surrogateescape") as file:
            groups = [line.rstrip("\n").split(":", 2)[1:] for line in file]
    except OSError:
        return ""
    for controllers, path in groups:
        if controllers == "":
            root, name = _CGROUPS, "memory.events"
        elif "memory" in controllers.split(","):
            root, name = f"{_CGROUPS}/memory", "memory.oom_control"
        else:
            continue
        # A container may see its own cgroup as the root, and know it by the path that the host has for it.
        for folder in (f"{root}{path.rstrip('/')}", root):
            if os.path.isfile(f"{folder}/{name}") and _is_member(folder):
                return f"{folder}/{name}"
    return ""


def _is_member(folder: str) -> bool:
    try:
        with open(f"{folder}/cgroup.procs", encoding="ascii") as file:
            return str(os.getpid()) in file.read().split()
    except OSError:
        return False


def disk_bytes(folder: str) -> int:
    """Bytes that a folder's files take on the disk; links are not followed, what goes meanwhile is left out."""
    total = 0
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    total += disk_bytes(entry.path)
                elif not entry.is_symlink():
                    total += entry.stat(follow_symlinks=False).st_blocks * 512
    except OSError:
        pass
    return total


def memory_bytes(group: int) -> int:
    """Memory of a process group and of whatever else carries this process's marks, what they share counted once.

    0 for one process alone, which the kernel measures.
    """
    is_relative = processes.relatives()
    members = processes.find(lambda pid: processes.group_of(pid) == group or is_relative(pid))
    return sum(map(processes.share_bytes, members)) if len(members) > 1 else 0
