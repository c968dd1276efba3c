"""Measures what a step takes while it runs: disk of its scratch folder, memory of its processes together.

The kernel tells the peak of the largest process alone, and of a folder nothing. So the one thread, which does nothing
but wait, looks now and then: first after a second, later so seldom that looking stays below a hundredth of the time.
A cell that ends sooner is looked at once, at its end.
"""

from __future__ import annotations

import os
import select
import time

#: Seconds between two looks at the least.
PAUSE_SECONDS = 1.0
#: A look may take so much of the time until the next.
_SHARE = 100


class Meter:
    """The peaks of one attempt so far."""

    def __init__(self, scratch: str) -> None:
        self._scratch = scratch
        self.peak_disk_bytes = 0
        self.peak_memory_bytes = 0

    def wait(self, leader: int) -> None:
        """Returns when a process has ended, or at once where the kernel cannot say that; looks meanwhile."""
        try:
            descriptor = os.pidfd_open(leader)
        except OSError:
            return
        try:
            poll = select.poll()
            poll.register(descriptor, select.POLLIN)
            pause = PAUSE_SECONDS
            while not poll.poll(pause * 1000):
                began = time.perf_counter()
                self.look(leader)
                pause = max(PAUSE_SECONDS, _SHARE * (time.perf_counter() - began))
        finally:
            os.close(descriptor)

    def look(self, leader: int = 0) -> None:
        """Takes the disk of the scratch folder, and the memory of a process group, as they are now."""
        self.peak_disk_bytes = max(self.peak_disk_bytes, disk_bytes(self._scratch))
        if leader:
            self.peak_memory_bytes = max(self.peak_memory_bytes, group_memory_bytes(leader))


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


def group_memory_bytes(group: int) -> int:
    """Memory of the processes of a group, what they share counted once; 0 for one alone, which the kernel measures."""
    members = [pid for pid in os.listdir("/proc") if pid.isdigit() and _group_of(pid) == group]
    return sum(map(_own_bytes, members)) if len(members) > 1 else 0


def _group_of(pid: str) -> int:
    try:
        return os.getpgid(int(pid))
    except OSError:
        return 0


def _own_bytes(pid: str) -> int:
    """https://docs.kernel.org/filesystems/proc.html: Pss divides what several processes share among them."""
    try:
        with open(f"/proc/{pid}/smaps_rollup", "rb") as file:
            for line in file:
                if line.startswith(b"Pss:"):
                    return int(line.split()[1]) * 1024
    except (OSError, ValueError):
        pass
    return 0
