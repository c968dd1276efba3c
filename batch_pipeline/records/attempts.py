"""Reads what the attempts at cells left, and tells what a cell took, the attempts that failed before it with it.

An attempt that was killed with its container left no record.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from batch_pipeline.records.cell_table import COLUMNS, CellEnd, CellRow, milliseconds
from batch_pipeline.records.events import FailedCell
from batch_pipeline.records.results import AT_ONCE
from batch_pipeline.wire import layout
from batch_pipeline.wire.contract import EndReason
from batch_pipeline.wire.receipt import Failure, Receipt
from batch_pipeline.wire.store import NotInStore, Store

#: Reasons of cells that may have had no attempt.
_NEVER_RAN: Final = (EndReason.DEPENDENCY, EndReason.CANCELLED, EndReason.IMAGE)


def done_rows(store: Store, receipts: Sequence[Receipt]) -> Iterator[CellRow]:
    """What each cell took of which this is the receipt. A GET an attempt before the last. Raises StoreFailed."""
    for receipt, earlier in zip(receipts, earlier_failures(store, receipts), strict=True):
        state = CellEnd.KEPT if receipt.kept else CellEnd.DONE
        yield _row(receipt.step, receipt.sample, state, None, **_measures(receipt, earlier))


def failed_rows(store: Store, run_id: str, failed: Iterable[FailedCell]) -> Iterator[CellRow]:
    """What each failed cell of a run took, as far as its attempts left records. Calls as for `failures_of`."""
    for cell, records in failures_of(store, run_id, failed):
        measures: dict[str, Any] = {"unrecorded": int(cell.reason not in _NEVER_RAN)}
        if records:
            measures = _measures(records[-1], records[:-1])
        yield _row(cell.step, cell.sample, CellEnd.FAILED, cell.reason, **measures)


def _row(step: str, sample: str, state: CellEnd, reason: EndReason | None, **measures: Any) -> CellRow:
    """A row of these measures; what is not among them is not known."""
    numbers = dict.fromkeys(COLUMNS, 0) | {"machine": ""} | measures
    return CellRow(step=step, sample=sample, **{**numbers, "state": state, "reason": reason})


def _measures(record: Receipt | Failure, earlier: Sequence[Failure]) -> dict[str, Any]:
    """What an attempt took, and those before it in its job, by column.

    Of one that found its cell unchanged only when that was, for the rest is another run's.
    """
    kept = record.kept if isinstance(record, Receipt) else {}
    start = milliseconds(kept["at"] if kept else record.started_at)
    attempt = record.written_by[1] if isinstance(record, Receipt) else record.attempt
    lost_ms = sum(_duration(failure) for failure in earlier if not EndReason(failure.end_reason).is_blameless)
    measures: dict[str, Any] = {
        "attempts": min(attempt, 255),
        "started_ms": start,
        "lost_ms": lost_ms,
        "interrupted_ms": sum(map(_duration, earlier)) - lost_ms,
        "unrecorded": min(max(0, attempt - 1 - len(earlier)), 255),
    }
    if earlier:
        last = earlier[-1]
        measures |= {"machine": machine_of(last), "cpus": last.cpus, "memory_mb": last.memory_mb}
    if kept:
        return measures
    measures |= {"machine": machine_of(record), "cpus": record.cpus, "memory_mb": record.memory_mb}
    queued = max(map(milliseconds, (record.queued_at, *(failure.stopped_at for failure in earlier))))
    return measures | {
        "duration_ms": _duration(record),
        "peak_memory_bytes": record.usage.peak_memory_bytes,
        "in_bytes": record.usage.staged_in_bytes,
        "out_bytes": record.usage.staged_out_bytes,
        "queued_ms": max(0, start - queued) if queued else 0,
        "cpu_ms": round(record.usage.cpu_seconds * 1000),
    }


def _duration(record: Receipt | Failure) -> int:
    """Milliseconds of an attempt."""
    return max(0, milliseconds(record.stopped_at) - milliseconds(record.started_at))


def machine_of(record: Receipt | Failure) -> str:
    """Where an attempt ran, as cell tables have it: instance type, purchase and zone, else the host."""
    words = (record.instance_type, record.purchase, record.availability_zone)
    return ", ".join(filter(None, words)) if record.instance_type else record.host


def earlier_failures(store: Store, receipts: Sequence[Receipt]) -> Iterator[Sequence[Failure]]:
    """For each receipt the records of the attempts before the one that wrote it, in its job, oldest first.

    A GET an attempt; most receipts are of a first one. Raises StoreFailed.
    """

    def earlier(receipt: Receipt) -> Sequence[Failure]:
        run_id, last = receipt.written_by
        return records_at(
            store, (layout.failure(run_id, receipt.step, receipt.sample, attempt) for attempt in range(1, last))
        )

    with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="attempts") as pool:
        yield from pool.map(earlier, receipts)


def failures_of(
    store: Store, run_id: str, failed: Iterable[FailedCell]
) -> Iterator[tuple[FailedCell, Sequence[Failure]]]:
    """Each failed cell of a run with the records of its attempts, oldest first: a LIST a cell, a GET an attempt.

    Nothing is read for cells that never ran because what they read had failed. Raises StoreFailed.
    """

    def records_of(cell: FailedCell) -> Sequence[Failure]:
        if cell.reason is EndReason.DEPENDENCY:
            return []
        keys = (entry.key for entry in store.list(layout.cell_logs(run_id, cell.step, cell.sample)))
        numbered = [(attempt, key) for key in keys if (attempt := layout.attempt_of_failure(key)) is not None]
        return records_at(store, (key for _, key in sorted(numbered)))

    cells = list(failed)
    with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="attempts") as pool:
        yield from zip(cells, pool.map(records_of, cells), strict=True)


def records_at(store: Store, keys: Iterable[str]) -> list[Failure]:
    """The records at these keys that are there and whole. A GET each."""
    return [record for key in keys if (record := _record_at(store, key)) is not None]


def _record_at(store: Store, key: str) -> Failure | None:
    """None for one that is gone or damaged."""
    try:
        return Failure.from_json(json.loads(store.get(key)))
    except (NotInStore, ValueError, TypeError, AttributeError):
        return None
