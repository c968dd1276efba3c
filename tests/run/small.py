"""A small pipeline on a store in memory, and a backend in memory whose children do what containers do."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from batch_pipeline import Input, Job, Output, Param, Scope, Step, WorkflowTask
from batch_pipeline.backends.base import JobRequest, JobSummary
from batch_pipeline.backends.memory import MemoryBackend
from batch_pipeline.config import load_settings
from batch_pipeline.pipeline.plan import Limits, Plan, Selection
from batch_pipeline.pipeline.samples import SampleList
from batch_pipeline.pipeline.workflow import Graph
from batch_pipeline.records.events import NullListener, Outcome, StepProgress
from batch_pipeline.records.manifests import cells_of
from batch_pipeline.records.request import Request
from batch_pipeline.run.driver import Driver
from batch_pipeline.run.snapshot import Snapshot
from batch_pipeline.wire import layout
from batch_pipeline.wire.contract import Variable
from batch_pipeline.wire.receipt import Failure, FileRecord, Receipt
from batch_pipeline.wire.store import Store, open_store

SAMPLES = ("ann", "bob", "cid")


class Sketch(Step):
    """A step that only a backend in memory runs, which writes the receipts itself."""

    def run(self, job: Job) -> None:
        """Makes nothing."""


class Upper(Sketch):
    """Makes letters large."""

    text = Input()
    upper = Output("{sample}.txt")


class Count(Sketch):
    """Counts."""

    text = Input()
    count = Output("count.txt")
    depth: int = Param(1)


class Total(Sketch):
    """Adds up."""

    scope = Scope.COHORT
    counts = Input()
    total = Output("total.txt")


class Share(Sketch):
    """Compares a sample with all."""

    total = Input()
    share = Output("share.txt")


class Letters(WorkflowTask):
    """Two steps a sample and a gather."""

    def workflow(self) -> None:
        upper, count, total = (
            self.new_task(name, step) for name, step in (("upper", Upper), ("count", Count), ("total", Total))
        )
        upper.in_text = self.source("{sample}.txt", column="file")
        count.in_text = upper.out_upper
        total.in_counts = count.out_count


def new_store() -> Store:
    return open_store(f"memory://{uuid.uuid4()}")


def request_of(store: Store, *samples: str, **changes: Any) -> Request:
    """A request for samples whose sources are in the store."""
    names = samples or SAMPLES
    there = {entry.key for entry in store.list("SR")}
    for name in names:
        if f"SR/{name}.txt" not in there:
            store.put(f"SR/{name}.txt", f"text of {name}".encode())
    params = changes.pop("params", {})
    request = Request(
        workflow=Letters,
        graph=Graph.of(Letters, params),
        samples=SampleList.of(names),
        store=store,
        settings=load_settings({"watch.poll_seconds": 0.01}, environ={}, folder=Path("/nowhere")),
        sources="SR",
    )
    return replace(request, **changes)


#: What a child ends with, from its step, its sample and how often the cell was tried.
Play = Callable[[str, str, int], int]


class Stage(MemoryBackend):
    """Jobs run when somebody looks at them; a child that ends well leaves its receipt, another its failure."""

    def __init__(
        self, store: Store, play: Play = lambda step, sample, attempt: 0, limits: Limits | None = None
    ) -> None:
        super().__init__(limits)
        self.store = store
        self.play = play
        self.is_open = True
        self.tried: dict[tuple[str, str], int] = {}
        #: Children that end without a word: no record of theirs in the store.
        self.silent: set[str] = set()

    def summaries(self, native_ids: Sequence[str]) -> Mapping[str, JobSummary]:
        if self.is_open:
            self.drain(self._act)
        assert self.calls["summaries"] < 500, "nothing will ever end here"
        return super().summaries(native_ids)

    def submitted(self) -> list[tuple[str, str]]:
        """Step and sample of every cell in every job, oldest first."""
        return [cell for job in self.jobs.values() for cell in self._cells(job.request)]

    def _cells(self, request: JobRequest) -> list[tuple[str, str]]:
        if Variable.MANIFEST not in request.environment:
            return []
        _, run_id, _, job, _ = request.environment[Variable.MANIFEST].split("/")
        step = self.store.get_json(request.environment[Variable.MANIFEST])["step"]
        return [(step, sample) for sample, _ in cells_of(self.store, run_id, job)]

    def _act(self, request: JobRequest, index: int) -> int:
        if Variable.JOIN in request.environment:
            return 0
        _, run_id, _, job, _ = request.environment[Variable.MANIFEST].split("/")
        manifest = self.store.get_json(request.environment[Variable.MANIFEST])
        sample, fingerprint = cells_of(self.store, run_id, job)[index]
        row = json.loads(self.store.get(layout.submission(run_id, job, "rows.txt")).splitlines()[index])
        step = manifest["step"]
        self.tried[step, sample] = self.tried.get((step, sample), 0) + 1
        assert self.tried[step, sample] < 10, "the driver goes round in circles"
        code = self.play(step, sample, self.tried[step, sample])
        about: dict[str, Any] = {
            "run_id": run_id,
            "step": step,
            "sample": sample,
            "fingerprint": fingerprint,
            "attempt": 1,
            "started_at": "2026-01-01T00:00:00.000Z",
            "stopped_at": "2026-01-01T00:00:01.000Z",
            "inputs": tuple(
                FileRecord(port=port, key=file["url"], size_bytes=file["size_bytes"], etag=file["etag"])
                for port, files in row[2].items()
                for file in files
            ),
        }
        if code == 0:
            old = [entry.key for entry in self.store.list(layout.receipts(step, sample))]
            self.store.delete(old)
            self.store.put_json(layout.receipt(step, sample, fingerprint), Receipt(**about).to_json())
        elif sample not in self.silent:
            failure = Failure(**about, end_reason="step_failed", exit_code=code, message=f"{step} of {sample} broke.")
            self.store.put_json(layout.failure(run_id, step, sample, 1), failure.to_json())
        self.store.put(layout.log(run_id, step, sample, 1), f"{step} says {sample}\nand goes\n".encode())
        return code


@dataclass(kw_only=True)
class Ear(NullListener):
    """A listener that remembers."""

    plans: list[Plan] = field(default_factory=list)
    jobs: list[tuple[str, int]] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    outcomes: list[Outcome] = field(default_factory=list)

    def planned(self, plan: Plan) -> None:
        self.plans.append(plan)

    def submitted(self, run_id: str, step: str, job: str, native_id: str, size: int) -> None:
        self.jobs.append((job, size))

    def progressed(self, progress: Mapping[str, StepProgress]) -> None:
        self.lines += [f"{name}: {step.line}" for name, step in progress.items()]

    def ended(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)


def drive(request: Request, backend: MemoryBackend, ear: Ear | None = None, *, detach: bool = False) -> Outcome:
    """One whole command."""
    driver = Driver(request, backend)
    try:
        return driver.run(ear or Ear(), detach=detach)
    finally:
        driver.close()


def look(request: Request, backend: MemoryBackend) -> Snapshot:
    driver = Driver(request, backend)
    try:
        return driver.inspect()
    finally:
        driver.close()


def chosen(**selection: Any) -> dict[str, Any]:
    """A request's change that chooses cells."""
    return {"selection": Selection(**selection)}
