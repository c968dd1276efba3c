"""Pilots as processes of this machine: started apart from who starts them, and remembered in a folder.

Each pilot leaves a file with its process id and when that process began, so that an autopilot that runs once a minute
from cron counts the pilots of the one before. A number that went to another process is none of ours.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import batch_pipeline
from batch_pipeline.wire.contract import Variable
from batch_pipeline.wire.daemon import process_of, write_pid_file
from batch_pipeline.wire.digest import fingerprint_of


def remembered(base: Path, pool_url: str) -> Path:
    """Where the pilots of a pool are remembered on this machine."""
    return base / "pilots" / fingerprint_of(pool_url)


class LocalLauncher:
    """See `autopilot.Launcher`. `command` is what a pilot of a class is started with, its class aside.

    `environment`: variables besides ours.
    """

    def __init__(self, command: Sequence[str], folder: Path, *, environment: Mapping[str, str] | None = None) -> None:
        self.command = tuple(command)
        self.environment = {**_environment(), **(environment or {})}
        self._folder = folder
        self._children: set[int] = set()

    def alive(self, resource_class: str) -> int:
        """See `Launcher.alive`."""
        self._reap()
        return sum(process_of(file) is not None for file in self._folder.glob(f"{_word(resource_class)}-*"))

    def launch(self, resource_class: str, count: int) -> str:
        """See `Launcher.launch`."""
        self._folder.mkdir(parents=True, exist_ok=True)
        of_class = ("--class", resource_class) if resource_class else ()
        started = [self._start((*self.command, *of_class), _word(resource_class)) for _ in range(count)]
        return f"started {count} {'pilot' if count == 1 else 'pilots'} ({', '.join(map(str, started))})"

    def _start(self, command: Sequence[str], word: str) -> int:
        log = self._folder / "pilots.log"
        writing = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        pid = os.posix_spawn(
            command[0],
            list(command),
            self.environment,
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, str(log), writing, 0o600),
                (os.POSIX_SPAWN_DUP2, 1, 2),
            ],
            # A group of its own: Ctrl-C for who starts it is not meant for it.
            setpgroup=0,
        )
        self._children.add(pid)
        write_pid_file(self._folder / f"{word}-{pid}.pid", pid)
        return pid

    def _reap(self) -> None:
        for pid in list(self._children):
            if os.waitpid(pid, os.WNOHANG)[0]:
                self._children.discard(pid)

    def wait(self) -> None:
        """Until all pilots that this one started have ended."""
        for pid in self._children:
            os.waitpid(pid, 0)
        self._children.clear()

    def signal(self, number: int) -> None:
        """Signals all pilots that this one started."""
        self._reap()
        for pid in self._children:
            os.kill(pid, number)


def identity(environment: Mapping[str, str]) -> tuple[str, str]:
    """A pilot's name in the pool, and the native id of the job that it is: of Batch or Slurm, else `host/pid`."""
    host, pid = socket.gethostname(), os.getpid()
    array = [environment.get(name, "") for name in ("SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID")]
    slurm = "_".join(array) if all(array) else environment.get("SLURM_JOB_ID", "")
    return f"{host}-{pid}", environment.get(Variable.JOB_ID, "") or slurm or f"{host}/{pid}"


def pilot_command(pool_url: str, options: Sequence[str] = ()) -> tuple[str, ...]:
    """What starts a pilot of a pool on this machine."""
    return (sys.executable, "-m", "batch_pipeline", "pool", "work", "--pool", pool_url, *options)


def _environment() -> dict[str, str]:
    """Ours, and this very package, wherever the pilot is started."""
    package = str(Path(batch_pipeline.__file__).resolve().parents[1])
    path = os.environ.get("PYTHONPATH", "")
    return {**os.environ, "PYTHONPATH": f"{package}{os.pathsep}{path}" if path else package}


def _word(resource_class: str) -> str:
    return resource_class.replace("/", "!") or "any"
