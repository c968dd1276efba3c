"""Rate limit (token bucket) and exponential backoff for calls, with growing pauses while the service throttles.

An account has one limit for all that calls Batch in a region, so the rate that is ours alone may still be too high:
a throttled call halves it, and it grows back within a minute. Nothing is given up because of throttling alone before
some two minutes have gone by without a single call getting through.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Final, TypeVar

from batch_pipeline.log import Facts
from batch_pipeline.wire.errors import BackendFailed

T = TypeVar("T")

#: How often a call that did nothing is tried, over some two minutes.
TRIES: Final = 10
#: Seconds in which the rate grows back to the full one.
RECOVERY_SECONDS: Final = 60.0
#: Calls a second at the least, however often the service says no.
SLOWEST: Final = 1.0
_LOG: Final = logging.getLogger(__name__)


class RetryLater(BackendFailed):
    """The service could not take the call, and did nothing."""

    transient = True


class TokenBucket:
    """Lets `per_second` calls through a second, and as many at once after a rest."""

    def __init__(
        self,
        per_second: float,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._full = per_second
        self._rate = per_second
        self._clock = clock
        self._sleep = sleep
        self._tokens = per_second
        self._seen = clock()

    def take(self) -> None:
        """Returns when one more call may be made."""
        now = self._clock()
        passed = now - self._seen
        self._rate = min(self._full, self._rate + passed * self._full / RECOVERY_SECONDS)
        self._tokens = min(self._rate, self._tokens + passed * self._rate)
        self._seen = now
        self._tokens -= 1
        if self._tokens < 0:
            self._sleep(-self._tokens / self._rate)

    def throttled(self) -> None:
        """Says that the service was asked too often: the rate halves, and no burst is left."""
        self._rate = max(min(SLOWEST, self._full), self._rate / 2)
        self._tokens = min(self._tokens, 0.0)
        _LOG.info("slowed down %s", Facts(calls_a_second=round(self._rate, 2), of=round(self._full, 2)))


def retry_transient(act: Callable[[], T]) -> T:
    """Calls `act`, and again with exponential backoff and jitter while it raises RetryLater; returns its value.

    Raises the last RetryLater after `TRIES` calls, and at once whatever else `act` raises.
    """
    try:
        return act()
    except RetryLater as error:
        first: list[RetryLater] = [error]
    # Only now: it is rare, and costs more to import than a submission takes.
    import stamina

    for attempt in stamina.retry_context(
        on=RetryLater, attempts=TRIES, timeout=None, wait_initial=0.2, wait_max=30.0, wait_jitter=1.0
    ):
        with attempt:
            if first:
                raise first.pop()
            about = {"attempt": attempt.num, "of": TRIES, "method": "exponential backoff"}
            _LOG.info("retried %s", Facts(**about))
            return act()
    raise AssertionError("stamina raises the last error")
