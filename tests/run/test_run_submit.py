"""Recording before acting, and what becomes of submissions in doubt."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from batch_pipeline.config import load_settings
from batch_pipeline.run import live, submit
from batch_pipeline.run.live import live_jobs, live_run_ids, read_live_runs, submissions
from batch_pipeline.wire import layout
from batch_pipeline.wire.digest import sha256_of_bytes
from batch_pipeline.wire.errors import BackendFailed, StoreFailed, SubmissionRefused, SubmissionUnknown
from batch_pipeline.wire.manifest import Manifest
from batch_pipeline.wire.store import Store
from tests.run.small import SAMPLES, Ear, Stage, drive, look, request_of

CELLS = [*(("upper", s) for s in SAMPLES), *(("count", s) for s in SAMPLES), ("total", "_cohort")]


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits between two looks."""
    monkeypatch.setattr(live, "LOOK_SECONDS", 0.0)
    monkeypatch.setattr(submit, "LOOK_SECONDS", 0.0)


@pytest.fixture
def puts(store: Store, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every key that is written, in order."""
    keys: list[str] = []
    real = store.put

    absent = store.put_if_absent

    def put(key: str, data: bytes) -> None:
        keys.append(key)
        real(key, data)

    def put_if_absent(key: str, data: bytes) -> bool:
        keys.append(key)
        return absent(key, data)

    monkeypatch.setattr(store, "put", put)
    monkeypatch.setattr(store, "put_if_absent", put_if_absent)
    return keys


def broken_at(store: Store, monkeypatch: pytest.MonkeyPatch, ending: str) -> Callable[[], None]:
    """The store refuses to write keys of that ending, until what is returned is called."""
    real, absent = store.put, store.put_if_absent

    def refuse(key: str) -> None:
        if key.endswith(ending):
            raise StoreFailed(f"No write of {key}.")

    def put(key: str, data: bytes) -> None:
        refuse(key)
        real(key, data)

    def put_if_absent(key: str, data: bytes) -> bool:
        refuse(key)
        return absent(key, data)

    def repair() -> None:
        monkeypatch.setattr(store, "put", real)
        monkeypatch.setattr(store, "put_if_absent", absent)

    monkeypatch.setattr(store, "put", put)
    monkeypatch.setattr(store, "put_if_absent", put_if_absent)
    return repair


def test_everything_is_recorded_before_it_is_done(store: Store, puts: list[str]) -> None:
    class Told(Stage):
        def submit(self, request: Any) -> str:
            puts.append(f"SubmitJob {request.name}")
            return super().submit(request)

    stage = Told(store)
    stage.is_open = False
    drive(request_of(store), stage, detach=True)

    run_id = live_run_ids(store)[0]
    short = [key.removeprefix(f"runs/{run_id}/") for key in puts if run_id in key or "SubmitJob" in key]
    short = [key for key in short if key != "diff.patch"]
    assert short[:6] == ["config.json", "workflow.py", "run.json", "samples.tsv", "plan.json", f"live/{run_id}.json"]
    upper = [key.rsplit("/", 1)[-1].split()[0] for key in short if "upper" in key]
    assert upper == ["rows.txt", "manifest.json", "intent.json", "SubmitJob", "sent.json"]
    order = [key.split("/")[1] for key in short if key.endswith("sent.json")]
    assert order == ["upper-0-0", "count-0-0", "total"]


def test_a_job_is_told_the_digests_of_what_its_containers_read(store: Store, stage: Stage) -> None:
    drive(request_of(store), stage)
    environments = [job.request.environment for job in stage.jobs.values()]
    assert len(environments) == 3
    for environment in environments:
        key = environment["BATCH_PIPELINE_MANIFEST"]
        assert sha256_of_bytes(store.get(key)) == environment["BATCH_PIPELINE_MANIFEST_SHA256"]
        rows = key.replace("manifest.json", "rows.txt")
        assert sha256_of_bytes(store.get(rows)) == environment["BATCH_PIPELINE_ROWS_SHA256"]


@pytest.mark.parametrize(("mode", "stated"), [("both", (1, None, None)), ("store", (3, ["log_excerpt"], True))])
def test_containers_are_told_where_the_log_goes(store: Store, stage: Stage, mode: str, stated: Any) -> None:
    """An image that does not know it refuses the manifest, and one of before reads what it always read."""
    settings = load_settings({"logs.mode": mode}, environ={})
    drive(request_of(store, settings=settings), stage)
    for job in stage.jobs.values():
        value = store.get_json(job.request.environment["BATCH_PIPELINE_MANIFEST"])
        assert (value["format"], value.get("needs"), value.get("log_excerpt")) == stated
        assert Manifest.from_json(value).log_excerpt == (mode == "store")


def test_one_submission_a_step(store: Store, stage: Stage) -> None:
    ear = Ear()
    drive(request_of(store), stage, ear)

    assert ear.jobs == [("upper-0-0", 3), ("count-0-0", 3), ("total", 1)]
    assert stage.calls["submit"] == 3
    assert sorted(stage.submitted()) == sorted(CELLS)


def test_a_lost_answer_is_looked_up_by_name_and_not_sent_again(store: Store, stage: Stage) -> None:
    stage.fail_next(SubmissionUnknown("The answer was lost."), queued=True)

    outcome = drive(request_of(store), stage)

    assert outcome.ok
    assert sorted(stage.submitted()) == sorted(CELLS)
    assert stage.calls["find"] == 1


def test_a_request_that_was_lost_is_sent_again_after_several_looks(store: Store, stage: Stage) -> None:
    stage.fail_next(SubmissionUnknown("Nobody knows."), queued=False)

    assert drive(request_of(store), stage).ok
    assert sorted(stage.submitted()) == sorted(CELLS)
    assert stage.calls["find"] == live.LOOKS


def test_a_listing_that_lags_behind_is_waited_for(store: Store, stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    stage.fail_next(SubmissionUnknown("The answer was lost."), queued=True)
    real, looks = stage.find, iter([None, None])
    monkeypatch.setattr(stage, "find", lambda name, queue: next(looks, real(name, queue)))

    assert drive(request_of(store), stage).ok
    assert sorted(stage.submitted()) == sorted(CELLS)


@pytest.mark.parametrize("queued", [True, False])
def test_a_second_doubt_goes_to_the_user_and_the_next_command_settles_it(
    store: Store, stage: Stage, queued: bool
) -> None:
    stage.fail_next(SubmissionUnknown("Nobody knows."), queued=False)
    stage.fail_next(SubmissionUnknown("Nobody knows, again."), queued=queued)
    with pytest.raises(SubmissionUnknown, match="again"):
        drive(request_of(store), stage)

    assert drive(request_of(store), stage).ok
    assert sorted(stage.submitted()) == sorted(CELLS)
    assert live_run_ids(store) == []


def test_a_refusal_in_the_middle_leaves_what_was_sent_to_the_next_command(store: Store, stage: Stage) -> None:
    real = stage.submit
    sent = iter([real])
    stage.submit = lambda request: next(sent, refuse)(request)  # type: ignore[method-assign]

    def refuse(request: Any) -> str:
        raise SubmissionRefused("The queue is closed.")

    stage.is_open = False
    with pytest.raises(SubmissionRefused, match="queue is closed"):
        drive(request_of(store), stage)
    stage.submit = real  # type: ignore[method-assign]
    assert [job.step for job in look(request_of(store), stage).inventory.live] == ["upper"]
    stage.is_open = True

    assert drive(request_of(store), stage).ok
    assert sorted(stage.submitted()) == sorted(CELLS)


@pytest.mark.parametrize(
    "ending",
    ["config.json", "run.json", "plan.json", "samples.tsv", "rows.txt", "manifest.json", "intent.json", "sent.json"],
)
def test_a_store_that_fails_at_any_write_loses_and_repeats_nothing(
    store: Store, stage: Stage, monkeypatch: pytest.MonkeyPatch, ending: str
) -> None:
    request = request_of(store)
    repair = broken_at(store, monkeypatch, ending)
    with pytest.raises(StoreFailed, match="No write of"):
        drive(request, stage)
    repair()

    assert drive(request, stage).ok
    assert sorted(stage.submitted()) == sorted(CELLS)
    assert live_run_ids(store) == []


def doubtful(store: Store, stage: Stage, monkeypatch: pytest.MonkeyPatch) -> str:
    """A driver died between SubmitJob and the record of its answer."""
    repair = broken_at(store, monkeypatch, "sent.json")
    with pytest.raises(StoreFailed):
        drive(request_of(store), stage)
    repair()
    return live_run_ids(store)[0]


def test_an_intent_whose_job_is_queued_is_recorded_and_lives_on(
    store: Store, stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage.is_open = False
    run_id = doubtful(store, stage, monkeypatch)
    assert submissions(store, run_id) == []

    (found,) = submissions(store, run_id, stage)

    assert found.native_id in stage.jobs
    assert submissions(store, run_id) == [found]
    (job,) = live_jobs(store, read_live_runs(store, stage, [run_id]), lambda: stage)
    assert (job.step, job.samples) == ("upper", SAMPLES)


def test_an_intent_whose_job_was_never_queued_is_no_job_and_nothing_is_written(
    store: Store, stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who only looks must not say that it never was: a driver may be about to send it."""
    run_id = doubtful(store, stage, monkeypatch)
    for native_id in list(stage.jobs):
        stage.forget(native_id)
    puts = store.calls["put"]

    assert submissions(store, run_id, stage) == []

    assert stage.calls["find"] == live.LOOKS
    assert store.calls["put"] == puts
    (run,) = read_live_runs(store, stage, [run_id])
    assert run.over


def test_a_run_without_any_submission_is_over_and_closed_by_the_next_driver(
    store: Store, stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    repair = broken_at(store, monkeypatch, "rows.txt")
    with pytest.raises(StoreFailed):
        drive(request_of(store), stage)
    repair()
    assert (live_run_ids(store), len(stage.jobs)) == ([], 0)
    # As its driver leaves it that is killed there.
    (run_id,) = store.folders(layout.RUNS)
    store.delete([layout.run_end(run_id)])
    store.put_json(layout.live(run_id), {"run_id": run_id})

    drive(request_of(store), stage)

    assert live_run_ids(store) == []
    assert store.get_json(f"runs/{run_id}/end.json")["done"] == 0


def test_a_backend_that_is_away_is_told_and_nothing_is_lost(store: Store, stage: Stage) -> None:
    stage.fail_next(BackendFailed("It cannot be reached."), queued=False)
    with pytest.raises(BackendFailed, match="cannot be reached"):
        drive(request_of(store), stage)

    assert drive(request_of(store), stage).ok
    assert sorted(stage.submitted()) == sorted(CELLS)
