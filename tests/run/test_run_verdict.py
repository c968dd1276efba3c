"""What came of jobs that ended: receipts decide, the backend and the failure records explain."""

from __future__ import annotations

import pytest

from batch_pipeline.config import load_settings
from batch_pipeline.records.events import FailedCell
from batch_pipeline.run.live import live_run_ids, read_live_runs, submissions
from batch_pipeline.run.verdict import judge, last_failure, read_failed, write_failed
from batch_pipeline.wire import layout
from batch_pipeline.wire.contract import EndReason
from batch_pipeline.wire.errors import InvalidUse
from batch_pipeline.wire.store import Store
from tests.run.small import Ear, Stage, chosen, drive, request_of
from tests.run.virtual import Death, World


def reasons(store: Store, stage: Stage) -> dict[tuple[str, str], tuple[str, str]]:
    """(step, sample) of what failed -> why and because of which step."""
    outcome = drive(request_of(store), stage)
    return {(cell.step, cell.sample): (cell.reason.value, cell.because_of) for cell in outcome.failed}


def test_dependency_failures_fold_onto_the_step_that_is_to_blame(store: Store, stage: Stage) -> None:
    stage.play = lambda step, sample, attempt: 3 if (step, sample) == ("upper", "bob") else 0

    assert reasons(store, stage) == {
        ("upper", "bob"): ("step_failed", ""),
        ("count", "bob"): ("dependency", "upper"),
        ("total", "_cohort"): ("dependency", "upper"),
    }


def test_of_two_causes_the_gather_names_the_first_step(store: Store, stage: Stage) -> None:
    stage.play = lambda step, sample, attempt: int((step, sample) in {("upper", "cid"), ("count", "ann")})

    found = reasons(store, stage)

    assert found["count", "ann"] == ("step_failed", "")
    assert found["count", "cid"] == ("dependency", "upper")
    assert found["total", "_cohort"][0] == "dependency"


def test_the_containers_own_words_are_told(store: Store, stage: Stage) -> None:
    stage.play = lambda step, sample, attempt: int(sample == "ann")

    failed = drive(request_of(store), stage).failed[0]

    assert (failed.message, failed.exit_code, failed.attempt) == ("upper of ann broke.", 1, 1)


def test_without_a_record_the_backends_words_are_told(store: Store, stage: Stage) -> None:
    stage.play = lambda step, sample, attempt: 137 * (sample == "ann")
    stage.silent = {"ann"}

    failed = drive(request_of(store), stage).failed[0]

    assert failed.reason is EndReason.OUT_OF_MEMORY
    assert failed.exit_code == 137


@pytest.mark.parametrize(
    ("reason", "code", "expected"),
    [
        ("OutOfMemoryError: Container killed due to memory usage", 137, EndReason.OUT_OF_MEMORY),
        ("OutOfMemoryError: Container killed due to memory usage", 1, EndReason.OUT_OF_MEMORY),
        (None, 137, EndReason.STEP_FAILED),
        (None, 1, EndReason.STEP_FAILED),
    ],
)
def test_the_backends_words_on_memory_outweigh_the_container_and_a_mere_exit_code_does_not(
    store: Store, reason: str | None, code: int, expected: EndReason
) -> None:
    world = World(store, lambda attempt: Death(exit_code=code, reason=reason, recorded="step_failed"))

    settings = load_settings({"recovery.rounds": 0}, environ={})
    failed = world.drive(request_of(store, "ann", settings=settings)).failed[0]

    assert failed.reason is expected
    assert failed.message == "upper broke."


def test_success_without_a_receipt_is_lost(store: Store, stage: Stage) -> None:
    """What the backend says is a hint."""
    stage.is_open = False
    drive(request_of(store), stage, detach=True)
    stage.drain()

    outcome = drive(request_of(store, **chosen(steps=frozenset())), stage)
    (run,) = [store.get_json(entry.key) for entry in store.list("runs") if entry.key.endswith("end.json")]

    assert (run["done"], run["failed"]) == (0, 7)
    assert not outcome.submitted


def test_a_receipt_counts_though_the_backend_says_that_it_failed(store: Store, stage: Stage) -> None:
    """An attempt that was killed after its receipt did its work."""
    stage.is_open = False
    request = request_of(store)
    drive(request, stage, detach=True)
    first = next(iter(stage.jobs))
    for index in range(3):
        stage._act(stage.jobs[first].request, index)
        stage.finish(first, index, 1)
    stage.drain(stage._act)

    (run,) = read_live_runs(store, stage, live_run_ids(store))
    verdict = judge(request.graph, store, stage, run.submissions)

    assert verdict.done == {run.run_id: 3}
    assert {cell.step for cell in verdict.failed} == {"count", "total"}


def test_forgotten_jobs_are_lost_where_there_is_no_receipt(store: Store, stage: Stage) -> None:
    stage.is_open = False
    request = request_of(store)
    drive(request, stage, detach=True)
    (run,) = read_live_runs(store, stage, live_run_ids(store))
    for native_id in list(stage.jobs):
        stage.forget(native_id)

    failed = judge(request.graph, store, stage, run.submissions).failed

    assert {cell.reason for cell in failed} == {EndReason.LOST}
    assert len(failed) == 7
    assert "no longer knows the job" in failed[0].message


def test_a_run_that_ended_is_closed_once_with_its_counts(store: Store, stage: Stage) -> None:
    stage.play = lambda step, sample, attempt: int(sample == "ann" and step == "count")
    outcome = drive(request_of(store), stage)
    (run_id,) = outcome.run_ids

    end = store.get_json(f"runs/{run_id}/end.json")

    assert (end["done"], end["failed"]) == (5, 2)
    assert live_run_ids(store) == []


def test_the_newest_attempts_record_is_read(store: Store, stage: Stage) -> None:
    stage.play = lambda step, sample, attempt: 1
    (run_id,) = drive(request_of(store), stage).run_ids
    record = store.get_json(f"logs/{run_id}/upper/ann/1.failure.json")
    for attempt in (2, 10):
        store.put_json(f"logs/{run_id}/upper/ann/{attempt}.failure.json", record | {"attempt": attempt})

    found = last_failure(store, run_id, "upper", "ann")

    assert found is not None
    assert found.attempt == 10
    assert last_failure(store, run_id, "upper", "nobody") is None


def test_failures_of_a_thousand_cells_cost_a_hundred_records_at_most(store: Store) -> None:
    stage = Stage(store, lambda step, sample, attempt: 1)
    request = request_of(store, *(f"s{number}" for number in range(300)))
    store.calls.clear()

    outcome = drive(request, stage, Ear())

    assert len(outcome.failed) == 601
    # The stage itself reads rows and manifests for each child; the driver's part are the records.
    records = [cell for cell in outcome.failed if cell.message.endswith("broke.")]
    assert len(records) == 100


def test_a_sample_that_is_asked_for_and_not_there_is_an_error(store: Store, stage: Stage) -> None:
    from batch_pipeline.run.status import explain

    with pytest.raises(InvalidUse, match="'zoe' is not in"):
        explain(request_of(store), "zoe")


def test_a_run_keeps_its_own_failures_and_not_what_never_ran(store: Store) -> None:
    cells = [
        FailedCell(step="upper", sample="ann", reason=EndReason.STEP_FAILED, message="broke", run_id="A", exit_code=3),
        FailedCell(step="count", sample="ann", reason=EndReason.DEPENDENCY, message="", run_id="A"),
        FailedCell(step="upper", sample="bob", reason=EndReason.TIMEOUT, message="", run_id="B"),
    ]
    for run_id in ("A", "B"):
        write_failed(store, run_id, cells)
    assert read_failed(store, "A") == cells[:1]
    assert read_failed(store, "B") == cells[2:]


def test_a_failed_cell_has_the_exit_code_of_its_record(store: Store, stage: Stage) -> None:
    stage.play = lambda step, sample, attempt: 3 if sample == "ann" else 0
    (own, *_) = drive(request_of(store, "ann", "bob"), stage).failed
    record = store.get_json(layout.failure(own.run_id, "upper", "ann", 1))
    store.put_json(layout.failure(own.run_id, "upper", "ann", 1), {**record, "exit_code": 7})
    graph = request_of(store, "ann").graph
    told = judge(graph, store, stage, submissions(store, own.run_id)).failed
    assert [(cell.step, cell.exit_code) for cell in told if cell.sample == "ann"] == [("upper", 7), ("count", None)]
    assert own.exit_code == 3
