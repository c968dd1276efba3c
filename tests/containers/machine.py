"""podman as it works on this machine: behind a wrapper that comes first on the PATH, with a base image made here.

On a host with cgroups in hybrid mode (version 1 with an empty version 2 beside it) crun starts nothing; in a mount
namespace without the second it does, with limits. Where cgroups cannot be written at all, containers run without them.
"""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from batch_pipeline.localbatch.hosts.containers import label_of

#: Set by the gate: there a machine that cannot run containers fails the tests.
REQUIRED = bool(os.environ.get("CONTAINERS_REQUIRED"))
BASE = "localhost/batch-pipeline/debian:bookworm-slim"
SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "base_image.sh"

_CONF = """[containers]
netns = "host"
cgroups = "{cgroups}"
default_ulimits = ["nofile={files}", "nproc={processes}"]
[engine]
runtime = "crun"
events_logger = "file"
cgroup_manager = "cgroupfs"
"""
_WRAPPER = """#!/bin/sh
export CONTAINERS_CONF={conf}
{storage}
exec {how}
"""
_PLAIN = '{podman} "$@"'
_UNSHARED = """unshare -m sh -c 'umount /sys/fs/cgroup/unified 2>/dev/null; exec {podman} "$@"' podman "$@\""""


class CannotRun(Exception):
    """This machine runs no containers; the text says why."""


@dataclass(frozen=True, kw_only=True)
class Machine:
    """podman that works."""

    #: Goes first on the PATH.
    folder: Path
    #: Whether the kernel keeps containers within their memory.
    has_limits: bool

    @property
    def path(self) -> str:
        """A PATH with the wrapper."""
        return f"{self.folder}:{os.environ['PATH']}"

    def containers(self, state: Path, *options: str) -> list[str]:
        """The containers of a server's state folder."""
        label = f"label={label_of(state)}"
        return self.podman("ps", "--quiet", "--no-trunc", "--filter", label, *options).split()

    def podman(self, *arguments: str, code: int | None = 0) -> str:
        """Calls podman and returns what it printed."""
        done = subprocess.run(
            [str(self.folder / "podman"), *arguments], capture_output=True, text=True, check=False, timeout=300
        )
        assert code in (None, done.returncode), done.stderr
        return done.stdout.strip()


def find_machine(folder: Path) -> Machine:
    """podman behind the first wrapper with which it runs a container. Raises CannotRun."""
    podman = shutil.which("podman")
    if os.getuid() or not podman:
        raise CannotRun("podman is not here, or this is not root: scripts/install.sh containers, and run as root")
    said = []
    for cgroups, how, storage in product(("enabled", "disabled"), (_PLAIN, _UNSHARED), ("", "vfs")):
        _write(folder, podman, cgroups, how, storage)
        machine = Machine(folder=folder, has_limits=cgroups == "enabled")
        if problem := _problem(machine):
            said.append(problem)
        else:
            return machine
    raise CannotRun("podman runs no container: " + " | ".join(dict.fromkeys(said)))


def _write(folder: Path, podman: str, cgroups: str, how: str, storage: str) -> None:
    conf, wrapper = folder / "containers.conf", folder / "podman"
    files, processes = _limit(resource.RLIMIT_NOFILE, 1 << 20), _limit(resource.RLIMIT_NPROC, 4096)
    conf.write_text(_CONF.format(cgroups=cgroups, files=files, processes=processes))
    driver = f"export STORAGE_DRIVER={storage}" if storage else ""
    wrapper.write_text(_WRAPPER.format(conf=conf, storage=driver, how=how.format(podman=podman)))
    wrapper.chmod(0o755)


def _limit(which: int, most: int) -> str:
    """What a container may have: no more than we have, for podman's default is more than many a host allows."""
    soft, hard = (most if each < 0 else min(each, most) for each in resource.getrlimit(which))
    return f"{soft}:{hard}"


def _problem(machine: Machine) -> str:
    """Why this wrapper does not do; empty: it does."""
    wrapper = str(machine.folder / "podman")
    for command in _probes(wrapper):
        environment = {**os.environ, "BUILDER": wrapper}
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300, env=environment)
        if done.returncode:
            return (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
    return ""


def _probes(wrapper: str) -> Iterator[Sequence[str]]:
    if subprocess.run([wrapper, "image", "exists", BASE], capture_output=True, check=False).returncode:
        yield (str(SCRIPT), BASE)
    yield (wrapper, "run", "--rm", "--memory", "64m", BASE, "true")
