"""Looks at processes through /proc: who is who, who belongs to a session, how much memory it takes."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_PROC = "/proc"


@dataclass(frozen=True, kw_only=True, slots=True)
class Identity:
    """A process that cannot be mistaken for a later one with the same number."""

    pid: int
    #: Start, in clock ticks since the boot.
    start_ticks: int
    #: The kernel's id of the boot.
    boot: str


@cache
def boot_id() -> str:
    """The kernel's id of this boot."""
    return Path(f"{_PROC}/sys/kernel/random/boot_id").read_text().strip()


def identity_of(pid: int) -> Identity | None:
    """The identity of a live process; None for one that has ended, be it reaped or not."""
    fields = _stat(pid)
    if fields is None or fields[0] in "ZX":
        return None
    return Identity(pid=pid, start_ticks=int(fields[19]), boot=boot_id())


def is_alive(identity: Identity) -> bool:
    """Whether this very process still lives."""
    return identity_of(identity.pid) == identity


def _stat(pid: int) -> list[str] | None:
    """The fields of /proc/PID/stat after the name, which may hold spaces and brackets."""
    try:
        with open(f"{_PROC}/{pid}/stat", encoding="utf-8", errors="replace") as stream:
            return stream.read().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None


def _pids() -> Iterator[int]:
    return (int(name) for name in os.listdir(_PROC) if name.isdecimal())


def sessions(wanted: Iterable[int]) -> dict[int, list[int]]:
    """The live processes of each session, in one pass over /proc."""
    found: dict[int, list[int]] = {session: [] for session in wanted}
    for pid in _pids():
        fields = _stat(pid)
        if fields and fields[0] not in "ZX" and int(fields[3]) in found:
            found[int(fields[3])].append(pid)
    return found


def kill_session(leader: Identity) -> bool:
    """Kills every process of the session that this process leads or led; True when there is none (any more).

    The kernel does not give a session's number to a new process while the session has members. If somebody else has
    the number now, the session is gone.
    """
    current = identity_of(leader.pid)
    if leader.boot != boot_id() or (current is not None and current != leader):
        return True
    members = sessions([leader.pid])[leader.pid]
    # The leader first, wherever /proc has it: who sees another one killed takes that for an end like any other.
    for pid in sorted(members, key=leader.pid.__ne__):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    return not members


def memory_kib(pids: Iterable[int], *, exact: bool) -> int:
    """Memory that these processes take and the kernel cannot take back: anonymous and shared pages.

    The quick sum counts pages shared after a fork once for each process; the exact one (proportional) costs more.
    """
    return sum((_proportional if exact else _resident)(pid) for pid in pids)


def _resident(pid: int) -> int:
    return _sum_of(f"{_PROC}/{pid}/status", ("RssAnon:", "RssShmem:"))


def _proportional(pid: int) -> int:
    return _sum_of(f"{_PROC}/{pid}/smaps_rollup", ("Pss_Anon:", "Pss_Shmem:"))


def _sum_of(path: str, keys: tuple[str, ...]) -> int:
    try:
        with open(path, encoding="utf-8", errors="replace") as stream:
            return sum(int(line.split()[1]) for line in stream if line.startswith(keys))
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return 0
