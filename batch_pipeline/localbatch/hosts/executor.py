"""Runs attempts in a pool of warm workers, and watches over them: memory, grace periods, deaths.

A worker is a process of its jobs' own interpreter, with their search paths and umask, and serves no jobs of another
toolchain. One that has loaded a bundle serves children of that bundle and plain commands; for another bundle an idle
worker makes room. Each attempt has a worker for itself, so what carries the worker's mark is what the attempt holds.

(A little longer than most modules: who watches a worker has its attempt, its limits and its deadline at hand.)
"""

from __future__ import annotations

import asyncio
import shutil
import signal
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from batch_pipeline.localbatch.api.logs import LogFiles
from batch_pipeline.localbatch.engine.job import AttemptOutcome, Document
from batch_pipeline.localbatch.engine.retry import HOST_LOST, OUT_OF_MEMORY
from batch_pipeline.localbatch.engine.state_machine import Run
from batch_pipeline.localbatch.hosts.containers import Containers
from batch_pipeline.localbatch.hosts.execution import AttemptListener, task_of
from batch_pipeline.localbatch.hosts.journal import Journal, Key, outcome_of, read_journal
from batch_pipeline.localbatch.hosts.sealing import Sealer
from batch_pipeline.localbatch.hosts.workers import WorkerProcess
from batch_pipeline.wire.contract import Variable
from batch_pipeline.wire.processes import (
    Limit,
    ProcessIdentity,
    find,
    find_marked,
    is_alive,
    kill_all,
    memory_kib,
    send,
    started_by,
)
from batch_pipeline.wire.toolchain import Toolchain

# https://docs.aws.amazon.com/batch/latest/userguide/job_timeouts.html: SIGTERM, then SIGKILL after 30 seconds.
GRACE_SECONDS = 30.0
#: Memory is looked at this often, in attempts that have run for twice as long.
SAMPLE_SECONDS = 0.5
#: How soon to look again for processes that were killed, or whether an adopted worker has ended.
_SOON = 0.02
#: Workers that start when jobs are expected: more would be in each other's way on a machine with two processors.
EXPECTED_WORKERS = 2
#: Exit codes from here on are signals.
SIGNALLED = 128


@dataclass(kw_only=True, slots=True, eq=False)
class Adopted:
    """A worker of a dead server with the attempt that it still runs."""

    identity: ProcessIdentity
    #: See `Journal.mark`.
    mark: int
    journal: Journal
    run: Run


class ProcessExecutor:
    """Runs attempts as processes. See `execution.Executor`."""

    def __init__(
        self,
        *,
        loop: asyncio.AbstractEventLoop,
        folder: Path,
        logs: LogFiles,
        listener: AttemptListener,
        toolchain: Toolchain,
        passed: Mapping[str, str],
        idle_workers: int,
        grace_seconds: float = GRACE_SECONDS,
        containers: Containers | None = None,
        sweep: Callable[[], object] = lambda: None,
    ) -> None:
        self._loop = loop
        self._folder = folder
        self._logs = logs
        self._listener = listener
        #: Of jobs that bring none.
        self._toolchain = toolchain
        self._passed = dict(passed)
        self._idle_workers = idle_workers
        self._grace_seconds = grace_seconds
        #: Removes, without being waited for, the scratch of processes that were killed.
        self._sweep = sweep
        #: Where attempts run in containers: those.
        self._containers = containers
        self._idle: list[WorkerProcess] = []
        self._workers: set[WorkerProcess] = set()
        self._adopted: dict[Run, Adopted] = {}
        #: Journals of workers that have ended; removed when their content is in the database.
        self._spent: list[Path] = []
        self._watching = False
        self._sealer = Sealer(loop, listener.ended)

    # Starting attempts.

    def expect(self, toolchain: Toolchain) -> None:
        """See `Executor.expect`. Workers start, unless there is one of this toolchain."""
        if any(worker.toolchain == toolchain for worker in self._workers):
            return
        try:
            while len(self._workers) < self._idle_workers and len(self._idle) < EXPECTED_WORKERS:
                self._idle.append(self._new_worker("", toolchain))
        except OSError:
            pass  # The attempts end with the same error.

    def start(self, run: Run) -> None:
        """See `Executor.start`."""
        log, toolchain = self._logs.path(task_of(run)), run.job.spec.toolchain or self._toolchain
        bundle = "" if self._containers else run.job.spec.environment.get(Variable.FILE_SHA256, "")
        try:
            worker = self._worker_for(bundle, toolchain)
        except OSError as error:
            outcome = _cannot_start(f"{error.filename}: {error.strerror}")
            self._loop.call_soon(self._listener.ended, run, outcome)
            return
        if self._containers:
            worker.order(run, log, {}, self._containers.order(run, self._passed))
        else:
            worker.order(run, log, {**toolchain.variables, **self._passed})
        if worker.ready:
            self._listener.began(run)
        if not self._watching:
            self._watching = True
            self._loop.call_later(SAMPLE_SECONDS, self._watch)

    def _worker_for(self, bundle: str, toolchain: Toolchain) -> WorkerProcess:
        """An idle worker that fits, or a new one. Raises OSError when its interpreter cannot be started."""
        for fits in ((bundle,), ("",), tuple(worker.bundle for worker in self._idle if not bundle)):
            for worker in reversed(self._idle):
                if worker.bundle in fits and worker.toolchain == toolchain:
                    self._idle.remove(worker)
                    worker.bundle = worker.bundle or bundle
                    return worker
        if self._idle and len(self._workers) >= self._idle_workers:
            self._idle.pop(0).retire()
        return self._new_worker(bundle, toolchain)

    def _new_worker(self, bundle: str, toolchain: Toolchain) -> WorkerProcess:
        """Starts a worker. Raises OSError when its interpreter cannot be started."""
        worker = WorkerProcess(self._folder, toolchain, bundle, marked=not self._containers)
        self._workers.add(worker)
        self._loop.add_reader(worker.socket.fileno(), self._hear, worker)
        self._loop.add_reader(worker.death, self._bury, worker)
        return worker

    # Hearing from workers.

    def _hear(self, worker: WorkerProcess) -> None:
        messages = worker.messages()
        if messages is None:
            self._loop.remove_reader(worker.socket.fileno())
        for message in messages or ():
            if "done" in message:
                self._finish(worker, message["done"])
            else:
                worker.ready = True
                if worker.run:
                    self._listener.began(worker.run)

    def _finish(self, worker: WorkerProcess, done: Document) -> None:
        run, worker.run = worker.run, None
        self._idle.append(worker)
        if run:
            self._end(run, outcome_of(done))
        if len(self._idle) > self._idle_workers:
            self._idle.pop(0).retire()

    def _end(self, run: Run, outcome: AttemptOutcome) -> None:
        """The attempt has ended, or will when what it left is on the disk."""
        if outcome.seals:
            self._listener.left(run)
            self._sealer.add(run, outcome)
        else:
            self._listener.ended(run, outcome)

    def _bury(self, worker: WorkerProcess) -> None:
        """A worker has died: what it left behind is ended before its attempt counts as ended."""
        self._loop.remove_reader(worker.socket.fileno())
        self._loop.remove_reader(worker.death)
        self._workers.discard(worker)
        if worker in self._idle:
            self._idle.remove(worker)
        code = worker.reap()
        self._clear(worker, code)

    def _clear(self, worker: WorkerProcess, code: int) -> None:
        if not _kill(worker):
            self._loop.call_later(_SOON, self._clear, worker, code)
            return
        shutil.rmtree(worker.scratch, ignore_errors=True)
        self._spent.append(worker.journal)
        run, worker.run = worker.run, None
        if run:
            self._sweep()
            outcome = self._last_words(worker, run, code)
            self._without_container(run, lambda: self._end(run, outcome))

    def _without_container(self, run: Run, then: Callable[[], object]) -> None:
        """Calls when nothing is left of an attempt whose worker has died."""
        if self._containers:
            self._containers.remove(run, then)
        else:
            then()

    def _last_words(self, worker: WorkerProcess, run: Run, code: int) -> AttemptOutcome:
        """How the attempt of a dead worker ended: as it wrote down itself, or with it."""
        key = (run.job.spec.child_id(run.index), run.attempt)
        written = read_journal(worker.journal).ended.get(key)
        if written:
            return written
        if not worker.ready and code < SIGNALLED:
            return _cannot_start(f"{worker.toolchain.python} ended with exit code {code}; server.log says why")
        return AttemptOutcome(exit_code=code or 1, reason=OUT_OF_MEMORY if worker.out_of_memory else None)

    # Stopping attempts.

    def stop(self, run: Run) -> None:
        """See `Executor.stop`."""
        worker = self._worker(run)
        if worker:
            send(worker.identity, signal.SIGTERM)
        self._loop.call_later(self._grace_seconds, self._force, run)

    def _force(self, run: Run) -> None:
        worker = self._worker(run)
        if worker and self._containers:
            self._containers.kill(run, otherwise=lambda: _kill(worker))
        elif worker:
            _kill(worker)

    def _worker(self, run: Run) -> Adopted | WorkerProcess | None:
        """The worker that runs an attempt; None when it has ended."""
        return self._adopted.get(run) or next((worker for worker in self._workers if worker.run is run), None)

    # Watching memory.

    def _watch(self) -> None:
        busy = [worker for worker in self._workers if worker.run]
        if not busy:
            self._watching = False
            return
        began = time.thread_time()
        youngest = time.time() * 1000 - 2000 * SAMPLE_SECONDS
        long = [w for w in busy if w.run and 0 < w.run.job.started[w.run.index] < youngest]
        # Of a container the kernel itself sees to the memory.
        if long and not self._containers:
            self._check_memory(long)
        # On a machine with very many processes looking must not cost more than one part in a hundred of a processor;
        # on a busy one, where it takes long and costs little, it must not be seldom.
        pause = max(SAMPLE_SECONDS, 100 * (time.thread_time() - began))
        self._loop.call_later(pause, self._watch)

    @staticmethod
    def _check_memory(workers: list[WorkerProcess]) -> None:
        marked = find_marked(Limit.ATTEMPT, [worker.mark for worker in workers])
        for worker in workers:
            pids = marked[worker.mark] if worker.mark else find(started_by(worker.identity, 0))
            limit = worker.run.job.spec.memory_mib * 1024 if worker.run else 0
            if memory_kib(pids, exact=False) > limit and memory_kib(pids, exact=True) > limit > 0:
                worker.out_of_memory = True
                _kill(worker)

    # Recovery and the end.

    def sweep(self, running: Collection[Key]) -> None:
        """Ends the containers that a dead server left, but for those of attempts that a worker still runs."""
        if self._containers:
            self._containers.sweep(running)

    def adopt(self, adopted: Adopted) -> None:
        """Watches over an attempt that a dead server's worker still runs."""
        self._adopted[adopted.run] = adopted
        self._await(adopted)

    def _await(self, adopted: Adopted) -> None:
        if is_alive(adopted.identity) or not _kill(adopted):
            self._loop.call_later(_SOON, self._await, adopted)
            return
        del self._adopted[adopted.run]
        self.discard(adopted.journal.path)
        run = adopted.run
        self._sweep()
        key = (run.job.spec.child_id(run.index), run.attempt)
        journal = read_journal(adopted.journal.path)
        if key in journal.ended:
            self._end(run, journal.ended[key])
        elif key in journal.running:
            lost = AttemptOutcome(exit_code=None, status_reason=HOST_LOST)
            self._without_container(run, lambda: self._listener.ended(run, lost))
        else:
            self._listener.given_back(run)

    def discard(self, path: Path) -> None:
        """Notes that a journal and its worker's folder can go once its content is stored."""
        shutil.rmtree(path.with_suffix(""), ignore_errors=True)
        self._spent.append(path)

    def forget_spent(self) -> None:
        """Removes the journals of dead workers; what they say has been stored."""
        while self._spent:
            self._spent.pop().unlink(missing_ok=True)

    def close(self) -> None:
        """Lets idle workers go; busy ones finish their attempt, and a later server adopts them.

        Attempts that are to end end now: no server would be there at the end of their grace period.
        """
        for run in [*self._adopted, *(worker.run for worker in self._workers if worker.run)]:
            if run.stopped_for is not None:
                self._force(run)
        for worker in self._workers:
            self._loop.remove_reader(worker.socket.fileno())
            self._loop.remove_reader(worker.death)
            worker.socket.close()
        self._sealer.close()


def _cannot_start(why: str) -> AttemptOutcome:
    """How an attempt ends whose interpreter does not run: an environment that was removed, say."""
    reason = f"CannotStartContainerError: {why}"
    return AttemptOutcome(exit_code=None, status_reason="Task failed to start", reason=reason)


def _kill(worker: Adopted | WorkerProcess) -> bool:
    """Kills a worker and all that it started; True when there is none of it (any more)."""
    return kill_all(started_by(worker.identity, worker.mark))
