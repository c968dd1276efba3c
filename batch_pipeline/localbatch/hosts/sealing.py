"""Group commit: brings to the disk what attempts left, those that ended meanwhile together, so that cells share it.

An attempt whose outcome has seals has given its processor back and does not count as ended before its receipt has its
name (`batch_pipeline.wire.durable`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from batch_pipeline.localbatch.engine.job import AttemptOutcome
from batch_pipeline.localbatch.engine.state_machine import Run
from batch_pipeline.wire.contract import ContainerExit
from batch_pipeline.wire.durable import seal_all

#: Seconds between the beginnings of two rounds. Whoever ends first does not wait, and many share the next one.
ROUND_SECONDS = 0.02

Ended = tuple[Run, AttemptOutcome]


class Sealer:
    """Seals in rounds, one after another, in a thread of its own; each outcome is then told."""

    def __init__(self, loop: asyncio.AbstractEventLoop, on_ended: Callable[[Run, AttemptOutcome], None]) -> None:
        self._loop = loop
        self._on_ended = on_ended
        self._thread = ThreadPoolExecutor(1, "seal")
        self._waiting: list[Ended] = []
        self._is_busy = False
        self._next_round = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def add(self, run: Run, outcome: AttemptOutcome) -> None:
        """Takes an outcome with seals."""
        self._waiting.append((run, outcome))
        self._begin()

    def _begin(self) -> None:
        if self._is_busy or not self._waiting:
            return
        self._is_busy = True
        self._timer = self._loop.call_at(max(self._loop.time(), self._next_round), self._seal)

    def _seal(self) -> None:
        self._next_round = self._loop.time() + ROUND_SECONDS
        batch, self._waiting = self._waiting, []
        outcomes = self._loop.run_in_executor(self._thread, sealed, [outcome for _, outcome in batch])
        outcomes.add_done_callback(lambda done: self._tell(batch, done))

    def _tell(self, batch: Sequence[Ended], done: asyncio.Future[list[AttemptOutcome]]) -> None:
        self._is_busy = False
        # Whatever we did not think of fails these attempts; it must not keep all later ones waiting.
        error = done.exception()
        outcomes = done.result() if error is None else [_unsealed(outcome, error) for _, outcome in batch]
        for (run, _), outcome in zip(batch, outcomes, strict=True):
            self._on_ended(run, outcome)
        self._begin()

    def close(self) -> None:
        """Seals what waits. Its outcomes are in the journals of the workers."""
        if self._timer is not None:
            self._timer.cancel()
        self._thread.shutdown()
        sealed([outcome for _, outcome in self._waiting])


def sealed(outcomes: Sequence[AttemptOutcome]) -> list[AttemptOutcome]:
    """Seals what these attempts left, and returns how they ended: one whose receipt could not be sealed has failed."""
    seals = [seal for outcome in outcomes for seal in outcome.seals]
    errors = dict(zip(seals, seal_all(seals), strict=True))
    ended = []
    for outcome in outcomes:
        why = next((error for seal in outcome.seals if (error := errors[seal])), None)
        ended.append(replace(outcome, seals=()) if why is None else _unsealed(outcome, why))
    return ended


def _unsealed(outcome: AttemptOutcome, why: BaseException) -> AttemptOutcome:
    words = why.strerror if isinstance(why, OSError) else repr(why)
    reason = f"StoreError: its results could not be brought to the disk: {words}"
    return replace(outcome, seals=(), exit_code=int(ContainerExit.STORE_UNREACHABLE), reason=reason)
