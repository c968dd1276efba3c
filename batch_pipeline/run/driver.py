"""Plans, submits, follows: the one loop behind `run`, and `inspect` behind everything that only looks.

    snapshot -> nothing to do: say so, having written nothing
             -> take the lock -> (a new snapshot if somebody submitted meanwhile) -> record -> submit, steps in order
             -> follow, and send the plan's later waves as there is room for them, until the jobs end
             -> judge by receipts -> cells that were deferred, or that go again? once more

Everything that a dead driver left is settled before anything is planned: doubtful submissions are looked up by name,
live jobs are followed and depended on like the run's own.

A plan of more children than the queue may have is sent in waves (`pipeline/waves.py`), each as a run of its own, so
that whoever finds a run finds all of its jobs. Nothing is listed or planned again between them. What receipts said when
the plan was made holds as long as nobody else submits: where another driver had the lock since, no more of the plan is
sent, and what is left is planned anew when the jobs have ended, by the receipts that are there then.

(A little longer than most modules: it is that loop, an act a method, and those who only look take its first half.)
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from batch_pipeline.backends.base import Backend
from batch_pipeline.log import Facts, of_run
from batch_pipeline.pipeline.plan import Inventory
from batch_pipeline.pipeline.review import require_sound
from batch_pipeline.pipeline.waves import cells_after_wave, children_by_wave, plan_of_wave
from batch_pipeline.records.event_log import logged
from batch_pipeline.records.events import CompositeListener, FailedCell, Listener, Outcome, StepProgress
from batch_pipeline.records.history import Happened, append_if_possible
from batch_pipeline.records.receipts import close_retirements
from batch_pipeline.records.request import Request
from batch_pipeline.records.submissions import Submission
from batch_pipeline.run.backend import LazyBackend
from batch_pipeline.run.beyond import reading_beyond
from batch_pipeline.run.interrupts import pause
from batch_pipeline.run.live import adopt
from batch_pipeline.run.lock import DriverLock
from batch_pipeline.run.orders import is_any_cancelled, pass_orders_on
from batch_pipeline.run.preflight import preflight, refuse_conflicts, require_ready
from batch_pipeline.run.recovery import FailurePartition, partition_failures, summary
from batch_pipeline.run.retry_policy import retry_policy
from batch_pipeline.run.snapshot import DriverState, Snapshot, take_snapshot
from batch_pipeline.run.submit import Submitter
from batch_pipeline.run.temporary import remove_at_end
from batch_pipeline.run.verdict import RunVerdict, blocked_cells, final_progress, judge
from batch_pipeline.wire import layout
from batch_pipeline.wire.errors import BackendFailed, NotReady, Overtaken, RunConflict, StoreFailed, SubmissionRefused

_LOG: Final = logging.getLogger(__name__)

if TYPE_CHECKING:
    from batch_pipeline.luigi_adapter.preparer import Preparer
    from batch_pipeline.luigi_adapter.submit import LuigiAdapter
    from batch_pipeline.run.watch import Watch


class Interrupted(KeyboardInterrupt):
    """Ctrl-C while jobs run; they go on until somebody cancels them."""

    def __init__(self, run_ids: Sequence[str]) -> None:
        super().__init__("Interrupted; the jobs go on.")
        self.run_ids = tuple(run_ids)


def inspect(request: Request) -> Snapshot:
    """Reads store and backend, and plans; writes nothing but the native ids of doubtful submissions."""
    backend = LazyBackend()
    try:
        return take_snapshot(DriverState.of(request), backend)
    finally:
        backend.close()


def run(request: Request, listener: Listener, *, detach: bool = False, preparer: Preparer | None = None) -> Outcome:
    """Does what is missing and follows it to its end; `detach` returns once everything is queued.

    On Luigi's page the steps depend on what a `preparer` made before.

    Raises RunConflict before anything is sent when live jobs make a chosen cell differently, and Interrupted on
    Ctrl-C.
    """
    driver = Driver(request, preparer=preparer)
    try:
        return driver.run(listener, detach=detach)
    except KeyboardInterrupt as error:
        raise Interrupted(driver.run_ids) from error
    finally:
        driver.close()


class Driver:
    """One command's work on one prefix: waves, each of which makes the `DriverState` of the next."""

    def __init__(
        self,
        request: Request,
        backend: Backend | None = None,
        *,
        sleep: Callable[[float], None] = pause,
        clock: Callable[[], float] = time.monotonic,
        preparer: Preparer | None = None,
        state: DriverState | None = None,
    ) -> None:
        self._sleep = sleep
        self._preparer = preparer
        self._clock = clock
        self._request = request
        self._state = state or DriverState.of(request)
        self._store = request.store
        self._backend = LazyBackend(backend)
        self._lock = DriverLock(request.store)
        self._submitted = 0  #: The jobs that it sent.
        self._luigi: LuigiAdapter | None = None
        self._stopped_by = ""  #: Why nothing more is sent.
        #: Runs that it submitted or follows, oldest first.
        self.run_ids = list(self._state.run_ids)
        self._begun = list(self._state.run_ids)  #: Those among them that it submitted.

    def close(self) -> None:
        """Lets go of the lock and the backend's connections; jobs go on."""
        self._lock.release()
        if self._luigi is not None:
            self._luigi.close()
        self._backend.close()

    def inspect(self, state: DriverState | None = None, *, submits: bool = False) -> Snapshot:
        """Takes a snapshot, by default that of a command that has done nothing yet."""
        return take_snapshot(state or DriverState.of(self._request), self._backend, submits=submits)

    def run(self, listener: Listener, *, detach: bool) -> Outcome:
        """See `run`. Every decision leaves a line in the driver's log."""
        with logged(self._store, listener) as listening:
            return self._run(listening, detach=detach)

    def _run(self, listener: Listener, *, detach: bool) -> Outcome:
        state = self._state
        snapshot: Snapshot | None = None
        while True:
            try:
                snapshot, jobs, submitter = self._plan_and_send(state, listener, detach=detach)
            except (SubmissionRefused, BackendFailed, NotReady, RunConflict) as error:
                if state.pending and snapshot is not None:
                    # Report the original failures, not the refused retry.
                    state = replace(state, failed=(*state.failed, *state.pending))
                    return self._end(self._outcome(state, snapshot, stopped_by=error.message), listener)
                if self._submitted and isinstance(error, RunConflict):
                    raise self._overtaken(error) from error
                raise
            if detach and jobs:
                unsent = cells_after_wave(snapshot.plan, 0).total()
                snapshot = replace(snapshot, plan=plan_of_wave(snapshot.plan, 0))
                left = self._watch(snapshot, jobs).poll()
                return self._end(self._outcome(state, snapshot, left=left, unsent=unsent), listener)
            if jobs:
                snapshot = self._follow(snapshot, jobs, submitter, listener)
            state = state.after_wave(snapshot)
            if jobs:
                failed = self._judge(snapshot, jobs, submitter)
                if failed or snapshot.plan.is_deferred:
                    self._stop_if_cancelled(self._begun)
                partition = self._partition(snapshot, failed, active=state.rounds > 0 and not self._stopped_by)
                state = state.after_failures(partition)
                self._tell_retries(partition, listener)
            if not jobs or self._stopped_by or not (state.pending or snapshot.plan.is_deferred):
                unsent = snapshot.plan.deferred if self._stopped_by else 0
                outcome = self._outcome(state, snapshot, unsent=unsent, stopped_by=self._stopped_by)
                removed = remove_at_end(snapshot, self._backend, self._lock, self.run_ids, is_new=bool(jobs))
                return self._end(replace(outcome, removed=removed), listener)

    def _outcome(
        self,
        state: DriverState,
        snapshot: Snapshot,
        *,
        left: Mapping[str, StepProgress] | None = None,
        unsent: int = 0,
        stopped_by: str = "",
    ) -> Outcome:
        """How the command ends after what a snapshot planned; `left`: how far the jobs are that it leaves."""
        ended = final_progress(state.first or snapshot.plan, snapshot.plan, state.failed) if left is None else left
        return Outcome(
            run_ids=tuple(self.run_ids),
            progress=ended,
            failed=state.failed,
            blocked=blocked_cells(snapshot.plan, state.failed),
            detached=left is not None,
            submitted=self._submitted,
            unsent=unsent,
            again=state.retries,
            stopped_by=stopped_by,
            store_calls=snapshot.store_calls,
        )

    def _end(self, outcome: Outcome, listener: Listener) -> Outcome:
        for each in self._listeners(listener):
            each.progressed(outcome.progress)
            each.ended(outcome)
        return outcome

    def _listeners(self, listener: Listener) -> list[Listener]:
        return [listener, self._luigi] if self._luigi is not None else [listener]

    def _tell_retries(self, partition: FailurePartition, listener: Listener) -> None:
        if partition.retried:
            lines = summary(partition.retried, partition.overrides)
            for each in self._listeners(listener):
                each.again(lines)

    def _plan_and_send(
        self, state: DriverState, listener: Listener, *, detach: bool
    ) -> tuple[Snapshot, list[Submission], Submitter | None]:
        """Plans, and sends the first wave. Returns what there was, the jobs to follow and who sends the other waves."""
        of_run("")
        seen = self._lock.newest()
        snapshot = self._plan(state, listener)
        if not snapshot.plan.jobs and not snapshot.ended_runs:
            self._adopt(snapshot)
            return snapshot, snapshot.jobs, None
        if snapshot.plan.jobs:
            self._require_ready(snapshot)
        submitter = None
        try:
            if not self._lock.take(seen=seen):
                snapshot = self._plan(state.informed(snapshot), listener)
            if self._close_runs(snapshot) and snapshot.plan.jobs:
                # What failed while nobody watched may go again with more memory.
                snapshot = self._plan(replace(state.informed(snapshot), past=None), listener)
            self._adopt(snapshot)
            if any(not job.wave or not detach for job in snapshot.plan.jobs):
                submitter = self._submit(snapshot, 0, listener)
                self._keep_retries(submitter.run_id, state)
        finally:
            self._lock.release()
        # What was read of each sample is in the manifests by now; a driver that watches for days need not hold it.
        kept = replace(snapshot, inventory=Inventory(live=snapshot.inventory.live))
        return kept, [*snapshot.jobs, *(submitter.sent if submitter else ())], submitter

    def _follow(
        self, snapshot: Snapshot, jobs: list[Submission], first: Submitter | None, listener: Listener
    ) -> Snapshot:
        """Follows jobs to their end, and sends the later waves of the plan, each as soon as there is room for it.

        Adds what it sends to the jobs. Returns the snapshot with what was sent of its plan.
        """
        plan, bound = snapshot.plan, snapshot.plan.limits.max_live_children or 0
        watch = self._watch(snapshot, jobs, later=cells_after_wave(plan, 0))
        last = 0
        for wave, children in enumerate(children_by_wave(plan)[1:], start=1):
            followed = [run_id for run_id in self._begun[:-1] if not watch.has_ended(run_id)]
            watch.until_over(CompositeListener(self._listeners(listener)), most_children=max(0, bound - children))
            # Of the newest run an order is kept though its jobs have ended: cells that it left to later waves have not.
            self._stop_if_cancelled([*followed, *self._begun[-1:]])
            if self._stopped_by or self._is_costly(snapshot, wave, jobs, watch):
                break
            submitter = self._release(snapshot, wave, first, listener)
            if submitter is None:
                break
            jobs += submitter.sent
            watch.add(submitter.sent, later=cells_after_wave(plan, wave))
            last = wave
        if first is not None:
            first.forget()
        snapshot = replace(snapshot, plan=plan_of_wave(plan, last))
        if left := cells_after_wave(plan, last):
            _LOG.info("not sent %s", Facts(cells=left.total(), because=self._stopped_by or "another driver submits"))
            watch = self._watch(snapshot, jobs)
        watch.until_over(CompositeListener(self._listeners(listener)))
        return snapshot

    def _release(self, snapshot: Snapshot, wave: int, first: Submitter | None, listener: Listener) -> Submitter | None:
        """Sends a later wave; None: another driver submits or did since, and what it sent is not known here."""
        try:
            try:
                if not self._lock.take_again():
                    return None
            except RunConflict:
                return None
            return self._submit(snapshot, wave, listener, first=first)
        except RunConflict as error:
            raise self._overtaken(error) from error
        finally:
            self._lock.release()

    def _stop_if_cancelled(self, run_ids: Sequence[str]) -> None:
        if not self._stopped_by and is_any_cancelled(self._store, run_ids):
            self._stopped_by = "The run was cancelled."

    def _is_costly(self, snapshot: Snapshot, wave: int, jobs: Sequence[Submission], watch: Watch) -> bool:
        """Whether what runs, this wave and those after it would cost too much."""
        if (settings := snapshot.request.settings).prices.max_cost:
            from batch_pipeline.run.cost_bound import waves_problem

            backend = self._backend.open(settings)
            self._stopped_by = waves_problem(snapshot, wave, backend, self.run_ids, jobs, unended=watch.unended())
        return bool(self._stopped_by)

    def _overtaken(self, error: RunConflict) -> Overtaken:
        return Overtaken(f"{error.message} Jobs of {', '.join(self.run_ids)} go on.")

    def _plan(self, state: DriverState, listener: Listener) -> Snapshot:
        """Takes a snapshot and tells of its plan. Raises RunConflict for cells that live jobs make differently."""
        snapshot = self.inspect(state, submits=True)
        listener.planned(snapshot.plan)
        refuse_conflicts(snapshot.plan)
        return snapshot

    def _require_ready(self, snapshot: Snapshot) -> None:
        request = snapshot.request
        if not self._submitted:
            require_sound(request.graph)
        backend = self._backend.open(request.settings)
        # The embedded server starts while Luigi is imported.
        backend.wake()
        if request.settings.prices.max_cost:
            from batch_pipeline.run.cost_bound import require_cost

            require_cost(request, snapshot.plan, snapshot.inventory, backend, self.run_ids)
        if request.settings.backend.name != "embedded":
            require_ready(preflight(request, backend, snapshot.plan, reference=snapshot.reference))

    def _submit(
        self, snapshot: Snapshot, wave: int, listener: Listener, *, first: Submitter | None = None
    ) -> Submitter:
        """Sends the jobs of a wave through Luigi: one task a step, in the order of the ports."""
        reading = {} if wave else reading_beyond(self._store, snapshot.plan, snapshot.inventory.live)
        submitter = Submitter(
            replace(snapshot, plan=plan_of_wave(snapshot.plan, wave)),
            reading=reading,
            backend=self._backend.open(snapshot.request.settings),
            lock=self._lock,
            listener=listener,
            sleep=self._sleep,
            first=first,
        )
        try:
            self._send(snapshot.request, submitter)
        finally:
            self._submitted += len(submitter.sent)
        if wave or not cells_after_wave(snapshot.plan, wave):
            submitter.forget()
        return submitter

    def _keep_retries(self, run_id: str, state: DriverState) -> None:
        """Adds to a run's history what it sends again."""
        if state.retries and len(self.run_ids) > 1:
            lines = "; ".join(line.line for line in state.retries)
            append_if_possible(self._store, run_id, Happened.RECOVERY, lines, of=self.run_ids[:-1])

    def _send(self, request: Request, submitter: Submitter) -> None:
        """Submits as Luigi's tasks: one a step, in the order of the ports. A deaf scheduler is found out first."""
        if request.reference_files:
            # A reference is one job without a workflow.
            self._begin(submitter)
            submitter.submit_step(request.graph.names[0])
            return
        # A command that finds nothing to do does without.
        from batch_pipeline.luigi_adapter.submit import adapter_of

        if self._luigi is not None:
            self._luigi.close()
        try:
            self._luigi = adapter_of(
                request, submitter.run_id, submitter.submit_step, submitter.is_submitted, self._preparer
            )
        except OSError as error:
            place = self._store.url_of(layout.run_folder(submitter.run_id))
            raise StoreFailed(f"{place} cannot be written: {error.strerror}. Check the folder of the store.") from error
        self._begin(submitter)
        self._luigi.submit_all()

    def _begin(self, submitter: Submitter) -> None:
        """Records the run. Cells that were cancelled in the run before, and are sent only now, are cancelled in it."""
        submitter.begin()
        if self._begun:
            pass_orders_on(self._store, self._begun[-1], submitter.run_id)
        self.run_ids.append(submitter.run_id)
        self._begun.append(submitter.run_id)

    def _adopt(self, snapshot: Snapshot) -> None:
        self.run_ids.extend(adopt(snapshot.live, self.run_ids))

    def _watch(
        self, snapshot: Snapshot, jobs: Sequence[Submission], *, later: Mapping[str, int] | None = None
    ) -> Watch:
        # Imported no sooner than jobs run, like `closing`: a start waits for neither.
        from batch_pipeline.run.cost_bound import cost_watch
        from batch_pipeline.run.watch import watching

        settings = snapshot.request.settings
        backend = self._backend.open(settings)
        sleep = cost_watch(snapshot.request, backend, jobs, self.run_ids, sleep=self._sleep, clock=self._clock)
        return watching(
            snapshot.plan,
            backend,
            jobs,
            live=snapshot.inventory.live,
            runs=snapshot.live,
            settings=settings.watch,
            later=later,
            sleep=sleep,
            clock=self._clock,
        )

    def _judge(self, snapshot: Snapshot, jobs: Sequence[Submission], first: Submitter | None) -> Sequence[FailedCell]:
        """Closes the runs of jobs that have ended; the cells that this wave counted on and that are not done.

        A live job may hold cells that it could not do, for what they read is made again: a later wave takes those.
        """
        request = snapshot.request
        verdict = judge(request.graph, self._store, self._backend.open(request.settings), jobs)
        # On a full queue nothing went with the first wave.
        unsent = {first.run_id: 0} if first and not first.sent else {}
        self._write_ends(request, replace(verdict, done={**unsent, **verdict.done}), jobs)
        counted = snapshot.plan.under_way() if verdict.failed else frozenset()
        return [cell for cell in verdict.failed if (cell.step, cell.sample) in counted]

    def _partition(self, snapshot: Snapshot, failed: Sequence[FailedCell], *, active: bool = True) -> FailurePartition:
        policy = retry_policy(snapshot.request, self._backend, failed, active=active)
        return partition_failures(snapshot.plan.graph, failed, policy, snapshot.plan.rows)

    def _close_runs(self, snapshot: Snapshot) -> bool:
        """Closes runs whose jobs have all ended while nobody watched; whether some of their cells may go again."""
        request = snapshot.request
        failed: list[FailedCell] = []
        for live in snapshot.ended_runs:
            of_run(live.run_id)
            verdict = judge(request.graph, self._store, self._backend.open(request.settings), live.submissions)
            self._write_ends(request, replace(verdict, done={live.run_id: 0, **verdict.done}), live.submissions)
            failed += [cell for cell in verdict.failed if cell.step in request.graph.names]
        return bool(failed and self._partition(snapshot, failed).overrides)

    def _write_ends(self, request: Request, verdict: RunVerdict, jobs: Sequence[Submission]) -> None:
        from batch_pipeline.run.closing import close_run

        settings, backend = request.settings, self._backend.open(request.settings)
        # Before the runs are taken off the live ones: who finds a run there that is over does all of this again.
        close_retirements(self._store)
        for run_id, done in verdict.done.items():
            close_run(self._store, backend, run_id, jobs=jobs, failed=verdict.failed, done=done, settings=settings)
