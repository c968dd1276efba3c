"""What became of a run stands beside its record: failed submissions, orders, recovery, the end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from batch_pipeline.config import load_settings
from batch_pipeline.records.history import Happened, append, moment_of, new_run_id, problem_of, read_events
from batch_pipeline.records.record import read_record
from batch_pipeline.records.registry import Query, find_runs
from batch_pipeline.run import live, submit
from batch_pipeline.run.live import live_run_ids
from batch_pipeline.run.orders import Order, write_order
from batch_pipeline.wire.errors import StoreFailed, SubmissionRefused, SubmissionUnknown
from batch_pipeline.wire.store import Store
from tests.run.small import Stage, drive, request_of
from tests.run.virtual import OUT_OF_MEMORY, Attempt, Death, World


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits between two looks."""
    monkeypatch.setattr(live, "LOOK_SECONDS", 0.0)
    monkeypatch.setattr(submit, "LOOK_SECONDS", 0.0)


def refusing(stage: Stage, *, after: int) -> Callable[[], None]:
    """The backend takes so many jobs and no more, until what is returned is called."""
    real = stage.submit

    def submit(request: Any) -> str:
        if len(stage.jobs) >= after:
            raise SubmissionRefused("The queue 'mixed' is closed. Open it.")
        return real(request)

    stage.submit = submit  # type: ignore[method-assign]
    return lambda: setattr(stage, "submit", real)


@pytest.mark.parametrize(("after", "job"), [(0, "upper-0-0"), (1, "count-0-0"), (2, "total")])
def test_a_refused_job_leaves_a_record_that_says_so(store: Store, stage: Stage, after: int, job: str) -> None:
    stage.is_open = False
    repair = refusing(stage, after=after)
    with pytest.raises(SubmissionRefused):
        drive(request_of(store), stage)

    (record,) = find_runs(store, Query())
    event, *ended = read_events(store, record.run_id)
    # One of which nothing was queued is closed at once.
    assert (record.status, len(ended)) == (("live", 0) if after else ("failed", 1))
    assert event.event == "submission failed"
    assert event.message == f"{job}: The queue 'mixed' is closed. Open it."
    assert event.details | {"error": "SubmissionRefused", "job": job, "jobs_sent": after} == event.details
    assert event.by == record.user

    repair()
    stage.is_open = True
    assert drive(request_of(store), stage).ok
    first = read_record(store, record.run_id)
    assert first.problem.startswith(f"submission failed: {job}")
    assert (first.status, first.ok) == ("failed", False)
    assert [event.event for event in read_events(store, record.run_id)] == ["submission failed", "ended"]


def test_a_doubt_that_nobody_could_settle_is_told_too(store: Store, stage: Stage) -> None:
    stage.fail_next(SubmissionUnknown("Nobody knows."), queued=False)
    stage.fail_next(SubmissionUnknown("Nobody knows, again."), queued=False)
    with pytest.raises(SubmissionUnknown):
        drive(request_of(store), stage)

    (record,) = find_runs(store, Query())
    assert problem_of(read_events(store, record.run_id)) == "submission failed: upper-0-0: Nobody knows, again."
    assert live_run_ids(store) == [record.run_id]


def test_definitions_that_are_not_taken_leave_a_record_that_says_so(
    store: Store, stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def prepare(definitions: object) -> dict[str, str]:
        raise SubmissionRefused("No such role.")

    monkeypatch.setattr(stage, "prepare", prepare)
    with pytest.raises(SubmissionRefused):
        drive(request_of(store), stage)

    (record,) = find_runs(store, Query())
    assert (record.status, record.problem) == ("failed", "submission failed: No such role.")
    assert live_run_ids(store) == []


def test_ctrl_c_in_the_middle_of_a_submission_is_told(store: Store, stage: Stage) -> None:
    def submit(request: object) -> str:
        raise KeyboardInterrupt

    stage.submit = submit  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        drive(request_of(store), stage)

    (record,) = find_runs(store, Query())
    assert problem_of(read_events(store, record.run_id)).startswith("submission interrupted: upper-0-0")
    # The job may be queued.
    assert live_run_ids(store) == [record.run_id]


def test_a_store_that_takes_no_event_does_not_hide_why(
    store: Store, stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusing(stage, after=0)
    real = store.put_if_absent

    def put_if_absent(key: str, data: bytes) -> bool:
        if "/events/" in key:
            raise StoreFailed("It is full.")
        return real(key, data)

    monkeypatch.setattr(store, "put_if_absent", put_if_absent)
    with pytest.raises(SubmissionRefused, match="closed"):
        drive(request_of(store), stage)


def test_an_order_to_cancel_says_by_whom(store: Store, stage: Stage) -> None:
    stage.is_open = False
    drive(request_of(store), stage, detach=True)
    (run_id,) = live_run_ids(store)

    write_order(store, Order(run_id=run_id, steps=frozenset({"count"}), samples=frozenset({"ann", "bob"})))

    (event,) = read_events(store, run_id)
    assert (event.event, event.message) == ("cancelled", "count, 2 samples")
    assert event.by == read_record(store, run_id).user


def test_a_wave_that_goes_again_says_what_and_after_which_run(store: Store) -> None:
    def play(attempt: Attempt) -> Death | None:
        hungry = (attempt.step, attempt.sample) == ("upper", "bob") and attempt.memory_mb < 2048
        return OUT_OF_MEMORY if hungry else None

    settings = load_settings({"watch.poll_seconds": 30}, environ={})
    first, second = World(store, play).drive(request_of(store, settings=settings)).run_ids

    events = [event for event in read_events(store, second) if event.event == "recovery"]
    assert [event.details["of"] for event in events] == [[first]]
    assert "upper: 1 cell sent again with" in events[0].message
    assert [event.event for event in read_events(store, first)] == ["ended"]


def test_an_event_holds_no_secret(store: Store) -> None:
    append(store, "R", Happened.SUBMISSION_FAILED, "https://ada:hunter2@example.org is away")
    (event,) = read_events(store, "R")
    assert event.message == "https://***@example.org is away"


def test_ids_tell_when_they_were_made() -> None:
    first, second = new_run_id(), new_run_id()
    one, two = moment_of(first), moment_of(second)
    assert one is not None
    assert two is not None
    assert one <= two
    assert moment_of("01ARZ3NDEKTSV4RRFFQ69G5FAV").isoformat() == "2016-07-30T23:54:10.259000+00:00"  # type: ignore[union-attr]
    assert [moment_of(text) for text in ("", "R1", "l" * 26, "Z" * 26)] == [None] * 4
