"""What can be read of a pool, as its database offers it."""

from __future__ import annotations

from collections.abc import Iterator

from batch_pipeline.pool.base import Counts, Filter, Page
from batch_pipeline.pool.stores.storage import TaskStorage
from batch_pipeline.pool.task import Nest, Task, TaskEvent


class StorageReader:
    """A `PoolReader` over a `TaskStorage`."""

    def __init__(self, storage: TaskStorage) -> None:
        self._storage = storage

    @property
    def name(self) -> str:
        """See `Leases.name`."""
        return self._storage.name

    def get(self, task_id: str) -> Task | None:
        """See `TaskReader.get`."""
        return self._storage.read([task_id]).get(task_id)

    def find(self, wanted: Filter, *, limit: int = 1000, cursor: str | None = None) -> Page:
        """See `TaskReader.find`."""
        return self._storage.find(wanted, limit=limit, cursor=cursor)

    def counts(self) -> Counts:
        """See `Statistics.counts`."""
        return self._storage.counts()

    def nests(self) -> Iterator[Nest]:
        """See `Statistics.nests`."""
        return self._storage.nests()

    def ends_since(self, since_ms: int) -> int:
        """See `Statistics.ends_since`."""
        return self._storage.ends_since(since_ms)

    def events(self, *, task_id: str = "", act: str = "") -> Iterator[TaskEvent]:
        """See `TaskReader.events`."""
        return self._storage.events(task_id=task_id, act=act)

    def close(self) -> None:
        """See `PoolStore.close`."""
        self._storage.close()
