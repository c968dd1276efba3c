"""What a pilot has claimed and not begun, and what it claims next: how much, and of which resource classes.

Of short tasks it claims some ahead of its slots, so that they do not cost a claim each. A claim that finds nothing is
tried again with exponential backoff. Leases that are over are reaped on the way, four times in the time of a lease.
"""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from batch_pipeline.log import Facts
from batch_pipeline.pool.base import Claim, TaskSource
from batch_pipeline.pool.pilots.pilot_config import PilotConfig, Until
from batch_pipeline.pool.pilots.settlement_queue import SettlementQueue
from batch_pipeline.pool.pilots.stop_policy import Pauses, RuntimeEstimator
from batch_pipeline.pool.pilots.task_runner import RunningTask, item_of
from batch_pipeline.pool.task import TaskState
from batch_pipeline.wire.errors import PoolFailed

#: Seconds of work that a pilot claims ahead of its slots, if its tasks are that short.
AHEAD_SECONDS: Final = 0.25
_TOO_LATE: Final = "it would most likely end after the pilot's wall time"
_LOG: Final = logging.getLogger(__name__)


class ClaimQueue:
    """See the module. `running`, of its methods, are the tasks that the pilot runs."""

    def __init__(
        self,
        pool: TaskSource,
        config: PilotConfig,
        runtimes: RuntimeEstimator,
        settlements: SettlementQueue,
        *,
        clock: Callable[[], float],
        now_ms: Callable[[], int],
        tell: Callable[[str], None],
    ) -> None:
        self._pool = pool
        self._config = config
        self._runtimes = runtimes
        self._settlements = settlements
        self._clock = clock
        self._now_ms = now_ms
        self._tell = tell
        self._pauses = Pauses(config.longest_pause)
        self._claims: deque[Claim] = deque()
        #: Classes whose tasks would end after the wall time.
        self._unfit: set[str] = set()
        self._next_reap = 0.0
        #: When the pool may be asked again.
        self.next_claim = 0.0
        #: Why there will be nothing more for this pilot; empty: there may be.
        self.nothing_left = ""

    def __len__(self) -> int:
        return len(self._claims)

    def __iter__(self) -> Iterator[Claim]:
        return iter(self._claims)

    def remove(self, claim: Claim) -> None:
        """Forgets a claim: another has the task."""
        self._claims.remove(claim)

    def give_back(self, why: str) -> None:
        """Gives back all that was not begun."""
        while self._claims:
            self._settlements.give_back(self._claims.popleft(), why, counted=False)

    def next(self, running: Sequence[RunningTask], now: float) -> Claim | None:
        """The next task to begin; those that would end too late are given back."""
        if not self._claims:
            return None
        config = self._config
        if not running and not config.class_slots and config.criteria.wall_seconds is None:
            return self._claims.popleft()
        running_of_class = _by_class(running)
        items = Counter(item_of(task.spec) for task in running)
        second: Claim | None = None
        for claim in list(self._claims):
            spec = claim.task.spec
            if not self._runtimes.fits(spec.resource_class, now, spec.time_limit_seconds):
                self._defer(claim)
            elif running_of_class[spec.resource_class] < config.class_slots.get(spec.resource_class, config.slots):
                item = item_of(spec)
                if items[item] < config.nests and (items[item] or len(+items) < config.items):
                    self._claims.remove(claim)
                    return claim
                second = second or claim
        if second is not None:
            self._claims.remove(second)
        return second

    def _defer(self, claim: Claim) -> None:
        _LOG.info("deferred %s", Facts(task=claim.id, fence=claim.task.fence, because=_TOO_LATE))
        self._unfit.add(claim.task.spec.resource_class)
        self._claims.remove(claim)
        self._settlements.give_back(claim, _TOO_LATE, counted=False)

    def fill(self, running: Sequence[RunningTask], begun: int, now: float, *, busy: bool) -> bool:
        """Claims for the free slots and a little ahead; whether there was something. `busy`: ends are to be written."""
        count = self._config.slots - len(running) - len(self._claims) + self.more_ahead()
        if self._config.criteria.tasks is not None:
            count = min(count, self._config.criteria.tasks - begun - len(self._claims))
        if count <= 0:
            return False
        claims: list[Claim] = []
        try:
            self._reap(now)
            classes = self._classes(running)
            if classes is None or classes:
                claims = self._claim(count, classes)
            if not claims and not (running or self._claims or busy):
                self.nothing_left = self._why_nothing_left(classes)
        except PoolFailed as error:
            _LOG.info("pool failed, claim deferred %s", Facts(pool=self._pool.name, transient=error.transient))
            self._tell(f"{error.message} Trying again.")
        if claims:
            self._settlements.claimed(now, first=not running and not self._claims)
            self._pauses.reset()
        else:
            pause = self._pauses.next()
            self.next_claim = self._clock() + pause
            _LOG.debug("nothing claimed %s", Facts(next_claim_in_seconds=round(pause, 3)))
        self._claims.extend(claims)
        return bool(claims)

    def _claim(self, count: int, classes: frozenset[str] | None) -> list[Claim]:
        config = self._config
        lease_ms, now_ms = int(config.lease_seconds * 1000), self._now_ms()
        claims = self._pool.claim(
            config.owner, count, lease_ms=lease_ms, now_ms=now_ms, classes=classes, native_id=config.native_id
        )
        for claim in claims:
            task = claim.task
            attempt = task.attempts + task.returns + 1
            about = Facts(task=task.id, fence=task.fence, attempt=attempt, resource_class=task.spec.resource_class)
            _LOG.info("claimed %s", about)
        return claims

    def more_ahead(self) -> int:
        """How many more than it can begin, so that short tasks do not cost a claim each."""
        mean = self._runtimes.mean()
        if mean is None:
            return 0
        return min(self._config.most_ahead, int(AHEAD_SECONDS * self._config.slots / max(mean, 1e-4)))

    def _classes(self, running: Sequence[RunningTask]) -> frozenset[str] | None:
        """The classes of which it could begin a task; None: all."""
        held = _by_class(running) + Counter(claim.task.spec.resource_class for claim in self._claims)
        full = {name for name, most in self._config.class_slots.items() if held[name] >= most} | self._unfit
        if not full:
            return self._config.classes
        known = self._config.classes if self._config.classes is not None else self._pool.counts().by_class
        return frozenset(known) - full

    def _why_nothing_left(self, classes: frozenset[str] | None) -> str:
        """Why there will be nothing more for it; empty: there may be."""
        too_late = "no task would end before its wall time"
        if self._unfit and not classes:
            return too_late
        until = self._config.criteria.until
        if until is Until.ENDLESS:
            return ""
        counts = self._pool.counts()
        todo, held, waiting = (
            counts.of(state, classes) for state in (TaskState.TODO, TaskState.HELD, TaskState.WAITING)
        )
        moving = counts.of(TaskState.TODO) + counts.of(TaskState.HELD)
        if todo or (held and until is Until.SETTLED) or (waiting and moving):
            return ""
        if waiting and self._pool.sweep(now_ms=self._now_ms()):
            return ""
        return too_late if counts.of(TaskState.TODO, self._unfit) else "nothing is left to do"

    def _reap(self, now: float) -> None:
        if now < self._next_reap:
            return
        self._next_reap = now + self._config.lease_seconds / 4
        expired_ids = self._pool.reap(now_ms=self._now_ms())
        for task_id in expired_ids:
            _LOG.info("lease expired, task reaped %s", Facts(task=task_id))
        if expired_ids:
            self._tell(f"Took {len(expired_ids)} tasks back from pilots that were not heard of.")


def _by_class(running: Sequence[RunningTask]) -> Counter[str]:
    return Counter(task.spec.resource_class for task in running)
