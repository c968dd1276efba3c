"""Rate limit: a token bucket for each user and each address."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

#: Buckets that are kept; the one that was not used for longest is forgotten first, and it was full by then.
MOST_BUCKETS: Final = 10_000


class Limiter:
    """So many requests a minute from each, and as many at once. Safe to share between threads."""

    def __init__(self, per_minute: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._most = float(per_minute)
        self._clock = clock
        self._lock = threading.Lock()
        #: Who -> tokens left, and when that was so.
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def wait(self, who: str) -> float:
        """Takes one: 0 when there was one, else the seconds until there will be."""
        with self._lock:
            now = self._clock()
            left, at = self._buckets.pop(who, (self._most, now))
            left = min(self._most, left + (now - at) * self._most / 60)
            enough = left >= 1
            self._buckets[who] = (left - 1 if enough else left, now)
            if len(self._buckets) > MOST_BUCKETS:
                self._buckets.popitem(last=False)
            return 0.0 if enough else (1 - left) * 60 / self._most
