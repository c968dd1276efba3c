"""Small worlds for the planner's properties: any pipeline, a store of receipts, and jobs that run as Batch runs them.

The world knows nothing of how plans are made. It takes a plan's jobs, keeps their dependencies as Batch would (child on
child, or child on whole job), runs ready children in any order, and lets each do what a container does: refuse to start
without the receipts that its row names, remove the cell's older receipts, write its own.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import TypeVar

from hypothesis import settings
from hypothesis import strategies as st

from batch_pipeline.pipeline.fingerprint import StepParts
from batch_pipeline.pipeline.plan import Inventory, LiveJob, Plan, PlannedJob, Remedy, Selection
from batch_pipeline.pipeline.planner import make_plan
from batch_pipeline.pipeline.step import Output, Scope, Step
from batch_pipeline.pipeline.workflow import Graph, Node, Port, Source, Task
from batch_pipeline.wire.layout import COHORT
from batch_pipeline.wire.manifest import SourceFile

Item = TypeVar("Item")
#: (step, sample).
Cell = tuple[str, str]


class PerSample(Step):
    """A step of the samples."""

    out = Output("out")


class Gather(Step):
    """A step of the cohort."""

    scope = Scope.COHORT
    out = Output("out")


def bounded(examples: int) -> settings:
    """The same examples every time, so that a failure is the change's; `PLANNER_EXAMPLES=5000` looks deeper."""
    more = int(os.environ.get("PLANNER_EXAMPLES", "0"))
    return settings(max_examples=more or examples, derandomize=not more, deadline=None, database=None)


def graph_of(*wires: tuple[str, Scope, Sequence[str]], sources: Iterable[str] = ()) -> Graph:
    """A graph from (name, scope, upstream names); steps of `sources`, and roots, have a source."""
    tasks = {name: Task(name, Gather if scope is Scope.COHORT else PerSample) for name, scope, _ in wires}
    nodes = []
    for name, scope, upstream in wires:
        inputs: dict[str, Port | Source] = {f"p{i}": Port(tasks[up], "out") for i, up in enumerate(upstream)}
        if scope is Scope.SAMPLE and (not upstream or name in sources):
            inputs["source"] = Source(files=("{sample}",))
        nodes.append(Node(name=name, step=tasks[name].step_class(), inputs=inputs))
    return Graph(name="World", root=Path("/"), nodes=tuple(nodes))


@dataclass
class Child:
    """One child of a sent job, or a plain job's only one."""

    sample: str
    fingerprint: str
    #: (step, sample, fingerprint) of the receipts without which it refuses to start.
    needs: tuple[tuple[str, str, str], ...]
    state: str = "waiting"


@dataclass(eq=False)
class Sent:
    """A job on the queue."""

    native_id: str
    step: str
    join: bool
    children: list[Child]
    after: list[tuple[Sent, bool]]

    @property
    def over(self) -> bool:
        return all(child.state != "waiting" for child in self.children)


@dataclass
class World:
    """A pipeline, samples, what the store holds and what the backend runs."""

    graph: Graph
    samples: list[str]
    max_array_size: int = 3
    max_dependencies: int = 4
    random: Random = field(default_factory=lambda: Random(0))
    parts: dict[str, StepParts] = field(default_factory=dict)
    etags: dict[str, str] = field(default_factory=dict)
    absent: set[str] = field(default_factory=set)
    receipts: dict[Cell, frozenset[str]] = field(default_factory=dict)
    jobs: list[Sent] = field(default_factory=list)
    #: Cells in the order in which they succeeded.
    ran: list[Cell] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.parts = {
            name: StepParts(code=f"{name} 1", params={}, image="", references={}) for name in self.graph.names
        }

    def change_code(self, step: str) -> None:
        self.parts[step] = replace(self.parts[step], code=self.parts[step].code + "+")

    def change_source(self, sample: str) -> None:
        self.etags[sample] = self.etags.get(sample, sample) + "+"

    def inventory(self) -> Inventory:
        """What a driver would read from store and backend."""
        receipts: dict[str, dict[str, tuple[str, ...]]] = {name: {} for name in self.graph.names}
        for (step, sample), prints in self.receipts.items():
            if prints:
                receipts[step][sample] = tuple(sorted(prints))
        keys = [f"{node.name}.{port}" for node in self.graph for port in node.sources]
        sources = {
            sample: dict.fromkeys(keys, (SourceFile(url=sample, etag=self.etags.get(sample, sample), size_bytes=1),))
            for sample in self.samples
            if sample not in self.absent
        }
        absent = {sample: f"{sample} is not there." for sample in self.samples if sample in self.absent}
        return Inventory(receipts=receipts, sources=sources, absent=absent, live=self.live())

    def live(self) -> list[LiveJob]:
        return [
            LiveJob(
                native_id=job.native_id,
                run_id="RUN",
                step=job.step,
                samples=tuple(child.sample for child in job.children),
                fingerprints=tuple(child.fingerprint for child in job.children),
            )
            for job in self.jobs
            if not job.over and not job.join
        ]

    def plan(
        self,
        selection: Selection | None = None,
        made: AbstractSet[Cell] = frozenset(),
        failed: Mapping[Cell, str] | None = None,
        remedies: Mapping[Cell, Remedy] | None = None,
    ) -> Plan:
        return make_plan(
            self.graph,
            self.samples,
            self.parts,
            replace(self.inventory(), made=made, failed=failed or {}, remedies=remedies or {}),
            selection or Selection(),
            max_array_size=self.max_array_size,
            max_dependencies=self.max_dependencies,
        )

    def send(self, plan: Plan, jobs: Sequence[PlannedJob] | None = None) -> list[Sent]:
        """Queues a plan's jobs, or the first of them."""
        named: dict[str, Sent] = {}
        alive = {job.native_id: job for job in self.jobs}
        for job in plan.jobs if jobs is None else jobs:
            after = [((alive if edge.live else named)[edge.job], edge.index_by_index) for edge in job.after]
            sent = Sent(f"job-{len(self.jobs)}", job.step, job.join, self._children(plan, job), after)
            named[job.name] = sent
            self.jobs.append(sent)
        return list(named.values())

    def _children(self, plan: Plan, job: PlannedJob) -> list[Child]:
        if job.join:
            return [Child("", "", ())]
        return [Child(sample, print_, tuple(_needs(plan, job.step, sample))) for sample, print_ in plan.members_of(job)]

    def run(self, *, children: int | None = None, failing: AbstractSet[Cell] = frozenset()) -> None:
        """Runs ready children in any order until none is left, or as many as told."""
        while children is None or children > 0:
            ready = [
                (job, child)
                for job in self.jobs
                for i, child in enumerate(job.children)
                if child.state == "waiting" and _gate(job, i) != "waiting"
            ]
            if not ready:
                break
            job, child = self.random.choice(ready)
            self._end(job, child, failing)
            children = None if children is None else children - 1

    def _end(self, job: Sent, child: Child, failing: AbstractSet[Cell]) -> None:
        cell = (job.step, child.sample)
        there = all(print_ in self.receipts.get((step, sample), ()) for step, sample, print_ in child.needs)
        if _gate(job, job.children.index(child)) == "failed" or not there or cell in failing:
            child.state = "failed"
            return
        child.state = "done"
        if not job.join:
            self.receipts[cell] = frozenset({child.fingerprint})
            self.ran.append(cell)


def _needs(plan: Plan, step: str, sample: str) -> Iterable[tuple[str, str, str]]:
    for upstream in plan.graph[step].upstream:
        prints = plan.fingerprints[upstream]
        if plan.graph[upstream].scope is Scope.COHORT:
            yield upstream, COHORT, prints[0]
        elif sample == COHORT:
            without = plan.missing.get(step, ())
            yield from ((upstream, s, p) for s, p in zip(plan.samples, prints, strict=True) if s not in without)
        else:
            yield upstream, sample, prints[plan.samples.index(sample)]


def _gate(job: Sent, index: int) -> str:
    """Whether a child may start: waiting, open, or failed because something that it depends on did."""
    states: set[str] = set()
    for dependency, index_by_index in job.after:
        if index_by_index:
            assert len(dependency.children) == len(job.children) > 1, "N_TO_N joins arrays of one size alone"
            states.add(dependency.children[index].state)
        elif not dependency.over:
            states.add("waiting")
        else:
            states.update(child.state for child in dependency.children)
    return "waiting" if "waiting" in states else "failed" if "failed" in states else "open"


# Strategies are made once: making and validating them costs ten times what a plan does. So what is drawn are numbers,
# and what they mean is counted round the items that there are.
_NUMBER = st.integers(0, 999)
_NUMBERS = {most: st.lists(_NUMBER, max_size=most) for most in (1, 2, 3, 4)}
_STEP = st.tuples(st.integers(0, 2), _NUMBERS[3], st.booleans())
_STEPS = st.lists(_STEP, max_size=6)
_SHAPE = st.tuples(_STEPS, st.integers(1, 7), st.integers(1, 4), st.integers(3, 5), st.integers(0, 2**16))
_FLAG = st.booleans()


def flag(data: st.DataObject, label: str) -> bool:
    """Yes or no."""
    return data.draw(_FLAG, label=label)


def count(data: st.DataObject, most: int, label: str) -> int:
    """A number up to `most`."""
    return data.draw(_NUMBER, label=label) % (most + 1)


def some(data: st.DataObject, items: Sequence[Item], most: int, label: str) -> list[Item]:
    """Up to so many of the items, each once."""
    return list(dict.fromkeys(items[number % len(items)] for number in data.draw(_NUMBERS[most], label=label)))


def one(data: st.DataObject, items: Sequence[Item], label: str) -> Item:
    """One of the items."""
    return items[count(data, len(items) - 1, label)]


def _graph(drawn: Sequence[tuple[int, list[int], bool]]) -> Graph:
    """Chains, diamonds, several roots, gathers, gathers of gathers, sample steps below a gather."""
    wires: list[tuple[str, Scope, list[str]]] = [("s0", Scope.SAMPLE, [])]
    sources = set()
    for i, (kind, numbers, reads_source) in enumerate(drawn, start=1):
        scope = Scope.COHORT if kind == 2 else Scope.SAMPLE
        upstream = list(dict.fromkeys(f"s{number % i}" for number in numbers))
        if scope is Scope.COHORT and not upstream:
            upstream = [f"s{i - 1}"]
        if reads_source:
            sources.add(f"s{i}")
        wires.append((f"s{i}", scope, upstream))
    return graph_of(*wires, sources=sources)


def _world(shape: tuple[Sequence[tuple[int, list[int], bool]], int, int, int, int]) -> World:
    steps, samples, max_array_size, max_dependencies, seed = shape
    return World(
        graph=_graph(steps),
        samples=[f"x{i}" for i in range(samples)],
        max_array_size=max_array_size,
        max_dependencies=max_dependencies,
        random=Random(seed),
    )


#: A pipeline with nothing done: up to seven steps and samples, arrays of at most 1 to 4, jobs after at most 3 to 5.
WORLDS = _SHAPE.map(_world)
