"""A whole command on a virtual AWS Batch: the real driver and the real backend, children that do what containers do."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from batch_pipeline.backends.aws_clients import Clients, attached_maker
from batch_pipeline.backends.batch import BatchBackend
from batch_pipeline.backends.rate_limit import TokenBucket
from batch_pipeline.config import load_settings
from batch_pipeline.localbatch.api.model import ApiError, ApiRequest
from batch_pipeline.localbatch.hosts.scripted import Script
from batch_pipeline.localbatch.testing import VirtualBatch
from batch_pipeline.records import request as requests
from batch_pipeline.records.events import Outcome, RetrySummary
from batch_pipeline.records.manifests import cells_of
from batch_pipeline.run.driver import Driver
from batch_pipeline.wire import layout
from batch_pipeline.wire.contract import Variable
from batch_pipeline.wire.receipt import Failure, FileRecord, Receipt
from batch_pipeline.wire.store import Store
from tests.run.small import Ear


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One attempt at a cell, as its container would see it."""

    step: str
    sample: str
    #: As Batch counts, from 1 in each job.
    attempt: int
    memory_mb: int
    queue: str
    run_id: str


@dataclass(frozen=True, kw_only=True)
class Death:
    """How an attempt ends that does not end well."""

    exit_code: int | None = None
    status_reason: str | None = None
    reason: str | None = None
    #: The word of the failure record that its container leaves; empty: it left none.
    recorded: str = ""


SPOT = Death(status_reason="Host EC2 (instance i-0123456789abcdef0) terminated.")
OUT_OF_MEMORY = Death(exit_code=137, reason="OutOfMemoryError: Container killed due to memory usage")
BUG = Death(exit_code=1, recorded="step_failed")

#: How an attempt goes; None: well.
Play = Callable[[Attempt], Death | None]


class World:
    """A store in memory, a virtual Batch, and a record of every attempt."""

    def __init__(self, store: Store, play: Play = lambda attempt: None) -> None:
        self.store = store
        self.play = play
        self.batch = VirtualBatch(vcpus=100_000, memory_mib=1 << 32, queues=())
        self.batch.plays(self._play)
        self.attempts: list[Attempt] = []
        #: Cells that are being worked on; two at once would be a cell that runs twice.
        self._at_work: Counter[tuple[str, str]] = Counter()
        self.twice: list[tuple[str, str]] = []
        self._cells = cache(lambda run_id, job: cells_of(store, run_id, job))
        self._manifest: Callable[[str], Any] = cache(store.get_json)

    def backend(self) -> BatchBackend:
        """A new process's connection."""
        settings = load_settings({}, environ={})
        pace = TokenBucket(50, sleep=self.batch.advance, clock=self.seconds)
        return BatchBackend(settings, clients=Clients(attached_maker(self.batch.attach)), pace=pace)

    def seconds(self) -> float:
        """The simulated time."""
        return self.batch.now_ms() / 1000

    def drive(self, request: requests.Request, ear: Ear | None = None, *, detach: bool = False) -> Outcome:
        """One whole command."""
        driver = Driver(request, self.backend(), sleep=self.batch.advance, clock=self.seconds)
        try:
            return driver.run(ear or Ear(), detach=detach)
        finally:
            driver.close()

    def calls(self) -> Counter[str]:
        """API calls so far, by operation, as the service saw them."""
        return Counter(call.operation for call in self.batch.calls)

    def _play(self, environment: Mapping[str, str], command: Sequence[str]) -> Script:
        if Variable.MANIFEST not in environment:
            return Script()
        key = environment[Variable.MANIFEST]
        _, run_id, _, job, _ = key.split("/")
        manifest = self._manifest(key)
        index = int(environment.get(Variable.ARRAY_INDEX, 0))
        sample, fingerprint = self._cells(run_id, job)[index]
        attempt = Attempt(
            step=manifest["step"],
            sample=sample,
            attempt=int(environment[Variable.ATTEMPT]),
            memory_mb=manifest["memory_mb"],
            queue=environment[Variable.QUEUE],
            run_id=run_id,
        )
        self.attempts.append(attempt)
        self._begin(attempt)
        death = self.play(attempt)

        def end(environment: Mapping[str, str], command: Sequence[str]) -> int:
            self._at_work[attempt.step, attempt.sample] -= 1
            return self._end(attempt, death, fingerprint, run_id, job, index)

        if death is not None and death.exit_code is None:
            # Its host is gone; nobody plays its end.
            self._at_work[attempt.step, attempt.sample] -= 1
            return Script(seconds=60, exit_code=None, status_reason=death.status_reason)
        return Script(seconds=60, action=end, reason=death.reason if death else None)

    def _begin(self, attempt: Attempt) -> None:
        cell = (attempt.step, attempt.sample)
        if self._at_work[cell]:
            self.twice.append(cell)
        self._at_work[cell] += 1

    def _end(self, attempt: Attempt, death: Death | None, fingerprint: str, run_id: str, job: str, index: int) -> int:
        about: dict[str, Any] = {
            "run_id": run_id,
            "step": attempt.step,
            "sample": attempt.sample,
            "fingerprint": fingerprint,
            "attempt": attempt.attempt,
            "started_at": "2026-01-01T00:00:00.000Z",
            "stopped_at": "2026-01-01T00:01:00.000Z",
        }
        if death is None:
            row = json.loads(self.store.get(layout.submission(run_id, job, "rows.txt")).splitlines()[index])
            about["inputs"] = tuple(
                FileRecord(port=port, key=file["url"], size_bytes=file["size_bytes"], etag=file["etag"])
                for port, files in row[2].items()
                for file in files
            )
            key = layout.receipt(attempt.step, attempt.sample, fingerprint)
            self.store.put_json(key, Receipt(**about).to_json())
            return 0
        code = death.exit_code or 0
        if death.recorded:
            failure = Failure(**about, end_reason=death.recorded, exit_code=code, message=f"{attempt.step} broke.")
            self.store.put_json(
                layout.failure(run_id, attempt.step, attempt.sample, attempt.attempt), failure.to_json()
            )
        return code


class Hears(Ear):
    """Remembers what goes again too."""

    def __init__(self) -> None:
        super().__init__()
        self.again_lines: list[RetrySummary] = []

    def again(self, lines: Sequence[RetrySummary]) -> None:
        self.again_lines += lines


class Trouble:
    """Faults at the border: throttles every third call, loses answers to submissions, leaves jobs out of answers."""

    def __init__(self, *, throttle: int = 3, lose: int = 2, omit: int = 4) -> None:
        self.throttle, self.lose, self.omit = throttle, lose, omit
        self.seen: Counter[str] = Counter()
        self.done: Counter[str] = Counter()

    def before(self, request: ApiRequest) -> None:
        self.seen["calls"] += 1
        if self.seen["calls"] % self.throttle == 0:
            self.done["throttled"] += 1
            raise ApiError("Too Many Requests", code="TooManyRequestsException", status=429)

    def after(self, request: ApiRequest, answer: dict[str, Any]) -> dict[str, Any]:
        from batch_pipeline.localbatch.api.middleware import AnswerLost

        self.seen[request.operation] += 1
        if request.operation == "SubmitJob" and self.seen["SubmitJob"] % self.lose == 0:
            self.done["lost"] += 1
            raise AnswerLost
        if request.operation == "DescribeJobs" and self.seen["DescribeJobs"] % self.omit == 0:
            self.done["omitted"] += 1
            return {"jobs": answer["jobs"][1:]}
        return answer
