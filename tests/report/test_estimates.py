from __future__ import annotations

import json

import pytest

from batch_pipeline.backends.memory import MemoryBackend
from batch_pipeline.records.record import new_run_id
from batch_pipeline.report.estimates import estimate_lines, estimate_record, estimate_rows, lasting, money, payloads
from batch_pipeline.run.context import NO_RUN, context_of
from batch_pipeline.run.driver import Driver
from batch_pipeline.run.estimate import Capacity, Estimate, StepEstimate
from tests.run.small import new_store, request_of


def step(name: str, receipts: int = 0, hours: float = 1.0) -> StepEstimate:
    return StepEstimate(
        step=name,
        cells=1000,
        vcpus=0.5,
        memory_mb=2048,
        seconds=600.0,
        receipts=receipts,
        vcpu_hours=hours,
        gib_hours=2 * hours,
        cost=hours / 2,
    )


def of(*steps: StepEstimate, capacity: Capacity | None = None) -> Estimate:
    return Estimate(steps=steps, currency="EUR", least_seconds=7200.0, capacity=capacity or Capacity())


def test_each_step_has_a_row_and_all_have_one() -> None:
    rows = estimate_rows(of(step("a", 200), step("b", 0, 1234.5)))
    assert rows[0] == ["a", 1000, "0.5", 2048, "10 min", "200 receipts", "1.00", "2.00", "0.5000 EUR"]
    assert rows[1][5:] == ["a guess", "1,234.50", "2,469.00", "617.25 EUR"]
    assert rows[2] == ["in all", 2000, "", "", "", "", "1,235.50", "2,471.00", "617.75 EUR"]
    assert len(estimate_rows(of(step("a")))) == 1


def test_sentences_say_the_least_time_and_what_was_guessed() -> None:
    lines = estimate_lines(of(step("a", 1), step("b"), capacity=Capacity(vcpus=64)))
    assert lines[0] == "It takes at least 2 h with at most 64 vCPUs at once."
    assert lines[1] == "No receipts yet of b: assumes 10 min a cell."
    assert "with any number of machines" in estimate_lines(of(step("a", 1)))[0]
    assert len(estimate_lines(of(step("a", 1)))) == 2
    assert estimate_lines(of()) == ["Nothing to run, so nothing to pay."]


def test_the_record_has_the_sums() -> None:
    record = json.loads(json.dumps(estimate_record(of(step("a"), step("b", 3)))))
    assert (record["vcpu_hours"], record["gib_hours"], record["cost"], record["currency"]) == (2.0, 4.0, 1.0, "EUR")
    assert (record["guessed"], record["max_vcpus"], record["steps"][1]["receipts"]) == (["a"], None, 3)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.04, "0.04 s"),
        (12.4, "12 s"),
        (600, "10 min"),
        (3600, "1 h"),
        (12_000, "3 h 20 min"),
        (48 * 3600, "2 d"),
        (52 * 3600, "2 d 4 h"),
    ],
)
def test_spans_of_time_are_told_in_two_units(seconds: float, words: str) -> None:
    assert lasting(seconds) == words


@pytest.mark.parametrize(
    ("amount", "words"),
    [(0, "0.00 USD"), (0.00001, "under 0.0001 USD"), (0.0204, "0.0204 USD"), (1234.5, "1,234.50 USD")],
)
def test_small_sums_can_be_seen(amount: float, words: str) -> None:
    assert money(amount, "USD") == words


def test_every_call_of_a_plan_is_shown_with_its_size() -> None:
    request = request_of(new_store())
    plan = Driver(request, MemoryBackend()).inspect().plan
    shown = list(payloads(plan, context_of(request, reference="")))
    assert [payload.job for payload in shown] == [job.name for job in plan.jobs]
    for payload in shown:
        assert payload.request_bytes == len(json.dumps(payload.request).encode())
        assert payload.overrides_bytes == len(json.dumps(payload.request["containerOverrides"]).encode())
        assert payload.request_percent == round(100 * payload.request_bytes / 30_720, 1)
        assert json.loads(payload.text) == payload.request
        assert f"{payload.job}: {payload.request_bytes:,} bytes" in payload.line
    depends = shown[1].request["dependsOn"][0]
    assert depends["jobId"].startswith("<upper-0-0>")
    assert len(depends["jobId"]) == 36


def test_a_run_that_nobody_began_has_an_id_as_long_as_any() -> None:
    assert len(NO_RUN) == len(new_run_id())
