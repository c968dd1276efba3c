"""A million samples x 3 steps, simulated: what planning, submitting and watching them take of this machine and of AWS.

Driver, planner, Luigi, manifests, payloads, botocore, the reader of listings and the folder with what is written are
the real ones. Two things are played: AWS Batch, by a service that knows arrays by their counts alone (`Service`, behind
botocore), and the pages of S3's LIST of the million sources and three million receipts (`Cohort`). So what grows is the
driver's own. The service takes no cell twice, no more children at once than AWS, and answers every 25th call with 429.
`python -m benchmarks.million N --trace` shows where memory goes, `--kills 50` kills the driver at random calls.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
import tracemalloc
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, _GeneratorContextManager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from random import Random
from typing import Any
from unittest.mock import patch

import numpy as np
import stamina

from batch_pipeline.backends.aws_clients import Clients, attached_maker
from batch_pipeline.backends.batch import BatchBackend
from batch_pipeline.backends.rate_limit import TRIES, TokenBucket
from batch_pipeline.config import load_settings
from batch_pipeline.pipeline.plan import Plan
from batch_pipeline.pipeline.samples import Sample, SampleList
from batch_pipeline.pipeline.workflow import Graph
from batch_pipeline.records.events import NullListener, Outcome, StepProgress
from batch_pipeline.records.receipts import LEAST_BYTES
from batch_pipeline.records.request import Request
from batch_pipeline.run.driver import Driver
from batch_pipeline.wire import layout
from batch_pipeline.wire.contract import Variable
from batch_pipeline.wire.manifest import Row
from batch_pipeline.wire.store import LIST_PAGE, Store, StoreEntry, open_store
from benchmarks import table
from benchmarks.copies.pipeline import Copies
from benchmarks.measure import BenchmarkFailed, run

SAMPLES = 1_000_000
#: Children of each sample.
STEPS = ("one", "two", "three")
#: Children at work at once for a million samples, and seconds of each.
AT_ONCE = 50_000
SECONDS = 60.0
#: Children that have not ended: what AWS takes at the most, and what a driver keeps to.
MOST_LIVE, BOUND = 1_000_000, 900_000
#: Every so many calls are answered with 429.
THROTTLED_EVERY = 25
#: The most MiB of the driver's process.
GOAL_MIB = 2_048
#: Bytes of one key in S3's answer to LIST, about: what a listing would move.
_LISTED_BYTES = 250


@dataclass(kw_only=True)
class Array:
    """A submitted job as the service knows it."""

    name: str
    size: int
    #: Children of all jobs that were submitted before.
    before: int


class Killed(BaseException):
    """The driver is no more."""


@dataclass(kw_only=True)
class Life:
    """Counts a driver's calls; from the one at which it is killed on, none takes effect. 0: it lives."""

    ends_at: int = 0
    calls: int = 0
    #: The calls up to its first plan.
    planned_at: int = 0

    def note(self) -> None:
        """Counts a call. Raises Killed."""
        self.calls += 1
        if self.ends_at and self.calls >= self.ends_at:
            raise Killed


class Cells:
    """Which cells were sent: the position of each among all children, and its fingerprint."""

    def __init__(self, samples: int) -> None:
        self.positions = {step: np.full(samples, -1, dtype=np.int64) for step in STEPS}
        self.fingerprints = {step: np.zeros(samples, dtype=np.uint64) for step in STEPS}

    def send(self, rows: Path, step: str, before: int) -> None:
        """Notes the cells of a job by its manifest's rows. Raises BenchmarkFailed for one that was sent already."""
        with rows.open("rb") as lines:
            for index, line in enumerate(lines):
                row = Row.from_line(line)
                number = int(row.sample.rpartition("-")[2])
                if self.positions[step][number] >= 0:
                    raise BenchmarkFailed(f"{step} of {row.sample} is sent twice.")
                self.positions[step][number] = before + index
                self.fingerprints[step][number] = int(row.fingerprint, 16)


@dataclass(kw_only=True)
class Service:
    """An AWS Batch that answers from counters. Its children end well, in the order in which they were submitted."""

    cells: Cells
    folder: Path
    at_once: int = AT_ONCE
    most_live: int = MOST_LIVE
    seconds: float = 0.0
    ended: int = 0
    jobs: dict[str, Array] = field(default_factory=dict)
    definitions: dict[str, int] = field(default_factory=dict)
    queues: set[str] = field(default_factory=set)
    children: int = 0
    most_seen: int = 0
    largest_request: int = 0
    calls: int = 0
    throttled: int = 0
    life: Life = field(default_factory=Life)

    def advance(self, seconds: float) -> None:
        """Lets time pass."""
        before, self.seconds = self.seconds, self.seconds + seconds
        rounds = int(self.seconds / SECONDS) - int(before / SECONDS)
        self.ended = min(self.children, self.ended + rounds * self.at_once)

    @property
    def over(self) -> bool:
        """Whether all children of all samples have ended."""
        return self.ended == len(STEPS) * len(self.cells.positions[STEPS[0]])

    def attach(self, client: Any) -> None:
        """Answers a client of botocore in the place of AWS."""
        client.meta.events.register("before-send", self._send)

    def _send(self, request: Any, **_: object) -> Any:
        from io import BytesIO

        from botocore.awsrequest import AWSResponse
        from botocore.compat import HTTPHeaders

        class Raw(BytesIO):
            def stream(self, *_: Any, **__: Any) -> Iterator[bytes]:
                yield self.read()

        self.life.note()
        self.calls += 1
        if self.calls % THROTTLED_EVERY == 0:
            self.throttled += 1
            headers = HTTPHeaders.from_dict({"x-amzn-errortype": "TooManyRequestsException"})
            return AWSResponse(request.url, 429, headers, Raw(b'{"message": "Too Many Requests"}'))
        operation = request.url.rpartition("/")[2]
        body = request.body or b"{}"
        answer = getattr(self, f"_{operation}")(json.loads(body))
        self.largest_request = max(self.largest_request, len(body))
        # The answer may find nobody.
        self.life.note()
        return AWSResponse(request.url, 200, HTTPHeaders(), Raw(json.dumps(answer).encode()))

    def _describejobqueues(self, asked: dict[str, Any]) -> dict[str, Any]:
        there = [name for name in asked["jobQueues"] if name in self.queues]
        return {"jobQueues": [{"jobQueueName": name, "state": "ENABLED", "status": "VALID"} for name in there]}

    def _createjobqueue(self, asked: dict[str, Any]) -> dict[str, Any]:
        self.queues.add(asked["jobQueueName"])
        return {"jobQueueName": asked["jobQueueName"], "jobQueueArn": "arn"}

    def _describejobdefinitions(self, asked: dict[str, Any]) -> dict[str, Any]:
        names = [name.rpartition(":")[0] for name in asked.get("jobDefinitions", ())]
        there = [name for name in names if name in self.definitions]
        return {"jobDefinitions": [_definition(name, self.definitions[name]) for name in there]}

    def _registerjobdefinition(self, asked: dict[str, Any]) -> dict[str, Any]:
        name = asked["jobDefinitionName"]
        self.definitions[name] = self.definitions.get(name, 0) + 1
        return _definition(name, self.definitions[name])

    def _submitjob(self, asked: dict[str, Any]) -> dict[str, Any]:
        size = asked.get("arrayProperties", {}).get("size", 1)
        known = all(after["jobId"] in self.jobs for after in asked.get("dependsOn", ()))
        if not known or not 2 <= size <= 10_000:
            raise BenchmarkFailed(f"Job {asked['jobName']} would be refused by AWS.")
        job_id = f"{len(self.jobs):08d}-0000-4000-8000-000000000000"
        self.jobs[job_id] = Array(name=asked["jobName"], size=size, before=self.children)
        environment = {pair["name"]: pair["value"] for pair in asked["containerOverrides"]["environment"]}
        manifest = self.folder / environment[Variable.MANIFEST]
        self.cells.send(manifest.with_name("rows.txt"), json.loads(manifest.read_bytes())["step"], self.children)
        self.children += size
        self.most_seen = max(self.most_seen, self.children - self.ended)
        if self.most_seen > self.most_live:
            raise BenchmarkFailed(f"{self.most_seen:,} children are live; AWS takes {self.most_live:,}.")
        return {"jobId": job_id, "jobName": asked["jobName"]}

    def _listjobs(self, asked: dict[str, Any]) -> dict[str, Any]:
        (name,) = asked["filters"][0]["values"]
        named = [job_id for job_id, job in self.jobs.items() if job.name == name]
        return {"jobSummaryList": [{"jobId": job_id, "jobName": name} for job_id in named]}

    def _describejobs(self, asked: dict[str, Any]) -> dict[str, Any]:
        if len(asked["jobs"]) > 100:
            raise BenchmarkFailed("AWS describes 100 jobs a call.")
        return {"jobs": [self._described(job_id) for job_id in asked["jobs"] if job_id in self.jobs]}

    def _described(self, job_id: str) -> dict[str, Any]:
        job = self.jobs[job_id]
        ended = min(max(self.ended - job.before, 0), job.size)
        running = min(max(self.ended + self.at_once - job.before, 0), job.size) - ended
        counts = {"SUCCEEDED": ended, "RUNNING": running, "PENDING": job.size - ended - running}
        return {
            "jobId": job_id,
            "jobName": job.name,
            "jobQueue": "mixed",
            "jobDefinition": "arn",
            "startedAt": 0,
            "status": "SUCCEEDED" if ended == job.size else "PENDING",
            "arrayProperties": {"size": job.size, "statusSummary": counts},
        }


def _definition(name: str, revision: int) -> dict[str, Any]:
    arn = f"arn:aws:batch:us-east-1:123456789012:job-definition/{name}:{revision}"
    known = {"jobDefinitionName": name, "revision": revision, "jobDefinitionArn": arn}
    return {**known, "status": "ACTIVE", "type": "container"}


class Cohort(Store):
    """A folder, but for S3's pages of two listings: the sources, and the receipts of children that have ended."""

    def __init__(self, folder: Path, names: tuple[str, ...], service: Service) -> None:
        real = open_store(str(folder), create=True)
        super().__init__(real.url, real.backend, None)
        self._names = names
        self._service = service
        self._done: dict[str, tuple[int, int, Any]] = {}
        self.listed = 0
        self.bytes: Counter[str] = Counter()

    @property
    def is_paged(self) -> bool:
        """See `Store.is_paged`."""
        return True

    def _call(self, kind: str, key: str, count: int = 1) -> _GeneratorContextManager[None, None, None]:
        self._service.life.note()
        return super()._call(kind, key, count)

    def page(self, prefix: str, after: str = "") -> tuple[list[StoreEntry], bool]:
        """See `Store.page`: sources or receipts."""
        self._service.life.note()
        self.calls["list"] += 1
        entries: list[StoreEntry] = []
        if prefix.startswith("SR"):
            self._fill(entries, range(len(self._names)), lambda number: f"SR/{self._names[number]}.txt", after)
        for step in sorted(STEPS):
            if f"{layout.step_receipts(step)}/".startswith(f"{prefix.rstrip('/')}/"):
                self._fill(entries, self._ended(step), partial(self._receipt, step), after)
        self.listed += min(len(entries), LIST_PAGE)
        return entries[:LIST_PAGE], len(entries) <= LIST_PAGE

    def _fill(self, entries: list[StoreEntry], numbers: Any, key_of: Callable[[int], str], after: str) -> None:
        """Adds the keys behind one, until there is one more than a page has."""
        first = bisect_right(numbers, after, key=key_of)
        etag = "9dd4e461268c8034f5c8564e155c67a6"
        for number in numbers[first : first + LIST_PAGE + 1 - len(entries)]:
            entries.append(StoreEntry(key=key_of(number), size_bytes=LEAST_BYTES, etag=etag))

    def _ended(self, step: str) -> Any:
        """Numbers of the samples whose child of a step has ended."""
        now = (self._service.ended, self._service.children)
        done = self._done.get(step)
        if done is None or done[:2] != now:
            positions = self._service.cells.positions[step]
            self._done[step] = done = (*now, np.flatnonzero((positions >= 0) & (positions < now[0])))
        return done[2]

    def _receipt(self, step: str, number: int) -> str:
        fingerprint = f"{int(self._service.cells.fingerprints[step][number]):016x}"
        return layout.receipt(step, self._names[number], fingerprint)

    def get(self, key: str) -> bytes:
        """See `Store.get`."""
        data = super().get(key)
        self.bytes["read"] += len(data)
        return data

    def put(self, key: str, data: bytes) -> None:
        """See `Store.put`."""
        self.bytes["written"] += len(data)
        super().put(key, data)


class Phases(NullListener):
    """What each part of the work took."""

    def __init__(self, service: Service, store: Cohort, calls: Counter[str], *, trace: bool) -> None:
        self._service, self._store, self._calls, self._trace = service, store, calls, trace
        self.found: dict[str, dict[str, Any]] = {}
        self.arrays = 0
        self._begin()

    def planned(self, plan: Plan) -> None:
        self._end("plan")

    def submitted(self, run_id: str, step: str, job: str, native_id: str, size: int) -> None:
        self.arrays += 1

    def progressed(self, progress: Mapping[str, StepProgress]) -> None:
        if "submit" not in self.found:
            self._end("submit")
        elif self._service.over and "watch" not in self.found:
            self._end("watch")

    def ended(self, outcome: Outcome) -> None:
        self._end("judge")

    def _begin(self) -> None:
        self._before = Counter(self._store.calls), Counter(self._calls), self._store.bytes.copy(), self._store.listed
        # A new peak begins: https://www.kernel.org/doc/html/latest/filesystems/proc.html (clear_refs)
        Path("/proc/self/clear_refs").write_text("5")
        self._clock = time.perf_counter(), time.process_time()

    def _end(self, phase: str) -> None:
        if phase in self.found:
            return
        status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        calls, api, moved, listed = self._before
        self.found[phase] = {
            "seconds": time.perf_counter() - self._clock[0],
            "cpu_seconds": time.process_time() - self._clock[1],
            "peak_mib": int(status["VmHWM"].split()[0]) / 1024,
            "resident_mib": int(status["VmRSS"].split()[0]) / 1024,
            "api": dict(self._calls - api),
            "store": dict(Counter(self._store.calls) - calls),
            "bytes": dict(self._store.bytes - moved),
            "listed": self._store.listed - listed,
        }
        if self._trace:
            _tell_memory(phase)
        self._begin()


def _tell_memory(phase: str) -> None:
    kept = tracemalloc.take_snapshot().filter_traces([tracemalloc.Filter(False, tracemalloc.__file__)])
    print(f"after {phase}: {tracemalloc.get_traced_memory()[0] >> 20} MiB", file=sys.stderr)
    for line in kept.statistics("lineno")[:12]:
        frame = line.traceback[0]
        place = "/".join(Path(frame.filename).parts[-3:])
        print(f"  {line.size >> 20:6,} MiB {line.count:12,} x {place}:{frame.lineno}", file=sys.stderr)


@dataclass(kw_only=True)
class World:
    """A cohort, its service and store, and the command that is given."""

    request: Request
    service: Service
    store: Cohort

    def driver(self, life: Life) -> tuple[Driver, Clients]:
        """A new process's driver."""
        self.service.life = life
        clients = Clients(attached_maker(self.service.attach))
        pace = TokenBucket(50, sleep=self.service.advance, clock=lambda: self.service.seconds)
        backend = BatchBackend(self.request.settings, clients=clients, pace=pace)
        return Driver(self.request, backend, sleep=self.service.advance, clock=lambda: self.service.seconds), clients

    def check(self) -> None:
        """Raises BenchmarkFailed unless each cell was sent once and has ended."""
        sent = sum(int((positions >= 0).sum()) for positions in self.service.cells.positions.values())
        if not sent == self.service.children == self.service.ended == len(STEPS) * len(self.request.samples):
            raise BenchmarkFailed(f"{sent} cells are sent, of {self.service.children} children; all must be once.")


def world_of(samples: int, folder: Path, share: float = 1.0) -> World:
    """Nothing is done yet; of bounds and capacity there is a share."""
    names = tuple(f"sample-{number:07}" for number in range(samples))
    service = Service(
        cells=Cells(samples),
        folder=folder / "store",
        at_once=max(1, int(AT_ONCE * share)),
        most_live=max(len(STEPS), int(MOST_LIVE * share)),
    )
    store = Cohort(folder / "store", names, service)
    options = {"backend.max_children": max(1, int(BOUND * share))}
    request = Request(
        workflow=Copies,
        graph=Graph.of(Copies),
        samples=SampleList(samples=tuple(Sample(name=name, line=n) for n, name in enumerate(names, 1)), origin="-"),
        store=store,
        settings=load_settings(options, environ={}, folder=folder),
        sources="SR",
    )
    return World(request=request, service=service, store=store)


def simulated(samples: int, folder: Path, *, trace: bool = False) -> dict[str, Any]:
    """Plans, submits in waves, watches and judges; the figures of each."""
    if trace:
        tracemalloc.start()
    world = world_of(samples, folder)
    service = world.service
    driver, clients = world.driver(Life())
    phases = Phases(service, world.store, clients.calls, trace=trace)
    try:
        with stamina.set_testing(True, attempts=TRIES):
            outcome = driver.run(phases, detach=False)
    finally:
        driver.close()
    world.check()
    if not outcome.ok or sum(step.done for step in outcome.progress.values()) != service.children:
        raise BenchmarkFailed(f"Not all cells are done: {outcome.progress}")
    return {
        "samples": samples,
        "arrays": phases.arrays,
        "waves": len(outcome.run_ids),
        "most_live": service.most_seen,
        "throttled": service.throttled,
        "simulated_seconds": service.seconds,
        "largest_request_bytes": service.largest_request,
        "phases": phases.found,
    }


class Planned(NullListener):
    """Notes when a driver has planned."""

    def __init__(self, life: Life) -> None:
        self._life = life

    def planned(self, plan: Plan) -> None:
        """See `Listener.planned`."""
        self._life.planned_at = self._life.planned_at or self._life.calls


def killed(samples: int, folder: Path, *, kills: int, seed: int = 0) -> dict[str, Any]:
    """Gives the command until it ends by itself, its driver killed so many times before, at random calls.

    Of fewer samples than a million the bound and the capacity are smaller by as much.

    Most are killed behind their plan, the others on the way to it. Raises BenchmarkFailed unless all is sent once.
    """
    world, chance = world_of(samples, folder, min(1.0, samples / SAMPLES)), Random(seed)
    planned_at, kills_so_far = 100, 0
    # A life has this many calls behind its plan on the average, so that the last one is killed near the end.
    reach = max(4, 2 * (600 + 24 * -(-samples // 10_000)) // max(1, kills))
    with ExitStack() as stack:
        stack.enter_context(stamina.set_testing(True, attempts=TRIES))
        # All drivers are this process.
        stack.enter_context(patch("batch_pipeline.run.lock._is_gone", lambda holder: True))
        stack.enter_context(patch("batch_pipeline.run.live.LOOK_SECONDS", 0.0))
        while True:
            behind = chance.randint(1, reach) if chance.random() < 0.8 else -chance.randint(0, planned_at - 1)
            life = Life(ends_at=planned_at + behind if kills_so_far < kills else 0)
            driver, _ = world.driver(life)
            try:
                outcome = driver.run(Planned(life), detach=False)
                driver.close()
            except Killed:
                planned_at = life.planned_at or planned_at
                kills_so_far += 1
                world.service.advance(chance.uniform(0, SECONDS))
                continue
            break
    world.check()
    if not outcome.ok:
        raise BenchmarkFailed(f"Not all cells are done: {outcome.progress}")
    service = world.service
    return {
        "samples": samples,
        "kills": kills_so_far,
        "jobs": len(service.jobs),
        "most_live": service.most_seen,
        "throttled": service.throttled,
        "simulated_seconds": service.seconds,
    }


def main(*, samples: int = SAMPLES, results_folder: Path) -> None:
    """Runs it in a process of its own, prints and keeps."""
    found = alone(samples)
    rows = [
        (
            phase,
            f"{one['seconds']:.1f}",
            f"{one['cpu_seconds']:.1f}",
            f"{one['resident_mib']:,.0f}",
            f"{one['peak_mib']:,.0f}",
            f"{1024 * one['peak_mib'] / (3 * samples):.2f}",
            _counts(one["api"]),
            _counts(one["store"]),
            f"{(one['bytes'].get('read', 0) + _LISTED_BYTES * one['listed']) / 1e6:,.0f}",
            f"{one['bytes'].get('written', 0) / 1e6:,.0f}",
        )
        for phase, one in found["phases"].items()
    ]
    header = ("phase", "s", "CPU s", "MiB", "peak MiB", "KiB/cell", "API calls", "store calls", "MB in", "MB out")
    peak = max(one["peak_mib"] for one in found["phases"].values())
    arrays = 3 * -(-samples // 10_000)
    notes = [
        table.verdict(found["arrays"], arrays, f"{arrays} SubmitJob"),
        table.verdict(found["most_live"], BOUND, f"at most {BOUND:,} children live, in {found['waves']} waves"),
        table.verdict(peak, GOAL_MIB, f"at most {GOAL_MIB:,} MiB"),
        f"{found['simulated_seconds'] / 3600:.1f} simulated hours, {AT_ONCE:,} children at once, {SECONDS:.0f} s each",
        f"largest request {found['largest_request_bytes']:,} bytes; MB in counts {_LISTED_BYTES} bytes a listed key",
    ]
    table.show(f"{samples:,} samples x 3 steps, simulated", header, rows, notes=notes)
    table.keep("million", {"machine": table.machine(), "results": found}, results_folder)


def _counts(calls: Mapping[str, int]) -> str:
    return " ".join(f"{number:,} {name}" for name, number in sorted(calls.items())) or "-"


def alone(samples: int) -> dict[str, Any]:
    """The figures, from a process of its own."""
    root = Path(__file__).resolve().parent.parent
    with tempfile.TemporaryDirectory(prefix="million-") as folder:
        log = Path(folder) / "log"
        run(
            [sys.executable, "-m", "benchmarks.million", str(samples)],
            folder=root,
            environment={**os.environ, "PYTHONPATH": str(root)},
            log=log,
        )
        try:
            figures: dict[str, Any] = json.loads(log.read_text().splitlines()[-1])
        except (ValueError, IndexError) as error:
            raise BenchmarkFailed(f"The simulation of {samples} samples said: {log.read_text()[-500:]}") from error
    return figures


def _main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("samples", type=int)
    parser.add_argument(
        "--kills", type=int, default=0, help="kill the driver so many times, and tell that all is exact"
    )
    parser.add_argument("--trace", action="store_true", help="tell on stderr where memory goes (much slower)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="million-") as folder:
        if options.kills:
            print(json.dumps(killed(options.samples, Path(folder), kills=options.kills)))
        else:
            print(json.dumps(simulated(options.samples, Path(folder), trace=options.trace)))


if __name__ == "__main__":
    _main()
