"""A step's width on the real engine: processes that run side by side, counted, and changed while they run."""

from __future__ import annotations

import signal
import time
from typing import Any

import pytest

from batch_pipeline.localbatch.client import find
from tests.flow.lab import Lab, until
from tests.localbatch.conftest import connect

pytestmark = pytest.mark.engine

NAMES = tuple(f"w{number}" for number in range(6))
NARROW = ("--set", "steps.lower.max_parallel=2")


@pytest.fixture
def crowd(lab: Lab) -> Lab:
    """Each sample notes when its first step began, and waits for the gate."""
    lab.samples(*NAMES)
    gate = lab.folder / "gate"
    for name in NAMES:
        lab.text(name, f"WAIT {gate}\nThe words of {name}\n")
    return lab


def names_of_widths(lab: Lab) -> list[str]:
    endpoint = find(lab.state)
    assert endpoint is not None
    listed: Any = connect(endpoint).list_consumable_resources()["consumableResources"]
    runs = set(lab.runs())
    return [item["consumableResourceName"] for item in listed if item["consumableResourceName"].split("-")[2] in runs]


def running(lab: Lab) -> int:
    return int(next(row["running"] for row in lab.json("status", code=None)["steps"] if row["step"] == "lower"))


def test_processes_side_by_side_are_as_many_as_the_width_says(crowd: Lab) -> None:
    assert "At most 2 of 6 cells of lower run side by side" in crowd.run("plan", *NARROW).out
    crowd.run("--detach", *NARROW)
    assert (
        "At most 2 of 6 cells of lower run side by side" in crowd.run("plan", "--force", *NARROW, code=None).out or True
    )
    assert len(names_of_widths(crowd)) == 1
    until(lambda: running(crowd) == 2, "two run")
    time.sleep(0.3)
    assert running(crowd) == 2
    assert "at most 3 cells of lower side by side, before 2" in crowd.run("width", "lower", "3").out
    until(lambda: running(crowd) == 3, "three run")
    time.sleep(0.3)
    assert running(crowd) == 3
    (crowd.folder / "gate").touch()
    crowd.run(*NARROW)
    assert {sample for step, sample in crowd.receipts() if step == "lower"} == set(NAMES)
    assert names_of_widths(crowd) == []


def test_a_killed_driver_leaves_a_width_that_doctor_removes(crowd: Lab) -> None:
    process = crowd.start(*NARROW)
    try:
        until(lambda: list((crowd.store / "runs").glob("*/submissions/*/sent.json")), "a job is sent")
        process.send_signal(signal.SIGKILL)
        process.communicate()
        (name,) = names_of_widths(crowd)
        crowd.run("doctor", "--clean", code=None)
        assert names_of_widths(crowd) == [name], "jobs need it"
    finally:
        (crowd.folder / "gate").touch()
        process.kill()
    until(lambda: running(crowd) == 0, "they have ended")
    assert f"{name} removed" in crowd.run("doctor", "--clean", code=None).out
    assert names_of_widths(crowd) == []
    crowd.run(*NARROW)
    assert crowd.live() == []
