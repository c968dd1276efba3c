"""What every store of a pool promises, over all of them. To add a store, add its world to `WORLDS`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from pathlib import Path
from threading import Barrier, Thread
from typing import Any

import pytest

from batch_pipeline.pool import dependencies
from batch_pipeline.pool.base import Claim, Filter, PoolStore, Settlement, WriteResult
from batch_pipeline.pool.stores.memory import MemoryStore
from batch_pipeline.pool.stores.optimistic import OptimisticStore
from batch_pipeline.pool.stores.sqlite.store import SqliteStore
from batch_pipeline.pool.stores.storage import PendingMove
from batch_pipeline.pool.task import Action, Move, Task, TaskEvent, TaskOutcome, TaskSpec, TaskState
from batch_pipeline.wire.contract import EndReason
from batch_pipeline.wire.errors import InvalidTasks, PoolFailed
from tests.pool.interrupted import Interrupted, Killed, die, interrupted
from tests.servers import databases

#: Opens the pool of a test once more, as another pilot or command would.
Opener = Callable[[], PoolStore]
#: Makes an empty pool, which goes with the stack.
World = Callable[[Path, ExitStack], Opener]

WAITING, READY, HELD, DONE, FAILED, CANCELLED = TaskState
LEASE_MS = 60_000
#: Far behind any tolerated difference of clocks.
LATER = 10 * LEASE_MS
FINE = TaskOutcome(end_reason=EndReason.FINISHED, exit_code=0)
WRONG = TaskOutcome(end_reason=EndReason.STEP_FAILED, exit_code=3, error="exit code 3", log_tail="no such sample")


def memory_world(folder: Path, stack: ExitStack) -> Opener:
    store = MemoryStore()
    return lambda: store


def sqlite_world(folder: Path, stack: ExitStack) -> Opener:
    def opened() -> PoolStore:
        store = SqliteStore(folder / "pool.sqlite")
        stack.callback(store.close)
        return store

    return opened


def dynamodb_world(folder: Path, stack: ExitStack) -> Opener:
    # Shards are claimed from in any order; in one part of the queue the order is exact.
    table = stack.enter_context(closing(databases.dynamodb_pool(shards=1))).table.name
    return lambda: stack.enter_context(closing(databases.dynamodb_pool(table=table)))


def couchdb_world(folder: Path, stack: ExitStack) -> Opener:
    name = stack.enter_context(closing(databases.couchdb_pool())).database.name.rpartition("/")[2]
    return lambda: stack.enter_context(closing(databases.couchdb_pool(database=name)))


WORLDS: Sequence[Any] = [
    pytest.param(memory_world, id="memory"),
    pytest.param(sqlite_world, id="sqlite"),
    pytest.param(dynamodb_world, id="dynamodb", marks=pytest.mark.servers),
    pytest.param(couchdb_world, id="couchdb", marks=pytest.mark.servers),
]


@pytest.fixture(params=WORLDS)
def opener(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Opener]:
    with ExitStack() as stack:
        world: World = request.param
        yield world(tmp_path, stack)


@pytest.fixture
def pool(opener: Opener) -> PoolStore:
    return opener()


def spec(name: str, **more: Any) -> TaskSpec:
    return TaskSpec(id=name, command=("true",), **more)


def claim(pool: PoolStore, count: int = 1, *, owner: str = "one", now_ms: int = 0, **more: Any) -> list[Claim]:
    return pool.claim(owner, count, lease_ms=LEASE_MS, now_ms=now_ms, **more)


def settle(pool: PoolStore, held: Claim, outcome: TaskOutcome = FINE, *, now_ms: int = 1) -> WriteResult:
    [answer] = pool.settle([Settlement(claim=held, outcome=outcome)], now_ms=now_ms)
    return answer


def there(pool: PoolStore, name: str) -> Task:
    task = pool.get(name)
    assert task is not None
    return task


def state(pool: PoolStore, name: str) -> TaskState:
    return there(pool, name).state


def story(pool: PoolStore, name: str) -> list[Move]:
    return [event.move for event in pool.events(task_id=name)]


def one(pool: PoolStore, **more: Any) -> Claim:
    """Adds a task `t` and holds it."""
    pool.add([spec("t", **more)], now_ms=0)
    [held] = claim(pool)
    return held


def everything(pool: PoolStore, wanted: Filter, limit: int = 1000) -> list[str]:
    names: list[str] = []
    cursor: str | None = None
    while True:
        page = pool.find(wanted, limit=limit, cursor=cursor)
        names += [task.id for task in page.tasks]
        cursor = page.cursor
        if cursor is None:
            return names


# Adding.


def test_a_task_comes_back_as_it_was_added(pool: PoolStore) -> None:
    whole = TaskSpec(
        id="sample-1/Task_0",
        shell="echo 'ä' | tee \"$OUT\"",
        resource_class="large",
        priority=-3,
        environment={"OUT": "x y"},
        inputs={"bam": "s3://bucket/a.bam"},
        outputs={"txt": "results/a.txt"},
        after=(),
        most_attempts=3,
        most_returns=7,
        time_limit_seconds=1.5,
        parent="sample-1",
    )
    pool.add([whole], now_ms=17)
    assert there(pool, "sample-1/Task_0") == Task(spec=whole, state=READY, moves=1, added_at_ms=17)


def test_there_is_no_task_that_was_not_added(pool: PoolStore) -> None:
    assert pool.get("ghost") is None
    assert pool.counts().total == 0
    assert claim(pool) == []
    assert list(pool.events(task_id="ghost")) == []


def test_adding_again_changes_nothing_that_is_held_or_done(pool: PoolStore) -> None:
    specs = [spec("a"), spec("b"), spec("c")]
    pool.add(specs, now_ms=0)
    first, second = claim(pool, 2)
    settle(pool, first)
    before = [pool.get(name) for name in "abc"]
    report = pool.add(specs, now_ms=9)
    assert (report.added, report.unchanged, report.differing) == (0, 3, 0)
    assert [pool.get(name) for name in "abc"] == before
    assert settle(pool, second) is WriteResult.ACCEPTED


def test_a_task_that_differs_is_told_and_left_alone(pool: PoolStore) -> None:
    pool.add([spec("a"), spec("b")], now_ms=0)
    report = pool.add([spec("a", priority=5), spec("b"), spec("c")], now_ms=1)
    assert (report.added, report.unchanged, report.differing) == (1, 1, 1)
    assert report.differing_ids == ("a",)
    assert there(pool, "a").spec.priority == 0


def test_two_tasks_of_one_name_in_one_import_are_one(pool: PoolStore) -> None:
    report = pool.add([spec("a"), spec("a"), spec("a", priority=1)], now_ms=0)
    assert (report.added, report.unchanged, report.differing) == (1, 1, 1)
    assert there(pool, "a").spec.priority == 0


@pytest.mark.parametrize("wrong", ["", "_a", "a b", "a//b", "../a", "a/", "a\nb", "ä", "x" * 256])
def test_names_that_could_not_be_keys_are_refused(pool: PoolStore, wrong: str) -> None:
    with pytest.raises(InvalidTasks, match="id"):
        pool.add([spec(wrong)], now_ms=0)
    assert pool.counts().total == 0


def test_a_task_needs_one_command(pool: PoolStore) -> None:
    for wrong in (TaskSpec(id="a"), TaskSpec(id="a", command=("true",), shell="true")):
        with pytest.raises(InvalidTasks, match="either a command"):
            pool.add([wrong], now_ms=0)


def test_more_tasks_than_one_write_takes(pool: PoolStore) -> None:
    report = pool.add((spec(f"t{number}") for number in range(1203)), now_ms=0)
    assert report.added == 1203
    assert pool.counts().of(READY) == 1203


# Claiming.


def test_a_claim_holds_with_owner_lease_and_fencing_number(pool: PoolStore) -> None:
    pool.add([spec("t")], now_ms=0)
    [held] = claim(pool, owner="host:7", now_ms=1000, native_id="job-1:4")
    task = there(pool, "t")
    assert held.task == task
    assert (task.state, task.owner, task.native_id, task.fence) == (HELD, "host:7", "job-1:4", 1)
    assert (task.claimed_at_ms, task.lease_until_ms, task.heartbeat_at_ms) == (1000, 1000 + LEASE_MS, 1000)
    assert claim(pool, owner="other") == []


def test_claims_take_at_most_what_is_asked_and_what_there_is(pool: PoolStore) -> None:
    pool.add([spec(f"t{number}") for number in range(5)], now_ms=0)
    assert [len(claim(pool, 3)) for _ in range(3)] == [3, 2, 0]


def test_the_highest_priority_goes_first_then_the_first_added(pool: PoolStore) -> None:
    pool.add([spec("low", priority=-1), spec("a"), spec("b"), spec("high", priority=9)], now_ms=0)
    order = [held.id for _ in range(4) for held in claim(pool)]
    assert order == ["high", "a", "b", "low"]


def test_one_claim_of_many_has_that_order_too_across_classes(pool: PoolStore) -> None:
    pool.add([spec("a", resource_class="x"), spec("b"), spec("c", resource_class="x", priority=1)], now_ms=0)
    assert [held.id for held in claim(pool, 3)] == ["c", "a", "b"]


def test_claims_by_class(pool: PoolStore) -> None:
    pool.add([spec("s", resource_class="small"), spec("l", resource_class="large")], now_ms=0)
    assert claim(pool, 5, classes=["gpu"]) == []
    assert claim(pool, 5, classes=[]) == []
    assert [held.id for held in claim(pool, 5, classes=["large"])] == ["l"]
    assert [held.id for held in claim(pool, 5, classes=["small", "large", "gpu"])] == ["s"]


def test_what_is_added_while_others_work_is_claimed_too(pool: PoolStore) -> None:
    held = one(pool)
    pool.add([spec("new")], now_ms=1)
    settle(pool, held)
    assert [again.id for again in claim(pool, 5)] == ["new"]


# Settling.


def test_a_settled_task_is_done(pool: PoolStore) -> None:
    held = one(pool)
    outcome = replace(FINE, log_key="logs/t", log_tail="bye", fields={"reads": "12"})
    assert settle(pool, held, outcome, now_ms=5) is WriteResult.ACCEPTED
    task = there(pool, "t")
    assert (task.state, task.outcome, task.ended_at_ms, task.lease_until_ms) == (DONE, outcome, 5, 0)
    assert (task.owner, task.attempts, task.progress) == ("one", 0, 1.0)
    assert story(pool, "t") == [Move.ADDED, Move.CLAIMED, Move.DONE]


def test_an_exit_code_other_than_0_is_a_failure(pool: PoolStore) -> None:
    held = one(pool)
    settle(pool, held, WRONG)
    task = there(pool, "t")
    assert (task.state, task.attempts, task.outcome) == (FAILED, 1, WRONG)
    assert claim(pool) == []


def test_a_failed_task_goes_again_until_its_attempts_are_used_up(pool: PoolStore) -> None:
    held = one(pool, most_attempts=2)
    settle(pool, held, WRONG)
    assert (state(pool, "t"), there(pool, "t").outcome) == (READY, WRONG)
    [again] = claim(pool)
    assert again.task.fence == 2
    settle(pool, again, WRONG)
    assert state(pool, "t") is FAILED
    assert story(pool, "t") == [Move.ADDED, Move.CLAIMED, Move.AGAIN, Move.CLAIMED, Move.FAILED]


def test_an_interruption_is_no_failure(pool: PoolStore) -> None:
    held = one(pool)
    settle(pool, held, TaskOutcome(end_reason=EndReason.INTERRUPTED, exit_code=143))
    task = there(pool, "t")
    assert (task.state, task.attempts, task.returns) == (READY, 0, 1)


def test_settling_twice_changes_nothing(pool: PoolStore) -> None:
    held = one(pool)
    assert settle(pool, held) is WriteResult.ACCEPTED
    before, told = there(pool, "t"), list(pool.events(task_id="t"))
    assert settle(pool, held, now_ms=7) is WriteResult.REPEATED
    assert settle(pool, held, WRONG, now_ms=8) is WriteResult.REFUSED
    assert (there(pool, "t"), list(pool.events(task_id="t"))) == (before, told)


def test_repeating_a_settlement_that_sent_the_task_again_is_known_too(pool: PoolStore) -> None:
    held = one(pool, most_attempts=2)
    assert [settle(pool, held, WRONG), settle(pool, held, WRONG)] == [WriteResult.ACCEPTED, WriteResult.REPEATED]
    assert there(pool, "t").attempts == 1
    claim(pool, owner="two")
    assert settle(pool, held, WRONG) is WriteResult.REFUSED


def test_many_settle_at_once_and_one_that_is_refused_stops_no_other(pool: PoolStore) -> None:
    pool.add([spec("a"), spec("b"), spec("c")], now_ms=0)
    held = claim(pool, 3)
    pool.move(Filter(ids=frozenset({"b"})), Action.RESET, now_ms=1, act="x", force=True)
    answers = pool.settle([Settlement(claim=each, outcome=FINE) for each in held], now_ms=2)
    assert answers == [WriteResult.ACCEPTED, WriteResult.REFUSED, WriteResult.ACCEPTED]
    assert [state(pool, name) for name in "abc"] == [DONE, READY, DONE]


def test_of_two_claims_of_a_task_that_are_settled_together_the_newer_one_counts(pool: PoolStore) -> None:
    former = one(pool)
    pool.reap(now_ms=LATER)
    [present] = claim(pool, now_ms=LATER)
    for order in ([former, present], [present, former]):
        answers = pool.settle([Settlement(claim=each, outcome=FINE) for each in order], now_ms=LATER)
        told = dict(zip((each.task.fence for each in order), answers, strict=True))
        assert told[1] is WriteResult.REFUSED
        assert told[2] in (WriteResult.ACCEPTED, WriteResult.REPEATED)
    assert story(pool, "t").count(Move.DONE) == 1


def test_nothing_to_settle_renew_or_release(pool: PoolStore) -> None:
    assert (pool.settle([], now_ms=0), pool.renew([], now_ms=0), pool.release([], now_ms=0, why="")) == ([], [], [])


def test_a_released_task_is_to_be_done_and_its_former_holder_refused(pool: PoolStore) -> None:
    held = one(pool)
    assert pool.release([held], now_ms=2, why="SIGTERM") == [WriteResult.ACCEPTED]
    task = there(pool, "t")
    assert (task.state, task.returns, task.attempts) == (READY, 0, 0)
    assert settle(pool, held) is WriteResult.REFUSED
    [again] = claim(pool, owner="two")
    assert (settle(pool, held), settle(pool, again)) == (WriteResult.REFUSED, WriteResult.ACCEPTED)
    assert [event.why for event in pool.events(task_id="t") if event.move is Move.RELEASED] == ["SIGTERM"]


# Leases.


def test_a_renewed_lease_lasts_from_then_on_and_tells_the_progress(pool: PoolStore) -> None:
    held = one(pool)
    assert pool.renew([held], now_ms=1000, progress={"t": 0.5}) == [WriteResult.ACCEPTED]
    assert pool.renew([held], now_ms=2000) == [WriteResult.ACCEPTED]
    task = there(pool, "t")
    assert (task.lease_until_ms, task.heartbeat_at_ms, task.progress) == (2000 + LEASE_MS, 2000, 0.5)
    assert settle(pool, held) is WriteResult.ACCEPTED


def test_a_reaper_leaves_live_tasks_alone(pool: PoolStore) -> None:
    held = one(pool)
    assert pool.reap(now_ms=LEASE_MS // 2) == []
    pool.renew([held], now_ms=LEASE_MS - 1)
    assert pool.reap(now_ms=LEASE_MS + 10) == []
    assert settle(pool, held) is WriteResult.ACCEPTED
    assert pool.reap(now_ms=LATER) == []


def test_a_reaper_takes_back_once_what_a_dead_pilot_held(pool: PoolStore) -> None:
    held = one(pool)
    assert pool.reap(now_ms=LATER) == ["t"]
    assert pool.reap(now_ms=LATER) == []
    task = there(pool, "t")
    assert (task.state, task.returns, task.attempts, task.lease_until_ms) == (READY, 1, 0, 0)
    assert pool.renew([held], now_ms=LATER) == [WriteResult.REFUSED]
    assert settle(pool, held) is WriteResult.REFUSED
    [again] = claim(pool, owner="two", now_ms=LATER)
    assert again.task.fence == 2
    assert pool.renew([held], now_ms=LATER) == [WriteResult.REFUSED]
    assert pool.release([held], now_ms=LATER, why="late") == [WriteResult.REFUSED]
    assert settle(pool, again) is WriteResult.ACCEPTED
    assert settle(pool, held) is WriteResult.REFUSED


def test_a_task_that_kills_its_pilots_is_lost_in_the_end(pool: PoolStore) -> None:
    pool.add([spec("t", most_returns=2)], now_ms=0)
    for round_ in range(3):
        assert len(claim(pool, now_ms=round_ * LATER)) == 1
        assert pool.reap(now_ms=round_ * LATER + LATER) == ["t"]
    task = there(pool, "t")
    assert (task.state, task.outcome and task.outcome.end_reason) == (FAILED, EndReason.LOST)
    assert story(pool, "t")[-1] is Move.LOST


def test_a_claim_that_takes_longer_than_its_lease_holds_a_task_once(pool: PoolStore) -> None:
    pool.add([spec("t", most_returns=1000)], now_ms=0)
    for calls in count():
        with interrupted(pool) as pilot:
            pilot.after(calls, lambda: pool.reap(now_ms=LATER))
            held = claim(pilot.pool, 5)
        fence = there(pool, "t").fence
        assert [(each.id, each.task.fence) for each in held] == [("t", fence)]
        if not pilot.was_interrupted:
            return
        pool.reap(now_ms=LATER)


# Waiting.


def test_a_task_is_freed_when_all_that_it_waits_for_is_done(pool: PoolStore) -> None:
    pool.add([spec("c", after=("a", "b")), spec("a"), spec("b")], now_ms=0)
    assert state(pool, "c") is WAITING
    first, second = claim(pool, 5)
    settle(pool, first)
    assert state(pool, "c") is WAITING
    settle(pool, second)
    assert state(pool, "c") is READY
    assert [held.id for held in claim(pool, 5)] == ["c"]
    assert story(pool, "c") == [Move.ADDED, Move.FREED, Move.CLAIMED]


def test_a_task_whose_needs_are_done_already_waits_for_nothing(pool: PoolStore) -> None:
    settle(pool, one(pool))
    pool.add([spec("next", after=("t",))], now_ms=3)
    assert state(pool, "next") is READY


def test_a_failed_need_leaves_a_task_waiting_with_the_reason(pool: PoolStore) -> None:
    pool.add([spec("a"), spec("b", after=("a",)), spec("c", after=("b", "absent"))], now_ms=0)
    [held] = claim(pool)
    settle(pool, held, WRONG)
    task = there(pool, "b")
    assert (task.state, task.reason) == (WAITING, "a failed")
    assert there(pool, "c").reason == "absent is not in the pool"
    pool.move(Filter(states=frozenset({FAILED})), Action.RETRY, now_ms=5, act="x")
    assert (state(pool, "b"), there(pool, "b").reason) == (WAITING, "")
    [again] = claim(pool)
    settle(pool, again)
    assert state(pool, "b") is READY


def test_what_waits_can_be_cancelled(pool: PoolStore) -> None:
    pool.add([spec("a"), spec("b", after=("a",))], now_ms=0)
    assert pool.move(Filter(states=frozenset({WAITING})), Action.CANCEL, now_ms=1, act="x").moved_ids == ("b",)
    [held] = claim(pool)
    settle(pool, held)
    assert state(pool, "b") is CANCELLED


def test_a_task_to_be_done_is_withheld_when_what_it_needs_is_reset(pool: PoolStore) -> None:
    pool.add([spec("a"), spec("b", after=("a",))], now_ms=0)
    settle(pool, claim(pool)[0])
    assert state(pool, "b") is READY
    pool.move(Filter(ids=frozenset({"a"})), Action.RESET, now_ms=2, act="x")
    assert [held.id for held in claim(pool, 5)] == ["a"]
    assert story(pool, "b")[-1] is Move.WITHHELD


def test_a_sweep_changes_nothing_where_all_is_well(pool: PoolStore) -> None:
    pool.add([spec("a"), spec("b", after=("a",))], now_ms=0)
    assert pool.sweep(now_ms=1) == 0
    assert story(pool, "b") == [Move.ADDED]


# People.


def test_retry_takes_what_failed_and_was_cancelled_only(pool: PoolStore) -> None:
    pool.add([spec(name) for name in "abcd"], now_ms=0)
    a, b = claim(pool, 2)
    settle(pool, a)
    settle(pool, b, WRONG)
    pool.move(Filter(ids=frozenset({"c"})), Action.CANCEL, now_ms=1, act="x")
    report = pool.move(Filter(), Action.RETRY, now_ms=2, act="y")
    assert (set(report.moved_ids), set(report.refusals)) == ({"b", "c"}, {"a", "d"})
    assert (state(pool, "b"), there(pool, "b").attempts, there(pool, "b").outcome) == (READY, 0, WRONG)
    assert state(pool, "a") is DONE


@pytest.mark.parametrize("action", [Action.RESET, Action.CANCEL, Action.DELETE])
def test_a_live_lease_is_refused_unless_forced(pool: PoolStore, action: Action) -> None:
    held = one(pool)
    report = pool.move(Filter(), action, now_ms=5, act="x")
    assert (report.moved, report.refused) == (0, 1)
    assert "held by one" in report.refusals["t"]
    assert state(pool, "t") is HELD
    assert pool.move(Filter(), action, now_ms=5, act="y", force=True).moved == 1
    assert pool.renew([held], now_ms=6) == [WriteResult.REFUSED]
    assert settle(pool, held) is WriteResult.REFUSED
    task = pool.get("t")
    assert (task and task.state) == {Action.RESET: READY, Action.CANCEL: CANCELLED, Action.DELETE: None}[action]


def test_a_lease_that_is_over_needs_no_force(pool: PoolStore) -> None:
    held = one(pool)
    assert pool.move(Filter(), Action.RESET, now_ms=LATER, act="x").moved == 1
    assert settle(pool, held) is WriteResult.REFUSED


def test_a_dry_run_says_what_would_be_and_changes_nothing(pool: PoolStore) -> None:
    settle(pool, one(pool), WRONG)
    before = list(pool.events(task_id="t"))
    report = pool.move(Filter(), Action.RETRY, now_ms=5, act="x", dry_run=True)
    assert report.moved_ids == ("t",)
    assert state(pool, "t") is FAILED
    assert list(pool.events(task_id="t")) == before


def test_resetting_what_is_not_there_makes_no_ghost(pool: PoolStore) -> None:
    assert pool.move(Filter(ids=frozenset({"ghost"})), Action.RESET, now_ms=1, act="x", force=True).moved == 0
    assert pool.get("ghost") is None
    assert pool.counts().total == 0


def test_history_survives_a_reset(pool: PoolStore) -> None:
    settle(pool, one(pool), WRONG)
    pool.move(Filter(), Action.RESET, now_ms=5, act="again", who="me")
    task = there(pool, "t")
    assert (task.state, task.attempts, task.outcome, task.owner) == (READY, 0, None, "")
    told = list(pool.events(task_id="t"))
    assert [event.number for event in told] == [1, 2, 3, 4]
    assert told[2].outcome == replace(WRONG, log_tail="")
    reset = told[3]
    assert (reset.move, reset.act, reset.owner, reset.at_ms) == (Move.RESET, "again", "me", 5)
    assert reset.before is not None
    assert reset.before.outcome == WRONG


def test_undo_gives_back_what_was(pool: PoolStore) -> None:
    pool.add([spec(name) for name in "abc"], now_ms=0)
    a, b = claim(pool, 2)
    settle(pool, a)
    settle(pool, b, WRONG)
    before = {name: there(pool, name) for name in "abc"}
    pool.move(Filter(), Action.RESET, now_ms=5, act="oops")
    report = pool.undo("oops", now_ms=6, who="me")
    assert (report.moved, report.refused) == (3, 0)
    for name, task in before.items():
        assert there(pool, name) == replace(task, moves=task.moves + 2)
    assert story(pool, "b")[-2:] == [Move.RESET, Move.UNDONE]


def test_undo_leaves_alone_what_has_moved_since(pool: PoolStore) -> None:
    settle(pool, one(pool), WRONG)
    pool.move(Filter(), Action.RESET, now_ms=5, act="oops")
    [held] = claim(pool)
    report = pool.undo("oops", now_ms=6)
    assert (report.moved, report.refused) == (0, 1)
    assert settle(pool, held) is WriteResult.ACCEPTED
    assert pool.undo("never", now_ms=7).moved == 0


def test_undoing_twice_does_it_once_and_an_undo_can_be_undone(pool: PoolStore) -> None:
    settle(pool, one(pool), WRONG)
    pool.move(Filter(), Action.RESET, now_ms=5, act="oops")
    assert pool.undo("oops", now_ms=6, dry_run=True).moved == 1
    assert state(pool, "t") is READY
    assert [pool.undo("oops", now_ms=6).moved for _ in range(2)] == [1, 0]
    assert state(pool, "t") is FAILED
    assert pool.undo("undo-oops", now_ms=7).moved == 1
    assert state(pool, "t") is READY


def test_who_held_a_task_before_a_forced_move_stays_refused_after_its_undo(pool: PoolStore) -> None:
    held = one(pool)
    pool.move(Filter(), Action.CANCEL, now_ms=5, act="oops", force=True)
    pool.undo("oops", now_ms=6)
    assert state(pool, "t") is READY
    assert settle(pool, held) is WriteResult.REFUSED
    [again] = claim(pool)
    assert (settle(pool, held), settle(pool, again)) == (WriteResult.REFUSED, WriteResult.ACCEPTED)


def test_who_held_a_task_before_a_forced_cancel_stays_refused_after_its_retry(pool: PoolStore) -> None:
    held = one(pool)
    pool.move(Filter(), Action.CANCEL, now_ms=5, act="stop", force=True)
    pool.move(Filter(), Action.RETRY, now_ms=6, act="go")
    assert there(pool, "t").owner == "one"
    [again] = claim(pool, owner="two")
    assert again.task.fence > held.task.fence
    assert (settle(pool, held), settle(pool, again)) == (WriteResult.REFUSED, WriteResult.ACCEPTED)


def test_a_deleted_task_is_gone_but_for_its_history(pool: PoolStore) -> None:
    settle(pool, one(pool))
    pool.move(Filter(), Action.DELETE, now_ms=5, act="rm")
    assert pool.get("t") is None
    assert (everything(pool, Filter()), pool.counts().total) == ([], 0)
    assert story(pool, "t") == [Move.ADDED, Move.CLAIMED, Move.DONE, Move.DELETED]
    assert pool.undo("rm", now_ms=6).moved == 1
    assert state(pool, "t") is DONE
    assert pool.counts().of(DONE) == 1


def test_a_task_added_after_its_deletion_is_a_new_one_with_the_old_ones_numbers(pool: PoolStore) -> None:
    held = one(pool)
    pool.move(Filter(), Action.DELETE, now_ms=5, act="rm", force=True)
    report = pool.add([spec("t", priority=4, resource_class="new")], now_ms=6)
    assert report.added == 1
    assert (there(pool, "t").spec.priority, there(pool, "t").state) == (4, READY)
    assert pool.undo("rm", now_ms=7).moved == 0
    [again] = claim(pool)
    assert again.task.fence > held.task.fence
    assert (settle(pool, held), settle(pool, again)) == (WriteResult.REFUSED, WriteResult.ACCEPTED)
    numbers = [event.number for event in pool.events(task_id="t")]
    assert numbers == list(range(1, len(numbers) + 1))
    assert pool.counts().by_class == {"new": {DONE: 1}}


def test_events_of_an_action(pool: PoolStore) -> None:
    pool.add([spec("a"), spec("b")], now_ms=0)
    pool.move(Filter(), Action.CANCEL, now_ms=1, act="first")
    pool.move(Filter(ids=frozenset({"a"})), Action.RETRY, now_ms=2, act="second")
    told: list[TaskEvent] = list(pool.events(act="first"))
    assert {(event.task_id, event.source, event.target) for event in told} == {
        ("a", READY, CANCELLED),
        ("b", READY, CANCELLED),
    }


# Looking.


def test_counts_have_every_state_and_class(pool: PoolStore) -> None:
    pool.add([spec(f"s{number}", resource_class="small") for number in range(5)], now_ms=0)
    pool.add([spec("l"), spec("w", after=("l",)), spec("x", priority=-1)], now_ms=0)
    pool.move(Filter(ids=frozenset({"x"})), Action.CANCEL, now_ms=0, act="c")
    held = claim(pool, 3, classes=["small"])
    settle(pool, held[0])
    settle(pool, held[1], WRONG)
    counts = pool.counts()
    assert counts.by_class == {
        "small": {READY: 2, HELD: 1, DONE: 1, FAILED: 1},
        "default": {READY: 1, WAITING: 1, CANCELLED: 1},
    }
    assert (counts.total, counts.of(READY), counts.of(READY, ["small"]), counts.of(DONE, ["gpu"])) == (8, 3, 2, 0)


def test_filters_by_everything(pool: PoolStore) -> None:
    pool.add([spec("s1/a", parent="s1"), spec("s1/b", parent="s1"), spec("s2/a", resource_class="big")], now_ms=10)
    held = claim(pool, 2, classes=["default"], owner="me", now_ms=20)
    settle(pool, held[0], WRONG, now_ms=30)
    expected: Mapping[str, tuple[Filter, set[str]]] = {
        "nothing": (Filter(), {"s1/a", "s1/b", "s2/a"}),
        "state": (Filter(states=frozenset({HELD, FAILED})), {"s1/a", "s1/b"}),
        "class": (Filter(classes=frozenset({"big", "none"})), {"s2/a"}),
        "ids": (Filter(ids=frozenset({"s1/b", "s9"})), {"s1/b"}),
        "pattern": (Filter(id_pattern="s?/a"), {"s1/a", "s2/a"}),
        "set": (Filter(id_pattern="s[!1]/*"), {"s2/a"}),
        "parent": (Filter(parent="s1"), {"s1/a", "s1/b"}),
        "owner": (Filter(owner="me"), {"s1/a", "s1/b"}),
        "age": (Filter(changed_before_ms=25), {"s1/b", "s2/a"}),
        "error": (Filter(error="CODE 3"), {"s1/a"}),
        "all": (Filter(states=frozenset({HELD}), parent="s1", changed_before_ms=20), set()),
    }
    found = {name: set(everything(pool, wanted)) for name, (wanted, _) in expected.items()}
    assert found == {name: names for name, (_, names) in expected.items()}


def test_pages_have_every_task_once(pool: PoolStore) -> None:
    names = [f"t{number}" for number in range(23)]
    pool.add([spec(name) for name in names], now_ms=0)
    assert Counter(everything(pool, Filter(), limit=5)) == Counter(names)
    assert len(pool.find(Filter(), limit=5).tasks) <= 5


def test_items_are_what_their_sub_tasks_are(pool: PoolStore) -> None:
    nested = [spec(f"{item}/Task_{number}", parent=item) for item in ("i", "j") for number in range(4)]
    pool.add([*nested, spec("alone")], now_ms=0)
    held = claim(pool, 4)
    for each in held:
        settle(pool, each)
    # What PyAnamo counted is derived: a sub-task that is done again is not counted twice.
    pool.move(Filter(ids=frozenset({held[0].id})), Action.RESET, now_ms=3, act="x")
    settle(pool, claim(pool)[0])
    nests = {nest.parent: nest for nest in pool.nests()}
    assert set(nests) == {"i", "j"}
    assert (nests["i"].size, nests["i"].progress, nests["i"].state) == (4, 1.0, DONE)
    assert (nests["j"].counts, nests["j"].progress, nests["j"].state) == ({READY: 4}, 0.0, READY)


def test_ends_since_a_moment(pool: PoolStore) -> None:
    pool.add([spec(name) for name in "abc"], now_ms=0)
    a, b, c = claim(pool, 3)
    settle(pool, a, now_ms=10)
    settle(pool, b, WRONG, now_ms=20)
    pool.release([c], now_ms=30, why="")
    assert [pool.ends_since(moment) for moment in (0, 15, 25)] == [2, 1, 0]


# Together.


def test_claimers_at_the_same_time_never_hold_the_same_task(opener: Opener) -> None:
    opener().add([spec(f"t{number}") for number in range(60)], now_ms=0)
    held: list[list[str]] = [[] for _ in range(4)]
    barrier = Barrier(4)

    def work(number: int) -> None:
        pool = opener()
        barrier.wait()
        while claims := claim(pool, 3, owner=f"pilot-{number}"):
            held[number] += [each.id for each in claims]
            answers = pool.settle([Settlement(claim=each, outcome=FINE) for each in claims], now_ms=1)
            assert answers == [WriteResult.ACCEPTED] * len(claims)

    threads = [Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert Counter(name for names in held for name in names) == Counter(f"t{number}" for number in range(60))
    assert opener().counts().of(DONE) == 60


def test_another_connection_sees_what_was_written(opener: Opener) -> None:
    held = one(opener())
    other = opener()
    assert there(other, "t") == held.task
    assert settle(other, held) is WriteResult.ACCEPTED
    assert state(opener(), "t") is DONE


# Processes that die between two calls: what they have not come to, the next reaper does. And others that act then.


def is_as_it_should_be(pool: PoolStore) -> None:
    """No task waits for nothing or for the wrong reason, and none is to be done that lacks something."""
    tasks = {name: there(pool, name) for name in everything(pool, Filter())}
    for task in tasks.values():
        states = {name: tasks[name].state if name in tasks else None for name in task.spec.after}
        lack = dependencies.needs(states)
        if task.state is WAITING:
            assert lack is not None, f"{task.id} waits for nothing: {states}"
            assert task.reason == lack
        if task.state is READY:
            assert lack is None, f"{task.id} is to be done and lacks {states}"


@dataclass(kw_only=True)
class Stage:
    """A pool for one performance of a scene, whose tasks have names of their own."""

    pool: PoolStore
    prefix: str
    held: Sequence[Claim] = ()

    def named(self, names: Iterable[str]) -> tuple[str, ...]:
        return tuple(self.prefix + name for name in names)

    def add(self, *specs: TaskSpec, by: PoolStore | None = None) -> None:
        renamed = (replace(each, id=self.prefix + each.id, after=self.named(each.after)) for each in specs)
        (by or self.pool).add(renamed, now_ms=1)


#: What is done by a store's process.
Act = Callable[[PoolStore, Stage], object]


@dataclass(frozen=True, kw_only=True)
class Scene:
    """What a pool is like, and what happens to it. Tasks of one letter, in the order in which they can be claimed."""

    specs: Sequence[TaskSpec]
    done: str = ""
    failed: str = ""
    #: By the process that acts, and dies meanwhile.
    held: str = ""
    #: What others do before it acts.
    others: Act = lambda pool, stage: None
    act: Act

    def play(self, stage: Stage, actor: Interrupted, calls: int, then: Callable[[], object]) -> None:
        """Plays it with an actor. `then`: what happens when so many of its calls were answered."""
        stage.add(*self.specs)
        for names, outcome in ((self.done, FINE), (self.failed, WRONG)):
            for name in stage.named(names):
                [held] = claim(stage.pool)
                assert held.id == name
                settle(stage.pool, held, outcome)
        stage.held = claim(actor.pool, len(self.held)) if self.held else ()
        assert {held.id for held in stage.held} == set(stage.named(self.held))
        self.others(stage.pool, stage)
        actor.after(calls, then)
        with suppress(Killed):
            self.act(actor.pool, stage)


def unpropagated(pool: PoolStore) -> list[PendingMove]:
    assert isinstance(pool, OptimisticStore)
    return list(pool._storage.pending())


def adding(*specs: TaskSpec) -> Act:
    return lambda pool, stage: stage.add(*specs, by=pool)


def ending(outcome: TaskOutcome) -> Act:
    return lambda pool, stage: pool.settle([Settlement(claim=each, outcome=outcome) for each in stage.held], now_ms=5)


def moving(action: Action, *names: str, force: bool = False) -> Act:
    return lambda pool, stage: pool.move(
        Filter(ids=frozenset(stage.named(names))), action, now_ms=5, act=f"{stage.prefix}-act", force=force
    )


def reaping(pool: PoolStore, stage: Stage) -> object:
    return pool.reap(now_ms=LATER)


A, B, C, Z = spec("a"), spec("b", after=("a",)), spec("c", after=("a", "z")), spec("z")
#: What happens -> how.
SCENES: Mapping[str, Scene] = {
    "done": Scene(specs=(A, B, C), held="a", act=ending(FINE)),
    "failed": Scene(specs=(A, B, C), held="a", act=ending(WRONG)),
    "the last of two is done": Scene(specs=(Z, A, C), done="z", held="a", act=ending(FINE)),
    "two are done at once": Scene(specs=(A, Z, B, C), held="az", act=ending(FINE)),
    "done, and first waited for while it ran": Scene(specs=(A,), held="a", others=adding(B), act=ending(FINE)),
    "lost": Scene(specs=(replace(A, most_returns=0), B), held="a", act=reaping),
    "added after what it waits for was done": Scene(specs=(A,), done="a", act=adding(B)),
    "added after what waits for it": Scene(specs=(B, C), act=adding(A)),
    "added with what waits for it": Scene(specs=(), act=adding(A, B, C)),
    "retried": Scene(specs=(A, B), failed="a", act=moving(Action.RETRY, "a")),
    "retried when all that it needs is done": Scene(specs=(A, B), done="a", failed="b", act=moving(Action.RETRY, "b")),
    "reset": Scene(specs=(A, B), done="a", act=moving(Action.RESET, "a")),
    "reset when it was to be done": Scene(specs=(A, B), done="a", act=moving(Action.RESET, "b")),
    "reset when it was held": Scene(specs=(A, B), done="a", held="b", act=moving(Action.RESET, "b", force=True)),
    "cancelled": Scene(specs=(A, B), act=moving(Action.CANCEL, "a")),
    "deleted": Scene(specs=(A, B), done="a", act=moving(Action.DELETE, "a")),
    "undone": Scene(
        specs=(A, B),
        done="a",
        others=moving(Action.DELETE, "a"),
        act=lambda pool, stage: pool.undo(f"{stage.prefix}-act", now_ms=6),
    ),
    "given back when what it needs was reset": Scene(
        specs=(A, B),
        done="a",
        held="b",
        others=moving(Action.RESET, "a"),
        act=lambda pool, stage: pool.release(stage.held, now_ms=6, why="SIGTERM"),
    ),
    "taken back when what it needs was reset": Scene(
        specs=(A, B), done="a", held="b", others=moving(Action.RESET, "a"), act=reaping
    ),
}


@pytest.mark.parametrize("scene", SCENES.values(), ids=[name.replace(" ", "_") for name in SCENES])
def test_who_dies_between_two_calls_leaves_no_task_waiting_for_nothing(pool: PoolStore, scene: Scene) -> None:
    for calls in count():
        stage = Stage(pool=pool, prefix=f"p{calls}")
        with interrupted(pool) as actor:
            scene.play(stage, actor, calls, die)
        if not actor.was_interrupted:
            is_as_it_should_be(pool)
            assert not unpropagated(pool)
        pool.reap(now_ms=LATER)
        is_as_it_should_be(pool)
        assert (unpropagated(pool), pool.sweep(now_ms=LATER)) == ([], 0)
        if not actor.was_interrupted:
            return
        pool.move(Filter(), Action.DELETE, now_ms=LATER, act=f"clear-{calls}", force=True)


@pytest.mark.parametrize("name", [name for name in SCENES if SCENES[name].held])
def test_an_end_whose_first_writing_failed_half_way_is_propagated_when_it_is_written_again(
    pool: PoolStore, name: str
) -> None:
    def fail() -> None:
        raise PoolFailed("The connection was lost.")

    for calls in count():
        stage = Stage(pool=pool, prefix=f"p{calls}")
        with interrupted(pool) as actor:
            try:
                SCENES[name].play(stage, actor, calls, fail)
            except PoolFailed:
                SCENES[name].act(actor.pool, stage)
        is_as_it_should_be(pool)
        if not actor.was_interrupted:
            return
        pool.move(Filter(), Action.DELETE, now_ms=LATER, act=f"clear-{calls}", force=True)


def working(name: str, outcome: TaskOutcome = FINE) -> Act:
    """A pilot that does a task, if it can be had."""

    def work(pool: PoolStore, stage: Stage) -> None:
        for held in claim(pool, 9, owner="two"):
            if held.id == stage.prefix + name:
                settle(pool, held, outcome)
            else:
                pool.release([held], now_ms=5, why="not this one")

    return work


#: What happens meanwhile -> to what.
MEETINGS: Mapping[str, tuple[Scene, Act]] = {
    "reset while its end is propagated": (SCENES["done"], moving(Action.RESET, "a")),
    "another that is needed is reset": (SCENES["the last of two is done"], moving(Action.RESET, "z")),
    "another that is needed is deleted": (SCENES["the last of two is done"], moving(Action.DELETE, "z")),
    "another that is needed is done": (Scene(specs=(A, Z, B, C), held="a", act=ending(FINE)), working("z")),
    "done again while its reset is propagated": (SCENES["reset"], working("a")),
    "done while another's reset is propagated": (
        Scene(specs=(A, Z, C), done="az", act=moving(Action.RESET, "a", "z")),
        lambda pool, stage: (working("a")(pool, stage), working("z")(pool, stage)),
    ),
    "retried while its failure is propagated": (SCENES["failed"], moving(Action.RETRY, "a")),
    "done while the retry is propagated": (SCENES["retried"], working("a")),
    "first waited for while its end is written": (Scene(specs=(A,), held="a", act=ending(FINE)), adding(B)),
    "done while what waits for it is added": (Scene(specs=(A,), act=adding(B, C)), working("a")),
    "the waiting one is cancelled": (SCENES["done"], moving(Action.CANCEL, "b")),
    "the waiting one is deleted": (SCENES["done"], moving(Action.DELETE, "b")),
    "the waiting one is reset": (SCENES["done"], moving(Action.RESET, "b", force=True)),
    "added again while its deletion is propagated": (SCENES["deleted"], adding(A)),
    "a reaper is there too": (SCENES["two are done at once"], reaping),
    "a sweeper is there too": (SCENES["reset"], lambda pool, stage: pool.sweep(now_ms=5)),
}


# In a file of SQLite nobody acts between two calls of a transaction.
@pytest.mark.parametrize("opener", [world for world in WORLDS if world.id != "sqlite"], indirect=True)
@pytest.mark.parametrize(("scene", "meanwhile"), MEETINGS.values(), ids=[name.replace(" ", "_") for name in MEETINGS])
def test_who_acts_between_two_calls_of_another_leaves_no_task_waiting_for_nothing(
    pool: PoolStore, scene: Scene, meanwhile: Act
) -> None:
    for calls in count():
        stage = Stage(pool=pool, prefix=f"p{calls}")
        with interrupted(pool) as actor:
            scene.play(stage, actor, calls, partial(meanwhile, pool, stage))
        is_as_it_should_be(pool)
        assert (unpropagated(pool), pool.sweep(now_ms=5)) == ([], 0)
        if not actor.was_interrupted:
            return
        pool.move(Filter(), Action.DELETE, now_ms=LATER, act=f"clear-{calls}", force=True)
