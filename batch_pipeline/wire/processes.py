"""Who a process is and what it has started: processes are identified, found and killed here and nowhere else.

What a command starts can leave its process group, its session (`setsid`), its parent (a double fork) and its
environment. It cannot lose its **mark**: a resource limit that has no effect, set to a random number, is inherited
through fork and exec, and `env -i` does not change it. The mark tells what belonged to a process that has died, and
which of several commands an orphan comes from. To find it costs one system call for each process of the machine; so
whoever runs many short commands adopts their orphans (`orphans`), and looks for marks where it must.

Run as a program, this module is the guard of a process: it ends what carries a mark when its standard input ends.

Whatever is killed by its number is identified first, and held by a descriptor or as a child that was not reaped yet.

(Longer than most modules: the guard is started without the package, so that all it needs is in here.)
"""

from __future__ import annotations

import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import IntEnum
from functools import cache

_PROC = "/proc"
#: Low bits of a mark that tell apart what is started under it.
_NUMBER_BITS = 20
#: So many looks must find nobody where other processes of the machine are started all the time.
_QUIET_LOOKS = 10
#: Looks after which all are dead who might tell how others ended.
_ORDERLY_LOOKS = 3
#: https://man7.org/linux/man-pages/man5/proc_sys_kernel.5.html: the kernel gives no higher number.
_MOST_PIDS = 1 << 22
#: Looks of one call of `kill_all`.
_MOST_LOOKS = 50
#: The numbers that the kernel gave last: so many of them are tried, so often.
_NEWEST, _CHASES = 16, 64
_GUARD_PAUSE_SECONDS = 0.02
Belongs = Callable[[int], bool]


class Limit(IntEnum):
    """The limits that hold marks: one for each kind of process that runs commands, for these run one another.

    https://man7.org/linux/man-pages/man2/setrlimit.2.html
    """

    #: RLIMIT_LOCKS, without any effect since Linux 2.4.25: attempts of a container's entry or a warm worker.
    ATTEMPT = 10
    #: RLIMIT_RTTIME, which counts for real-time processes alone: a pilot's tasks.
    TASK = 15


@dataclass(frozen=True, kw_only=True, slots=True)
class ProcessIdentity:
    """A process that cannot be mistaken for a later one with the same number."""

    pid: int
    #: Start, in clock ticks since the boot.
    start_ticks: int
    #: The kernel's id of the boot.
    boot: str


@cache
def boot_id() -> str:
    """The kernel's id of this boot; empty where it does not tell."""
    try:
        with open(f"{_PROC}/sys/kernel/random/boot_id", encoding="ascii") as stream:
            return stream.read().strip()
    except OSError:
        return ""


def identity_of(pid: int) -> ProcessIdentity | None:
    """The identity of a live process; None for one that has ended, be it reaped or not."""
    fields = _stat(pid)
    if fields is None or fields[0] in "ZX":
        return None
    return ProcessIdentity(pid=pid, start_ticks=int(fields[19]), boot=boot_id())


def birth_of(pid: int) -> str:
    """When a process began, in the kernel's ticks; empty: there is none, or it has ended, be it reaped or not."""
    identity = identity_of(pid)
    return str(identity.start_ticks) if identity else ""


def is_alive(identity: ProcessIdentity) -> bool:
    """Whether this very process still lives."""
    return identity_of(identity.pid) == identity


def send(identity: ProcessIdentity, number: int) -> None:
    """Signals this very process; one that has ended is no error."""
    _send(identity.pid, number, lambda _: is_alive(identity))


def signal_group(group: int, number: int) -> None:
    """Signals a process group; one that has gone, or took another user's rights, is no error."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def kill_group(leader_pid: int) -> None:
    """Kills a process group and first its leader, a child that was not reaped, whatever group that is in by now."""
    with suppress(ProcessLookupError, PermissionError):
        os.kill(leader_pid, signal.SIGKILL)
    signal_group(leader_pid, signal.SIGKILL)


# Marks.


def new_mark(limit: Limit) -> int:
    """A number that nobody else's processes carry; 0 where the limit cannot hold one."""
    present = resource.getrlimit(limit)
    try:
        resource.setrlimit(limit, present)
    except OSError:
        return 0
    mark = (1 << 42 | int.from_bytes(os.urandom(5))) << _NUMBER_BITS
    return mark if present[1] == resource.RLIM_INFINITY else 0


def put_mark(limit: Limit, mark: int) -> None:
    """Marks this process, and so all that it starts from now on."""
    if mark:
        resource.setrlimit(limit, (mark, resource.RLIM_INFINITY))


def is_marked() -> bool:
    """Whether this process carries a mark, its own or one of those who started it."""
    return any(resource.getrlimit(limit)[0] != resource.RLIM_INFINITY for limit in Limit)


@contextmanager
def working_in(folder: str | os.PathLike[str] | None) -> Iterator[None]:
    """While it lasts, this process works in a folder, if there is one; it may have come from a removed one."""
    if not folder:
        yield
        return
    before = os.open(".", os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.chdir(folder)
        yield
    finally:
        os.fchdir(before)
        os.close(before)


@contextmanager
def marking(limit: Limit, mark: int) -> Iterator[None]:
    """While it lasts, what this process starts gets a mark; the process itself keeps its own."""
    if not mark:
        yield
        return
    before = resource.getrlimit(limit)
    resource.setrlimit(limit, (mark, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(limit, before)


def carries(limit: Limit, mark: int) -> Belongs:
    """Tells whether a process carries this very mark."""
    return lambda pid: _value(pid, limit) == mark != 0


def carries_any(limit: Limit, mark: int) -> Belongs:
    """Tells whether a process carries this mark, or it with a number added."""
    return lambda pid: _value(pid, limit) >> _NUMBER_BITS == mark >> _NUMBER_BITS != 0


def numbered(mark: int, number: int) -> int:
    """A mark with a number added; the numbers start over some day."""
    return mark and mark | 1 + number % ((1 << _NUMBER_BITS) - 1)


def relatives() -> Belongs:
    """Tells whether a process carries the marks of this one; without marks nobody does."""
    mine = {limit: resource.getrlimit(limit)[0] for limit in Limit}
    if not is_marked():
        return lambda pid: False
    return lambda pid: all(_value(pid, limit) == value for limit, value in mine.items())


def _value(pid: int, limit: Limit) -> int:
    """The limit of a process; that of one that has gone or is another user's holds no mark."""
    try:
        return resource.prlimit(pid, limit)[0]
    except OSError:
        return 0


def started_by(leader: ProcessIdentity, mark: int) -> Belongs:
    """Tells whether a process is one that leads or led a session, or was started by it: it carries its mark.

    Where it could have no mark, the session tells: the kernel does not give its number to a new process while it has
    members. If somebody else has the number now, the session is gone.
    """
    if leader.boot != boot_id():
        return lambda pid: False
    if mark:
        is_marked = carries(Limit.ATTEMPT, mark)
        # It marks itself when it begins.
        return lambda pid: is_marked(pid) or (pid == leader.pid and is_alive(leader))
    current = identity_of(leader.pid)
    is_over = current is not None and current != leader
    return lambda pid: not is_over and session_of(pid) == leader.pid


def parent_of(pid: int) -> int:
    """The parent of a process; 0: it has gone, or the kernel has started it."""
    fields = _stat(pid)
    return int(fields[1]) if fields else 0


def session_of(pid: int) -> int:
    """The session of a process; 0: it has gone."""
    return _call_on(os.getsid, pid)


def group_of(pid: int) -> int:
    """The group of a process; 0: it has gone."""
    return _call_on(os.getpgid, pid)


def _call_on(call: Callable[[int], int], pid: int) -> int:
    try:
        return call(pid)
    except OSError:
        return 0


# Any processes of this machine.


def find(belongs: Belongs, *, ended: bool = False) -> list[int]:
    """The living processes that belong, or also those that wait to be reaped, but for this one; parents first."""
    parents = {}
    for pid in _newest_first():
        if belongs(pid):
            fields = _stat(pid)
            if fields is not None and (ended or fields[0] not in "ZX"):
                parents[pid] = int(fields[1])
    return sorted(parents, key=lambda pid: len(list(_ancestors(pid, parents))))


def _newest_first() -> list[int]:
    """All processes but this one. Numbers are given in turn, and start over."""
    newest = _newest_pid()
    pids = [int(name) for name in os.listdir(_PROC) if name.isdecimal()]
    pids.remove(os.getpid())
    return sorted(pids, key=lambda pid: (newest - pid) % _MOST_PIDS)


def _newest_pid() -> int:
    """The number that the kernel gave last, https://man7.org/linux/man-pages/man5/proc_loadavg.5.html."""
    with open(f"{_PROC}/loadavg", encoding="ascii") as stream:
        return int(stream.read().split()[-1])


def find_marked(limit: Limit, marks: Iterable[int]) -> dict[int, list[int]]:
    """The living processes that carry each of several marks, in one look."""
    pids: dict[int, list[int]] = {mark: [] for mark in marks if mark}
    for pid in find(lambda pid: _value(pid, limit) in pids):
        pids.setdefault(_value(pid, limit), []).append(pid)
    return pids


def _ancestors(pid: int, parents: dict[int, int]) -> Iterator[int]:
    for _ in parents:
        if pid not in parents:
            return
        pid = parents[pid]
        yield pid


def kill_all(belongs: Belongs) -> bool:
    """Kills those that belong and what they start meanwhile; True when there is none (any more).

    Parents first: who sees a child killed takes that for an end like any other. So a worker never says of a command
    that was killed with it that it failed by itself. What is left after that forks faster than it is killed, and is
    killed as soon as it is seen.

    A look may miss one that forks again and again and ends at once: it lives shorter than a listing of all processes
    takes. So a look that finds nobody is believed if the kernel has given no number meanwhile, or after many such looks
    that tried the newest numbers too.
    """
    quiet = 0
    for look in range(_MOST_LOOKS):
        newest = _newest_pid()
        alive = _kill_parents_first(belongs) if look < _ORDERLY_LOOKS else _kill_on_sight(belongs)
        quiet = 0 if alive else quiet + 1
        if quiet and (quiet == _QUIET_LOOKS or newest == _newest_pid()):
            return True
    return False


def _kill_parents_first(belongs: Belongs) -> bool:
    pids = find(belongs)
    for pid in pids:
        _send(pid, signal.SIGKILL, belongs)
    return bool(pids)


def _kill_on_sight(belongs: Belongs) -> bool:
    alive = _kill_newest(belongs)
    for pid in _newest_first():
        if belongs(pid):
            _send(pid, signal.SIGKILL, belongs)
            alive = alive or identity_of(pid) is not None
    return alive


def _kill_newest(belongs: Belongs) -> bool:
    """Kills those of the newest numbers, without a listing: what forks again and again has one of them."""
    killed = False
    for _ in range(_CHASES):
        newest = _newest_pid()
        for pid in range(newest, max(newest - _NEWEST, 1), -1):
            if pid != os.getpid() and belongs(pid) and identity_of(pid) is not None:
                _send(pid, signal.SIGKILL, belongs)
                killed = True
    return killed


def _send(pid: int, number: int, is_meant: Belongs) -> None:
    # The number of a thread, which /proc has too, is none of a process: it is not found.
    with suppress(ProcessLookupError, PermissionError, FileNotFoundError):
        descriptor = os.pidfd_open(pid)
        try:
            # Only now the number stands for one process and no other.
            if is_meant(pid):
                signal.pidfd_send_signal(descriptor, number)
        finally:
            os.close(descriptor)


def _stat(pid: int) -> list[str] | None:
    """The fields of /proc/PID/stat after the name, which may hold spaces and brackets."""
    try:
        with open(f"{_PROC}/{pid}/stat", encoding="utf-8", errors="replace") as stream:
            return stream.read().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None


# Memory.


def memory_kib(pids: Iterable[int], *, exact: bool) -> int:
    """Memory that these processes take and the kernel cannot take back: anonymous and shared pages.

    The quick sum counts pages shared after a fork once for each process; the exact one (proportional) costs more.
    """
    return sum((_proportional if exact else _resident)(pid) for pid in pids)


def _resident(pid: int) -> int:
    return _sum_of(f"{_PROC}/{pid}/status", ("RssAnon:", "RssShmem:"))


def _proportional(pid: int) -> int:
    return _sum_of(f"{_PROC}/{pid}/smaps_rollup", ("Pss_Anon:", "Pss_Shmem:"))


def share_bytes(pid: int) -> int:
    """All memory of a process; what several share is divided among them (Pss).

    https://docs.kernel.org/filesystems/proc.html
    """
    return _sum_of(f"{_PROC}/{pid}/smaps_rollup", ("Pss:",)) * 1024


def _sum_of(path: str, keys: tuple[str, ...]) -> int:
    try:
        with open(path, encoding="utf-8", errors="replace") as stream:
            return sum(int(line.split()[1]) for line in stream if line.startswith(keys))
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return 0


# The guard.


def start_guard(limit: Limit, mark: int) -> tuple[int, int]:
    """Starts what ends all that carries a mark when this process has died; its number, and what holds it back."""
    reader, writer = os.pipe()
    try:
        pid = os.posix_spawn(
            sys.executable,
            [sys.executable, "-I", "-S", __file__, str(int(limit)), str(mark)],
            dict(os.environ),
            file_actions=[(os.POSIX_SPAWN_DUP2, reader, 0)],
            setpgroup=0,
        )
    finally:
        os.close(reader)
    return pid, writer


def _guard(limit: Limit, mark: int) -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    sys.stdin.buffer.read()
    while not kill_all(carries_any(limit, mark)):
        time.sleep(_GUARD_PAUSE_SECONDS)


if __name__ == "__main__":
    _guard(Limit(int(sys.argv[1])), int(sys.argv[2]))
