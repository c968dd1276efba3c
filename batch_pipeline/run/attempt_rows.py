"""Lists the attempts of a run, one row each with when, where and what it took: a trace file, as a stream.

The cell table of a run (`records.cell_table`) has what is asked of a cell that was done at its first attempt, durations
and sizes to 0.1 %. Of all others, and of a run that has no table with measures, receipts and records of failures are
read, a GET each, some hundreds in memory at a time. Cells that the run did not send have no row.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

from batch_pipeline.records.attempt_row import AttemptRow, machine_columns, measures
from batch_pipeline.records.attempts import earlier_failures, failures_of, records_at
from batch_pipeline.records.cell_table import REASONS, STATES, CellEnd, CellTable, iso
from batch_pipeline.records.events import FailedCell
from batch_pipeline.records.manifests import cells_of
from batch_pipeline.records.record import RunRecord
from batch_pipeline.records.results import read_receipts
from batch_pipeline.records.submissions import Submission
from batch_pipeline.run.live import submissions
from batch_pipeline.run.verdict import read_failed
from batch_pipeline.wire import layout
from batch_pipeline.wire.contract import EndReason
from batch_pipeline.wire.errors import InvalidUse
from batch_pipeline.wire.native_id import NativeId
from batch_pipeline.wire.receipt import Failure, Receipt
from batch_pipeline.wire.store import NotInStore, Store

#: State of a cell of a run that has not ended, of which the store has no end yet.
LIVE: Final = "live"
#: Cells whose records are in memory at a time.
_BATCH: Final = 500
_MADE: Final = (CellEnd.DONE, CellEnd.KEPT)


def attempt_rows(store: Store, run: RunRecord, table: CellTable | None) -> Iterator[AttemptRow]:
    """The attempts at the cells that a run sent: step by step, jobs by time, children by index, attempts by number.

    `table` is the run's, if it may be read (`table_of`). Raises InvalidUse for a run that has no cells of its own,
    before the first row, and StoreFailed.
    """
    try:
        steps = list(store.get_json(layout.plan(run.run_id))["scopes"])
    except NotInStore as error:
        raise InvalidUse(f"Run {run.run_id} has no steps of its own. Name a run that it began.") from error
    return _Trace(store, run, steps, table).rows()


@dataclass(frozen=True, kw_only=True)
class _Cell:
    """A cell that the run sent."""

    step: str
    sample: str
    fingerprint: str
    native_id: str


class _Trace:
    """A run whose attempts are listed."""

    def __init__(self, store: Store, run: RunRecord, steps: Sequence[str], table: CellTable | None) -> None:
        self._store, self._run, self._steps, self._table = store, run, steps, table
        self._failed: dict[tuple[str, str], FailedCell] = {}
        with suppress(NotInStore):
            self._failed = {(cell.step, cell.sample): cell for cell in read_failed(store, run.run_id)}

    def rows(self) -> Iterator[AttemptRow]:
        jobs = [job for job in submissions(self._store, self._run.run_id) if not job.join]
        for step in self._steps:
            of_table = _StepOfTable(self._table, step)
            of_live = _LiveFailures(self._store, self._run.run_id, step)
            for job in sorted((job for job in jobs if job.step == step), key=lambda job: (job.sent_at, job.job)):
                cells = self._cells(job)
                for first in range(0, len(cells), _BATCH):
                    yield from self._of_batch(cells[first : first + _BATCH], of_table, of_live)

    def _cells(self, job: Submission) -> list[_Cell]:
        pairs = cells_of(self._store, self._run.run_id, job.job)
        is_array = len(pairs) > 1
        return [
            _Cell(
                step=job.step,
                sample=sample,
                fingerprint=fingerprint,
                native_id=str(NativeId.of_child(job.native_id, index, is_array=is_array)),
            )
            for index, (sample, fingerprint) in enumerate(pairs)
        ]

    def _of_batch(self, cells: Sequence[_Cell], of_table: _StepOfTable, of_live: _LiveFailures) -> Iterator[AttemptRow]:
        unmeasured = [cell for cell in cells if not of_table.has_all(cell.sample)]
        done = self._done(unmeasured)
        failed = self._failures([cell for cell in unmeasured if cell.sample not in done])
        for cell in cells:
            if of_table.has_all(cell.sample):
                yield self._row(cell, **of_table.values(cell.sample))
            elif cell.sample in done:
                yield from self._rows_of_done(cell, *done[cell.sample])
            elif cell.sample in failed:
                yield from self._rows_of_failed(cell, *failed[cell.sample])
            elif self._run.ended:
                yield self._row(cell, **of_table.end(cell.sample))
            else:
                records = of_live.records(cell.sample)
                yield from self._rows_before(cell, records, records[-1].attempt + 1 if records else 1)
                yield self._row(cell, state=LIVE)

    def _done(self, cells: Sequence[_Cell]) -> dict[str, tuple[Receipt, Sequence[Failure]]]:
        """Sample -> receipt that this run wrote, and the records of the attempts before."""
        keys = [
            layout.receipt(cell.step, cell.sample, cell.fingerprint)
            for cell in cells
            if (cell.step, cell.sample) not in self._failed
        ]
        receipts = [
            receipt
            for receipt in read_receipts(self._store, keys, damaged=lambda _: None)
            if receipt.written_by[0] == self._run.run_id
        ]
        earlier = earlier_failures(self._store, receipts)
        return {receipt.sample: (receipt, failures) for receipt, failures in zip(receipts, earlier, strict=True)}

    def _failures(self, cells: Sequence[_Cell]) -> dict[str, tuple[FailedCell, Sequence[Failure]]]:
        """Sample -> how it failed as the run was judged, and the records of its attempts."""
        failed = [self._failed[key] for cell in cells if (key := (cell.step, cell.sample)) in self._failed]
        return {cell.sample: (cell, records) for cell, records in failures_of(self._store, self._run.run_id, failed)}

    def _rows_of_done(self, cell: _Cell, receipt: Receipt, earlier: Sequence[Failure]) -> Iterator[AttemptRow]:
        _, attempt = receipt.written_by
        yield from self._rows_before(cell, earlier, attempt)
        if receipt.kept:
            # All else is of the run that made the results.
            values = {"state": CellEnd.KEPT.value, "started_at": receipt.kept["at"]}
        else:
            values = {"state": CellEnd.DONE.value, **measures(receipt)}
        yield self._row(cell, attempt=attempt, exit_code=0, **values)

    def _rows_of_failed(self, cell: _Cell, failed: FailedCell, records: Sequence[Failure]) -> Iterator[AttemptRow]:
        if not records:
            yield self._row(cell, state=CellEnd.FAILED.value, reason=failed.reason.value, exit_code=failed.exit_code)
            return
        *earlier, last = records
        yield from self._rows_before(cell, earlier, last.attempt)
        yield self._row_of_failure(cell, last, failed.reason.value)

    def _rows_before(self, cell: _Cell, records: Sequence[Failure], attempt: int) -> Iterator[AttemptRow]:
        """The attempts before this one; those that left no record, killed with their container, are not known."""
        by_number = {record.attempt: record for record in records}
        for number in range(1, attempt):
            if number in by_number:
                yield self._row_of_failure(cell, by_number[number], by_number[number].end_reason)
            else:
                yield self._row(cell, attempt=number, state=CellEnd.UNKNOWN.value)

    def _row_of_failure(self, cell: _Cell, record: Failure, reason: str) -> AttemptRow:
        state = CellEnd.FAILED.value
        return self._row(
            cell, attempt=record.attempt, state=state, reason=reason, exit_code=record.exit_code, **measures(record)
        )

    def _row(self, cell: _Cell, *, state: str, attempt: int | None = None, **values: Any) -> AttemptRow:
        run_id = self._run.run_id
        log = layout.log(run_id, cell.step, cell.sample, attempt) if attempt is not None else ""
        return AttemptRow(
            run_id=run_id,
            step=cell.step,
            sample=cell.sample,
            attempt=attempt,
            state=state,
            fingerprint=cell.fingerprint,
            native_id=cell.native_id,
            log_url=self._store.url_of(log) if log else "",
            **values,
        )


class _StepOfTable:
    """A step as the cell table of the run has it, if there is one."""

    def __init__(self, table: CellTable | None, step: str) -> None:
        self._machines = table.machines if table else ()
        self._is_measured = table is not None and table.measured
        cells = table.steps.get(step) if table else None
        self._columns: Mapping[str, Sequence[int]] = cells.columns if cells else {}
        self._positions = {sample: position for position, sample in enumerate(cells.samples)} if cells else {}

    def has_all(self, sample: str) -> bool:
        """Whether no receipt and no record of a failure tells more of the cell."""
        at = self._positions.get(sample)
        if at is None:
            return False
        if REASONS[self._columns["reason"][at]] == EndReason.DEPENDENCY.value:
            return True
        is_made = STATES[self._columns["state"][at]] in _MADE
        return is_made and self._is_measured and self._columns["attempts"][at] == 1

    def end(self, sample: str) -> dict[str, Any]:
        """How a cell ended of which nothing else is left."""
        at = self._positions.get(sample)
        if at is None:
            return {"state": CellEnd.UNKNOWN.value}
        return {"state": STATES[self._columns["state"][at]].value, "reason": REASONS[self._columns["reason"][at]]}

    def values(self, sample: str) -> dict[str, Any]:
        """Columns of a cell of which nothing tells more."""
        at = self._positions[sample]
        if STATES[self._columns["state"][at]] not in _MADE:
            return self.end(sample)
        cell = {name: column[at] for name, column in self._columns.items()}
        start, duration, state = cell["started_ms"], cell["duration_ms"], STATES[cell["state"]]
        values: dict[str, Any] = {"state": state.value, "attempt": 1, "exit_code": 0, "started_at": iso(start)}
        if state is CellEnd.KEPT:
            return values
        return values | {
            "queued_at": iso(start - cell["queued_ms"]) if cell["queued_ms"] else "",
            "stopped_at": iso(start + duration),
            "duration_s": duration / 1000,
            "cpus": cell["cpus"] or None,
            "memory_mb": cell["memory_mb"] or None,
            "peak_memory_bytes": cell["peak_memory_bytes"] or None,
            "cpu_s": cell["cpu_ms"] / 1000,
            "in_bytes": cell["in_bytes"],
            "out_bytes": cell["out_bytes"],
            **machine_columns(self._machines[cell["machine"]]),
        }


class _LiveFailures:
    """The records of failures of a step in a run that goes on: their keys are listed once, at the first use."""

    def __init__(self, store: Store, run_id: str, step: str) -> None:
        self._store, self._prefix = store, layout.step_logs(run_id, step)

    @cached_property
    def _keys(self) -> Mapping[str, Sequence[str]]:
        """Sample -> keys by number of the attempt."""
        keys: dict[str, dict[int, str]] = {}
        for key in self._store.keys(self._prefix):
            if (attempt := layout.attempt_of_failure(key)) is not None:
                keys.setdefault(key.rsplit("/", 2)[1], {})[attempt] = key
        return {sample: [key for _, key in sorted(numbered.items())] for sample, numbered in keys.items()}

    def records(self, sample: str) -> Sequence[Failure]:
        """Those of a sample that are whole, oldest first."""
        return records_at(self._store, self._keys.get(sample, ()))
