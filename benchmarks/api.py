"""API calls of a cohort: ours as the service counts them; peers' the same where they can run, else by their source.

Ours is the real driver with the real backend on a virtual AWS Batch, whose children leave their receipts as containers
do. Peers (`api_peers`) run few samples, beside ours, against an AWS Batch and an S3 server on loopback that count.
"""

from __future__ import annotations

import json
import uuid
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from batch_pipeline.backends.aws_clients import Clients, attached_maker
from batch_pipeline.backends.batch import BatchBackend
from batch_pipeline.backends.rate_limit import TokenBucket
from batch_pipeline.config import load_settings
from batch_pipeline.localbatch.testing import VirtualBatch
from batch_pipeline.pipeline.samples import SampleList
from batch_pipeline.pipeline.workflow import Graph
from batch_pipeline.records.events import NullListener
from batch_pipeline.records.manifests import cells_of
from batch_pipeline.records.request import Request
from batch_pipeline.run.driver import Driver
from batch_pipeline.wire import layout
from batch_pipeline.wire.contract import Variable
from batch_pipeline.wire.receipt import Receipt
from batch_pipeline.wire.store import Store, open_store
from benchmarks import table
from benchmarks.api_peers import Measured, measured
from benchmarks.copies.pipeline import Copies
from benchmarks.measure import BenchmarkFailed

SAMPLES = 1_000
STEPS = 3
#: Seconds of a child, and how many are at work at once.
SECONDS = 30.0
AT_ONCE = 500
#: Samples of the peers' runs.
PEER_SAMPLES = 10

#: Of 1,000 tasks (one step of 1,000 samples), as read in their sources: commits and derivations are in the peers' own
#: repositories (Nextflow 2aad02f65, miniwdl-aws f8c47a4, Metaflow d2dd7f953, Toil 8593a3e15, Cromwell c805f3c561).
_FROM_SOURCE: Sequence[tuple[str, str, str]] = (
    ("redun, Python tasks", "1 and more", "10 DescribeJobs a 50 s at most"),
    ("Nextflow, as arrays", "1, and 2 an image", "10 DescribeJobs a 10 s; 2,000 PUT"),
    ("Nextflow", "1,000, and 2 an image", "10 DescribeJobs a 10 s; 2,000 PUT"),
    ("Toil", "1,002", "up to 10 DescribeJobs a scan"),
    ("Cromwell", "2,000 to 3,000", "ListJobs of 5 states, all pages, a 10 s"),
    ("miniwdl-aws", "3,000", "at most 1 DescribeJobs of 100 a s"),
    ("Metaflow", "4,000", "1 DescribeJobs a running task a s"),
    ("luigi.contrib.batch", "1,000", "1 DescribeJobs a task a 10 s"),
    ("Snakemake's aws-batch plugin", "6,000", "1 DescribeJobs a task a sweep"),
)


@dataclass(frozen=True, kw_only=True)
class Counted:
    """One command of ours."""

    what: str
    #: By operation, as the service saw them.
    api: Mapping[str, int]
    store: Mapping[str, int]
    seconds: float
    #: How often the driver looked at its jobs.
    polls: int

    @property
    def control(self) -> int:
        """API calls that are no polls."""
        return sum(number for name, number in self.api.items() if name != "DescribeJobs")


class World:
    """A store in memory and a virtual Batch with room for many children."""

    def __init__(self, samples: int) -> None:
        self.batch = VirtualBatch(queues=(), vcpus=AT_ONCE, memory_mib=1 << 30)
        self.batch.outcome(seconds=SECONDS, action=self._live)
        self.store: Store = open_store(f"memory://{uuid.uuid4()}")
        self._names = [f"sample-{number:05}" for number in range(samples)]
        for name in self._names:
            self.store.put(f"SR/{name}.txt", b"x")
        self._cells = cache(lambda run_id, job: cells_of(self.store, run_id, job))
        self._step: Callable[[str], Any] = cache(lambda key: self.store.get_json(key)["step"])

    def command(self, what: str, *, again: bool = False) -> Counted:
        """One `run` of a new process; `again` first forgets what is done."""
        if again:
            self.store.delete(list(self.store.keys(layout.RECEIPTS)))
        request = Request(
            workflow=Copies,
            graph=Graph.of(Copies),
            samples=SampleList.of(self._names),
            store=open_store(self.store.url),
            settings=load_settings(environ={}, folder=Path("/nowhere")),
            sources="SR",
        )
        before, began = self._calls(), self.batch.now_ms()
        clients = Clients(attached_maker(self.batch.attach))
        pace = TokenBucket(50, sleep=self.batch.advance, clock=self._now)
        backend = BatchBackend(request.settings, clients=clients, pace=pace)
        pauses: list[float] = []

        def sleep(seconds: float) -> None:
            pauses.append(seconds)
            self.batch.advance(seconds)

        driver = Driver(request, backend, sleep=sleep, clock=self._now)
        try:
            outcome = driver.run(NullListener(), detach=False)
        finally:
            driver.close()
        if not outcome.ok:
            raise BenchmarkFailed(f"{what} ended with {outcome}.")
        # The children's own calls go to another store of the same place.
        store = dict(sorted(request.store.calls.items()))
        api = dict(sorted((self._calls() - before).items()))
        return Counted(
            what=what,
            api=api,
            store=store,
            seconds=(self.batch.now_ms() - began) / 1000,
            polls=len(pauses) + 1 if outcome.submitted else 0,
        )

    def _now(self) -> float:
        return self.batch.now_ms() / 1000

    def _calls(self) -> Counter[str]:
        return Counter(call.operation for call in self.batch.calls)

    def _live(self, environment: Mapping[str, str], command: Sequence[str]) -> int:
        """A child's life as far as the driver can see it: its receipt."""
        key = environment[Variable.MANIFEST]
        _, run_id, _, job, _ = key.split("/")
        step = self._step(key)
        sample, fingerprint = self._cells(run_id, job)[int(environment.get(Variable.ARRAY_INDEX, 0))]
        receipt = Receipt(
            run_id=run_id,
            step=step,
            sample=sample,
            fingerprint=fingerprint,
            attempt=1,
            started_at="2026-01-01T00:00:00.000Z",
            stopped_at="2026-01-01T00:00:30.000Z",
        )
        self.store.put(layout.receipt(step, sample, fingerprint), json.dumps(receipt.to_json()).encode())
        return 0


def ours(samples: int) -> list[Counted]:
    """A new cohort, the same command again, and once more with nothing done but all known to Batch."""
    world = World(samples)
    return [
        world.command("first run"),
        world.command("nothing to do"),
        world.command("all once more", again=True),
    ]


def main(*, peers: bool, results_folder: Path) -> None:
    """Counts, prints and keeps."""
    found = ours(SAMPLES)
    rows = [(one.what, *_columns(one)) for one in found]
    header = (
        "",
        "SubmitJob",
        "Register",
        "DescribeJobs",
        "polls",
        "other API",
        "LIST",
        "GET",
        "PUT",
        "DELETE",
        "sim. s",
    )
    notes = [
        table.verdict(found[0].api["SubmitJob"], STEPS, f"{STEPS} SubmitJob"),
        table.verdict(found[0].api["RegisterJobDefinition"], STEPS, f"{STEPS} RegisterJobDefinition, the first time"),
        table.verdict(found[2].api.get("RegisterJobDefinition", 0), 0, "none of them later"),
        f"{AT_ONCE} children at once, {SECONDS:.0f} s each; a poll asks for all three arrays in one call",
        "other API calls: look-ups of the queue and the definitions, and the queue's making on a new embedded Batch",
    ]
    table.show(f"API calls: {SAMPLES:,} samples x {STEPS}, counted by the service", header, rows, notes=notes)
    measured = _side_by_side() if peers else []
    _compare(found[0])
    table.keep("api", {"machine": table.machine(), "ours": found, "peers": measured}, results_folder)


def _columns(one: Counted) -> Sequence[str]:
    named = ("SubmitJob", "RegisterJobDefinition", "DescribeJobs")
    return [
        *(str(one.api.get(name, 0)) for name in named),
        str(one.polls),
        str(sum(number for name, number in one.api.items() if name not in named)),
        *(str(one.store.get(kind, 0)) for kind in ("list", "get", "put", "delete")),
        f"{one.seconds:.0f}",
    ]


def _side_by_side() -> list[Measured]:
    """The same small cohort by ours and by the peers that can run here, jobs included."""
    found = measured(PEER_SAMPLES)
    tasks = PEER_SAMPLES * STEPS
    rows = [
        (
            one.name,
            *(str(one.batch.get(name, 0)) for name in ("SubmitJob", "RegisterJobDefinition", "DescribeJobs")),
            str(one.others),
            *(f"{one.s3.get(method, 0) / tasks:.1f}" for method in ("LIST", "HEAD", "GET", "PUT")),
            f"{one.seconds:.0f}",
        )
        for one in found
        if not one.why_not
    ]
    header = (
        "",
        "SubmitJob",
        "Register",
        "DescribeJobs",
        "other",
        "LIST/task",
        "HEAD/task",
        "GET/task",
        "PUT/task",
        "s",
    )
    notes = [f"{one.name} is left out: {one.why_not}" for one in found if one.why_not]
    notes += [
        "S3 requests are the client's and the jobs' together; Luigi's jobs copy local files",
        "redun's arrays (at most 1,000 tasks) wait for the whole array before; snakemake and luigi call for each task",
    ]
    table.show(
        f"AWS calls: {PEER_SAMPLES} samples x {STEPS} on loopback, counted by the services", header, rows, notes=notes
    )
    return found


def _compare(mine: Counted) -> None:
    """Control calls of 1,000 tasks: ours beside what the peers' sources say."""
    a_step = mine.control / STEPS * 1_000 / SAMPLES
    rows = [("batch_pipeline (measured)", f"{a_step:.0f}", "1 DescribeJobs a poll, whatever the number")]
    rows += [(f"{name} (from their source)", calls, polls) for name, calls, polls in _FROM_SOURCE]
    notes = ["measured: a third of the first run's SubmitJob, RegisterJobDefinition and look-ups"]
    table.show("Control calls of 1,000 tasks", ("engine", "calls", "besides"), rows, notes=notes)
