"""A million samples x 3 steps, simulated: what planning, submitting and watching them take of this machine and of AWS.

Driver, planner, Luigi, manifests, payloads, botocore and the folder with what is written are the real ones. Two things
are played: AWS Batch, by a service that knows arrays by their counts alone (`Service`, behind botocore), and the
listings of the million sources and three million receipts, which a folder would need as many files for (`Cohort`). So
what grows is the driver's own. `python -m benchmarks.million N --trace` shows where its memory goes.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
import tracemalloc
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from batch_pipeline.backends.aws_clients import Clients, attached_maker
from batch_pipeline.backends.batch import BatchBackend
from batch_pipeline.backends.rate_limit import TokenBucket
from batch_pipeline.config import load_settings
from batch_pipeline.pipeline.plan import Plan
from batch_pipeline.pipeline.samples import Sample, SampleList
from batch_pipeline.pipeline.workflow import Graph
from batch_pipeline.records.events import NullListener, Outcome, StepProgress
from batch_pipeline.records.receipts import LEAST_BYTES
from batch_pipeline.records.request import Request
from batch_pipeline.run.driver import Driver
from batch_pipeline.wire import layout
from batch_pipeline.wire.manifest import Row
from batch_pipeline.wire.store import LIST_PAGE, Store, StoreEntry, open_store
from benchmarks import table
from benchmarks.copies.pipeline import Copies
from benchmarks.measure import BenchmarkFailed, run

SAMPLES = 1_000_000
#: Children at work at once, and seconds of each.
AT_ONCE = 50_000
SECONDS = 60.0
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


@dataclass(kw_only=True)
class Service:
    """An AWS Batch that answers from counters. Its children end well, in the order in which they were submitted."""

    seconds: float = 0.0
    jobs: dict[str, Array] = field(default_factory=dict)
    definitions: dict[str, int] = field(default_factory=dict)
    queues: set[str] = field(default_factory=set)
    children: int = 0
    largest_request: int = 0

    def advance(self, seconds: float) -> None:
        """Lets time pass."""
        self.seconds += seconds

    @property
    def over(self) -> bool:
        """Whether all children have ended."""
        return self._ended() >= self.children

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

        operation = request.url.rpartition("/")[2]
        body = request.body or b"{}"
        answer = getattr(self, f"_{operation}")(json.loads(body))
        self.largest_request = max(self.largest_request, len(body))
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
        self.children += size
        return {"jobId": job_id, "jobName": asked["jobName"]}

    def _describejobs(self, asked: dict[str, Any]) -> dict[str, Any]:
        if len(asked["jobs"]) > 100:
            raise BenchmarkFailed("AWS describes 100 jobs a call.")
        return {"jobs": [self._described(job_id) for job_id in asked["jobs"] if job_id in self.jobs]}

    def _described(self, job_id: str) -> dict[str, Any]:
        job = self.jobs[job_id]
        ended = min(max(self._ended() - job.before, 0), job.size)
        running = min(max(self._ended() + AT_ONCE - job.before, 0), job.size) - ended
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

    def _ended(self) -> int:
        return int(self.seconds / SECONDS) * AT_ONCE


def _definition(name: str, revision: int) -> dict[str, Any]:
    arn = f"arn:aws:batch:us-east-1:123456789012:job-definition/{name}:{revision}"
    known = {"jobDefinitionName": name, "revision": revision, "jobDefinitionArn": arn}
    return {**known, "status": "ACTIVE", "type": "container"}


class Cohort(Store):
    """A folder, but for two listings that are made as they are read: the sources, and the receipts of ended jobs."""

    def __init__(self, folder: Path, names: tuple[str, ...], service: Service) -> None:
        real = open_store(str(folder), create=True)
        super().__init__(real.url, real.backend, real.folder)
        self._names = names
        self._service = service
        self.listed = 0
        self.bytes: Counter[str] = Counter()

    def list(self, prefix: str) -> Iterator[StoreEntry]:
        """See `Store.list`."""
        if prefix != "SR/":
            yield from super().list(prefix)
            return
        for name in self._names:
            self.listed += 1
            yield StoreEntry(key=f"SR/{name}.txt", size_bytes=1, etag="9dd4e461268c8034f5c8564e155c67a6")
        self.calls["list"] += -(-len(self._names) // LIST_PAGE)

    def named_entries(self, names_by_prefix: Iterable[tuple[str, Collection[str] | None]]) -> Iterator[StoreEntry]:
        """See `Store.named_entries`."""
        for prefix, names in names_by_prefix:
            if prefix.startswith(layout.RECEIPTS):
                yield from self._receipts(prefix)
            else:
                yield from super().named_entries([(prefix, names)])

    def _receipts(self, prefix: str) -> Iterator[StoreEntry]:
        seen = 0
        for rows in sorted((self.folder or Path()).glob("runs/*/submissions/*/rows.txt")):
            if not self._service.over:
                break
            step = json.loads(rows.with_name("manifest.json").read_bytes())["step"]
            if not layout.step_receipts(step).startswith(prefix):
                continue
            with rows.open("rb") as lines:
                for line in lines:
                    seen += 1
                    row = Row.from_line(line)
                    key = layout.receipt(step, row.sample, row.fingerprint)
                    yield StoreEntry(key=key, size_bytes=LEAST_BYTES, etag="")
        self.listed += seen
        self.calls["list"] += max(1, -(-seen // LIST_PAGE))

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


def simulated(samples: int, folder: Path, *, trace: bool = False) -> dict[str, Any]:
    """Plans, submits, watches and judges; the figures of each."""
    if trace:
        tracemalloc.start()
    names = tuple(f"sample-{number:07}" for number in range(samples))
    service = Service()
    store = Cohort(folder / "store", names, service)
    request = Request(
        workflow=Copies,
        graph=Graph.of(Copies),
        samples=SampleList(samples=tuple(Sample(name=name, line=n) for n, name in enumerate(names, 1)), origin="-"),
        store=store,
        settings=load_settings(environ={}, folder=folder),
        sources="SR",
    )
    clients = Clients(attached_maker(service.attach))
    pace = TokenBucket(50, sleep=service.advance, clock=lambda: service.seconds)
    driver = Driver(
        request,
        BatchBackend(request.settings, clients=clients, pace=pace),
        sleep=service.advance,
        clock=lambda: service.seconds,
    )
    phases = Phases(service, store, clients.calls, trace=trace)
    try:
        outcome = driver.run(phases, detach=False)
    finally:
        driver.close()
    done = sum(step.done for step in outcome.progress.values())
    if not outcome.ok or done != service.children or done != 3 * samples:
        raise BenchmarkFailed(f"{done} of {3 * samples} cells are done: {outcome.progress}")
    return {
        "samples": samples,
        "arrays": phases.arrays,
        "simulated_seconds": service.seconds,
        "largest_request_bytes": service.largest_request,
        "phases": phases.found,
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
    parser.add_argument("--trace", action="store_true", help="tell on stderr where memory goes (much slower)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="million-") as folder:
        print(json.dumps(simulated(options.samples, Path(folder), trace=options.trace)))


if __name__ == "__main__":
    _main()
