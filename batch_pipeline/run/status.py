"""Where everything stands: the plan folded with what the backend says and what failed before; writes nothing.

(A little longer than most modules: each column of the answer has its own source, and their order decides.)
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import chain

from batch_pipeline.backends.base import JobLookup, JobObserver
from batch_pipeline.pipeline.columns import column_changes
from batch_pipeline.pipeline.fingerprint import StepParts, part_changes
from batch_pipeline.pipeline.plan import CellState, Plan, Retired, Why
from batch_pipeline.pipeline.rows import Rows
from batch_pipeline.pipeline.samples import SampleList, parse_samples
from batch_pipeline.pipeline.workflow import Node
from batch_pipeline.records.events import FailedCell, Listener, Outcome, StepProgress
from batch_pipeline.records.listing import CellFolders, entries_of
from batch_pipeline.records.manifests import cells_of
from batch_pipeline.records.removals import removed_files
from batch_pipeline.records.request import Request
from batch_pipeline.run.backend import LazyBackend
from batch_pipeline.run.diagnosis import diagnose
from batch_pipeline.run.driver import run
from batch_pipeline.run.live import LiveRun, submissions
from batch_pipeline.run.queue_place import queue_place
from batch_pipeline.run.snapshot import DriverState, Snapshot, take_snapshot
from batch_pipeline.run.verdict import MOST_RECORDS, RUNS_LOOKED_AT, judge, read_failed, with_record
from batch_pipeline.run.watch import Watch, already_done
from batch_pipeline.wire import layout
from batch_pipeline.wire.contract import EndReason
from batch_pipeline.wire.errors import InvalidSampleList, InvalidUse
from batch_pipeline.wire.receipt import Receipt
from batch_pipeline.wire.store import NotInStore, Store


@dataclass(frozen=True, kw_only=True)
class Status:
    """One look at a pipeline."""

    plan: Plan
    progress: Mapping[str, StepProgress]
    #: Cells that are missing and failed when they were last tried.
    failed: Sequence[FailedCell]
    live_runs: Sequence[str]
    store_calls: Mapping[str, int]
    #: What else there is to say, a sentence each.
    notes: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """One cell of a sample, in words."""

    step: str
    #: Its name: the sample's, or that of a part, group or gather.
    cell: str
    state: CellState
    sentence: str
    #: What differs from the receipt that is there: `parameter bootstraps: 30 -> 100`.
    changed: Sequence[str] = ()
    run_id: str = ""
    log: str = ""


def status(request: Request) -> Status:
    """Looks once. The backend is asked only when a run is live."""
    backend = LazyBackend()
    try:
        snapshot = take_snapshot(DriverState.of(request), backend)
        plan = snapshot.plan
        failed = _failed(snapshot, backend)
        if snapshot.live_runs:
            already = already_done(plan, snapshot.inventory.live, snapshot.live)
            opened = backend.open(snapshot.request.settings)
            watched = Watch(plan, opened, snapshot.jobs, already=already)
            progress = watched.poll()
            waiting = waiting_notes(watched, opened)
        else:
            progress, waiting = {step: resting(plan, step, failed) for step in plan.states}, []
        return Status(
            plan=plan,
            progress=progress,
            failed=failed,
            live_runs=snapshot.live_runs,
            store_calls=Counter(request.store.calls),
            notes=[*retired_notes(plan, snapshot.inventory.retired), *waiting],
        )
    finally:
        backend.close()


def only_failed(request: Request) -> Request | None:
    """The request for the samples that failed in the last run; None when none did. A failed gather is of them all."""
    chosen, now = request.selection.samples, status(request)
    if any(cell.sample == layout.COHORT for cell in now.failed):
        return request
    names, failed = now.plan.samples, set()
    for cell in now.failed:
        rows = now.plan.rows[cell.step]
        failed |= {names[i] for i in rows.samples_of(rows.positions[cell.sample])}
    kept = frozenset(failed if chosen is None else failed & chosen)
    return replace(request, selection=replace(request.selection, samples=kept)) if kept else None


def retired_notes(plan: Plan, retired: Mapping[str, Mapping[str, Mapping[str, Retired]]]) -> Iterator[str]:
    """A sentence for each run since which cells are not done any more, and one for those with untrue receipts."""
    undone = Counter(
        max((one.untrue, one.run_id) for one in samples[name].values())
        for step, samples in retired.items()
        if step in plan.states
        for name, state in plan.cells(step)
        if name in samples and state not in (CellState.DONE, CellState.EXCLUDED)
    )
    for (untrue, run_id), count in sorted(undone.items()):
        cells, them = ("1 cell is", "it") if count == 1 else (f"{count:,} cells are", "them")
        if untrue:
            yield f"{cells} not done: in run {run_id} a result was found that is not what its receipt says."
        else:
            yield f"{cells} not done since run {run_id} set out to make {them}, or what is read there, again."


def waiting_notes(watched: Watch, backend: JobLookup) -> list[str]:
    """Why jobs wait while nothing of theirs runs, and where in their queue: one call, for AWS counts them.

    The embedded Batch alone is asked for reasons.
    """
    jobs = watched.idle_jobs()
    if not jobs:
        return []
    diagnosed = jobs if backend.name == "embedded" else []
    reasons = [f"{job.step} waits: {why}" for job in diagnosed if (why := diagnose(backend, job))]
    queue = jobs[0].queue
    place = queue_place(backend, queue, [job.native_id for job in jobs if job.queue == queue])
    return [*reasons, *([place] if place else [])]


def watch(request: Request, listener: Listener) -> Outcome:
    """Follows the live runs to their end; submits nothing. Raises Interrupted on Ctrl-C."""
    nothing = replace(request.selection, steps=frozenset(), force=False)
    return run(replace(request, selection=nothing), listener)


def _failed(snapshot: Snapshot, backend: LazyBackend) -> list[FailedCell]:
    request = snapshot.request
    return failed_before(
        request.store,
        snapshot.plan,
        snapshot.live_runs,
        snapshot.ended_runs,
        lambda: backend.open(request.settings),
    )


def failed_before(
    store: Store, plan: Plan, live: Sequence[str], ended: Sequence[LiveRun], open_backend: Callable[[], JobObserver]
) -> list[FailedCell]:
    """Cells that are missing and failed when they were last tried, in the order of the steps and samples.

    A closed run tells it in one object. What ended unwatched is judged now; of what goes on, the records are listed.
    Only the newest run that sent a cell counts, and where an older one failed, the newer ones' rows are read for that.
    """
    missing = _cells(plan, (CellState.TO_RUN, CellState.BLOCKED, CellState.SKIPPED))
    moving = _cells(plan, (CellState.LIVE,))
    if not missing and not moving:
        return []
    failed_by_cell: dict[tuple[str, str], FailedCell] = {}
    over = {run.run_id: run for run in ended}
    sent = cache(partial(_sent, store))
    newer: list[str] = []
    for run_id in sorted(store.folders(layout.RUNS), reverse=True)[:RUNS_LOOKED_AT]:
        if run_id in over:
            cells: Sequence[FailedCell] = judge(plan.graph, store, open_backend(), over[run_id].submissions).failed
        elif run_id in live:
            cells = [cell for cell in recorded_failures(store, run_id, missing | moving) if not cell.reason.is_retried]
        else:
            cells = _closed(store, run_id, missing)
        wanted = missing | moving if run_id in live else missing
        for cell in cells:
            key = (cell.step, cell.sample)
            if key not in wanted or key in failed_by_cell or cell.reason is EndReason.DEPENDENCY:
                continue
            if not any(cell.sample in sent(later, cell.step) for later in newer):
                failed_by_cell[key] = cell
        newer.append(run_id)
    order = [(step, sample) for step in plan.states for sample, _ in plan.cells(step)]
    return [failed_by_cell[cell] for cell in order if cell in failed_by_cell]


def _sent(store: Store, run_id: str, step: str) -> frozenset[str]:
    """Samples whose cells of a step a run sent."""
    jobs = [job for job in submissions(store, run_id) if job.step == step and not job.join]
    return frozenset(sample for job in jobs for sample, _ in cells_of(store, run_id, job.job))


def _cells(plan: Plan, states: Sequence[CellState]) -> set[tuple[str, str]]:
    return {(step, sample) for step in plan.states for sample, state in plan.cells(step) if state in states}


def _closed(store: Store, run_id: str, wanted: set[tuple[str, str]]) -> Sequence[FailedCell]:
    """What a closed run tells; the records of one that lost its marker without being closed."""
    try:
        return read_failed(store, run_id)
    except NotInStore:
        return recorded_failures(store, run_id, wanted)


def recorded_failures(store: Store, run_id: str, wanted: set[tuple[str, str]]) -> list[FailedCell]:
    """Cells of a run whose containers recorded a failure; their listing, a LIST and a GET a cell up to a hundred."""
    names: set[tuple[str, str]] = set()
    samples_by_step: dict[str, set[str]] = {}
    for step, sample in wanted:
        samples_by_step.setdefault(step, set()).add(sample)
    cells = CellFolders({layout.step_logs(run_id, step): samples for step, samples in samples_by_step.items()})
    for entry in chain.from_iterable(entries_of(store, cells, etags=False)):
        _, _, step, sample, name = entry.key.split("/", 4)
        if name.endswith(".failure.json"):
            names.add((step, sample))
    return [
        with_record(store, FailedCell(step=step, sample=sample, reason=EndReason.LOST, message="", run_id=run_id))
        for step, sample in sorted(names)[:MOST_RECORDS]
    ]


def explain(request: Request, sample: str) -> list[Explanation]:
    """Every step of one sample, part or group, gathers too: its state, and if it is to run again, which part changed.

    Raises InvalidUse for a name that no cell has.
    """
    backend = LazyBackend()
    try:
        snapshot = take_snapshot(DriverState.of(request), backend)
        failed_by_cell = {(cell.step, cell.sample): cell for cell in _failed(snapshot, backend)}
    finally:
        backend.close()
    if (
        not any(sample in rows.positions for rows in snapshot.plan.rows.values())
        and sample not in request.samples.by_name
    ):
        raise InvalidUse(f"Sample {sample!r} is not in {request.samples.origin}. Check its spelling.")
    explained = []
    for node in request.graph:
        rows = snapshot.plan.rows[node.name]
        for position in _positions(rows, request.samples, sample):
            name = rows.names[position]
            cell = failed_by_cell.get((node.name, name))
            explained.append(_explained(request.store, snapshot, node, name, position, cell))
    return explained


def _positions(rows: Rows, samples: SampleList, name: str) -> Sequence[int]:
    """Positions of the rows of a step that a name means: a row's own, or a sample's; every sample's are in a gather."""
    if rows.is_cohort:
        return (0,)
    if name in samples.by_name:
        return rows.of_sample(samples.names.index(name))
    return (rows.positions[name],) if name in rows.positions else ()


def resting(plan: Plan, step: str, failed: Sequence[FailedCell]) -> StepProgress:
    """A step's progress when no job is live."""
    counts, reasons = plan.counts(step), Counter(cell.reason for cell in failed if cell.step == step)
    done, excluded = counts[CellState.DONE], counts[CellState.EXCLUDED]
    return StepProgress(
        step=step,
        done_before=done,
        failed=dict(reasons),
        left_out=len(plan.states[step]) - done - excluded - reasons.total(),
        excluded=excluded,
    )


def _explained(
    store: Store, snapshot: Snapshot, node: Node, sample: str, position: int, failure: FailedCell | None
) -> Explanation:
    plan, step = snapshot.plan, node.name
    state, why = plan.states[step][position], plan.why[step][position]
    fingerprints = snapshot.inventory.receipts.get(step, {}).get(sample, ())
    receipt = _receipt(store, step, sample, plan.fingerprints[step][position], fingerprints)
    final = (CellState.DONE, CellState.EXCLUDED)
    changed = _changes(store, snapshot, node, sample, receipt) if receipt and state not in final else []
    if state is CellState.EXCLUDED:
        from batch_pipeline.pipeline.conditions import explanation_of

        sentence = f"excluded by {explanation_of(node, snapshot.request.samples.by_name.get(sample))}"
    elif (step, sample) in plan.blocked:
        sentence = plan.blocked[(step, sample)]
    elif state is CellState.TO_RUN and why is not None:
        retired = snapshot.inventory.retired.get(step, {}).get(sample, {})
        if why is Why.RETIRED and retired:
            run_id = max(one.run_id for one in retired.values())
            sentence = f"is not done since run {run_id} set out to make it, or what it reads, again"
        elif (step, sample) in plan.problems:
            sentence = f"its result is not what its receipt says: {plan.problems[step, sample]}"
        else:
            sentence = f"{why.value}{': ' + '; '.join(changed) if changed else ''}"
        if failure is not None:
            sentence += f"; it failed in run {failure.run_id} ({failure.reason.words}): {failure.message}"
    elif receipt is not None and state is CellState.DONE:
        sentence = f"done by run {receipt.run_id} at {receipt.stopped_at}"
        sentence += f"; found unchanged by run {receipt.written_by[0]}" if receipt.kept else ""
        if gone := removed_files(store, [receipt], snapshot.inventory.removed):
            removal = next(iter(gone.values()))
            sentence += f"; its {', '.join(sorted(gone))} {'was' if len(gone) == 1 else 'were'} {removal.words}"
    elif state is CellState.DONE:
        sentence = "done, but its receipt cannot be read; give --force to make it again"
    else:
        sentence = state.value
    run_id, attempt = _last_attempt(receipt, failure)
    log = store.url_of(layout.log(run_id, step, sample, attempt)) if attempt else ""
    return Explanation(step=step, cell=sample, state=state, sentence=sentence, changed=changed, run_id=run_id, log=log)


def _last_attempt(receipt: Receipt | None, failure: FailedCell | None) -> tuple[str, int]:
    """Run and number of the attempt that a cell's state comes from; 0 when none left a log."""
    if failure is not None:
        return failure.run_id, failure.attempt or 0
    return (receipt.run_id, receipt.attempt) if receipt else ("", 0)


def _receipt(store: Store, step: str, sample: str, fingerprint: str, fingerprints: Sequence[str]) -> Receipt | None:
    """The cell's receipt: the current one, else an outdated one."""
    wanted = fingerprint if fingerprint in fingerprints else (fingerprints[-1] if fingerprints else None)
    if wanted is None:
        return None
    try:
        return Receipt.from_json(json.loads(store.get(layout.receipt(step, sample, wanted))))
    except NotInStore:
        return None
    except (ValueError, TypeError, AttributeError):
        # It was cut off: what else there is to say of the cell is said without it.
        return None


def _changes(store: Store, snapshot: Snapshot, node: Node, sample: str, receipt: Receipt) -> list[str]:
    """What is not as it was when the receipt was written, a sentence a part."""
    try:
        recorded = StepParts.recorded(store.get_json(layout.plan(receipt.run_id)), node.name)
    except (NotInStore, KeyError):
        return []
    changed = part_changes(recorded, snapshot.plan.parts[node.name])
    changed += _column_changes(store, snapshot, node, sample, receipt.run_id)
    before = {(file.port, file.key.rsplit("/", 1)[-1]): file.etag for file in receipt.inputs}
    own = snapshot.plan.rows[node.name]
    of_sample = snapshot.plan.samples[own.samples_of(own.positions[sample])[0]]
    for port in node.sources:
        files = snapshot.inventory.sources.get(of_sample, {}).get(f"{node.name}.{port}", ())
        count = sum(file.port == port for file in receipt.inputs)
        if files and len(files) != count:
            changed.append(f"files of {port}: {count} -> {len(files)}")
        for file in files:
            etag = before.get((port, file.url.rsplit("/", 1)[-1]))
            if etag is not None and etag != file.etag:
                changed.append(f"the file {file.url} was replaced")
    rows = snapshot.plan.rows
    position = rows[node.name].positions[sample]
    for step in node.upstream if sample == layout.COHORT else snapshot.plan.reads(node.name, position):
        states = snapshot.plan.states[step]
        read = [states[at] for at in rows[node.name].read_in(rows[step], position)]
        if any(state not in (CellState.DONE, CellState.EXCLUDED) for state in read):
            changed.append(f"step {step} runs again")
    return changed


def _column_changes(store: Store, snapshot: Snapshot, node: Node, sample: str, run_id: str) -> list[str]:
    """The values of the sheet that are not as in the list of an earlier run, a phrase each."""
    if node.name not in snapshot.inventory.columns:
        return []
    rows, samples = snapshot.plan.rows[node.name], snapshot.plan.samples
    members = [samples[i] for i in rows.samples_of(rows.positions[sample])]
    values = dict(zip(samples, snapshot.inventory.columns[node.name], strict=True))
    key = layout.samples(run_id)
    try:
        before = parse_samples(store.get(key), key, lanes=True)
    except (NotInStore, InvalidSampleList):
        return []
    return column_changes(node.step, before, {member: values[member] for member in members})
