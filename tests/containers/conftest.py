"""podman as it works here, and servers of the embedded Batch that run attempts in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from batch_pipeline.localbatch.client import ensure, stop
from batch_pipeline.localbatch.endpoint import Endpoint
from tests.containers.machine import REQUIRED, CannotRun, Machine, find_machine


@pytest.fixture(scope="session")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Machine:
    try:
        return find_machine(tmp_path_factory.mktemp("podman"))
    except CannotRun as error:
        if REQUIRED:
            pytest.fail(f"Real containers are to be tested here, and {error}")
        pytest.skip(f"NO REAL CONTAINERS ARE TESTED: {error}")


@pytest.fixture
def engine(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """podman, first on the PATH of this test."""
    monkeypatch.setenv("PATH", machine.path)
    return machine


@pytest.fixture
def start(engine: Machine, tmp_path: Path) -> Iterator[Callable[..., Endpoint]]:
    """Starts or finds the test's server; nothing of it is left when the test is over."""
    state = tmp_path / "state"

    def begin() -> Endpoint:
        return ensure(state, 4, 2048, idle_seconds=60, minimum_timeout=1, grace_seconds=2, container="podman")

    yield begin
    stop(state)
    assert engine.containers(state, "--all") == []
