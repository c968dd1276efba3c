"""A pilot: claims tasks, runs their commands, settles them, until nothing is left or a criterion ends it.

One loop, in one thread, owns the claims: it starts commands, hears of their ends, prolongs leases, enforces limits and
writes to the pool. What may take long otherwise (files, whole logs, a user's hooks) is done by threads that only tell
the loop. It waits for events, not for fixed times.

**Slots.** `items` times `nests` commands at once. While there is a choice, at most `items` items run at the same time
and at most `nests` sub-tasks of each; a slot is not left empty for that. `class_slots` bounds a class for good.

**Leases.** They are prolonged when a third of them is over. A refused write means that another has the task: its
command is killed, nothing of it is published or settled. While the pool cannot be reached, commands go on and their
ends are kept; the fencing number has a late one refused.

**Signals.** TERM and INT: what is not begun is given back at once, what runs is ended (TERM, then KILL after
`grace_seconds`) and given back, counted as a return and not as a failure. A second signal kills at once.

(Longer than most modules: it is one state machine, and its states are read together.)
"""

from __future__ import annotations

import os
import select
import shutil
import signal
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any

from batch_pipeline.pool.base import Claim, Settlement, TaskSource
from batch_pipeline.pool.pilots.hooks import Hooks, guarded
from batch_pipeline.pool.pilots.pilot_config import PilotConfig, PilotStats, Report, Until
from batch_pipeline.pool.pilots.process import Commands
from batch_pipeline.pool.pilots.settlement_queue import SettlementQueue
from batch_pipeline.pool.pilots.stop_policy import Pauses, RuntimeEstimator, stop_reason
from batch_pipeline.pool.pilots.task_runner import RunningTask, TaskRunner, item_of
from batch_pipeline.pool.pilots.verdict import outcome_of_error
from batch_pipeline.pool.task import TaskOutcome, TaskState
from batch_pipeline.wire.contract import EndReason
from batch_pipeline.wire.errors import BatchPipelineError, PoolFailed
from batch_pipeline.wire.store import Store

#: Seconds of work that a pilot claims ahead of its slots, if its tasks are that short.
AHEAD_SECONDS = 0.25


class Pilot:
    """See the module. `store` opens where whole logs and files go, when there are some; None: no such place."""

    def __init__(
        self,
        pool: TaskSource,
        config: PilotConfig,
        *,
        store: Callable[[], Store] | None = None,
        hooks: Hooks | None = None,
        tell: Callable[[str], None] = lambda sentence: None,
        clock: Callable[[], float] = time.monotonic,
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self._pool = pool
        self._config = config
        self._open_store = store
        self._hooks = hooks or Hooks()
        self._tell = tell
        self._clock = clock
        self._now_ms = now_ms
        self._born = self._busy_at = clock()
        wall = config.criteria.wall_seconds
        self._wall_at = None if wall is None else self._born + wall
        self._runtimes = RuntimeEstimator(self._wall_at)
        #: Whether what is begun next may depend on how the last ones ended.
        self._is_limited = config.criteria.any or self._hooks.stop is not None
        self._settlements = SettlementQueue(pool, config.lease_seconds, now_ms, tell)
        self._pauses = Pauses(config.longest_pause)
        self._begun = 0
        #: Claimed and not begun.
        self._ahead: deque[Claim] = deque()
        self._running: list[RunningTask] = []
        #: Those whose commands have ended, to be reaped, and nothing that takes long to be done for them.
        self._just_ended: deque[RunningTask] = deque()
        #: Classes whose tasks would end after the wall time.
        self._unfit: set[str] = set()
        self._next_claim = self._next_reap = 0.0
        self._why = ""
        self._signal = 0
        self._from_elsewhere: deque[Callable[[], None]] = deque()

    def run(self) -> Report:
        """Works until it stops; returns what it did.

        Raises
        ------
        StepFailed
            The hook `prepare_env` failed; nothing was claimed.
        PoolFailed
            The pool could not be reached at its end; what it held goes back when its lease ends.
        """
        with Commands.running() as self._commands, self._set_up():
            try:
                if self._hooks.prepare_env:
                    guarded(self._hooks.prepare_env)
                while self._turn():
                    self._wait()
            finally:
                if cleanup := self._hooks.cleanup_env:
                    self._runner.or_tell(lambda: guarded(cleanup))
        return Report(stats=self._stats(), why=self._why, signal=self._signal)

    @contextmanager
    def _set_up(self) -> Iterator[None]:
        config = self._config
        environment = os.environ if config.environment is None else config.environment
        self._runner = TaskRunner(
            self._commands, config.scratch, environment, self._open_store, self._hooks, self._tell
        )
        self._threads = ThreadPoolExecutor(max_workers=config.slots, thread_name_prefix="pilot")
        self._events = select.epoll()
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._events.register(self._wake, select.EPOLLIN)
        self._by_descriptor: dict[int, RunningTask] = {}
        main = threading.current_thread() is threading.main_thread()
        numbers = (signal.SIGTERM, signal.SIGINT) if main else ()
        handlers = {number: signal.signal(number, self._signalled) for number in numbers}
        try:
            yield
        finally:
            for running in (*self._running, *self._just_ended):
                if running.process is not None:
                    running.process.kill()
                    running.process.reap()
            self._threads.shutdown(wait=True, cancel_futures=True)
            for number, handler in handlers.items():
                signal.signal(number, handler)
            self._runner.close()
            self._events.close()
            os.close(self._wake)

    # The loop.

    def _turn(self) -> bool:
        """Does what is to be done now; whether there will be more."""
        while self._from_elsewhere:
            self._from_elsewhere.popleft()()
        now = self._clock()
        self._enforce(now)
        if not self._is_limited and self._free() > 0:
            # The next commands run while the last ones are reaped and their ends written.
            self._begin(now)
        while self._just_ended:
            self._ended(self._just_ended.popleft())
        if self._settlements.write(now, enough=self._enough()):
            # What waited for these tasks can be claimed.
            self._next_claim = 0.0
        if self._settlements.is_heartbeat_due(now):
            self._heartbeat(now)
        self._begin(now)
        if self._running or self._ahead:
            self._busy_at = now
        if not self._why or self._running:
            return True
        self._settlements.finish(self._clock, self._events.poll)
        return False

    def _wait(self) -> None:
        """Until something happens, or is due."""
        due = self._settlements.due(holding=bool(self._running or self._ahead))
        due += [at for running in self._running for at in (running.kill_at, running.limit_at) if at is not None]
        if not self._why:
            due += [self._next_claim] if self._free() > 0 else []
            due += [self._wall_at] if self._wall_at is not None else []
        timeout = max(0.0, min(due) - self._clock()) if due else None
        for descriptor, _ in self._events.poll(timeout):
            if descriptor == self._wake:
                os.eventfd_read(self._wake)
            else:
                running = self._by_descriptor.pop(descriptor)
                if self._runner.is_over_at_once(running):
                    self._running.remove(running)
                    self._just_ended.append(running)
                else:
                    self._ended(running)

    def _later(self, act: Callable[[], None]) -> None:
        """Has the loop do something; from any thread, or a signal's handler."""
        self._from_elsewhere.append(act)
        os.eventfd_write(self._wake, 1)

    def _enough(self) -> int:
        """So many ends are written at once: one, unless there is other work, tasks are short and nobody counts them."""
        counted = self._config.criteria.scrubs is not None or self._hooks.stop is not None
        return max(1, min(self._config.most_ahead, self._more_ahead())) if self._ahead and not counted else 1

    # Claims.

    def _begin(self, now: float) -> None:
        """Starts what it may start, claiming more as long as there is room, or little is held ahead."""
        if self._why:
            return
        while not self._stops():
            while self._free() > 0 and (claim := self._pick(now)) is not None:
                self._start(claim)
            enough = max(self._free(), (self._more_ahead() + 1) // 2)
            if len(self._ahead) >= enough or now < self._next_claim or not self._claim(now):
                return
            now = self._clock()
        self._give_ahead_back(self._why)

    def _stops(self) -> bool:
        if not self._is_limited:
            return False
        stats = self._stats()
        self._why = stop_reason(self._config.criteria, stats, self._begun)
        if not self._why and self._hooks.stop:
            try:
                self._why = "the hook stop said so" if guarded(self._hooks.stop, stats) else ""
            except BatchPipelineError as error:
                self._why = error.message
        return bool(self._why)

    def _stats(self) -> PilotStats:
        now = self._clock()
        idle = 0.0 if self._running or self._ahead else now - self._busy_at
        return PilotStats(**self._settlements.count, seconds=now - self._born, idle_seconds=idle)

    def _free(self) -> int:
        return self._config.slots - len(self._running)

    def _pick(self, now: float) -> Claim | None:
        """The next task to begin, of those that are held; those that would end too late are given back."""
        if not self._ahead:
            return None
        config = self._config
        if not self._running and not config.class_slots and self._wall_at is None:
            return self._ahead.popleft()
        running = self._running_by_class()
        items = Counter(item_of(running.spec) for running in self._running)
        second: Claim | None = None
        for claim in list(self._ahead):
            spec = claim.task.spec
            if not self._runtimes.fits(spec.resource_class, now, spec.time_limit_seconds):
                self._unfit.add(spec.resource_class)
                self._ahead.remove(claim)
                self._settlements.give_back(
                    claim, "it would most likely end after the pilot's wall time", counted=False
                )
            elif running[spec.resource_class] < config.class_slots.get(spec.resource_class, config.slots):
                group = item_of(spec)
                if items[group] < config.nests and (items[group] or len(+items) < config.items):
                    self._ahead.remove(claim)
                    return claim
                second = second or claim
        if second is not None:
            self._ahead.remove(second)
        return second

    def _running_by_class(self) -> Counter[str]:
        return Counter(running.spec.resource_class for running in self._running)

    def _claim(self, now: float) -> bool:
        """Claims for the free slots and a little ahead; whether there was something."""
        count = self._free() - len(self._ahead) + self._more_ahead()
        if self._config.criteria.tasks is not None:
            count = min(count, self._config.criteria.tasks - self._begun - len(self._ahead))
        if count <= 0:
            return False
        claims: list[Claim] = []
        try:
            self._reap(now)
            classes = self._classes()
            if classes is None or classes:
                claims = self._claimed(count, classes)
            busy = self._running or self._ahead or self._just_ended or not self._settlements.empty
            if not claims and not busy:
                self._why = self._nothing_left(classes)
        except PoolFailed as error:
            self._tell(f"{error.message} Trying again.")
        if claims:
            self._settlements.claimed(now, first=not self._running and not self._ahead)
            self._pauses.reset()
        else:
            self._next_claim = self._clock() + self._pauses.next()
        self._ahead.extend(claims)
        return bool(claims)

    def _claimed(self, count: int, classes: frozenset[str] | None) -> list[Claim]:
        owner, native_id = self._config.owner, self._config.native_id
        lease_ms, now_ms = int(self._config.lease_seconds * 1000), self._now_ms()
        return self._pool.claim(owner, count, lease_ms=lease_ms, now_ms=now_ms, classes=classes, native_id=native_id)

    def _more_ahead(self) -> int:
        """How many more than it can begin, so that short tasks do not cost a claim each."""
        mean = self._runtimes.mean()
        if mean is None:
            return 0
        return min(self._config.most_ahead, int(AHEAD_SECONDS * self._config.slots / max(mean, 1e-4)))

    def _classes(self) -> frozenset[str] | None:
        """The classes of which it could begin a task; None: all."""
        held = self._running_by_class() + Counter(claim.task.spec.resource_class for claim in self._ahead)
        full = {name for name, most in self._config.class_slots.items() if held[name] >= most} | self._unfit
        if not full:
            return self._config.classes
        known = self._config.classes if self._config.classes is not None else self._pool.counts().by_class
        return frozenset(known) - full

    def _nothing_left(self, classes: frozenset[str] | None) -> str:
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
        if now >= self._next_reap:
            self._next_reap = now + self._config.lease_seconds / 4
            if expired_ids := self._pool.reap(now_ms=self._now_ms()):
                self._tell(f"Took {len(expired_ids)} tasks back from pilots that were not heard of.")

    # Runs.

    def _start(self, claim: Claim) -> None:
        running = self._runner.new(claim, self._clock())
        self._running.append(running)
        self._begun += 1
        if self._runner.needs_preparation(running):
            self._in_thread(running, partial(self._runner.prepare, running), self._spawn)
        else:
            self._spawn(running, {})

    def _spawn(self, running: RunningTask, variables: Mapping[str, str]) -> None:
        if running.end_reason or running.lost:
            self._over(running, TaskOutcome(end_reason=EndReason.INTERRUPTED))
            return
        try:
            descriptor = self._runner.start(running, variables, self._clock()).descriptor
        except OSError as error:
            self._over(running, outcome_of_error(error, running.spec))
            return
        self._by_descriptor[descriptor] = running
        self._events.register(descriptor, select.EPOLLIN)

    def _ended(self, running: RunningTask) -> None:
        """Its command has ended."""
        assert running.process is not None
        self._events.unregister(running.process.descriptor)
        outcome = self._runner.reaped(running)
        if running.end_reason is None:
            self._runtimes.took(running.spec.resource_class, self._clock() - running.began)
        if self._runner.has_outputs(running, outcome) and not running.lost:
            running.lost = not self._settlements.is_ours(running.claim)
        if running.lost or not self._runner.needs_publication(running, outcome):
            self._over(running, outcome)
        else:
            self._in_thread(running, partial(self._runner.publish, running, outcome), self._over)

    def _in_thread(
        self, running: RunningTask, act: Callable[[], Any], then: Callable[[RunningTask, Any], None]
    ) -> None:
        """Does something in a thread, and the rest in the loop; an error ends the task."""

        def work() -> None:
            try:
                result = act()
            except (BatchPipelineError, OSError) as error:
                outcome = outcome_of_error(error, running.spec)
                self._later(lambda: self._over(running, outcome))
            else:
                self._later(lambda: then(running, result))

        self._threads.submit(work)

    def _over(self, running: RunningTask, outcome: TaskOutcome) -> None:
        """Nothing of it runs any more."""
        if running in self._running:
            self._running.remove(running)
        if folder := self._runner.clear(running):
            self._threads.submit(shutil.rmtree, folder, True)
        if running.lost:
            self._settlements.count["refused"] += 1
        elif running.end_reason is EndReason.INTERRUPTED and outcome.end_reason is not EndReason.FINISHED:
            self._settlements.give_back(running.claim, running.why, counted=True)
        else:
            self._settlements.ended(Settlement(claim=running.claim, outcome=outcome), self._clock())

    def _heartbeat(self, now: float) -> None:
        """Prolongs all leases; kills what another has."""
        self._commands.reap_orphans()
        progress = {}
        for running in self._running:
            if running.process is not None and running.log.size:
                running.log.look()
                if running.log.progress is not None:
                    progress[running.task.id] = running.log.progress
                if stored := self._runner.streamed(running):
                    self._threads.submit(stored)
        held = [*self._ahead, *(running.claim for running in self._running if not running.lost)]
        for claim in self._settlements.heartbeat(now, held, progress):
            self._tell(f"Task {claim.id} is another's now; stopped.")
            if claim in self._ahead:
                self._ahead.remove(claim)
                self._settlements.count["refused"] += 1
            for running in self._running:
                if running.claim is claim:
                    running.lost = True
                    running.kill()

    # Ends.

    def _enforce(self, now: float) -> None:
        """Ends what ran too long, kills what does not end."""
        if self._wall_at is not None and now >= self._wall_at:
            self._interrupt("the pilot's wall time was over")
        for running in self._running:
            if running.kill_at is not None and now >= running.kill_at:
                running.kill()
            elif running.limit_at is not None and now >= running.limit_at:
                running.end(EndReason.TIMEOUT, "", now + self._config.grace_seconds)

    def _signalled(self, number: int, _frame: Any) -> None:
        at_once = bool(self._signal)
        self._signal = self._signal or number
        why = f"the pilot was told to end by {signal.Signals(number).name}"
        self._later(partial(self._interrupt, why, at_once=at_once))

    def _interrupt(self, why: str, *, at_once: bool = False) -> None:
        """Ends everything and gives it back."""
        self._why = self._why or why
        self._give_ahead_back(why)
        for running in self._running:
            running.end(EndReason.INTERRUPTED, why, self._clock() + self._config.grace_seconds)
            if at_once:
                running.kill()

    def _give_ahead_back(self, why: str) -> None:
        while self._ahead:
            self._settlements.give_back(self._ahead.popleft(), why, counted=False)
