"""The protocol of a pool under random interleavings: pilots with wrong clocks that stall, die and wake up again.

A claim that nobody takes care of any more is kept: its pilot may wake up at any time and write. Whatever happens, each
task settles once, none is lost, and who was fenced off is refused.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack, suppress
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)

from batch_pipeline.pool.base import Claim, Filter, PoolStore, Settlement, WriteResult
from batch_pipeline.pool.stores.memory import MemoryStore
from batch_pipeline.pool.stores.sqlite.store import SqliteStore
from batch_pipeline.pool.task import Action, Move, TaskEvent, TaskOutcome, TaskSpec, TaskState
from batch_pipeline.wire.contract import EndReason
from tests.examples import examples
from tests.pool.interrupted import Killed, die, interrupted

pytestmark = pytest.mark.properties

LEASE_MS = 1000
#: By how much each pilot's clock is wrong: more than a lease lasts, in both directions.
SKEWS_MS = (0, -3 * LEASE_MS, 5 * LEASE_MS)
NAMES = tuple(f"t{number}" for number in range(6))
ENDS = (EndReason.FINISHED, EndReason.STEP_FAILED, EndReason.INTERRUPTED)
#: Moves that end a claim by its holder's own word.
SETTLED = (Move.DONE, Move.FAILED, Move.AGAIN)


def spec_of(name: str) -> TaskSpec:
    """Task 4 waits for 0 and 1, task 5 for 4."""
    after = {"t4": ("t0", "t1"), "t5": ("t4",)}.get(name, ())
    return TaskSpec(id=name, command=("true",), after=after, most_attempts=2, priority=int(name[1]) % 3)


class Protocol(RuleBasedStateMachine):
    """Everything that may happen to a pool, in any order."""

    claims = Bundle("claims")
    pilots = st.sampled_from(range(len(SKEWS_MS)))
    some_names = st.frozensets(st.sampled_from(NAMES), min_size=1)
    some_calls = st.integers(0, 8)

    def __init__(self) -> None:
        super().__init__()
        self.stack = ExitStack()
        self.pool = self.opened()
        self.now_ms = 10 * LEASE_MS
        self.acts = 0
        #: What was accepted, by task and fencing number.
        self.accepted: Counter[tuple[str, int]] = Counter()
        self.fences: dict[str, int] = {}

    def opened(self) -> PoolStore:
        return MemoryStore()

    def teardown(self) -> None:
        try:
            self.drain()
        finally:
            self.stack.close()

    def clock(self, pilot: int) -> int:
        return self.now_ms + SKEWS_MS[pilot]

    def add_these(self, names: frozenset[str]) -> None:
        report = self.pool.add([spec_of(name) for name in sorted(names)], now_ms=self.now_ms)
        assert report.added + report.unchanged == len(names)

    @rule(names=some_names)
    def add(self, names: frozenset[str]) -> None:
        self.add_these(names)

    @rule(milliseconds=st.sampled_from((1, LEASE_MS // 2, LEASE_MS, 4 * LEASE_MS)))
    def wait(self, milliseconds: int) -> None:
        self.now_ms += milliseconds

    @rule(target=claims, pilot=pilots, count=st.integers(1, 4))
    def claim(self, pilot: int, count: int) -> object:
        held = self.pool.claim(f"pilot-{pilot}", count, lease_ms=LEASE_MS, now_ms=self.clock(pilot))
        for one in held:
            assert one.task.fence > self.fences.get(one.id, 0)
            self.fences[one.id] = one.task.fence
        return multiple(*held)

    @rule(held=claims, pilot=pilots, progress=st.none() | st.floats(0, 1))
    def renew(self, held: Claim, pilot: int, progress: float | None) -> None:
        told = {} if progress is None else {held.id: progress}
        self.check(held, self.pool.renew([held], now_ms=self.clock(pilot), progress=told)[0])

    @rule(held=claims, end=st.sampled_from(ENDS))
    def settle_and_forget_that_it_was_answered(self, held: Claim, end: EndReason) -> None:
        """The claim stays: the same, or another, end may be sent again."""
        self.settle(held, end)

    @rule(held=consumes(claims), end=st.sampled_from(ENDS))
    def settle_for_good(self, held: Claim, end: EndReason) -> None:
        self.settle(held, end)

    def settle(self, held: Claim, end: EndReason) -> None:
        outcome = TaskOutcome(end_reason=end, exit_code=0 if end is EndReason.FINISHED else 1)
        stands = self.stands(held)
        [answer] = self.pool.settle([Settlement(claim=held, outcome=outcome)], now_ms=self.now_ms)
        assert (answer is WriteResult.ACCEPTED) == stands
        self.accepted[held.id, held.task.fence] += answer is WriteResult.ACCEPTED

    @rule(held=claims, counted=st.booleans())
    def release(self, held: Claim, counted: bool) -> None:
        self.check(held, self.pool.release([held], now_ms=self.now_ms, why="told to", counted=counted)[0])

    def stands(self, held: Claim) -> bool:
        """Whether a claim is the task's present one, by what the store says."""
        task = self.pool.get(held.id)
        return task is not None and (task.state, task.fence) == (TaskState.HELD, held.task.fence)

    def check(self, held: Claim, answer: WriteResult) -> None:
        """What is accepted was the newest claim's."""
        if answer is WriteResult.ACCEPTED:
            assert held.task.fence == self.fences[held.id]

    @rule(pilot=pilots)
    def reap(self, pilot: int) -> None:
        for name in self.pool.reap(now_ms=self.clock(pilot)):
            task = self.pool.get(name)
            assert task is not None
            assert task.state is not TaskState.HELD

    @rule(names=some_names, action=st.sampled_from(Action), force=st.booleans(), dry_run=st.booleans())
    def act(self, names: frozenset[str], action: Action, force: bool, dry_run: bool) -> None:
        self.acts += 1
        live = {name for name in names if (task := self.pool.get(name)) and task.is_live(self.now_ms)}
        report = self.pool.move(
            Filter(ids=names), action, now_ms=self.now_ms, act=f"act-{self.acts}", force=force, dry_run=dry_run
        )
        assert force or live.isdisjoint(report.moved_ids)

    @rule(back=st.integers(0, 2))
    def undo(self, back: int) -> None:
        self.pool.undo(f"act-{self.acts - back}", now_ms=self.now_ms)

    @rule(held=consumes(claims), end=st.sampled_from(ENDS), calls=some_calls)
    def die_while_it_settles(self, held: Claim, end: EndReason, calls: int) -> None:
        settlement = Settlement(claim=held, outcome=TaskOutcome(end_reason=end))
        self.die(calls, lambda pool: pool.settle([settlement], now_ms=self.now_ms))

    @rule(names=some_names, calls=some_calls)
    def die_while_it_adds(self, names: frozenset[str], calls: int) -> None:
        specs = [spec_of(name) for name in sorted(names)]
        self.die(calls, lambda pool: pool.add(specs, now_ms=self.now_ms))

    @rule(names=some_names, action=st.sampled_from(Action), calls=some_calls)
    def die_while_it_acts(self, names: frozenset[str], action: Action, calls: int) -> None:
        wanted = Filter(ids=names)
        self.die(calls, lambda pool: pool.move(wanted, action, now_ms=self.now_ms, act="unseen", force=True))

    @rule(pilot=pilots, calls=some_calls)
    def die_while_it_reaps(self, pilot: int, calls: int) -> None:
        self.die(calls, lambda pool: pool.reap(now_ms=self.clock(pilot)))

    def die(self, calls: int, act: Callable[[PoolStore], object]) -> None:
        """Another process does something, and dies after so many calls of the database."""
        with interrupted(self.pool) as process, suppress(Killed):
            process.after(calls, die)
            act(process.pool)

    @rule()
    def sweep(self) -> None:
        # A reaper whose clock is so far behind takes nothing back: it finishes what the dead began.
        self.pool.reap(now_ms=0)
        assert self.pool.sweep(now_ms=self.now_ms) == 0, "A task waited for nothing."

    @invariant()
    def every_claim_settles_at_most_once(self) -> None:
        assert all(number <= 1 for number in self.accepted.values())

    @invariant()
    def events_tell_the_whole_story(self) -> None:
        for name in NAMES:
            told = list(self.pool.events(task_id=name))
            task = self.pool.get(name)
            assert [event.number for event in told] == list(range(1, len(told) + 1))
            for earlier, later in pairwise(told):
                assert earlier.target is later.source
            assert (task.state if task else None) is (told[-1].target if told else None)
            assert not task or task.moves == len(told)
            self.fences_grow(told)
            settled = Counter(event.fence for event in told if event.move in SETTLED)
            assert not settled or max(settled.values()) == 1

    def fences_grow(self, told: list[TaskEvent]) -> None:
        fences = [event.fence for event in told if event.move is Move.CLAIMED]
        assert fences == sorted(set(fences))

    @invariant()
    def counts_are_what_there_is(self) -> None:
        states = Counter(task.state for task in self.pool.find(Filter()).tasks)
        counts = self.pool.counts()
        assert {state: counts.of(state) for state in TaskState if counts.of(state)} == dict(states)

    def drain(self) -> None:
        """Whatever state it was left in: all that is there can be brought to an end, once each."""
        self.add_these(frozenset(NAMES))
        self.pool.move(Filter(), Action.RETRY, now_ms=self.now_ms, act="drain")
        self.now_ms += 1_000_000 * LEASE_MS
        self.pool.reap(now_ms=self.now_ms)
        self.pool.move(Filter(states=frozenset({TaskState.FAILED})), Action.RETRY, now_ms=self.now_ms, act="drain")
        ended: Counter[str] = Counter()
        while held := self.pool.claim("last", 4, lease_ms=LEASE_MS, now_ms=self.now_ms):
            for one in held:
                self.settle(one, EndReason.FINISHED)
                ended[one.id] += 1
        assert not ended or max(ended.values()) == 1
        assert self.pool.counts().of(TaskState.DONE) == len(NAMES)


class SqliteProtocol(Protocol):
    """The same on a file."""

    def opened(self) -> PoolStore:
        folder = self.stack.enter_context(tempfile.TemporaryDirectory())
        store = SqliteStore(Path(folder) / "pool.sqlite")
        self.stack.callback(store.close)
        return store


@pytest.mark.parametrize(("machine", "number"), [(Protocol, 60), (SqliteProtocol, 15)])
def test_the_protocol_holds_in_any_order_of_things(machine: type[Protocol], number: int) -> None:
    run_state_machine_as_test(
        machine,
        settings=settings(examples(number), stateful_step_count=40),
    )
