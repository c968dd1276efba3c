"""A list of more children than may be on the queue at once, on the real engine: plan, run, detach, a killed driver."""

from __future__ import annotations

import signal
from collections import Counter

import pytest

from tests.flow.lab import Lab, until

pytestmark = pytest.mark.engine

BOUND = ("--set", "backend.max_children=10")
NAMES = tuple(f"w{number}" for number in range(8))
CELLS = {*((step, name) for step in ("lower", "words") for name in NAMES), ("count", "_cohort")}


@pytest.fixture
def crowd(lab: Lab) -> Lab:
    lab.samples(*NAMES)
    return lab


def sent(lab: Lab) -> Counter[tuple[str, str]]:
    """How often each cell was sent, over all runs."""
    return Counter(cell for run_id in lab.runs() for cell in lab.sent(run_id))


def test_a_plan_says_in_how_many_waves_it_is_sent(crowd: Lab) -> None:
    plan = crowd.json("plan", *BOUND)
    assert plan["waves"] == [8, 4, 4]
    assert plan["max_live_children"] == 10
    assert [job["wave"] for job in plan["jobs"]] == [0, 0, 1, 2] * 2
    assert {row["step"]: (row["to_run"], row["deferred"]) for row in plan["steps"]} == {
        "lower": (8, 0),
        "words": (8, 0),
        "count": (0, 1),
    }
    text = crowd.run("plan", *BOUND).out
    assert "16 cells in 3 waves: at most 10 children are on the queue at once (backend.max_children)" in text
    assert "with wave 3" in text
    assert "waves" not in crowd.run("plan").out
    assert crowd.json("plan")["max_live_children"] is None


def test_all_waves_are_sent_and_then_the_gather(crowd: Lab) -> None:
    crowd.run(*BOUND)

    assert set(crowd.receipts()) == CELLS
    assert len(crowd.runs()) == 4
    assert sent(crowd) == Counter(dict.fromkeys(CELLS, 1))
    assert crowd.live() == []
    assert "Nothing to do: 17 of 17 cells are done." in crowd.run(*BOUND).out


def test_detach_says_that_the_rest_needs_somebody_and_the_same_command_goes_on(crowd: Lab) -> None:
    assert "8 cells of later waves are not queued" in crowd.run("--detach", *BOUND).out
    crowd.run(*BOUND)
    assert set(crowd.receipts()) == CELLS
    assert sent(crowd) == Counter(dict.fromkeys(CELLS, 1))


def test_a_driver_that_is_killed_between_two_waves_is_replaced_by_the_same_command(crowd: Lab) -> None:
    gate = crowd.folder / "gate"
    for name in NAMES:
        crowd.text(name, f"WAIT {gate}\nThe words of {name}\n")
    process = crowd.start(*BOUND)
    try:
        until(
            lambda: len(list((crowd.store / "runs").glob("*/submissions/*/sent.json"))) == 4, "the first wave is sent"
        )
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert crowd.json("plan", *BOUND)["waves"] == [0, 4, 4]
    finally:
        gate.touch()
        process.kill()

    crowd.run(*BOUND)

    assert set(crowd.receipts()) == CELLS
    assert sent(crowd) == Counter(dict.fromkeys(CELLS, 1))
