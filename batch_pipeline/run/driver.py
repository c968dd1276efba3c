"""Plans, submits, follows: the one loop behind `run`, and `look` behind everything that only looks.

    look -> nothing to do: say so, having written nothing
         -> take the lock -> (look again if somebody submitted meanwhile) -> record -> submit, steps in order
         -> follow until the jobs end -> judge by receipts -> cells that were deferred, or that go again? once more

Everything that a dead driver left is settled before anything is planned: doubtful submissions are looked up by name,
live jobs are followed and depended on like the run's own.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from batch_pipeline.backends import LIMITS
from batch_pipeline.backends.base import Backend
from batch_pipeline.backends.definitions import configured_definitions, resources
from batch_pipeline.log import of_run
from batch_pipeline.luigi_adapter.submit import LuigiAdapter
from batch_pipeline.pipeline.fingerprint import step_parts
from batch_pipeline.pipeline.plan import Inventory, Limits, Plan, Remedy
from batch_pipeline.pipeline.planner import make_plan
from batch_pipeline.pipeline.review import require_sound
from batch_pipeline.records.event_log import logged
from batch_pipeline.records.events import Again, FailedCell, Listener, Outcome, StepProgress, Together
from batch_pipeline.records.history import Happened, append_if_possible
from batch_pipeline.records.receipts import close_retirements, read_retirements
from batch_pipeline.records.record import read_record, write_end
from batch_pipeline.records.request import Request
from batch_pipeline.records.spent import told_spent
from batch_pipeline.records.submissions import Submission
from batch_pipeline.run import inventory as inventories
from batch_pipeline.run.backend import backend_of
from batch_pipeline.run.beyond import reading_beyond
from batch_pipeline.run.interrupts import pause
from batch_pipeline.run.live import LiveRun, adopt, has_begun, live_jobs, live_run_ids, read_live_runs
from batch_pipeline.run.lock import DriverLock
from batch_pipeline.run.place import reaching, why_elsewhere, why_unreachable
from batch_pipeline.run.preflight import preflight, refuse_conflicts, require_ready
from batch_pipeline.run.recovery import Policy, remembered, sort_failures, summary
from batch_pipeline.run.room import memory_cap
from batch_pipeline.run.submit import Submitter
from batch_pipeline.run.verdict import (
    Verdict,
    blocked_cells,
    final_progress,
    judge,
    past_failures,
    write_failed,
)
from batch_pipeline.run.watch import Watch, watching
from batch_pipeline.wire import layout
from batch_pipeline.wire.contract import EndReason
from batch_pipeline.wire.errors import (
    BackendFailed,
    NotReady,
    Overtaken,
    RunConflict,
    StoreFailed,
    SubmissionRefused,
)
from batch_pipeline.wire.store import NotInStore


class Interrupted(KeyboardInterrupt):
    """Ctrl-C while jobs run; they go on until somebody cancels them."""

    def __init__(self, run_ids: Sequence[str]) -> None:
        super().__init__("Interrupted; the jobs go on.")
        self.run_ids = tuple(run_ids)


@dataclass(frozen=True, kw_only=True)
class Look:
    """A snapshot: what there is and what would be done, from one reading of store and backend."""

    plan: Plan
    inventory: Inventory
    reference: str
    #: Runs with a marker, oldest first; some may be over.
    live: Sequence[LiveRun]
    #: Calls to the store so far, by kind.
    store_calls: Mapping[str, int]

    @property
    def live_runs(self) -> list[str]:
        """Ids of the runs that have live jobs."""
        return [run.run_id for run in self.live if not run.over]

    @property
    def jobs(self) -> list[Submission]:
        """The live runs' jobs, ended ones too: some of their cells may be worth a word."""
        return [item for run in self.live if not run.over for item in run.submissions]


def look(request: Request) -> Look:
    """Reads store and backend, and plans; writes nothing but the native ids of doubtful submissions."""
    return Driver(request).look()


def run(request: Request, listener: Listener, *, detach: bool = False) -> Outcome:
    """Does what is missing and follows it to its end; `detach` returns once everything is queued.

    Raises RunConflict before anything is sent when live jobs make a chosen cell differently, and Interrupted on
    Ctrl-C.
    """
    driver = Driver(request)
    try:
        return driver.run(listener, detach=detach)
    except KeyboardInterrupt as error:
        raise Interrupted(driver.run_ids) from error
    finally:
        driver.close()


class Driver:
    """One command's work on one prefix."""

    def __init__(
        self,
        request: Request,
        backend: Backend | None = None,
        *,
        sleep: Callable[[float], None] = pause,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._sleep = sleep
        self._clock = clock
        self._request = request
        self._store = request.store
        self._backend = backend
        self._lock = DriverLock(request.store)
        self._failed: dict[tuple[str, str], FailedCell] = {}
        #: With what cells go again that ended through nobody's fault, and how often cells may still go again.
        self._remedies: dict[tuple[str, str], Remedy] = {}
        #: What failed in earlier runs, newest first; None: not read yet.
        self._past: list[FailedCell] | None = None
        self._rounds = request.settings.recovery.rounds
        self._again: list[Again] = []
        #: Cells of its earlier waves: what is forced is forced once.
        self._made: frozenset[tuple[str, str]] = frozenset()
        self._submitted = 0
        self._luigi: LuigiAdapter | None = None
        #: Runs that it submitted or follows, oldest first.
        self.run_ids: list[str] = []

    @property
    def backend(self) -> Backend:
        """The backend, made at first use: a command with nothing to do never needs it."""
        if self._backend is None:
            self._backend = backend_of(self._request.settings)
        return self._backend

    @property
    def _limits(self) -> Limits:
        """The backend's limits, known by its name alone as long as nothing else needs a backend."""
        return self._backend.limits() if self._backend else LIMITS[self._request.settings.backend.name]

    def close(self) -> None:
        """Lets go of the lock and the backend's connections; jobs go on."""
        self._lock.release()
        if self._luigi is not None:
            self._luigi.close()
        if self._backend is not None:
            self._backend.close()

    def look(self) -> Look:
        """See `look`."""
        request = self._request
        retirements = read_retirements(self._store)
        reference, references = inventories.choose_reference(request, retirements)
        parts = {node.name: step_parts(node, request.graph.root, reference, references) for node in request.graph}
        run_ids = live_run_ids(self._store)
        self._reach(run_ids)
        live = read_live_runs(self._store, self.backend, run_ids) if run_ids else []
        stock = inventories.read_inventory(request, references, retirements)
        told = {cell: f"It failed in this run: {failed.reason.words}." for cell, failed in self._failed.items()}
        stock = replace(stock, live=live_jobs(self._store, live, lambda: self.backend), failed=told, made=self._made)
        plan = make_plan(request.graph, request.samples.names, parts, stock, request.selection, self._limits)
        remedies = self._known_remedies(plan)
        if remedies:
            stock = replace(stock, remedies=remedies)
            plan = make_plan(request.graph, request.samples.names, parts, stock, request.selection, self._limits)
        return Look(plan=plan, inventory=stock, reference=reference, live=live, store_calls=Counter(self._store.calls))

    def _reach(self, run_ids: Sequence[str]) -> None:
        """Goes where live runs have their jobs, as far as the command was not told otherwise.

        A run without any, whose driver died or was refused before it sent one, leads nowhere.
        Raises RunConflict where that is out of reach: another backend would know nothing of the jobs, and what is
        unknown counts as lost.
        """
        for run_id in run_ids:
            try:
                record = read_record(self._store, run_id)
            except NotInStore:
                continue
            settings = reaching(self._request.settings, record)
            unreachable = why_unreachable(settings, record) or why_elsewhere(settings, record)
            if (unreachable or settings != self._request.settings) and not has_begun(self._store, run_id):
                continue
            if unreachable:
                raise RunConflict(unreachable)
            self._request = replace(self._request, settings=settings)

    def run(self, listener: Listener, *, detach: bool) -> Outcome:
        """See `run`. Every decision leaves a line in the driver's log."""
        with logged(self._store, listener) as listening:
            return self._run(listening, detach=detach)

    def _run(self, listener: Listener, *, detach: bool) -> Outcome:
        failed: list[FailedCell] = []
        pending: list[FailedCell] = []
        first: Plan | None = None
        stopped_by = ""
        progress: Mapping[str, StepProgress]
        while True:
            try:
                found, jobs = self._wave(listener)
            except (SubmissionRefused, BackendFailed, NotReady, RunConflict) as error:
                if not pending and self._submitted and isinstance(error, RunConflict):
                    raise Overtaken(f"{error.message} Jobs of {', '.join(self.run_ids)} go on.") from error
                if not pending:
                    raise
                # Report the original failures, not the refused retry.
                failed, stopped_by, jobs = [*failed, *pending], error.message, []
                progress = final_progress(first or found.plan, found.plan, failed)
                break
            first = first or found.plan
            if self._request.selection.force:
                self._made |= found.plan.under_way()
            if detach and jobs:
                progress = self._watch(found, jobs).look()
                break
            pending = []
            if jobs:
                self._follow(found, jobs, listener)
                pending = self._sort(self._judge(found.plan, jobs), failed, listener)
            progress = final_progress(first, found.plan, failed)
            if not jobs or not (pending or found.plan.is_deferred):
                break
        outcome = Outcome(
            run_ids=tuple(self.run_ids),
            progress=progress,
            failed=tuple(failed),
            blocked=blocked_cells(found.plan, failed),
            detached=detach and bool(jobs),
            submitted=self._submitted,
            again=tuple(self._again),
            stopped_by=stopped_by,
            store_calls=found.store_calls,
        )
        for hearer in self._hearers(listener):
            hearer.progressed(progress)
            hearer.ended(outcome)
        return outcome

    def _hearers(self, listener: Listener) -> list[Listener]:
        return [listener, self._luigi] if self._luigi is not None else [listener]

    def _wave(self, listener: Listener) -> tuple[Look, list[Submission]]:
        """Plans and submits what can be submitted now. Returns what there was and the jobs to follow."""
        of_run("")
        seen = self._lock.newest()
        found = self.look()
        listener.planned(found.plan)
        refuse_conflicts(found.plan)
        over = [live for live in found.live if live.over]
        if not found.plan.jobs and not over:
            self._follows(found)
            return found, found.jobs
        if found.plan.jobs:
            if not self._submitted:
                require_sound(self._request.graph)
            # The embedded server starts while Luigi is imported.
            self.backend.wake()
            if self._request.settings.backend.name != "embedded":
                require_ready(preflight(self._request, self.backend, found.plan, reference=found.reference))
        try:
            if not self._lock.take(seen=seen):
                found = self.look()
                listener.planned(found.plan)
                refuse_conflicts(found.plan)
                over = [live for live in found.live if live.over]
            if self._end(over) and found.plan.jobs:
                # What failed while nobody watched may go again with more memory.
                self._past = None
                found = self.look()
                listener.planned(found.plan)
            self._follows(found)
            sent = list(self._submit(found, listener)) if found.plan.jobs else []
        finally:
            self._lock.release()
        # What was read of each sample is in the manifests by now; a driver that watches for days need not hold it.
        return replace(found, inventory=Inventory(live=found.inventory.live)), [*found.jobs, *sent]

    def _submit(self, found: Look, listener: Listener) -> Sequence[Submission]:
        """Sends the plan's jobs through Luigi: one task a step, in the order of the ports."""
        reading = reading_beyond(self._store, found.plan, found.inventory.live)
        submitter = Submitter(
            self._request,
            found.plan,
            found.inventory,
            reading=reading,
            reference=found.reference,
            backend=self.backend,
            lock=self._lock,
            listener=listener,
            sleep=self._sleep,
        )
        try:
            self._send(submitter)
        finally:
            self._submitted += len(submitter.sent)
        if self._again and len(self.run_ids) > 1:
            told = "; ".join(again.line for again in self._again)
            append_if_possible(self._store, submitter.run_id, Happened.RECOVERY, told, of=self.run_ids[:-1])
        submitter.forget()
        return submitter.sent

    def _send(self, submitter: Submitter) -> None:
        """Submits as Luigi's tasks: one a step, in the order of the ports. A deaf scheduler is found out first."""
        if self._request.reference_files:
            # A reference is one job without a workflow.
            submitter.begin()
            self.run_ids.append(submitter.run_id)
            submitter.submit_step(self._request.graph.names[0])
            return
        if self._luigi is not None:
            self._luigi.close()
        try:
            self._luigi = _luigi_adapter(self._request, submitter)
        except OSError as error:
            place = self._store.url_of(layout.run_folder(submitter.run_id))
            raise StoreFailed(f"{place} cannot be written: {error.strerror}. Check the folder of the store.") from error
        submitter.begin()
        self.run_ids.append(submitter.run_id)
        self._luigi.submit_all()

    def _follows(self, found: Look) -> None:
        self.run_ids.extend(adopt(found.live, self.run_ids))

    def _follow(self, found: Look, jobs: Sequence[Submission], listener: Listener) -> None:
        self._watch(found, jobs).until_over(Together(self._hearers(listener)))

    def _watch(self, found: Look, jobs: Sequence[Submission]) -> Watch:
        return watching(
            found.plan,
            self.backend,
            jobs,
            live=found.inventory.live,
            runs=found.live,
            settings=self._request.settings.watch,
            sleep=self._sleep,
            clock=self._clock,
        )

    def _judge(self, plan: Plan, jobs: Sequence[Submission]) -> Sequence[FailedCell]:
        """Closes the runs of jobs that have ended; the cells that this wave counted on and that are not done.

        A live job may hold cells that it could not do, for what they read is made again: a later wave takes those.
        """
        verdict = judge(self._request.graph, self._store, self.backend, jobs)
        self._write_ends(verdict, jobs)
        counted = plan.under_way() if verdict.failed else frozenset()
        return [cell for cell in verdict.failed if (cell.step, cell.sample) in counted]

    def _sort(self, ended: Sequence[FailedCell], failed: list[FailedCell], listener: Listener) -> list[FailedCell]:
        """Adds to `failed` what stays so, and returns what the next wave sends again."""
        found = sort_failures(self._request.graph, ended, self._policy(ended, go_on=self._rounds > 0))
        failed.extend(found.lasting)
        self._failed |= {(cell.step, cell.sample): cell for cell in found.lasting}
        if found.again:
            self._rounds -= 1
            self._remedies |= found.remedies
            lines = summary(found.again, found.remedies)
            self._again += lines
            for hearer in self._hearers(listener):
                hearer.again(lines)
        return list(found.again)

    def _policy(self, failed: Sequence[FailedCell], *, go_on: bool = True) -> Policy:
        """What may be done about failed cells; with `go_on` false, nothing."""
        settings = self._request.settings
        definitions = configured_definitions(self._request.graph, settings)
        hungry = any(cell.reason is EndReason.OUT_OF_MEMORY for cell in failed)
        return Policy(
            active=go_on and settings.recovery.rounds > 0,
            memory_factor=settings.recovery.memory_factor,
            memory_cap_mb=memory_cap(settings, self.backend) if hungry else 0,
            queue=settings.backend.queue,
            on_demand_queue=settings.backend.on_demand_queue,
            defined_mb={step: resources(definition)[1] for step, definition in definitions.items()},
        )

    def _known_remedies(self, plan: Plan) -> Mapping[tuple[str, str], Remedy]:
        """Remedies of cells that are about to run: of this command's waves, and of what failed in earlier runs."""
        if not plan.jobs or not self._request.settings.recovery.rounds:
            return {}
        if self._past is None:
            self._past = past_failures(self._store)
        return {**remembered(self._past, plan.under_way, self._policy(self._past)), **self._remedies}

    def _end(self, over: Sequence[LiveRun]) -> bool:
        """Closes runs whose jobs have all ended while nobody watched; whether some of their cells may go again."""
        failed: list[FailedCell] = []
        for live in over:
            of_run(live.run_id)
            verdict = judge(self._request.graph, self._store, self.backend, live.submissions)
            self._write_ends(replace(verdict, done={live.run_id: 0, **verdict.done}), live.submissions)
            failed += [cell for cell in verdict.failed if cell.step in self._request.graph.names]
        return any(map(self._policy(failed).remedy, failed)) if failed else False

    def _write_ends(self, verdict: Verdict, jobs: Sequence[Submission]) -> None:
        # Before the runs are taken off the live ones: who finds a run there that is over does all of this again.
        close_retirements(self._store)
        for run_id, done in verdict.done.items():
            write_failed(self._store, run_id, verdict.failed)
            spent = told_spent(self._store, run_id, jobs, self._request.settings)
            write_end(self._store, run_id, done=done, failed=verdict.failed_of(run_id), spent=spent)


def _luigi_adapter(request: Request, submitter: Submitter) -> LuigiAdapter:
    """Luigi's side of one submission."""
    folder = request.store.path_of(layout.run_folder(submitter.run_id))
    luigi = request.settings.luigi
    return LuigiAdapter(
        request.graph,
        run_id=submitter.run_id,
        submit=submitter.submit_step,
        submitted=submitter.is_submitted,
        tracking_url=request.store.url_of(layout.run_folder(submitter.run_id)),
        host=luigi.scheduler_host or None,
        port=luigi.scheduler_port,
        log_folder=folder / "luigi" if folder else None,
    )
