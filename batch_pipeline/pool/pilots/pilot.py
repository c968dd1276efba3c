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

**Log.** A line for each decision: claimed (`claim_queue`), started, ended, settled or retried, the heartbeat
(`settlement_queue`), why the pilot stops. A pilot's life is told from its log alone.

Claims stand in `claim_queue`, what is written to the pool in `settlement_queue`, what is waited for in `event_loop`. (A
little longer than most modules: the turns of the loop and the life of a task are read together.)
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from typing import Any, Final, TypeVar

from batch_pipeline.log import Facts
from batch_pipeline.pool.base import Claim, Settlement, TaskSource
from batch_pipeline.pool.pilots.claim_queue import ClaimQueue
from batch_pipeline.pool.pilots.event_loop import EventLoop
from batch_pipeline.pool.pilots.hooks import Hooks, guarded
from batch_pipeline.pool.pilots.pilot_config import PilotConfig, PilotStats, Report
from batch_pipeline.pool.pilots.process import Commands
from batch_pipeline.pool.pilots.settlement_queue import SettlementQueue
from batch_pipeline.pool.pilots.stop_policy import RuntimeEstimator, stop_reason
from batch_pipeline.pool.pilots.task_runner import RunningTask, TaskRunner
from batch_pipeline.pool.pilots.verdict import outcome_of_error
from batch_pipeline.pool.task import TaskOutcome
from batch_pipeline.wire.contract import EndReason
from batch_pipeline.wire.errors import BatchPipelineError
from batch_pipeline.wire.store import Store

_Result = TypeVar("_Result")
_LOG: Final = logging.getLogger(__name__)


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
        self._claims = ClaimQueue(
            pool, config, self._runtimes, self._settlements, clock=clock, now_ms=now_ms, tell=tell
        )
        self._begun = 0
        self._running: list[RunningTask] = []
        #: Those whose commands have ended, to be reaped, and nothing that takes long to be done for them.
        self._just_ended: deque[RunningTask] = deque()
        self._why = ""
        self._signal = 0

    def run(self) -> Report:
        """Works until it stops; returns what it did.

        Raises
        ------
        StepFailed
            The hook `prepare_env` failed; nothing was claimed.
        PoolFailed
            The pool could not be reached at its end; what it held goes back when its lease ends.
        """
        config = self._config
        slots = Facts(owner=config.owner, native_id=config.native_id, pool=self._pool.name, slots=config.slots)
        _LOG.info("pilot began %s", slots)
        with (
            Commands.running() as commands,
            EventLoop.running(config.slots) as self._loop,
            self._set_up(commands),
        ):
            try:
                if self._hooks.prepare_env:
                    guarded(self._hooks.prepare_env)
                while self._turn():
                    self._wait()
            finally:
                if cleanup := self._hooks.cleanup_env:
                    self._runner.or_tell(lambda: guarded(cleanup))
        stats = self._stats()
        _LOG.info("pilot ended %s", Facts(owner=config.owner, **asdict(stats), because=self._why))
        return Report(stats=stats, why=self._why, signal=self._signal)

    @contextmanager
    def _set_up(self, commands: Commands) -> Iterator[None]:
        config = self._config
        environment = os.environ if config.environment is None else config.environment
        self._commands = commands
        self._runner = TaskRunner(commands, config.scratch, environment, self._open_store, self._hooks, self._tell)
        self._by_descriptor: dict[int, RunningTask] = {}
        main = threading.current_thread() is threading.main_thread()
        numbers = (signal.SIGTERM, signal.SIGINT) if main else ()
        handlers = {number: signal.signal(number, self._signalled) for number in numbers}
        try:
            yield
        finally:
            for task in (*self._running, *self._just_ended):
                if task.process is not None:
                    task.process.kill()
                    task.process.reap()
            self._loop.finish_threads()
            for number, handler in handlers.items():
                signal.signal(number, handler)
            self._runner.close()

    # The loop.

    def _turn(self) -> bool:
        """Does what is to be done now; whether there will be more."""
        self._loop.call_due()
        now = self._clock()
        self._enforce(now)
        if not self._is_limited and self._free() > 0:
            # The next commands run while the last ones are reaped and their ends written.
            self._begin(now)
        while self._just_ended:
            self._ended(self._just_ended.popleft())
        if self._settlements.write(now, enough=self._enough()):
            # What waited for these tasks can be claimed.
            self._claims.next_claim = 0.0
        if self._settlements.is_heartbeat_due(now):
            self._heartbeat(now)
        self._begin(now)
        if self._running or self._claims:
            self._busy_at = now
        if not self._why or self._running:
            return True
        self._settlements.finish(self._clock, self._loop.wait)
        return False

    def _wait(self) -> None:
        """Until something happens, or is due."""
        due = self._settlements.due(holding=bool(self._running or self._claims))
        due += [at for task in self._running for at in (task.kill_at, task.limit_at) if at is not None]
        if not self._why:
            due += [self._claims.next_claim] if self._free() > 0 else []
            due += [self._wall_at] if self._wall_at is not None else []
        timeout = max(0.0, min(due) - self._clock()) if due else None
        for descriptor in self._loop.wait(timeout):
            task = self._by_descriptor.pop(descriptor)
            if self._runner.is_over_at_once(task):
                self._running.remove(task)
                self._just_ended.append(task)
            else:
                self._ended(task)

    def _enough(self) -> int:
        """So many ends are written at once: one, unless there is other work, tasks are short and nobody counts them."""
        counted = self._config.criteria.scrubs is not None or self._hooks.stop is not None
        return max(1, min(self._config.most_ahead, self._claims.more_ahead())) if self._claims and not counted else 1

    def _begin(self, now: float) -> None:
        """Starts what it may start, claiming more as long as there is room, or little is held ahead."""
        if self._why:
            return
        while not self._must_stop():
            while self._free() > 0 and (claim := self._claims.next(self._running, now)) is not None:
                self._start(claim)
            enough = max(self._free(), (self._claims.more_ahead() + 1) // 2)
            if len(self._claims) >= enough or now < self._claims.next_claim or not self._claim(now):
                return
            now = self._clock()
        self._claims.give_back(self._why)

    def _claim(self, now: float) -> bool:
        busy = bool(self._just_ended) or not self._settlements.empty
        claimed = self._claims.fill(self._running, self._begun, now, busy=busy)
        self._stop(self._claims.nothing_left)
        return claimed

    def _must_stop(self) -> bool:
        if not self._is_limited:
            return False
        stats = self._stats()
        why = stop_reason(self._config.criteria, stats, self._begun)
        if not why and self._hooks.stop:
            try:
                why = "the hook stop said so" if guarded(self._hooks.stop, stats) else ""
            except BatchPipelineError as error:
                why = error.message
        self._stop(why)
        return bool(self._why)

    def _stop(self, why: str) -> None:
        """Begins nothing more, if there is a reason; the first one counts."""
        if why and not self._why:
            self._why = why
            _LOG.info("stopping %s", Facts(owner=self._config.owner, because=why, running=len(self._running)))

    def _stats(self) -> PilotStats:
        now = self._clock()
        idle = 0.0 if self._running or self._claims else now - self._busy_at
        return PilotStats(**self._settlements.count, seconds=now - self._born, idle_seconds=idle)

    def _free(self) -> int:
        return self._config.slots - len(self._running)

    # Runs.

    def _start(self, claim: Claim) -> None:
        task = self._runner.new(claim, self._clock())
        self._running.append(task)
        self._begun += 1
        if self._runner.needs_preparation(task):
            self._in_thread(task, partial(self._runner.prepare, task), partial(self._spawn, task))
        else:
            self._spawn(task, {})

    def _spawn(self, task: RunningTask, variables: Mapping[str, str]) -> None:
        if task.end_reason or task.lost:
            self._over(task, TaskOutcome(end_reason=EndReason.INTERRUPTED))
            return
        try:
            descriptor = self._runner.start(task, variables, self._clock()).descriptor
        except OSError as error:
            self._over(task, outcome_of_error(error, task.spec))
            return
        self._by_descriptor[descriptor] = task
        self._loop.watch(descriptor)
        _LOG.info("started %s", Facts(task=task.task.id, fence=task.task.fence))

    def _ended(self, task: RunningTask) -> None:
        """Its command has ended."""
        assert task.process is not None
        self._loop.forget(task.process.descriptor)
        outcome = self._runner.reaped(task)
        if task.end_reason is None:
            self._runtimes.took(task.spec.resource_class, self._clock() - task.began)
        if self._runner.has_outputs(task, outcome) and not task.lost:
            task.lost = not self._settlements.is_ours(task.claim)
        if task.lost or not self._runner.needs_publication(task, outcome):
            self._over(task, outcome)
        else:
            self._in_thread(task, partial(self._runner.publish, task, outcome), partial(self._over, task))

    def _in_thread(self, task: RunningTask, act: Callable[[], _Result], then: Callable[[_Result], None]) -> None:
        """Does something in a thread, and the rest in the loop; an error ends the task."""
        self._loop.in_thread(act, then, lambda error: self._over(task, outcome_of_error(error, task.spec)))

    def _over(self, task: RunningTask, outcome: TaskOutcome) -> None:
        """Nothing of it runs any more."""
        if task in self._running:
            self._running.remove(task)
        if folder := self._runner.clear(task):
            self._loop.in_background(shutil.rmtree, folder, True)
        if task.lost:
            _LOG.info("lost %s", Facts(task=task.task.id, fence=task.task.fence, because="another holds it"))
            self._settlements.count["refused"] += 1
        elif task.end_reason is EndReason.INTERRUPTED and outcome.end_reason is not EndReason.FINISHED:
            self._settlements.give_back(task.claim, task.why, counted=True)
        else:
            self._settlements.ended(Settlement(claim=task.claim, outcome=outcome), self._clock())

    def _heartbeat(self, now: float) -> None:
        """Prolongs all leases; kills what another has."""
        self._commands.reap_orphans()
        progress = {}
        for task in self._running:
            if task.process is not None and task.log.size:
                task.log.look()
                if task.log.progress is not None:
                    progress[task.task.id] = task.log.progress
                if stored := self._runner.streamed(task):
                    self._loop.in_background(stored)
        held = [*self._claims, *(task.claim for task in self._running if not task.lost)]
        for claim in self._settlements.heartbeat(now, held, progress):
            _LOG.info("lease lost, task ended %s", Facts(task=claim.id, fence=claim.task.fence))
            self._tell(f"Task {claim.id} is another's now; stopped.")
            if claim in self._claims:
                self._claims.remove(claim)
                self._settlements.count["refused"] += 1
            for task in self._running:
                if task.claim is claim:
                    task.lost = True
                    task.kill()

    # Ends.

    def _enforce(self, now: float) -> None:
        """Ends what ran too long, kills what does not end."""
        if self._wall_at is not None and now >= self._wall_at:
            self._interrupt("the pilot's wall time was over")
        for task in self._running:
            if task.kill_at is not None and now >= task.kill_at:
                _LOG.info("killed %s", Facts(task=task.task.id, grace_seconds=self._config.grace_seconds))
                task.kill()
            elif task.limit_at is not None and now >= task.limit_at:
                _LOG.info("time limit reached %s", Facts(task=task.task.id, seconds=task.spec.time_limit_seconds))
                task.end(EndReason.TIMEOUT, "", now + self._config.grace_seconds)

    def _signalled(self, number: int, _frame: Any) -> None:
        at_once = bool(self._signal)
        self._signal = self._signal or number
        why = f"the pilot was told to end by {signal.Signals(number).name}"
        self._loop.call_later(partial(self._interrupt, why, at_once=at_once))

    def _interrupt(self, why: str, *, at_once: bool = False) -> None:
        """Ends everything and gives it back."""
        self._stop(why)
        self._claims.give_back(why)
        for task in self._running:
            task.end(EndReason.INTERRUPTED, why, self._clock() + self._config.grace_seconds)
            if at_once:
                task.kill()
