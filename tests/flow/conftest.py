"""One embedded Batch for the session, and a lab for each test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from batch_pipeline.localbatch.client import ensure, stop
from tests.flow.lab import SAMPLES, SERVER, Lab, made_by
from tests.leftovers import keep_until_the_end


@pytest.fixture(scope="session")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The state folder of a server with four slots, on however many cores."""
    state = tmp_path_factory.mktemp("engine")
    keep_until_the_end(state)
    scratch, cache = (str(tmp_path_factory.mktemp(name)) for name in ("scratch", "cache"))
    vcpus, memory, idle = SERVER["vcpus"], SERVER["memory_mb"], SERVER["idle_seconds"]
    ensure(state, vcpus=vcpus, memory_mib=memory, idle_seconds=idle, scratch=scratch, cache=cache)
    yield state
    stop(state)  # or it has stopped by itself: idle for long


@pytest.fixture
def lab(engine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Lab:
    made = Lab(folder=tmp_path, state=engine, capture=capsys)
    made.set_up()
    made_by(made, monkeypatch)
    return made


@pytest.fixture
def gate(lab: Lab) -> Iterator[Path]:
    """A file for which the first step of every sample waits; opened at the end, so that nothing is left waiting."""
    path = lab.folder / "gate"
    for sample in SAMPLES:
        lab.text(sample, f"WAIT {path}\nThe words of {sample}\n")
    yield path
    path.touch()
