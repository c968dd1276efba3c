"""A pipeline as its newest run recorded it, for a machine that has the store and not the pipeline's file.

The run record gives samples, steps and wiring, the manifests of live runs the fingerprints on their way, a listing of
receipts what is done. What only the pipeline's code could tell is left open: a cell with any receipt counts as done
unless a live job is to make it with another fingerprint. Watching submits nothing, and closes the runs that end.
Of a run of `TABLE_CELLS` and more that is the newest and has ended, with nothing live and nothing retired, the cell
table says what is done, in one call instead of one a thousand receipts.

(A little longer than most modules: each part of a pipeline is made of another part of the record.)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from batch_pipeline.backends import LIMITS
from batch_pipeline.backends.base import Backend
from batch_pipeline.backends.quotas import AWS_BATCH
from batch_pipeline.config import Settings
from batch_pipeline.pipeline.fingerprint import StepParts, steps_in
from batch_pipeline.pipeline.plan import CellState, LiveJob, Plan, Retired, Selection, Why
from batch_pipeline.pipeline.rows import Rows
from batch_pipeline.pipeline.samples import parse_samples
from batch_pipeline.pipeline.step import Scope, Step
from batch_pipeline.pipeline.wiring import Alternatives
from batch_pipeline.pipeline.workflow import Connection, Graph, Node, Port, Source, Task
from batch_pipeline.records.cell_table import STATES, CellEnd, CellTable, table_of
from batch_pipeline.records.events import FailedCell, Listener, Outcome, StepProgress
from batch_pipeline.records.manifests import cells_of
from batch_pipeline.records.receipts import Standing, close_retirements, read_retirements, standing_receipts
from batch_pipeline.records.record import RunRecord, read_record
from batch_pipeline.records.submissions import Submission
from batch_pipeline.run.backend import backend_of
from batch_pipeline.run.closing import close_run
from batch_pipeline.run.driver import Interrupted
from batch_pipeline.run.driver_jobs import DRIVER
from batch_pipeline.run.live import LiveRun, live_run_ids, read_live_runs, submissions
from batch_pipeline.run.place import reaching, why_unreachable
from batch_pipeline.run.status import Status, failed_before, resting, retired_notes, waiting_notes
from batch_pipeline.run.verdict import final_progress, judge
from batch_pipeline.run.watch import Watch, watching
from batch_pipeline.wire import layout
from batch_pipeline.wire.errors import InvalidUse
from batch_pipeline.wire.store import NotInStore, Store

#: Cells from which on the table of a run is read instead of the receipts, which tell of what was removed since.
TABLE_CELLS: Final = 10_000
_DONE: Final = (CellEnd.DONE, CellEnd.KEPT, CellEnd.REUSED)


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """What one reading of a store and, where it can be asked, of the backend told."""

    record: RunRecord
    plan: Plan
    #: The live runs of the same pipeline, oldest first; some may be over.
    live: Sequence[LiveRun]
    jobs: Sequence[LiveJob]
    #: Other runs that are live, or may be.
    others: Sequence[str]
    #: Why the backend cannot be asked; empty: it was.
    unreachable: str = ""
    #: Step -> sample -> fingerprint -> why the receipt that stands there does not count.
    retired: Mapping[str, Mapping[str, Mapping[str, Retired]]] = field(default_factory=dict)
    #: What else there is to say, a sentence each.
    notes: Sequence[str] = ()

    @property
    def live_runs(self) -> list[str]:
        """Runs that have live jobs, as far as can be told."""
        return [run.run_id for run in self.live if self.unreachable or not run.over]


class Reader:
    """Reads a store without its pipeline. A context: afterwards the backend's connections are closed."""

    def __init__(self, store: Store, settings: Settings, run_id: str = "") -> None:
        self._store = store
        known = sorted(store.folders(layout.RUNS), reverse=True)
        self.record = _chosen(store, known, run_id)
        #: Later runs may have made what its table calls failed.
        self._is_newest = self.record.run_id == known[0]
        self.settings = reaching(settings, self.record)
        self.unreachable = why_unreachable(settings, self.record)
        self._backend: Backend | None = None

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        if self._backend is not None:
            self._backend.close()

    @property
    def backend(self) -> Backend:
        """The backend that the run record names. Raises InvalidUse where this machine cannot ask it."""
        if self.unreachable:
            raise InvalidUse(self.unreachable)
        if self._backend is None:
            self._backend = backend_of(self.settings)
        return self._backend

    def read(self, *, missing: CellState = CellState.TO_RUN) -> Recorded:
        """Looks once. `missing` is what a cell is called that is neither done nor on its way."""
        store, record = self._store, self.record
        marked = live_run_ids(store)
        sentence = ""
        if not marked and self._is_newest and _cells(record) >= TABLE_CELLS and not any(store.keys(layout.RETIRED)):
            table, sentence = table_of(store, record)
            if table is not None and not any(step.counts()[CellEnd.UNKNOWN] for step in table.steps.values()):
                plan = _tabled_plan(store, table, record, missing)
                note = (
                    f"Read from its cell table, as it ended at {record.ended_at}; what was removed since is not missed."
                )
                return Recorded(record=record, plan=plan, live=(), jobs=(), others=(), notes=[note])
        ours = [run_id for run_id in marked if run_id == record.run_id or _is_twin(read_record(store, run_id), record)]
        if self.unreachable:
            live = [LiveRun(run_id=run_id, submissions=submissions(store, run_id), summaries={}) for run_id in ours]
        else:
            live = read_live_runs(store, self.backend, ours) if ours else []
        # Ended jobs of a live run too: what failed in them is told with the rest of the run.
        jobs = [job for run in live if self.unreachable or not run.over for job in _sent_jobs(store, run)]
        plan_record = store.get_json(layout.plan(record.run_id))
        graph = recorded_graph(plan_record, record)
        key = layout.samples(record.run_id)
        samples = parse_samples(store.get(key), key, lanes=True).names
        names = graph.names_by_step(samples, plan_record.get("rows", {}))
        standing = standing_receipts(store, read_retirements(store), names)
        plan = _plan(plan_record, record, graph, samples, jobs, standing, missing)
        others = [run_id for run_id in marked if run_id not in ours]
        return Recorded(
            record=record,
            plan=plan,
            live=live,
            jobs=jobs,
            others=others,
            unreachable=self.unreachable,
            retired=standing.retired,
            notes=[sentence] if sentence else (),
        )


def recorded_status(store: Store, settings: Settings, run_id: str = "") -> Status:
    """Where the pipeline of a run stands (default: the newest), by records, receipts and backend.

    Raises InvalidUse when the store holds no run, or not that one.
    """
    with Reader(store, settings, run_id) as reader:
        recorded = reader.read()
        plan = recorded.plan
        ended = [] if recorded.unreachable else [run for run in recorded.live if run.over]
        waiting: list[str] = []
        failed = failed_before(store, plan, recorded.live_runs, ended, lambda: reader.backend)
        if recorded.unreachable:
            progress: Mapping[str, StepProgress] = {step: _unasked(plan, step, failed) for step in plan.states}
        elif recorded.live_runs:
            watched = _watch(reader, recorded)
            progress, waiting = watched.poll(), waiting_notes(watched, reader.backend)
        else:
            progress = {step: resting(plan, step, failed) for step in plan.states}
    notes = [f"As run {recorded.record.run_id} of {recorded.record.pipeline_name} recorded it."]
    notes += recorded.notes
    notes += [*retired_notes(plan, recorded.retired), *waiting]
    notes += [recorded.unreachable] if recorded.unreachable and recorded.live_runs else []
    notes += [f"Other pipelines' runs may be live: {', '.join(recorded.others)}."] if recorded.others else []
    return Status(
        plan=plan,
        progress=progress,
        failed=failed,
        live_runs=recorded.live_runs,
        store_calls=Counter(store.calls),
        notes=notes,
    )


def watch_recorded(store: Store, settings: Settings, listener: Listener, run_id: str = "") -> Outcome:
    """Follows the live runs of a pipeline to their end and closes them; submits nothing.

    Raises InvalidUse where the backend cannot be asked, and Interrupted on Ctrl-C.
    """
    with Reader(store, settings, run_id) as reader:
        recorded = reader.read(missing=CellState.SKIPPED)
        runs = [run.run_id for run in recorded.live]
        if runs and recorded.unreachable:
            raise InvalidUse(recorded.unreachable)
        try:
            if recorded.live_runs:
                _watch(reader, recorded).until_over(listener)
        except KeyboardInterrupt as error:
            raise Interrupted(runs) from error
        jobs = [item for run in recorded.live for item in run.submissions]
        failed = _close(store, recorded, reader, jobs) if runs else []
    progress = final_progress(recorded.plan, recorded.plan, failed)
    outcome = Outcome(run_ids=tuple(runs), progress=progress, failed=tuple(failed), store_calls=Counter(store.calls))
    listener.progressed(progress)
    listener.ended(outcome)
    return outcome


def _close(store: Store, recorded: Recorded, reader: Reader, sent: Sequence[Submission]) -> list[FailedCell]:
    """Judges runs whose jobs have ended and takes them off the live ones, as their driver would have."""
    backend, settings = reader.backend, reader.settings
    verdict = judge(recorded.plan.graph, store, backend, sent)
    close_retirements(store)
    for run in recorded.live:
        done = verdict.done.get(run.run_id, 0)
        close_run(store, backend, run.run_id, jobs=sent, failed=verdict.failed, done=done, settings=settings)
    # A cell that failed in one run may have been sent again by a later one, whose word it is then.
    last = {
        (job.step, sample): run.run_id
        for run in recorded.live
        for job in _sent_jobs(store, run)
        for sample in job.samples
    }
    return [cell for cell in verdict.failed if last[cell.step, cell.sample] == cell.run_id]


def _watch(reader: Reader, recorded: Recorded) -> Watch:
    jobs = [item for run in recorded.live if not run.over for item in run.submissions]
    settings = reader.settings.watch
    return watching(recorded.plan, reader.backend, jobs, live=recorded.jobs, runs=recorded.live, settings=settings)


def _unasked(plan: Plan, step: str, failed: Sequence[FailedCell]) -> StepProgress:
    """A step's progress when nobody could be asked: cells that were sent wait, as far as anybody here knows."""
    still = resting(plan, step, failed)
    failed_samples = {cell.sample for cell in failed if cell.step == step}
    waiting = sum(state is CellState.LIVE and sample not in failed_samples for sample, state in plan.cells(step))
    return replace(still, waiting=waiting, left_out=still.left_out - waiting)


# What is recorded.


def _chosen(store: Store, known: Sequence[str], run_id: str) -> RunRecord:
    """The record of the run that was named, else of the newest one of a pipeline; all are `known`."""
    if run_id and run_id not in known:
        raise InvalidUse(f"There is no run {run_id} in {store.url}. `runs` lists those that are there.")
    newest: RunRecord | None = None
    for name in [run_id] if run_id else known:
        try:
            record = read_record(store, name)
        except NotInStore:
            continue
        if record.kind == DRIVER and not run_id:
            continue
        newest = newest or record
        if run_id or Scope.REFERENCE.value not in store.get_json(layout.plan(name)).get("scopes", {}).values():
            return record
    if newest is None:
        raise InvalidUse(f"No run is recorded in {store.url}. Check --store and --prefix.")
    return newest


def _is_twin(one: RunRecord, other: RunRecord) -> bool:
    """Whether two runs are of one pipeline and their jobs in one place."""
    place = (other.pipeline_name, other.backend, other.place)
    same = (one.pipeline_name, one.backend, one.place) == place
    return same and (one.host == other.host or one.backend != "embedded") and set(one.cells) == set(other.cells)


def _sent_jobs(store: Store, run: LiveRun) -> list[LiveJob]:
    """The jobs of a run, whatever became of them."""
    jobs = []
    for item in run.submissions:
        if not item.join:
            samples, fingerprints = zip(*cells_of(store, run.run_id, item.job), strict=True)
            jobs.append(
                LiveJob(
                    native_id=item.native_id,
                    run_id=run.run_id,
                    step=item.step,
                    samples=samples,
                    fingerprints=fingerprints,
                )
            )
    return jobs


def recorded_graph(plan_record: Mapping[str, Any], record: RunRecord) -> Graph:
    """The steps of a run and who reads from whom, by the record of its plan; their code stays unknown."""
    tasks: dict[str, Task] = {}
    nodes = []
    for name, part in plan_record["parts"].items():
        scope = Scope(plan_record.get("scopes", {}).get(name, Scope.SAMPLE.value))
        tasks[name] = Task(name, type(name, (Step,), {"scope": scope, "__doc__": f"{name} as recorded."}))
        inputs: dict[str, Connection] = {}
        for port, wires in part["inputs"].items():
            options = [
                Port(tasks[step], output) if step in tasks else Source(files=()) for step, output in steps_in(wires)
            ]
            inputs[port] = options[0] if len(options) == 1 else Alternatives(options=tuple(options))
        nodes.append(Node(name=name, step=tasks[name].step_class(), inputs=inputs))
    return Graph(name=record.pipeline_name, root=Path(record.cwd), nodes=tuple(nodes))


def _plan(
    plan_record: Mapping[str, Any],
    record: RunRecord,
    graph: Graph,
    samples: tuple[str, ...],
    jobs: Sequence[LiveJob],
    standing: Standing,
    missing: CellState,
) -> Plan:
    """The cells of the record's grid with their states; it sends nothing."""
    excluded, rows = plan_record.get("excluded", {}), recorded_rows(graph, samples, plan_record)
    columns = {
        node.name: _column(node, names, jobs, standing, missing, frozenset(excluded.get(node.name, ())))
        for node in graph
        for names in [rows[node.name].names]
    }
    return _sending_nothing(graph, samples, columns, plan_record, record)


def _tabled_plan(store: Store, table: CellTable, record: RunRecord, missing: CellState) -> Plan:
    """The same by a cell table."""
    plan_record = store.get_json(layout.plan(record.run_id))
    states = [
        CellState.DONE if end in _DONE else CellState.EXCLUDED if end is CellEnd.EXCLUDED else missing for end in STATES
    ]
    whys = [Why.NEVER_DONE if state is CellState.TO_RUN else None for state in states]
    columns = {
        step: [(states[number], "", whys[number]) for number in cells.columns["state"]]
        for step, cells in table.steps.items()
    }
    others = plan_record.get("rows", {})
    of_samples = (cells.samples for step, cells in table.steps.items() if step not in others)
    samples = next((tuple(names) for names in of_samples if names != (layout.COHORT,)), ())
    return _sending_nothing(recorded_graph(plan_record, record), samples, columns, plan_record, record)


def recorded_rows(graph: Graph, samples: Sequence[str], plan_record: Mapping[str, Any]) -> dict[str, Rows]:
    """The rows of each step as recorded: names alone, for which samples parts and groups are of is not kept."""
    others = plan_record.get("rows", {})
    named = {step: Rows(names=tuple(names)) for step, names in others.items()}
    of_samples, cohort = Rows(names=tuple(samples)), Rows(names=(layout.COHORT,))
    return {node.name: cohort if node.scope is Scope.COHORT else named.get(node.name, of_samples) for node in graph}


def _cells(record: RunRecord) -> int:
    """At least so many cells does the grid of a run have."""
    return record.samples * len(record.cells)


def _sending_nothing(
    graph: Graph,
    samples: tuple[str, ...],
    columns: Mapping[str, Sequence[tuple[CellState, str, Why | None]]],
    plan_record: Mapping[str, Any],
    record: RunRecord,
) -> Plan:
    return Plan(
        graph=graph,
        samples=samples,
        rows=recorded_rows(graph, samples, plan_record),
        selection=Selection(),
        jobs=(),
        states={step: [state for state, _, _ in cells] for step, cells in columns.items()},
        fingerprints={step: [fingerprint for _, fingerprint, _ in cells] for step, cells in columns.items()},
        why={step: [why for _, _, why in cells] for step, cells in columns.items()},
        parts={step: StepParts.recorded(plan_record, step) for step in plan_record["parts"]},
        blocked={},
        conflicts=(),
        missing={},
        limits=LIMITS.get(record.backend, AWS_BATCH),
    )


def _column(
    node: Node,
    names: Sequence[str],
    jobs: Sequence[LiveJob],
    standing: Standing,
    missing: CellState,
    excluded: AbstractSet[str],
) -> list[tuple[CellState, str, Why | None]]:
    """State of each cell of a step, the fingerprint that it has or will have, and why it runs."""
    moving = {
        sample: fingerprint
        for job in jobs
        if job.step == node.name
        for sample, fingerprint in zip(job.samples, job.fingerprints, strict=True)
    }
    receipts, retired = standing.counting.get(node.name, {}), standing.retired.get(node.name, {})
    cells: list[tuple[CellState, str, Why | None]] = []
    for name in names:
        have, wanted = receipts.get(name, ()), moving.get(name)
        state = CellState.EXCLUDED if name in excluded else _state(have, wanted, missing)
        why = Why.RETIRED if name in retired else Why.NEVER_DONE
        cells.append((state, wanted or "".join(have[-1:]), why if state is CellState.TO_RUN else None))
    return cells


def _state(have: Sequence[str], wanted: str | None, missing: CellState) -> CellState:
    if wanted in have if wanted else have:
        return CellState.DONE
    return CellState.LIVE if wanted else missing
