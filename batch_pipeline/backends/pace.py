"""Holds calls back to a steady rate, so that a burst of submissions does not meet the service's limit."""

from __future__ import annotations

import time
from collections.abc import Callable


class TokenBucket:
    """Lets `per_second` calls through a second, and as many at once after a rest."""

    def __init__(
        self,
        per_second: float,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._rate = per_second
        self._clock = clock
        self._sleep = sleep
        self._tokens = per_second
        self._seen = clock()

    def take(self) -> None:
        """Returns when one more call may be made."""
        now = self._clock()
        self._tokens = min(self._rate, self._tokens + (now - self._seen) * self._rate)
        self._seen = now
        self._tokens -= 1
        if self._tokens < 0:
            self._sleep(-self._tokens / self._rate)
