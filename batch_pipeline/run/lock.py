"""The driver's lock on a prefix, a lease with a fencing number: one driver at a time, by one conditional write.

The holder of number n has written `driver/{n}.json`; whoever creates n + 1 takes over. Creating is a put-if-absent,
so of two drivers at once one wins, on S3 as in a folder, and the number fences: a driver that slept through its lease
finds a higher number and stops. A driver may take over when the holder has released, its lease is over, or its
process is gone from this very machine (boot, process id and start time tell). The lock is held while jobs are
submitted, not while they run.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import time
from collections.abc import Callable
from typing import Any, Final

from batch_pipeline.log import Facts
from batch_pipeline.records.people import user_name
from batch_pipeline.wire import layout
from batch_pipeline.wire.errors import RunConflict
from batch_pipeline.wire.processes import birth_of, boot_id
from batch_pipeline.wire.store import NotInStore, Store

#: Seconds after which a silent holder may be replaced. Submitting 300 arrays at 50 a second takes 6.
LEASE_SECONDS = 300.0
_LOG: Final = logging.getLogger(__name__)
_NOBODY = (0, "")
_JUST_NOW = "Another driver began to submit into this store just now. Run the same command again."


class DriverLock:
    """The right to submit into one prefix."""

    def __init__(self, store: Store, *, clock: Callable[[], float] = time.time) -> None:
        self._store = store
        self._clock = clock
        self._number = 0
        #: The number that it had and released.
        self._released = 0
        self._renewed = 0.0
        #: Who had it and did not release it: a driver that died, or slept through its lease.
        self._replaced: dict[str, Any] = {}

    def newest(self) -> tuple[int, str]:
        """The newest holder's number and what its record is by now; 0 when there was none. One LIST."""
        return max(self._records(), default=_NOBODY)

    def take(self, *, seen: tuple[int, str] | None = None) -> bool:
        """Takes the lock: whether nobody else held it since `newest()` said `seen`, nor at that moment.

        Raises RunConflict, naming the holder, while somebody else has it.
        """
        held = self._records()
        last, _ = newest = max(held, default=_NOBODY)
        # Who let go of it since has changed the record; who died cannot say until when it submitted.
        is_free = not last or self._is_released(last)
        is_unchanged = seen is None or (is_free and seen == newest)
        if not self._store.put_if_absent(layout.driver(last + 1), self._record(released=False)):
            raise RunConflict(_JUST_NOW)
        # More than one: a driver died between these two lines.
        self._store.delete([layout.driver(number) for number, _ in held])
        # Two drivers may have come and gone since the listing, and removed the very record that was to stop this one.
        if self.newest()[0] != last + 1:
            raise RunConflict(_JUST_NOW)
        self._number = last + 1
        self._log_taken()
        return is_unchanged

    def take_again(self) -> bool:
        """Takes the lock that this driver released, unless another one had it since. Raises as `take` does."""
        newest = self.newest()
        return newest[0] == self._released and self.take(seen=newest)

    def renew(self) -> None:
        """Sends a heartbeat when half of the lease is over. Raises RunConflict when another driver took over."""
        if self._clock() - self._renewed < LEASE_SECONDS / 2:
            return
        if self.newest()[0] != self._number:
            raise RunConflict(
                "Another driver took over while this one stood still. What was submitted goes on; see: status."
            )
        self._store.put(layout.driver(self._number), self._record(released=False))
        _LOG.info("lease renewed %s", Facts(number=self._number, seconds=int(LEASE_SECONDS)))

    def release(self) -> None:
        """Lets others take over. Does nothing when it was not taken."""
        if self._number:
            self._store.put(layout.driver(self._number), self._record(released=True))
            _LOG.info("lock released %s", Facts(number=self._number))
            self._released, self._number = self._number, 0

    def _log_taken(self) -> None:
        _LOG.info("lock acquired %s", Facts(number=self._number, lease_seconds=int(LEASE_SECONDS)))
        if holder := self._replaced:
            about = {key: holder.get(key, "") for key in ("pid", "host", "user")}
            because = "its lease is over" if holder["expires_at"] < self._clock() else "its process is gone"
            _LOG.info("lock taken over %s", Facts(number=self._number, **about, because=because))

    def _records(self) -> list[tuple[int, str]]:
        return [(_number_of(entry.key), entry.etag) for entry in self._store.list(layout.DRIVER)]

    def _record(self, *, released: bool) -> bytes:
        self._renewed = self._clock()
        return json.dumps(
            {"released": released, "expires_at": self._renewed + LEASE_SECONDS, "format": 1} | _myself()
        ).encode()

    def _is_released(self, number: int) -> bool:
        """Whether the holder let go of it itself. Raises RunConflict while it has it."""
        self._replaced = {}
        try:
            holder = self._store.get_json(layout.driver(number))
        except NotInStore:
            return False
        if holder["released"] or holder["expires_at"] < self._clock() or _is_gone(holder):
            self._replaced = {} if holder["released"] else holder
            return bool(holder["released"])
        raise RunConflict(
            f"Another driver (process {holder['pid']} of {holder['user']} on {holder['host']}) is submitting into"
            " this store. Wait until it is through and run the same command again: it will follow that run."
        )


def _number_of(key: str) -> int:
    name = key.rsplit("/", 1)[-1].removesuffix(".json")
    return int(name) if name.isdigit() else 0


def _myself() -> dict[str, Any]:
    pid = os.getpid()
    return {"host": socket.gethostname(), "user": user_name(), "pid": pid, "boot": boot_id(), "birth": birth_of(pid)}


def _is_gone(holder: dict[str, Any]) -> bool:
    """Whether the holder was a process of this machine that no longer runs."""
    if not holder.get("boot") or holder["boot"] != boot_id():
        return False
    return bool(birth_of(holder["pid"]) != holder["birth"])
