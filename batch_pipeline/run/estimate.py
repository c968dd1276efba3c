"""The estimate of a plan: hours of vCPUs and memory, money, and the least time on the clock. Writes nothing.

How long a cell takes is told by the receipts of earlier cells of its step, of which a bounded number is read, spread
over the samples, and what an hour of it costs by the machines that they had. A step without any is guessed, and it is
said that it was. What is left out: attempts that are made
again, pulling images, machines that stand idle or hold a job only in part, storage and transfer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from statistics import mean
from typing import Any, Final

from batch_pipeline.backends.account import Inspectable, NotVisible, resource_request_of
from batch_pipeline.backends.definitions import configured_definitions
from batch_pipeline.backends.prices import Tariff, tariff_of
from batch_pipeline.config import Settings
from batch_pipeline.pipeline.plan import Inventory, Plan
from batch_pipeline.pipeline.workflow import Graph
from batch_pipeline.records.attempts import machine_of
from batch_pipeline.records.request import Request
from batch_pipeline.run.local_capacity import embedded_capacity
from batch_pipeline.wire import layout
from batch_pipeline.wire.errors import BackendFailed
from batch_pipeline.wire.receipt import Receipt
from batch_pipeline.wire.store import NotInStore, Store

#: Receipts of a step that are read.
MOST_RECEIPTS: Final = 200
#: A cell of a step that left no receipt yet.
GUESSED_SECONDS: Final = 600.0
#: Receipts that are read at once.
READERS: Final = 16
_HOUR: Final = 3600.0
_GIB: Final = 1024.0


@dataclass(frozen=True, kw_only=True)
class Capacity:
    """What may be in use at once; None: nobody knows."""

    vcpus: int | None = None
    memory_mb: int | None = None


@dataclass(frozen=True, kw_only=True)
class StepEstimate:
    """What the cells of one step will take."""

    step: str
    cells: int
    #: What a cell asks for; memory on the average.
    vcpus: float
    memory_mb: int
    #: On the average.
    seconds: float
    #: Receipts that say so; 0: it is a guess.
    receipts: int
    vcpu_hours: float
    gib_hours: float
    cost: float
    #: Receipts whose machines have a price, of which the cost is the mean; 0: the settings' prices are assumed.
    priced: int = 0


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What all cells of a plan will take."""

    steps: tuple[StepEstimate, ...]
    currency: str
    #: It cannot take less time than this, from the first start to the last end.
    least_seconds: float
    capacity: Capacity

    @property
    def vcpu_hours(self) -> float:
        """Of all steps."""
        return sum(step.vcpu_hours for step in self.steps)

    @property
    def gib_hours(self) -> float:
        """Of all steps."""
        return sum(step.gib_hours for step in self.steps)

    @property
    def cost(self) -> float:
        """Of all steps."""
        return sum(step.cost for step in self.steps)

    @property
    def guessed(self) -> tuple[str, ...]:
        """Steps that left no receipt yet."""
        return tuple(step.step for step in self.steps if not step.receipts)


def estimate(request: Request, plan: Plan, inventory: Inventory, backend: object) -> Estimate:
    """What the plan will take. Reads at most 200 receipts a step, and asks AWS how large the queue may get."""
    definitions = configured_definitions(request.graph, request.settings)
    receipts = {step: read_some_receipts(request.store, step, inventory) for step in request.graph.names}
    return estimate_of(
        plan,
        definitions,
        {step: [seconds_of(receipt) for receipt in read] for step, read in receipts.items()},
        tariff_of(request.settings),
        capacity_of(request.settings, backend),
        machines={step: [machine_of(receipt) for receipt in read] for step, read in receipts.items()},
    )


def read_some_receipts(store: Store, step: str, inventory: Inventory) -> list[Receipt]:
    """Receipts of a step, at most 200 that are spread evenly over the samples.

    Where none of the samples that are asked has been done, others tell: those of the first page of the store's.
    """
    receipts = inventory.receipts.get(step, {})
    keys = [layout.receipt(step, sample, receipts[sample][-1]) for sample in sorted(receipts)]
    if not keys:
        entries, _ = store.page(layout.step_receipts(step))
        keys = [entry.key for entry in entries if layout.cell_of_receipt(entry.key)]
    keys = keys[:: max(1, -(-len(keys) // MOST_RECEIPTS))]

    def read(key: str) -> Receipt | None:
        try:
            return Receipt.from_json(store.get_json(key))
        except NotInStore:
            return None

    if not keys:
        return []
    with ThreadPoolExecutor(READERS) as readers:
        return [receipt for receipt in readers.map(read, keys) if receipt is not None]


def seconds_of(receipt: Receipt) -> float:
    """How long the attempt took."""
    began, ended = (datetime.fromisoformat(moment) for moment in (receipt.started_at, receipt.stopped_at))
    return max(0.0, (ended - began).total_seconds())


def capacity_of(settings: Settings, backend: object) -> Capacity:
    """How much may be in use at once: of this machine, or of the queue's compute environments."""
    if settings.backend.name == "embedded":
        vcpus, memory_mb = embedded_capacity(settings.embedded)
        return Capacity(vcpus=vcpus, memory_mb=memory_mb)
    if not isinstance(backend, Inspectable):
        return Capacity()
    try:
        queue = backend.account.queues([settings.backend.queue]).get(settings.backend.queue)
    except (NotVisible, BackendFailed):
        return Capacity()
    bounds = [each.max_vcpus for each in queue.environments if each.works] if queue else []
    known = [bound for bound in bounds if bound is not None]
    return Capacity(vcpus=sum(known) if known and len(known) == len(bounds) else None)


def estimate_of(
    plan: Plan,
    definitions: Mapping[str, Mapping[str, Any]],
    durations: Mapping[str, Sequence[float]],
    tariff: Tariff,
    capacity: Capacity,
    machines: Mapping[str, Sequence[str]] | None = None,
) -> Estimate:
    """What a plan will take, from how long cells took, and on which machines. Pure."""
    steps = tuple(
        _step_estimate(
            plan, step, definitions[step], durations.get(step, ()), tariff, machines.get(step, ()) if machines else ()
        )
        for step in plan.graph.names
        if any(job.step == step and not job.join for job in plan.jobs)
    )
    return Estimate(
        steps=steps, currency=tariff.currency, least_seconds=_least(plan.graph, steps, capacity), capacity=capacity
    )


def _step_estimate(
    plan: Plan,
    step: str,
    definition: Mapping[str, Any],
    measured: Sequence[float],
    tariff: Tariff,
    ran_on: Sequence[str],
) -> StepEstimate:
    wanted = resource_request_of(definition["containerProperties"])
    jobs = [job for job in plan.jobs if job.step == step and not job.join]
    seconds = mean(measured) if measured else GUESSED_SECONDS
    hours = seconds / _HOUR
    cells = sum(job.size for job in jobs)
    vcpu_hours = cells * wanted.vcpus * hours
    # Groups have numbers of their own, and cells that go again after they ran out of memory are given more.
    memory_mb = sum(job.size * (job.overrides.memory_mb or wanted.memory_mb) for job in jobs)
    # On this machine nothing is paid: there the estimate tells what it would cost elsewhere.
    known = [] if tariff.flat else [tariff.hourly(cells * wanted.vcpus, memory_mb, machine) for machine in ran_on]
    hourly = [price for price in known if price is not None]
    return StepEstimate(
        step=step,
        cells=cells,
        vcpus=wanted.vcpus,
        memory_mb=round(memory_mb / cells),
        seconds=seconds,
        receipts=len(measured),
        vcpu_hours=vcpu_hours,
        gib_hours=memory_mb / _GIB * hours,
        cost=hours * (mean(hourly) if hourly else tariff.assumed_hourly(cells * wanted.vcpus, memory_mb)),
        priced=len(hourly),
    )


def _least(graph: Graph, steps: Sequence[StepEstimate], capacity: Capacity) -> float:
    """The longest chain of steps that one sample goes through, or all work over all capacity, whichever is more."""
    ends: dict[str, float] = {}
    seconds = {step.step: step.seconds for step in steps}
    for node in graph:
        before = max((ends[name] for name in node.upstream), default=0.0)
        ends[node.name] = before + seconds.get(node.name, 0.0)
    bounds = [max(ends.values(), default=0.0)]
    if capacity.vcpus:
        bounds.append(sum(step.vcpu_hours for step in steps) * _HOUR / capacity.vcpus)
    if capacity.memory_mb:
        bounds.append(sum(step.gib_hours for step in steps) * _GIB * _HOUR / capacity.memory_mb)
    return max(bounds)
