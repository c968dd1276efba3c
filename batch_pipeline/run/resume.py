"""Resumes the run of a driver job: an attempt goes on where the one before it was killed.

The first attempt is a run like any other. A later one lets its live jobs end before it plans, so that a cell that
failed by its own fault stays failed and is not sent again; what was forced is forced once. Jobs that were to be sent
and were not, since the driver was killed between two of them, are sent at once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import TypeVar

from batch_pipeline.records.events import FailedCell, Listener, Outcome
from batch_pipeline.records.manifests import cells_of
from batch_pipeline.records.request import Request
from batch_pipeline.run.backend import LazyBackend
from batch_pipeline.run.driver import Driver, Interrupted, run
from batch_pipeline.run.driver_jobs import runs_of
from batch_pipeline.run.interrupts import pause
from batch_pipeline.run.live import has_begun, live_run_ids, submissions
from batch_pipeline.run.lock import LEASE_SECONDS
from batch_pipeline.run.recovery import FailurePartition, partition_failures
from batch_pipeline.run.retry_policy import retry_policy
from batch_pipeline.run.snapshot import DriverState
from batch_pipeline.run.status import recorded_failures, watch
from batch_pipeline.run.verdict import read_failed
from batch_pipeline.wire import layout
from batch_pipeline.wire.errors import Overtaken, RunConflict
from batch_pipeline.wire.store import NotInStore, Store

T = TypeVar("T")
#: Seconds between two tries to take the lock, which an attempt on another machine held when it was killed.
PAUSE_SECONDS = 10.0


def resume(request: Request, listener: Listener, driver_id: str) -> Outcome:
    """Does what is missing for a driver job, and follows it to its end. Raises as `driver.run`."""
    store = request.store
    begun = [run_id for run_id in runs_of(store, driver_id) if has_begun(store, run_id)]
    if not begun:
        return _patiently(lambda: run(request, listener))
    live = set(live_run_ids(store)).intersection(begun)
    # A run that was cut short was made whole by the next one.
    if live and _is_sent(store, begun[-1]):
        _patiently(lambda: watch(request, listener))
        live = set()
    failures = earlier_failures(request, begun, live)
    state = replace(
        DriverState.of(request),
        failed=tuple(failures.lasting),
        overrides=failures.overrides,
        made=_sent_cells(store, begun) if request.selection.force else frozenset(),
        run_ids=tuple(begun),
    )
    return _patiently(lambda: _drive(request, listener, state))


def _drive(request: Request, listener: Listener, state: DriverState) -> Outcome:
    """As `driver.run`, from the state that earlier attempts left."""
    driver = Driver(request, state=state)
    try:
        return driver.run(listener, detach=False)
    except KeyboardInterrupt as error:
        raise Interrupted(driver.run_ids) from error
    finally:
        driver.close()


def earlier_failures(request: Request, run_ids: Sequence[str], live: Collection[str]) -> FailurePartition:
    """The cells that failed in runs, by what is done about them; the newest word on each counts.

    Of those that are `live`, what containers have recorded.
    """
    cells: dict[tuple[str, str], FailedCell] = {}
    for run_id in sorted(run_ids, reverse=True):
        for cell in _failures(request.store, run_id, is_live=run_id in live):
            cells.setdefault((cell.step, cell.sample), cell)
    known = [cell for cell in cells.values() if cell.step in request.graph.names]
    backend = LazyBackend()
    try:
        return partition_failures(request.graph, known, retry_policy(request, backend, known))
    finally:
        backend.close()


def _failures(store: Store, run_id: str, *, is_live: bool) -> Sequence[FailedCell]:
    if is_live:
        recorded = recorded_failures(store, run_id, set(_sent_cells(store, [run_id])))
        return [cell for cell in recorded if not cell.reason.is_retried]
    try:
        return read_failed(store, run_id)
    except NotInStore:
        return []


def _sent_cells(store: Store, run_ids: Sequence[str]) -> frozenset[tuple[str, str]]:
    """The cells that runs sent: what is forced is forced once."""
    jobs = [job for run_id in run_ids for job in submissions(store, run_id) if not job.join]
    return frozenset((job.step, sample) for job in jobs for sample, _ in cells_of(store, job.run_id, job.job))


def _is_sent(store: Store, run_id: str) -> bool:
    """Whether a run has sent all jobs that it was to have."""
    return len(submissions(store, run_id)) >= len(store.get_json(layout.plan(run_id))["jobs"])


def _patiently(act: Callable[[], T]) -> T:
    """Acts, and again while another driver is submitting; no longer than until a dead one's lease is over."""
    deadline = time.monotonic() + LEASE_SECONDS + PAUSE_SECONDS
    while True:
        try:
            return act()
        except Overtaken:
            raise
        except RunConflict:
            if time.monotonic() > deadline:
                raise
            pause(PAUSE_SECONDS)
