"""A store in memory whose listings are S3's: sorted pages of 1,000 keys, a call each, that may begin behind any key."""

from __future__ import annotations

import builtins
import threading
import uuid
from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterable, Iterator

from batch_pipeline.records.receipts import LEAST_BYTES
from batch_pipeline.wire import layout
from batch_pipeline.wire.store import LIST_PAGE, Store, StoreEntry, open_store


class PagedStore(Store):
    """Objects that were put are there; of others, which make a store large, there are keys alone."""

    def __init__(self, keys: Iterable[str] = ()) -> None:
        real = open_store(f"memory://{uuid.uuid4()}")
        super().__init__(real.url, real.backend, None)
        self._keys = sorted(keys)
        self._lock = threading.Lock()
        self._in_flight = 0
        self.most_in_flight = 0
        self._awaited = 0
        self._together = threading.Event()
        #: What `page` was given.
        self.pages: list[tuple[str, str]] = []

    @property
    def is_paged(self) -> bool:
        return True

    def hold(self, calls: int) -> None:
        """Has pages that begin behind a key wait until so many calls are in flight at once."""
        self._awaited, self._together = calls, threading.Event()

    def page(self, prefix: str, after: str = "") -> tuple[builtins.list[StoreEntry], bool]:
        with self._lock:
            self._in_flight += 1
            self.most_in_flight = max(self.most_in_flight, self._in_flight)
            self.calls["list"] += 1
            self.pages.append((prefix, after))
            if self._in_flight >= self._awaited:
                self._together.set()
        assert not after or self._together.wait(10), f"{self._awaited} calls never were in flight at once"
        folder = f"{prefix.rstrip('/')}/" if prefix else ""
        start = max(bisect_left(self._keys, folder), bisect_right(self._keys, after) if after else 0)
        end = bisect_left(self._keys, f"{folder[:-1]}0") if folder else len(self._keys)
        some = self._keys[start : min(end, start + LIST_PAGE)]
        with self._lock:
            self._in_flight -= 1
        return [StoreEntry(key=key, size_bytes=LEAST_BYTES, etag="e") for key in some], start + LIST_PAGE > end

    def list(self, prefix: str) -> Iterator[StoreEntry]:
        after, is_last = "", False
        while not is_last:
            entries, is_last = self.page(prefix, after)
            yield from entries
            after = entries[-1].key if entries else ""

    def folders(self, prefix: str) -> builtins.list[str]:
        self.calls["list"] += 1
        names: dict[str, None] = {}
        at = bisect_left(self._keys, prefix)
        while at < len(self._keys) and self._keys[at].startswith(prefix):
            name, slash, _ = self._keys[at][len(prefix) :].partition("/")
            if slash:
                names[name] = None
            at = bisect_left(self._keys, f"{prefix}{name}0") if slash else at + 1
        return [*names]

    def put(self, key: str, data: bytes) -> None:
        super().put(key, data)
        self._add(key)

    def put_if_absent(self, key: str, data: bytes) -> bool:
        is_new = super().put_if_absent(key, data)
        self._add(key)
        return is_new

    def delete(self, keys: builtins.list[str]) -> None:
        super().delete(keys)
        for key in keys:
            at = bisect_left(self._keys, key)
            if self._keys[at : at + 1] == [key]:
                del self._keys[at]

    def _add(self, key: str) -> None:
        at = bisect_left(self._keys, key)
        if self._keys[at : at + 1] != [key]:
            insort(self._keys, key)


def large_store(samples: int, run_id: str = "20200101T000000000-OLD") -> PagedStore:
    """A store with sources, receipts, results and logs of so many samples, s0000000 on, made by an earlier run."""
    names = [f"s{number:07}" for number in range(samples)]
    keys = [f"SR/{name}.txt" for name in names]
    for step in ("upper", "count"):
        keys += [layout.receipt(step, name, "0123456789abcdef") for name in names]
        keys += [layout.result(step, name, "result.txt") for name in names]
        keys += [layout.log(run_id, step, name, 1) for name in names]
    return PagedStore(keys)
