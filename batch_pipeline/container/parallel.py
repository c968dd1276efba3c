"""Makes several requests to a store at a time in a thread pool, and stops the rest at the first error."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from batch_pipeline.wire.errors import StepInterrupted

T = TypeVar("T")

#: Downloads at once: a handful fills a network card, more only costs memory.
AT_ONCE = 8


class Stop:
    """Tells threads that what they do is not wanted any more."""

    def __init__(self) -> None:
        self.requested = False

    def check(self) -> None:
        """Raises StepInterrupted when a stop was requested."""
        if self.requested:
            raise StepInterrupted("Staging was stopped.")


def in_parallel(calls: Sequence[Callable[[], T]], *, at_once: bool, stop: Stop | None = None) -> list[T]:
    """The calls' results in their order; the first error is raised after the others were stopped."""
    if not at_once or len(calls) < 2:
        return [call() for call in calls]
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(AT_ONCE) as pool:
        futures = [pool.submit(call) for call in calls]
        try:
            return [future.result() for future in futures]
        finally:
            if stop is not None:
                stop.requested = True
            pool.shutdown(wait=False, cancel_futures=True)
