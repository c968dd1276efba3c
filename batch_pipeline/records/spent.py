"""What a run took: hours of vCPUs and memory, and on AWS money, from its cell table or the receipts of its cells.

Where the table has no measures a bounded number of receipts is read, spread over jobs and samples, so that the end of a
run of a million cells costs as much as that of a thousand. What is left out: attempts that failed, pulling images, idle
machines, storage, transfer.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Final, TypeVar

from batch_pipeline.config import Settings
from batch_pipeline.records.cell_table import CellEnd, CellTable
from batch_pipeline.records.manifests import cells_of
from batch_pipeline.records.results import read_receipts
from batch_pipeline.records.submissions import Submission
from batch_pipeline.wire import layout
from batch_pipeline.wire.errors import StoreFailed
from batch_pipeline.wire.receipt import Receipt
from batch_pipeline.wire.store import NotInStore, Store

#: Jobs of a step, and receipts of one, that are read.
MOST_JOBS: Final = 2
MOST_RECEIPTS: Final = 16
_HOUR: Final = 3600.0
_GIB: Final = 1024.0
Item = TypeVar("Item")


@dataclass(frozen=True, kw_only=True)
class Spent:
    """What the done cells of a run took."""

    vcpu_hours: float
    gib_hours: float
    #: Of both, at the prices of the settings; 0 on this machine.
    cost: float
    currency: str
    #: Receipts that say so; with fewer than cells were done it is an estimate.
    receipts: int


def spent_of(store: Store, run_id: str, jobs: Sequence[Submission], settings: Settings) -> Spent:
    """What a run whose jobs have ended took. Reads at most 2 manifests and 32 receipts a step. Raises StoreFailed."""
    steps: Mapping[str, list[Submission]] = defaultdict(list)
    for job in jobs:
        if job.run_id == run_id and not job.join:
            steps[job.step].append(job)
    vcpu_hours = gib_hours = 0.0
    read = 0
    for sent in steps.values():
        looked_at = _spread(sent, MOST_JOBS)
        receipts = [receipt for job in looked_at for receipt in _some_receipts(store, job)]
        # What stands for one that was looked at; of the rest nothing else is known.
        seen = sum(min(job.size, MOST_RECEIPTS) for job in looked_at)
        weight = sum(job.size for job in sent) / seen if seen else 0.0
        vcpu_hours += weight * sum(receipt.cpus * _hours(receipt) for receipt in receipts)
        gib_hours += weight * sum(receipt.memory_mb / _GIB * _hours(receipt) for receipt in receipts)
        read += len(receipts)
    return _spent(vcpu_hours, gib_hours, read, settings)


def spent_by_table(table: CellTable, settings: Settings) -> Spent:
    """What the cells took that a run made, by the measures in its cell table: all of them, and no call."""
    vcpu_hours = gib_hours = 0.0
    made = 0
    for row in table.rows():
        if row.state is CellEnd.DONE and row.attempts:
            hours = row.duration_ms / 1000 / _HOUR
            vcpu_hours += row.cpus * hours
            gib_hours += row.memory_mb / _GIB * hours
            made += 1
    return _spent(vcpu_hours, gib_hours, made, settings)


def spent_record(
    store: Store, run_id: str, jobs: Sequence[Submission], settings: Settings, table: CellTable | None = None
) -> Mapping[str, Any] | None:
    """What a run took, as recorded: by its cell table where that has measures, else by some receipts.

    None where a record cannot be read: a run's end does not fail for its bill.
    """
    if table is not None and table.measured:
        return asdict(spent_by_table(table, settings))
    try:
        return asdict(spent_of(store, run_id, jobs, settings))
    except StoreFailed:
        return None


def _spent(vcpu_hours: float, gib_hours: float, receipts: int, settings: Settings) -> Spent:
    prices = settings.prices
    paid = settings.backend.name != "embedded"
    cost = vcpu_hours * prices.vcpu_hour + gib_hours * prices.gib_hour if paid else 0.0
    return Spent(vcpu_hours=vcpu_hours, gib_hours=gib_hours, cost=cost, currency=prices.currency, receipts=receipts)


def _some_receipts(store: Store, job: Submission) -> list[Receipt]:
    """Receipts that cells of this job left: of as many as are looked at, those that are done."""
    try:
        cells = cells_of(store, job.run_id, job.job)
    except NotInStore:
        return []
    keys = [layout.receipt(job.step, sample, fingerprint) for sample, fingerprint in _spread(cells, MOST_RECEIPTS)]
    return [receipt for receipt in read_receipts(store, keys) if receipt.run_id == job.run_id]


def _spread(items: Sequence[Item], most: int) -> Sequence[Item]:
    """At most so many, evenly spread."""
    return items if len(items) <= most else [items[index * len(items) // most] for index in range(most)]


def _hours(receipt: Receipt) -> float:
    began, ended = (datetime.fromisoformat(moment) for moment in (receipt.started_at, receipt.stopped_at))
    return max(0.0, (ended - began).total_seconds()) / _HOUR
