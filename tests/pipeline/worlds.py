"""Small worlds for the planner's properties: any pipeline, a store of receipts, and jobs that run as Batch runs them.

The world knows nothing of how plans are made. It takes a plan's jobs, keeps their dependencies as Batch would (child on
child, or child on whole job), runs ready children in any order, and lets each do what a container does: refuse to start
without the receipts that its row names, keep a result whose receipt was retired if it read the same bytes, else make
it, remove the cell's older receipts and write its own. Bytes are numbers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import Any, TypeVar

from hypothesis import strategies as st

from batch_pipeline.backends.quotas import AWS_BATCH
from batch_pipeline.pipeline.fingerprint import StepParts, step_parts
from batch_pipeline.pipeline.plan import (
    CellNeed,
    Inventory,
    LiveJob,
    Plan,
    PlannedJob,
    Retired,
    RetryOverrides,
    Selection,
)
from batch_pipeline.pipeline.planner import make_plan
from batch_pipeline.pipeline.rows import Rows
from batch_pipeline.pipeline.step import Input, Output, Scope, Step
from batch_pipeline.pipeline.wiring import options_of
from batch_pipeline.pipeline.workflow import Connection, Graph, Node, Port, Source, Task
from batch_pipeline.wire.layout import COHORT
from batch_pipeline.wire.manifest import SourceFile

Item = TypeVar("Item")
#: (step, sample).
Cell = tuple[str, str]
#: Step, sample and fingerprint.
Name = tuple[str, str, str]


class PerSample(Step):
    """A step of the samples."""

    p0, p1, p2, p3, source = (Input() for _ in range(5))
    out = Output("out")


class Gather(Step):
    """A step of the cohort."""

    scope = Scope.COHORT
    out = Output("out")


class PerPart(PerSample):
    """A step of parts, two of even samples and one of the others."""

    scope = Scope.PART


class PerGroup(PerSample):
    """A step of groups of samples."""

    scope = Scope.GROUP


class Tolerant(PerSample):
    """A step of the samples that does without any of its inputs."""

    p0, p1, p2, p3, source = (Input(optional=True) for _ in range(5))


class TolerantGather(Gather):
    """A step of the cohort that does without any of its inputs."""

    p0, p1, p2, p3 = (Input(optional=True) for _ in range(4))


_CLASSES: dict[tuple[Scope, bool], type[Step]] = {
    (Scope.SAMPLE, False): PerSample,
    (Scope.SAMPLE, True): Tolerant,
    (Scope.PART, False): PerPart,
    (Scope.GROUP, False): PerGroup,
    (Scope.COHORT, False): Gather,
    (Scope.COHORT, True): TolerantGather,
}
#: What a step has beside results of a step with a condition: nothing, its source, or those of the first step.
OPTIONAL, OR_SOURCE, OR_FIRST = range(3)


def graph_of(
    *wires: tuple[str, Scope, Sequence[str]], sources: Iterable[str] = (), conditions: Mapping[str, int] | None = None
) -> Graph:
    """A graph from (name, scope, upstream names); steps of `sources`, and roots, have a source.

    `conditions` has the steps with a condition, and what their readers have beside them.
    """
    conditions = conditions or {}
    scopes = {name: scope for name, scope, _ in wires}
    first = wires[0][0]

    def connection(reader: str, up: str) -> Connection:
        port, alternative = Port(tasks[up], "out"), conditions.get(up, OPTIONAL)
        if alternative == OR_FIRST and (scopes[reader], scopes[up]) != (Scope.COHORT, Scope.COHORT):
            return port | Port(tasks[first], "out")
        has_source = alternative == OR_SOURCE and scopes[reader] is Scope.SAMPLE
        return port | Source(files=("{sample}",)) if has_source else port

    def tolerant(reader: str, upstream: Sequence[str]) -> bool:
        """Whether it may have nothing of a step with a condition, as it has no alternative."""
        return any(up in conditions and len(options_of(connection(reader, up))) == 1 for up in upstream)

    tasks: dict[str, Task] = {}
    nodes = []
    for name, scope, upstream in wires:
        tasks[name] = Task(name, _CLASSES[scope, tolerant(name, upstream)])
        if name in conditions:
            tasks[name].set_condition("wanted", "")
        inputs: dict[str, Connection] = {f"p{i}": connection(name, up) for i, up in enumerate(upstream)}
        if scope in (Scope.SAMPLE, Scope.PART) and (not upstream or name in sources):
            inputs["source"] = Source(files=("{sample}",))
        nodes.append(Node(name=name, step=tasks[name].step_class(), inputs=inputs, when=tasks[name].when))
    return Graph(name="World", root=Path("/"), nodes=tuple(nodes))


@dataclass
class Child:
    """One child of a sent job, or a plain job's only one."""

    sample: str
    fingerprint: str
    #: The receipts without which it refuses to start.
    needs: tuple[Name, ...]
    #: The receipt of its own that was retired, and whether it may be kept.
    retired: bool = False
    may_keep: bool = False
    #: The bytes that it found when it started.
    read: dict[Cell, int] = field(default_factory=dict)
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
        return all(child.state in ("done", "failed") for child in self.children)


@dataclass
class World:
    """A pipeline, samples, what the store holds and what the backend runs."""

    graph: Graph
    samples: list[str]
    max_array_size: int = 3
    max_dependencies: int = 4
    max_live_children: int | None = None
    most_calls: int = 200
    random: Random = field(default_factory=lambda: Random(0))
    parts: dict[str, StepParts] = field(default_factory=dict)
    etags: dict[str, str] = field(default_factory=dict)
    absent: set[str] = field(default_factory=set)
    #: Cells whose step's condition is false.
    excluded: set[Cell] = field(default_factory=set)
    receipts: dict[Cell, frozenset[str]] = field(default_factory=dict)
    #: Which writing of a receipt it is; what is not here was written once.
    versions: dict[Name, int] = field(default_factory=dict)
    #: What plans retired: the version that counts for nothing, and whether the cell must run.
    retired: dict[Name, Retired] = field(default_factory=dict)
    #: The bytes of a cell's result, and those that its receipt says it read.
    results: dict[Cell, int] = field(default_factory=dict)
    read: dict[Name, dict[Cell, int]] = field(default_factory=dict)
    #: Whether bytes are the same whenever a cell is made of the same.
    deterministic: bool = False
    #: Cells whose results are missing, to who checks them.
    untrue: set[Cell] = field(default_factory=set)
    jobs: list[Sent] = field(default_factory=list)
    #: Cells in the order in which they succeeded, kept ones too; and those that were kept.
    ran: list[Cell] = field(default_factory=list)
    kept: list[Cell] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.parts = {
            name: StepParts(code=f"{name} 1", params={}, image="", references={}) for name in self.graph.names
        }

    def change_code(self, step: str) -> None:
        self.parts[step] = replace(self.parts[step], code=self.parts[step].code + "+")

    def change_condition(self, cell: Cell) -> None:
        """The condition of the cell's step is false for it from now on, or true again."""
        self.excluded ^= {cell}

    def conditional_cells(self) -> list[Cell]:
        """The cells of steps with a condition."""
        nodes = [node for node in self.graph if node.when]
        names = {Scope.COHORT: [COHORT], Scope.SAMPLE: self.samples}
        return [(node.name, name) for node in nodes for name in names[node.scope]]

    def change_source(self, sample: str) -> None:
        self.etags[sample] = self.etags.get(sample, sample) + "+"

    def inventory(self) -> Inventory:
        """What a driver would read from store and backend."""
        receipts: dict[str, dict[str, tuple[str, ...]]] = {name: {} for name in self.graph.names}
        retired: dict[str, dict[str, dict[str, Retired]]] = {name: {} for name in self.graph.names}
        untrue: dict[str, dict[str, tuple[str, ...]]] = {name: {} for name in self.graph.names}
        for (step, sample), prints in self.receipts.items():
            for fingerprint in sorted(prints):
                name = (step, sample, fingerprint)
                if self.is_retired(name):
                    retired[step].setdefault(sample, {})[fingerprint] = self.retired[name]
                else:
                    standing = untrue if (step, sample) in self.untrue else receipts
                    standing[step][sample] = (*standing[step].get(sample, ()), fingerprint)
        keys = {f"{node.name}.{port}": port in node.optional for node in self.graph for port in node.sources}
        sources: dict[str, dict[str, tuple[SourceFile, ...]]] = {
            sample: dict.fromkeys(keys, (SourceFile(url=sample, etag=self.etags.get(sample, sample), size_bytes=1),))
            if sample not in self.absent
            else {key: () for key, optional in keys.items() if optional}
            for sample in self.samples
        }
        excluded: dict[str, set[str]] = {}
        for step, sample in self.excluded:
            excluded.setdefault(step, set()).add(sample)
        absent = {sample: f"{sample} is not there." for sample in self.samples if sample in self.absent}
        return Inventory(
            rows=self.rows(),
            receipts=receipts,
            retired=retired,
            untrue=untrue,
            gathered={step: self.gathered((step, COHORT)) for step in receipts if self.counting((step, COHORT))},
            sources=sources,
            excluded=excluded,
            absent=absent,
            live=self.live(),
            live_children=self.live_children(),
        )

    def rows(self) -> dict[str, Rows]:
        """The rows of steps of parts and groups, of the samples that there are now."""
        if not any(node.scope in (Scope.PART, Scope.GROUP) for node in self.graph):
            return {}
        of_parts = [(i, part) for i, sample in enumerate(self.samples) for part in parts_of(sample)]
        parts = Rows(
            names=tuple(f"{self.samples[i]}@{part}" for i, part in of_parts),
            members=[(i,) for i, _ in of_parts],
            parts=tuple(part for _, part in of_parts),
        )
        members: dict[str, list[int]] = {}
        for i, sample in enumerate(self.samples):
            members.setdefault(group_of(sample), []).append(i)
        groups = Rows(names=tuple(members), members=list(members.values()))
        by_scope = {Scope.PART: parts, Scope.GROUP: groups}
        return {node.name: by_scope[node.scope] for node in self.graph if node.scope in by_scope}

    def gathered(self, gather: Cell) -> frozenset[str]:
        """The samples of which a gather's one receipt that counts was made."""
        [*prints] = self.counting(gather)
        read = self.read.get((*gather, prints[0]), {}) if len(prints) == 1 else {}
        return frozenset(sample for _, sample in read if sample != COHORT)

    def is_retired(self, name: Name) -> bool:
        """Whether the receipt that stands there counts for nothing."""
        return name in self.retired and self.retired[name].version == str(self.versions.get(name, 0))

    def counting(self, cell: Cell) -> frozenset[str]:
        """Fingerprints of a cell's receipts that count."""
        standing = self.receipts.get(cell, frozenset())
        return frozenset(one for one in standing if not self.is_retired((*cell, one)) and cell not in self.untrue)

    def live(self) -> list[LiveJob]:
        return [
            LiveJob(
                native_id=job.native_id,
                run_id="RUN",
                step=job.step,
                samples=tuple(child.sample for child in job.children),
                fingerprints=tuple(child.fingerprint for child in job.children),
                ended=frozenset(child.sample for child in job.children if child.state == "failed"),
            )
            for job in self.jobs
            if not job.over and not job.join
        ]

    def live_children(self) -> int:
        """Children on the queue that have not ended, of the samples' jobs."""
        jobs = [job for job in self.jobs if not job.join and COHORT not in [child.sample for child in job.children]]
        return sum(child.state in ("waiting", "running") for job in jobs for child in job.children)

    def may_run(self, cell: Cell) -> bool:
        """Whether a live job may still make a cell: nothing that it waits for has failed."""
        return any(
            child.state in ("waiting", "running") and _is_hopeful(job, index)
            for job in self.jobs
            for index, child in enumerate(job.children)
            if (job.step, child.sample) == cell
        )

    def plan(
        self,
        selection: Selection | None = None,
        made: AbstractSet[Cell] = frozenset(),
        failed: Mapping[Cell, str] | None = None,
        overrides: Mapping[Cell, RetryOverrides] | None = None,
        needs: Mapping[str, Mapping[str, CellNeed]] | None = None,
    ) -> Plan:
        return make_plan(
            self.graph,
            self.samples,
            self.parts,
            replace(self.inventory(), made=made, failed=failed or {}, overrides=overrides or {}, needs=needs or {}),
            selection or Selection(),
            replace(
                AWS_BATCH,
                max_array_size=self.max_array_size,
                max_dependencies=self.max_dependencies,
                max_live_children=self.max_live_children,
                most_calls=self.most_calls,
            ),
        )

    def send(self, plan: Plan, jobs: Sequence[PlannedJob] | None = None) -> list[Sent]:
        """Retires what the plan says and queues its jobs, or the first of them."""
        for name, must_run in plan.retires.items():
            assert name[2] in self.receipts[name[0], name[1]], "nothing stands there"
            must_run |= self.is_retired(name) and self.retired[name].must_run
            self.retired[name] = Retired(run_id="RUN", version=str(self.versions.get(name, 0)), must_run=must_run)
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
        children = []
        for sample, print_ in plan.members_of(job):
            child = Child(sample, print_, tuple(_needs(plan, job.step, sample)))
            child.retired = self.is_retired((job.step, sample, print_))
            child.may_keep = child.retired and not self.retired[job.step, sample, print_].must_run
            children.append(child)
        return children

    def run(self, *, children: int | None = None, failing: AbstractSet[Cell] = frozenset()) -> None:
        """Runs ready children in any order until none is left, or until as many as told have ended.

        A child reads when it starts and publishes when it ends; what happens between, happens without it.
        """
        while children is None or children > 0:
            ready = [
                (job, child)
                for job in self.jobs
                for i, child in enumerate(job.children)
                if child.state == "running" or (child.state == "waiting" and _gate(job, i) != "waiting")
            ]
            if not ready:
                break
            job, child = self.random.choice(ready)
            if child.state == "waiting":
                self._start(job, child)
            else:
                self._end(job, child, failing)
            children = None if children is None else children - (child.state != "running")

    def _start(self, job: Sent, child: Child) -> None:
        """Stages what it reads; what lacks something fails at once."""
        there = all(print_ in self.receipts.get((step, sample), ()) for step, sample, print_ in child.needs)
        if _gate(job, job.children.index(child)) == "failed" or not there:
            child.state = "failed"
            return
        assert not any(map(self.is_retired, child.needs)), f"{job.step} of {child.sample} reads what was retired"
        child.read = {(step, sample): self.results.get((step, sample), -1) for step, sample, _ in child.needs}
        child.state = "running"

    def _end(self, job: Sent, child: Child, failing: AbstractSet[Cell]) -> None:
        cell = (job.step, child.sample)
        if cell in failing:
            child.state = "failed"
            return
        child.state = "done"
        if job.join:
            return
        name = (*cell, child.fingerprint)
        stands = child.fingerprint in self.receipts.get(cell, ()) and cell not in self.untrue
        if child.may_keep and stands and self.read.get(name) == child.read:
            self.kept.append(cell)
        elif self.deterministic:
            self.results[cell] = hash((*name, *child.read.values()))
        else:
            self.results[cell] = len(self.ran)
        self.receipts[cell] = frozenset({child.fingerprint})
        self.versions[name] = self.versions.get(name, 0) + 1
        self.read[name] = child.read
        self.untrue.discard(cell)
        self.ran.append(cell)


def reads(plan: Plan, cell: Cell) -> Iterable[Cell]:
    """The cells that a cell reads, those apart that a gather does without."""
    step, sample = cell
    # What a cell of parts or groups reads depends on no condition.
    position = plan.samples.index(sample) if sample in plan.samples else 0
    for upstream in plan.graph[step].upstream:
        is_read = upstream in plan.reads(step, position)
        if plan.graph[upstream].scope is Scope.COHORT:
            yield from [(upstream, COHORT)] if is_read else []
        elif sample == COHORT:
            yield from ((upstream, plan.rows[upstream].names[i]) for i in plan.gathers(step, upstream))
        elif is_read and plan.graph[upstream].scope is plan.graph[step].scope:
            yield upstream, sample
        elif is_read:
            own = samples_of(plan, cell)
            others = ((upstream, name) for name, _ in plan.cells(upstream))
            yield from (other for other in others if not own.isdisjoint(samples_of(plan, other)))


def samples_of(plan: Plan, cell: Cell) -> set[str]:
    """The samples that a cell is of, by its name alone."""
    scope, name = plan.graph[cell[0]].scope, cell[1]
    if scope is Scope.GROUP:
        return {sample for sample in plan.samples if group_of(sample) == name}
    return {name.rpartition("@")[0] if scope is Scope.PART else name}


def parts_of(sample: str) -> tuple[str, ...]:
    """Two parts of an even sample, one of an odd one."""
    return ("p", "q")[: 1 + (sample[-1] in "02468")]


def group_of(sample: str) -> str:
    """One of three groups."""
    return f"g{int(sample[-1]) % 3}"


def _needs(plan: Plan, step: str, sample: str) -> Iterable[tuple[str, str, str]]:
    for upstream, name in reads(plan, (step, sample)):
        yield upstream, name, plan.fingerprints[upstream][plan.rows[upstream].positions[name]]


def _is_hopeful(job: Sent, index: int) -> bool:
    """Whether nothing that a child waits for, however far up, has failed."""
    for dependency, index_by_index in job.after:
        for i, child in enumerate(dependency.children):
            if (not index_by_index or i == index) and (child.state == "failed" or not _is_hopeful(dependency, i)):
                return False
    return True


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
    return "waiting" if states & {"waiting", "running"} else "failed" if "failed" in states else "open"


# Strategies are made once: making and validating them costs ten times what a plan does. So what is drawn are numbers,
# and what they mean is counted round the items that there are.
_NUMBER = st.integers(0, 999)
_NUMBERS = {most: st.lists(_NUMBER, max_size=most) for most in (1, 2, 3, 4)}
#: Kind, upstream steps, whether it has a source, and from 3 on that it has a condition.
_STEP = st.tuples(st.integers(0, 2), _NUMBERS[3], st.booleans(), st.integers(0, 5))
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


def _graph(drawn: Sequence[tuple[int, list[int], bool, int]]) -> Graph:
    """Chains, diamonds, several roots, gathers, gathers of gathers, sample steps below a gather, conditions."""
    wires: list[tuple[str, Scope, list[str]]] = [("s0", Scope.SAMPLE, [])]
    sources, conditions = set(), {}
    for i, (kind, numbers, reads_source, condition) in enumerate(drawn, start=1):
        scope = Scope.COHORT if kind == 2 else Scope.SAMPLE
        upstream = list(dict.fromkeys(f"s{number % i}" for number in numbers))
        if scope is Scope.COHORT and not upstream:
            upstream = [f"s{i - 1}"]
        if reads_source:
            sources.add(f"s{i}")
        if condition > OR_FIRST:
            conditions[f"s{i}"] = condition - OR_FIRST - 1
        wires.append((f"s{i}", scope, upstream))
    return graph_of(*wires, sources=sources, conditions=conditions)


def _world(shape: tuple[Sequence[tuple[int, list[int], bool, int]], int, int, int, int]) -> World:
    steps, samples, max_array_size, max_dependencies, seed = shape
    world = World(
        graph=_graph(steps),
        samples=[f"x{i}" for i in range(samples)],
        max_array_size=max_array_size,
        max_dependencies=max_dependencies,
        random=Random(seed),
        deterministic=bool(seed % 2),
    )
    by_condition = Random(seed)
    world.excluded = {cell for cell in world.conditional_cells() if by_condition.random() < 0.5}
    return world


def _mixed_graph(drawn: Sequence[tuple[int, list[int], bool, int]]) -> Graph:
    """The same with steps of parts and groups, and without conditions; a gather reads steps of equal rows."""
    scopes = (Scope.SAMPLE, Scope.PART, Scope.GROUP, Scope.COHORT, Scope.PART, Scope.GROUP)
    wires: list[tuple[str, Scope, list[str]]] = [("s0", Scope.SAMPLE, [])]
    for i, (_, numbers, _, kind) in enumerate(drawn, start=1):
        scope = scopes[kind]
        upstream = list(dict.fromkeys(f"s{number % i}" for number in numbers)) or [f"s{i - 1}"]
        if scope is Scope.COHORT:
            known = {name: of for name, of, _ in wires}
            first = next((known[up] for up in upstream if known[up] is not Scope.COHORT), Scope.COHORT)
            upstream = [up for up in upstream if known[up] in (first, Scope.COHORT)]
        wires.append((f"s{i}", scope, upstream))
    return graph_of(*wires)


def _mixed_world(shape: tuple[Sequence[tuple[int, list[int], bool, int]], int, int, int, int]) -> World:
    steps, samples, max_array_size, max_dependencies, seed = shape
    return World(
        graph=_mixed_graph(steps),
        samples=[f"x{i}" for i in range(samples)],
        max_array_size=max_array_size,
        max_dependencies=max_dependencies,
        most_calls=(1, 6, 1000)[seed % 3],
        random=Random(seed),
        deterministic=bool(seed % 2),
    )


#: The same whose steps are of samples, parts and groups, with few calls or many.
MIXED_WORLDS = _SHAPE.map(_mixed_world)
#: A pipeline with nothing done: up to seven steps and samples, arrays of at most 1 to 4, jobs after at most 3 to 5.
WORLDS = _SHAPE.map(_world)


def former_parts(*of_step: Any) -> StepParts:
    """The parts of a step as earlier versions made them (`step_parts`)."""
    parts = step_parts(*of_step)
    return replace(parts, code=parts.files, names={}, files="")
