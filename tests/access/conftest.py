"""A site with an embedded Batch of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from batch_pipeline.localbatch.client import ensure, stop
from tests.access.site import SERVER, Site


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    state = tmp_path / "state"
    begin(state)
    yield Site(tmp_path, state)
    stop(state)


def begin(state: Path) -> int:
    """Starts the server, or finds it; its process id."""
    scratch, cache = (str(state.with_name(name)) for name in ("scratch", "jobs-cache"))
    vcpus, memory, idle = SERVER["vcpus"], SERVER["memory_mb"], SERVER["idle_seconds"]
    return ensure(
        state, vcpus=vcpus, memory_mib=memory, idle_seconds=idle, scratch=scratch, cache=cache, grace_seconds=2
    ).pid
