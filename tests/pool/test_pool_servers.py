"""Pools on real servers: sixteen processes, killed, with wrong clocks and cut off, settle each task exactly once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from batch_pipeline.pool.base import PoolStore, WriteResult
from tests.pool.swarm import Swarm
from tests.servers import databases
from tests.servers.proxy import proxy_to

pytestmark = [pytest.mark.servers, pytest.mark.slow, pytest.mark.faults]

PILOTS = 16


@dataclass(frozen=True, kw_only=True)
class Served:
    """A new pool on a server, and how others open it: by the port of a proxy, or 0."""

    port: int
    opened: Callable[[int], PoolStore]

    def swarm(self, folder: Path, *, port: int = 0, lease_ms: int, skew_ms: int = 0) -> Swarm:
        """Pilots of it."""
        return Swarm(opened=lambda: self.opened(port), folder=folder, size=PILOTS, lease_ms=lease_ms, skew_ms=skew_ms)


@pytest.fixture(params=["dynamodb", "couchdb"])
def served(request: pytest.FixtureRequest) -> Iterator[Served]:
    if request.param == "dynamodb":
        with closing(databases.dynamodb_pool(shards=4)) as dynamodb:
            table = dynamodb.table.name
            yield Served(
                port=databases.dynalite().port, opened=lambda port: databases.dynamodb_pool(table=table, port=port)
            )
    else:
        with closing(databases.couchdb_pool()) as couchdb:
            name = couchdb.database.name.rpartition("/")[2]
            yield Served(
                port=databases.pouchdb().port, opened=lambda port: databases.couchdb_pool(database=name, port=port)
            )


def test_sixteen_processes_run_each_task_exactly_once(served: Served, tmp_path: Path) -> None:
    swarm = served.swarm(tmp_path, lease_ms=600_000)
    swarm.fill(databases.TASKS)
    swarm.run(seconds_between=0.2, most_kills=0)
    swarm.check(databases.TASKS)
    answers = swarm.answers()
    assert (answers.total(), {answer for _, answer in answers}) == (databases.TASKS, {WriteResult.ACCEPTED})


def test_killed_skewed_and_cut_off_each_task_settles_exactly_once(served: Served, tmp_path: Path) -> None:
    tasks = databases.TASKS // 5
    with proxy_to(served.port) as proxy:
        swarm = served.swarm(tmp_path, port=proxy.port, lease_ms=2000, skew_ms=4000)
        swarm.fill(tasks)
        proxy.tell("trouble 5")
        swarm.run(seconds_between=0.5, most_kills=5)
        assert swarm.killed > 2
        assert proxy.tell("lose 0") > 0
    served.swarm(tmp_path, lease_ms=2000).check(tasks)
