"""No wave is sent above the bound of a run's cost, and running jobs are cancelled only where that was asked for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from batch_pipeline.config import load_settings
from batch_pipeline.records.history import Happened, read_events
from batch_pipeline.records.record import read_record
from batch_pipeline.records.request import Request
from batch_pipeline.records.results import all_receipts
from batch_pipeline.run import estimate as estimates
from batch_pipeline.run.cost_bound import waves_problem
from batch_pipeline.run.driver import Driver
from batch_pipeline.wire import layout
from batch_pipeline.wire.contract import EndReason
from batch_pipeline.wire.errors import NotReady
from batch_pipeline.wire.receipt import Receipt
from batch_pipeline.wire.store import Store
from tests.run.small import Ear, Stage, drive, look, request_of


def bounded(store: Store, max_cost: float, **more: Any) -> Request:
    """A request whose every cell costs 1 an hour; without receipts a cell is taken to last ten minutes."""
    flags = {"prices.max_cost": max_cost, "prices.vcpu_hour": 1.0, "prices.gib_hour": 0.0, "watch.poll_seconds": 0.01}
    return request_of(store, settings=load_settings(flags | more, environ={}, folder=Path("/nowhere")))


def test_a_run_above_the_bound_is_refused_and_nothing_is_sent(store: Store, stage: Stage) -> None:
    with pytest.raises(
        NotReady, match=r"would cost 1\.17 USD, more than prices\.max_cost 1\.00\. Choose fewer samples"
    ):
        drive(bounded(store, 1.0), stage)
    assert not stage.jobs
    assert not store.folders(layout.RUNS)


def test_a_run_within_the_bound_is_sent(store: Store, stage: Stage) -> None:
    assert drive(bounded(store, 1.5), stage).ok


def test_without_a_bound_nothing_is_estimated(store: Store, stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimates, "estimate", None)
    assert drive(bounded(store, 0), stage).ok


@pytest.fixture
def long(store: Store, stage: Stage) -> None:
    """Every cell takes five hours, which nobody could know."""
    act = stage._act

    def long(request: object, index: int) -> int:
        code = act(request, index)  # type: ignore[arg-type]
        for receipt in all_receipts(store):
            key = layout.receipt(receipt.step, receipt.sample, receipt.fingerprint)
            store.put_json(key, replace(receipt, cpus=1, stopped_at="2026-01-01T05:00:00.000Z").to_json())
        return code

    stage._act = long  # type: ignore[method-assign]


@pytest.mark.usefixtures("long")
def test_later_waves_of_a_plan_are_not_sent_above_the_bound(store: Store, stage: Stage) -> None:
    """One sample a wave: after the first, two cells are known to have taken ten hours."""
    outcome = drive(bounded(store, 2.0, **{"backend.name": "aws", "backend.max_children": 2}), stage)
    assert not outcome.ok
    assert outcome.unsent
    assert {sample for _, sample in stage.submitted()} == {"ann"}
    assert outcome.stopped_by.startswith("By estimate the run would cost ")
    assert "(spent 10.00, estimate " in outcome.stopped_by


@pytest.mark.usefixtures("long")
def test_what_failed_is_not_sent_again_above_the_bound(store: Store, stage: Stage) -> None:
    stage.play = lambda step, sample, attempt: 137 if (step, sample) == ("upper", "bob") else 0
    stage.silent = {"bob"}
    outcome = drive(bounded(store, 2.0, **{"backend.name": "aws", "recovery.rounds": 1}), stage)
    assert not outcome.ok
    assert "(spent 20.00, estimate " in outcome.stopped_by
    assert stage.tried["upper", "bob"] == 1
    assert {cell.reason for cell in outcome.failed} == {EndReason.OUT_OF_MEMORY, EndReason.DEPENDENCY}


@pytest.mark.parametrize(("unended", "is_refused"), [({}, False), ({"upper": 1, "count": 2}, True)])
def test_cells_of_earlier_waves_that_have_not_ended_count(
    store: Store, stage: Stage, unended: dict[str, int], is_refused: bool
) -> None:
    """Ten minutes a cell: the two later waves have four cells."""
    request = bounded(store, 1.0, **{"backend.max_children": 2})
    problem = waves_problem(look(request, stage), 1, stage, (), (), unended=unended)
    assert bool(problem) is is_refused
    assert not is_refused or "would cost 1.17 USD" in problem


class Clock:
    """A clock that a sleep moves by ten minutes."""

    now = 0.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, _: float) -> None:
        self.now += 600.0


@pytest.mark.parametrize("cancels", [False, True])
def test_running_jobs_are_cancelled_only_where_it_is_asked_for(store: Store, stage: Stage, cancels: bool) -> None:
    """A cell took six hours, which is more than the bound of five."""
    flags = {"backend.name": "aws", "prices.max_cost_cancel": cancels}
    request = bounded(store, 5.0, **flags)
    stage.is_open = False
    clock = Clock()
    polls = 0

    def sleep(seconds: float) -> None:
        nonlocal polls
        polls += 1
        clock.sleep(seconds)
        if polls == 1:
            leave_receipt(store, "upper", "ann", hours=6)
        if polls == 3:
            stage.is_open = True

    driver = Driver(request, stage, sleep=sleep, clock=clock)
    try:
        outcome = driver.run(Ear(), detach=False)
    finally:
        driver.close()
    (run_id,) = outcome.run_ids
    events = [event.event for event in read_events(store, run_id)]
    assert (Happened.COST_BOUND.value in events) == cancels
    assert outcome.ok == (not cancels)
    assert {cell.reason for cell in outcome.failed} <= {EndReason.CANCELLED, EndReason.DEPENDENCY}
    assert read_record(store, run_id).ended


def leave_receipt(store: Store, step: str, sample: str, *, hours: int) -> None:
    """As if a cell of the newest run were done."""
    run_id = max(store.folders(layout.RUNS))
    (key,) = (key for key in store.keys(f"runs/{run_id}/") if key.endswith("/rows.txt") and f"/{step}-" in key)
    fingerprint = next(
        line.split('"')[3] for line in store.get(key).decode().splitlines() if line.startswith(f'["{sample}"')
    )
    receipt = Receipt(
        run_id=run_id,
        step=step,
        sample=sample,
        fingerprint=fingerprint,
        attempt=1,
        started_at="2026-01-01T00:00:00.000Z",
        stopped_at=f"2026-01-01T{hours:02d}:00:00.000Z",
        cpus=1,
        memory_mb=1024,
    )
    store.put_json(layout.receipt(step, sample, fingerprint), receipt.to_json())
