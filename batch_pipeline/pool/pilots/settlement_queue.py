"""What a pilot writes to its pool about tasks that it holds: heartbeats, ends, returns. None is lost.

A heartbeat prolongs the leases of all that the pilot holds, when a third of their time is over.

An end that could not be written is kept, its lease prolonged, and written again: the store knows a repeated write from
a late one. Ends of short tasks are kept back for an instant, to be written together.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from typing import Final

from batch_pipeline.log import Facts
from batch_pipeline.pool.base import Claim, Leases, Settlement, WriteResult
from batch_pipeline.pool.moves import judged
from batch_pipeline.pool.pilots.stop_policy import Pauses
from batch_pipeline.pool.task import Move
from batch_pipeline.wire.errors import PoolFailed

#: Seconds for which the end of a task may be kept back, to be written with others'.
KEPT_SECONDS: Final = 0.02
#: Seconds for which a pilot that must end tries to reach its pool.
LAST_SECONDS: Final = 10.0
_STATE_AFTER: Final[Mapping[Move, str]] = {
    Move.DONE: "done",
    Move.FAILED: "failed",
    Move.LOST: "failed",
    Move.AGAIN: "again",
    Move.RELEASED: "released",
}


_LOG: Final = logging.getLogger(__name__)


class SettlementQueue:
    """What is to be written, and the count of what was."""

    def __init__(
        self, pool: Leases, lease_seconds: float, now_ms: Callable[[], int], tell: Callable[[str], None]
    ) -> None:
        self._pool = pool
        self._lease_seconds = lease_seconds
        self._now_ms = now_ms
        self._tell = tell
        self._pauses = Pauses()
        self._ends: list[Settlement] = []
        self._returns: list[tuple[Claim, str, bool]] = []
        #: When the oldest of what is kept came, and when the pool may be asked again.
        self._since = self._retry_at = 0.0
        self._next_heartbeat = 0.0
        #: By the words of `pilot_config.PilotStats`.
        self.count: Counter[str] = Counter()

    @property
    def empty(self) -> bool:
        """Whether all is written."""
        return not self._ends and not self._returns

    def due(self, *, holding: bool) -> list[float]:
        """When something is to be written next."""
        written = [] if self.empty else [max(self._retry_at, self._since + KEPT_SECONDS)]
        return [*written, self._next_heartbeat] if holding or self._ends else written

    def ended(self, settlement: Settlement, now: float) -> None:
        """An attempt ended."""
        self._since = now if self.empty else self._since
        self._ends.append(settlement)

    def give_back(self, claim: Claim, why: str, *, counted: bool) -> None:
        """A task goes back; `counted`: it had been begun."""
        self._returns.append((claim, why, counted))
        self.count["released"] += counted

    def claimed(self, now: float, *, first: bool) -> None:
        """Tasks were claimed; the first of them: the time to prolong leases begins."""
        if first:
            self._next_heartbeat = now + self._lease_seconds / 3

    def write(self, now: float, *, enough: int = 1) -> bool:
        """Writes what is kept, if that is enough or has waited; whether something was written."""
        waited = now >= self._since + KEPT_SECONDS or len(self._ends) >= enough or bool(self._returns)
        if self.empty or now < self._retry_at or not waited:
            return False
        try:
            self._write_returns()
            results = self._pool.settle(self._ends, now_ms=self._now_ms()) if self._ends else []
        except PoolFailed as error:
            pause = self._pauses.next()
            kept = Facts(ends=len(self._ends), returns=len(self._returns), retry_in_seconds=round(pause, 3))
            _LOG.info("pool failed, settlements deferred %s", kept)
            self._tell(f"{error.message} What ended is kept and written again.")
            self._retry_at = now + pause
            return False
        for settlement, result in zip(self._ends, results, strict=True):
            self._note(settlement, result)
        self._ends.clear()
        self._pauses.reset()
        return True

    def _write_returns(self) -> None:
        for (why, counted), some in groupby(self._returns, key=lambda item: item[1:]):
            claims = [claim for claim, _, _ in some]
            results = self._pool.release(claims, now_ms=self._now_ms(), why=why, counted=counted)
            for claim, result in zip(claims, results, strict=True):
                word = "release refused" if result is WriteResult.REFUSED else "released"
                _LOG.info(f"{word} %s", Facts(task=claim.id, fence=claim.task.fence, counted=counted, because=why))
        self._returns.clear()

    def _note(self, settlement: Settlement, result: WriteResult) -> None:
        task, outcome = settlement.claim.task, settlement.outcome
        move, attempts, _ = judged(task, outcome.end_reason)
        state = "refused" if result is WriteResult.REFUSED else _STATE_AFTER[move]
        self.count[state] += 1
        about = Facts(task=task.id, fence=task.fence, end_reason=outcome.end_reason, exit_code=outcome.exit_code)
        if state == "again":
            _LOG.info("retried %s %s", about, Facts(failures=attempts, of=task.spec.most_attempts))
        else:
            _LOG.info("settled %s %s", about, Facts(result=result, state=state))

    def is_heartbeat_due(self, now: float) -> bool:
        """Whether a heartbeat is due, which prolongs the leases."""
        return now >= self._next_heartbeat

    def heartbeat(self, now: float, held: Sequence[Claim], progress: Mapping[str, float]) -> list[Claim]:
        """Prolongs the leases of what is held and of what is kept here; returns those of `held` that are another's."""
        claims = [*held, *(one.claim for one in self._ends)]
        self._next_heartbeat = now + self._lease_seconds / 3
        if not claims:
            return []
        try:
            results = self._pool.renew(claims, now_ms=self._now_ms(), progress=progress)
        except PoolFailed as error:
            _LOG.info("pool failed, heartbeat deferred %s", Facts(leases=len(claims)))
            self._tell(f"{error.message} Leases could not be prolonged; trying again.")
            self._next_heartbeat = now + min(self._lease_seconds / 10, self._pauses.next())
            return []
        # Of what has ended, `settle` is told the same.
        lost = [claim for claim, result in zip(held, results, strict=False) if result is WriteResult.REFUSED]
        _LOG.info("heartbeat %s", Facts(leases=len(claims), lost=len(lost), lease_seconds=self._lease_seconds))
        return lost

    def is_ours(self, claim: Claim) -> bool:
        """Whether a task may be published; a pool that cannot be reached does not stand in the way of a result."""
        try:
            return self._pool.renew([claim], now_ms=self._now_ms())[0] is not WriteResult.REFUSED
        except PoolFailed as error:
            self._tell(error.message)
            return True

    def finish(self, clock: Callable[[], float], wait: Callable[[float], object]) -> None:
        """Writes what is left to write, for as long as that makes sense. Raises PoolFailed."""
        deadline = clock() + LAST_SECONDS
        while not self.empty:
            now = clock()
            if not self.write(now) and now > deadline:
                raise self._last_words()
            if not self.empty:
                wait(max(0.0, min(self.due(holding=False)) - now))

    def _last_words(self) -> PoolFailed:
        """What could not be written."""
        return PoolFailed(
            f"{self._pool.name} could not be reached at the end: {len(self._ends)} ends of tasks could not be written, "
            f"{len(self._returns)} tasks not be given back. They are done again when their leases end."
        )
