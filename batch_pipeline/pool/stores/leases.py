"""Lease expiry: when a lease is over, for callers that have different clocks. Pure, but for what it remembers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from batch_pipeline.pool.task import Task

#: By how much clocks may differ: a lease that ended longer ago is over at first sight.
TOLERATED_SKEW_MS = 5 * 60 * 1000


class LeaseWatch:
    """Tells which leases are over, by one clock.

    A lease is over when it was seen unchanged for as long as it lasts, as DynamoDB's lock client has it: this compares
    no two clocks. Or when it ended longer ago than clocks may differ, so that a reaper that looks once finds what has
    been dead for long. https://aws.amazon.com/blogs/database/building-distributed-locks-with-the-dynamodb-lock-client/
    """

    def __init__(self, *, tolerated_skew_ms: int = TOLERATED_SKEW_MS) -> None:
        self._tolerated_skew_ms = tolerated_skew_ms
        #: Task id -> fencing number and end of the lease as seen, and when first.
        self._seen: dict[str, tuple[int, int, int]] = {}

    def expired(self, held: Iterable[Task], *, now_ms: int) -> Iterator[Task]:
        """Those of all held tasks whose lease is over; the others are remembered, what is held no more forgotten."""
        seen, self._seen = self._seen, {}
        for task in held:
            fence, until_ms, since_ms = seen.get(task.id, (-1, -1, now_ms))
            if (fence, until_ms) != (task.fence, task.lease_until_ms) or since_ms > now_ms:
                since_ms = now_ms
            if now_ms - since_ms >= task.lease_ms or task.lease_until_ms + self._tolerated_skew_ms < now_ms:
                yield task
            else:
                self._seen[task.id] = (task.fence, task.lease_until_ms, since_ms)
