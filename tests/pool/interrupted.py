"""A process that dies between two of its calls to a pool's database, or others act then, wherever that database is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from batch_pipeline.pool.base import PoolStore
from batch_pipeline.pool.stores.couchdb.store import CouchDbStore, CouchDbTasks
from batch_pipeline.pool.stores.dynamodb.store import DynamoDbStore, DynamoDbTasks
from batch_pipeline.pool.stores.dynamodb.table import THREADS
from batch_pipeline.pool.stores.optimistic import OptimisticStore


class Killed(BaseException):
    """No code of ours catches it, as none runs after SIGKILL."""


class Interrupted:
    """A process, and what happens to it."""

    def __init__(self) -> None:
        #: The pool as this process has it.
        self.pool: PoolStore
        self._calls_left = 0
        self._is_dead = False
        self._then: Callable[[], object] | None = None

    def after(self, calls: int, then: Callable[[], object]) -> None:
        """Has something happen when so many of the next calls were answered, before the one that follows."""
        self._calls_left, self._then = calls, then

    @property
    def was_interrupted(self) -> bool:
        """Whether it came to that."""
        return self._then is None

    def before_call(self, **_: Any) -> None:
        """Is called before each call of the database."""
        if self._is_dead:
            raise Killed
        then, self._calls_left = self._then, self._calls_left - 1
        if then and self._calls_left < 0:
            self._then = None
            # A store may have threads, and none of them outlives the process.
            self._is_dead = then is die
            then()


def die() -> None:
    """What kill -9 does."""
    raise Killed


class _InterruptedTasks:
    """The rows of a store whose database is in this process."""

    def __init__(self, rows: Any, process: Interrupted) -> None:
        self._rows = rows
        self._process = process

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._rows, name)
        # What begins a transaction is no call of its own.
        if name in ("name", "together"):
            return method

        def counted(*values: Any, **named: Any) -> Any:
            self._process.before_call()
            return method(*values, **named)

        return counted


@contextmanager
def interrupted(pool: PoolStore) -> Iterator[Interrupted]:
    """Another process at the same pool. It shares the connection, and nothing that the pool's client remembers."""
    process = Interrupted()
    if isinstance(pool, DynamoDbStore):
        process.pool = OptimisticStore(DynamoDbTasks(pool.table, shards=1, create=False))
        events: Any = pool.table._client.meta.events
        events.register("before-send.dynamodb", process.before_call)
        yield process
        # What was on its way arrives before anybody looks.
        pool.table._threads.shutdown()
        pool.table._threads = ThreadPoolExecutor(THREADS)
        events.unregister("before-send.dynamodb", process.before_call)
    elif isinstance(pool, CouchDbStore):
        process.pool = OptimisticStore(CouchDbTasks(pool.database, create=False))
        connections: Any = pool.database._pool
        request = connections.request

        def requested(*values: Any, **named: Any) -> Any:
            process.before_call()
            return request(*values, **named)

        connections.request = requested
        yield process
        connections.request = request
    else:
        assert isinstance(pool, OptimisticStore)
        process.pool = OptimisticStore(_InterruptedTasks(pool._storage, process))
        yield process
