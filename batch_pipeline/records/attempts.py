"""Reads what attempts that failed left: the records of a cell's earlier attempts, and all of a failed cell's.

An attempt that was killed with its container left none.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from batch_pipeline.records.events import FailedCell
from batch_pipeline.records.results import AT_ONCE
from batch_pipeline.wire import layout
from batch_pipeline.wire.contract import EndReason
from batch_pipeline.wire.receipt import Failure, Receipt
from batch_pipeline.wire.store import NotInStore, Store


def earlier_failures(store: Store, receipts: Sequence[Receipt]) -> Iterator[Sequence[Failure]]:
    """For each receipt the records of the attempts before the one that wrote it, in its job, oldest first.

    A GET an attempt; most receipts are of a first one. Raises StoreFailed.
    """

    def earlier(receipt: Receipt) -> Sequence[Failure]:
        run_id, last = receipt.written_by
        return _records_at(
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
        return _records_at(store, (key for _, key in sorted(numbered)))

    cells = list(failed)
    with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="attempts") as pool:
        yield from zip(cells, pool.map(records_of, cells), strict=True)


def _records_at(store: Store, keys: Iterable[str]) -> list[Failure]:
    """Those of the records that are there and whole."""
    return [record for key in keys if (record := _record_at(store, key)) is not None]


def _record_at(store: Store, key: str) -> Failure | None:
    """None for one that is gone or damaged."""
    try:
        return Failure.from_json(json.loads(store.get(key)))
    except (NotInStore, ValueError, TypeError, AttributeError):
        return None
