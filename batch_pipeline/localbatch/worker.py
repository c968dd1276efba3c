"""A warm worker: runs attempts one after another, so that a small cell pays neither an interpreter nor imports.

`python -m batch_pipeline.localbatch.worker FD JOURNAL FOLDER MARK` leads its own session, takes orders as lines of JSON
from the socket FD and answers each with `done`. An attempt whose environment has `BATCH_FILE_TYPE` (its image would
have fetch-and-run as ENTRYPOINT) is run in this process by `batch_pipeline.container`, which stays loaded and keeps its
caches; any other is a command in its own process group.

Its interpreter, variables and umask are those of the submitter of its jobs, and so is this package: server and worker
may be of different versions.

What an attempt leaves behind becomes this process's child, wherever it went, and ends with the attempt; and it carries
this process's mark, by which a server finds it should the worker die. In containers the engine sees to that, and what
it starts beside them is not the attempt's: there a worker has no mark and adopts no processes.

SIGTERM is for the current attempt. When the server dies the worker finishes its attempt, writes that down and exits.
"""

from __future__ import annotations

import gc
import json
import os
import select
import shutil
import signal
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from types import FrameType

from batch_pipeline.localbatch.engine.job import Document
from batch_pipeline.localbatch.hosts.journal import JournalWriter, line_of
from batch_pipeline.wire.contract import ContainerExit, Variable
from batch_pipeline.wire.durable import Seal, seal_all
from batch_pipeline.wire.orphans import ResourceUsage, adopt_orphans, await_end, reap_all
from batch_pipeline.wire.processes import Limit, put_mark

#: What a shell says for a process that SIGTERM ended.
TERMINATED = 128 + signal.SIGTERM


class CannotStart(Exception):
    """The command could not be started at all."""


class Worker:
    """Runs what the server orders."""

    def __init__(self, orders: socket.socket, journal: JournalWriter, folder: str) -> None:
        self._orders = orders
        self._journal = journal
        self._folder = folder
        self._peer = select.poll()
        self._peer.register(orders, select.POLLRDHUP)
        #: What `container.process_cache` keeps; `lasts`: `shut_down` will be called, `seals`: takes seals.
        self._warm: dict[str, object] = {"lasts": True}
        #: Variables and command that the attempts of the present job have in common.
        self._shared: Document = {"environment": {}, "command": []}
        #: Process group of the command that runs.
        self._group: int | None = None
        #: What asks the command to end; None: SIGTERM to its group's leader.
        self._terminate: Callable[[], None] | None = None
        self._busy = False
        self._stopping = False

    def serve(self) -> None:
        """Runs orders until the server is gone."""
        signal.signal(signal.SIGTERM, self._stop)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        self._tell({"ready": os.getpid()})
        for line in self._orders.makefile("rb"):
            self._obey(json.loads(line)["run"])
            # While the server thinks of what comes next.
            self.tidy()
        if len(self._warm) > 1:
            from batch_pipeline.container.process_cache import shut_down

            shut_down(self._warm)

    def load_ahead(self) -> None:
        """Imports what runs cells while no order waits, as far as it is installed for this interpreter.

        To be called before `serve`, which handles SIGTERM: until there is an attempt that would be lost.
        """
        if select.select([self._orders], [], [], 0)[0]:
            return
        for module in ("entry", "cell"):
            with suppress(ImportError):
                import_module(f"batch_pipeline.container.{module}")

    def tidy(self) -> None:
        """Does what the last attempt left for after it; nothing of that counts as its end."""
        if len(self._warm) > 1:
            from batch_pipeline.container.process_cache import run_deferred

            run_deferred(self._warm)

    def _tell(self, message: Document) -> None:
        try:
            self._orders.sendall(line_of(message))
        except (BrokenPipeError, ConnectionResetError):
            pass  # The journal has it.

    def _obey(self, order: Document) -> None:
        child, attempt = order["child"], order["attempt"]
        self._shared = order.get("shared", self._shared)
        environment = {**self._shared["environment"], **order["environment"]}
        order = {**order, "environment": environment, "command": self._shared["command"]}
        started = _now_ms()
        self._journal.began(child, attempt, started)
        if self._peer.poll(0):
            self._journal.left(child, attempt)
            return
        self._busy, self._stopping = True, False
        result = self._run(order)
        self._busy = False
        done = {**result, "started_ms": started, "stopped_ms": _now_ms()}
        self._journal.ended(child, attempt, done)
        self._tell({"done": {"child": child, "attempt": attempt, **done}})

    def _run(self, order: Document) -> Document:
        """Runs one attempt with the log as standard output and error."""
        _log_to(order["log"])
        try:
            # A cell makes itself a folder, and has no use for another one.
            is_cell = Variable.MANIFEST in order["environment"] and Variable.FILE_TYPE in order["environment"]
            if is_cell and "container" not in order:
                return self._run_cell(order)
            return self._run_in_folder(order)
        finally:
            _log_nowhere()

    def _run_in_folder(self, order: Document) -> Document:
        """Runs one attempt in an empty folder."""
        os.makedirs(self._folder, mode=0o700, exist_ok=True)
        os.chdir(self._folder)
        try:
            if "container" in order:
                return self._run_contained(order)
            if Variable.FILE_TYPE in order["environment"]:
                return {"exit_code": self._run_here(order)}
            return {"exit_code": self._run_command(order["command"], order["environment"])}
        except CannotStart as error:
            return {
                "exit_code": None,
                "status_reason": "Task failed to start",
                "reason": f"CannotStartContainerError: {error}",
            }
        finally:
            os.chdir("/")
            self._clear_folder()

    def _run_cell(self, order: Document) -> Document:
        """Runs a cell, whose receipt is left to the server to seal, if it offers that and is there to do it."""
        seals: list[Seal] = []
        if order.get("seals"):
            self._warm["seals"] = seals
        try:
            code = self._run_here(order)
        finally:
            self._warm.pop("seals", None)
        if seals and self._peer.poll(0):
            failed = any(seal_all(seals))
            return {"exit_code": int(ContainerExit.STORE_UNREACHABLE) if failed else code}
        return {"exit_code": code, "seals": [(seal.part, seal.target, seal.others) for seal in seals]}

    def _run_here(self, order: Document) -> int:
        from batch_pipeline.container.entry import run_child

        if self._stopping:
            return TERMINATED
        try:
            return run_child(order["environment"], order["command"], self._warm)
        finally:
            sys.stdout.flush()
            sys.stderr.flush()

    def _run_contained(self, order: Document) -> Document:
        from batch_pipeline.localbatch.hosts.contained import CannotRun, Contained

        contained = Contained(order["container"], self._folder, order["log"])
        try:
            contained.create()
            if self._stopping:
                return {"exit_code": TERMINATED}
            self._terminate = contained.terminate
            with contained.watched():
                code = self._run_command(contained.start, contained.environment)
            return contained.ended(code, signalled=self._stopping)
        except CannotRun as error:
            return {"exit_code": None, "status_reason": "Task failed to start", "reason": str(error)}
        finally:
            self._terminate = None
            contained.remove()

    def _run_command(self, command: list[str], environment: dict[str, str]) -> int:
        if not command:
            raise CannotStart("No command specified")
        path = shutil.which(command[0], path=environment.get("PATH", os.defpath))
        if path is None:
            raise CannotStart(f'exec: "{command[0]}": executable file not found in $PATH')
        try:
            group = os.posix_spawn(path, command, environment, setpgroup=0, setsigdef=(signal.SIGINT, signal.SIGPIPE))
        except OSError as error:
            raise CannotStart(f'exec: "{command[0]}": {error.strerror}') from error
        self._group = group
        if self._stopping:
            self._forward()
        usage = ResourceUsage()
        await_end(group, usage)
        self._group = None
        code = os.waitstatus_to_exitcode(reap_all(group, usage))
        return code if code >= 0 else 128 - code

    def _stop(self, _number: int, _frame: FrameType | None) -> None:
        if self._busy:
            self._stopping = True
            self._forward()

    def _forward(self) -> None:
        if self._group is None:
            return
        if self._terminate is not None:
            self._terminate()
        else:
            os.kill(self._group, signal.SIGTERM)

    def _clear_folder(self) -> None:
        try:
            os.rmdir(self._folder)
        except OSError:
            shutil.rmtree(self._folder, ignore_errors=True)


def _log_to(path: str) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags, 0o600)
    except FileNotFoundError:
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        descriptor = os.open(path, flags, 0o600)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)


def _log_nowhere() -> None:
    os.dup2(0, 1)
    os.dup2(0, 2)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def main() -> None:
    """Serves the socket that was inherited."""
    descriptor, journal, folder, mark = sys.argv[1:]
    if int(mark):
        adopt_orphans()
        put_mark(Limit.ATTEMPT, int(mark))
    # An attempt leaves hardly any cycles, and looking for them among all that was loaded costs a small one much.
    gc.set_threshold(20_000)
    # What an attempt starts must not hold the server's connection after this process has died.
    os.set_inheritable(int(descriptor), False)
    worker = Worker(socket.socket(fileno=int(descriptor)), JournalWriter(journal, int(mark)), folder)
    if int(mark):  # Without, cells run in containers.
        worker.load_ahead()
    worker.serve()


if __name__ == "__main__":
    main()
