"""What runs took counts the attempts that failed, is priced by machine, and says what it does not know."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from batch_pipeline.backends.prices import UNKNOWN_MACHINE, PriceRow, PriceTable, Tariff
from batch_pipeline.config import load_settings
from batch_pipeline.records.attempts import done_rows
from batch_pipeline.records.cell_table import COLUMNS, CellEnd, CellRow, CellTable
from batch_pipeline.records.events import FailedCell
from batch_pipeline.records.record import RunRecord
from batch_pipeline.records.spent import Spent, cell_cost, spent_by_best, spent_in, spent_of, wall_seconds
from batch_pipeline.report.spending import cost_words, spent_notes, spent_words, took_words
from batch_pipeline.wire import layout
from batch_pipeline.wire.contract import EndReason
from batch_pipeline.wire.receipt import Failure, Receipt
from batch_pipeline.wire.store import Store, open_store
from tests.records.test_records_spent import AWS, names, send

HOUR = 3_600_000
#: 8 vCPUs and 32 GiB for 0.52 an hour: 0.045 a vCPU, 0.005 a GiB.
ROW = PriceRow(
    place="eu-west-1",
    instance_type="m5.2xlarge",
    purchase="spot",
    vcpus=8,
    memory_gib=32,
    price_hour=0.52,
    currency="USD",
    date="2026-01-01",
    source="here",
)
TARIFF = Tariff(currency="USD", flat=None, assumed=(1.0, 1.0), table=PriceTable.of([ROW]))
MACHINE = "m5.2xlarge, spot, eu-west-1b"


@pytest.fixture
def store(request: pytest.FixtureRequest) -> Store:
    return open_store(f"memory://{request.node.name}")


def row(**changes: Any) -> CellRow:
    """Two hours of 2 vCPUs and 4 GiB."""
    numbers: dict[str, Any] = dict.fromkeys(COLUMNS, 0)
    numbers |= {"state": CellEnd.DONE, "reason": None, "attempts": 1, "machine": MACHINE}
    numbers |= {"duration_ms": 2 * HOUR, "cpus": 2, "memory_mb": 4096}
    return CellRow(step="call", sample="ann", **{**numbers, **changes})


def test_a_cell_costs_its_share_of_its_machine_for_all_of_its_attempts() -> None:
    cost = cell_cost(row(lost_ms=HOUR, interrupted_ms=3 * HOUR, attempts=3), TARIFF)
    assert (cost.vcpu_hours, cost.gib_hours) == (12.0, 24.0)
    assert (cost.lost_vcpu_hours, cost.interrupted_vcpu_hours) == (2.0, 6.0)
    assert cost.cost == pytest.approx(12 * 0.045 + 24 * 0.005)
    assert cost.lost_cost == pytest.approx(2 * 0.045 + 4 * 0.005)


@pytest.mark.parametrize(
    ("reason", "lost", "interrupted"),
    [
        (EndReason.OUT_OF_MEMORY, 4.0, 0.0),
        (EndReason.TIMEOUT, 4.0, 0.0),
        (EndReason.INTERRUPTED, 0.0, 4.0),
        (EndReason.LOST, 0.0, 4.0),
    ],
)
def test_the_last_attempt_of_a_failed_cell_is_lost(reason: EndReason, lost: float, interrupted: float) -> None:
    cost = cell_cost(row(state=CellEnd.FAILED, reason=reason), TARIFF)
    assert (cost.vcpu_hours, cost.lost_vcpu_hours, cost.interrupted_vcpu_hours) == (4.0, lost, interrupted)


@pytest.mark.parametrize("machine", ["", "ip-10-0-0-1.ec2.internal", "m5.2xlarge, on-demand, eu-west-1b", "c5.large"])
def test_a_machine_without_a_price_costs_nobody_knows_what(machine: str) -> None:
    assert cell_cost(row(machine=machine), TARIFF).cost is None
    assert cell_cost(row(machine=machine), TARIFF).vcpu_hours == 4.0


def test_attempts_of_a_run_in_a_bucket_are_counted_from_some_of_its_cells(store: Store) -> None:
    """Of six cells of an hour each, one failed after two hours, and one had an attempt of a hour before."""
    job = send(store, "picard", names(6), done=5)
    leave_failure(store, "s0", attempt=1, reason="interrupted", hours=1)
    (key,) = store.keys(layout.receipts("picard", "s0"))
    receipt = Receipt.from_json(store.get_json(key))
    store.put_json(key, replace(receipt, attempt=2).to_json())
    leave_failure(store, "s5", attempt=1, reason="step_failed", hours=2)
    failed = [FailedCell(step="picard", sample="s5", reason=EndReason.STEP_FAILED, message="", run_id="R")]
    spent = spent_of(store, "R", [job], load_settings(flags=AWS), failed)
    assert (spent.vcpu_hours, spent.lost_vcpu_hours, spent.interrupted_vcpu_hours) == (16.0, 4.0, 2.0)
    assert (spent.receipts, spent.unrecorded, spent.with_failures) == (5, 0, True)
    assert spent.cost == pytest.approx(16 * 0.04 + 32 * 0.01)
    assert spent.lost_cost == pytest.approx(4 * 0.04 + 8 * 0.01)


def leave_failure(store: Store, sample: str, *, attempt: int, reason: str, hours: int) -> None:
    failure = Failure(
        run_id="R",
        step="picard",
        sample=sample,
        fingerprint="f",
        attempt=attempt,
        started_at="2026-11-20T01:00:00.000Z",
        stopped_at=f"2026-11-20T{1 + hours:02d}:00:00.000Z",
        cpus=2,
        memory_mb=4096,
        end_reason=reason,
        exit_code=1,
        message="It broke.",
    )
    store.put_json(layout.failure("R", "picard", sample, attempt), failure.to_json())


def test_an_attempt_without_a_record_is_told(store: Store) -> None:
    receipt = Receipt(
        run_id="R",
        step="picard",
        sample="s",
        fingerprint="f",
        attempt=3,
        started_at="2026-11-20T10:00:00.000Z",
        stopped_at="2026-11-20T11:00:00.000Z",
    )
    (only,) = done_rows(store, [receipt])
    assert only.unrecorded == 2


def test_unknown_parts_are_told_with_their_reasons() -> None:
    spent = Spent(
        vcpu_hours=100.0,
        gib_hours=8.0,
        cost=2.0,
        currency="USD",
        receipts=9,
        lost_vcpu_hours=3.0,
        interrupted_vcpu_hours=1.0,
        unpriced={UNKNOWN_MACHINE: 12, "m5.metal on-demand in eu-west-1": 1},
        unrecorded=2,
        with_failures=True,
    )
    assert spent_words(spent, 9) == (
        "100.0 vCPU-hours, 8 GiB-hours, over 2.00 USD, of which 3 % lost to failures and 1 % to interruptions (Spot,"
        " lost hosts)"
    )
    first, second = spent_notes(spent)
    assert first.startswith(
        "Cost unknown: 12 cells ran on an unknown machine, 1 cell ran on m5.metal on-demand in eu-w"
    )
    assert second == "Not included: 2 attempts that left no record, killed with the container."
    assert spent_notes(Spent(vcpu_hours=1.0, receipts=1)) == [
        "Not included: attempts that failed, which an earlier version did not count."
    ]


@pytest.mark.parametrize(
    "value", [None, [], 3, {"cost": "much"}, {"cost": math.nan}, {"cost": -5.0}, {"vcpu_hours": None, "unpriced": []}]
)
def test_what_cannot_be_right_in_a_record_counts_for_nothing(value: object) -> None:
    """A record that was damaged or written by hand must stop no list of runs, and lower no sum."""
    assert Spent.from_json(value) == Spent()


def test_runs_are_added_up() -> None:
    first = RunRecord(
        run_id="A",
        started_at="2026-11-20T10:00:00Z",
        ended_at="2026-11-20T11:00:00Z",
        spent={"vcpu_hours": 1.0, "gib_hours": 2.0, "cost": 0.5, "currency": "USD", "receipts": 3, "unknown": 1},
    )
    second = replace(first, started_at="2026-11-20T11:30:00Z", ended_at="2026-11-20T13:20:00Z")
    spent = spent_in([first, second, replace(first, spent={})])
    assert (spent.vcpu_hours, spent.gib_hours, spent.cost, spent.currency) == (2.0, 4.0, 1.0, "USD")
    assert (spent.receipts, spent.with_failures) == (6, False)
    assert (took_words([first, second]), wall_seconds([first, second])) == ("3 h 20 min", 12_000.0)
    assert (took_words([first, replace(second, ended_at="")]), took_words([])) == ("", "")
    euros = replace(first, spent={**first.spent, "currency": "EUR"})
    assert cost_words(spent_in([first, euros])) == "over 0.5000 USD"


def test_a_table_with_measures_knows_more_than_the_record_of_an_earlier_version() -> None:
    run = RunRecord(run_id="R", started_at="", done=1, backend="embedded", spent={"vcpu_hours": 1.0, "receipts": 1})
    table = CellTable(run_id="R", done=1, failed=0, measured=True, machines=("",), steps={})
    assert spent_by_best(run, None, load_settings()) == run.spent
    assert spent_by_best(run, replace(table, measured=False), load_settings()) == run.spent
    assert spent_by_best(run, table, load_settings())["with_failures"]
