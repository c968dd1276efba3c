"""What a pool asks of a database over a network: calls and conflicts a task with eight pilots, on real servers here.

dynalite speaks DynamoDB's API and pouchdb-server CouchDB's; both run in one thread of this machine, so that tasks a
second tell more of them than of the services that they stand in for. Calls and conflicts are the pool's own.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from uuid import uuid4

from batch_pipeline.pool.base import PoolStore, Settlement
from batch_pipeline.pool.stores.couchdb.store import CouchDbStore
from batch_pipeline.pool.stores.dynamodb.store import DynamoDbStore
from batch_pipeline.pool.stores.opening import open_pool
from batch_pipeline.pool.task import TaskOutcome, TaskSpec
from batch_pipeline.wire.contract import EndReason
from benchmarks import table
from benchmarks.measure import BenchmarkFailed

PILOTS = 8
#: Goals for DynamoDB: calls a task with what looking for tasks costs, and claims that somebody else was faster with.
GOAL_CALLS = 2.3
GOAL_CONFLICTS = 0.1
_FINE = TaskOutcome(end_reason=EndReason.FINISHED, exit_code=0)
_LEASE_MS = 600_000


@dataclass(frozen=True, kw_only=True)
class Drained:
    """What a pilot came to, or all of them."""

    settled: int
    calls: int
    conflicts: int


def main(*, tasks: int, results_folder: Path) -> None:
    """Measures, prints and keeps."""
    from tests.servers import databases

    if missing := databases.missing():
        raise BenchmarkFailed(f"{missing}.")
    os.environ.update(databases.IDENTITY)
    name = f"pool-{uuid4().hex}"
    stores = {
        "DynamoDB (dynalite)": f"dynamodb://{name}-%d?region={databases.REGION}&endpoint={databases.dynalite().url}",
        "CouchDB (pouchdb-server)": f"couchdb{databases.pouchdb().url.removeprefix('http')}/{name}-%d",
    }
    rows, notes, kept = [], [], {}
    for store, url in stores.items():
        for claimed in (1, 10):
            drained, seconds = measured(url % claimed, tasks, claimed)
            calls, conflicts = drained.calls / tasks, drained.conflicts / tasks
            figures = {"tasks_per_second": tasks / seconds, "calls": calls, "conflicts": conflicts}
            rows.append((store, str(claimed), f"{tasks / seconds:,.0f}", f"{calls:.2f}", f"{conflicts:.3f}"))
            kept[f"{store}, claims of {claimed}"] = figures
            if store.startswith("Dynamo"):
                notes.append(table.verdict(calls, GOAL_CALLS, f"claims of {claimed}: {GOAL_CALLS} calls a task"))
                notes.append(table.verdict(conflicts, GOAL_CONFLICTS, f"and {GOAL_CONFLICTS} conflicts"))
    title = f"pool over a network: {tasks:,} tasks that do nothing, {PILOTS} pilots"
    header = ("store", "claims of", "tasks a second", "calls a task", "conflicts a task")
    table.show(title, header, rows, notes=[*notes, f"load now {table.load()}"])
    table.keep("pool-servers", {"machine": table.machine(), "tasks": tasks, "stores": kept}, results_folder)


def measured(url: str, tasks: int, claimed: int) -> tuple[Drained, float]:
    """Fills a new pool, and has eight pilots drain it together."""
    with closing(open_pool(url, create=True)) as pool:
        pool.add((TaskSpec(id=f"t{number}", command=("true",)) for number in range(tasks)), now_ms=_now_ms())
    fork = multiprocessing.get_context("fork")
    barrier = fork.Barrier(PILOTS + 1)
    pipes = [fork.Pipe(duplex=False) for _ in range(PILOTS)]
    pilots = [fork.Process(target=_live, args=(url, claimed, barrier.wait, pipe[1])) for pipe in pipes]
    try:
        for pilot in pilots:
            pilot.start()
        barrier.wait(60)
        began = time.perf_counter()
        told: list[Drained] = [receiving.recv() for receiving, _ in pipes]
        seconds = time.perf_counter() - began
    finally:
        for pilot in pilots:
            pilot.kill()
            pilot.join()
    settled = sum(one.settled for one in told)
    if settled != tasks:
        raise BenchmarkFailed(f"{url}: {settled} tasks were settled of {tasks}.")
    calls, conflicts = sum(one.calls for one in told), sum(one.conflicts for one in told)
    return Drained(settled=settled, calls=calls, conflicts=conflicts), seconds


def _live(url: str, claimed: int, ready: Callable[[], object], told: Connection) -> None:
    with closing(open_pool(url)) as pool:
        calls, _ = _asked(pool)
        ready()
        settled = 0
        while claims := pool.claim(f"pilot-{os.getpid()}", claimed, lease_ms=_LEASE_MS, now_ms=_now_ms()):
            pool.settle([Settlement(claim=claim, outcome=_FINE) for claim in claims], now_ms=_now_ms())
            settled += len(claims)
        all_calls, conflicts = _asked(pool)
    told.send(Drained(settled=settled, calls=all_calls - calls, conflicts=conflicts))


def _asked(pool: PoolStore) -> tuple[int, int]:
    """Calls and conflicts of a store so far."""
    if isinstance(pool, DynamoDbStore):
        return pool.table.calls.total(), pool.table.conflicts
    if isinstance(pool, CouchDbStore):
        return pool.database.calls.total(), pool.database.conflicts
    raise BenchmarkFailed(f"{pool.name} counts no calls.")


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
