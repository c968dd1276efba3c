"""Attempts in real containers, seen from the worker: one container is created, started, waited for and removed.

Three calls of podman or docker: `create` fails where the image cannot be had, `start --attach` passes the log, signals
and the exit code, `rm` removes. After another exit code than 0 a fourth, `inspect`, tells whether it ran at all and
whether it ended for its memory. So it does after a signal, which `kill` sends: a client that does not pass signals on
yet ends of it with 0, and leaves the container running.

With podman the container has the log itself as standard output, so that nothing is lost when its client dies.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from batch_pipeline.localbatch.engine.job import Document
from batch_pipeline.localbatch.engine.retry import OUT_OF_MEMORY

#: What the clients say when an image cannot be had.
_NO_IMAGE = (
    "image not known",
    "initializing source",
    "unable to pull",
    "No such image",
    "pull access denied",
    "manifest",
)
_NEVER = "0001-01-01"
#: Of a container that does not run yet, `kill` fails; after ten seconds it is left to SIGKILL.
_TERMINATE = """
for _ in $(seq 200); do "$0" kill --signal TERM "$1" >/dev/null 2>&1 && exit; sleep 0.05; done
"""
#: How often it is looked whether the container's process is there.
_SOON = 0.05
#: How often it is looked for who was killed after memory ran out.
_LOOKS = 20


class CannotRun(Exception):
    """The container could not be created or started; the text is ECS's reason."""


class Contained:
    """One attempt's container."""

    def __init__(self, order: Document, folder: str, log: str) -> None:
        """Parameters are `Containers.order`, an empty folder for this attempt alone, and the path of its log."""
        self._order = order
        self._engine: str = order["engine"]
        self._name: str = order["name"]
        self._folder = Path(folder)
        self._log = log
        self._out_of_memory = False

    @property
    def start(self) -> list[str]:
        """The command that runs it to its end, with its log and exit code as its own."""
        return [self._engine, "start", "--attach", self._name]

    @property
    def environment(self) -> dict[str, str]:
        """The environment of the clients."""
        return {**self._multiline(), **self._order["client"]}

    def create(self) -> None:
        """Creates it, and fetches its image if need be. Raises CannotRun."""
        if self._order["refused"]:
            raise CannotRun(self._order["refused"])
        done = self._call(
            "create", "--name", self._name, *self._options(), self._order["image"], *self._order["command"]
        )
        if done.returncode:
            message = last_line(done.stderr)
            has_no_image = any(phrase in message for phrase in _NO_IMAGE)
            kind = "CannotPullContainerError" if has_no_image else "CannotCreateContainerError"
            raise CannotRun(f"{kind}: {message}")

    def _options(self) -> Iterator[str]:
        yield from self._order["options"]
        yield from ("--env-file", self._write_variables())
        for name in self._multiline():
            yield from ("--env", name)
        if self._engine == "podman":
            yield from ("--log-driver", "passthrough", "--pidfile", str(self._pid_file))
            if is_loopback(self._order["image"]):
                # docker takes such a registry for a safe one by itself.
                yield from ("--tls-verify=false",)

    def _write_variables(self) -> str:
        """The file of variables: what is an argument can be read by everybody on this machine."""
        path = self._folder / "variables"
        lines = [f"{name}={value}\n" for name, value in self._order["environment"].items() if "\n" not in value]
        path.write_text("".join(lines), encoding="utf-8")
        return str(path)

    def _multiline(self) -> dict[str, str]:
        """Variables that the file cannot hold: the client has them itself and passes them on."""
        return {name: value for name, value in self._order["environment"].items() if "\n" in value}

    @property
    def _pid_file(self) -> Path:
        return self._folder / "pid"

    def ended(self, code: int, *, signalled: bool) -> Document:
        """How it ended, from the exit code of `start`, to which SIGTERM was sent or not.

        Raises CannotRun when it never ran.
        """
        if code == 0 and not signalled:
            return {"exit_code": 0}
        state = self._state()
        if state.get("Running"):
            # Only the client has ended.
            if signalled:
                self._call("kill", "--signal", "TERM", self._name)
            self._call("wait", self._name)
            state = self._state()
        if not state or state["StartedAt"].startswith(_NEVER) or state.get("Error"):
            raise CannotRun(f"CannotStartContainerError: {state.get('Error') or self._last_words()}")
        exit_code = int(state["ExitCode"])
        if exit_code and (state["OOMKilled"] or self._out_of_memory):
            return {"exit_code": exit_code, "reason": OUT_OF_MEMORY}
        return {"exit_code": exit_code}

    def terminate(self) -> None:
        """Sends SIGTERM to the container as soon as it runs, and does not wait for that; a signal handler calls it.

        The client of `start` would end of the signal while it does not pass signals on yet.
        """
        environment = {**os.environ, **self.environment}
        os.posix_spawn("/bin/sh", ["sh", "-c", _TERMINATE, self._engine, self._name], environment)

    def remove(self) -> None:
        """Ends it, if it is there still, and removes it."""
        self._call("rm", "--force", self._name)

    @contextmanager
    def watched(self) -> Iterator[None]:
        """While it lasts, the kernel tells when the container meets its limit of memory.

        podman tells itself where cgroups are of version 2, and docker always.
        """
        if self._engine != "podman" or not os.path.isdir(_MEMORY):
            yield
            return
        stop, stopped = os.pipe()
        watch = threading.Thread(target=self._watch, args=(stop,), daemon=True)
        watch.start()
        try:
            yield
        finally:
            os.close(stopped)
            watch.join()
            os.close(stop)

    def _watch(self, stop: int) -> None:
        pid = ""
        while not pid:
            if select.select([stop], [], [], _SOON)[0]:
                return
            pid = _read(self._pid_file)
        self._out_of_memory = any(killed > 0 for killed in _killed(pid, lambda event: _comes(event, stop)))

    def _state(self) -> Document:
        done = self._call("inspect", "--type", "container", "--format", "{{json .State}}", self._name)
        state: Document = json.loads(done.stdout) if done.returncode == 0 else {}
        return state

    def _last_words(self) -> str:
        with open(self._log, "rb") as stream:
            stream.seek(max(0, os.fstat(stream.fileno()).st_size - 4096))
            return last_line(stream.read().decode(errors="replace"))

    def _call(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command: Sequence[str] = (self._engine, *arguments)
        try:
            return subprocess.run(
                command, env=self.environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
            )
        except FileNotFoundError as error:
            raise CannotRun(f"CannotCreateContainerError: {self._engine} is not on the server's PATH") from error


def last_line(text: str) -> str:
    """What a client said at last, without the word `Error`."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1].removeprefix("Error: ").rstrip(".") if lines else "it said nothing"


#: cgroups of version 1; conmon, podman's monitor, misses what happens there on new kernels.
_MEMORY = "/sys/fs/cgroup/memory"


def is_loopback(image: str) -> bool:
    """Whether an image's registry is on this machine."""
    return image.partition("/")[0].rpartition(":")[0] in ("127.0.0.1", "localhost", "[::1]")


def _killed(pid: str, comes: Callable[[int], bool]) -> Iterator[int]:
    """How many processes of this one's cgroup were killed for its memory: now, and whenever the kernel tells more.

    https://docs.kernel.org/admin-guide/cgroup-v1/memory.html#oom-control
    """
    group = next(
        (line.split(":", 2)[2] for line in _read(Path(f"/proc/{pid}/cgroup")).splitlines() if ":memory:" in line), ""
    )
    folder = f"{_MEMORY}{group}"
    # The container has no cgroup of its own where podman may make none.
    if group in ("", "/") or _read(Path(f"{folder}/cgroup.procs")).find(pid) < 0:
        return
    event = os.eventfd(0, os.EFD_CLOEXEC)
    control = os.open(f"{folder}/memory.oom_control", os.O_RDONLY | os.O_CLOEXEC)
    try:
        Path(f"{folder}/cgroup.event_control").write_text(f"{event} {control}")
        yield _count(control)
        while comes(event):
            os.eventfd_read(event)
            # The kernel tells that memory is out before it kills, and also when the cgroup is removed.
            for _ in range(_LOOKS):
                yield _count(control)
                time.sleep(_SOON / 5)
    except OSError:
        return  # The cgroup has gone, and the container with it.
    finally:
        os.close(event)
        os.close(control)


def _comes(event: int, stop: int) -> bool:
    ready = select.select([event, stop], [], [])[0]
    return event in ready


def _count(control: int) -> int:
    words = os.pread(control, 4096, 0).split()
    return int(words[words.index(b"oom_kill") + 1]) if b"oom_kill" in words else 0


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except (FileNotFoundError, ProcessLookupError):
        return ""
