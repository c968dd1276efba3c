"""Cells in real containers whose step ends by SIGKILL: from the kernel, which ran out of memory, or from the step."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from batch_pipeline.wire.store import open_store
from tests.container.conftest import REPOSITORY, Workshop
from tests.containers.machine import BASE, Machine

pytestmark = [pytest.mark.containers, pytest.mark.xdist_group("containers")]

#: Takes a gigabyte.
HUNGRY = "x=$(head -c 1000m /dev/zero | tr '\\0' x); echo ${#x}"


@pytest.mark.parametrize(
    ("script", "code", "reason", "words"),
    [
        (HUNGRY, 137, "out_of_memory", "The kernel killed for lack of memory: raise memory_mb."),
        (f"({HUNGRY}) || exit $?", 137, "out_of_memory", "The kernel killed for lack of memory"),
        ("kill -9 $$", 1, "step_failed", "Not for lack of memory (its peak was "),
        ("timeout -s KILL 0.1 sleep 60", 1, "step_failed", "Not for lack of memory (its peak was "),
    ],
)
def test_the_kernels_kill_for_memory_is_told_from_any_other(
    engine: Machine,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    script: str,
    code: int,
    reason: str,
    words: str,
) -> None:
    if not engine.has_limits:
        pytest.skip("THIS MACHINE'S cgroups CANNOT BE WRITTEN: no container has a limit of memory")
    workshop = Workshop(root=tmp_path, store=open_store(f"file://{tmp_path}/store", create=True))
    # Far more than the container may take: no peak in it could decide.
    environment = workshop.script(f"#!/bin/sh\n{script}\n", memory_mb=100_000)
    # podman's monitor leaves a file where it was started when memory ran out.
    monkeypatch.chdir(tmp_path)
    interpreter = Path(os.path.realpath(sys.executable)).parents[1]
    places = [f"--volume={place}:{place}:ro" for place in (interpreter, Path(sys.prefix), REPOSITORY)]
    engine.podman(
        *("run", "--rm", "--memory=128m", "--memory-swap=128m", f"--volume={tmp_path}:{tmp_path}", *places),
        *(f"--env={name}={value}" for name, value in environment.items()),
        *(BASE, sys.executable, "-m", "batch_pipeline.container"),
        code=code,
    )
    failure = workshop.failure()
    assert failure
    assert (failure.exit_code, failure.end_reason) == (code, reason)
    assert words in failure.message
