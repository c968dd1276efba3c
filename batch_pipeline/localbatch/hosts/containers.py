"""Attempts in real containers, seen from the server: what podman or docker is told, and how containers are ended.

A worker still runs the attempt: it creates the container, starts it and waits (`contained`), so that a container
outlives the server like any other attempt. A container's name follows from its child and attempt, so the same attempt
cannot run twice; its label is the state folder, so a server finds those of its dead predecessor.

A job definition's `volumes` lie on this machine where the `sourcePath` is there, else below `disk/` of the state
folder: an instance's scratch disk (`/docker_scratch`) need not be made on a laptop. A store that is a folder is there
under the same path, and the container has this user's rights then. The network is this machine's own, so that services
on loopback can be reached.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import subprocess
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from urllib.parse import unquote, urlsplit

from batch_pipeline.localbatch.engine.job import Document
from batch_pipeline.localbatch.engine.state_machine import Run
from batch_pipeline.localbatch.hosts.contained import last_line
from batch_pipeline.localbatch.hosts.execution import environment_of
from batch_pipeline.wire.contract import Variable
from batch_pipeline.wire.errors import BackendFailed
from batch_pipeline.wire.toolchain import ENGINE_VARIABLES, Toolchain

#: Where the token lies with which attempts ask for credentials; see `identity`.
_TOKEN_FILE = "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"
_LABEL = "batch-pipeline"
#: What a shell says for a command that is not there.
_NOT_FOUND = 127
_MOUNTED = (Variable.STORE, Variable.FILE_URL)


class Containers:
    """The containers of one state folder."""

    def __init__(self, engine: str, state: Path, toolchain: Toolchain) -> None:
        """Parameters are podman or docker, the state folder and the server's own toolchain."""
        self.engine = engine
        self._disk = state / "disk"
        self._label = label_of(state)
        self._toolchain = toolchain

    def order(self, run: Run, passed: Mapping[str, str]) -> Document:
        """What a worker needs to run an attempt in its container; the values of its variables are no arguments.

        Of what the server passes to attempts only what concerns AWS reaches a container: its folders are its own. Of a
        toolchain, the umask: what it writes into a store that is a folder of this machine is its user's.
        """
        container = run.job.spec.shown["container"]
        toolchain = run.job.spec.toolchain or self._toolchain
        ambient = {name: passed[name] for name in passed if name.startswith("AWS_")}
        environment = environment_of(run, {**ambient, Variable.UMASK: f"{toolchain.umask:04o}"})
        return {
            "engine": self.engine,
            "name": name_of(run.job.spec.child_id(run.index), run.attempt),
            "options": [
                *self._options(run),
                *_mounts(container, self._disk),
                *self._folders(run),
                *_token(environment.get(_TOKEN_FILE)),
            ],
            "image": container["image"],
            "command": list(run.job.spec.command),
            "environment": environment,
            "client": self._client(run),
            "refused": _refusal(container),
        }

    def _options(self, run: Run) -> Iterator[str]:
        spec = run.job.spec
        container = spec.shown["container"]
        linux = container.get("linuxParameters", {})
        yield from ("--label", self._label, "--network", "host")
        # No swap, as on ECS; vCPUs are shares there, and what others leave may be used.
        yield from ("--memory", f"{spec.memory_mib}m", "--memory-swap", f"{spec.memory_mib}m")
        yield from ("--cpu-shares", str(max(2, spec.vcpus * 1024 // 1000)))
        yield from ("--init",) if linux.get("initProcessEnabled") else ()
        yield from ("--shm-size", f"{linux['sharedMemorySize']}m") if "sharedMemorySize" in linux else ()
        yield from ("--privileged",) if container.get("privileged") else ()
        yield from ("--read-only",) if container.get("readonlyRootFilesystem") else ()
        for limit in container.get("ulimits", ()):
            yield from ("--ulimit", f"{limit['name']}={limit['softLimit']}:{limit['hardLimit']}")
        for device in linux.get("devices", ()):
            yield from ("--device", f"{device['hostPath']}:{device.get('containerPath') or device['hostPath']}")
        for temporary in linux.get("tmpfs", ()):
            options = ",".join((f"size={temporary['size']}m", *temporary.get("mountOptions", ())))
            yield from ("--tmpfs", f"{temporary['containerPath']}:{options}")
        if container.get("user"):
            yield from ("--user", container["user"])

    def _folders(self, run: Run) -> Iterator[str]:
        """Folders of this machine that the attempt's variables name; with them comes the right to write there."""
        folders = [*local_folders(run.job.spec.environment)]
        for folder in folders:
            yield from ("--volume", f"{folder}:{folder}")
        for folder in run.job.spec.environment.get(Variable.FOLDERS, "").split(":"):
            if folder and folder not in folders:
                yield from ("--volume", f"{folder}:{folder}:ro")
        if folders and not run.job.spec.shown["container"].get("user"):
            yield from ("--user", f"{os.getuid()}:{os.getgid()}")
            yield from ("--userns", "keep-id") if os.getuid() and self.engine == "podman" else ()

    def kill(self, run: Run, otherwise: Callable[[], object]) -> None:
        """Kills an attempt's container, whose worker then says that it ended; calls `otherwise` if there is none."""
        self._later(run, ("kill", "--signal", "KILL"), lambda code: code and otherwise())

    def remove(self, run: Run, then: Callable[[], object]) -> None:
        """Ends and removes what may be left of an attempt, then calls."""
        self._later(run, ("rm", "--force"), lambda _: then())

    def _client(self, run: Run | None = None) -> dict[str, str]:
        """The environment of the clients, which reach an attempt's container as the submitter of its job would."""
        toolchain = (run.job.spec.toolchain if run else None) or self._toolchain
        names = ("PATH", "HOME", *ENGINE_VARIABLES)
        return {name: toolchain.variables[name] for name in names if name in toolchain.variables}

    def _later(self, run: Run, arguments: Sequence[str], on_exit: Callable[[int], object]) -> None:
        async def call() -> None:
            try:
                process = await asyncio.create_subprocess_exec(
                    self.engine,
                    *arguments,
                    name_of(run.job.spec.child_id(run.index), run.attempt),
                    env=self._client(run),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                )
            except FileNotFoundError:
                # Where podman or docker is not, there is no container either.
                on_exit(_NOT_FOUND)
                return
            on_exit(await process.wait())

        task = asyncio.get_running_loop().create_task(call())
        _TASKS.add(task)
        task.add_done_callback(_TASKS.discard)

    def sweep(self, running: Collection[tuple[str, int]]) -> None:
        """Ends and removes the containers of this state folder, but for those of attempts that a worker looks after.

        Called before anything is started. Raises BackendFailed when podman or docker does not work.
        """
        kept = {name_of(child, attempt) for child, attempt in running}
        listed = self._call("ps", "--all", "--filter", f"label={self._label}", "--format", "{{.Names}}")
        lost = [name for name in listed.split() if name not in kept]
        if lost:
            self._call("rm", "--force", *lost)

    def _call(self, *arguments: str) -> str:
        try:
            done = subprocess.run(
                [self.engine, *arguments],
                env=self._client(),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                check=False,
            )
        except FileNotFoundError as error:
            raise BackendFailed(f"{self.engine} is not on the PATH. Install it, or leave --container out.") from error
        if done.returncode:
            raise BackendFailed(
                f"{self.engine} {arguments[0]} failed: {last_line(done.stderr)}. Fix that, or leave --container out."
            )
        return done.stdout


#: asyncio itself keeps no task alive.
_TASKS: set[asyncio.Task[None]] = set()


def label_of(state: Path) -> str:
    """The label of a state folder's containers."""
    return f"{_LABEL}={hashlib.sha256(os.fsencode(state)).hexdigest()[:16]}"


def name_of(child: str, attempt: int) -> str:
    """The name of an attempt's container; job ids are unique."""
    return f"batch-{child.replace(':', '-')}-attempt-{attempt}"


def local_folders(environment: Mapping[str, str]) -> list[str]:
    """Folders of this machine that the variables name, none below another."""
    folders: list[str] = []
    for variable in _MOUNTED:
        parts = urlsplit(environment.get(variable, ""))
        path = unquote(parts.path).rstrip("/")
        if parts.scheme == "file" and path:
            folder = path if variable == Variable.STORE else os.path.dirname(path)
            if not any(f"{folder}/".startswith(f"{other}/") for other in folders):
                folders.append(folder)
    return folders


def _mounts(container: Document, disk: Path) -> Iterator[str]:
    """The definition's volumes; one without a place on the host is the container's own."""
    sources = {each.get("name"): each.get("host", {}).get("sourcePath") for each in container.get("volumes", ())}
    for mount in container.get("mountPoints", ()):
        source, target = sources.get(mount["sourceVolume"]), mount["containerPath"]
        if not source:
            yield from ("--volume", target)
            continue
        options = ":ro" if mount.get("readOnly") else ""
        yield from ("--volume", f"{_on_disk(source, disk)}:{target}{options}")


def _token(file: str | None) -> Iterator[str]:
    if file:
        yield from ("--volume", f"{file}:{file}:ro")


def _on_disk(source: str, disk: Path) -> str:
    """Where a path of the instance lies on this machine; one that is made is open to all, as a scratch disk is."""
    if os.path.isdir(source):
        return source
    folder = disk / source.lstrip("/")
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o1777)
    return os.fspath(folder)


def _refusal(container: Document) -> str:
    """Why this machine cannot give the container what its definition asks for; empty: it can."""
    if container.get("secrets"):
        return "ResourceInitializationError: unable to pull secrets: the embedded Batch has none"
    if any("efsVolumeConfiguration" in volume for volume in container.get("volumes", ())):
        return "ResourceInitializationError: failed to invoke EFS utils commands: the embedded Batch has no EFS"
    return ""
