"""What runs took: hours of vCPUs and memory, and on AWS money, attempts that failed with them.

By the cell table of a run where that has measures; else a bounded number of its cells is looked at, spread over jobs
and samples, so that the end of a run of a million cells costs as much as that of a thousand. All arithmetic of hours
and money is here; prices are in `backends.prices`. What is left out: attempts that left no record, pulling images,
idle machines, storage, transfer.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from typing import Any, Final, TypeVar

from batch_pipeline.backends.prices import Tariff, tariff_of
from batch_pipeline.config import Settings
from batch_pipeline.records.attempts import done_rows, failed_rows
from batch_pipeline.records.cell_table import CellRow, CellTable
from batch_pipeline.records.events import FailedCell
from batch_pipeline.records.manifests import cells_of
from batch_pipeline.records.record import RunRecord, read_record
from batch_pipeline.records.results import read_receipts
from batch_pipeline.records.submissions import Submission
from batch_pipeline.wire import layout
from batch_pipeline.wire.errors import InvalidConfig, StoreFailed
from batch_pipeline.wire.store import NotInStore, Store

#: Jobs of a step, and cells of one, that are looked at.
MOST_JOBS: Final = 2
MOST_RECEIPTS: Final = 16
_HOUR_MS: Final = 3_600_000.0
_GIB: Final = 1024.0
Item = TypeVar("Item")


@dataclass(frozen=True, kw_only=True)
class Spent:
    """What the attempts of a run took. Hours and money of failed and interrupted attempts are part of the sums."""

    vcpu_hours: float = 0.0
    gib_hours: float = 0.0
    #: By the prices of the settings; 0 on this machine. Of machines without a price nothing is in it.
    cost: float = 0.0
    currency: str = ""
    #: Done cells of which it is known; with fewer than were done it is an estimate.
    receipts: int = 0
    #: Of attempts that failed for their cell's own sake: step, memory, disk, time limit.
    lost_vcpu_hours: float = 0.0
    lost_cost: float = 0.0
    #: Of attempts that were interrupted: Spot, lost host, store.
    interrupted_vcpu_hours: float = 0.0
    interrupted_cost: float = 0.0
    #: Machine without a price, in words -> cells that ran there.
    unpriced: Mapping[str, int] = field(default_factory=dict)
    #: Attempts that left no record.
    unrecorded: int = 0
    #: Whether failed attempts are in it: records of before they were have none.
    with_failures: bool = False

    @classmethod
    def from_json(cls, value: object) -> Spent:
        """Reads what `end.json` has; unknown keys of later versions, and values that cannot be right, are ignored."""
        items = value if isinstance(value, dict) else {}
        return cls(**{name: items[name] for name, kept in asdict(cls()).items() if _fits(items.get(name), kept)})


def _fits(value: object, kept: object) -> bool:
    """Whether a value may take the place of another: a number above 0 or a thing of its type."""
    if isinstance(kept, float):
        return isinstance(value, (int, float)) and 0 <= value < math.inf
    return isinstance(value, type(kept))


@dataclass(frozen=True, kw_only=True)
class CellCost:
    """What the attempts at one cell took. Money is None where the machine has no price."""

    vcpu_hours: float
    gib_hours: float
    lost_vcpu_hours: float
    interrupted_vcpu_hours: float
    cost: float | None
    lost_cost: float | None
    interrupted_cost: float | None


def cell_cost(row: CellRow, tariff: Tariff) -> CellCost:
    """What a cell took in its run. Earlier attempts are taken to have run on the machine of the last one."""
    lost_ms, interrupted_ms = row.lost_ms, row.interrupted_ms
    if row.reason is not None and row.reason.is_blameless:
        interrupted_ms += row.duration_ms
    elif row.reason is not None:
        lost_ms += row.duration_ms
    hours, lost, interrupted = (
        ms / _HOUR_MS for ms in (row.duration_ms + row.lost_ms + row.interrupted_ms, lost_ms, interrupted_ms)
    )
    hourly = tariff.hourly(row.cpus, row.memory_mb, row.machine)
    return CellCost(
        vcpu_hours=row.cpus * hours,
        gib_hours=row.memory_mb / _GIB * hours,
        lost_vcpu_hours=row.cpus * lost,
        interrupted_vcpu_hours=row.cpus * interrupted,
        cost=None if hourly is None else hourly * hours,
        lost_cost=None if hourly is None else hourly * lost,
        interrupted_cost=None if hourly is None else hourly * interrupted,
    )


def spent_of(
    store: Store, run_id: str, jobs: Sequence[Submission], settings: Settings, failed: Iterable[FailedCell] = ()
) -> Spent:
    """What a run took of whose jobs some cells have ended, `failed` among them.

    Reads at most 2 manifests and 32 cells a step, with the records of their attempts. Raises StoreFailed, and
    InvalidConfig for a file of prices that cannot be read.
    """
    steps: Mapping[str, list[Submission]] = defaultdict(list)
    for job in jobs:
        if job.run_id == run_id and not job.join:
            steps[job.step].append(job)
    failed_by_cell = {(cell.step, cell.sample): cell for cell in failed if cell.run_id == run_id}
    weighted: list[tuple[CellRow, float]] = []
    for sent in steps.values():
        looked_at = _spread(sent, MOST_JOBS)
        rows = [row for job in looked_at for row in _some_rows(store, job, failed_by_cell)]
        # What stands for one that was looked at; of the rest nothing else is known.
        seen = sum(min(job.size, MOST_RECEIPTS) for job in looked_at)
        weighted += [(row, sum(job.size for job in sent) / seen) for row in rows]
    return _sum(weighted, tariff_of(settings))


def spent_by_table(table: CellTable, settings: Settings) -> Spent:
    """What all cells of a run took, by the measures in its cell table, without a call. Raises InvalidConfig."""
    return _sum(((row, 1.0) for row in table.rows()), tariff_of(settings))


def spent_record(
    store: Store,
    run_id: str,
    jobs: Sequence[Submission],
    settings: Settings,
    table: CellTable | None = None,
    failed: Iterable[FailedCell] = (),
) -> Mapping[str, Any] | None:
    """What a run took, as recorded: by its cell table where that has measures, else by some of its cells.

    None where a record or the prices cannot be read: a run's end does not fail for its bill.
    """
    try:
        if table is not None and table.measured:
            return asdict(spent_by_table(table, settings))
        return asdict(spent_of(store, run_id, jobs, settings, failed))
    except (StoreFailed, InvalidConfig):
        return None


def spent_by_best(run: RunRecord, table: CellTable | None, settings: Settings) -> Mapping[str, Any]:
    """What a run took: as recorded, or by its table where that knows more cells or failed attempts.

    `settings` are to lead to the backend of the run. Raises InvalidConfig.
    """
    recorded = Spent.from_json(run.spent)
    if table is None or not table.measured or (recorded.with_failures and recorded.receipts >= run.done):
        return run.spent
    return asdict(spent_by_table(table, replace(settings, backend=replace(settings.backend, name=run.backend))))


def spent_in(runs: Collection[RunRecord]) -> Spent:
    """What several runs took together, as recorded. Money is that of the currency of the first that has one."""
    records = [Spent.from_json(run.spent) for run in runs if run.spent]
    currency = next((record.currency for record in records if record.cost), "")
    cells_by_machine: Counter[str] = Counter()
    for record in records:
        cells_by_machine.update(record.unpriced)
        if record.cost and record.currency != currency:
            cells_by_machine[f"prices in {record.currency}"] += record.receipts
    priced = [record for record in records if record.currency == currency]

    def total(name: str, among: Iterable[Spent]) -> Any:
        return sum(getattr(record, name) for record in among)

    hours = ("vcpu_hours", "gib_hours", "lost_vcpu_hours", "interrupted_vcpu_hours", "receipts", "unrecorded")
    return Spent(
        currency=currency,
        unpriced=dict(cells_by_machine),
        with_failures=all(record.with_failures for record in records),
        **{name: total(name, records) for name in hours},
        **{name: total(name, priced) for name in ("cost", "lost_cost", "interrupted_cost")},
    )


def read_records(store: Store, run_ids: Iterable[str]) -> list[RunRecord]:
    """The records of runs, those that are gone left out. Two GETs a run. Raises StoreFailed."""
    records = []
    for run_id in run_ids:
        try:
            records.append(read_record(store, run_id))
        except NotInStore:
            continue
    return records


def wall_seconds(runs: Collection[RunRecord]) -> float | None:
    """From the start of the first of some runs to the end of the last; None while one of them goes on."""
    if not runs or not all(run.ended_at and run.started_at for run in runs):
        return None
    began = min(datetime.fromisoformat(run.started_at) for run in runs)
    ended = max(datetime.fromisoformat(run.ended_at) for run in runs)
    return max(0.0, (ended - began).total_seconds())


def _sum(rows: Iterable[tuple[CellRow, float]], tariff: Tariff) -> Spent:
    """What cells took together, each for as many as its weight says."""
    receipts = 0
    amounts: dict[str, float] = defaultdict(float)
    weights: dict[str, float] = defaultdict(float)
    for row, weight in rows:
        receipts += bool(row.attempts) and row.reason is None
        amounts["unrecorded"] += weight * row.unrecorded
        if not (row.duration_ms or row.lost_ms or row.interrupted_ms):
            continue
        cost = cell_cost(row, tariff)
        for name in ("vcpu_hours", "gib_hours", "lost_vcpu_hours", "interrupted_vcpu_hours"):
            amounts[name] += weight * getattr(cost, name)
        if cost.cost is None:
            weights[tariff.unknown(row.machine)] += weight
        for name in ("cost", "lost_cost", "interrupted_cost"):
            amounts[name] += weight * (getattr(cost, name) or 0.0)
    return Spent(
        currency=tariff.currency,
        receipts=receipts,
        unpriced={machine: round(cells) for machine, cells in weights.items()},
        unrecorded=round(amounts.pop("unrecorded", 0.0)),
        with_failures=True,
        **amounts,
    )


def _some_rows(
    store: Store, job: Submission, failed_by_cell: Mapping[tuple[str, str], FailedCell]
) -> Iterable[CellRow]:
    """What some cells of a job took: of as many as are looked at, those that have ended."""
    try:
        cells = _spread(cells_of(store, job.run_id, job.job), MOST_RECEIPTS)
    except NotInStore:
        return
    keys = [layout.receipt(job.step, *cell) for cell in cells if (job.step, cell[0]) not in failed_by_cell]
    receipts = [receipt for receipt in read_receipts(store, keys) if receipt.written_by[0] == job.run_id]
    yield from done_rows(store, receipts)
    lost = [failed_by_cell[job.step, name] for name, _ in cells if (job.step, name) in failed_by_cell]
    yield from failed_rows(store, job.run_id, lost)


def _spread(items: Sequence[Item], most: int) -> Sequence[Item]:
    """At most so many, evenly spread."""
    return items if len(items) <= most else [items[index * len(items) // most] for index in range(most)]
