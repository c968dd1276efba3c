"""Closes a run that was judged: its failed cells, its cell table, what it took, and last its end.

The cell table (`records.cell_table`) says how every cell ended by what the driver saw; when and where a cell ran, and
what it took, is read from its receipt or the record of its failure, a GET a cell that was sent, and from the records of
its earlier attempts, a LIST or GET more for a cell that had some. A driver makes no call for a sample: it reads these
where the store is a folder of its machine, up to `MOST_READ` of them. `store index` reads them all, wherever they lie.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from io import BytesIO, TextIOWrapper
from itertools import repeat
from typing import Any, Final

from batch_pipeline.backends.base import WidthLimiter
from batch_pipeline.config import Settings
from batch_pipeline.log import Facts
from batch_pipeline.pipeline.plan import CellState
from batch_pipeline.pipeline.step import Scope
from batch_pipeline.records.attempts import done_rows, failed_rows
from batch_pipeline.records.cell_table import (
    REASONS,
    STATES,
    CellColumns,
    CellEnd,
    CellRow,
    CellTable,
    CellTableWriter,
    table_of,
)
from batch_pipeline.records.events import FailedCell
from batch_pipeline.records.manifests import cells_of
from batch_pipeline.records.record import RunRecord, write_end
from batch_pipeline.records.record_writing import states_of
from batch_pipeline.records.results import read_receipts
from batch_pipeline.records.spent import spent_record
from batch_pipeline.records.submissions import Submission
from batch_pipeline.run.live import submissions
from batch_pipeline.run.verdict import read_failed, write_failed
from batch_pipeline.run.widths import remove_widths
from batch_pipeline.wire import layout
from batch_pipeline.wire.errors import InvalidUse, StoreFailed
from batch_pipeline.wire.store import NotInStore, Store

#: Cells whose receipts in a folder a driver reads when it closes their run.
MOST_READ: Final = 20_000
#: Cells whose receipts are in memory at a time.
_BATCH: Final = 2_000
_LOG: Final = logging.getLogger(__name__)
_ENDS: Final = {
    CellState.DONE: CellEnd.REUSED,
    CellState.EXCLUDED: CellEnd.EXCLUDED,
    # Other runs had them, and may have made them since.
    **dict.fromkeys((CellState.LIVE, CellState.DEFERRED), CellEnd.UNKNOWN),
    **dict.fromkeys((CellState.BLOCKED, CellState.SKIPPED), CellEnd.LEFT_OUT),
    # Sent, if its submission did not fail: then the rows of its job tell how it ended.
    CellState.TO_RUN: CellEnd.LEFT_OUT,
}


@dataclass(frozen=True, kw_only=True)
class _Ended:
    """A run whose jobs have ended, as its table tells of it."""

    run_id: str
    #: Cells that are done, and that are not.
    done: int
    failed: int
    #: Jobs that have cells.
    jobs: Sequence[Submission]
    #: Step -> sample -> how a cell that was sent failed.
    failures: Mapping[str, Mapping[str, FailedCell]]
    #: Whether every cell that was sent and is not among the failures was done.
    is_complete: bool = True
    #: Jobs of earlier runs that were judged with this one, and how their cells failed.
    earlier_jobs: Sequence[Submission] = ()
    earlier_failures: Mapping[str, Mapping[str, FailedCell]] = field(default_factory=dict)
    #: The table that is written anew: what it tells of cells of earlier runs.
    before: CellTable | None = None


def close_run(
    store: Store,
    backend: WidthLimiter,
    run_id: str,
    *,
    jobs: Sequence[Submission],
    failed: Sequence[FailedCell],
    done: int,
    settings: Settings,
) -> None:
    """Says how a run ended whose jobs have all ended and were judged, and takes it off the live ones.

    The widths of its steps are removed. `jobs` and `failed` may have those of other runs too. Repeating it is harmless.
    Raises StoreFailed.
    """
    ours = [cell for cell in failed if cell.run_id == run_id]
    remove_widths(store, backend, run_id)
    write_failed(store, run_id, ours)
    sent = [job for job in jobs if job.run_id == run_id and not job.join]
    table = None
    if sent:
        # The newest of several waves tells of all: what looks at a store reads the table of its newest run.
        is_newest = run_id == max(job.run_id for job in jobs)
        ended = _Ended(
            run_id=run_id,
            done=done,
            failed=len(ours),
            jobs=sent,
            failures=_by_cell(ours),
            earlier_jobs=[job for job in jobs if is_newest and job.run_id != run_id and not job.join],
            earlier_failures=_by_cell(cell for cell in failed if is_newest and cell.run_id != run_id),
        )
        is_near = store.folder is not None and sum(job.size for job in sent) <= MOST_READ
        table = _written(store, ended, measured=is_near)
    write_end(
        store, run_id, done=done, failed=len(ours), spent=spent_record(store, run_id, jobs, settings, table, ours)
    )


def index_run(store: Store, run: RunRecord) -> CellTable:
    """Writes the cell table of a run that has ended, with all that its records and receipts still tell.

    Raises InvalidUse for a run that is live or has no cells, and StoreFailed.
    """
    if not run.ended:
        raise InvalidUse(f"Run {run.run_id} is live; its cell table is written when it has ended. Follow it: `watch`.")
    sent = [job for job in submissions(store, run.run_id) if not job.join]
    if not sent:
        raise InvalidUse(f"Run {run.run_id} sent no job, so it has no cells. Name another: `runs` lists them.")
    try:
        failed = read_failed(store, run.run_id)
    except NotInStore:
        failed = []
    failures = _by_cell(failed)
    before, _ = table_of(store, run)
    for row in before.rows() if before else ():
        if row.state is CellEnd.FAILED and row.reason is not None:
            cell = FailedCell(step=row.step, sample=row.sample, reason=row.reason, message="", run_id=run.run_id)
            failures.setdefault(row.step, {}).setdefault(row.sample, cell)
    is_complete = sum(map(len, failures.values())) == run.failed
    ended = _Ended(
        run_id=run.run_id,
        done=run.done,
        failed=run.failed,
        jobs=sent,
        failures=failures,
        is_complete=is_complete,
        before=before,
    )
    return _write(store, ended, measured=True)


def _written(store: Store, ended: _Ended, *, measured: bool) -> CellTable | None:
    """The table, or None where it cannot be written: a run's end does not fail for what only others look at."""
    try:
        return _write(store, ended, measured=measured)
    except StoreFailed as error:
        _LOG.info("not indexed %s", Facts(run=ended.run_id, error=error.message))
        return None


def _write(store: Store, ended: _Ended, *, measured: bool) -> CellTable:
    """Raises StoreFailed, also for records that are not as they were written."""
    try:
        return _made(store, ended, measured=measured)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise StoreFailed(
            f"A cell table of run {ended.run_id} cannot be made: its records or receipts are damaged ({error!r})."
            " What is planned does not need it."
        ) from error


def _made(store: Store, ended: _Ended, *, measured: bool) -> CellTable:
    plan = store.get_json(layout.plan(ended.run_id))
    samples = _sample_names(store, ended.run_id)
    writer = CellTableWriter(ended.run_id, samples, done=ended.done, failed=ended.failed, measured=measured)
    positions = {sample: position for position, sample in enumerate(samples)}
    others = {step: tuple(names) for step, names in plan.get("rows", {}).items()}
    for step, scope in plan["scopes"].items():
        names = (layout.COHORT,) if scope == Scope.COHORT.value else others.get(step, samples)
        cells = CellColumns.blank(step, names)
        places = positions if names is samples else {name: position for position, name in enumerate(names)}
        _fill_unsent(cells, plan, samples)
        _fill_earlier(store, ended, cells, places)
        _fill_sent(store, ended, cells, places, writer, measured=measured)
        writer.add(cells)
    table = writer.write(store)
    _LOG.info("indexed %s", Facts(run=ended.run_id, steps=len(table.steps), samples=len(samples), measured=measured))
    return table


def _sample_names(store: Store, run_id: str) -> tuple[str, ...]:
    """The names of the run's list, each once: a million lines are not kept beside them."""
    lines = TextIOWrapper(BytesIO(store.get(layout.samples(run_id))), "utf-8", newline="\n")
    next(lines, "")
    names = dict.fromkeys(line.rstrip("\n").partition("\t")[0] for line in lines)
    return tuple(filter(None, names))


def _fill_unsent(cells: CellColumns, plan: Mapping[str, Any], samples: Sequence[str]) -> None:
    """What the plan of the run made of each cell; plans of before this was recorded tell of excluded ones alone."""
    numbers = cells.columns["state"]
    ends: Iterable[CellEnd] = repeat(CellEnd.UNKNOWN, len(numbers))
    if text := plan.get("states", {}).get(cells.step):
        ends = (_ENDS[state] for state in states_of(text))
    elif excluded := frozenset(plan.get("excluded", {}).get(cells.step, ())):
        ends = (CellEnd.EXCLUDED if name in excluded else CellEnd.UNKNOWN for name in samples)
    for position, end in zip(range(len(numbers)), ends, strict=True):
        numbers[position] = STATES.index(end)


def _fill_earlier(store: Store, ended: _Ended, cells: CellColumns, positions: Mapping[str, int]) -> None:
    """How the cells of a step ended that the plan of the run left to earlier runs, which ended with it."""
    if ended.before and (known := ended.before.steps.get(cells.step)) and known.samples == cells.samples:
        unknown, numbers = STATES.index(CellEnd.UNKNOWN), cells.columns["state"]
        for position, number in enumerate(known.columns["state"]):
            if numbers[position] == unknown:
                numbers[position] = number
    failures = ended.earlier_failures.get(cells.step, {})
    for job in ended.earlier_jobs:
        for sample, _ in cells_of(store, job.run_id, job.job) if job.step == cells.step else ():
            if sample in positions:
                end = CellEnd.LEFT_OUT if sample in failures else CellEnd.REUSED
                _set_end(cells, positions[sample], end, None)


def _fill_sent(
    store: Store,
    ended: _Ended,
    cells: CellColumns,
    positions: Mapping[str, int],
    writer: CellTableWriter,
    *,
    measured: bool,
) -> None:
    """How the cells of a step ended that the run sent, and, if it is to be `measured`, what they took."""
    failures = ended.failures.get(cells.step, {})
    unfailed = CellEnd.DONE if ended.is_complete else CellEnd.UNKNOWN
    for job in ended.jobs:
        if job.step != cells.step:
            continue
        sent = cells_of(store, ended.run_id, job.job)
        for sample, _ in sent:
            failure = failures.get(sample)
            _set_end(cells, positions[sample], unfailed if failure is None else CellEnd.FAILED, failure)
        if measured:
            for first in range(0, len(sent), _BATCH):
                batch = sent[first : first + _BATCH]
                keys = [layout.receipt(job.step, *cell) for cell in batch if cell[0] not in failures]
                receipts = [
                    receipt
                    for receipt in read_receipts(store, keys, damaged=lambda _: None)
                    if receipt.written_by[0] == ended.run_id
                ]
                for row in done_rows(store, receipts):
                    _set_row(cells, positions[row.sample], row, writer)
    if measured:
        for row in failed_rows(store, ended.run_id, failures.values()):
            _set_row(cells, positions[row.sample], row, writer)


def _set_end(cells: CellColumns, position: int, end: CellEnd, failure: FailedCell | None) -> None:
    cells.columns["state"][position] = STATES.index(end)
    cells.columns["reason"][position] = REASONS.index(failure.reason.value) if failure else 0


def _set_row(cells: CellColumns, position: int, row: CellRow, writer: CellTableWriter) -> None:
    """Fills the columns of a cell with what it took."""
    coded = {
        "state": STATES.index(row.state),
        "reason": REASONS.index(row.reason.value) if row.reason else 0,
        "machine": writer.machine(row.machine),
    }
    for name, column in cells.columns.items():
        column[position] = coded[name] if name in coded else getattr(row, name)


def _by_cell(failed: Iterable[FailedCell]) -> dict[str, dict[str, FailedCell]]:
    cells: dict[str, dict[str, FailedCell]] = {}
    for cell in failed:
        cells.setdefault(cell.step, {})[cell.sample] = cell
    return cells
