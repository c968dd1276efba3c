"""What came of jobs that ended: receipts say what is done, failure records and the backend say why the rest is not.

The receipts of the jobs' cells are listed step by step; children of a job only where a receipt is missing, and failure
records are read for the first hundred failed cells only: the reasons of the others are the backend's.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from typing import Final

from batch_pipeline.backends.base import ArrayChild, JobObserver, JobState
from batch_pipeline.backends.reasons import says_out_of_memory
from batch_pipeline.log import Facts
from batch_pipeline.pipeline.plan import CellState, Plan
from batch_pipeline.pipeline.workflow import Graph, Node
from batch_pipeline.records.events import FailedCell, StepProgress
from batch_pipeline.records.manifests import cells_of
from batch_pipeline.records.receipts import counting_receipts, read_retirements
from batch_pipeline.records.submissions import Submission
from batch_pipeline.run.orders import as_ordered
from batch_pipeline.wire import layout
from batch_pipeline.wire.contract import EndReason
from batch_pipeline.wire.errors import StoreFailed
from batch_pipeline.wire.receipt import Failure
from batch_pipeline.wire.store import NotInStore, Store

#: Past runs whose failures are looked at, here and by `status`, newest first.
RUNS_LOOKED_AT = 20
#: Failure records that are read at once.
MOST_RECORDS = 100
_LOG: Final = logging.getLogger(__name__)
_LEFT_OUT = (CellState.BLOCKED, CellState.DEFERRED, CellState.SKIPPED)


@dataclass(frozen=True, kw_only=True)
class RunVerdict:
    """The cells of some ended jobs."""

    #: Run -> cells that are done, by receipt.
    done: Mapping[str, int]
    failed: Sequence[FailedCell]


def judge(graph: Graph, store: Store, backend: JobObserver, jobs: Sequence[Submission]) -> RunVerdict:
    """Judges the cells of jobs that have ended: a retired receipt is no success."""
    retirements = read_retirements(store)
    done: dict[str, int] = {job.run_id: 0 for job in jobs}
    done_by_step: Counter[str] = Counter()
    failed: list[FailedCell] = []
    for step in dict.fromkeys(job.step for job in jobs if not job.join):
        # A step at a time: of a million samples the receipts' names alone are hundreds of megabytes.
        of_step = [job for job in jobs if job.step == step and not job.join]
        cells_by_job = [(job, cells_of(store, job.run_id, job.job)) for job in of_step]
        unmade = {cell for _, cells in cells_by_job for cell in cells}
        samples = {sample for sample, _ in unmade}
        for _, sample, fingerprint in counting_receipts(store, retirements, {step: samples}):
            unmade.discard((sample, fingerprint))
        for job, cells in cells_by_job:
            missing = {index: cell[0] for index, cell in enumerate(cells) if cell in unmade}
            done[job.run_id] += len(cells) - len(missing)
            done_by_step[step] += len(cells) - len(missing)
            if missing:
                failed.extend(_failures(backend, job, missing))
    detailed = [with_record(store, cell) for cell in failed[:MOST_RECORDS]]
    ordered = as_ordered(store, [*detailed, *failed[MOST_RECORDS:]])
    verdict = RunVerdict(done=done, failed=tuple(_folded(graph, ordered)))
    _log_verdict(verdict, jobs, done_by_step)
    return verdict


def _log_verdict(verdict: RunVerdict, jobs: Sequence[Submission], done: Mapping[str, int]) -> None:
    """A line a step, with its failures by reason."""
    reasons_by_step: dict[str, Counter[str]] = {}
    for cell in verdict.failed:
        reasons_by_step.setdefault(cell.step, Counter())[cell.reason.value] += 1
    for step in dict.fromkeys(job.step for job in jobs if not job.join):
        reasons = reasons_by_step.get(step, Counter())
        runs = ",".join(dict.fromkeys(job.run_id for job in jobs if job.step == step))
        _LOG.info("judged %s", Facts(step=step, of=runs, done=done.get(step, 0), failed=reasons.total(), **reasons))


def _failures(backend: JobObserver, job: Submission, missing: Mapping[int, str]) -> Iterator[FailedCell]:
    ended = (JobState.FAILED, JobState.SUCCEEDED)
    children = {child.index: child for child in backend.children(job.native_id, ended) if child.index in missing}
    for index, sample in missing.items():
        yield _failure(job, sample, children.get(index))


def _failure(job: Submission, sample: str, child: ArrayChild | None) -> FailedCell:
    if child is None:
        reason, message = EndReason.LOST, "The backend no longer knows the job, and there is no receipt."
    elif child.state is JobState.SUCCEEDED:
        reason, message = EndReason.LOST, "The backend says that it succeeded, but there is no receipt."
    else:
        reason, message = child.end_reason or EndReason.LOST, child.status_reason
    return FailedCell(
        step=job.step,
        sample=sample,
        reason=reason,
        message=message,
        run_id=job.run_id,
        exit_code=child.exit_code if child else None,
        memory_mb=job.memory_mb,
        queue=job.queue,
    )


def with_record(store: Store, cell: FailedCell) -> FailedCell:
    """The cell with what its container said of it, if it left a word."""
    if cell.reason is EndReason.DEPENDENCY:
        return cell
    failure = last_failure(store, cell.run_id, cell.step, cell.sample)
    if failure is None:
        return cell
    recorded = EndReason(failure.end_reason)
    # The backend knows better what the container could not see: a kill for time, by hand or, if it says so, for memory.
    seen = cell.reason in (EndReason.TIMEOUT, EndReason.CANCELLED)
    seen |= cell.reason is EndReason.OUT_OF_MEMORY and says_out_of_memory(cell.message)
    return replace(
        cell,
        reason=cell.reason if seen else recorded,
        message=failure.message,
        attempt=failure.attempt,
        exit_code=failure.exit_code,
    )


def last_failure(store: Store, run_id: str, step: str, sample: str) -> Failure | None:
    """The newest failure record of a cell in a run, or None."""
    keys = [e.key for e in store.list(layout.cell_logs(run_id, step, sample)) if e.key.endswith(".failure.json")]
    if not keys:
        return None
    newest = max(keys, key=lambda key: int(key.rsplit("/", 1)[-1].split(".")[0]))
    try:
        return Failure.from_json(store.get_json(newest))
    except NotInStore:
        return None


def write_failed(store: Store, run_id: str, failed: Sequence[FailedCell]) -> None:
    """Keeps why a run's cells failed, those that never ran aside: a killed container could not, and Batch forgets."""
    cells = [cell for cell in failed if cell.run_id == run_id and cell.reason is not EndReason.DEPENDENCY]
    records = [{**asdict(cell), "reason": cell.reason.value} for cell in cells]
    store.put_json(layout.run_failed(run_id), {"cells": records, "format": 1})


def read_failed(store: Store, run_id: str) -> list[FailedCell]:
    """What `write_failed` kept. Raises NotInStore for a run that nobody closed yet, StoreFailed for a damaged list."""
    key = layout.run_failed(run_id)
    try:
        records = store.get_json(key)["cells"]
        return [FailedCell(**{**cell, "reason": EndReason(cell["reason"])}) for cell in records]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise StoreFailed(f"{store.url_of(key)} is no list of failed cells ({error!r}); it was damaged.") from error


def past_failures(store: Store) -> list[FailedCell]:
    """Why cells failed in the newest runs that are closed, newest first."""
    failures: list[FailedCell] = []
    for run_id in sorted(store.folders(layout.RUNS), reverse=True)[:RUNS_LOOKED_AT]:
        with suppress(NotInStore):
            failures += read_failed(store, run_id)
    return failures


def _folded(graph: Graph, cells: Sequence[FailedCell]) -> Iterator[FailedCell]:
    """The cells, each that never ran with the step that is to blame, in the order of the steps."""
    blame: dict[str, dict[str, str]] = {}
    by_step: dict[str, list[FailedCell]] = {}
    for cell in cells:
        by_step.setdefault(cell.step, []).append(cell)
    for node in graph:
        for cell in by_step.get(node.name, ()):
            cause = ""
            if cell.reason is EndReason.DEPENDENCY:
                cause = _cause(graph, blame, node, cell.sample)
            blame.setdefault(node.name, {})[cell.sample] = cause or node.name
            yield replace(cell, because_of=cause)
    # Of a run whose pipeline had more steps.
    yield from (cell for step, failed in by_step.items() if step not in graph.names for cell in failed)


def _cause(graph: Graph, blame: Mapping[str, Mapping[str, str]], node: Node, sample: str) -> str:
    for step in node.upstream:
        failed = blame.get(step, {})
        # A sample's cell is not run on account of its own upstream cell or a gather's, a gather on account of any. Of
        # parts and groups it is not known here who reads whom.
        cause = failed.get(sample) or failed.get(layout.COHORT)
        is_any = sample == layout.COHORT or graph[step].scope is not node.scope
        cause = cause or (next(iter(failed.values()), "") if is_any else "")
        if cause:
            return cause
    return ""


def final_progress(first: Plan, last: Plan, failed: Sequence[FailedCell]) -> dict[str, StepProgress]:
    """How far each step is when no job is left: by the first plan, by what failed since, by what the last left out."""
    progress = {}
    left = Counter(step for step, _, state in _unfailed(last, failed) if state in _LEFT_OUT)
    for step, states in first.states.items():
        excluded = first.counts(step)[CellState.EXCLUDED]
        before, since = first.counts(step)[CellState.DONE], Counter(cell.reason for cell in failed if cell.step == step)
        progress[step] = StepProgress(
            step=step,
            done_before=before,
            done=len(states) - before - since.total() - left[step] - excluded,
            failed=dict(since),
            left_out=left[step],
            excluded=excluded,
        )
    return progress


def blocked_cells(last: Plan, failed: Sequence[FailedCell]) -> list[tuple[str, str, str]]:
    """Cells that could not even be tried, with the sentence; a gather is known to be one when its samples ended."""
    cells = ((step, sample) for step, sample, state in _unfailed(last, failed) if state is CellState.BLOCKED)
    return [(*cell, last.blocked[cell]) for cell in cells]


def _unfailed(plan: Plan, failed: Sequence[FailedCell]) -> Iterator[tuple[str, str, CellState]]:
    """The plan's cells but for those that failed since: the plan of a later wave blocks them."""
    known = {(cell.step, cell.sample) for cell in failed}
    for step in plan.states:
        yield from ((step, sample, state) for sample, state in plan.cells(step) if (step, sample) not in known)
