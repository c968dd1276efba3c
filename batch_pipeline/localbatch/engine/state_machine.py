"""Decides which child runs when: a state machine without processes, files or a clock.

Each method takes the time, changes the state and leaves in `stops` what must be stopped; `schedule` returns what must
be started. The promises, which the property tests hold: a child never runs twice at once; a child starts only after
what it depends on has succeeded; the vCPUs and the memory of what runs never exceed the capacity, nor the units that it
holds those of a consumable resource; every job ends if every started child ends and no units are spent. When a child
ends, the work for each dependent child is constant.

The queue is first in, first out and its head waits for room, as in AWS. A job that could never fit is annotated like
AWS does; unlike AWS, neither it nor a child that waits for units of a consumable resource blocks those behind it.

(Longer than most modules: every method keeps the same promises about the same state, and is read with the others.)
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from batch_pipeline.localbatch.engine.job import (
    FAILED,
    NONE,
    PENDING,
    RUNNABLE,
    RUNNING,
    STARTING,
    SUCCEEDED,
    TERMINAL,
    AttemptOutcome,
    BatchJob,
    Cancellation,
    Dependency,
    JobSpec,
    StoredChild,
)
from batch_pipeline.localbatch.engine.ready import Ready
from batch_pipeline.localbatch.engine.retry import (
    CHILD_FAILED,
    CONTAINER_EXITED,
    DEPENDENCY_FAILED,
    HELD,
    TIMED_OUT,
    TOO_LARGE,
    tries_again,
)
from batch_pipeline.localbatch.engine.units import Units
from batch_pipeline.wire.contract import Variable


@dataclass(kw_only=True, slots=True, eq=False)
class Run:
    """An attempt that is starting or running."""

    job: BatchJob
    index: int
    #: Counts from 1.
    attempt: int
    #: When its time is up.
    deadline_ms: int | None = None
    #: Why it is being stopped: the status reason that it will have.
    stopped_for: str | None = None
    #: Nothing of it runs any more, and its room is free.
    has_left: bool = False

    @property
    def key(self) -> tuple[str, int]:
        """Identifies the child: no two of its attempts run at once."""
        return self.job.spec.id, self.index


class Engine:
    """The jobs of one machine and what may run of them."""

    def __init__(self, *, vcpus: int, memory_mib: int) -> None:
        #: Thousandths of a vCPU, MiB.
        self.capacity = (vcpus * 1000, memory_mib)
        self.used = (0, 0)
        self.units = Units()
        self.jobs: dict[str, BatchJob] = {}
        self.running: dict[tuple[str, int], Run] = {}
        #: What the caller must stop, in order; it empties the list.
        self.stops: list[Run] = []
        #: Children and jobs that changed for good since the caller last emptied them.
        self.changed: dict[tuple[str, int], None] = {}
        self.changed_jobs: dict[str, None] = {}
        self._ready: dict[str, Ready] = {}
        self._priority: dict[str, int] = {}
        #: Queues that do not serve.
        self._idle: frozenset[str] = frozenset()
        self._order: list[Ready] = []
        self._settled: list[tuple[BatchJob, int]] = []

    def set_queue(self, name: str, priority: int, *, serves: bool = True) -> None:
        """Makes a job queue known, or changes its priority; a higher one is served first.

        From one that does not serve nothing is started; what runs of it goes on.
        """
        self._ready.setdefault(name, Ready())
        self._priority[name] = priority
        self._idle = self._idle - {name} if serves else self._idle | {name}
        served = [key for key in self._ready if key not in self._idle]
        self._order = [self._ready[key] for key in sorted(served, key=lambda key: -self._priority[key])]

    def annotate(self, name: str, reason: str | None) -> None:
        """Says why the head of a queue is not started, as AWS does of the head alone."""
        head = self._ready[name].head()
        if head:
            head[0].status_reason = reason

    def front(self, name: str) -> Iterator[tuple[BatchJob, int, int]]:
        """The RUNNABLE children of a queue in their order, each with since when it is at its place."""
        return self._ready[name].in_order()

    def vcpus_of(self, name: str) -> float:
        """vCPUs that a queue's jobs have now."""
        return sum(run.job.spec.vcpus for run in self.running.values() if run.job.spec.queue == name) / 1000

    # Submission and recovery.

    def submit(self, spec: JobSpec, now: int) -> BatchJob:
        """Takes a job in; its dependencies must be known jobs."""
        job = BatchJob(spec=spec, number=len(self.jobs))
        self.jobs[spec.id] = job
        self.changed_jobs[spec.id] = None
        self._connect(job, now)
        return job

    def restore(
        self,
        spec: JobSpec,
        children: Iterable[StoredChild],
        *,
        cancellation: Cancellation | None,
        status_reason: str | None,
    ) -> BatchJob:
        """Takes a stored job in again; it stands still until `resume`, so that running attempts can be adopted."""
        job = BatchJob(spec=spec, number=len(self.jobs), cancellation=cancellation, status_reason=status_reason)
        self.jobs[spec.id] = job
        for child in children:
            job.put(child)
        if job.ended:
            job.stopped_ms = max(job.stopped)
        return job

    def resume(self, now: int) -> None:
        """Goes on with what was restored; jobs were restored in the order of their submission."""
        for job in self.jobs.values():
            if not job.ended:
                self._connect(job, now)
        for run in self.running.values():
            cancellation = run.job.cancellation_of(run.index)
            if cancellation and cancellation.terminate:
                self.stop(run, cancellation.reason)

    def _connect(self, job: BatchJob, now: int) -> None:
        # On resume too: a killed server may have stored the job, and not yet that it failed.
        if job.spec.fails_on_submit:
            job.status_reason = job.spec.fails_on_submit
            for index in list(job.indexes_in(PENDING)):
                self._fail(job, index, job.spec.fails_on_submit, now)
            self._propagate(now)
            return
        for dependency in job.spec.dependencies:
            self._wait_for(job, dependency, now)
        if job.spec.sequential:
            for index in range(1, job.spec.count):
                job.blocked[index] += job.states[index - 1] != SUCCEEDED
            for index in job.indexes_in(FAILED):
                self._settled.append((job, index))
        if not job.waiting:
            self._release(job, now)
        self._propagate(now)

    def _wait_for(self, job: BatchJob, dependency: Dependency, now: int) -> None:
        upstream = self.jobs[dependency.job_id]
        if dependency.each:
            upstream.dependents_each.append(job)
            for index in range(job.spec.count):
                job.blocked[index] += upstream.states[index] != SUCCEEDED
            for index in upstream.indexes_in(FAILED):
                self._dependency_failed(job, index, now)
            return
        child = dependency.index
        state = upstream.state if child is None else upstream.states[child]
        if state == FAILED:
            self._dependency_failed_whole(job, now)
        elif state != SUCCEEDED:
            job.waiting += 1
            waiting = upstream.dependents if child is None else upstream.dependents_of_child.setdefault(child, [])
            waiting.append(job)

    def _release(self, job: BatchJob, now: int) -> None:
        """Makes those children RUNNABLE that wait for nothing (any more)."""
        if (
            job.counts[PENDING] == job.spec.count
            and not any(job.blocked)
            and not job.cancellation
            and not job.cancellations
        ):
            self._release_all(job, now)
            return
        for index in list(job.indexes_in(PENDING)):
            if not job.blocked[index]:
                self._make_runnable(job, index, now)

    def _release_all(self, job: BatchJob, now: int) -> None:
        count = job.spec.count
        job.states = bytearray([RUNNABLE]) * count
        job.counts[PENDING], job.counts[RUNNABLE] = 0, count
        job.counts_changed_ms = now
        if self._fits_host(job):
            self._ready[job.spec.queue].append_all(job, now)

    def _make_runnable(self, job: BatchJob, index: int, now: int) -> None:
        cancellation = job.cancellation_of(index)
        if cancellation:
            self._fail(job, index, cancellation.reason, now)
            return
        job.move(index, RUNNABLE, now)
        if self._fits_host(job):
            self._ready[job.spec.queue].append(job, index, now)

    def _fits_host(self, job: BatchJob) -> bool:
        spec = job.spec
        if spec.vcpus <= self.capacity[0] and spec.memory_mib <= self.capacity[1] and not spec.impossible:
            return True
        job.status_reason = TOO_LARGE
        return False

    # Starting.

    def schedule(self, now: int) -> list[Run]:
        """Starts what fits: returns the attempts to start, now STARTING."""
        runs: list[Run] = []
        for ready in self._order:
            while head := ready.head(self.units.suffice):
                job, index = head
                vcpus, memory = self.used[0] + job.spec.vcpus, self.used[1] + job.spec.memory_mib
                if vcpus > self.capacity[0] or memory > self.capacity[1]:
                    self._say_who_holds(job)
                    return runs
                ready.pop(job, now)
                runs.append(self._begin(job, index, now))
        return runs

    def _say_who_holds(self, job: BatchJob) -> None:
        """Notes the other stores whose jobs take the room that a job waits for."""
        stores = {run.job.spec.environment.get(Variable.STORE, "") for run in self.running.values()}
        others = sorted(store or "no store" for store in stores - {job.spec.environment.get(Variable.STORE, "")})
        if others and (job.status_reason or HELD).startswith(HELD):
            job.status_reason = f"{HELD} {', '.join(others)}."

    def _begin(self, job: BatchJob, index: int, now: int) -> Run:
        self.used = (self.used[0] + job.spec.vcpus, self.used[1] + job.spec.memory_mib)
        self.units.take(job.spec.consumes)
        self._archive(job, index)
        if job.status_reason and job.status_reason.startswith(HELD):
            job.status_reason = None
        job.tries[index] += 1
        job.move(index, STARTING, now)
        run = Run(job=job, index=index, attempt=job.tries[index])
        self.running[run.key] = run
        return run

    def _archive(self, job: BatchJob, index: int) -> None:
        """Puts the last attempt with the earlier ones."""
        last = job.last_attempt(index)
        if last:
            job.earlier.setdefault(index, []).append(last)
        job.started[index] = job.stopped[index] = job.exits[index] = NONE
        job.reason_ids[index] = 0

    def adopt(self, job: BatchJob, index: int, attempt: int, started_ms: int, now: int) -> Run:
        """Notes an attempt that was already running when the engine was restored, whatever room there is."""
        run = self._begin(job, index, now)
        job.tries[index] = run.attempt = attempt
        self.began(run, started_ms)
        return run

    def began(self, run: Run, now: int) -> None:
        """The attempt's process runs: STARTING becomes RUNNING and its time limit begins."""
        run.job.started[run.index] = now
        run.job.move(run.index, RUNNING, now)
        if run.job.spec.timeout_seconds is not None:
            run.deadline_ms = now + 1000 * run.job.spec.timeout_seconds

    # Ending.

    def leave(self, run: Run) -> None:
        """An attempt will end, and nothing of it runs any more: its room is free."""
        run.has_left, run.deadline_ms = True, None
        self._give_room(run)

    def _give_room(self, run: Run, *, has_run: bool = True) -> None:
        spec = run.job.spec
        self.units.free(spec.consumes, spent=has_run)
        self.used = (self.used[0] - spec.vcpus, self.used[1] - spec.memory_mib)

    def end(self, run: Run, outcome: AttemptOutcome, now: int) -> None:
        """An attempt has ended and nothing of it runs any more."""
        job, index = run.job, run.index
        del self.running[run.key]
        cancellation = job.cancellation_of(index)
        if cancellation and cancellation.terminate and run.stopped_for is None:
            run.stopped_for = cancellation.reason  # it was told so, and died with the server before this one
        if not run.has_left:
            self._give_room(run)
        if job.started[index] == NONE or outcome.started_ms is not None:
            job.started[index] = outcome.started_ms or now
        job.stopped[index] = outcome.stopped_ms or now
        job.exits[index] = NONE if outcome.exit_code is None else outcome.exit_code
        reason = run.stopped_for or outcome.status_reason or CONTAINER_EXITED
        job.set_status_reason(index, reason, outcome.reason)
        self._decide(run, outcome, now)
        self._propagate(now)

    def _decide(self, run: Run, outcome: AttemptOutcome, now: int) -> None:
        job, index = run.job, run.index
        if outcome.exit_code == 0 and not run.stopped_for:
            self._settle(job, index, SUCCEEDED, now)
        elif run.stopped_for or not tries_again(job.spec, run.attempt, outcome):
            self._settle(job, index, FAILED, now)
        elif cancellation := job.cancellation_of(index):
            self._fail(job, index, cancellation.reason, now)
        else:
            self.changed[run.key] = None
            job.move(index, RUNNABLE, now)
            self._ready[job.spec.queue].prepend(job, index, now)

    def give_back(self, run: Run, now: int) -> None:
        """An attempt that was handed out never began: it is not counted."""
        job, index = run.job, run.index
        del self.running[run.key]
        self._give_room(run, has_run=False)
        job.recall(index)
        if cancellation := job.cancellation_of(index):
            self._fail(job, index, cancellation.reason, now)
            self._propagate(now)
        else:
            job.move(index, RUNNABLE, now)
            self._ready[job.spec.queue].prepend(job, index, now)

    def _fail(self, job: BatchJob, index: int, reason: str, now: int) -> None:
        """Ends a child that does not run."""
        self._archive(job, index)
        if not job.tries[index]:
            job.stopped[index] = now
        job.set_status_reason(index, reason, None)
        self._settle(job, index, FAILED, now)

    def _settle(self, job: BatchJob, index: int, state: int, now: int) -> None:
        job.move(index, state, now)
        self.changed[(job.spec.id, index)] = None
        self._settled.append((job, index))

    def _propagate(self, now: int) -> None:
        """Tells the dependents; a list instead of recursion, for a SEQUENTIAL array is 10,000 deep."""
        while self._settled:
            job, index = self._settled.pop()
            won = job.states[index] == SUCCEEDED
            for dependent in job.dependents_each:
                self._tell_child(dependent, index, won, now)
            if job.spec.sequential and index + 1 < job.spec.count:
                self._tell_child(job, index + 1, won, now)
            for dependent in job.dependents_of_child.pop(index, ()):
                self._tell_whole(dependent, won, now)
            if job.ended and job.stopped_ms == NONE:
                self._end_job(job, now)

    def _tell_child(self, job: BatchJob, index: int, won: bool, now: int) -> None:
        if not won:
            self._dependency_failed(job, index, now)
        elif job.blocked[index]:
            job.blocked[index] -= 1
            if not job.blocked[index] and not job.waiting and job.states[index] == PENDING:
                self._make_runnable(job, index, now)

    def _tell_whole(self, job: BatchJob, won: bool, now: int) -> None:
        if not won:
            self._dependency_failed_whole(job, now)
            return
        job.waiting -= 1
        if not job.waiting:
            self._release(job, now)

    def _dependency_failed(self, job: BatchJob, index: int, now: int) -> None:
        if job.states[index] == PENDING:
            cancellation = job.cancellation_of(index)
            self._fail(job, index, cancellation.reason if cancellation else DEPENDENCY_FAILED, now)

    def _dependency_failed_whole(self, job: BatchJob, now: int) -> None:
        job.status_reason = job.cancellation.reason if job.cancellation else DEPENDENCY_FAILED
        for index in list(job.indexes_in(PENDING)):
            self._dependency_failed(job, index, now)

    def _end_job(self, job: BatchJob, now: int) -> None:
        job.stopped_ms = max(now, max(job.stopped))
        won = job.state == SUCCEEDED
        if not won and job.status_reason in (None, TOO_LARGE):
            job.status_reason = job.cancellation.reason if job.cancellation else CHILD_FAILED
        if won:
            job.status_reason = None
        self.changed_jobs[job.spec.id] = None
        for dependent in job.dependents:
            self._tell_whole(dependent, won, now)
        job.dependents.clear()

    # Cancelling and time.

    def cancel(self, job: BatchJob, index: int | None, cancellation: Cancellation, now: int) -> None:
        """Cancels a child or a whole job; with `cancellation.terminate` what runs is stopped too.

        A PENDING child ends when its dependencies have: until then it is only marked, as in AWS. What has ended stays
        as it is.
        """
        if (job.state if index is None else job.states[index]) in TERMINAL:
            return
        if index is None:
            job.cancellation = cancellation
            self.changed_jobs[job.spec.id] = None
        else:
            job.cancellations[index] = cancellation
            self.changed[(job.spec.id, index)] = None
        for each in range(job.spec.count) if index is None else (index,):
            state = job.states[each]
            if state == RUNNABLE:
                self._fail(job, each, cancellation.reason, now)
            elif cancellation.terminate and state in (STARTING, RUNNING):
                self.stop(self.running[(job.spec.id, each)], cancellation.reason)
        self._propagate(now)

    def stop(self, run: Run, reason: str) -> None:
        """Asks for an attempt's end; it will be FAILED for this reason."""
        if run.stopped_for is None:
            run.stopped_for = reason
            self.stops.append(run)

    def stop_overdue(self, now: int) -> None:
        """Stops what runs longer than its job's timeout."""
        for run in self.running.values():
            if run.deadline_ms is not None and run.deadline_ms <= now:
                self.stop(run, TIMED_OUT)

    def next_deadline(self) -> int | None:
        """When `stop_overdue` is worth calling next."""
        return min((r.deadline_ms for r in self.running.values() if r.deadline_ms and not r.stopped_for), default=None)

    def live(self) -> Iterator[BatchJob]:
        """The jobs that have not ended."""
        return (job for job in self.jobs.values() if not job.ended)
