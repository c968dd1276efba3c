"""What the page is to show, as a function of what the driver tells."""

from __future__ import annotations

from typing import Any

import pytest

from batch_pipeline.luigi_adapter.states import (
    CELLS_NAMED,
    abandoned,
    last_statuses_of,
    status_of,
)
from batch_pipeline.records.events import FailedCell, Outcome, StepProgress
from batch_pipeline.wire.contract import EndReason

MEMORY = {EndReason.OUT_OF_MEMORY: 1}


def counts(**fields: Any) -> StepProgress:
    return StepProgress(step="count", **fields)


def outcome(*progress: StepProgress, **fields: Any) -> Outcome:
    return Outcome(run_ids=["01A"], progress={step.step: step for step in progress}, **{"failed": [], **fields})


@pytest.mark.parametrize(
    ("progress", "status", "percent"),
    [
        (counts(waiting=9), "RUNNING", 0),
        (counts(done=7, running=1, failed=MEMORY), "RUNNING", 88),
        (counts(done=999, running=1), "RUNNING", 99),
        (counts(done=9), "DONE", 100),
        (counts(done_before=9), "DONE", 100),
        (counts(done=8, failed=MEMORY), "FAILED", 100),
        (counts(done=8, left_out=1), "DONE", 100),
    ],
)
def test_a_step_is_running_until_it_is_over(progress: StepProgress, status: str, percent: int) -> None:
    state = status_of(progress)
    assert (state.status, state.percent, state.line) == (status, percent, progress.line)
    assert bool(state.explanation) == (status == "FAILED")


def test_the_workflow_counts_all_cells() -> None:
    together = StepProgress.sum_of("All", [counts(done=9), counts(done=1, running=2, failed=MEMORY, waiting=5)])
    assert status_of(together).line == "10/18 done, 2 running, 5 waiting, 1 failed: out of memory"


def test_a_failure_names_its_cells_and_says_how_many_more() -> None:
    failed = [
        FailedCell(step="count", sample=f"s{i:02}", reason=EndReason.DEPENDENCY, message="never ran", because_of="trim")
        for i in range(CELLS_NAMED + 3)
    ]
    progress = counts(failed={EndReason.DEPENDENCY: CELLS_NAMED + 3})
    state = last_statuses_of("All", outcome(progress, failed=failed))["count"]
    assert state.status == "FAILED"
    assert "s00: dependency of trim: never ran" in state.explanation.splitlines()
    assert "and 3 more" in state.explanation.splitlines()


def test_a_blocked_cell_is_a_failure() -> None:
    progress = counts(done=3, left_out=1)
    ended = outcome(progress, blocked=[("count", "s1", "Its BAM is not there.")])
    assert "s1: Its BAM is not there." in last_statuses_of("All", ended)["count"].explanation
    assert last_statuses_of("All", ended)["All"].status == "FAILED"


def test_a_detached_step_is_submitted_and_says_so() -> None:
    progress = counts(done=3, running=1)
    state = last_statuses_of("All", outcome(progress, detached=True))["count"]
    assert state.status == "DONE"
    assert "3/4 done, 1 running" in state.line
    assert "jobs go on" in state.line


def test_detaching_hides_no_failure() -> None:
    progress = counts(done=3, failed=MEMORY)
    assert last_statuses_of("All", outcome(progress, detached=True))["count"].status == "FAILED"


def test_an_interrupted_step_is_no_success() -> None:
    progress = counts(done=3, running=1)
    state = last_statuses_of("All", outcome(progress, interrupted=True))["count"]
    assert (state.status, "interrupted" in state.explanation) == ("FAILED", True)


def test_what_was_over_stays_when_the_driver_dies() -> None:
    assert abandoned(status_of(counts(done=1))).status == "DONE"
    assert abandoned(status_of(counts(running=1))).status == "FAILED"
