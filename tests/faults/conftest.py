"""One embedded Batch and two killers for the session."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from itertools import count
from pathlib import Path

import pytest

from batch_pipeline.localbatch.client import ensure, stop
from tests.faults.lives import Killer, World, copied_pipeline, settings_of
from tests.leftovers import keep_until_the_end


@dataclass(kw_only=True)
class Engine:
    """A server with many slots, and the processes that fork commands."""

    folder: Path
    #: Of killed commands.
    environment: dict[str, str]
    #: Of the pair of steps.
    killers: list[Killer] = field(default_factory=list)
    numbers: Iterator[int] = field(default_factory=lambda: count(1))

    @property
    def state(self) -> Path:
        return self.folder / "state"

    def world(self, *, closed: bool = False) -> World:
        number = next(self.numbers)
        world = World(folder=self.folder / f"world-{number}", queue=f"queue-{number}")
        world.set_up(closed=closed)
        return world


@pytest.fixture(scope="session")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    engine = Engine(folder=tmp_path_factory.mktemp("faults"), environment={})
    keep_until_the_end(engine.folder)
    (engine.folder / "state.json").write_text(json.dumps(str(engine.state)))
    folders = [str(tmp_path_factory.mktemp(name)) for name in ("scratch", "cache")]
    ensure(engine.state, vcpus=16, memory_mib=8192, idle_seconds=60, scratch=folders[0], cache=folders[1])
    file = copied_pipeline(engine.folder / "letters")
    embedded = settings_of(engine.state).embedded
    options = {f"BATCH_PIPELINE__EMBEDDED__{name.upper()}": str(value) for name, value in asdict(embedded).items()}
    kept = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
    engine.environment |= {
        **kept,
        **options,
        "HOME": str(engine.folder),
        "BATCH_PIPELINE__WATCH__POLL_SECONDS": "0.1",
    }
    engine.killers += [Killer(file, engine.environment, engine.folder / f"killer-{n}.err") for n in range(2)]
    yield engine
    for killer in engine.killers:
        killer.close()
    stop(engine.state)  # or it has stopped by itself: idle for long
