"""Cancels jobs of runs: all of them, some steps', or some samples' without their siblings; done cells stay done.

The order is kept in the store first. A job is ended whole unless samples were chosen; then its children are ended by
their indices, which the manifest fixed. Steps go in reverse: what waits for a cancelled cell would else end on its
account. The backend ends things in its own time, and nothing here waits for that; repeating an order is harmless.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from batch_pipeline.backends.base import Backend, JobCanceller, JobObserver, JobState
from batch_pipeline.config import Settings
from batch_pipeline.pipeline.plan import CellState
from batch_pipeline.records.manifests import cells_of
from batch_pipeline.records.record import read_record, write_end
from batch_pipeline.records.record_writing import states_of
from batch_pipeline.records.submissions import Submission
from batch_pipeline.run.backend import backend_of
from batch_pipeline.run.live import LiveRun, has_begun, live_run_ids, read_live_runs
from batch_pipeline.run.lock import DriverLock
from batch_pipeline.run.orders import Order, write_order
from batch_pipeline.run.place import reaching, why_unreachable
from batch_pipeline.wire import layout
from batch_pipeline.wire.errors import InvalidUse, RunConflict
from batch_pipeline.wire.store import NotInStore, Store

#: What AWS shows as the status reason.
REASON = "cancelled by the user"
_MOVING = tuple(state for state in JobState if not state.final)


@dataclass(frozen=True, kw_only=True)
class Cancelled:
    """One job of which cells were cancelled."""

    run_id: str
    step: str
    job: str
    native_id: str
    #: Cells that had not ended and that the backend was told to end.
    cells: int
    #: All cells of the job.
    size: int

    def __str__(self) -> str:
        some = "" if self.cells == self.size else f" of {self.size:,}"
        return f"{self.step}: job {self.job} of run {self.run_id} ({self.cells:,}{some} cell{'s' * (self.size != 1)})"


def cancel(
    store: Store,
    settings: Settings,
    run_ids: Iterable[str] = (),
    *,
    steps: frozenset[str] | None = None,
    samples: frozenset[str] | None = None,
) -> list[Cancelled]:
    """Ends live cells of the given runs (default: of all), and says of which jobs.

    Raises InvalidUse for a run that is not live, a step or sample that no chosen run has, and a backend that this
    machine cannot ask; then nothing was cancelled.
    """
    live = live_run_ids(store)
    chosen = list(run_ids) or live
    for run_id in chosen:
        if run_id not in live:
            known = ", ".join(live) or "none"
            raise InvalidUse(f"Run {run_id} has no live jobs. Live runs: {known}.")
    reached = {run_id: _reached(store, settings, run_id) for run_id in chosen}
    plans = {run_id: _plan_record(store, run_id) for run_id in chosen}
    _refuse_unknown(store, plans, steps, samples)
    cancelled: list[Cancelled] = []
    for run_id in chosen:
        backend = backend_of(reached[run_id])
        try:
            own = None if samples is None else samples | _parts_of(plans[run_id], samples)
            cancelled += _cancelled(store, backend, Order(run_id=run_id, steps=steps, samples=own), plans[run_id])
        finally:
            backend.close()
    return cancelled


def cancel_run(store: Store, backend: Backend, run_id: str) -> list[Cancelled]:
    """Ends all live cells of one run, on the backend where its jobs are."""
    return list(_cancelled(store, backend, Order(run_id=run_id), _plan_record(store, run_id)))


def close_unbegun(store: Store, run_ids: Iterable[str]) -> list[str]:
    """Closes those of the runs that sent no job and never will, and says which: their drivers are gone.

    A driver that is at work on one has the lock, and reads the order to cancel after each job that it sends.
    """
    unbegun = [run_id for run_id in run_ids if not has_begun(store, run_id)]
    lock = DriverLock(store)
    try:
        if unbegun:
            lock.take()
        closed = [run_id for run_id in unbegun if not has_begun(store, run_id)]
        for run_id in closed:
            write_end(store, run_id, done=0, failed=0)
    except RunConflict:
        return []
    finally:
        lock.release()
    return closed


def _reached(store: Store, settings: Settings, run_id: str) -> Settings:
    """The settings that lead to a run's backend. Raises InvalidUse when this machine cannot ask it."""
    try:
        record = read_record(store, run_id)
    except NotInStore:
        return settings
    if not has_begun(store, run_id):
        return settings
    unreachable = why_unreachable(settings, record)
    if unreachable:
        raise InvalidUse(unreachable)
    return reaching(settings, record)


def _plan_record(store: Store, run_id: str) -> Mapping[str, Any]:
    """What a run recorded of its plan; empty: nothing."""
    try:
        record: Mapping[str, Any] = store.get_json(layout.plan(run_id))
    except NotInStore:
        return {}
    return record


def _refuse_unknown(
    store: Store,
    plans: Mapping[str, Mapping[str, Any]],
    steps: frozenset[str] | None,
    samples: frozenset[str] | None,
) -> None:
    if steps:
        known = {step for plan in plans.values() for step in plan.get("parts", ())}
        if wrong := sorted(steps - known):
            raise InvalidUse(f"No live run has a step {wrong[0]!r}; they have: {', '.join(sorted(known))}.")
    if samples:
        lists = [store.get(layout.samples(run_id)).decode().splitlines()[1:] for run_id in plans]
        listed = {line.split("\t", 1)[0] for lines in lists for line in lines}
        listed |= {name for plan in plans.values() for names in _other_rows(plan).values() for name in names}
        if wrong := sorted(samples - listed):
            raise InvalidUse(
                f"No live run has a sample {wrong[0]!r}. Check its spelling against the run's samples.tsv."
            )


def _parts_of(plan_record: Mapping[str, Any], samples: frozenset[str]) -> frozenset[str]:
    """The names of a run's parts of these samples."""
    names = (name for own in _other_rows(plan_record).values() for name in own)
    return frozenset(name for name in names if name.rpartition("@")[0] in samples)


def _other_rows(plan_record: Mapping[str, Any]) -> Mapping[str, Sequence[str]]:
    """Step of parts or groups of a run -> the names of its cells."""
    rows: Mapping[str, Sequence[str]] = plan_record.get("rows", {})
    return rows


def _cancelled(store: Store, backend: Backend, order: Order, plan_record: Mapping[str, Any]) -> Iterator[Cancelled]:
    position = {step: number for number, step in enumerate(plan_record.get("parts", ()))}
    (run,) = read_live_runs(store, backend, [order.run_id])
    ordered = [item for item in run.submissions if order.steps is None or item.step in order.steps]
    moving = [item for item in ordered if not run.summaries[item.native_id].state.final]
    # A driver that is still submitting reads the order after each job that it sends, and before each later wave.
    if moving or _sends_more(plan_record, run):
        write_order(store, order)
    # A join belongs to the gather behind it.
    for item in sorted(moving, key=lambda item: (position.get(item.step, -1), not item.join), reverse=True):
        if order.samples is None and item.join:
            backend.cancel(item.native_id, REASON)
        elif order.samples is None:
            yield _whole(backend, run, item)
        elif not item.join:
            yield from _some(store, backend, run, item, order)


def _sends_more(plan_record: Mapping[str, Any], run: LiveRun) -> bool:
    """Whether the driver of a run, if it lives, will send more: jobs of the run, or what its plan left for later."""
    states = {state for text in plan_record.get("states", {}).values() for state in states_of(text)}
    return len(run.submissions) < len(plan_record.get("jobs", ())) or CellState.DEFERRED in states


def carry_out(store: Store, backend: JobCanceller, orders: Iterable[Order], item: Submission) -> None:
    """Ends what orders say of a job that was queued a moment ago, when they may not have seen it."""
    for order in orders:
        if order.steps is not None and item.step not in order.steps:
            continue
        if order.samples is None:
            backend.cancel(item.native_id, REASON)
        elif not item.join:
            cells = cells_of(store, item.run_id, item.job)
            indices = [index for index, (sample, _) in enumerate(cells) if order.takes(item.step, sample)]
            if len(indices) == len(cells):
                backend.cancel(item.native_id, REASON)
            elif indices:
                backend.cancel_children(item.native_id, indices, REASON)


def _whole(backend: JobCanceller, run: LiveRun, item: Submission) -> Cancelled:
    summary = run.summaries[item.native_id]
    backend.cancel(item.native_id, REASON)
    return _told(item, sum(summary.counts.get(state, 0) for state in _MOVING), summary.size)


def _some(store: Store, backend: Backend, run: LiveRun, item: Submission, order: Order) -> Iterator[Cancelled]:
    """Ends the children of the chosen samples that have not ended."""
    cells = cells_of(store, item.run_id, item.job)
    wanted = {index for index, (sample, _) in enumerate(cells) if order.takes(item.step, sample)}
    if not wanted:
        return
    indices = _moving(backend, item, run.summaries[item.native_id].counts) & wanted
    if indices:
        backend.cancel_children(item.native_id, sorted(indices), REASON)
        yield _told(item, len(indices), len(cells))


def _moving(backend: JobObserver, item: Submission, counts: Mapping[JobState, int]) -> set[int]:
    """Indices that have not ended; what a backend does not list yet is not left alone."""
    ended = (JobState.SUCCEEDED, JobState.FAILED)
    gone = {child.index for child in backend.children(item.native_id, ended)}
    return set(range(sum(counts.values()))) - gone


def _told(item: Submission, cells: int, size: int) -> Cancelled:
    return Cancelled(run_id=item.run_id, step=item.step, job=item.job, native_id=item.native_id, cells=cells, size=size)
