"""The server's side of a worker: starts it, hands it attempts, hears from it, and notices its death."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from batch_pipeline.localbatch.engine.job import Document
from batch_pipeline.localbatch.engine.state_machine import Run
from batch_pipeline.localbatch.hosts.execution import own_environment, shared_environment
from batch_pipeline.localbatch.hosts.journal import line_of
from batch_pipeline.wire.processes import Limit, ProcessIdentity, identity_of, new_mark
from batch_pipeline.wire.toolchain import Toolchain


class WorkerProcess:
    """A worker that this server has started. Its current run belongs to it alone."""

    def __init__(self, folder: Path, toolchain: Toolchain, bundle: str, *, marked: bool) -> None:
        """Raises OSError when the interpreter cannot be started."""
        self.toolchain = toolchain
        #: SHA-256 of the bundle that it has loaded; empty as long as there is none.
        self.bundle = bundle
        self.run: Run | None = None
        #: It has said that it is there.
        self.ready = False
        #: Being ended on purpose while idle.
        self.retired = False
        #: Ended for its memory.
        self.out_of_memory = False
        name = f"{os.getpid()}-{id(self):x}-{os.urandom(4).hex()}"
        self.journal = folder / f"{name}.jsonl"
        self.scratch = folder / name
        self.socket, theirs = socket.socketpair()
        #: See `Journal.mark`.
        self.mark = new_mark(Limit.ATTEMPT) if marked else 0
        arguments = (str(theirs.fileno()), str(self.journal), str(self.scratch), str(self.mark))
        with theirs:
            self._process = subprocess.Popen(
                [toolchain.python or sys.executable, "-m", "batch_pipeline.localbatch.worker", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                cwd="/",
                env=toolchain.environment(),
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
                umask=toolchain.umask,
            )
        self.socket.setblocking(False)
        #: Becomes readable when the process has died, whoever may still hold its end of the socket.
        self.death = os.pidfd_open(self._process.pid)
        self._buffer = b""
        #: The job whose shared part it was told last.
        self._shared_job_id = ""
        identity = identity_of(self._process.pid)
        # One that has died already has no session either.
        self.identity = identity or ProcessIdentity(pid=self._process.pid, start_ticks=0, boot="")

    def order(self, run: Run, log: str, ambient: Mapping[str, str], container: Document | None = None) -> None:
        """Hands it an attempt, in a container or not. If it has died, its end of file says so later.

        What all attempts of a job share is told once for as long as no other job comes in between.
        """
        self.run = run
        spec = run.job.spec
        order: Document = {
            "child": spec.child_id(run.index),
            "attempt": run.attempt,
            "log": log,
            "environment": own_environment(run),
            "seals": True,
        }
        if spec.id != self._shared_job_id:
            self._shared_job_id = spec.id
            order["shared"] = {"environment": shared_environment(run, ambient), "command": spec.command}
        if container is not None:
            order["container"] = container
        try:
            self.socket.sendall(line_of({"run": order}))
        except (BrokenPipeError, ConnectionResetError):
            pass

    def messages(self) -> list[Document] | None:
        """What it has said since; None when it says nothing more."""
        try:
            text = self.socket.recv(65536)
        except BlockingIOError:
            return []
        except ConnectionResetError:
            text = b""
        if not text:
            return None
        *lines, self._buffer = (self._buffer + text).split(b"\n")
        return [json.loads(line) for line in lines]

    def reap(self) -> int:
        """Its exit code, as a shell would put it, now that it has died."""
        os.close(self.death)
        self.socket.close()
        code = self._process.wait()
        return code if code >= 0 else 128 - code

    def retire(self) -> None:
        """Lets it exit by itself: nothing more will be ordered."""
        self.retired = True
        self.socket.shutdown(socket.SHUT_WR)
