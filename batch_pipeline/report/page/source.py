"""Reads all that a page shows: of a run its record, its cell table and few more objects, whatever its size.

A run without a table that may be read, as one that is live or whose driver died, is shown as `status --run` sees it:
states of cells, and no times. So is a whole store. Each such lack is a note of the page.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from batch_pipeline.config import Settings
from batch_pipeline.pipeline.plan import CellState
from batch_pipeline.pipeline.workflow import Graph
from batch_pipeline.records.cell_table import REASONS, STATES, CellColumns, CellEnd, CellTable, table_of
from batch_pipeline.records.events import FailedCell
from batch_pipeline.records.history import Event, Happened, read_events
from batch_pipeline.records.record import RunRecord, read_record
from batch_pipeline.records.registry import Query, find_runs
from batch_pipeline.records.submissions import Submission
from batch_pipeline.report.page.states import SEVERITY, ShownState, shown_states
from batch_pipeline.report.tables import counted
from batch_pipeline.run.driver_jobs import DRIVER, log_of, runs_of
from batch_pipeline.run.live import submissions
from batch_pipeline.run.recorded import recorded_graph, recorded_status
from batch_pipeline.run.status import Status
from batch_pipeline.run.verdict import read_failed
from batch_pipeline.wire import layout
from batch_pipeline.wire.contract import EndReason
from batch_pipeline.wire.errors import BatchPipelineError, StoreFailed
from batch_pipeline.wire.store import NotInStore, Store

#: Runs of a store that its page lists.
MOST_RUNS: Final = 200
#: Characters of the end of a log that are shown.
TAIL_CHARACTERS: Final = 2_000
_SHOWN: Final = {
    CellState.DONE: ShownState.DONE,
    CellState.TO_RUN: ShownState.TO_RUN,
    CellState.LIVE: ShownState.RUNNING,
    CellState.DEFERRED: ShownState.RUNNING,
    CellState.BLOCKED: ShownState.LEFT_OUT,
    CellState.SKIPPED: ShownState.LEFT_OUT,
    CellState.EXCLUDED: ShownState.EXCLUDED,
}
#: The latest start and the longest duration that are believed, in milliseconds: up to the year 2100.
LATEST_MS: Final = 4_102_444_800_000
_TIMES: Final = ("started_ms", "duration_ms", "lost_ms", "interrupted_ms")


@dataclass(frozen=True, kw_only=True)
class ShownCells:
    """The cells of a step: numbers of a cell table, and the severity of each one's state (`states.SEVERITY`)."""

    cells: CellColumns
    states: bytearray

    @property
    def is_gather(self) -> bool:
        """Whether it is one cell over all samples."""
        return tuple(self.cells.samples[:2]) == (layout.COHORT,)


@dataclass(frozen=True, kw_only=True)
class CellSource:
    """Cells of a pipeline: of a run, or all that a store has of it."""

    samples: Sequence[str]
    #: In the order of the pipeline.
    steps: Mapping[str, ShownCells]
    #: Cells that failed; those that never ran on their account are in `steps` alone.
    failed: Sequence[FailedCell]
    graph: Graph | None
    #: Sentences on what is missing.
    notes: Sequence[str]
    #: Whether jobs are on the queue or run, as far as can be told.
    is_live: bool = False
    machines: Sequence[str] = ("",)
    #: Step -> why its cells were to run, in words -> cells.
    why: Mapping[str, Mapping[str, int]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class RunSource(CellSource):
    """What is known of a run. Without a plan that can be read it has no steps, and no graph."""

    run: RunRecord
    events: Sequence[Event]
    sent: Sequence[Submission]
    #: Whether times, machines and sizes are there, and not states alone.
    measured: bool
    #: Of a driver that runs as a job: the runs that it began, oldest first, and the end of what it printed.
    begun: Sequence[RunRecord] = ()
    driver_log: str = ""


@dataclass(frozen=True, kw_only=True)
class StoreSource(CellSource):
    """What is known of a store: all cells of a pipeline as they stand now, and its runs, newest first."""

    url: str
    #: Name of the pipeline whose cells they are.
    pipeline: str
    reference: str
    runs: Sequence[RunRecord]


def read_run(store: Store, settings: Settings, run: RunRecord) -> RunSource:
    """Reads what there is. Raises StoreFailed when the store fails."""
    sent = sorted(submissions(store, run.run_id), key=lambda item: item.sent_at)
    plan, graph, notes = _plan_of(store, run)
    table, sentence = table_of(store, run)
    notes += [sentence] if sentence else []
    failed, more = _failed(store, run)
    notes += more
    events, more = _events(store, run)
    notes += more
    is_live = not run.ended
    if table is None and graph is not None:
        standing = _by_status(store, settings, run, failed)
        steps, samples, failed, is_live = standing.steps, standing.samples, standing.failed, standing.is_live
        notes += standing.notes
    else:
        steps = {name: ShownCells(cells=cells, states=shown_states(cells)) for name, cells in _steps(table)}
        samples = next((step.cells.samples for step in steps.values() if not step.is_gather), ())
    measured = table is not None and table.measured
    notes += [*_unmeasured(run, steps), *_implausible(steps)] if measured else []
    if table is not None and not measured:
        notes.append(f"Times and machines are not in its cell table. `store index {run.run_id}` reads them.")
    return RunSource(
        run=run,
        events=events,
        sent=sent,
        samples=samples,
        steps=steps,
        machines=table.machines if table else ("",),
        measured=measured,
        failed=failed,
        graph=graph,
        why=plan.get("why", {}),
        notes=notes,
        is_live=is_live and not run.ended,
        **_of_driver(store, run),
    )


def read_store(store: Store, status: Status, *, reference: str) -> StoreSource:
    """A store as a status has it, with its `MOST_RUNS` newest runs."""
    cells = _standing(status, status.failed)
    return StoreSource(
        url=store.url,
        pipeline=status.plan.graph.name,
        reference=reference,
        runs=find_runs(store, Query(), most=MOST_RUNS),
        samples=cells.samples,
        steps=cells.steps,
        failed=cells.failed,
        graph=cells.graph,
        notes=cells.notes,
        is_live=cells.is_live,
    )


def _of_driver(store: Store, run: RunRecord) -> dict[str, Any]:
    """What is shown of a run that is a driver's job alone."""
    if run.kind != DRIVER:
        return {}
    logs = list(log_of(store, run.run_id).values())
    begun = [read_record(store, run_id) for run_id in runs_of(store, run.run_id)]
    return {"begun": begun, "driver_log": logs[-1][-TAIL_CHARACTERS:] if logs else ""}


def _steps(table: CellTable | None) -> Sequence[tuple[str, CellColumns]]:
    return list(table.steps.items()) if table else []


def _plan_of(store: Store, run: RunRecord) -> tuple[Mapping[str, Any], Graph | None, list[str]]:
    """The plan and graph as recorded, and a note where there is none."""
    try:
        plan: Mapping[str, Any] = store.get_json(layout.plan(run.run_id))
        return plan, recorded_graph(plan, run), []
    except NotInStore:
        words = "runs a script, and has no cells of its own" if run.kind == "driver" else "has no plan in the store"
        return {}, None, [f"This run {words}."]
    except (StoreFailed, ValueError, KeyError, TypeError, AttributeError) as error:
        return {}, None, [f"The plan {store.url_of(layout.plan(run.run_id))} cannot be read: {error}"]


def _failed(store: Store, run: RunRecord) -> tuple[Sequence[FailedCell], list[str]]:
    """The failed cells as listed when the run was closed, and a note where the list is damaged."""
    try:
        return read_failed(store, run.run_id), []
    except NotInStore:
        return (), []
    except StoreFailed as error:
        return (), [f"Messages of failed cells cannot be read: {error}"]


def _events(store: Store, run: RunRecord) -> tuple[Sequence[Event], list[str]]:
    """The events of a run, and a note where they are damaged, or tell of an earlier run of the same command."""
    try:
        events = read_events(store, run.run_id)
    except StoreFailed as error:
        return (), [f"Its events cannot be read: {error}"]
    lists = (event.details.get("of") for event in events if event.event == Happened.RECOVERY.value)
    earlier = dict.fromkeys(str(one) for runs in lists if isinstance(runs, list) for one in runs)
    return events, [
        f"It sent again a part of what failed in run {one}; the other failures are there: `report {one}`."
        for one in earlier
    ]


def _by_status(store: Store, settings: Settings, run: RunRecord, failed: Sequence[FailedCell]) -> CellSource:
    """The cells of a run without a table, as its status has them."""
    try:
        status = recorded_status(store, settings, run.run_id)
    except (BatchPipelineError, ValueError, KeyError, TypeError) as error:
        return CellSource(
            samples=(), steps={}, failed=failed, graph=None, notes=[f"How its cells stand cannot be read: {error}"]
        )
    return _standing(status, list({(cell.step, cell.sample): cell for cell in (*failed, *status.failed)}.values()))


def _standing(status: Status, failed: Sequence[FailedCell]) -> CellSource:
    """The cells of a status: states alone."""
    plan = status.plan
    steps = {}
    for step, states in plan.states.items():
        cells = CellColumns.blank(step, plan.rows[step].names)
        steps[step] = ShownCells(cells=cells, states=bytearray(SEVERITY[_SHOWN[state]] for state in states))
    _mark_failed(steps, failed)
    return CellSource(
        samples=plan.samples,
        steps=steps,
        failed=[cell for cell in failed if cell.reason is not EndReason.DEPENDENCY],
        graph=plan.graph,
        notes=status.notes,
        is_live=bool(status.live_runs),
    )


def _mark_failed(steps: Mapping[str, ShownCells], failed: Sequence[FailedCell]) -> None:
    """Puts failures into the columns of cells that are not done."""
    for name, step in steps.items():
        reasons = {cell.sample: cell.reason for cell in failed if cell.step == name}
        states = step.states
        for position, sample in enumerate(step.cells.samples if reasons else ()):
            reason = reasons.get(sample)
            if reason is None or states[position] in (SEVERITY[ShownState.DONE], SEVERITY[ShownState.EXCLUDED]):
                continue
            step.cells.columns["reason"][position] = REASONS.index(reason.value)
            shown = {EndReason.DEPENDENCY: ShownState.NOT_RUN, EndReason.CANCELLED: ShownState.CANCELLED}
            states[position] = SEVERITY[shown.get(reason, ShownState.FAILED)]


def _unmeasured(run: RunRecord, steps: Mapping[str, ShownCells]) -> list[str]:
    """A note on cells that this run made and whose receipts told nothing when the table was written."""
    made = STATES.index(CellEnd.DONE)
    count = 0
    for step in steps.values():
        columns = step.cells.columns
        count += sum(
            state == made and not attempts
            for state, attempts in zip(columns["state"], columns["attempts"], strict=True)
        )
    if not count:
        return []
    whose = "1 cell whose receipt is" if count == 1 else f"{count:,} cells whose receipts are"
    return [f"There is no time of {whose} gone or cannot be read. `verify --all` names what is not as it was."]


def _implausible(steps: Mapping[str, ShownCells]) -> list[str]:
    """Sets times that cannot be right to 0, as unknown ones are, and notes it: a clock or a record was wrong."""
    count = 0
    for step in steps.values():
        for name in _TIMES:
            column = step.cells.columns[name]
            if min(column, default=0) < 0 or max(column, default=0) > LATEST_MS:
                kept = array(column.typecode, (value if 0 <= value <= LATEST_MS else 0 for value in column))
                count += sum(before != after for before, after in zip(column, kept, strict=True))
                column[:] = kept
    if not count:
        return []
    return [f"{counted(count, 'time')} of cells cannot be right (below 0 or beyond the year 2100) and are left out."]
