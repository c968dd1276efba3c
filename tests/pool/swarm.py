"""Real processes that drain a pool, and what is done to them: killed, stopped and woken, with clocks that are wrong.

For every store: `Swarm` takes a function that opens the pool, which is called in each process.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path

from batch_pipeline.pool.base import Claim, Filter, PoolStore, Settlement, WriteResult
from batch_pipeline.pool.task import Move, TaskOutcome, TaskSpec, TaskState
from batch_pipeline.wire.contract import EndReason
from batch_pipeline.wire.errors import PoolFailed

_FINE = TaskOutcome(end_reason=EndReason.FINISHED, exit_code=0)
#: Tasks a claim.
COUNT = 10
#: Claims that a pilot lives to see which is doomed.
MOST_CLAIMS = 10
#: Where so long nothing was to be done or held, and not all is done, tasks are lost. Reapers come every quarter lease.
STALL_SECONDS = 60.0


@dataclass(kw_only=True)
class Swarm:
    """Pilots as processes. Each writes a line for every task that it settled, and how that was answered."""

    opened: Callable[[], PoolStore]
    folder: Path
    size: int
    lease_ms: int
    #: Each pilot's clock is wrong by up to this.
    skew_ms: int = 0
    seed: int = 1
    #: So many pilots, those started first, kill themselves within `MOST_CLAIMS` claims, with tasks in their hands.
    doomed: int = 0
    pilots: list[BaseProcess] = field(default_factory=list)
    started: int = 0
    killed: int = 0

    def fill(self, count: int) -> None:
        """Adds tasks; every tenth waits for the one before."""
        store = self.opened()
        after = {number: (f"t{number - 1}",) for number in range(9, count, 10)}
        specs = (
            TaskSpec(id=f"t{n}", command=("true",), after=after.get(n, ()), most_returns=1000) for n in range(count)
        )
        store.add(specs, now_ms=now_ms())
        store.close()

    def start(self) -> None:
        """Starts one more pilot. Forked: it has no connection yet, and imports nothing."""
        self.started += 1
        pilot = multiprocessing.get_context("fork").Process(target=self._live, args=(self.started,))
        pilot.start()
        self.pilots.append(pilot)

    def _live(self, number: int) -> None:
        chance = random.Random(self.seed * 1000 + number)
        skew = chance.randint(-self.skew_ms, self.skew_ms)
        claims_left = chance.randint(1, MOST_CLAIMS) if number <= self.doomed else -1
        store = self.opened()
        next_reap = moving_at = time.monotonic()
        with (self.folder / f"pilot-{number}").open("a", buffering=1) as told:
            while True:
                # As the pilot does: what could not be claimed is claimed by another, what has ended is written again.
                # But it does not sweep when nothing moves, so that nothing is overlooked that reaping leaves undone.
                claims: list[Claim] = []
                with suppress(PoolFailed):
                    if time.monotonic() >= next_reap:
                        next_reap = time.monotonic() + self.lease_ms / 4000
                        store.reap(now_ms=now_ms() + skew)
                    claims = store.claim(f"pilot-{number}", COUNT, lease_ms=self.lease_ms, now_ms=now_ms() + skew)
                    counts = None if claims else store.counts()
                    if counts and counts.of(TaskState.DONE) == counts.total:
                        return
                    if counts is None or counts.of(TaskState.TODO) or counts.of(TaskState.HELD):
                        moving_at = time.monotonic()
                assert time.monotonic() - moving_at < STALL_SECONDS, f"Tasks wait for nothing: {counts}"
                if not claims:
                    time.sleep(0.2 * chance.random())
                claims_left -= bool(claims)
                if claims_left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                ends = [Settlement(claim=claim, outcome=_FINE) for claim in claims]
                answers: list[WriteResult] = []
                while len(answers) < len(ends):
                    with suppress(PoolFailed):
                        answers = store.settle(ends, now_ms=now_ms() + skew)
                        break
                    time.sleep(0.2 * chance.random())
                for claim, answer in zip(claims, answers, strict=True):
                    told.write(f"{claim.id} {answer.value}\n")

    def harass(self, *, seconds_between: float, most_kills: int) -> None:
        """Kills and stops pilots at random until all is done; each that was killed has a successor."""
        chance = random.Random(self.seed)
        stopped: list[tuple[float, BaseProcess]] = []
        while self.living():
            time.sleep(seconds_between * chance.random())
            while stopped and stopped[0][0] < time.monotonic():
                _send(stopped.pop(0)[1], signal.SIGCONT)
            if self.killed >= most_kills:
                continue
            victim = chance.choice(self.pilots)
            if chance.random() < 0.3:
                _send(victim, signal.SIGSTOP)
                stopped.append((time.monotonic() + 2 * self.lease_ms / 1000, victim))
            else:
                _send(victim, signal.SIGKILL)

    def living(self) -> list[BaseProcess]:
        """The pilots, those that were killed replaced; those that found nothing left are gone."""
        for pilot in list(self.pilots):
            if not pilot.is_alive():
                self.pilots.remove(pilot)
                if pilot.exitcode == -signal.SIGKILL:
                    self.killed += 1
                    self.start()
                elif pilot.exitcode:
                    raise AssertionError(f"{pilot.name} ended with {pilot.exitcode}.")
        return self.pilots

    def run(self, *, seconds_between: float, most_kills: int) -> None:
        """Drains the pool under harassment; leaves no process behind."""
        self.doomed = most_kills
        try:
            for _ in range(self.size):
                self.start()
            self.harass(seconds_between=seconds_between, most_kills=most_kills)
        finally:
            for pilot in self.pilots:
                pilot.kill()
                pilot.join()

    def answers(self) -> Counter[tuple[str, WriteResult]]:
        """How often each task was answered how. A pilot that was killed may not have written its last line."""
        lines = [line.split() for file in self.folder.glob("pilot-*") for line in file.read_text().splitlines()]
        return Counter((words[0], WriteResult(words[1])) for words in lines if len(words) == 2)

    def check(self, count: int) -> None:
        """Each task settled exactly once and none was lost, by the store's own word and by the pilots'."""
        store = self.opened()
        counts = store.counts()
        assert (counts.total, counts.of(TaskState.DONE)) == (count, count)
        ends = Counter(event.task_id for event in store.events() if event.move is Move.DONE)
        assert len(ends) == count
        assert set(ends.values()) == {1}
        assert store.find(Filter(states=frozenset({TaskState.HELD}))).tasks == ()
        accepted = Counter(
            name for (name, answer), n in self.answers().items() if answer is WriteResult.ACCEPTED for _ in range(n)
        )
        twice = {name: list(store.events(task_id=name)) for name, number in accepted.items() if number > 1}
        assert not twice, twice
        store.close()


def now_ms() -> int:
    """The time of this host."""
    return time.time_ns() // 1_000_000


def _send(pilot: BaseProcess, number: signal.Signals) -> None:
    if pilot.pid is not None and pilot.is_alive():
        os.kill(pilot.pid, number)
