"""Calls of the store that each verb makes for three samples in stores of three sizes: what is asked decides, not size.

Two steps and a gather of three samples run beside the sources, receipts, results and logs of an earlier run's samples,
in a store in memory that lists as S3 does, a call for 1,000 keys. Below, what reads all of a store takes: a call for
1,000 objects, and one a range.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final
from unittest.mock import patch

from batch_pipeline.backends.memory import MemoryBackend
from batch_pipeline.pipeline.samples import SampleList
from batch_pipeline.provenance.release import release
from batch_pipeline.provenance.rightsize import rightsize
from batch_pipeline.provenance.trace import trace
from batch_pipeline.provenance.verify import promises_of_run
from batch_pipeline.records.cell_table import table_of
from batch_pipeline.records.history import read_events
from batch_pipeline.records.listing import PAGES_AT_ONCE
from batch_pipeline.records.receipts import all_standing_receipts, read_retirements
from batch_pipeline.records.record import read_record
from batch_pipeline.records.registry import Query, find_runs, resolve
from batch_pipeline.records.request import Request
from batch_pipeline.run.cancel import cancel
from batch_pipeline.run.live import submissions
from batch_pipeline.run.recorded import recorded_status
from batch_pipeline.run.search import logs_of
from batch_pipeline.run.status import status
from batch_pipeline.run.verdict import read_failed
from batch_pipeline.wire import layout
from batch_pipeline.wire.store import LIST_PAGE, NotInStore, Store
from benchmarks import table
from tests.run.paged import large_store
from tests.run.small import Stage, drive, look, new_store, request_of

SIZES: Final = (10, 1_000, 100_000)
#: LIST calls, and others, that a verb may make for three samples x two steps and a gather in a store of any size. Those
#: of the run's six jobs, and of its containers, are among the run's.
MOST: Final[Mapping[str, tuple[int, int]]] = {
    "run": (44, 90),
    "run again": (16, 0),
    "plan": (16, 0),
    "plan --check-results": (26, 8),
    "status": (16, 0),
    "status RUN": (16, 5),
    "logs --grep": (10, 2),
    "runs": (1, 2),
    "runs show": (3, 8),
    "verify RUN": (9, 11),
    "release": (12, 46),
    "trace": (3, 4),
    "cancel --samples": (2, 10),
}
#: What reads as many cells as there are: objects that it lists of a sample, and how many listings these are.
OF_ALL: Final[Mapping[str, tuple[int, int]]] = {
    "plan of all": (3, 2),
    "status of all": (5, 3),
    "verify --all": (2, 1),
    "rightsize": (2, 1),
}


def main(*, results_folder: Path) -> None:
    """Counts in every size, prints and keeps."""
    results = {size: {**calls_of_three(size), **calls_of_all(size)} for size in SIZES}
    rows = []
    for verb in results[SIZES[0]]:
        counts = [f"{_lists(results[size][verb])} + {_others(results[size][verb])}" for size in SIZES]
        lists, others = MOST.get(verb, (0, 0))
        rows.append((verb, *counts, f"{lists} + {others}" if verb in MOST else f"{most_lists(verb, SIZES[-1])} + few"))
    too_many = [f"{verb} at {size:,}" for size in SIZES for verb in excess(size, results[size])]
    header = ("calls: LIST + others", *(f"{size:,} samples" for size in SIZES), "at most")
    notes = [table.verdict(len(too_many), 0, f"as many as that at most {' '.join(too_many)}".strip())]
    table.show("calls of a verb for 3 samples, in stores of three sizes", header, rows, notes=notes)
    table.keep("calls", {"results": results}, results_folder)


def most_lists(verb: str, size: int) -> int:
    """The LIST calls that reading all of a store with so many samples may take: its pages, a range each, and a few."""
    objects, listings = OF_ALL[verb]
    return -(-objects * size // LIST_PAGE) + listings * PAGES_AT_ONCE + 5


def excess(size: int, calls_by_verb: Mapping[str, Mapping[str, int]]) -> dict[str, Mapping[str, int]]:
    """The calls of the verbs that made more than they may."""
    return {
        verb: calls
        for verb, calls in calls_by_verb.items()
        if _lists(calls) > (MOST[verb][0] if verb in MOST else most_lists(verb, size))
        or _others(calls) > (MOST[verb][1] if verb in MOST else 10)
    }


def calls_of_three(size: int) -> dict[str, dict[str, int]]:
    """Verb -> kind of call -> how many, for three samples in a store with so many others."""
    store = large_store(size)
    names = [f"s{number * size // 3:07}-new" for number in range(3)]
    request = request_of(store, *names)
    stage = Stage(store)
    counts = {"run": _counted(store, lambda: drive(request, stage))}
    (run_id,) = store.folders(layout.RUNS)
    _add_output(request, names[0])
    counts |= {verb: _counted(store, act) for verb, act in _verbs(request, run_id, stage).items()}
    stage.is_open = False
    (live_id,) = drive(request_of(store, *names, params={"depth": 2}), stage, detach=True).run_ids
    first = frozenset(names[:1])
    with patch("batch_pipeline.run.cancel.backend_of", lambda settings: stage):
        counts["cancel --samples"] = _counted(store, lambda: cancel(store, request.settings, [live_id], samples=first))
    return counts


def calls_of_all(size: int) -> dict[str, dict[str, int]]:
    """The same for all samples of a store, which an earlier run made; of `verify --all` without a GET a receipt."""
    store = large_store(size)
    names = [f"s{number:07}" for number in range(size)]
    request = replace(request_of(store, "s0000000"), samples=SampleList.of(names))
    run_id = "20200101T000000000-OLD"
    store.put_json(layout.run_record(run_id), {"run_id": run_id, "started_at": "", "format": 1, "samples": size})
    store.put_json(layout.run_end(run_id), {"ended_at": "2020-01-02T00:00:00Z", "done": size, "failed": 0})
    store.put(layout.samples(run_id), "\n".join(["sample", *names]).encode())
    return {
        "plan of all": _counted(store, lambda: look(request, MemoryBackend())),
        "status of all": _counted(store, lambda: status(request)),
        "verify --all": _counted(store, lambda: all_standing_receipts(store, read_retirements(store))),
        "rightsize": _counted(store, lambda: rightsize(store, most=1)),
    }


def _verbs(request: Request, run_id: str, stage: Stage) -> dict[str, Callable[[], object]]:
    store = request.store
    names = frozenset(request.samples.names)
    return {
        "plan": lambda: look(request, MemoryBackend()),
        "plan --check-results": lambda: look(replace(request, check_results=True), MemoryBackend()),
        "run again": lambda: drive(request, stage),
        "status": lambda: status(request),
        "status RUN": lambda: recorded_status(store, request.settings, run_id),
        "logs --grep": lambda: logs_of(store, samples=names, run_id=run_id),
        "runs": lambda: find_runs(store, Query()),
        "runs show": lambda: _shown(store, run_id),
        "verify RUN": lambda: promises_of_run(store, read_record(store, run_id)),
        "release": lambda: release(store, read_record(store, run_id), new_store()),
        "trace": lambda: trace(store, f"results/count/{min(names)}/count.txt"),
    }


def _shown(store: Store, run_id: str) -> object:
    """All that `runs show` reads."""
    run = resolve(store, run_id)
    try:
        failed = read_failed(store, run_id)
    except NotInStore:
        failed = []
    return submissions(store, run_id), read_events(store, run_id), failed, table_of(store, run)


def _counted(store: Store, act: Callable[[], object]) -> dict[str, int]:
    before = Counter(store.calls)
    act()
    return dict(Counter(store.calls) - before)


def _lists(calls: Mapping[str, int]) -> int:
    return calls.get("list", 0)


def _others(calls: Mapping[str, int]) -> int:
    return sum(calls.values()) - _lists(calls)


def _add_output(request: Request, sample: str) -> None:
    """Has the receipt of a cell name a file, of as many bytes as are there."""
    store = request.store
    (key,) = [entry.key for entry in store.list(layout.receipts("count", sample))]
    receipt = json.loads(store.get(key))
    result = layout.result("count", sample, "count.txt")
    store.put(result, b"3")
    receipt["outputs"] = [{"port": "count", "key": result, "size_bytes": 1, "etag": "e", "sha256": ""}]
    store.put_json(key, receipt)
