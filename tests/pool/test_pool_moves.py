"""What comes of each move of a task, as values; what stores make of them is the contract's."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from batch_pipeline.pool.base import WriteResult
from batch_pipeline.pool.dependencies import concerns_others, needs, reconsidered
from batch_pipeline.pool.moves import (
    Holder,
    Transition,
    acted,
    added,
    answered,
    claimed,
    expired,
    released,
    renewed,
    settled,
    undone,
)
from batch_pipeline.pool.task import Action, Move, Task, TaskEvent, TaskOutcome, TaskSpec, TaskState
from batch_pipeline.wire.contract import EndReason
from batch_pipeline.wire.errors import IllegalMove

WRONG = TaskOutcome(end_reason=EndReason.STEP_FAILED, exit_code=1, error="no", log_tail="the last lines")
FINE = TaskOutcome(end_reason=EndReason.FINISHED, exit_code=0)
HELD, WAITING, READY = TaskState.HELD, TaskState.WAITING, TaskState.TODO
DONE, FAILED, CANCELLED = TaskState.DONE, TaskState.FAILED, TaskState.CANCELLED


def after_of(change: Transition | None) -> Task:
    assert change is not None
    assert change.after is not None
    return change.after


def event_of(change: Transition | None) -> TaskEvent:
    assert change is not None
    assert change.event is not None
    return change.event


def new(**more: Any) -> Task:
    return after_of(added(TaskSpec(id="t", command=("true",), **more), now_ms=1))


def held(**more: Any) -> Task:
    """Held by `one` from 10 to 100,010."""
    return after_of(claimed(new(**more), Holder(owner="one", native_id="job-1", lease_ms=100_000, now_ms=10)))


def failed(**more: Any) -> Task:
    return after_of(settled(held(**more), WRONG, now_ms=20))


def acted_on(task: Task, action: Action, *, now_ms: int = 50, force: bool = False) -> Transition:
    return acted(task, action, now_ms=now_ms, act="act", who="me", force=force)


def test_a_claim_begins_with_nothing_of_the_last_one() -> None:
    again = replace(failed(most_attempts=2), progress=0.5, reason="old")
    task = after_of(claimed(again, Holder(owner="two", native_id="job-2", lease_ms=50, now_ms=30)))
    assert (task.state, task.owner, task.native_id, task.claimed_at_ms) == (HELD, "two", "job-2", 30)
    assert (task.lease_ms, task.lease_until_ms, task.progress, task.reason) == (50, 80, None, "")
    assert (task.fence, task.moves, task.attempts) == (again.fence + 1, again.moves + 1, 1)


def test_a_renewed_lease_keeps_the_progress_unless_one_is_told() -> None:
    task = replace(held(), progress=0.25)
    change = renewed(task, now_ms=60, progress=None)
    assert change.event is None
    assert after_of(change) == replace(task, lease_until_ms=100_060)
    assert after_of(renewed(task, now_ms=60, progress=0.0)).progress == 0.0


@pytest.mark.parametrize(
    ("outcome", "state", "progress"), [(FINE, DONE, 1.0), (WRONG, FAILED, 0.5)], ids=["done", "failed"]
)
def test_an_end_lets_go_and_tells_how_it_was(outcome: TaskOutcome, state: TaskState, progress: float) -> None:
    change = settled(replace(held(), progress=0.5), outcome, now_ms=20)
    task, event = after_of(change), event_of(change)
    assert (task.state, task.progress, task.outcome, task.ended_at_ms) == (state, progress, outcome, 20)
    assert (task.owner, task.lease_ms, task.lease_until_ms) == ("one", 0, 0)
    assert (event.owner, event.why, event.outcome) == ("one", outcome.error, replace(outcome, log_tail=""))


def test_failures_and_returns_are_counted_apart_and_each_up_to_its_bound() -> None:
    lost = TaskOutcome(end_reason=EndReason.INTERRUPTED)
    task = held(most_attempts=3, most_returns=1)
    again = after_of(settled(task, WRONG, now_ms=20))
    assert (again.state, again.attempts, again.returns) == (READY, 1, 0)
    at_bound = after_of(settled(replace(task, attempts=2), WRONG, now_ms=20))
    assert (at_bound.state, at_bound.attempts, at_bound.returns) == (FAILED, 3, 0)
    back = after_of(settled(task, lost, now_ms=20))
    assert (back.state, back.attempts, back.returns) == (READY, 0, 1)
    too_often = after_of(settled(claimed_again(back), lost, now_ms=20))
    assert (too_often.state, too_often.attempts, too_often.returns) == (FAILED, 0, 2)


def claimed_again(task: Task) -> Task:
    return after_of(claimed(task, Holder(owner="two", native_id="", lease_ms=100, now_ms=10)))


@pytest.mark.parametrize("take_back", ["released", "expired"])
def test_what_comes_back_too_often_is_lost(take_back: str) -> None:
    def take(task: Task) -> Transition:
        if take_back == "expired":
            return expired(task, now_ms=200)
        return released(task, now_ms=200, why="told to", counted=True)

    change = take(held(most_returns=1))
    assert (after_of(change).state, after_of(change).returns, event_of(change).owner) == (READY, 1, "one")
    assert event_of(change).why
    change = take(held(most_returns=0))
    task = after_of(change)
    assert (task.state, task.returns, event_of(change).move) == (FAILED, 1, Move.LOST)
    assert task.outcome is not None
    assert task.outcome.end_reason is EndReason.LOST
    assert task.outcome.error.startswith("It came back 1 times, at last because: ")
    assert event_of(change).outcome == task.outcome


def test_a_return_that_does_not_count_never_loses_a_task() -> None:
    task = after_of(released(held(most_returns=0), now_ms=20, why="told to", counted=False))
    assert (task.state, task.returns) == (READY, 0)


@pytest.mark.parametrize("most_returns", [0, 1])
def test_a_task_is_taken_back_only_if_its_lease_was_not_prolonged_meanwhile(most_returns: int) -> None:
    assert expired(held(most_returns=most_returns), now_ms=200).lease_counts
    assert not settled(held(), FINE, now_ms=20).lease_counts


# People.


@pytest.mark.parametrize("action", [Action.RESET, Action.CANCEL])
def test_a_forced_move_fences_off_who_held_the_task(action: Action) -> None:
    task = held()
    with pytest.raises(IllegalMove, match=r"held by one for another 100 s"):
        acted(task, action, now_ms=50, act="act")
    assert after_of(acted_on(task, action, force=True)).fence == task.fence + 1
    assert after_of(acted_on(new(), action)).fence == 0, "nobody is to be fenced off"


def test_a_move_that_the_table_has_not_is_refused_with_both_states() -> None:
    done = after_of(settled(held(), FINE, now_ms=20))
    with pytest.raises(IllegalMove, match=r"Task t cannot go from done to todo \(retried\)"):
        acted_on(done, Action.RETRY)
    with pytest.raises(IllegalMove, match=r"from done to cancelled \(cancelled\)"):
        acted_on(done, Action.CANCEL)
    with pytest.raises(IllegalMove, match=r"from waiting to held \(claimed\)"):
        claimed(new(after=("a",)), Holder(owner="one", native_id="", lease_ms=1, now_ms=2))


def test_after_a_forced_cancel_and_a_retry_the_next_claim_has_a_higher_number() -> None:
    """Else the first holder, which may wake up at any time, would settle the claim of the second."""
    task = held()
    cancelled = after_of(acted_on(task, Action.CANCEL, force=True))
    again = claimed_again(after_of(acted_on(cancelled, Action.RETRY)))
    assert again.fence > task.fence


def test_a_retried_task_keeps_what_is_known_of_its_last_attempt_until_the_next_one_ends() -> None:
    before = replace(failed(), returns=2)
    task = after_of(acted_on(before, Action.RETRY))
    assert (task.state, task.attempts, task.returns, task.moves) == (READY, 0, 0, before.moves + 1)
    assert (task.owner, task.outcome, task.claimed_at_ms, task.ended_at_ms) == ("one", WRONG, 10, 20)
    assert task.added_at_ms == 1


def test_a_reset_task_is_as_if_it_had_never_been_claimed() -> None:
    before = failed()
    task = after_of(acted_on(before, Action.RESET))
    assert task == replace(new(), moves=before.moves + 1, fence=before.fence)


def test_a_cancelled_task_keeps_its_progress() -> None:
    task = after_of(acted_on(replace(held(), progress=0.5), Action.CANCEL, force=True))
    assert (task.state, task.progress, task.ended_at_ms, task.lease_until_ms) == (CANCELLED, 0.5, 50, 0)


def test_a_persons_move_is_told_with_the_task_as_it_was() -> None:
    event = event_of(acted_on(failed(), Action.DELETE))
    assert (event.owner, event.act, event.before, event.target) == ("me", "act", failed(), None)
    assert event.number == failed().moves + 1


def undo(event: TaskEvent, current: Task | None, past: TaskEvent | None = None) -> Transition:
    return undone(event, current, past=past, now_ms=60, act="undo", who="you")


def test_undo_gives_back_what_was_under_the_next_number_and_can_be_undone() -> None:
    change = acted_on(failed(), Action.RESET)
    undo_step = undo(event_of(change), change.after)
    assert after_of(undo_step) == replace(failed(), moves=failed().moves + 2)
    event = event_of(undo_step)
    assert (event.move, event.owner, event.act, event.why) == (Move.UNDONE, "you", "undo", "undid act")
    assert event.before == change.after


def test_what_no_person_did_is_not_undone() -> None:
    change = settled(held(), FINE, now_ms=20)
    with pytest.raises(IllegalMove, match=r"Move 3 of task t \(done\) cannot be undone"):
        undo(event_of(change), change.after)


def test_undo_of_a_deletion_fences_off_nobody_where_nobody_held_the_task() -> None:
    deleted = event_of(acted_on(new(), Action.DELETE))
    assert after_of(undo(deleted, None, deleted)).fence == new().fence


def test_undo_of_a_deletion_needs_that_nothing_happened_since() -> None:
    deleted = event_of(acted_on(failed(), Action.DELETE))
    assert after_of(undo(deleted, None, deleted)) == replace(failed(), moves=failed().moves + 2)
    with pytest.raises(IllegalMove, match="moved since"):
        undo(deleted, None, replace(deleted, number=deleted.number + 2))
    with pytest.raises(IllegalMove, match="moved since"):
        undo(deleted, replace(new(), moves=deleted.number + 1))


@pytest.mark.parametrize("action", [Action.RESET, Action.CANCEL, Action.DELETE])
def test_undo_of_a_forced_move_holds_nothing_and_fences_off_who_did(action: Action) -> None:
    task = held()
    change = acted_on(task, action, force=True)
    event = event_of(change)
    back = after_of(undo(event, change.after, event))
    assert (back.state, back.lease_ms, back.lease_until_ms) == (READY, 0, 0)
    assert back.fence > max(task.fence, change.after.fence if change.after else 0)


def test_a_task_added_after_its_deletion_goes_on_with_the_numbers() -> None:
    gone = event_of(acted_on(held(), Action.DELETE, force=True))
    task = after_of(added(TaskSpec(id="t", command=("true",)), now_ms=70, past=gone))
    assert (task.moves, task.fence) == (gone.number + 1, gone.fence + 1)
    assert (new().moves, new().fence) == (1, 0)


# Writes that did not pass, and tasks that wait.


def test_the_same_end_sent_again_is_known_and_any_other_is_refused() -> None:
    change = settled(held(), FINE, now_ms=20)
    done = after_of(change)
    assert answered(change, done) is WriteResult.REPEATED
    assert answered(change, None) is WriteResult.REFUSED
    for other in (
        replace(done, fence=done.fence + 1),
        replace(done, moves=done.moves + 1),
        replace(done, state=FAILED),
        replace(done, attempts=1),
        replace(done, returns=1),
        replace(done, outcome=WRONG),
    ):
        assert answered(change, other) is WriteResult.REFUSED


def test_a_waiting_task_is_freed_withheld_or_told_what_it_lacks() -> None:
    waiting = new(after=("a", "b"))
    assert waiting.state is WAITING
    assert needs({"a": DONE, "b": DONE}) is None
    assert needs({"a": DONE, "b": HELD}) == ""
    assert needs({"a": FAILED, "b": None}) == "a failed, b is not in the pool"
    assert needs(dict.fromkeys("abcde", CANCELLED)) == "a cancelled, b cancelled, c cancelled and 2 more"
    assert needs(dict.fromkeys("abcd", CANCELLED)) == "a cancelled, b cancelled, c cancelled and 1 more"
    assert needs(dict.fromkeys("abc", CANCELLED)) == "a cancelled, b cancelled, c cancelled"
    lacking = reconsidered(waiting, "a failed", now_ms=5)
    assert lacking is not None
    assert lacking.event is None
    assert after_of(lacking) == replace(waiting, reason="a failed")
    assert reconsidered(after_of(lacking), "a failed", now_ms=6) is None
    freed = reconsidered(after_of(lacking), None, now_ms=6)
    assert after_of(freed) == replace(waiting, state=READY, moves=2)
    assert reconsidered(after_of(freed), None, now_ms=7) is None
    withheld = reconsidered(after_of(freed), "a failed", now_ms=8)
    assert after_of(withheld) == replace(waiting, moves=3, reason="a failed")
    assert event_of(withheld).why == "a failed"


@pytest.mark.parametrize("state", [DONE, FAILED, CANCELLED, HELD])
def test_what_does_not_wait_is_not_reconsidered(state: TaskState) -> None:
    assert reconsidered(replace(new(), state=state), "a failed", now_ms=5) is None
    assert reconsidered(replace(new(), state=state), None, now_ms=5) is None


def test_beginnings_and_ends_concern_others_and_a_return_does_not() -> None:
    assert concerns_others(event_of(settled(held(), FINE, now_ms=20)))
    assert concerns_others(event_of(acted_on(failed(), Action.RETRY)))
    assert concerns_others(event_of(acted_on(new(), Action.DELETE)))
    assert not concerns_others(event_of(expired(held(), now_ms=200)))
