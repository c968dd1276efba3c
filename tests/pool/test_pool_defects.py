"""What went wrong in PyAnamo and in PiCaS, and was seen there: none of it comes to pass here, whatever the store."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from batch_pipeline.pool.base import Claim, Filter, PoolStore, Settlement, WriteResult
from batch_pipeline.pool.files.exchange import ExportFormat, Format, Reading, export_file, import_file
from batch_pipeline.pool.files.writing import tasks_of
from batch_pipeline.pool.moves import LEGAL
from batch_pipeline.pool.overview import overview
from batch_pipeline.pool.stores.memory import MemoryTasks
from batch_pipeline.pool.stores.optimistic import OptimisticStore
from batch_pipeline.pool.stores.sqlite.store import SqliteTasks
from batch_pipeline.pool.stores.storage import TaskStorage
from batch_pipeline.pool.task import Action, Move, Task, TaskOutcome, TaskSpec, TaskState
from batch_pipeline.wire.contract import EndReason

FINE = TaskOutcome(end_reason=EndReason.FINISHED, exit_code=0)
WRONG = TaskOutcome(end_reason=EndReason.STEP_FAILED, exit_code=3, error="exit code 3")
LEASE_MS = 60_000


class Late:
    """Rows as one sees them who looked at the queue a while ago: a listing, a view, an index that lags behind."""

    def __init__(self, rows: TaskStorage, seen: Sequence[Task]) -> None:
        self._rows = rows
        self._seen = list(seen)

    def candidates(self, count: int, classes: Collection[str] | None) -> Sequence[Task]:
        """What was seen, once."""
        seen, self._seen = self._seen, []
        return seen[:count]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._rows, name)


@pytest.fixture(params=["memory", "sqlite"])
def rows(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[TaskStorage]:
    with ExitStack() as stack:
        found: TaskStorage = MemoryTasks() if request.param == "memory" else SqliteTasks(tmp_path / "pool.sqlite")
        stack.callback(found.close)
        yield found


@pytest.fixture
def pool(rows: TaskStorage) -> PoolStore:
    return OptimisticStore(rows)


def claim(pool: PoolStore, count: int = 1, *, owner: str = "one") -> list[Claim]:
    return pool.claim(owner, count, lease_ms=LEASE_MS, now_ms=10)


def settle(pool: PoolStore, held: Claim, outcome: TaskOutcome = FINE) -> WriteResult:
    [answer] = pool.settle([Settlement(claim=held, outcome=outcome)], now_ms=20)
    return answer


def states(pool: PoolStore) -> dict[str, TaskState]:
    return {task.id: task.state for task in tasks_of(pool, Filter())}


def add(pool: PoolStore, *names: str, **fields: Any) -> None:
    pool.add([TaskSpec(id=name, command=("true",), **fields) for name in names], now_ms=0)


# Claims. PyAnamo's second worker locked what the first had locked and both held it; PiCaS's took the lock away with the
# revision that the first had made.


def held_by_another(pool: PoolStore) -> None:
    claim(pool)


def done_by_another(pool: PoolStore) -> None:
    settle(pool, claim(pool)[0])


def held_again_by_another(pool: PoolStore) -> None:
    pool.release(claim(pool), now_ms=11, why="changed its mind")
    claim(pool)


def cancelled(pool: PoolStore) -> None:
    pool.move(Filter(), Action.CANCEL, now_ms=11, act="x")


def deleted(pool: PoolStore) -> None:
    pool.move(Filter(), Action.DELETE, now_ms=11, act="x")


def given_back(pool: PoolStore) -> None:
    pool.release(claim(pool), now_ms=11, why="changed its mind")


@pytest.mark.parametrize(
    "meanwhile", [held_by_another, done_by_another, held_again_by_another, cancelled, deleted, given_back]
)
def test_who_looked_before_another_acted_claims_nothing(
    rows: TaskStorage, pool: PoolStore, meanwhile: Callable[[PoolStore], None]
) -> None:
    add(pool, "t")
    late = OptimisticStore(Late(rows, rows.candidates(10, None)))
    meanwhile(pool)
    before = list(tasks_of(pool, Filter()))
    events = list(pool.events())
    # PiCaS's pilot died of a token that was gone; PyAnamo made an item of it.
    assert claim(late, 10, owner="two") == []
    assert list(tasks_of(pool, Filter())) == before
    assert list(pool.events()) == events


def test_of_two_who_look_at_the_same_moment_one_holds_the_task(rows: TaskStorage, pool: PoolStore) -> None:
    add(pool, "t")
    seen = rows.candidates(10, None)
    first, second = (OptimisticStore(Late(rows, seen)) for _ in range(2))
    held = [claim(one, owner=owner) for one, owner in ((first, "one"), (second, "two"))]
    assert [len(some) for some in held] == [1, 0]
    assert settle(pool, held[0][0]) is WriteResult.ACCEPTED
    assert [event.move for event in pool.events(task_id="t")] == [Move.ADDED, Move.CLAIMED, Move.DONE]


def test_contention_is_no_error(rows: TaskStorage, pool: PoolStore) -> None:
    """Ten conflicts one after another ended PiCaS's pilot."""
    add(pool, *(f"t{number}" for number in range(50)))
    late = OptimisticStore(Late(rows, rows.candidates(40, None)))
    claim(pool, 40)
    assert claim(late, 40, owner="two") == []
    assert len(claim(pool, 40, owner="two")) == 10


# Results.


def test_a_result_is_not_lost_when_the_task_was_written_meanwhile(pool: PoolStore) -> None:
    """PiCaS took the newer revision and did not save: the result was lost and the token stayed locked."""
    add(pool, "t")
    [held] = claim(pool)
    pool.renew([held], now_ms=15, progress={"t": 0.5})
    assert settle(pool, held) is WriteResult.ACCEPTED
    assert settle(pool, held) is WriteResult.REPEATED
    assert states(pool) == {"t": TaskState.DONE}


def test_a_command_that_fails_has_failed(pool: PoolStore) -> None:
    """PyAnamo called it done, whatever the exit code."""
    add(pool, "t", "u")
    for held, outcome in zip(claim(pool, 2), (WRONG, replace(WRONG, exit_code=127)), strict=True):
        settle(pool, held, outcome)
    assert set(states(pool).values()) == {TaskState.FAILED}


def test_interruptions_are_not_counted_as_failures(pool: PoolStore) -> None:
    """PiCaS scrubbed for both, from one count."""
    add(pool, "t", most_attempts=2)
    for _ in range(3):
        settle(pool, claim(pool)[0], TaskOutcome(end_reason=EndReason.INTERRUPTED))
    task = pool.get("t")
    assert task is not None
    assert (task.state, task.attempts, task.returns) == (TaskState.TODO, 0, 3)


# Items with sub-tasks. PyAnamo counted what was done along, and again when it was done again.


def nested(pool: PoolStore, size: int) -> None:
    add(pool, *(f"item/Task_{number}" for number in range(size)), parent="item")


def drain(pool: PoolStore) -> None:
    while held := claim(pool, 10):
        for one in held:
            settle(pool, one)


def test_a_sub_task_that_is_done_again_does_not_count_twice(pool: PoolStore) -> None:
    nested(pool, 3)
    drain(pool)
    pool.move(Filter(ids=frozenset({"item/Task_1"})), Action.RESET, now_ms=30, act="x")
    [nest] = pool.nests()
    assert (nest.state, round(nest.progress, 2)) == (TaskState.TODO, 0.67)
    drain(pool)
    [nest] = pool.nests()
    assert (nest.state, nest.progress, nest.size) == (TaskState.DONE, 1.0, 3)


def test_an_item_that_is_reset_half_way_comes_to_its_end_and_keeps_its_history(pool: PoolStore) -> None:
    nested(pool, 4)
    for held in claim(pool, 2):
        settle(pool, held)
    pool.move(Filter(parent="item"), Action.RESET, now_ms=30, act="x")
    drain(pool)
    [nest] = pool.nests()
    assert (nest.state, nest.progress) == (TaskState.DONE, 1.0)
    assert [event.move for event in pool.events(task_id="item/Task_0")].count(Move.DONE) == 2


# People.


def test_resetting_one_item_resets_it(pool: PoolStore) -> None:
    """PyAnamo's way for a single item always told an error."""
    add(pool, "t")
    settle(pool, claim(pool)[0], WRONG)
    assert pool.move(Filter(ids=frozenset({"t"})), Action.RESET, now_ms=30, act="x").moved == 1
    assert states(pool) == {"t": TaskState.TODO}


@pytest.mark.parametrize("action", list(Action))
def test_nothing_comes_of_acting_on_what_is_not_there(pool: PoolStore, action: Action) -> None:
    """PyAnamo made a ghost of an unknown id; PiCaS's error branch failed itself."""
    add(pool, "t")
    report = pool.move(Filter(ids=frozenset({"ghost"})), action, now_ms=30, act="x", force=True)
    assert (report.moved, report.refused) == (0, 0)
    assert states(pool) == {"t": TaskState.TODO}


def test_a_refused_deletion_is_told(pool: PoolStore) -> None:
    add(pool, "t", "u")
    claim(pool)
    report = pool.move(Filter(), Action.DELETE, now_ms=30, act="x")
    assert (report.moved_ids, set(report.refusals)) == (("u",), {"t"})


def test_after_a_failure_and_a_retry_a_task_is_seen_and_claimed(pool: PoolStore) -> None:
    """After an error and a scrub, PiCaS's token was in none of its views."""
    add(pool, "t")
    settle(pool, claim(pool)[0], WRONG)
    pool.move(Filter(), Action.RETRY, now_ms=30, act="x")
    assert pool.counts().of(TaskState.TODO) == 1
    assert [held.id for held in claim(pool)] == ["t"]


def test_every_state_that_a_move_can_lead_to_is_counted_and_found(pool: PoolStore) -> None:
    add(pool, *(f"t{number}" for number in range(5)))
    add(pool, "w", after=("absent",))
    held = claim(pool, 3)
    settle(pool, held[0])
    settle(pool, held[1], WRONG)
    pool.move(Filter(ids=frozenset({"t4"})), Action.CANCEL, now_ms=30, act="x")
    reached = {state for _, targets in LEGAL.values() for state in targets if state}
    assert set(states(pool).values()) == reached == set(TaskState)
    # PyAnamo counted three states, and so four items of five.
    counts = pool.counts()
    assert [counts.of(state) for state in TaskState] == [1] * 6
    assert counts.total == 6
    for state in TaskState:
        assert len(pool.find(Filter(states=frozenset({state}))).tasks) == 1


def test_the_overview_of_items_and_single_tasks_together(pool: PoolStore) -> None:
    """PyAnamo's summary failed when a locked item had no sub-tasks."""
    nested(pool, 2)
    add(pool, "single")
    claim(pool, 3)
    seen = overview(pool, now_ms=20, job_states=lambda ids: {})
    assert seen.counts.of(TaskState.HELD) == 3
    assert seen.items == {TaskState.HELD: 1}


# Import and export.


def test_importing_again_resets_nothing(pool: PoolStore, tmp_path: Path) -> None:
    """PyAnamo's import put what was locked or done back to be done."""
    path = tmp_path / "items.txt"
    path.write_text("itemID|TaskID|TaskScript\na|s|true\nb|s|true\nc|s|true\n")
    reading = Reading(format=Format.PYANAMO)
    import_file(pool, path, reading, now_ms=0)
    done, held = claim(pool, 2)
    settle(pool, done)
    before = list(tasks_of(pool, Filter()))
    import_file(pool, path, reading, now_ms=30)
    assert list(tasks_of(pool, Filter())) == before
    assert settle(pool, held) is WriteResult.ACCEPTED


def test_tokens_added_after_a_deletion_keep_their_own_names(pool: PoolStore, tmp_path: Path) -> None:
    """PiCaS named tokens by how many documents there were, so that names came twice after a deletion."""
    path = tmp_path / "commands"
    path.write_text("echo 0\necho 1\n")
    reading = Reading(format=Format.LINES)
    import_file(pool, path, reading, now_ms=0)
    pool.move(Filter(ids=frozenset({"token_0"})), Action.DELETE, now_ms=5, act="x")
    path.write_text("echo 0\necho 1\necho 2\n")
    report = import_file(pool, path, reading, now_ms=30).report
    assert report is not None
    assert (report.added, report.unchanged, report.differing) == (2, 1, 0)
    assert {task.id: task.spec.shell for task in tasks_of(pool, Filter())} == {
        f"token_{number}": f"echo {number}" for number in range(3)
    }


def test_tasks_that_never_ran_can_be_told_of(pool: PoolStore, tmp_path: Path) -> None:
    """PiCaS failed to tell the errors of a document that had none."""
    add(pool, "t")
    for form in ExportFormat:
        assert export_file(pool, tmp_path / form.value, form) == 1
    assert pool.find(Filter(error="anything")).tasks == ()
