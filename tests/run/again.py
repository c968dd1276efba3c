"""Any small pipeline on a store and a backend in memory, with the real driver, and the real cell but for its step.

Drivers are killed before their n-th call to store or backend: from then on each of their calls fails, so that nothing
they would do while they unwind takes effect either.
"""

from __future__ import annotations

import json
import random
import shutil
import tempfile
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest

from batch_pipeline import Input, Job, Output, Param, Scope, Step, WorkflowTask
from batch_pipeline.backends.base import JobRequest, JobSummary
from batch_pipeline.backends.memory import MemoryBackend
from batch_pipeline.config import load_settings
from batch_pipeline.container import cell as cells
from batch_pipeline.container.entry import run_child
from batch_pipeline.container.execution import NOT_RUN, Executed
from batch_pipeline.container.verdict import Verdict
from batch_pipeline.pipeline.plan import CellState, Selection
from batch_pipeline.pipeline.samples import SampleList
from batch_pipeline.pipeline.workflow import Graph
from batch_pipeline.records.events import NullListener, Outcome
from batch_pipeline.records.request import Request
from batch_pipeline.run.driver import Driver
from batch_pipeline.wire import layout
from batch_pipeline.wire.contract import Variable
from batch_pipeline.wire.digest import sha256_of_bytes
from batch_pipeline.wire.errors import BatchPipelineError
from batch_pipeline.wire.store import Store, open_store
from tests.run.small import Sketch

Cell = tuple[str, str]


class Root(Sketch):
    """Reads a source."""

    source = Input()
    out = Output("{sample}.out")
    depth: int = Param(1)


class Chain(Sketch):
    """Reads one step."""

    one = Input()
    out = Output("{sample}.out")
    depth: int = Param(1)


class Join(Sketch):
    """Reads two steps."""

    one = Input()
    two = Input()
    out = Output("{sample}.out")


class Gather(Sketch):
    """Reads one step of all samples."""

    scope = Scope.COHORT
    one = Input()
    out = Output("all.out")


@dataclass(frozen=True)
class Shape:
    """Step -> its class and the steps that it reads."""

    steps: Mapping[str, tuple[type[Step], tuple[str, ...]]]

    def workflow(self) -> type[WorkflowTask]:
        """A pipeline of this shape."""
        steps = self.steps

        def wire(task: WorkflowTask) -> None:
            tasks = {name: task.new_task(name, step_class) for name, (step_class, _) in steps.items()}
            for name, (step_class, upstream) in steps.items():
                if step_class is Root:
                    tasks[name].in_source = task.source("{sample}.txt")
                for port, other in zip(("one", "two"), upstream, strict=False):
                    setattr(tasks[name], f"in_{port}", tasks[other].out_out)

        return type("Shaped", (WorkflowTask,), {"workflow": wire, "__module__": __name__})


class Killed(BaseException):
    """The driver is no more."""


@dataclass
class Play:
    """What becomes of attempts, by (step, sample)."""

    failing: set[Cell] = field(default_factory=set)
    #: Cells whose first attempt is interrupted after it has staged its inputs.
    interrupted: set[Cell] = field(default_factory=set)
    #: Whether a step makes the same of the same.
    deterministic: bool = True
    made: int = 0


class Played(cells.CellAttempt):
    """A cell whose step is played in this process; all around it is real."""

    play: ClassVar[Play] = Play()

    def _bundle(self) -> str:
        return ""

    def _executed(self, job: Job, folder: str) -> Iterator[Executed]:
        cell = (self.manifest.step, self.row.sample)
        if cell in self.play.interrupted and self.location.attempt == 1:
            yield replace(NOT_RUN, verdict=Verdict(exit_code=75, message="The host was taken back."))
        elif cell in self.play.failing:
            yield replace(NOT_RUN, verdict=Verdict(exit_code=1, message="It failed."))
        else:
            self.play.made += 1
            files = [file for port in job.input_files.values() for file in port]
            files += [file for port in job.gathered_files.values() for some in port.values() for file in some]
            text = b"".join(file.read_bytes() for file in sorted(files))
            other = b"" if self.play.deterministic else str(self.play.made).encode()
            for path in (job.output("out"),):
                path.write_bytes(sha256_of_bytes(repr(cell).encode() + text + other).encode())


class Quiet:
    """A log of nothing: what cells say is not looked at here."""

    def __enter__(self) -> Quiet:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def tail(self, most_bytes: int = 0) -> bytes:
        return b""

    def print_rest(self) -> None:
        pass


class Cluster(MemoryBackend):
    """Runs ready children when somebody looks, in any order; interrupted ones once more."""

    def __init__(self, scratch: Path, seed: int) -> None:
        super().__init__()
        self.random = random.Random(seed)
        self._scratch = scratch
        self.is_busy = False
        #: Children that end between two looks of a driver.
        self.pace = 10_000

    def summaries(self, native_ids: Sequence[str]) -> Mapping[str, JobSummary]:
        self.go_on(self.pace)
        return super().summaries(native_ids)

    def go_on(self, most: int = 10_000) -> None:
        """Ends so many children, those included that become ready by it."""
        while most and (ready := self.ready()):
            native_id, index = self.random.choice(ready)
            self.finish(native_id, index, self._ran(self.jobs[native_id].request, native_id, index))
            most -= 1

    def _ran(self, request: JobRequest, native_id: str, index: int) -> int:
        self.is_busy = True
        try:
            code = 75
            for attempt in (1, 2):
                environment = {
                    **request.environment,
                    Variable.SCRATCH: str(self._scratch),
                    Variable.ATTEMPT: str(attempt),
                    Variable.JOB_ID: f"{native_id}:{index}",
                    **({Variable.ARRAY_INDEX: str(index)} if request.size > 1 else {}),
                }
                code = run_child(environment, (), {}) if code == 75 else code
            return code
        finally:
            self.is_busy = False


class Mortal:
    """A driver's connection to the backend."""

    def __init__(self, cluster: Cluster, life: Life) -> None:
        self._cluster, self._life = cluster, life

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._cluster, name)
        if not callable(value) or name == "limits":
            return value

        def counted(*arguments: Any, **options: Any) -> Any:
            self._life.note(f"backend {name}")
            return value(*arguments, **options)

        return counted


@dataclass
class Life:
    """Counts a driver's calls; before call number `ends_at` it is killed. 0: it lives."""

    ends_at: int = 0
    calls: list[str] = field(default_factory=list)
    is_over: bool = False

    def note(self, call: str) -> None:
        self.calls.append(call)
        if self.is_over or len(self.calls) == self.ends_at:
            self.is_over = True
            raise Killed


@dataclass
class Place:
    """A store, a cluster, samples and a pipeline."""

    shape: Shape
    samples: tuple[str, ...]
    store: Store
    cluster: Cluster
    play: Play
    life: Life = field(default_factory=Life)
    depth: int = 1
    #: 0: as many as the backend takes.
    max_children: int = 0

    def request(self, selection: Selection | None = None, *, check_results: bool = False) -> Request:
        workflow = self.shape.workflow()
        options = {"watch.poll_seconds": 0.001, "backend.max_children": self.max_children}
        settings = load_settings(options, environ={}, folder=Path("/nowhere"))
        return Request(
            workflow=workflow,
            graph=Graph.of(workflow, {"depth": self.depth}),
            samples=SampleList.of(self.samples),
            store=self.store,
            settings=settings,
            selection=selection or Selection(),
            sources="SR",
            check_results=check_results,
        )

    def drive(self, request: Request, *, ends_at: int = 0) -> Outcome | None:
        """One command; None: it was killed."""
        self.life = life = Life(ends_at=ends_at)
        driver = Driver(request, Mortal(self.cluster, life), sleep=lambda seconds: None)
        try:
            outcome = driver.run(NullListener(), detach=False)
            driver.close()
        except (Killed, BatchPipelineError):
            if not life.is_over:
                raise
            return None
        return outcome

    def look(self, selection: Selection | None = None, *, check_results: bool = False) -> dict[Cell, CellState]:
        """State of each cell, as a plan sees it."""
        self.life = Life()
        driver = Driver(self.request(selection, check_results=check_results), self.cluster)
        plan = driver.inspect().plan
        driver.close()
        return {(step, sample): state for step in plan.states for sample, state in plan.cells(step)}

    def receipt(self, cell: Cell) -> dict[str, Any]:
        (entry,) = self.store.list(layout.receipts(*cell))
        value: dict[str, Any] = self.store.get_json(entry.key)
        return value

    def check_true(self, selection: Selection | None = None) -> None:
        """Every done cell's results have the bytes of its receipt, which names the inputs that are vouched for now."""
        states = self.look(selection)
        done = {cell: self.receipt(cell) for cell, state in states.items() if state is CellState.DONE}
        vouched = {file["key"]: (cell, file["sha256"]) for cell, receipt in done.items() for file in receipt["outputs"]}
        for cell, receipt in done.items():
            for file in receipt["outputs"]:
                # Who removed it by hand may be told by --check-results.
                if file["key"] in set(self.store.keys(file["key"].rpartition("/")[0])):
                    assert sha256_of_bytes(self.store.get(file["key"])) == file["sha256"], f"{cell}: {file['key']}"
            for file in receipt["inputs"]:
                other, sha256 = vouched.get(file["key"], (None, file["sha256"]))
                assert file["sha256"] == sha256, f"{cell} is done, with other bytes of {other}"


@contextmanager
def played(shape: Shape, samples: Sequence[str], seed: int, *, deterministic: bool) -> Iterator[Place]:
    """A new place; everything in it happens in this process."""
    scratch = Path(tempfile.mkdtemp(prefix="again-"))
    store = open_store(f"memory://{uuid.uuid4()}")
    play = Play(deterministic=deterministic)
    cluster = Cluster(scratch, seed)
    place = Place(shape, tuple(samples), store, cluster, play)
    for sample in samples:
        store.put(f"SR/{sample}.txt", sample.encode())
    with pytest.MonkeyPatch.context() as patch:
        call = Store._call

        def counted(self: Store, kind: str, key: str, count: int = 1) -> Any:
            if not cluster.is_busy:
                place.life.note(f"{kind} {key}")
            return call(self, kind, key, count)

        patch.setattr(Store, "_call", counted)
        patch.setattr(cells, "CellAttempt", Played)
        patch.setattr(cells, "log_of", lambda folder, excerpt=None: Quiet())
        patch.setattr(cells, "say", lambda text: None)
        patch.setattr(Played, "play", play)
        patch.setattr("batch_pipeline.run.lock._is_gone", lambda holder: True)
        try:
            yield place
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


def dumped(place: Place) -> str:
    """What is retired, for a failure's message."""
    return json.dumps([place.store.get_json(key) for key in place.store.keys(layout.RETIRED)], indent=1)
