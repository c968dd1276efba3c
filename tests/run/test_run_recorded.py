"""`status` and `watch` for somebody who has the store and neither the pipeline's file nor its sample list."""

from __future__ import annotations

from pathlib import Path

import pytest

from batch_pipeline import backends
from batch_pipeline.config import Settings, load_settings
from batch_pipeline.records.record import read_record
from batch_pipeline.run import live
from batch_pipeline.run.driver import Interrupted
from batch_pipeline.run.live import live_run_ids
from batch_pipeline.run.recorded import recorded_status, watch_recorded
from batch_pipeline.run.status import status
from batch_pipeline.wire import layout
from batch_pipeline.wire.errors import InvalidUse
from batch_pipeline.wire.store import Store
from tests.run.small import Ear, Stage, chosen, drive, request_of

STRANGER = load_settings({"watch.poll_seconds": 0.01}, environ={}, folder=Path("/nowhere"))


@pytest.fixture
def asked(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> list[Settings]:
    """The settings with which a backend was made."""
    found: list[Settings] = []

    def create(settings: Settings) -> Stage:
        found.append(settings)
        return stage

    monkeypatch.setattr(backends, "create", create)
    monkeypatch.setattr(live, "LOOK_SECONDS", 0.0)
    return found


@pytest.fixture
def detached(store: Store, stage: Stage, asked: list[Settings]) -> str:
    stage.is_open = False
    (run_id,) = drive(request_of(store), stage, detach=True).run_ids
    return run_id


def move_to(store: Store, run_id: str, **changes: object) -> None:
    store.put_json(layout.run_record(run_id), store.get_json(layout.run_record(run_id)) | changes)


def test_a_live_run_is_told_as_with_the_pipeline(store: Store, stage: Stage, detached: str) -> None:
    with_pipeline, alone = status(request_of(store)), recorded_status(store, STRANGER)

    assert {name: step.line for name, step in alone.progress.items()} == {
        name: step.line for name, step in with_pipeline.progress.items()
    }
    assert list(alone.progress) == ["upper", "count", "total"]
    assert alone.progress["upper"].line == "0/3 done, 3 waiting"
    assert alone.live_runs == [detached]


def test_half_way_every_cell_is_counted_once(store: Store, stage: Stage, detached: str) -> None:
    stage.play = lambda step, sample, attempt: 3 * (sample == "bob")
    for native_id, index in stage.ready():
        stage.finish(native_id, index, stage._act(stage.jobs[native_id].request, index))

    found = recorded_status(store, STRANGER)

    assert {name: step.line for name, step in found.progress.items()} == {
        "upper": "2/3 done, 1 failed: step failed",
        "count": "0/3 done, 2 waiting, 1 not run",
        "total": "0/1 done, 1 waiting",
    }
    assert [(cell.step, cell.sample) for cell in found.failed] == [("upper", "bob")]


def test_a_run_is_watched_to_its_end_and_closed(store: Store, stage: Stage, detached: str) -> None:
    stage.play = lambda step, sample, attempt: 3 * (sample == "bob")
    stage.is_open = True
    ear = Ear()

    outcome = watch_recorded(store, STRANGER, ear)

    assert outcome.run_ids == (detached,)
    assert {name: step.line for name, step in outcome.progress.items()} == {
        "upper": "2/3 done, 1 failed: step failed",
        "count": "2/3 done, 1 not run",
        "total": "0/1 done, 1 not run",
    }
    assert [cell.because_of for cell in outcome.failed if cell.step == "total"] == ["upper"]
    assert (live_run_ids(store), ear.outcomes) == ([], [outcome])
    record = read_record(store, detached)
    assert (record.ended, record.done, record.failed) == (True, 4, 3)
    assert [step.line for step in recorded_status(store, STRANGER).progress.values()] == [
        "2/3 done, 1 failed: step failed",
        "2/3 done, 1 left out",
        "0/1 done, 1 left out",
    ]


def test_a_run_that_ended_unwatched_is_told_and_closed_by_watching(store: Store, stage: Stage, detached: str) -> None:
    stage.drain(stage._act)
    assert recorded_status(store, STRANGER).live_runs == []
    assert live_run_ids(store) == [detached], "looking closes nothing"

    outcome = watch_recorded(store, STRANGER, Ear())

    assert [step.line for step in outcome.progress.values()] == ["3/3 done", "3/3 done", "1/1 done"]
    assert (outcome.ok, live_run_ids(store)) == (True, [])
    assert watch_recorded(store, STRANGER, Ear()).run_ids == ()


def test_ctrl_c_tells_which_runs_go_on(
    store: Store, stage: Stage, detached: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from batch_pipeline.run.watch import Watch

    def pressed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Watch, "until_over", pressed)
    with pytest.raises(Interrupted) as told:
        watch_recorded(store, STRANGER, Ear())
    assert told.value.run_ids == (detached,)
    assert live_run_ids(store) == [detached]


def test_the_backend_is_the_one_that_the_record_names(
    store: Store, stage: Stage, detached: str, asked: list[Settings]
) -> None:
    place = {"aws.region": "eu-west-1", "aws.endpoint": "http://127.0.0.1:1"}
    move_to(store, detached, backend="aws", place=place, host="elsewhere")
    asked.clear()
    recorded_status(store, STRANGER)
    (settings,) = asked
    assert (settings.backend.name, settings.aws.region, settings.aws.endpoint) == (
        "aws",
        "eu-west-1",
        "http://127.0.0.1:1",
    )
    asked.clear()
    named = load_settings({"aws.region": "us-east-2"}, environ={}, folder=Path("/nowhere"))
    # There nothing is known of its jobs, which would count as lost.
    assert any("aws.region 'eu-west-1', not 'us-east-2'" in note for note in recorded_status(store, named).notes)
    with pytest.raises(InvalidUse, match="not 'us-east-2'"):
        watch_recorded(store, named, Ear())
    assert not asked
    assert live_run_ids(store) == [detached]


def test_from_another_machine_than_the_embedded_batchs_the_store_is_told(
    store: Store, stage: Stage, detached: str, asked: list[Settings]
) -> None:
    for native_id, index in stage.ready():
        stage.finish(native_id, index, stage._act(stage.jobs[native_id].request, index))
    move_to(store, detached, host="elsewhere")
    asked.clear()

    found = recorded_status(store, STRANGER)

    assert [step.line for step in found.progress.values()] == [
        "3/3 done",
        "0/3 done, 3 waiting",
        "0/1 done, 1 waiting",
    ]
    assert any("are on the embedded Batch of elsewhere" in note for note in found.notes)
    assert not asked
    with pytest.raises(InvalidUse, match="on the embedded Batch of elsewhere"):
        watch_recorded(store, STRANGER, Ear())
    assert live_run_ids(store) == [detached]


def test_an_older_run_is_told_when_named(store: Store, stage: Stage, asked: list[Settings]) -> None:
    (first,) = drive(request_of(store), stage).run_ids
    drive(request_of(store, "ann", "bob", "cid", "dan"), stage)
    assert recorded_status(store, STRANGER).plan.samples == ("ann", "bob", "cid", "dan")
    assert recorded_status(store, STRANGER, first).plan.samples == ("ann", "bob", "cid")


def test_a_forced_run_that_is_live_is_not_taken_for_done(store: Store, stage: Stage, asked: list[Settings]) -> None:
    drive(request_of(store), stage)
    stage.is_open = False
    drive(request_of(store, **chosen(force=True, samples=frozenset({"bob"}))), stage, detach=True)
    lines = [step.line for step in recorded_status(store, STRANGER).progress.values()]
    assert lines == [step.line for step in status(request_of(store)).progress.values()]


def test_a_store_without_runs_and_a_run_that_is_not_there_are_told(store: Store, asked: list[Settings]) -> None:
    with pytest.raises(InvalidUse, match="No run is recorded in memory://"):
        recorded_status(store, STRANGER)
    drive(request_of(store), Stage(store))
    with pytest.raises(InvalidUse, match="There is no run 01X in memory://"):
        recorded_status(store, STRANGER, "01X")
