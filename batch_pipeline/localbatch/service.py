"""The embedded Batch without transport: answers requests, lets the engine decide, and has done what it decided.

Everything happens on one thread. After each request and each event `pump` runs: it stops and starts attempts, sets
the alarm for the next timeout, and has changes written within `FLUSH_MS`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from uuid import uuid4

from batch_pipeline.localbatch.api.definitions import MINIMUM_TIMEOUT_SECONDS
from batch_pipeline.localbatch.api.logs import Logs, LogSource
from batch_pipeline.localbatch.api.middleware import ApiMiddleware
from batch_pipeline.localbatch.api.model import ApiError, ApiRequest, Models
from batch_pipeline.localbatch.api.operations import Api
from batch_pipeline.localbatch.api.registry import COMPUTE_ENVIRONMENT, ResourceRegistry
from batch_pipeline.localbatch.engine.job import STATES, AttemptOutcome, BatchJob, Document
from batch_pipeline.localbatch.engine.state import NotStored, Storage, StoredJob
from batch_pipeline.localbatch.engine.state_machine import Engine, Run
from batch_pipeline.localbatch.hosts.execution import Clock, Executor
from batch_pipeline.localbatch.server_log import LOGGER
from batch_pipeline.wire.log_line import Facts

_LOG = LOGGER.getChild("service")
#: How long an end may be in a worker's journal only.
FLUSH_MS = 50

#: Operations after which changes are written before the answer goes out.
_WRITES = frozenset({"SubmitJob", "CancelJob", "TerminateJob", "CancelJobs", "TerminateJobs"})
#: What is answered when the state cannot be written; AWS has no such code.
_NO_STORAGE = "InsufficientStorageException"


@dataclass(frozen=True, kw_only=True, slots=True)
class HttpResponse:
    """An HTTP answer."""

    status: int
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)


class Batch:
    """AWS Batch on one machine."""

    def __init__(
        self,
        *,
        clock: Clock,
        storage: Storage,
        logs: LogSource,
        vcpus: int,
        memory_mib: int,
        minimum_timeout: int = MINIMUM_TIMEOUT_SECONDS,
    ) -> None:
        self.clock = clock
        self.engine = Engine(vcpus=vcpus, memory_mib=memory_mib)
        self.registry = ResourceRegistry(storage.save_document)
        self._storage = storage
        self._models = Models()
        self._api = Api(
            registry=self.registry,
            engine=self.engine,
            logs=Logs(logs, lambda: reversed(self.engine.jobs.values())),
            now_ms=clock.now_ms,
            save_job=storage.save_job,
            minimum_timeout=minimum_timeout,
        )
        self.middleware = ApiMiddleware(self._api.handle, clock.now_ms)
        self.executor: Executor | None = None
        #: Called after each write, when what was told before it is safe.
        self.after_flush: Callable[[], None] = lambda: None
        self._flush_due = False
        self._alarm_ms: int | None = None

    # Starting.

    def load(self, documents: Iterable[tuple[str, str, Document]], jobs: Iterable[StoredJob]) -> None:
        """Puts back what was stored; nothing starts before `resume`."""
        for kind, name, body in documents:
            self.registry.load(kind, name, body)
        self._api.consumables.load()
        for name, queue in self.registry.queues.items():
            self.engine.set_queue(name, queue["priority"], serves=self.registry.serves(name))
        for job in jobs:
            self.engine.restore(job.spec, job.children, cancellation=job.cancellation, status_reason=job.status_reason)

    def resume(self, executor: Executor) -> None:
        """Begins to run jobs."""
        self.executor = executor
        if COMPUTE_ENVIRONMENT not in self.registry.environments:
            self.registry.add_environment({"computeEnvironmentName": COMPUTE_ENVIRONMENT, "type": "UNMANAGED"})
        self.engine.resume(self.clock.now_ms())
        self.flush()
        self.pump()

    # Requests.

    def answer(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> HttpResponse:
        """Answers an authenticated HTTP request.

        Raises
        ------
        AnswerLost
            A fault on purpose: the connection must be closed without an answer.
        """
        identity = {"x-amzn-RequestId": str(uuid4()), "Content-Type": "application/json"}
        try:
            answer = self._answered(self._models.parse(method, path, headers, body))
            return HttpResponse(status=200, body=json.dumps(answer).encode(), headers=identity)
        except ApiError as error:
            _LOG.info("refused %s", Facts(path=path, code=error.code, message=error.message))
            shown = {"__type": error.code, "message": error.message}
            identity["x-amzn-ErrorType"] = error.code
            return HttpResponse(status=error.status, body=json.dumps(shown).encode(), headers=identity)
        finally:
            self.pump()

    def _answered(self, request: ApiRequest) -> Document:
        try:
            answer = self.middleware.call(request)
        except NotStored as error:
            raise ApiError(str(error), code=_NO_STORAGE) from error
        if request.operation == "DescribeJobDefinitions" and request.toolchain and self.executor:
            # So begins a client that is about to submit.
            self.executor.expect(request.toolchain)
        if request.operation in _WRITES:
            try:
                self.flush()
            except NotStored as error:
                # It took effect, and may be forgotten.
                raise ApiError(str(error), code=_NO_STORAGE, status=500) from error
        return answer

    # What becomes of attempts: `execution.AttemptListener`.

    def began(self, run: Run) -> None:
        """See `AttemptListener.began`."""
        self.engine.began(run, self.clock.now_ms())
        _LOG.info("attempt started %s", _of(run))
        if run.deadline_ms is not None:
            self._set_alarm()

    def left(self, run: Run) -> None:
        """See `AttemptListener.left`."""
        self.engine.leave(run)
        self.pump()

    def ended(self, run: Run, outcome: AttemptOutcome) -> None:
        """See `AttemptListener.ended`."""
        self.engine.end(run, outcome, self.clock.now_ms())
        _LOG.info("attempt ended %s exit_code=%s%s", _of(run), outcome.exit_code, _reason(run, outcome))
        self.pump()

    def given_back(self, run: Run) -> None:
        """See `AttemptListener.given_back`."""
        _LOG.info("attempt not begun %s", _of(run))
        self.engine.give_back(run, self.clock.now_ms())
        self.pump()

    # Doing what the engine decided.

    def pump(self) -> None:
        """Stops and starts attempts as the engine says."""
        executor, engine = self.executor, self.engine
        if executor is None:
            return
        while engine.stops:
            run = engine.stops.pop(0)
            if engine.running.get(run.key) is run:
                _LOG.info("attempt stopped %s %s", _of(run), Facts(reason=run.stopped_for))
                executor.stop(run)
        for run in engine.schedule(self.clock.now_ms()):
            executor.start(run)
        self._set_alarm()
        if (engine.changed or engine.changed_jobs or engine.units.spent) and not self._flush_due:
            self._flush_due = True
            self.clock.call_at(self.clock.now_ms() + FLUSH_MS, self.flush)

    def _set_alarm(self) -> None:
        deadline = self.engine.next_deadline()
        if deadline is not None and (self._alarm_ms is None or deadline < self._alarm_ms):
            self._alarm_ms = deadline
            self.clock.call_at(deadline, self._ring)

    def _ring(self) -> None:
        self._alarm_ms = None
        self.engine.stop_overdue(self.clock.now_ms())
        self.pump()

    def flush(self) -> None:
        """Writes what has changed."""
        engine = self.engine
        self._flush_due = False
        self._api.consumables.keep_spent()
        if engine.changed or engine.changed_jobs:
            self._storage.save(
                [engine.jobs[job_id] for job_id in engine.changed_jobs],
                [(engine.jobs[job_id], index) for job_id, index in engine.changed],
            )
            for job_id in engine.changed_jobs:
                _log_state(engine.jobs[job_id])
            engine.changed.clear()
            engine.changed_jobs.clear()
        self.after_flush()


def _of(run: Run) -> str:
    """What a log line says of an attempt; not by `Facts`, for there are two lines for each of very many."""
    job, index = run.job, run.index
    return f"job={job.spec.child_id(index)} attempt={run.attempt} state={STATES[job.states[index]]}"


def _reason(run: Run, outcome: AttemptOutcome) -> str:
    reason = run.stopped_for or outcome.reason or outcome.status_reason
    return f" {Facts(reason=reason)}" if reason else ""


def _log_state(job: BatchJob) -> None:
    counts = {name.lower(): number for name, number in zip(STATES, job.counts, strict=True) if number}
    reason = {"reason": job.status_reason} if job.status_reason else {}
    _LOG.info("job changed %s", Facts(job=job.spec.id, state=STATES[job.state], **counts, **reason))
