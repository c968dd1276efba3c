"""How many pilots there shall be, and pilots as processes of this machine."""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from pathlib import Path

import pytest

from batch_pipeline.pool.base import Counts, Filter
from batch_pipeline.pool.pilots.autopilot import Autopilot, Sizing, wanted
from batch_pipeline.pool.pilots.launch import LocalLauncher
from batch_pipeline.pool.stores.memory import MemoryStore
from batch_pipeline.pool.task import Action, TaskSpec, TaskState
from batch_pipeline.wire.processes import birth_of


def counts(**states: int) -> Counts:
    return Counts(by_class={"small": {TaskState(name): number for name, number in states.items()}})


@pytest.mark.parametrize(
    ("there", "alive", "needed"),
    [
        (counts(), 0, 0),
        (counts(todo=1), 0, 1),
        (counts(todo=10), 0, 1),
        (counts(todo=11), 0, 2),
        (counts(todo=1000), 0, 4),
        # PiCaS started six more at each look, though those of the last one were still queued.
        (counts(todo=1000), 4, 0),
        (counts(todo=1000), 3, 1),
        (counts(todo=1000), 9, 0),
        (counts(todo=5, held=10), 1, 1),
        (counts(held=40), 0, 0),
        (counts(waiting=50, failed=3, done=9), 0, 0),
    ],
)
def test_pilots_follow_the_backlog_up_to_the_cap(there: Counts, alive: int, needed: int) -> None:
    assert wanted(there, "small", Sizing(most=4, tasks_per_pilot=10), alive) == needed


def test_a_class_may_have_its_own_cap() -> None:
    sizing = Sizing(most=4, caps={"small": 1}, tasks_per_pilot=1)
    assert wanted(counts(todo=9), "small", sizing, 0) == 1


class Paper:
    """Launches on paper: queued pilots count."""

    def __init__(self, pool: MemoryStore) -> None:
        self.pool = pool
        self.there: Counter[str] = Counter()

    def alive(self, resource_class: str) -> int:
        return self.there[resource_class]

    def launch(self, resource_class: str, count: int) -> str:
        self.there[resource_class] += count
        return f"started {count}"


def test_the_autopilot_looks_at_each_class() -> None:
    pool = MemoryStore()
    pool.add([TaskSpec(id=f"a{n}", command=("true",), resource_class="a") for n in range(25)], now_ms=0)
    pool.add([TaskSpec(id="b", command=("true",), resource_class="b/2")], now_ms=0)
    paper = Paper(pool)
    autopilot = Autopilot(pool, paper, Sizing(most=2), classes=None, now_ms=lambda: 0)
    assert list(autopilot.look()) == [
        "a: started 2, beside 0 there already.",
        "b/2: started 1, beside 0 there already.",
    ]
    assert list(autopilot.look()) == []
    assert not autopilot.over()


def test_the_autopilot_goes_on_until_the_pool_is_drained() -> None:
    pool = MemoryStore()
    pool.add([TaskSpec(id="t", command=("true",))], now_ms=0)
    autopilot = Autopilot(pool, Paper(pool), Sizing(), classes=["default"], now_ms=lambda: 10_000)
    pauses: list[float] = []

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 1:
            pool.claim("dead", 1, lease_ms=1, now_ms=0)
        if len(pauses) == 4:
            pool.move(Filter(), Action.DELETE, now_ms=0, act="x", force=True)

    told = list(autopilot.until_over(sleep, 1.0))
    assert told[0] == "default: started 1, beside 0 there already."
    assert told[1] == "Took 1 tasks back from pilots that were not heard of."
    assert len(pauses) == 4


def test_pilots_of_an_earlier_call_are_counted(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "import time; time.sleep(60)"]
    first = LocalLauncher(command, tmp_path)
    assert first.alive("a/b") == 0
    assert first.launch("a/b", 2).startswith("started 2 pilots (")
    second = LocalLauncher(command, tmp_path)
    try:
        assert (second.alive("a/b"), second.alive("a"), first.alive("a/b")) == (2, 0, 2)
    finally:
        first.signal(9)
        first.wait()
    assert second.alive("a/b") == 0
    assert not list(tmp_path.glob("*.pid"))


def test_a_pilot_that_an_earlier_version_started_is_counted(tmp_path: Path) -> None:
    (tmp_path / "a-1.json").write_text(json.dumps({"pid": os.getpid(), "began": birth_of(os.getpid())}))
    assert LocalLauncher(["true"], tmp_path).alive("a") == 1


def test_a_pid_file_that_is_being_written_stays(tmp_path: Path) -> None:
    (tmp_path / "a-1.pid").touch()
    assert LocalLauncher(["true"], tmp_path).alive("a") == 0
    assert (tmp_path / "a-1.pid").exists()


def test_a_number_that_went_to_another_process_is_no_pilot(tmp_path: Path) -> None:
    (tmp_path / "a-1.json").write_text(json.dumps({"pid": os.getpid(), "began": "12"}))
    assert LocalLauncher(["true"], tmp_path).alive("a") == 0


def test_what_a_pilot_says_is_kept(tmp_path: Path) -> None:
    launcher = LocalLauncher([sys.executable, "-c", "import sys; print('said', sys.argv[1:])"], tmp_path)
    launcher.launch("gpu", 1)
    launcher.wait()
    assert (tmp_path / "pilots.log").read_text() == "said ['--class', 'gpu']\n"
    assert launcher.alive("gpu") == 0
