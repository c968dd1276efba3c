"""Commands of tasks as process groups: started, signalled and ended as a whole, and never left behind.

A command is spawned (vfork and exec) as the leader of a session and group of its own, its output in a file. What it
starts may make groups (a cell of a pipeline does), so that killing means the whole session. `Guard` is a small process
that outlives a pilot which is killed, and ends what it left: without it a dead pilot's command would still run when
another pilot has the task.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

#: Python ignores these two; a tool must find them as everybody does, or `yes | head` never ends.
_DEFAULTED: Final = (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
#: Names the pilot in the environment of all that it starts.
PILOT: Final = "TASK_PILOT"
_GUARD: Final = """
import os, signal, sys, time
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, signal.SIG_IGN)
sys.stdin.buffer.read()
mark = sys.argv[1].encode() + b"\\0"
sessions, quiet = set(), 0
while quiet < 2:
    found = {}
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/stat") as file:
                fields = file.read().rpartition(")")[2].split()
            with open(f"/proc/{pid}/environ", "rb") as file:
                marked = mark in file.read()
        except OSError:
            continue
        if fields[0] not in "ZX":
            found[int(pid)] = int(fields[3])
            if marked:
                sessions.add(int(fields[3]))
    doomed = [pid for pid, session in found.items() if session in sessions]
    for pid in doomed:
        try:
            os.kill(pid, signal.SIGKILL)
        except OSError:
            pass
    # One that was just being started shows itself a moment later.
    quiet = 0 if doomed else quiet + 1
    time.sleep(0.02)
"""


class Guard:
    """Ends the commands of this process when it dies, however it dies. It knows them by a mark in their environment."""

    def __init__(self) -> None:
        self.mark = f"{socket.gethostname()}-{os.getpid()}-{os.urandom(6).hex()}"
        reader, self._writer = os.pipe()
        try:
            self._pid = os.posix_spawn(
                sys.executable,
                [sys.executable, "-I", "-S", "-c", _GUARD, f"{PILOT}={self.mark}"],
                dict(os.environ),
                file_actions=[(os.POSIX_SPAWN_DUP2, reader, 0)],
                setpgroup=0,
            )
        finally:
            os.close(reader)

    def close(self) -> None:
        """Ends the guard: this process has ended its commands itself."""
        os.kill(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)
        os.close(self._writer)


class Process:
    """A running command. Raises OSError when it cannot be started."""

    def __init__(
        self, command: Sequence[str], environment: Mapping[str, str], *, log: int, folder: str = "", guard: Guard
    ) -> None:
        before = os.open(".", os.O_RDONLY | os.O_DIRECTORY) if folder else -1
        try:
            if folder:
                os.chdir(folder)
            self.group = os.posix_spawnp(
                command[0],
                list(command),
                {**environment, PILOT: guard.mark},
                file_actions=[
                    (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                    (os.POSIX_SPAWN_DUP2, log, 1),
                    (os.POSIX_SPAWN_DUP2, log, 2),
                ],
                setsid=True,
                setsigmask=(),
                setsigdef=_DEFAULTED,
            )
        finally:
            if folder:
                os.fchdir(before)
                os.close(before)
        #: Readable when the command has ended.
        self.descriptor = os.pidfd_open(self.group)

    def signal(self, number: int) -> None:
        """Signals the whole group; one that has gone is no error."""
        try:
            os.killpg(self.group, number)
        except (ProcessLookupError, PermissionError):
            pass

    def kill(self) -> None:
        """Kills it and all that it started, in whatever group of its session."""
        self.signal(signal.SIGKILL)
        for pid in _of_session(self.group):
            try:
                os.kill(pid, signal.SIGKILL)
            except (ProcessLookupError, PermissionError):
                pass

    def reap(self) -> int:
        """Ends what is left of the group, and returns how its leader ended: as a shell says it, or -signal."""
        os.waitid(os.P_PID, self.group, os.WEXITED | os.WNOWAIT)
        # Before the leader is reaped nobody else can get its number.
        self.signal(signal.SIGKILL)
        _, status = os.waitpid(self.group, 0)
        os.close(self.descriptor)
        return os.waitstatus_to_exitcode(status)


def _of_session(session: int) -> Iterator[int]:
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            try:
                with open(f"/proc/{entry.name}/stat") as file:
                    fields = file.read().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[3]) == session:
                yield int(entry.name)
