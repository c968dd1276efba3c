"""The driver's loop on a backend in memory: waves, adoption, conflicts, selection."""

from __future__ import annotations

import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from batch_pipeline import backends
from batch_pipeline.backends.base import JobRequest, JobState
from batch_pipeline.backends.quotas import AWS_BATCH
from batch_pipeline.config import Settings, load_settings
from batch_pipeline.pipeline.plan import CellState, RetryOverrides
from batch_pipeline.pipeline.review import require_sound
from batch_pipeline.pipeline.workflow import Graph
from batch_pipeline.records.events import FailedCell
from batch_pipeline.records.receipts import LEAST_BYTES
from batch_pipeline.run import inventory, lock
from batch_pipeline.run.backend import LazyBackend
from batch_pipeline.run.cancel import cancel, close_unbegun
from batch_pipeline.run.driver import Driver, Interrupted, run
from batch_pipeline.run.live import live_run_ids
from batch_pipeline.run.lock import DriverLock
from batch_pipeline.run.recovery import FailurePartition
from batch_pipeline.run.snapshot import DriverState, take_snapshot
from batch_pipeline.wire import layout
from batch_pipeline.wire.contract import CommandExit, EndReason
from batch_pipeline.wire.errors import InvalidPipeline, Overtaken, RunConflict
from batch_pipeline.wire.store import Store, open_store
from tests.run.small import SAMPLES, Ear, Stage, chosen, drive, look, request_of

CELLS = {*(("upper", s) for s in SAMPLES), *(("count", s) for s in SAMPLES), ("total", "_cohort")}


def test_a_second_command_writes_nothing_and_never_needs_a_backend(store: Store, stage: Stage) -> None:
    drive(request_of(store), stage)
    store.calls.clear()
    driver = Driver(request_of(store))

    outcome = driver.run(Ear(), detach=False)
    driver.close()

    assert outcome.ok
    assert not outcome.run_ids
    # One listing is the test's own.
    assert dict(store.calls) == {"list": 6}
    assert sum(outcome.store_calls.values()) <= 12


@pytest.mark.parametrize(("samples", "joins"), [(5, 0), (7, 2)])
def test_a_backend_with_small_arrays_and_few_dependencies_is_obeyed(store: Store, samples: int, joins: int) -> None:
    names = [f"s{i}" for i in range(samples)]
    limits = replace(AWS_BATCH, max_array_size=2, max_dependencies=3)
    stage, ear = Stage(store, limits=limits), Ear()
    outcome = drive(request_of(store, *names), stage, ear)

    assert outcome.ok
    assert ear.plans[0].limits == limits
    sizes = [2] * (samples // 2) + [1]
    assert [size for job, size in ear.jobs if job.startswith("upper")] == sizes
    assert [size for job, size in ear.jobs if job.startswith("count")] == sizes
    assert len([job for job, _ in ear.jobs if "join" in job]) == joins
    assert max(len(job.request.after) for job in stage.jobs.values()) == 3


def test_a_command_that_only_looks_plans_within_the_limits_of_a_backend_that_is_never_made(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = replace(AWS_BATCH, max_array_size=2)
    monkeypatch.setitem(backends.LIMITS, "embedded", limits)
    monkeypatch.setattr(backends, "create", lambda settings: pytest.fail("no backend is needed"))
    plan = Driver(request_of(store)).inspect().plan

    assert plan.limits == limits
    assert [job.size for job in plan.jobs] == [2, 1, 2, 1, 1]


def test_the_listener_hears_the_flow_in_order(store: Store, stage: Stage) -> None:
    ear = Ear()
    outcome = drive(request_of(store), stage, ear)

    assert len(ear.plans) == 1
    assert [job for job, _ in ear.jobs] == ["upper-0-0", "count-0-0", "total"]
    assert ear.lines[-3:] == ["upper: 3/3 done", "count: 3/3 done", "total: 1/1 done"]
    assert ear.outcomes == [outcome]
    assert outcome.submitted == 3


def test_a_failing_command_says_so_and_the_next_tries_what_failed(store: Store, stage: Stage) -> None:
    stage.play = lambda step, sample, attempt: int((step, sample) == ("upper", "bob") and attempt == 1)
    first = drive(request_of(store), stage)
    assert not first.ok
    assert [cell.sample for cell in first.failed if cell.step == "upper"] == ["bob"]

    second = drive(request_of(store), stage)
    assert second.ok
    assert {step: progress.line for step, progress in second.progress.items()} == {
        "upper": "3/3 done",
        "count": "3/3 done",
        "total": "1/1 done",
    }
    assert stage.tried["upper", "bob"] == 2
    assert all(times == 1 for cell, times in stage.tried.items() if cell != ("upper", "bob"))


def test_min_success_sends_the_gather_in_a_second_wave(store: Store, stage: Stage) -> None:
    stage.play = lambda step, sample, attempt: int(sample == "bob")
    ear = Ear()

    outcome = drive(request_of(store, **chosen(min_success=0.6)), stage, ear)

    assert [job for job, _ in ear.jobs] == ["upper-0-0", "count-0-0", "total"]
    assert len(outcome.run_ids) == 2
    manifest = store.get_json(f"runs/{outcome.run_ids[1]}/submissions/total/manifest.json")
    assert manifest["missing"] == ["bob"]
    assert outcome.progress["total"].line == "1/1 done"
    assert outcome.progress["upper"].line == "2/3 done, 1 failed: step failed"
    assert not outcome.ok


def test_min_success_that_is_not_reached_is_told_as_left_out(store: Store, stage: Stage) -> None:
    stage.play = lambda step, sample, attempt: int(sample != "ann")

    outcome = drive(request_of(store, **chosen(min_success=0.6)), stage)

    assert outcome.progress["total"].line == "0/1 done, 1 left out"
    assert [(step, sample) for step, sample, _ in outcome.blocked] == [("total", "_cohort")]
    assert "2 of 3 samples have no result" in outcome.blocked[0][2]
    assert ("total", "_cohort") not in stage.tried


def test_what_is_forced_is_forced_once_a_command(store: Store, stage: Stage) -> None:
    drive(request_of(store), stage)

    drive(request_of(store, **chosen(force=True, min_success=0.5)), stage)

    assert set(stage.tried.values()) == {2}


def test_force_beside_live_jobs_does_not_repeat_them(store: Store, stage: Stage) -> None:
    stage.is_open = False
    drive(request_of(store), stage, detach=True)
    stage.is_open = True

    drive(request_of(store, **chosen(force=True)), stage)

    assert set(stage.tried.values()) <= {1, 2}
    assert live_run_ids(store) == []


def test_a_blocked_sample_does_not_hold_the_others(store: Store, stage: Stage) -> None:
    request = request_of(store)
    store.delete(["SR/bob.txt"])

    outcome = drive(request, stage)

    assert not outcome.ok
    assert {(step, sample) for step, sample, _ in outcome.blocked} == {
        ("upper", "bob"),
        ("count", "bob"),
        ("total", "_cohort"),
    }
    assert outcome.progress["upper"].line == "2/3 done, 1 left out"


def test_detach_returns_with_everything_queued(store: Store, stage: Stage) -> None:
    stage.is_open = False

    outcome = drive(request_of(store), stage, detach=True)

    assert outcome.detached
    assert outcome.ok
    assert len(stage.jobs) == 3
    assert live_run_ids(store) == list(outcome.run_ids)


def test_detach_with_nothing_to_do_is_not_detached(store: Store, stage: Stage) -> None:
    drive(request_of(store), stage)

    assert not drive(request_of(store), stage, detach=True).detached


def test_live_jobs_are_followed_and_depended_on(store: Store, stage: Stage) -> None:
    """Only the first step was sent; the rest waits for its live array, index by index."""
    stage.is_open = False
    drive(request_of(store, **chosen(steps=frozenset({"upper"}))), stage, detach=True)
    (upper,) = stage.jobs

    class Opener(Ear):
        def submitted(self, run_id: str, step: str, job: str, native_id: str, size: int) -> None:
            stage.is_open = job == "total"

    outcome = drive(request_of(store), stage, Opener())

    _, count, _ = stage.jobs.values()
    assert [(after.native_id, after.index_by_index) for after in count.request.after] == [(upper, True)]
    assert outcome.ok
    assert len(outcome.run_ids) == 2
    assert set(stage.tried) == CELLS
    assert set(stage.tried.values()) == {1}


def test_a_live_job_that_could_not_do_a_cell_is_no_failure_where_a_later_wave_does_it(
    store: Store, stage: Stage
) -> None:
    request = request_of(store)
    stage.is_open = False
    drive(request, stage, detach=True)
    uppers = next(iter(stage.jobs.values()))
    for index in range(3):
        stage.finish(uppers.native_id, index, stage._act(uppers.request, index))
    # Somebody removes a result that the live array is about to read.
    store.delete([entry.key for entry in store.list(layout.receipts("upper", "bob"))])
    stage.play = lambda step, sample, attempt: 66 if (step, sample, attempt) == ("count", "bob", 1) else 0
    stage.is_open = True

    outcome = drive(request, stage)

    assert stage.tried["count", "bob"] == 2
    assert outcome.ok
    assert outcome.progress["count"].failures == 0


def test_a_cell_that_failed_in_a_live_run_is_sent_at_once_once_nothing_below_it_can_run(
    store: Store, stage: Stage
) -> None:
    """Its first step failed for bob, and Batch has ended what waited for that; the others go on."""
    stage.is_open = False
    drive(request_of(store), stage, detach=True)
    upper, count, total = stage.jobs.values()
    stage.finish(upper.native_id, 1, 1)
    for index in (0, 2):
        stage.finish(upper.native_id, index, stage._act(upper.request, index))
    assert [child.state for child in count.children] == [JobState.RUNNABLE, JobState.FAILED, JobState.RUNNABLE]

    plan = look(request_of(store), stage).plan

    assert stage.calls["children"] == 1
    # The gather waits for the others, and will fail then.
    assert total.state is JobState.PENDING
    assert plan.states == {
        "upper": [CellState.DONE, CellState.TO_RUN, CellState.DONE],
        "count": [CellState.LIVE, CellState.DEFERRED, CellState.LIVE],
        "total": [CellState.DEFERRED],
    }


def test_live_jobs_that_stand_against_the_command_are_a_conflict_and_nothing_is_written(
    store: Store, stage: Stage
) -> None:
    stage.is_open = False
    drive(request_of(store), stage, detach=True)
    (run_id,) = live_run_ids(store)
    puts = store.calls["put"]

    with pytest.raises(RunConflict, match=f"Run {run_id} is still working on count of sample ann.*cancel {run_id}"):
        drive(request_of(store, params={"depth": 2}), stage)

    assert store.calls["put"] == puts


def test_another_driver_that_submits_is_a_conflict_and_nothing_is_sent(store: Store, stage: Stage) -> None:
    DriverLock(store).take()

    with pytest.raises(RunConflict, match="is submitting into this store"):
        drive(request_of(store), stage)

    assert not stage.jobs
    assert not list(store.list("runs"))


def test_a_command_with_nothing_to_submit_does_not_mind_another_driver(store: Store, stage: Stage) -> None:
    drive(request_of(store), stage)
    DriverLock(store).take()

    assert drive(request_of(store), stage).ok


def test_what_another_driver_sent_meanwhile_is_looked_at_again(
    store: Store, stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between this one's plan and its lock another took the lock, sent everything and let go."""
    late = Driver(request_of(store), stage)
    stage.is_open = False
    real = late.inspect
    times: list[int] = []

    def look_and_be_overtaken(state: DriverState, *, submits: bool) -> object:
        snapshot = real(state, submits=submits)
        if not times:
            times.append(1)
            drive(request_of(store), stage, detach=True)
        return snapshot

    monkeypatch.setattr(late, "inspect", look_and_be_overtaken)
    outcome = late.run(Ear(), detach=True)
    late.close()

    assert outcome.submitted == 0
    assert len(stage.jobs) == 3
    assert len(live_run_ids(store)) == 1


def test_ctrl_c_tells_which_runs_go_on(store: Store, stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    class Pressed(Ear):
        def progressed(self, progress: object) -> None:
            raise KeyboardInterrupt

    monkeypatch.setattr("batch_pipeline.backends.create", lambda settings: stage)
    stage.is_open = False

    with pytest.raises(Interrupted) as caught:
        run(request_of(store), Pressed())

    assert caught.value.run_ids == tuple(live_run_ids(store))
    assert len(stage.jobs) == 3
    DriverLock(store).take()


def test_the_lock_is_free_while_jobs_run(store: Store, stage: Stage) -> None:
    class Taker(Ear):
        def progressed(self, progress: object) -> None:
            lock = DriverLock(store)
            lock.take()
            lock.release()

    drive(request_of(store), stage, Taker())


def test_looking_writes_nothing(store: Store, stage: Stage) -> None:
    request = request_of(store)
    puts = store.calls["put"]

    plan = look(request, stage).plan

    assert store.calls["put"] == puts
    assert plan.states["upper"] == [CellState.TO_RUN] * 3
    assert not stage.calls


def test_duplicate_receipts_prove_nothing(store: Store, stage: Stage) -> None:
    drive(request_of(store), stage)
    store.put("receipts/count/ann/ffffffffffffffff.json", b" " * LEAST_BYTES)

    drive(request_of(store), stage)

    assert stage.tried["count", "ann"] == 2
    assert len(list(store.list("receipts/count/ann"))) == 1


def test_results_of_other_code_may_be_trusted(store: Store, stage: Stage) -> None:
    drive(request_of(store), stage)

    outcome = drive(request_of(store, params={"depth": 5}, **chosen(accept_code_changes=True)), stage)

    assert outcome.submitted == 0


def test_only_chosen_samples_run(store: Store, stage: Stage) -> None:
    outcome = drive(request_of(store, **chosen(samples=frozenset({"cid"}))), stage)

    assert set(stage.tried) == {("upper", "cid"), ("count", "cid")}
    assert outcome.ok
    assert outcome.progress["upper"].line == "1/3 done, 2 left out"


@pytest.mark.parametrize("samples", [None, frozenset({"ann", "bob"})])
def test_a_run_that_is_cancelled_while_it_is_submitted_is_cancelled_whole(
    samples: frozenset[str] | None, store: Store, stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backends, "create", lambda settings: stage)
    stage.is_open = False

    class Changes(Ear):
        """Somebody gives the order when one job of three is on the queue."""

        def submitted(self, run_id: str, step: str, job: str, native_id: str, size: int) -> None:
            super().submitted(run_id, step, job, native_id, size)
            stage.is_open = step == "total"
            if step == "upper":
                cancel(store, request_of(store).settings, [run_id], samples=samples)

    outcome = drive(request_of(store), stage, Changes())

    taken = samples or frozenset(SAMPLES)
    assert set(stage.tried) == {(step, name) for step in ("upper", "count") for name in set(SAMPLES) - taken}
    reasons = {(cell.step, cell.sample): cell.reason for cell in outcome.failed}
    assert {reasons["upper", name] for name in taken} == {EndReason.CANCELLED}
    assert {reasons["count", name] for name in taken} == {EndReason.CANCELLED}
    assert not outcome.again


def test_a_command_goes_where_the_live_run_has_its_jobs(store: Store, stage: Stage) -> None:
    stage.is_open = False
    there = load_settings({"watch.poll_seconds": 0.01, "embedded.state": "/there"}, environ={})
    drive(request_of(store, settings=there), stage, detach=True)
    made: list[Settings] = []
    elsewhere = Driver(request_of(store))
    stage.is_open = True

    def create(settings: Settings) -> Stage:
        made.append(settings)
        return stage

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backends, "create", create)
        try:
            assert elsewhere.run(Ear(), detach=False).ok
        finally:
            elsewhere.close()
    assert [settings.embedded.state for settings in made] == ["/there"]


def test_a_command_that_would_ask_another_backend_than_the_live_run_is_refused(store: Store, stage: Stage) -> None:
    """It would know nothing of the jobs, and take them for lost."""
    stage.is_open = False
    drive(request_of(store), stage, detach=True)
    (run_id,) = live_run_ids(store)
    aws = load_settings({"backend.name": "aws", "aws.region": "eu-west-1"}, environ={})
    with pytest.raises(RunConflict, match=rf"Run {run_id} has its jobs at backend.name 'embedded', not 'aws'"):
        drive(request_of(store, settings=aws), stage)
    other = load_settings({"embedded.state": "/other"}, environ={})
    with pytest.raises(RunConflict, match="not '/other'"):
        drive(request_of(store, settings=other), stage)
    assert live_run_ids(store) == [run_id]


def test_a_run_without_a_job_leads_no_command_to_its_backend(store: Store, stage: Stage) -> None:
    """Its driver was killed before it sent one; the next that may send closes it."""
    stage.is_open = False
    drive(request_of(store), stage, detach=True)
    (run_id,) = live_run_ids(store)
    store.delete([*store.keys(layout.submissions(run_id))])
    other = request_of(store, settings=load_settings({"embedded.state": "/other"}, environ={}))
    assert look(other, stage).live_runs == []

    stage.is_open = True
    assert drive(other, Stage(store)).ok
    assert live_run_ids(store) == []


def test_an_order_to_cancel_closes_what_no_driver_submits_any_more(store: Store, stage: Stage) -> None:
    stage.is_open = False
    drive(request_of(store), stage, detach=True)
    (run_id,) = live_run_ids(store)
    assert close_unbegun(store, [run_id]) == []
    store.delete([*store.keys(layout.submissions(run_id))])
    driver = DriverLock(store)
    driver.take()
    assert close_unbegun(store, [run_id]) == [], "its driver is about to send"
    driver.release()
    assert close_unbegun(store, [run_id]) == [run_id]
    assert live_run_ids(store) == []


def test_a_command_on_another_machine_than_the_embedded_batch_is_told_where_to_go(
    store: Store, stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage.is_open = False
    drive(request_of(store), stage, detach=True)
    here = socket.gethostname()
    monkeypatch.setattr(socket, "gethostname", lambda: "laptop-2")
    with pytest.raises(RunConflict, match=rf"on the embedded Batch of {here}"):
        drive(request_of(store), stage)
    assert live_run_ids(store)


def test_a_driver_that_is_overtaken_after_it_sent_something_does_not_say_that_nothing_was_done(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Slow(Stage):
        def submit(self, request: JobRequest) -> str:
            store.put_json(layout.driver(99), {})
            return super().submit(request)

    monkeypatch.setattr(lock, "LEASE_SECONDS", 0.0)
    with pytest.raises(Overtaken, match=r"Another driver took over.* Jobs of \w+ go on\.") as raised:
        drive(request_of(store), Slow(store))
    assert raised.value.exit_code == CommandExit.FAILED
    assert len(list(store.list("live"))) == 1


def test_a_snapshot_tells_where_live_runs_have_their_jobs_and_changes_nothing(store: Store, stage: Stage) -> None:
    stage.is_open = False
    there = load_settings({"watch.poll_seconds": 0.01, "embedded.state": "/there"}, environ={})
    drive(request_of(store, settings=there), stage, detach=True)
    state = DriverState.of(request_of(store))
    before = replace(state)
    store.calls.clear()

    first, second = (take_snapshot(state, LazyBackend(stage)) for _ in range(2))

    assert state == before
    assert first.request.settings.embedded.state == "/there" != state.request.settings.embedded.state
    assert (first.plan, first.live_runs) == (second.plan, second.live_runs)
    assert set(store.calls) <= {"list", "get"}


def _with_order(monkeypatch: pytest.MonkeyPatch, stage: Stage) -> list[str]:
    """Notes in which order a backend wakes, the inventory is read and the code is reviewed."""
    order: list[str] = []
    read = inventory.read_inventory

    def reading(*arguments: Any) -> Any:
        order.append("inventory")
        return read(*arguments)

    def reviewing(graph: Graph) -> None:
        order.append("review")
        require_sound(graph)

    monkeypatch.setattr(inventory, "read_inventory", reading)
    monkeypatch.setattr("batch_pipeline.run.driver.require_sound", reviewing)
    monkeypatch.setattr(stage, "wake", lambda: order.append("wake"))
    return order


def test_in_a_new_folder_the_backend_wakes_before_anything_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(str(tmp_path))
    stage = Stage(store)
    order = _with_order(monkeypatch, stage)
    take_snapshot(DriverState.of(request_of(store)), LazyBackend(stage))
    assert order == ["inventory"]
    drive(request_of(store), stage)
    assert order[1:3] == ["wake", "inventory"]


def test_no_backend_wakes_for_code_with_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store(str(tmp_path))
    stage = Stage(store)
    order = _with_order(monkeypatch, stage)
    wrong = ["Step upper is wrong."]
    monkeypatch.setattr("batch_pipeline.run.snapshot.code_problems", lambda graph: wrong)
    monkeypatch.setattr("batch_pipeline.pipeline.review.code_problems", lambda graph: wrong)
    with pytest.raises(InvalidPipeline, match="Step upper is wrong"):
        drive(request_of(store), stage)
    assert order == ["inventory", "review"]


def test_a_backend_wakes_after_the_code_is_reviewed_and_never_where_nothing_is_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(str(tmp_path))
    stage = Stage(store)
    drive(request_of(store), stage)
    order = _with_order(monkeypatch, stage)
    drive(request_of(store), stage)
    assert order == ["inventory"]
    drive(request_of(store, "ann", "dora"), stage)
    assert order[1:4] == ["inventory", "review", "wake"]


def test_a_wave_that_fails_leaves_a_new_state_and_the_old_one_as_it_was(store: Store, stage: Stage) -> None:
    state = DriverState.of(request_of(store))
    snapshot = take_snapshot(state, LazyBackend(stage))
    lost = FailedCell(step="upper", sample="ann", reason=EndReason.LOST, message="", run_id="R1")
    failed = FailedCell(step="upper", sample="bob", reason=EndReason.STEP_FAILED, message="", run_id="R1")
    partition = FailurePartition(
        overrides={("upper", "ann"): RetryOverrides(queue="steady")}, lasting=[failed], retried=[lost]
    )

    later = state.after_wave(snapshot).after_failures(partition)

    assert state == DriverState.of(state.request)
    assert (later.pending, later.failed, later.rounds) == ((lost,), (failed,), state.rounds - 1)
    assert [line.cells for line in later.retries] == [1]
    assert later.first is snapshot.plan
    assert not later.after_wave(snapshot).pending
