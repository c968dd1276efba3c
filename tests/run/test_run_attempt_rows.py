"""The attempts of a run as rows: from its cell table, its receipts and the records of its failures."""

from __future__ import annotations

import json
import tracemalloc
from array import array
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import pytest

from batch_pipeline.config import load_settings
from batch_pipeline.records.attempt_row import COLUMNS, AttemptRow
from batch_pipeline.records.cell_table import STATES, CellColumns, CellEnd, CellTableWriter, table_of
from batch_pipeline.records.record import read_record
from batch_pipeline.report.attempt_lines import attempt_lines
from batch_pipeline.run.attempt_rows import attempt_rows
from batch_pipeline.run.closing import index_run
from batch_pipeline.wire import layout
from batch_pipeline.wire.errors import InvalidUse
from batch_pipeline.wire.receipt import Failure, Receipt, Usage
from batch_pipeline.wire.store import Store
from tests.run.small import Stage, drive, request_of

ONCE = load_settings({"recovery.rounds": 0}, environ={})


def rows_of(store: Store, run_id: str, *, by_table: bool = True) -> list[AttemptRow]:
    run = read_record(store, run_id)
    table, _ = table_of(store, run)
    return list(attempt_rows(store, run, table if by_table else None))


def short(rows: list[AttemptRow]) -> list[tuple[str, str, int | None, str, str]]:
    return [(row.step, row.sample, row.attempt, row.state, row.reason) for row in rows]


def change(store: Store, key: str, **values: Any) -> None:
    """Writes a record anew with other values."""
    kind = Failure if key.endswith(".failure.json") else Receipt
    store.put_json(key, replace(kind.from_json(store.get_json(key)), **values).to_json())


@pytest.fixture
def run_id(store: Store, stage: Stage) -> str:
    """A run in which upper of ann had three attempts, of which the second left no record, and upper of bob failed."""
    stage.play = lambda step, sample, attempt: 3 if (step, sample) == ("upper", "bob") else 0
    (made,) = drive(request_of(store, settings=ONCE), stage).run_ids
    (receipt,) = store.keys(layout.receipts("upper", "ann"))
    change(store, receipt, attempt=3)
    first = Failure.from_json(store.get_json(layout.failure(made, "upper", "bob", 1)))
    spot = replace(first, sample="ann", end_reason="interrupted", exit_code=143)
    store.put_json(layout.failure(made, "upper", "ann", 1), spot.to_json())
    return made


def test_each_attempt_at_a_cell_that_was_sent_has_a_row(store: Store, run_id: str) -> None:
    rows = rows_of(store, run_id)

    assert short(rows) == [
        ("upper", "ann", 1, "failed", "interrupted"),
        ("upper", "ann", 2, "not known", ""),
        ("upper", "ann", 3, "done", ""),
        ("upper", "bob", 1, "failed", "step_failed"),
        ("upper", "cid", 1, "done", ""),
        ("count", "ann", 1, "done", ""),
        ("count", "bob", None, "failed", "dependency"),
        ("count", "cid", 1, "done", ""),
        ("total", "_cohort", None, "failed", "dependency"),
    ]
    assert [row.exit_code for row in rows[:5]] == [143, None, 0, 3, 0]
    assert rows[2].duration_s == 1.0
    assert rows[3].log_url == store.url_of(layout.log(run_id, "upper", "bob", 1))
    assert rows[6].log_url == ""
    assert {row.native_id.rpartition(":")[2] for row in rows[:5]} == {"0", "1", "2"}
    assert ":" not in rows[-1].native_id, "a gather is a plain job"
    assert {len(row.fingerprint) for row in rows} == {len(rows[0].fingerprint)} != {0}


def test_the_cell_table_says_what_the_receipts_say_but_for_the_host_of_an_instance(store: Store, stage: Stage) -> None:
    (run_id,) = drive(request_of(store), stage).run_ids
    on_aws = {"instance_type": "m5.xlarge", "purchase": "spot", "availability_zone": "eu-west-1a", "host": "ip-1"}
    usage = Usage(peak_memory_bytes=1 << 20, cpu_seconds=0.5, staged_in_bytes=10, staged_out_bytes=20)
    for step, machine in (("upper", on_aws), ("count", {"host": "lab"})):
        for sample in ("ann", "bob", "cid"):
            (key,) = store.keys(layout.receipts(step, sample))
            queued = "2025-12-31T23:59:59.000Z"
            change(store, key, usage=usage, cpus=2, memory_mb=512, queued_at=queued, **machine)
    table = index_run(store, read_record(store, run_id))
    assert table.measured

    by_table, by_receipts = rows_of(store, run_id), rows_of(store, run_id, by_table=False)

    assert [replace(row, host="") if row.instance_type else row for row in by_receipts] == by_table
    assert by_table[0].zone == "eu-west-1a"
    assert by_table[3].host == "lab"


def test_a_table_with_measures_spares_the_receipts_of_cells_done_at_once(
    store: Store, run_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    index_run(store, read_record(store, run_id))
    read: list[str] = []
    get = Store.get

    def noted(self: Store, key: str) -> bytes:
        read.append(key)
        return get(self, key)

    monkeypatch.setattr(Store, "get", noted)
    rows_of(store, run_id)
    receipts = [key for key in read if layout.cell_of_receipt(key)]
    assert [key.split("/")[2] for key in receipts] == ["ann"], "the one cell with several attempts"


def test_a_cell_that_was_found_unchanged_took_nothing_that_is_known(store: Store, run_id: str) -> None:
    (key,) = store.keys(layout.receipts("upper", "cid"))
    kept = {"run_id": run_id, "attempt": 1, "at": "2026-02-01T00:00:00.000Z"}
    change(store, key, run_id="01OTHER", kept=kept)
    (row,) = [row for row in rows_of(store, run_id, by_table=False) if (row.step, row.sample) == ("upper", "cid")]
    assert (row.state, row.attempt, row.started_at, row.duration_s, row.host) == (
        "found unchanged",
        1,
        kept["at"],
        None,
        "",
    )


def test_a_run_that_goes_on_has_live_cells(store: Store, stage: Stage) -> None:
    stage.is_open = False
    (run_id,) = drive(request_of(store), stage, detach=True).run_ids
    failure = Failure(
        run_id=run_id,
        step="upper",
        sample="bob",
        fingerprint="",
        attempt=1,
        started_at="2026-01-01T00:00:00.000Z",
        stopped_at="2026-01-01T00:00:01.000Z",
        end_reason="interrupted",
        exit_code=1,
        message="",
    )
    store.put_json(layout.failure(run_id, "upper", "bob", 1), failure.to_json())

    rows = short(rows_of(store, run_id))

    assert rows[:4] == [
        ("upper", "ann", None, "live", ""),
        ("upper", "bob", 1, "failed", "interrupted"),
        ("upper", "bob", None, "live", ""),
        ("upper", "cid", None, "live", ""),
    ]
    assert len(rows) == 8


def test_what_another_run_made_since_is_not_known_here(store: Store, run_id: str) -> None:
    (key,) = store.keys(layout.receipts("upper", "cid"))
    change(store, key, run_id="01OTHER")
    rows = short(rows_of(store, run_id, by_table=False))
    assert ("upper", "cid", None, "not known", "") in rows


def test_a_damaged_receipt_ends_nothing(store: Store, run_id: str) -> None:
    (key,) = store.keys(layout.receipts("upper", "cid"))
    store.put(key, store.get(key)[:350])
    assert ("upper", "cid", None, "not known", "") in short(rows_of(store, run_id, by_table=False))


def test_a_run_without_cells_is_refused(store: Store, run_id: str) -> None:
    run = read_record(store, run_id)
    store.delete([layout.plan(run_id)])
    with pytest.raises(InvalidUse, match="has no steps of its own"):
        attempt_rows(store, run, None)


@pytest.mark.slow
def test_memory_is_that_of_one_job_whatever_the_number_of_jobs(store: Store, run_id: str) -> None:
    jobs, size = 8, 1_000
    samples = [f"S{index}" for index in range(jobs * size)]
    writer = CellTableWriter(run_id, samples, done=4, failed=3, measured=True)
    cells = CellColumns.blank("upper", samples)
    for name, value in (("state", STATES.index(CellEnd.DONE)), ("attempts", 1), ("started_ms", 1 << 40)):
        cells.columns[name][:] = array(cells.columns[name].typecode, [value]) * len(samples)
    writer.add(cells)
    table = writer.write(store)
    sent = store.get_json(layout.submission(run_id, "upper-0-0", "sent.json"))
    for job in range(jobs):
        name = f"upper-0-{job}"
        lines = [json.dumps([sample, "f" * 16, {}, {}]) for sample in samples[job * size : (job + 1) * size]]
        store.put(layout.submission(run_id, name, "rows.txt"), "\n".join(lines).encode())
        store.put_json(layout.submission(run_id, name, "sent.json"), {**sent, "job": name})
    run = read_record(store, run_id)

    tracemalloc.start()
    count = sum(row.step == "upper" for row in attempt_rows(store, run, table))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert count == len(samples)
    assert peak < 1_000 * size + 150 * len(samples)


def attempts(**values: Any) -> Iterator[AttemptRow]:
    common: Mapping[str, Any] = {"run_id": "R", "step": "s", "attempt": 1, "state": "done"}
    yield AttemptRow(**{**common, "sample": "S1", "fingerprint": "f", "native_id": "n", **values})


def test_names_stay_in_their_field_whatever_they_hold() -> None:
    hostile = 'a\tb\nc\rd\\e"f\u2028'
    header, line = attempt_lines(attempts(host=hostile, duration_s=1.5), "tsv")
    assert header.split("\t") == list(COLUMNS)
    fields = dict(zip(COLUMNS, line.split("\t"), strict=True))
    assert fields["host"] == 'a\\tb\\nc\\rd\\\\e"f\u2028'
    assert (fields["duration_s"], fields["cpus"]) == ("1.5", "")
    (line,) = attempt_lines(attempts(host=hostile), "jsonl")
    assert json.loads(line)["host"] == hostile
    assert json.loads(line)["cpus"] is None
    assert "\n" not in line


@pytest.mark.parametrize("number", [0, 1, 3])
def test_json_is_one_array(number: int) -> None:
    text = "\n".join(attempt_lines([next(attempts())] * number, "json"))
    assert len(json.loads(text)) == number


def test_columns_are_a_promise() -> None:
    assert " ".join(COLUMNS) == (
        "run_id step sample attempt state reason exit_code fingerprint native_id queued_at started_at stopped_at"
        " duration_s cpus memory_mb peak_memory_bytes cpu_s in_bytes out_bytes host instance_type purchase zone log_url"
    )
