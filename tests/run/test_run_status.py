"""`status`, `explain`, `cancel`, `logs` and the history: what is told of a store."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from batch_pipeline import backends
from batch_pipeline.backends.base import ArrayChild, JobState
from batch_pipeline.pipeline.code import CodeDigests
from batch_pipeline.pipeline.plan import CellState, Why
from batch_pipeline.records.receipts import LEAST_BYTES
from batch_pipeline.records.record import read_record
from batch_pipeline.records.registry import Query, find_runs
from batch_pipeline.run import live
from batch_pipeline.run.cancel import cancel
from batch_pipeline.run.live import live_run_ids
from batch_pipeline.run.logs import logs
from batch_pipeline.run.status import explain, only_failed, status, watch
from batch_pipeline.wire import layout
from batch_pipeline.wire.errors import InvalidUse
from batch_pipeline.wire.store import NotInStore, Store
from tests.pipeline.worlds import former_parts
from tests.run.small import Ear, Stage, chosen, drive, request_of


@pytest.fixture(autouse=True)
def _their_backend_is_the_stage(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "create", lambda settings: stage)
    monkeypatch.setattr(live, "LOOK_SECONDS", 0.0)


@pytest.fixture
def detached(store: Store, stage: Stage) -> str:
    """A run whose jobs stand still."""
    stage.is_open = False
    (run_id,) = drive(request_of(store), stage, detach=True).run_ids
    return run_id


# status


def test_status_of_a_new_store_is_all_left_out_and_writes_nothing(store: Store, stage: Stage) -> None:
    request = request_of(store)
    puts = store.calls["put"]

    found = status(request)

    assert [step.line for step in found.progress.values()] == ["0/3 done, 3 left out"] * 2 + ["0/1 done, 1 left out"]
    assert not found.failed
    assert store.calls["put"] == puts
    assert not stage.calls, "no run is live, so nobody is asked"


def test_status_of_a_live_run_is_the_backends(store: Store, stage: Stage, detached: str) -> None:
    found = status(request_of(store))

    assert found.live_runs == [detached]
    assert found.progress["upper"].line == "0/3 done, 3 waiting"


def test_cells_that_are_made_again_are_counted_once(store: Store, stage: Stage) -> None:
    drive(request_of(store), stage)
    stage.is_open = False
    drive(request_of(store, **chosen(force=True, samples=frozenset({"bob"}))), stage, detach=True)

    found = status(request_of(store))

    assert [step.line for step in found.progress.values()] == ["2/3 done, 1 waiting"] * 2 + ["0/1 done, 1 waiting"]


def test_cells_of_a_live_runs_ended_job_are_counted_once(store: Store, stage: Stage, detached: str) -> None:
    for native_id, index in stage.ready():
        stage.finish(native_id, index, stage._act(stage.jobs[native_id].request, index))

    found = status(request_of(store))

    assert found.live_runs == [detached]
    lines = [step.line for step in found.progress.values()]
    assert lines == ["3/3 done", "0/3 done, 3 waiting", "0/1 done, 1 waiting"]


def test_status_after_a_failure_names_it_from_the_records(store: Store, stage: Stage) -> None:
    stage.play = lambda step, sample, attempt: int(sample == "bob")
    drive(request_of(store), stage)

    found = status(request_of(store))

    assert [(c.step, c.sample, c.reason.value, c.message) for c in found.failed] == [
        ("upper", "bob", "step_failed", "upper of bob broke.")
    ]
    assert found.progress["upper"].line == "2/3 done, 1 failed: step failed"


def test_a_cell_that_was_killed_without_a_word_is_told_with_what_the_backend_said(store: Store, stage: Stage) -> None:
    """Its container left no record, and Batch forgets the job: what the driver judged was kept."""
    stage.play = lambda step, sample, attempt: 137 * (sample == "bob")
    stage.silent = {"bob"}
    drive(request_of(store), stage)
    for native_id in list(stage.jobs):
        stage.forget(native_id)

    found = status(request_of(store))

    assert [(c.step, c.sample, c.reason.value) for c in found.failed] == [("upper", "bob", "out_of_memory")]


def test_failures_of_a_run_that_ended_unwatched_are_judged_and_nothing_is_written(
    store: Store, stage: Stage, detached: str
) -> None:
    stage.play = lambda step, sample, attempt: 137 * (sample == "bob")
    stage.silent = {"bob"}
    stage.drain(stage._act)
    puts = store.calls["put"]

    found = status(request_of(store))

    assert [(c.step, c.sample, c.reason.value) for c in found.failed] == [("upper", "bob", "out_of_memory")]
    assert store.calls["put"] == puts
    assert live_run_ids(store) == [detached]


def test_a_failure_is_told_while_the_rest_of_its_run_goes_on(store: Store, stage: Stage, detached: str) -> None:
    stage.play = lambda step, sample, attempt: 3
    native_id = next(iter(stage.jobs))
    stage.finish(native_id, 1, stage._act(stage.jobs[native_id].request, 1))

    found = status(request_of(store))

    assert found.live_runs == [detached]
    assert [(c.step, c.sample, c.message) for c in found.failed] == [("upper", "bob", "upper of bob broke.")]
    assert found.progress["upper"].line == "0/3 done, 2 waiting, 1 failed: step failed"


def test_more_failures_than_records_are_read_are_all_told(store: Store) -> None:
    """`--failed` chooses by them."""
    names = [f"s{number}" for number in range(150)]
    broken = Stage(store, lambda step, sample, attempt: 1)
    drive(request_of(store, *names), broken)

    assert [cell.sample for cell in status(request_of(store, *names)).failed] == names


def test_a_failure_that_was_repaired_is_not_told(store: Store, stage: Stage) -> None:
    stage.play = lambda step, sample, attempt: int((step, sample, attempt) == ("upper", "bob", 1))
    drive(request_of(store), stage)
    drive(request_of(store), stage)

    assert not status(request_of(store)).failed


def test_a_failure_that_a_later_run_mended_is_not_told_when_the_cell_is_to_run_again(
    store: Store, stage: Stage
) -> None:
    """Only the newest word on a cell counts; `--failed` chooses by it."""
    stage.play = lambda step, sample, attempt: int((step, sample, attempt) == ("count", "bob", 1))
    drive(request_of(store), stage)
    drive(request_of(store), stage)
    changed = request_of(store, params={"depth": 2})

    assert not status(changed).failed
    assert only_failed(changed) is None

    stage.play = lambda step, sample, attempt: int((step, sample) == ("count", "ann"))
    drive(changed, stage)
    assert [(cell.step, cell.sample) for cell in status(changed).failed] == [("count", "ann")]


def test_a_failure_is_told_after_later_runs_of_other_cells(store: Store, stage: Stage) -> None:
    stage.play = lambda step, sample, attempt: int((step, sample) == ("count", "bob"))
    drive(request_of(store), stage)
    drive(request_of(store, **chosen(samples=frozenset({"ann"}), force=True)), stage)

    assert [(cell.step, cell.sample) for cell in status(request_of(store)).failed] == [("count", "bob")]


def test_a_receipt_that_was_cut_off_is_told_and_not_done(store: Store, stage: Stage) -> None:
    drive(request_of(store), stage)
    (entry,) = store.list(layout.receipts("count", "ann"))
    store.put(entry.key, store.get(entry.key)[: LEAST_BYTES - 1])

    plan = status(request_of(store)).plan
    assert plan.why["count"][0] is Why.UNTRUE
    assert plan.states["count"] == [CellState.TO_RUN, CellState.DONE, CellState.DONE]
    told = {part.step: part.sentence for part in explain(request_of(store), "ann")}
    assert told["count"] == "its receipt is cut off, or a result is not what it says"
    drive(request_of(store), stage)
    assert stage.tried["count", "ann"] == 2


def test_a_receipt_that_cannot_be_read_is_explained_without_it(store: Store, stage: Stage) -> None:
    drive(request_of(store), stage)
    (entry,) = store.list(layout.receipts("count", "ann"))
    store.put(entry.key, store.get(entry.key)[:-2])

    told = {part.step: part.sentence for part in explain(request_of(store), "ann")}

    assert told["count"] == "done, but its receipt cannot be read; give --force to make it again"


def test_watching_submits_nothing_and_closes_the_run(store: Store, stage: Stage, detached: str) -> None:
    class Opener(Ear):
        def progressed(self, progress: object) -> None:
            stage.is_open = True

    outcome = watch(request_of(store, "ann", "bob", "cid", "new"), Opener())

    assert outcome.submitted == 0
    assert outcome.run_ids == (detached,)
    assert live_run_ids(store) == []
    assert ("upper", "new") not in stage.tried


# explain


def told(store: Store, sample: str = "ann", **changes: object) -> dict[str, str]:
    """Step -> sentence with what changed."""
    return {
        part.step: " | ".join((part.sentence, *part.changed)) for part in explain(request_of(store, **changes), sample)
    }


def test_explain_of_a_done_cell_names_the_run(store: Store, stage: Stage) -> None:
    (run_id,) = drive(request_of(store), stage).run_ids

    assert told(store)["upper"] == f"done by run {run_id} at 2026-01-01T00:00:01.000Z"
    assert explain(request_of(store), "ann")[0].log.endswith(f"logs/{run_id}/upper/ann/1.log")


def test_explain_names_the_parameter_that_changed_and_what_follows(store: Store, stage: Stage) -> None:
    drive(request_of(store), stage)

    found = told(store, params={"depth": 4})

    assert "parameter depth: 1 -> 4" in found["count"]
    assert found["upper"].startswith("done by")


def test_explain_names_the_source_that_was_replaced(store: Store, stage: Stage) -> None:
    drive(request_of(store), stage)
    store.put("SR/ann.txt", b"other")

    found = told(store)

    assert "the file SR/ann.txt was replaced" in found["upper"]
    assert "step upper runs again" in found["count"]
    assert told(store, "bob")["upper"].startswith("done by")


def test_explain_names_the_code_that_changed(store: Store, stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    drive(request_of(store), stage)
    changed = CodeDigests(names={"tools.scale": "1"}, files="2")
    monkeypatch.setattr("batch_pipeline.pipeline.fingerprint.code_digests", lambda step, root: changed)

    assert "the step's code: " in told(store)["count"]
    assert "tools.scale" in told(store)["count"]


def test_explain_says_of_a_run_of_an_earlier_version_that_the_code_changed(
    store: Store, stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as earlier:
        earlier.setattr("batch_pipeline.run.snapshot.step_parts", former_parts)
        drive(request_of(store), stage)
    assert told(store)["count"].startswith("done by")
    assert status(request_of(store)).plan.jobs == ()
    now = CodeDigests(names={"tools.scale": "1"}, files="2")
    monkeypatch.setattr("batch_pipeline.pipeline.fingerprint.code_digests", lambda step, root: now)

    assert "the step's code" in told(store)["count"]
    assert "tools.scale" not in told(store)["count"]


def test_explain_names_the_image_that_changed(store: Store, stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    drive(request_of(store), stage)
    monkeypatch.setattr("tests.run.small.Count.image", "tool:2")

    assert "the image: none -> tool:2" in told(store)["count"]


def test_explain_says_why_a_cell_cannot_run(store: Store, stage: Stage) -> None:
    request = request_of(store)
    store.delete(["SR/ann.txt"])

    found = {part.step: part.sentence for part in explain(request, "ann")}

    assert "SR/ann.txt is not there" in found["upper"]
    assert found["count"] == "It needs upper, which cannot run."


# cancel


def test_cancel_ends_what_is_live_and_says_so(store: Store, stage: Stage, detached: str) -> None:
    said = cancel(store, request_of(store).settings)

    assert [(one.step, one.cells) for one in said] == [("total", 1), ("count", 3), ("upper", 3)]
    assert str(said[-1]) == f"upper: job upper-0-0 of run {detached} (3 cells)"
    assert all(job.state is JobState.FAILED for job in stage.jobs.values())
    assert {reason.value for c in status(request_of(store)).progress.values() for reason in c.failed} <= {"cancelled"}
    assert cancel(store, request_of(store).settings) == []


def test_cancelled_cells_are_called_so_even_where_the_backend_has_forgotten_them(
    store: Store, stage: Stage, detached: str
) -> None:
    cancel(store, request_of(store).settings, samples=frozenset({"bob"}))
    for native_id in list(stage.jobs):
        stage.forget(native_id)

    found = {(cell.step, cell.sample): cell.reason.value for cell in status(request_of(store)).failed}

    assert (found["upper", "bob"], found["upper", "ann"]) == ("cancelled", "lost")


def test_cancel_of_samples_leaves_their_siblings_alone(store: Store, stage: Stage, detached: str) -> None:
    said = cancel(store, request_of(store).settings, samples=frozenset({"bob", "cid"}))
    assert [(one.step, one.cells, one.size) for one in said] == [("count", 2, 3), ("upper", 2, 3)]
    assert str(said[0]).endswith("(2 of 3 cells)")
    assert cancel(store, request_of(store).settings, samples=frozenset({"bob"})) == []
    stage.drain(stage._act)

    found = status(request_of(store))

    assert set(stage.tried) == {("upper", "ann"), ("count", "ann")}
    assert {(cell.step, cell.sample): cell.reason.value for cell in found.failed} == {
        (step, sample): "cancelled" for step in ("upper", "count") for sample in ("bob", "cid")
    }
    assert found.progress["upper"].line == "1/3 done, 2 cancelled"


def test_cancel_of_one_sample_at_one_step(store: Store, stage: Stage, detached: str) -> None:
    settings = request_of(store).settings
    (said,) = cancel(store, settings, steps=frozenset({"count"}), samples=frozenset({"ann"}))
    assert (said.step, said.cells) == ("count", 1)
    stage.drain(stage._act)
    assert ("upper", "ann") in stage.tried
    assert ("count", "ann") not in stage.tried


@pytest.mark.parametrize(
    ("chosen", "sentence"),
    [
        ({"steps": frozenset({"cuont"})}, "No live run has a step 'cuont'; they have: count, total, upper."),
        ({"samples": frozenset({"bop"})}, "No live run has a sample 'bop'."),
    ],
)
def test_cancel_of_what_is_not_there_cancels_nothing(
    store: Store, stage: Stage, detached: str, chosen: dict[str, frozenset[str]], sentence: str
) -> None:
    with pytest.raises(InvalidUse, match=sentence):
        cancel(store, request_of(store).settings, **chosen)
    assert not stage.calls["cancel"]
    assert not list(store.list(layout.cancelled(detached)))


def test_cancel_from_another_machine_than_the_embedded_batchs_names_it(
    store: Store, stage: Stage, detached: str
) -> None:
    record = store.get_json(layout.run_record(detached))
    store.put_json(layout.run_record(detached), record | {"host": "elsewhere"})
    with pytest.raises(InvalidUse, match=r"are on the embedded Batch of elsewhere .*Run the same command there"):
        cancel(store, request_of(store).settings)
    assert not stage.calls["cancel"]


def test_cancel_of_one_step_leaves_the_others(store: Store, stage: Stage, detached: str) -> None:
    cancel(store, request_of(store).settings, steps=frozenset({"total"}))
    stage.is_open = True

    drive(request_of(store), stage)

    assert stage.tried["count", "ann"] == 1


def test_cancelled_cells_run_with_the_next_command(store: Store, stage: Stage, detached: str) -> None:
    cancel(store, request_of(store).settings, [detached])
    stage.is_open = True

    assert drive(request_of(store), stage).ok


def test_cancel_of_a_run_that_is_not_live_names_those_that_are(store: Store, detached: str) -> None:
    with pytest.raises(InvalidUse, match=f"Run 01ABC has no live jobs. Live runs: {detached}"):
        cancel(store, request_of(store).settings, ["01ABC"])


# logs


def lines(store: Store, sample: str, step: str | None = None, **more: object) -> Iterator[tuple[str, str]]:
    for line in logs(store, request_of(store).settings, sample, step, **more):  # type: ignore[arg-type]
        yield line.step, line.text


def test_logs_of_a_sample_are_its_steps_newest(store: Store, stage: Stage) -> None:
    drive(request_of(store), stage)

    assert set(lines(store, "ann")) == {
        ("upper", "upper says ann"),
        ("upper", "and goes"),
        ("count", "count says ann"),
        ("count", "and goes"),
    }
    assert [text for _, text in lines(store, "_cohort", "total")] == ["total says _cohort", "and goes"]


def test_logs_of_a_rerun_replace_those_of_the_step_before(store: Store, stage: Stage) -> None:
    (old,) = drive(request_of(store), stage).run_ids
    store.put(f"logs/{old}/count/ann/1.log", b"old\n")
    (new,) = drive(request_of(store, **chosen(force=True, steps=frozenset({"count"}))), stage).run_ids
    store.put(f"logs/{new}/count/ann/2.log", b"second attempt\n")

    assert list(lines(store, "ann", "count")) == [("count", "second attempt")]
    assert next(lines(store, "ann", "count", attempt=1)) == ("count", "count says ann")
    assert list(lines(store, "ann", "count", run_id=old)) == [("count", "old")]


def test_a_log_that_is_not_there_is_said_with_where_it_was_looked_for(store: Store) -> None:
    with pytest.raises(InvalidUse, match=r"no log of count of sample zoe in memory://.*check the spelling"):
        list(lines(store, "zoe", "count"))


def test_following_a_running_cell_yields_new_lines_until_it_ends(
    store: Store, stage: Stage, detached: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    native_id = next(iter(stage.jobs))
    child = stage.jobs[native_id].children[1]
    child.log.append("first")
    running = ArrayChild(index=1, state=JobState.RUNNING)
    monkeypatch.setattr(
        stage, "children", lambda job, wanted: iter([running] if job == native_id and len(child.log) < 2 else [])
    )

    told = list(lines(store, "bob", "upper", follow=True, sleep=lambda seconds: child.log.append("second")))

    assert told == [("upper", "first"), ("upper", "second")]


def test_every_attempt_is_told_when_asked_for(store: Store, stage: Stage) -> None:
    stage.play = lambda step, sample, attempt: 3 * (sample == "ann" and step == "count")
    (run_id,) = drive(request_of(store), stage).run_ids
    store.put(layout.log(run_id, "count", "ann", 2), b"second attempt\n")

    told = logs(store, request_of(store).settings, "ann", "count", all_attempts=True)

    assert [(line.attempt, line.text) for line in told] == [
        (1, "count says ann"),
        (1, "and goes"),
        (2, "second attempt"),
    ]


def test_an_attempt_that_was_killed_before_it_left_its_log_is_told_from_the_backend(store: Store, stage: Stage) -> None:
    stage.silent = {"bob"}
    stage.play = lambda step, sample, attempt: 9 * (sample == "bob")
    (run_id,) = drive(request_of(store), stage).run_ids
    store.delete([layout.log(run_id, "upper", "bob", 1)])
    next(iter(stage.jobs.values())).children[1].log += ["about to", "allocate"]

    assert [text for _, text in lines(store, "bob", "upper")] == ["about to", "allocate"]
    assert [text for _, text in lines(store, "bob", "upper", attempt=1)] == ["about to", "allocate"]
    with pytest.raises(InvalidUse, match="no log of upper of sample bob"):
        list(lines(store, "bob", "upper", attempt=2))
    asked = stage.calls["descriptions"]
    assert [text for _, text in lines(store, "ann", "upper")] == ["upper says ann", "and goes"]
    assert stage.calls["descriptions"] == asked, "what the store has is asked of nobody else"


def test_a_cell_that_waits_to_be_made_again_still_has_its_old_log(store: Store, stage: Stage) -> None:
    drive(request_of(store), stage)
    stage.is_open = False
    drive(request_of(store, **chosen(force=True)), stage, detach=True)

    assert [text for _, text in lines(store, "ann", "upper")] == ["upper says ann", "and goes"]


# the history


def test_the_record_says_who_what_and_with_which_code(store: Store, stage: Stage) -> None:
    request = request_of(store, params={"depth": 3}, argv=("--depth", "3"), description="a try")
    (run_id,) = drive(request, stage).run_ids

    record = read_record(store, run_id)

    assert record.params["count"] == {"depth": 3}
    assert record.argv == ["--depth", "3"]
    assert record.description == "a try"
    assert record.cells == {"upper": 3, "count": 3, "total": 1}
    assert (record.done, record.failed, record.ok) == (7, 0, True)
    assert store.get(f"runs/{run_id}/samples.tsv") == request.samples.to_tsv()
    assert f"code/{record.bundle_sha256}.zip" in {entry.key for entry in store.list("code")}


def test_a_live_run_has_not_ended_and_a_failed_one_is_not_ok(store: Store, stage: Stage, detached: str) -> None:
    assert read_record(store, detached).ok is None
    stage.is_open = True
    stage.play = lambda step, sample, attempt: 1
    drive(request_of(store), stage)

    assert read_record(store, detached).ok is False


def test_runs_are_listed_newest_first_and_a_folder_without_a_record_is_left_out(store: Store, stage: Stage) -> None:
    ids: list[str] = []
    for depth in (1, 2, 3):
        ids += drive(request_of(store, params={"depth": depth}), stage).run_ids
    store.put("runs/09ZZZ/plan.json", b"{}")

    assert [record.run_id for record in find_runs(store, Query())] == sorted(ids, reverse=True)
    assert [record.run_id for record in find_runs(store, Query(), most=2)] == sorted(ids, reverse=True)[:2]
    with pytest.raises(NotInStore):
        read_record(store, "09ZZZ")


def test_a_failed_gather_is_of_all_samples(store: Store, stage: Stage) -> None:
    stage.play = lambda step, sample, attempt: int((step, attempt) == ("total", 1))
    drive(request_of(store), stage)

    chosen_now = only_failed(request_of(store))

    assert chosen_now is not None
    assert drive(chosen_now, stage).ok
    assert only_failed(request_of(store)) is None
