"""LIST calls of each verb for three samples in stores of three sizes: they follow what is asked, not what is there."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from batch_pipeline.backends.memory import MemoryBackend
from batch_pipeline.provenance.release import release
from batch_pipeline.provenance.trace import trace
from batch_pipeline.provenance.verify import promises_of_run
from batch_pipeline.records.record import read_record
from batch_pipeline.records.registry import Query, find_runs
from batch_pipeline.records.request import Request
from batch_pipeline.run.recorded import recorded_status
from batch_pipeline.run.search import logs_of
from batch_pipeline.run.status import status
from batch_pipeline.wire import layout
from tests.run.paged import large_store
from tests.run.small import Stage, drive, look, new_store, request_of

SIZES = (10, 1_000, pytest.param(100_000, marks=pytest.mark.slow))
#: LIST calls that a verb may take for three samples x two steps and a gather, in a store of any size.
MOST = {
    "plan": 16,
    "plan --check-results": 26,
    "run": 32,
    "status": 16,
    "status of a record": 16,
    "logs --grep": 10,
    "runs": 1,
    "verify": 9,
    "release": 12,
    "trace": 3,
}


def verbs(request: Request, run_id: str, stage: Stage) -> dict[str, Callable[[], object]]:
    store = request.store
    names = frozenset(request.samples.names)
    checked = Request(**{**vars(request), "check_results": True})
    return {
        "plan": lambda: look(request, MemoryBackend()),
        "plan --check-results": lambda: look(checked, MemoryBackend()),
        "run": lambda: drive(request, stage),
        "status": lambda: status(request),
        "status of a record": lambda: recorded_status(store, request.settings, run_id),
        "logs --grep": lambda: logs_of(store, samples=names, run_id=run_id),
        "runs": lambda: find_runs(store, Query()),
        "verify": lambda: promises_of_run(store, read_record(store, run_id)),
        "release": lambda: release(store, read_record(store, run_id), new_store()),
        "trace": lambda: trace(store, f"results/count/{min(names)}/count.txt"),
    }


@pytest.mark.parametrize("size", SIZES)
def test_three_samples_cost_as_many_listings_in_a_store_of_any_size(size: int) -> None:
    store = large_store(size)
    names = [f"s{number * size // 3:07}-new" for number in range(3)]
    request = request_of(store, *names)
    stage = Stage(store)
    (run_id,) = drive(request, stage).run_ids
    _add_output(request, names[0])
    taken = {}
    for verb, act in verbs(request, run_id, stage).items():
        store.calls.clear()
        act()
        taken[verb] = store.calls["list"]
    assert {verb: calls for verb, calls in taken.items() if calls > MOST[verb]} == {}
    if size == 10:
        assert taken["plan"] <= 7


def _add_output(request: Request, sample: str) -> None:
    """Has the receipt of a cell name a file, of as many bytes as are there."""
    store = request.store
    (key,) = [entry.key for entry in store.list(layout.receipts("count", sample))]
    receipt = json.loads(store.get(key))
    result = layout.result("count", sample, "count.txt")
    store.put(result, b"3")
    receipt["outputs"] = [{"port": "count", "key": result, "size_bytes": 1, "etag": "e", "sha256": ""}]
    store.put_json(key, receipt)
