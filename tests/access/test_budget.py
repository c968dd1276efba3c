"""A dataset with a budget lets no run through once its runs of the month have cost as much."""

from __future__ import annotations

from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from batch_pipeline.access.budget import spending_facts
from batch_pipeline.access.gate import decide
from batch_pipeline.access.policy import parse_policy
from batch_pipeline.access.request import SpendingFacts
from batch_pipeline.records.record import RunRecord
from batch_pipeline.wire import layout
from batch_pipeline.wire.errors import InvalidConfig, Refused
from batch_pipeline.wire.store import Store, open_store
from tests.access.lab import ALICE, POLICY, ask, facts, policy

BUDGET = "\n[budget]\nmonth = 500\n"
NOW = datetime(2026, 11, 30, 12, tzinfo=UTC)


@pytest.mark.parametrize(("cost", "passes"), [(0.0, True), (499.99, True), (500.0, False), (1234.5, False)])
def test_a_run_passes_while_less_than_the_budget_was_spent(cost: float, passes: bool) -> None:
    known = replace(facts(), spending=SpendingFacts(month="2026-11", cost=cost, currency="USD", unpriced=3))
    if passes:
        assert decide(ask(), policy(POLICY + BUDGET), ALICE, known).dataset == "fusions"
        return
    with pytest.raises(Refused) as caught:
        decide(ask(), policy(POLICY + BUDGET), ALICE, known)
    (problem,) = caught.value.problems
    assert (problem.subject, problem.status) == ("dataset fusions", 403)
    assert f"2026-11 cost {cost:,.2f} USD, without 3 cells of unknown cost, and its budget is 500.00" in problem.rule


def test_a_budget_of_which_nobody_knows_what_is_left_lets_nothing_through() -> None:
    with pytest.raises(Refused, match="what was spent is not known"):
        decide(ask(), policy(POLICY + BUDGET), ALICE, facts())


def test_without_a_budget_nothing_is_compared() -> None:
    spent = replace(facts(), spending=SpendingFacts(month="2026-11", cost=1e9))
    assert decide(ask(), policy(), ALICE, spent).dataset == "fusions"


@pytest.mark.parametrize("value", ["-1", '"much"', "inf", "[1]"])
def test_a_budget_that_is_no_amount_is_refused(value: str) -> None:
    with pytest.raises(InvalidConfig, match=r"budget\.month"):
        parse_policy(f"{POLICY}\n[budget]\nmonth = {value}\n".encode(), "fusions.toml")


def record(store: Store, began: datetime, *, ended: bool = True, **about: Any) -> None:
    """A run that began then, as its id says too."""
    from ulid import ULID

    run = RunRecord(run_id=str(ULID.from_datetime(began)), started_at=began.isoformat(), **about)
    end = {name: asdict(run)[name] for name in ("done", "failed", "spent")} | {"ended_at": began.isoformat()}
    store.put_json(layout.run_record(run.run_id), asdict(run))
    if ended:
        store.put_json(layout.run_end(run.run_id), end)


def test_the_months_runs_are_those_that_drivers_began_wherever_they_wrote(tmp_path: Path) -> None:
    def stores(url: str) -> Store:
        return open_store(str(tmp_path / url.removeprefix("s3://")), create=True)

    spent = {"vcpu_hours": 1.0, "cost": 10.0, "currency": "USD", "receipts": 1, "unpriced": {"m5.metal": 2}}
    main, cohort = stores("s3://fusions-main"), stores("s3://fusions-main/analysis/cohort")
    driver: dict[str, Any] = {"kind": "driver", "dataset": "fusions", "output_prefix": "analysis/cohort"}
    record(main, NOW - timedelta(days=40), **driver)
    record(main, NOW, **driver)
    record(main, NOW, **{**driver, "dataset": "other", "output_prefix": "elsewhere"})
    record(stores("s3://fusions-main/elsewhere"), NOW, dataset="other", spent=spent)
    record(cohort, NOW - timedelta(days=30), dataset="fusions", spent=spent)
    record(cohort, NOW - timedelta(days=29), dataset="fusions", spent=spent)
    record(cohort, NOW, dataset="fusions", spent=spent)
    record(cohort, NOW - timedelta(hours=1), dataset="fusions", ended=False)
    record(stores("s3://fusions-test"), NOW, **{**driver, "output_prefix": "cohort"})
    record(stores("s3://fusions-test/cohort"), NOW + timedelta(seconds=1), dataset="fusions", spent=spent)
    facts = spending_facts(policy(), stores, NOW)
    assert facts == SpendingFacts(month="2026-11", cost=30.0, currency="USD", live=1, unpriced=6)
