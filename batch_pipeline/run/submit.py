"""Sends the jobs of a plan, one call each, intent before call: an idempotent submission, whatever is killed when.

First of all, what is made again and all below it is retired (`records.receipts`). The order for each job is: rows and
header of its manifest, intent, SubmitJob, native id. A driver that dies between
any two of these leaves a state that the next one can read (`run.live`). When the backend cannot say whether a job is
queued, it is looked up by its name before it is sent again.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import Any, Final

from batch_pipeline.backends.base import After, Backend, JobRequest
from batch_pipeline.backends.definitions import resources
from batch_pipeline.backends.limits import check_all, largest_definitions
from batch_pipeline.backends.payload import (
    SAMPLES_FILE,
    RunContext,
    needs_list_file,
    request_of,
    samples_of,
    with_digests,
)
from batch_pipeline.log import Facts, of_run
from batch_pipeline.pipeline.plan import Edge, Inventory, PlannedJob
from batch_pipeline.records.events import Listener
from batch_pipeline.records.history import Happened, append_if_possible
from batch_pipeline.records.manifests import write_manifest
from batch_pipeline.records.origin import ProvenanceReader
from batch_pipeline.records.receipts import retire, with_retired
from batch_pipeline.records.record import new_run_id, now, write_end
from batch_pipeline.records.record_writing import BegunRun, begun_run, write_definitions, write_record
from batch_pipeline.records.submissions import Submission
from batch_pipeline.run import bundle as bundles
from batch_pipeline.run.beyond import Reading
from batch_pipeline.run.cancel import carry_out
from batch_pipeline.run.context import context_of
from batch_pipeline.run.live import LOOK_SECONDS, find_with_retries, record_sent
from batch_pipeline.run.local_capacity import require_capacity
from batch_pipeline.run.lock import DriverLock
from batch_pipeline.run.orders import read_orders
from batch_pipeline.run.owners import own
from batch_pipeline.run.snapshot import Snapshot
from batch_pipeline.run.widths import StepWidth, names_in_use, read_widths, remove_widths, write_widths
from batch_pipeline.wire import layout
from batch_pipeline.wire.errors import BackendFailed, BatchPipelineError, StoreFailed, SubmissionUnknown

_LOG: Final = logging.getLogger(__name__)


class Submitter:
    """The submission of one run. Made under the driver's lock; `begin` first, then the steps in order.

    A run that ends before anything is queued is closed: nothing of it is left to be followed, or to be cancelled.
    """

    def __init__(
        self,
        snapshot: Snapshot,
        *,
        reading: Reading,
        backend: Backend,
        lock: DriverLock,
        listener: Listener,
        sleep: Callable[[float], None] = time.sleep,
        first: Submitter | None = None,
    ) -> None:
        """Packs the code; writes nothing. Raises InvalidPipeline for definitions or code that cannot be read.

        `first` sent the first wave of the plan: a later wave has its code, definitions and inventory, whatever was
        edited since.
        """
        request = self._request = snapshot.request
        self._plan = snapshot.plan
        self._inventory: Inventory = first._inventory if first else snapshot.inventory
        self._reading = reading
        self._reference = snapshot.reference
        self._backend = backend
        self._lock = lock
        self._listener = listener
        self._sleep = sleep
        self._first = first
        self._provenance = ProvenanceReader(request.graph.root)
        self.run_id = new_run_id()
        self._bundle: bundles.Bundle = first._bundle if first else bundles.make_bundle(request.graph)
        self._context: RunContext = (
            replace(first._context, run_id=self.run_id)
            if first
            else context_of(request, reference=self._reference, run_id=self.run_id, bundle=self._bundle)
        )
        if first is None and (widths := self._context.widths):
            in_use = names_in_use(request.store, snapshot.live_runs, widths)
            self._context = replace(self._context, widths={**widths, **in_use})
        self._begun: BegunRun | None = None
        #: What was sent so far, in order.
        self.sent: list[Submission] = []
        self._native: dict[str, str] = {}
        #: Nothing is queued, for sure.
        self._is_unsent = True

    def begin(self) -> None:
        """Writes bundle and run record, and retires receipts; the next driver knows of the run from here on.

        Raises InvalidPlan and InvalidUse, with nothing written, for what cannot be run.
        """
        request, store, bundle = self._request, self._request.store, self._bundle
        definitions = self._context.definitions
        wanted = {job.step for job in self._plan.jobs}
        require_capacity(request.settings, largest_definitions(definitions, self._plan), wanted)
        check_all(self._plan, self._context)
        if not request.reference_files:
            own(store, request.graph, wanted, shared=request.share_steps)
        bundles.upload(bundle, store)
        begun = self._begun = self._record()
        write_record(store, begun, request, self._plan)
        _LOG.info("recorded %s", Facts(run=self.run_id, jobs=len(self._plan.jobs), steps=",".join(sorted(wanted))))
        of_run(self.run_id)
        with self._telling():
            self._make_widths(wanted)
            pinned = self._backend.prepare([definition for step, definition in definitions.items() if step in wanted])
            write_definitions(store, self.run_id, definitions, pinned)
            self._inventory = with_retired(self._inventory, retire(store, self.run_id, self._plan, self._reading))
        self._listener.run_began(self.run_id, store.url_of(layout.run_folder(self.run_id)))

    def _make_widths(self, steps: Collection[str]) -> None:
        """Records the widths of the steps that are sent, then makes them; of a later wave as they are by now."""
        names = {step: name for step, name in self._context.widths.items() if step in steps}
        if not names:
            return
        store, graph = self._request.store, self._request.graph
        now_in_use = read_widths(store, self._first.run_id) if self._first else {}
        widths = {
            step: now_in_use.get(step) or StepWidth(name=name, cells=graph[step].max_parallel or 1)
            for step, name in names.items()
        }
        write_widths(store, self.run_id, widths)
        for step, width in widths.items():
            self._backend.set_width(width.name, width.cells)
            _LOG.info("width made %s", Facts(step=step, name=width.name, cells=width.cells))

    def _record(self) -> BegunRun:
        """The record of this run; of a later wave that of the first one, as another run."""
        if self._first and self._first._begun:
            return self._first._begun.again(self._plan, self.run_id)
        request, bundle = self._request, self._bundle
        origin = self._provenance.read(self._backend, [request.graph.root / name for name in bundle.names])
        return begun_run(request, self._plan, self.run_id, self._reference, bundle.sha256, origin)

    def submit_step(self, step: str) -> None:
        """Sends the jobs of one step that were not sent yet. Raises SubmissionRefused, BackendFailed, StoreFailed."""
        for job in self._plan.jobs:
            if job.step == step and job.name not in self._native:
                with self._telling(job):
                    self._lock.renew()
                    self._submit(job)

    def forget(self) -> None:
        """Lets go of what only submitting needs, once everything is sent."""
        self._inventory = Inventory()

    def is_submitted(self, step: str) -> bool:
        """Whether all jobs of a step are sent; so it is for a step without any."""
        return all(job.name in self._native for job in self._plan.jobs if job.step == step)

    @contextmanager
    def _telling(self, job: PlannedJob | None = None) -> Iterator[None]:
        """Adds to the run's history what stops its submission."""
        about: dict[str, Any] = {"job": job.name, "step": job.step} if job else {}
        about |= {"jobs_sent": len(self.sent), "jobs_planned": len(self._plan.jobs)}
        place = f"{job.name}: " if job else ""
        try:
            yield
        except BatchPipelineError as error:
            message, kind = f"{place}{error.message}", type(error).__name__
            append_if_possible(
                self._request.store, self.run_id, Happened.SUBMISSION_FAILED, message, error=kind, **about
            )
            self._close_unsent()
            raise
        except KeyboardInterrupt:
            message = f"{place}Ctrl-C was pressed."
            append_if_possible(self._request.store, self.run_id, Happened.SUBMISSION_INTERRUPTED, message, **about)
            self._close_unsent()
            raise

    def _close_unsent(self) -> None:
        """Closes the run if nothing of it is queued, while another error is on its way."""
        if not self._is_unsent:
            return
        try:
            remove_widths(self._request.store, self._backend, self.run_id)
            write_end(self._request.store, self.run_id, done=0, failed=0)
        except StoreFailed:
            pass  # The next driver finds it live, without jobs, and closes it.

    def _submit(self, job: PlannedJob) -> None:
        store = self._request.store
        request = request_of(self._plan, job, self._context, self._after(job.after))
        intent = self._intent(job, request)
        request = self._with_lists(job, request, memory_mb=intent.memory_mb)
        store.put_json(layout.submission(self.run_id, job.name, "intent.json"), asdict(intent))
        submission = replace(intent, native_id=self._send(request))
        record_sent(store, submission)
        self._native[job.name] = submission.native_id
        self.sent.append(submission)
        about = {"job": job.name, "step": job.step, "native_id": submission.native_id, "size": job.size}
        _LOG.info("submitted %s", Facts(**about, queue=request.queue, memory_mb=intent.memory_mb, after=len(job.after)))
        # Whoever cancels the run meanwhile writes that down before looking at its jobs, this one perhaps not yet.
        carry_out(store, self._backend, read_orders(store, self.run_id), submission)
        self._listener.submitted(self.run_id, job.step, job.name, submission.native_id, job.size)

    def _intent(self, job: PlannedJob, request: JobRequest) -> Submission:
        """The note that a job is about to be sent."""
        return Submission(
            run_id=self.run_id,
            job=job.name,
            step=job.step,
            native_id="",
            queue=request.queue,
            native_name=request.name,
            join=job.join,
            size=job.size,
            memory_mb=request.memory_mb or resources(request.definition)[1],
            sent_at=now(),
        )

    def _with_lists(self, job: PlannedJob, request: JobRequest, *, memory_mb: int) -> JobRequest:
        """Writes what the job's containers read, its samples where they are many and its manifest; adds digests."""
        if needs_list_file(request):
            names = "".join(f"{sample}\n" for sample in samples_of(self._plan, job))
            self._request.store.put(layout.submission(self.run_id, job.name, SAMPLES_FILE), names.encode())
        if job.join:
            return request
        header, rows = write_manifest(
            self._request.store,
            self.run_id,
            self._plan,
            job,
            self._inventory,
            reference=self._reference,
            bundle_sha256=self._context.bundle_sha256,
            resources=(resources(request.definition)[0], memory_mb),
            log_excerpt=self._request.settings.logs.mode == "store",
        )
        return with_digests(request, manifest=header, rows=rows)

    def _send(self, request: JobRequest) -> str:
        was_unsent, self._is_unsent = self._is_unsent, False
        try:
            return self._backend.submit(request)
        except SubmissionUnknown as error:
            _LOG.info("in doubt %s", Facts(name=request.name, error=error.message))
            self._sleep(LOOK_SECONDS)
            native_id = find_with_retries(self._backend, request.name, request.queue, self._sleep)
            if native_id is not None:
                _LOG.info("looked up in doubt %s", Facts(name=request.name, native_id=native_id, result="queued"))
                return native_id
            _LOG.info("looked up in doubt %s", Facts(name=request.name, result="not queued, sent again"))
            # Several looks did not find it: it was not taken, and once more is safe. A second doubt goes to the user.
            return self._backend.submit(request)
        except BackendFailed:
            self._is_unsent = was_unsent
            raise

    def _after(self, edges: Sequence[Edge]) -> list[After]:
        return [
            After(
                native_id=edge.job if edge.live else self._native[edge.job],
                index_by_index=edge.index_by_index,
            )
            for edge in edges
        ]
