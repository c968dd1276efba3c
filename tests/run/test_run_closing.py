"""The cell table of a run says what its receipts and the records of its failures say, and is only looked at."""

from __future__ import annotations

from array import array
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from batch_pipeline.config import load_settings
from batch_pipeline.records.cell_table import (
    STATES,
    CellEnd,
    CellRow,
    CellTable,
    CellTableWriter,
    milliseconds,
    rounded,
    table_of,
)
from batch_pipeline.records.record import read_record
from batch_pipeline.records.results import all_receipts
from batch_pipeline.run import closing, recorded
from batch_pipeline.run.closing import index_run
from batch_pipeline.run.recorded import recorded_status
from batch_pipeline.wire import layout
from batch_pipeline.wire.contract import EndReason
from batch_pipeline.wire.errors import InvalidUse, StoreFailed
from batch_pipeline.wire.receipt import Failure, Receipt, Usage
from batch_pipeline.wire.store import Store, open_store
from tests.run.small import Ear, Stage, chosen, drive, new_store, request_of

STRANGER = load_settings({"recovery.rounds": 0}, environ={}, folder=Path("/nowhere"))


def ends(table: CellTable) -> dict[tuple[str, str], tuple[CellEnd, EndReason | None]]:
    return {(row.step, row.sample): (row.state, row.reason) for row in table.rows()}


def one_fails(step: str, sample: str, attempt: int) -> int:
    return 3 if (step, sample) == ("upper", "bob") else 0


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A folder, whose receipts a driver reads."""
    return open_store(str(tmp_path / "store"), create=True)


@pytest.fixture
def failed_run(store: Store, stage: Stage) -> str:
    """A run in which one cell fails, and those below it do not run."""
    stage.play = one_fails
    (run_id,) = drive(request_of(store), stage).run_ids
    return run_id


def test_a_run_with_failures_has_them_in_its_table(store: Store, failed_run: str) -> None:
    done, failed = (CellEnd.DONE, None), (CellEnd.FAILED, EndReason.STEP_FAILED)
    not_run = (CellEnd.FAILED, EndReason.DEPENDENCY)
    table, sentence = table_of(store, read_record(store, failed_run))
    assert table is not None
    assert sentence == ""
    assert ends(table) == {
        ("upper", "ann"): done,
        ("upper", "bob"): failed,
        ("upper", "cid"): done,
        ("count", "ann"): done,
        ("count", "bob"): not_run,
        ("count", "cid"): done,
        ("total", layout.COHORT): not_run,
    }


def test_measures_are_those_of_receipts_and_failure_records(store: Store, stage: Stage) -> None:
    stage.play = one_fails
    usage = Usage(peak_memory_bytes=5_000_000_001, staged_in_bytes=123_456_789, staged_out_bytes=77)
    about = {"usage": usage, "cpus": 2, "memory_mb": 4000, "host": "h1"}
    about |= {"instance_type": "m5.large", "purchase": "spot", "availability_zone": "eu-west-1a"}
    act = stage._act

    def measured(request: object, index: int) -> int:
        """As the container leaves them: with what the attempt took."""
        code = act(request, index)  # type: ignore[arg-type]
        for receipt in all_receipts(store):
            key = layout.receipt(receipt.step, receipt.sample, receipt.fingerprint)
            store.put_json(key, replace(receipt, **about).to_json())  # type: ignore[arg-type]
        return code

    stage._act = measured  # type: ignore[method-assign]
    (run_id,) = drive(request_of(store), stage).run_ids
    rows = {(row.step, row.sample): row for row in CellTable.read(store, run_id).rows()}
    for receipt in all_receipts(store):
        assert_same(rows[receipt.step, receipt.sample], receipt)
    failure = Failure.from_json(store.get_json(layout.failure(run_id, "upper", "bob", 1)))
    assert_same(rows["upper", "bob"], failure)
    assert rows["upper", "ann"].machine == "m5.large, spot, eu-west-1a"
    not_run = rows["count", "bob"]
    assert (not_run.attempts, not_run.started_at, not_run.machine) == (0, "", "")
    spent = read_record(store, run_id).spent
    assert spent["receipts"] == 4
    assert spent["vcpu_hours"] == pytest.approx(4 * 2 / 3600)


def rows_of(table: CellTable) -> dict[tuple[str, str], CellRow]:
    return {(row.step, row.sample): row for row in table.rows()}


def leave_attempt(store: Store, run_id: str, sample: str, attempt: int, reason: str, seconds: int) -> None:
    """The record of a failed attempt at `upper`, which began at the beginning of the year."""
    failure = Failure(
        run_id=run_id,
        step="upper",
        sample=sample,
        fingerprint="f",
        attempt=attempt,
        started_at="2026-01-01T00:00:00.000Z",
        stopped_at=f"2026-01-01T00:00:{seconds:02d}.000Z",
        end_reason=reason,
        exit_code=1,
        message="It broke.",
    )
    store.put_json(layout.failure(run_id, "upper", sample, attempt), failure.to_json())


def change_receipt(store: Store, sample: str, **changes: object) -> None:
    (receipt,) = all_receipts(store, layout.receipts("upper", sample))
    key = layout.receipt("upper", sample, receipt.fingerprint)
    store.put_json(key, replace(receipt, **changes).to_json())  # type: ignore[arg-type]


def test_what_earlier_attempts_took_is_told_by_why_they_ended(store: Store, failed_run: str) -> None:
    times = {"started_at": "2026-01-01T00:01:00.000Z", "stopped_at": "2026-01-01T00:01:30.000Z"}
    change_receipt(store, "ann", attempt=5, queued_at="2025-12-31T23:00:00Z", usage=Usage(cpu_seconds=20.5), **times)
    for attempt, reason, seconds in (
        (1, "out_of_memory", 10),
        (2, "interrupted", 20),
        (3, "step_failed", 30),
        (4, "store", 40),
    ):
        leave_attempt(store, failed_run, "ann", attempt, reason, seconds)
    change_receipt(store, "cid", attempt=4, queued_at="2026-01-01T00:00:30Z", **times)
    leave_attempt(store, failed_run, "cid", 2, "timeout", 10)
    rows = rows_of(index_run(store, read_record(store, failed_run)))
    ann, cid = rows["upper", "ann"], rows["upper", "cid"]
    assert (ann.attempts, ann.lost_ms, ann.interrupted_ms, ann.unrecorded) == (5, rounded(40_000), rounded(60_000), 0)
    assert (ann.queued_ms, ann.cpu_ms, ann.duration_ms) == (rounded(20_000), rounded(20_500), rounded(30_000))
    assert (cid.attempts, cid.lost_ms, cid.interrupted_ms, cid.unrecorded) == (4, rounded(10_000), 0, 2)
    assert cid.queued_ms == rounded(30_000)


def test_a_failed_cell_lost_its_attempts_before_the_last(store: Store, failed_run: str) -> None:
    leave_attempt(store, failed_run, "bob", 2, "disk_full", 20)
    leave_attempt(store, failed_run, "bob", 10, "out_of_memory", 30)
    bob = rows_of(index_run(store, read_record(store, failed_run)))["upper", "bob"]
    assert (bob.attempts, bob.duration_ms, bob.lost_ms, bob.interrupted_ms) == (10, rounded(30_000), rounded(21_000), 0)
    assert bob.unrecorded == 7


def test_a_cell_that_was_killed_without_a_word_is_told_as_unrecorded(store: Store, stage: Stage) -> None:
    stage.play, stage.silent = one_fails, {"bob"}
    (run_id,) = drive(request_of(store, settings=STRANGER), stage).run_ids
    rows = rows_of(CellTable.read(store, run_id))
    assert (rows["upper", "bob"].attempts, rows["upper", "bob"].unrecorded) == (0, 1)
    assert rows["count", "bob"].unrecorded == 0


def assert_same(row: CellRow, record: Receipt | Failure) -> None:
    assert (row.attempts, row.started_at) == (record.attempt, record.started_at)
    assert row.duration_ms == rounded(milliseconds(record.stopped_at) - milliseconds(record.started_at))
    assert row.peak_memory_bytes == rounded(record.usage.peak_memory_bytes)
    assert (row.in_bytes, row.out_bytes) == (
        rounded(record.usage.staged_in_bytes),
        rounded(record.usage.staged_out_bytes),
    )
    assert (row.cpus, row.memory_mb) == (record.cpus, record.memory_mb)


def test_what_an_earlier_run_made_is_told_apart_from_what_was_left_out(
    store: Store, stage: Stage, failed_run: str
) -> None:
    stage.play = lambda step, sample, attempt: 0
    request = request_of(store, **chosen(steps=frozenset({"upper"})))
    (second,) = drive(request, stage).run_ids
    assert ends(CellTable.read(store, second)) == {
        ("upper", "ann"): (CellEnd.REUSED, None),
        ("upper", "bob"): (CellEnd.DONE, None),
        ("upper", "cid"): (CellEnd.REUSED, None),
        ("count", "ann"): (CellEnd.REUSED, None),
        ("count", "bob"): (CellEnd.LEFT_OUT, None),
        ("count", "cid"): (CellEnd.REUSED, None),
        ("total", layout.COHORT): (CellEnd.LEFT_OUT, None),
    }
    reused = next(row for row in CellTable.read(store, second).rows() if row.state is CellEnd.REUSED)
    assert (reused.attempts, reused.duration_ms, reused.started_at) == (0, 0, "")


def test_a_cell_that_was_found_unchanged_took_nothing_of_this_run(store: Store, stage: Stage) -> None:
    (first,) = drive(request_of(store), stage).run_ids
    before = store.get_json(next(key for key in store.keys(layout.receipts("upper", "ann"))))
    act = stage._act

    def keeping(request: object, index: int) -> int:
        code = act(request, index)  # type: ignore[arg-type]
        (key,) = store.keys(layout.receipts("upper", "ann"))
        receipt = store.get_json(key)
        if receipt["run_id"] != first:
            kept = {"run_id": receipt["run_id"], "attempt": 1, "at": "2026-01-02T00:00:00.000Z"}
            store.put_json(key, {**receipt, "run_id": first, "started_at": before["started_at"], "kept": kept})
        return code

    stage._act = keeping  # type: ignore[method-assign]
    (second,) = drive(request_of(store, **chosen(force=True)), stage).run_ids
    row = next(row for row in CellTable.read(store, second).rows() if (row.step, row.sample) == ("upper", "ann"))
    assert (row.state, row.started_at, row.duration_ms) == (CellEnd.KEPT, "2026-01-02T00:00:00.000Z", 0)


def test_in_a_bucket_no_receipt_is_read_at_the_end() -> None:
    bucket = new_store()
    (run_id,) = drive(request_of(bucket), Stage(bucket)).run_ids
    assert not CellTable.read(bucket, run_id).measured


def test_of_many_cells_a_driver_writes_the_ends_and_index_the_measures(
    store: Store, stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(closing, "MOST_READ", 6)
    stage.play = one_fails
    (run_id,) = drive(request_of(store), stage).run_ids
    table = CellTable.read(store, run_id)
    assert not table.measured
    assert not any(row.attempts for row in table.rows())
    record = read_record(store, run_id)
    assert record.spent["receipts"] == 4
    indexed = index_run(store, record)
    assert indexed.measured
    assert ends(indexed) == ends(table)
    assert {(row.step, row.sample) for row in indexed.rows() if row.attempts} == {
        ("upper", "ann"),
        ("upper", "bob"),
        ("upper", "cid"),
        ("count", "ann"),
        ("count", "cid"),
    }


def test_an_older_run_is_indexed_from_what_is_left_of_it(store: Store, stage: Stage, failed_run: str) -> None:
    """Of before tables: neither one nor states in the plan, and since then a later run made a cell again."""
    store.delete([layout.run_cells(failed_run)])
    plan = store.get_json(layout.plan(failed_run))
    del plan["states"]
    store.put_json(layout.plan(failed_run), plan)
    stage.play = lambda step, sample, attempt: 0
    drive(request_of(store), stage)
    record = read_record(store, failed_run)
    known = ends(index_run(store, record))
    assert table_of(store, record)[0] is not None
    assert known["upper", "ann"] == (CellEnd.DONE, None)
    assert known["upper", "bob"] == (CellEnd.FAILED, EndReason.STEP_FAILED)
    # It did not run, which nothing that is left says: another run's receipt is there.
    assert known["count", "bob"] == (CellEnd.UNKNOWN, None)


def test_a_run_that_is_live_or_has_no_jobs_is_not_indexed(store: Store, stage: Stage) -> None:
    stage.is_open = False
    (run_id,) = drive(request_of(store), stage, detach=True).run_ids
    with pytest.raises(InvalidUse, match="is live"):
        index_run(store, read_record(store, run_id))


def test_a_run_ends_though_its_table_cannot_be_written(
    store: Store, stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    put = Store.put

    def refused(self: Store, key: str, data: bytes) -> None:
        if key.endswith("/cells"):
            raise StoreFailed("No rights.")
        put(self, key, data)

    monkeypatch.setattr(Store, "put", refused)
    (run_id,) = drive(request_of(store), stage).run_ids
    record = read_record(store, run_id)
    assert record.ok
    assert record.spent["receipts"] == 7
    assert table_of(store, record) == (None, "")


def test_a_run_ends_though_its_records_are_damaged(store: Store, stage: Stage) -> None:
    stage.is_open = False
    (run_id,) = drive(request_of(store), stage, detach=True).run_ids
    plan = store.get_json(layout.plan(run_id))
    store.put_json(layout.plan(run_id), {**plan, "states": dict.fromkeys(plan["states"], "7Q")})
    stage.is_open = True
    drive(request_of(store), stage)
    record = read_record(store, run_id)
    assert record.ok
    with pytest.raises(StoreFailed, match="its records or receipts are damaged"):
        index_run(store, record)


def test_a_run_is_indexed_though_the_record_of_a_failure_is_cut_off(store: Store, failed_run: str) -> None:
    store.put(layout.failure(failed_run, "upper", "bob", 1), b"{")
    rows = {(row.step, row.sample): row for row in index_run(store, read_record(store, failed_run)).rows()}
    assert (rows["upper", "bob"].state, rows["upper", "bob"].attempts) == (CellEnd.FAILED, 0)
    assert rows["upper", "ann"].attempts == 1


def test_a_driver_that_dies_before_the_end_leaves_no_table_that_counts(store: Store, stage: Stage) -> None:
    """The next command judges the run again, and writes its table again."""
    stage.is_open = False
    (run_id,) = drive(request_of(store), stage, detach=True).run_ids
    store.put(layout.run_cells(run_id), b"of a driver that died")
    assert table_of(store, read_record(store, run_id)) == (None, "")
    stage.is_open = True
    drive(request_of(store), stage)
    table, _ = table_of(store, read_record(store, run_id))
    assert table is not None
    assert table.steps["upper"].counts() == {CellEnd.DONE: 3}


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every run has as many cells as those whose table `status` reads."""
    monkeypatch.setattr(recorded, "TABLE_CELLS", 1)


@pytest.mark.usefixtures("large")
def test_status_of_a_large_run_is_the_same_by_its_table(store: Store, failed_run: str) -> None:
    table = store.get(layout.run_cells(failed_run))
    store.delete([layout.run_cells(failed_run)])
    by_receipts = recorded_status(store, STRANGER)
    store.put(layout.run_cells(failed_run), table)
    before = Counter(store.calls)
    by_table = recorded_status(store, STRANGER)
    assert by_table.progress == by_receipts.progress
    assert by_table.failed == by_receipts.failed
    assert by_table.plan.states == by_receipts.plan.states
    assert (Counter(store.calls) - before).total() <= 10
    assert any("Read from its cell table" in note for note in by_table.notes)


@pytest.mark.usefixtures("large")
def test_cells_that_were_left_to_another_run_are_looked_for_when_both_have_ended(store: Store, stage: Stage) -> None:
    stage.is_open = False
    (first,) = drive(request_of(store, **chosen(steps=frozenset({"upper"}))), stage, detach=True).run_ids
    *_, second = drive(request_of(store), stage, detach=True).run_ids
    assert second != first
    stage.is_open = True
    drive(request_of(store), stage)
    assert ends(CellTable.read(store, second))["upper", "ann"] == (CellEnd.UNKNOWN, None)
    progress = recorded_status(store, STRANGER).progress
    assert {step: one.line for step, one in progress.items()} == {
        "upper": "3/3 done",
        "count": "3/3 done",
        "total": "1/1 done",
    }


@pytest.mark.usefixtures("large")
def test_status_of_a_large_run_costs_as_many_calls_for_ten_times_the_samples(store: Store, stage: Stage) -> None:
    calls = []
    for number in (4, 40):
        drive(request_of(store, *(f"s{position:02d}" for position in range(number))), stage)
        before = store.calls.total()
        assert any("cell table" in note for note in recorded_status(store, STRANGER).notes)
        calls.append(store.calls.total() - before)
    assert calls[0] == calls[1] <= 8


@pytest.mark.usefixtures("large")
@pytest.mark.parametrize("damage", [b"", b"nothing", b"\x1f\x8b\x08"])
def test_a_damaged_table_is_told_and_receipts_are_read(store: Store, failed_run: str, damage: bytes) -> None:
    whole = recorded_status(store, STRANGER)
    store.put(layout.run_cells(failed_run), damage)
    status = recorded_status(store, STRANGER)
    assert status.progress == whole.progress
    assert any("cannot be read" in note and f"store index {failed_run}" in note for note in status.notes)


@pytest.mark.usefixtures("large")
def test_status_reads_receipts_when_a_later_run_is_there(store: Store, stage: Stage, failed_run: str) -> None:
    stage.play = lambda step, sample, attempt: 0
    drive(request_of(store), stage)
    status = recorded_status(store, STRANGER, failed_run)
    assert not status.failed
    assert not any("cell table" in note for note in status.notes)


def test_planning_never_looks_at_a_table(store: Store, stage: Stage, failed_run: str) -> None:
    """A table that lies changes nothing of what is sent."""
    table = CellTable.read(store, failed_run)
    liar = CellTableWriter(
        failed_run, table.steps["upper"].samples, done=table.done, failed=table.failed, measured=True
    )
    for cells in table.steps.values():
        cells.columns["state"][:] = array("B", [STATES.index(CellEnd.DONE)] * len(cells.samples))
        liar.add(cells)
    liar.write(store)
    stage.play = lambda step, sample, attempt: 0
    ear = Ear()
    drive(request_of(store), stage, ear)
    assert sum(size for _, size in ear.jobs) == 3
