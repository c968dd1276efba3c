"""What a run took is told by receipts, of which a bounded number is read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from batch_pipeline.config import load_settings
from batch_pipeline.records.record import RunRecord
from batch_pipeline.records.spent import MOST_JOBS, MOST_RECEIPTS, spent_of, spent_record
from batch_pipeline.records.submissions import Submission
from batch_pipeline.report.spending import run_spent_words
from batch_pipeline.wire import layout
from batch_pipeline.wire.manifest import Row, write_rows
from batch_pipeline.wire.receipt import Receipt
from batch_pipeline.wire.store import Store, open_store

AWS = {"backend.name": "aws", "prices.vcpu_hour": 0.04, "prices.gib_hour": 0.01}


@pytest.fixture
def store(request: pytest.FixtureRequest) -> Store:
    return open_store(f"memory://{request.node.name}")


def send(
    store: Store, step: str, samples: Sequence[str], *, run_id: str = "R", job: str = "", done: int = -1
) -> Submission:
    """A job, and receipts of its first `done` cells, each an hour of 2 vCPUs and 4 GiB."""
    name = job or f"{step}-0-0"
    rows, _ = write_rows(Row(sample=sample, fingerprint="f") for sample in samples)
    store.put(layout.submission(run_id, name, "rows.txt"), rows)
    for sample in samples if done < 0 else samples[:done]:
        leave(store, run_id, step, sample)
    return Submission(run_id=run_id, job=name, step=step, native_id="n", queue="q", native_name="x", size=len(samples))


def leave(store: Store, run_id: str, step: str, sample: str) -> None:
    receipt = Receipt(
        run_id=run_id,
        step=step,
        sample=sample,
        fingerprint="f",
        attempt=1,
        started_at="2026-11-20T10:00:00.000Z",
        stopped_at="2026-11-20T11:00:00.000Z",
        cpus=2,
        memory_mb=4096,
    )
    store.put_json(layout.receipt(step, sample, "f"), receipt.to_json())


def names(count: int) -> list[str]:
    return [f"s{number}" for number in range(count)]


def test_hours_and_money_of_what_was_done(store: Store) -> None:
    jobs = [send(store, "picard", names(6)), send(store, "kallisto", names(6), done=3)]
    spent = spent_of(store, "R", jobs, load_settings(flags=AWS))
    assert (spent.vcpu_hours, spent.gib_hours, spent.receipts) == (18.0, 36.0, 9)
    assert spent.cost == pytest.approx(18 * 0.04 + 36 * 0.01)


def test_what_another_run_did_is_not_this_runs(store: Store) -> None:
    jobs = [send(store, "picard", names(4), done=1), send(store, "picard", ["other"], run_id="S")]
    for sample in names(4)[1:]:
        leave(store, "S", "picard", sample)
    assert spent_of(store, "R", jobs, load_settings(flags=AWS)).vcpu_hours == 2.0


def test_a_large_run_is_judged_by_some_of_its_receipts(store: Store) -> None:
    size = 3 * MOST_RECEIPTS
    jobs = [
        send(store, "picard", [f"j{number}-{name}" for name in names(size)], job=f"picard-0-{number}")
        for number in range(2 * MOST_JOBS)
    ]
    before = store.calls["get"]
    spent = spent_of(store, "R", jobs, load_settings(flags=AWS))
    assert spent.receipts == MOST_JOBS * MOST_RECEIPTS
    assert store.calls["get"] - before == MOST_JOBS * (MOST_RECEIPTS + 1)
    assert spent.vcpu_hours == pytest.approx(2 * MOST_JOBS * size * 2)


def test_this_machine_costs_hours_and_no_money(store: Store) -> None:
    spent = spent_of(store, "R", [send(store, "picard", names(2))], load_settings())
    assert (spent.vcpu_hours, spent.cost) == (4.0, 0.0)


def test_a_run_ends_though_a_receipt_cannot_be_read(store: Store) -> None:
    jobs = [send(store, "picard", names(2))]
    store.put(layout.receipt("picard", "s0", "f"), b"no receipt")
    assert spent_record(store, "R", jobs, load_settings()) is None


@pytest.mark.parametrize(
    ("spent", "words"),
    [
        ({}, ""),
        (
            {"vcpu_hours": 0.5, "gib_hours": 1234.5, "cost": 0.0, "currency": "USD", "receipts": 8},
            "0.5 vCPU-hours, 1,234.5 GiB-hours",
        ),
        (
            {"vcpu_hours": 12.5, "gib_hours": 48.0, "cost": 0.634, "currency": "USD", "receipts": 4},
            "12.5 vCPU-hours, 48.0 GiB-hours, 0.6340 USD (after 4 of its receipts)",
        ),
    ],
)
def test_it_is_told_in_words(spent: dict[str, Any], words: str) -> None:
    assert run_spent_words(RunRecord(run_id="R", started_at="", done=8, spent=spent)) == words
