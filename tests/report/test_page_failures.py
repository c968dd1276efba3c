"""Failures on a page are folded by root cause, and logs that end alike are one."""

from __future__ import annotations

from collections.abc import Mapping

from batch_pipeline.config import load_settings
from batch_pipeline.records.registry import resolve
from batch_pipeline.report.page.details import cells_to_detail, read_details
from batch_pipeline.report.page.failure_section import failures_section
from batch_pipeline.report.page.failures import REMEDIES, root_causes_of, tail_groups
from batch_pipeline.report.page.html import sentence
from batch_pipeline.report.page.source import RunSource, read_run
from batch_pipeline.wire.contract import EndReason
from batch_pipeline.wire.store import Store
from benchmarks.report_runs import write_run
from tests.run.small import Stage, drive, new_store, request_of

Cell = tuple[str, str]


def source_of(store: Store) -> RunSource:
    return read_run(store, load_settings(environ={}), resolve(store, "last"))


def name(number: int) -> str:
    return f"sample-{number:07}"


def run_with(failures: Mapping[Cell, tuple[EndReason, str]]) -> tuple[Store, RunSource]:
    store = new_store()
    write_run(store, 10, failures)
    return store, source_of(store)


def test_logs_that_differ_in_numbers_ids_folders_and_names_end_alike() -> None:
    tails = {
        "ann": "reading /scratch/a1/ann.bam\nannotated 17 reads in 0.3 s at 0x7ffe12ab\nKilled\n",
        "bob": "reading /scratch/b2/bob.bam\nannotated 9,181 reads in 12.75 s at 0x7ffe9999\nKilled\n",
        "cid": "No space left on device\n",
    }
    tails["bob"] = tails["bob"].replace("annotated", "bobotated")
    groups = tail_groups(tails)
    assert [list(group.samples) for group in groups] == [["ann", "bob"], ["cid"]]
    assert groups[0].tail == tails["ann"]


def test_a_cause_counts_what_never_ran_for_it() -> None:
    failures = {
        ("one", name(1)): (EndReason.OUT_OF_MEMORY, "Killed"),
        ("one", name(2)): (EndReason.OUT_OF_MEMORY, "Killed"),
        ("three", name(5)): (EndReason.TIMEOUT, "still at it"),
    }
    store, source = run_with(failures)
    details = read_details(store, source.run.run_id, cells_to_detail(source.failed), ())
    memory, timeout = root_causes_of(source, details)
    assert (memory.step, memory.reason, memory.samples) == ("one", EndReason.OUT_OF_MEMORY, (name(1), name(2)))
    assert memory.not_run == {"two": 2, "three": 2}
    assert [group.samples for group in memory.tails] == [[name(1), name(2)]]
    assert (timeout.step, timeout.not_run) == ("three", {})
    page = failures_section([memory, timeout], ["python", "main.py"], source.run.run_id)
    assert f"python main.py logs {name(1)} one --run {source.run.run_id}" in page
    assert "Never ran for it: 2 of two, 2 of three." in page
    assert sentence(REMEDIES[EndReason.OUT_OF_MEMORY]) in page


def test_a_gather_that_never_ran_is_blamed_on_the_cause_of_most() -> None:
    store = new_store()
    drive(request_of(store), Stage(store, lambda step, sample, _: int((step, sample) == ("upper", "bob"))))
    source = source_of(store)
    (cause,) = root_causes_of(source, [])
    assert (cause.step, cause.samples, dict(cause.not_run)) == ("upper", ("bob",), {"count": 1, "total": 1})


def test_a_failed_cell_that_only_the_table_knows_is_a_cause() -> None:
    _, source = run_with({("two", name(3)): (EndReason.DISK_FULL, "")})
    known = [cell.sample for cell in source.failed]
    assert known == [name(3)]
    (cause,) = root_causes_of(RunSource(**{**vars(source), "failed": ()}), [])
    assert (cause.step, cause.samples, cause.reason) == ("two", (name(3),), EndReason.DISK_FULL)


def test_a_reason_that_a_cell_can_fail_for_has_a_remedy() -> None:
    assert set(EndReason) - set(REMEDIES) == {EndReason.FINISHED, EndReason.DEPENDENCY}


def test_of_many_failures_some_of_each_kind_are_read() -> None:
    failures = {("one", name(number)): (EndReason.OUT_OF_MEMORY, "Killed") for number in range(8)}
    failures["three", name(9)] = (EndReason.TIMEOUT, "slow")
    _, source = run_with(failures)
    assert {cell.step for cell in cells_to_detail(source.failed, 2)} == {"one", "three"}
    assert len(cells_to_detail(source.failed)) == len(failures)


def test_details_have_attempts_log_fingerprint_and_inputs() -> None:
    store, source = run_with({("one", name(1)): (EndReason.STEP_FAILED, "Exception\n")})
    (detail,) = read_details(store, source.run.run_id, source.failed, ())
    (attempt,) = detail.attempts
    assert (attempt.number, attempt.end, attempt.exit_code, attempt.log_tail) == (1, "step failed", 1, "Exception\n")
    assert detail.fingerprint == "f" * 32


def test_a_killed_cell_without_a_record_has_the_backends_words() -> None:
    store, source = run_with({("one", name(1)): (EndReason.OUT_OF_MEMORY, "")})
    for key in list(store.keys("logs/")):
        store.delete([key])
    (detail,) = read_details(store, source.run.run_id, source.failed, ())
    assert [(attempt.end, attempt.log_tail) for attempt in detail.attempts] == [("out of memory", "")]


def test_a_chosen_cell_has_its_receipt_and_the_end_of_its_log() -> None:
    store = new_store()
    drive(request_of(store), Stage(store))
    run_id = source_of(store).run.run_id
    (detail,) = read_details(store, run_id, (), [("upper", "ann")])
    assert detail.attempts[-1].log_tail == "upper says ann\nand goes\n"
    assert detail.inputs == ["text: SR/ann.txt (11 bytes)"]
    key = next(key for key in store.keys("receipts/upper/bob/"))
    store.put(key, store.get(key)[:40])
    (cut,) = read_details(store, run_id, (), [("upper", "bob")])
    assert "cannot be read" in cut.problem
