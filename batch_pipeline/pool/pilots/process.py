"""Commands of tasks as process groups: started, signalled and ended as a whole, and never left behind.

A command is spawned (vfork and exec) as the leader of a session and group of its own, its output in a file. What it
starts goes where it likes; it carries the mark of its command, and orphans become children of the pilot. So it is found
and ended with its command, whichever of several it comes from. A guard, a small process that outlives a pilot which is
killed, ends what that left: without it a dead pilot's command would still run when another pilot has the task.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import count
from typing import Final, Self

from batch_pipeline.wire import orphans, processes
from batch_pipeline.wire.orphans import ResourceUsage
from batch_pipeline.wire.processes import Limit

#: Python ignores these two; a tool must find them as everybody does, or `yes | head` never ends.
_DEFAULTED: Final = (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Commands:
    """The commands that this process runs, with all that they start: nothing of it outlives it, however it ends."""

    def __init__(self) -> None:
        self._mark = processes.new_mark(Limit.TASK)
        self._numbers = count()
        self._leaders: set[int] = set()
        self._guard, self._held = processes.start_guard(Limit.TASK, self._mark)

    @classmethod
    @contextmanager
    def running(cls) -> Iterator[Self]:
        """A context: orphans become children of this process, and what is left at its end is killed."""
        with orphans.adopting_orphans():
            commands = cls()
            try:
                yield commands
            finally:
                commands.close()

    def start(self, command: Sequence[str], environment: Mapping[str, str], *, log: int, folder: str = "") -> Process:
        """Starts a command, its output in a file. Raises OSError when it cannot be started."""
        mark = processes.numbered(self._mark, next(self._numbers))
        with processes.working_in(folder), processes.marking(Limit.TASK, mark):
            group = os.posix_spawnp(
                command[0],
                list(command),
                environment,
                file_actions=[
                    (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                    (os.POSIX_SPAWN_DUP2, log, 1),
                    (os.POSIX_SPAWN_DUP2, log, 2),
                ],
                setsid=True,
                setsigmask=(),
                setsigdef=_DEFAULTED,
            )
        self._leaders.add(group)
        return Process(group, mark, self)

    def reap(self, process: Process) -> int:
        """Reaps the leader of a command, which has ended, and ends all that it left behind; returns its status."""
        self._leaders.discard(process.group)
        _, status = os.waitpid(process.group, 0)
        self._end(processes.carries(Limit.TASK, process.mark))
        return status

    def reap_orphans(self) -> None:
        """Reaps what was left behind and has ended, while its command goes on."""
        is_ours = processes.carries_any(Limit.TASK, self._mark)
        for pid in orphans.children():
            if pid not in self._leaders and is_ours(pid):
                os.waitpid(pid, os.WNOHANG)

    def close(self) -> None:
        """Ends what commands left that have ended, and the guard."""
        self._end(processes.carries_any(Limit.TASK, self._mark))
        os.kill(self._guard, signal.SIGKILL)
        os.waitpid(self._guard, 0)
        os.close(self._held)

    def _end(self, belongs: processes.Belongs) -> None:
        # What others leave meanwhile must not fill the listing of children.
        self.reap_orphans()
        orphans.end_children(lambda pid: pid not in self._leaders and belongs(pid), ResourceUsage())


class Process:
    """A running command."""

    def __init__(self, group: int, mark: int, commands: Commands) -> None:
        self.group = group
        #: What all of it carries.
        self.mark = mark
        self._commands = commands
        #: Readable when the command has ended.
        self.descriptor = os.pidfd_open(group)

    def signal(self, number: int) -> None:
        """Signals the whole group; one that has gone is no error."""
        processes.signal_group(self.group, number)

    def kill(self) -> None:
        """Kills it and its group. All else that it started becomes this process's, and is killed when it is reaped."""
        processes.kill_group(self.group)

    def reap(self) -> int:
        """Ends what is left of it, and returns how its leader ended: as a shell says it, or -signal."""
        os.waitid(os.P_PID, self.group, os.WEXITED | os.WNOWAIT)
        # Before the leader is reaped nobody else can get its number.
        self.signal(signal.SIGKILL)
        status = self._commands.reap(self)
        os.close(self.descriptor)
        return os.waitstatus_to_exitcode(status)
