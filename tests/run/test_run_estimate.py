from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from batch_pipeline.backends.aws_clients import Clients, attached_maker
from batch_pipeline.backends.batch import BatchBackend
from batch_pipeline.backends.definitions import definitions_of
from batch_pipeline.backends.memory import MemoryBackend
from batch_pipeline.backends.prices import PriceRow, PriceTable, Tariff
from batch_pipeline.config import load_settings
from batch_pipeline.localbatch.testing import VirtualBatch
from batch_pipeline.pipeline.plan import Inventory, Plan, RetryOverrides
from batch_pipeline.pipeline.workflow import Graph
from batch_pipeline.run.driver import Driver
from batch_pipeline.run.estimate import (
    GUESSED_SECONDS,
    MOST_RECEIPTS,
    Capacity,
    Estimate,
    capacity_of,
    estimate,
    estimate_of,
    read_some_receipts,
    seconds_of,
)
from batch_pipeline.wire import layout
from batch_pipeline.wire.receipt import Receipt
from batch_pipeline.wire.store import Store
from tests.run.small import Letters, new_store, request_of

PRICES = Tariff(currency="EUR", flat=(0.10, 0.01), assumed=(0.10, 0.01))


def plan_of(*samples: str) -> Plan:
    request = request_of(new_store(), *samples)
    return Driver(request, MemoryBackend()).inspect().plan


def estimated(
    plan: Plan,
    durations: dict[str, list[float]],
    capacity: Capacity | None = None,
    tariff: Tariff = PRICES,
    machines: dict[str, list[str]] | None = None,
) -> Estimate:
    graph = Graph.of(Letters)
    definitions = {}
    for step, definition in definitions_of(graph, pipeline="letters", attempts=1).items():
        needs = [{"type": "VCPU", "value": "2"}, {"type": "MEMORY", "value": "2048"}]
        definitions[step] = {**definition, "containerProperties": {"resourceRequirements": needs}}
    return estimate_of(plan, definitions, durations, tariff, capacity or Capacity(), machines)


def write_receipts(store: Store, step: str, count: int, seconds: float = 60.0) -> Inventory:
    receipts: dict[str, tuple[str, ...]] = {}
    for i in range(count):
        stopped = f"2026-01-01T00:{int(seconds) // 60:02d}:{int(seconds) % 60:02d}.000Z"
        receipt = Receipt(
            run_id="r",
            step=step,
            sample=f"s{i:04}",
            fingerprint="f",
            attempt=1,
            started_at="2026-01-01T00:00:00.000Z",
            stopped_at=stopped,
        )
        store.put_json(layout.receipt(step, receipt.sample, "f"), receipt.to_json())
        receipts[receipt.sample] = ("f",)
    return Inventory(receipts={step: receipts})


def test_hours_are_cells_times_what_each_asks_for_times_its_time() -> None:
    found = estimated(plan_of("a", "b", "c"), {"upper": [3600.0, 7200.0], "count": [1800.0], "total": [36.0]})
    upper, count, total = found.steps
    assert (upper.cells, upper.vcpus, upper.memory_mb, upper.seconds, upper.receipts) == (3, 2.0, 2048, 5400.0, 2)
    assert (upper.vcpu_hours, upper.gib_hours) == (9.0, 9.0)
    assert upper.cost == pytest.approx(9 * 0.10 + 9 * 0.01)
    assert (count.vcpu_hours, total.cells) == (3.0, 1)
    assert total.vcpu_hours == pytest.approx(0.02)
    assert found.cost == pytest.approx(found.vcpu_hours * 0.10 + found.gib_hours * 0.01)
    assert found.currency == "EUR"
    assert found.guessed == ()


def test_a_step_without_receipts_is_guessed_and_named() -> None:
    found = estimated(plan_of("a"), {"upper": [1.0]})
    assert found.guessed == ("count", "total")
    assert {step.seconds for step in found.steps if step.step != "upper"} == {GUESSED_SECONDS}


def test_an_hour_costs_what_it_costs_on_the_machines_that_earlier_cells_had() -> None:
    """A machine of 8 vCPUs and 32 GiB for 0.52 an hour: 0.045 a vCPU, 0.005 a GiB."""
    row = PriceRow(
        place="eu-west-1",
        instance_type="m9.2xlarge",
        purchase="spot",
        vcpus=8,
        memory_gib=32,
        price_hour=0.52,
        currency="USD",
        date="2026-01-01",
        source="here",
    )
    tariff = Tariff(currency="USD", flat=None, assumed=(1.0, 1.0), table=PriceTable.of([row]))
    machines = {"upper": ["m9.2xlarge, spot, eu-west-1b", "some-host"], "count": ["some-host"]}
    hour = {"upper": [3600.0, 3600.0], "count": [3600.0]}
    upper, count, _ = estimated(plan_of("a", "b"), hour, tariff=tariff, machines=machines).steps
    assert (upper.priced, count.priced) == (1, 0)
    assert upper.cost == pytest.approx(2 * (2 * 0.045 + 2 * 0.005))
    assert count.cost == pytest.approx(2 * (2 + 2))


def test_only_what_is_to_run_is_counted() -> None:
    plan = plan_of("a", "b")
    some = replace(plan, jobs=tuple(job for job in plan.jobs if job.step == "count"))
    assert [step.step for step in estimated(some, {}).steps] == ["count"]
    nothing = estimated(replace(plan, jobs=()), {})
    assert (nothing.steps, nothing.cost, nothing.least_seconds) == ((), 0, 0.0)


def test_cells_that_are_given_more_memory_cost_more() -> None:
    plan = plan_of("a", "b")
    more = tuple(replace(job, overrides=RetryOverrides(memory_mb=8192)) for job in plan.jobs)
    usual, raised = estimated(plan, {}), estimated(replace(plan, jobs=more), {})
    assert raised.gib_hours == pytest.approx(4 * usual.gib_hours)
    assert raised.vcpu_hours == usual.vcpu_hours


@pytest.mark.parametrize(
    ("capacity", "least"),
    [
        # One sample goes through all steps.
        (Capacity(), 160.0),
        (Capacity(vcpus=1000), 160.0),
        # (4 x 100 s + 4 x 50 s + 10 s) x 2 vCPUs.
        (Capacity(vcpus=2), 610.0),
        (Capacity(vcpus=4, memory_mb=2048), 610.0),
        (Capacity(vcpus=1000, memory_mb=4096), 305.0),
    ],
)
def test_time_is_bounded_by_the_longest_chain_and_by_the_capacity(capacity: Capacity, least: float) -> None:
    found = estimated(plan_of("a", "b", "c", "d"), {"upper": [100.0], "count": [50.0], "total": [10.0]}, capacity)
    assert found.least_seconds == pytest.approx(least)


@pytest.mark.parametrize(("count", "read"), [(0, 0), (1, 1), (200, 200), (201, 101), (1000, 200)])
def test_a_bounded_number_of_receipts_is_read(count: int, read: int) -> None:
    store = new_store()
    inventory = write_receipts(store, "upper", count, seconds=90.0)
    before = store.calls["get"]
    assert list(map(seconds_of, read_some_receipts(store, "upper", inventory))) == [90.0] * read
    assert store.calls["get"] - before == read <= MOST_RECEIPTS


def test_a_receipt_that_went_meanwhile_is_left_out() -> None:
    store = new_store()
    inventory = write_receipts(store, "upper", 3)
    store.delete([layout.receipt("upper", "s0001", "f")])
    assert list(map(seconds_of, read_some_receipts(store, "upper", inventory))) == [60.0, 60.0]


def test_an_estimate_reads_the_store_of_the_request() -> None:
    store = new_store()
    request = request_of(store)
    write_receipts(store, "upper", 5, seconds=120.0)
    backend = MemoryBackend()
    look = Driver(request, backend).inspect()
    found = estimate(request, look.plan, look.inventory, backend)
    assert [(step.step, step.receipts) for step in found.steps] == [("upper", 5), ("count", 0), ("total", 0)]
    assert found.capacity.vcpus


def settings_of(name: str) -> Any:
    return load_settings({"backend.name": name, "embedded.vcpus": 3}, environ={}, folder=Path("/nonexistent"))


def test_the_capacity_of_a_queue_is_that_of_its_environments_that_work() -> None:
    batch = VirtualBatch(queues=())
    client = batch.client("batch")
    order: Any = []
    state: Any
    for name, most, state in (("one", 100, "ENABLED"), ("two", 28, "ENABLED"), ("off", 1000, "DISABLED")):
        resources: Any = {"type": "SPOT", "maxvCpus": most, "subnets": ["subnet"]}
        client.create_compute_environment(
            computeEnvironmentName=name, type="MANAGED", state=state, computeResources=resources
        )
        order.append({"order": len(order) + 1, "computeEnvironment": name})
    client.create_job_queue(jobQueueName="mixed", priority=1, computeEnvironmentOrder=order)
    backend = BatchBackend(settings_of("aws"), clients=Clients(attached_maker(batch.attach)))
    assert capacity_of(settings_of("aws"), backend) == Capacity(vcpus=128)
    client.create_job_queue(jobQueueName="other", priority=1, computeEnvironmentOrder=order[:1])
    assert backend.calls == {"DescribeJobQueues": 1, "DescribeComputeEnvironments": 1}


def test_the_capacity_of_an_unknown_queue_is_unknown_and_of_this_machine_what_is_handed_out() -> None:
    backend = BatchBackend(settings_of("aws"), clients=Clients(attached_maker(VirtualBatch(queues=()).attach)))
    assert capacity_of(settings_of("aws"), backend) == Capacity()
    assert capacity_of(settings_of("aws"), MemoryBackend()) == Capacity()
    assert capacity_of(settings_of("embedded"), MemoryBackend()).vcpus == 3
