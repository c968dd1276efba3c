"""Details of single cells: attempts, log tail, fingerprint and inputs, read from failure records and receipts.

Every failed cell has them up to `MOST_FAILED`, beyond that some of each group that failed alike; other cells when they
are chosen. One LIST a cell, and a GET an attempt. A receipt that cannot be read is a sentence in its cell's details.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice, zip_longest
from typing import Any, Final

from batch_pipeline.records.attempts import earlier_failures, failures_of
from batch_pipeline.records.events import FailedCell
from batch_pipeline.records.results import Cell, receipts_of
from batch_pipeline.report.page.source import TAIL_CHARACTERS
from batch_pipeline.report.tables import failure_groups
from batch_pipeline.wire import layout
from batch_pipeline.wire.errors import StoreFailed
from batch_pipeline.wire.plain_text import one_line
from batch_pipeline.wire.receipt import Failure, FileRecord, Receipt
from batch_pipeline.wire.store import NotInStore, Store

#: Failed cells whose details are read.
MOST_FAILED: Final = 200
#: Inputs of a cell that are shown.
MOST_INPUTS: Final = 20


@dataclass(frozen=True, kw_only=True)
class AttemptDetail:
    """One attempt at a cell."""

    number: int
    #: Words for why it ended: `done`, `out of memory`.
    end: str
    message: str = ""
    exit_code: int | None = None
    started_at: str = ""
    stopped_at: str = ""
    machine: str = ""
    native_id: str = ""
    log_tail: str = ""


@dataclass(frozen=True, kw_only=True)
class CellDetail:
    """What the page shows of a cell beyond its columns."""

    step: str
    sample: str
    attempts: Sequence[AttemptDetail] = ()
    fingerprint: str = ""
    #: `port: key (bytes)`
    inputs: Sequence[str] = ()
    #: Why something could not be read; empty: nothing was wrong.
    problem: str = ""

    def to_json(self) -> Mapping[str, Any]:
        """As the page's script reads it."""
        attempts = [{name: getattr(one, name) for name in AttemptDetail.__dataclass_fields__} for one in self.attempts]
        rest = {"fingerprint": self.fingerprint, "inputs": list(self.inputs), "problem": self.problem}
        return {"step": self.step, "sample": self.sample, "attempts": attempts, **rest}


def cells_to_detail(failed: Sequence[FailedCell], most: int = MOST_FAILED) -> list[FailedCell]:
    """Failed cells whose details are read: a turn for each group that failed alike, until there are enough."""
    cells = {(cell.step, cell.sample): cell for cell in failed}
    groups = [[cells[group.step, sample] for sample in group.samples] for group in failure_groups(failed)]
    in_turn = chain.from_iterable(zip_longest(*groups))
    return list(islice((cell for cell in in_turn if cell is not None), most))


def read_details(store: Store, run_id: str, failed: Sequence[FailedCell], chosen: Collection[Cell]) -> list[CellDetail]:
    """The details of these failed cells, and of those that were chosen. Raises StoreFailed when the store fails."""
    details = [_of_failed(cell, records) for cell, records in failures_of(store, run_id, failed)]
    known = {(detail.step, detail.sample) for detail in details}
    return [*details, *(_of_chosen(store, run_id, cell) for cell in dict.fromkeys(chosen) if cell not in known)]


def details_by_run(store: Store, failed: Sequence[FailedCell]) -> list[CellDetail]:
    """The details of failed cells of several runs, as many as of one. Raises StoreFailed when the store fails."""
    by_run: dict[str, list[FailedCell]] = {}
    for cell in cells_to_detail(failed):
        by_run.setdefault(cell.run_id, []).append(cell)
    return [detail for run_id, cells in by_run.items() for detail in read_details(store, run_id, cells, ())]


def _of_failed(cell: FailedCell, records: Sequence[Failure]) -> CellDetail:
    attempts = [_of_failure(record) for record in records]
    if not attempts or (cell.attempt or 0) > attempts[-1].number:
        # A killed container left no record: the backend's words are all there is.
        last = cell.attempt or len(attempts) + 1
        attempts.append(
            AttemptDetail(number=last, end=cell.reason.words, message=cell.message, exit_code=cell.exit_code)
        )
    return CellDetail(
        step=cell.step,
        sample=cell.sample,
        attempts=attempts,
        fingerprint=records[-1].fingerprint if records else "",
        inputs=list(_input_lines(records[-1].inputs)) if records else (),
    )


def _of_chosen(store: Store, run_id: str, cell: Cell) -> CellDetail:
    """Of a cell that did not fail: by its receipt, whichever run wrote it, and the attempts before."""
    try:
        receipt = receipts_of(store, [cell]).get(cell)
    except StoreFailed as error:
        return CellDetail(step=cell[0], sample=cell[1], problem=error.message)
    if receipt is None:
        return CellDetail(step=cell[0], sample=cell[1], problem="It has no receipt: it was not made, or removed since.")
    earlier = next(iter(earlier_failures(store, [receipt])), ())
    problem = f"Run {receipt.run_id} made it." if receipt.run_id != run_id else ""
    return CellDetail(
        step=cell[0],
        sample=cell[1],
        attempts=[*map(_of_failure, earlier), _of_receipt(store, receipt)],
        fingerprint=receipt.fingerprint,
        inputs=list(_input_lines(receipt.inputs)),
        problem=problem,
    )


def _of_failure(failure: Failure) -> AttemptDetail:
    return AttemptDetail(
        number=failure.attempt,
        end=failure.end_reason.replace("_", " "),
        message=one_line(failure.message),
        exit_code=failure.exit_code,
        started_at=failure.started_at,
        stopped_at=failure.stopped_at,
        machine=_machine(failure),
        native_id=failure.native_id,
        log_tail=failure.log_tail,
    )


def _of_receipt(store: Store, receipt: Receipt) -> AttemptDetail:
    try:
        log = store.get(layout.log(receipt.run_id, receipt.step, receipt.sample, receipt.attempt))
    except NotInStore:
        log = b""
    return AttemptDetail(
        number=receipt.attempt,
        end="found unchanged" if receipt.kept else "done",
        started_at=receipt.started_at,
        stopped_at=receipt.stopped_at,
        machine=_machine(receipt),
        native_id=receipt.native_id,
        log_tail=log[-4 * TAIL_CHARACTERS :].decode(errors="replace")[-TAIL_CHARACTERS:],
    )


def _machine(record: Failure | Receipt) -> str:
    return ", ".join(filter(None, (record.instance_type, record.purchase, record.availability_zone, record.host)))


def _input_lines(files: Sequence[FileRecord]) -> Iterator[str]:
    for file in files[:MOST_INPUTS]:
        yield f"{file.port}: {file.key} ({file.size_bytes:,} bytes)"
    if len(files) > MOST_INPUTS:
        yield f"and {len(files) - MOST_INPUTS:,} more"
