"""Lists all receipts of a store, or of a step, in parallel, though nobody says which cells there are.

The sample list of an earlier run says where the listing can be divided; what is there beside its samples is listed with
them. Without such a run each step is a range of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from batch_pipeline.records.listing import CellFolders, entries_below
from batch_pipeline.records.registry import Query, find_runs, samples_of
from batch_pipeline.wire import layout
from batch_pipeline.wire.store import NotInStore, Store, StoreEntry

#: Of so many of the newest runs the longest sample list is taken.
RUNS_LOOKED_AT: Final = 16


def receipt_entries(
    store: Store, prefix: str = layout.RECEIPTS, *, etags: bool = True
) -> Iterator[Iterable[StoreEntry]]:
    """The entries below `receipts/` or `receipts/STEP/`, in no promised order. Raises StoreFailed.

    One LIST where a page is all; else at most a call for 1,000 objects and one a range, and what it takes to read a
    sample list.
    """
    return entries_below(store, prefix, lambda: _likely_cells(store, prefix), etags=etags)


def _likely_cells(store: Store, prefix: str) -> CellFolders:
    steps = map(layout.step_receipts, store.folders(prefix)) if prefix == layout.RECEIPTS else [prefix]
    samples = _recorded_samples(store) or (layout.COHORT,)
    return CellFolders(dict.fromkeys(steps, samples))


def _recorded_samples(store: Store) -> tuple[str, ...]:
    run = max(find_runs(store, Query(), most=RUNS_LOOKED_AT), key=lambda run: run.samples, default=None)
    try:
        return () if run is None else tuple(samples_of(store, run.run_id))
    except NotInStore:
        return ()
