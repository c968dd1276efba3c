"""Makes the plan: `make_plan` is a function of values, and the only place where anything is decided.

Four passes. `Cells` (`cells.py`) gives every cell its fingerprint and state, a column of rows at a time; once
more where a cell that is to run reads what was removed after use (`temporary.py`). `_groups` puts
rows together that need the same steps with the same resources and wait for the same live jobs; what their cells ask for
is brought to a few numbers before (`resource_groups.py`). `_shards` has them cut into shards and waves (`waves.py`).
`_Jobs` names the jobs with their dependencies.

No array joins steps of different rows: parts and their samples, samples and their groups (`rows.py`). Where a cell
reads such a step, rows with the same neighbours get jobs of their own (`crossing.py`), so that each waits for what it
reads alone. Where that would be too many calls, such cells are deferred: the next plan takes them when what they read
is done.

A live array can be depended on index by index only by an array of the very same samples in the same order. A driver
that died between two steps leaves just that: the samples of its array still stand together, those that are done by
now among them, so the next step follows them whole. Where they do not, cells whose upstream is done run at once and
the others are deferred to a later plan.

(A little longer than most modules: everything that names a job and what it waits for.)
"""

from __future__ import annotations

from collections.abc import Generator, Hashable, Iterator, Mapping, Sequence

from batch_pipeline.pipeline.cells import Cells
from batch_pipeline.pipeline.conflicts import conflicts_of
from batch_pipeline.pipeline.crossing import (
    Neighbours,
    crossing,
    defer_crossing,
    form_in_words,
    is_between,
    neighbours_of,
)
from batch_pipeline.pipeline.fingerprint import StepParts
from batch_pipeline.pipeline.plan import (
    AS_DEFINED,
    CellNeed,
    CellState,
    Edge,
    Inventory,
    Limits,
    Plan,
    PlannedJob,
    RetryOverrides,
    Selection,
)
from batch_pipeline.pipeline.resource_groups import sized
from batch_pipeline.pipeline.retiring import retired_by
from batch_pipeline.pipeline.rows import Rows
from batch_pipeline.pipeline.step import Scope
from batch_pipeline.pipeline.temporary import with_remade
from batch_pipeline.pipeline.waves import Group, Shard, shards_of
from batch_pipeline.pipeline.workflow import Graph, Node
from batch_pipeline.wire.errors import InvalidPlan
from batch_pipeline.wire.layout import COHORT


def make_plan(
    graph: Graph,
    samples: Sequence[str],
    parts: Mapping[str, StepParts],
    inventory: Inventory,
    selection: Selection,
    limits: Limits,
) -> Plan:
    """The jobs and the state of every cell.

    Every cell that is chosen, missing, not live and not blocked is in exactly one job, after the jobs that make what
    it reads. Raises InvalidPlan when a step reads from more steps than one job may depend on.
    """
    cells = with_remade(Cells(graph, tuple(samples), parts, inventory, selection))
    shards, form = _shards(cells, limits)
    jobs = _Jobs(cells, shards, limits).all()
    return Plan(
        graph=graph,
        samples=cells.samples,
        rows=cells.rows,
        selection=selection,
        jobs=tuple(jobs),
        states={step: column.states for step, column in cells.columns.items()},
        fingerprints={step: column.fingerprints for step, column in cells.columns.items()},
        why={step: column.why for step, column in cells.columns.items()},
        parts=parts,
        blocked=cells.blocked,
        conflicts=conflicts_of(cells),
        missing=cells.missing,
        excluded=cells.excluded,
        choices=cells.choices,
        retires=retired_by(cells),
        problems=inventory.problems,
        form=form,
        limits=limits,
    )


#: A step's part of a signature: with what it runs, if it does, the live job to which the sample still belongs, and the
#: steps that it reads then, where conditions decide that.
_Mark = tuple[RetryOverrides | None, str, tuple[str, ...]]
_RUNS: _Mark = (AS_DEFINED, "", ())
_RESTS: _Mark = (None, "", ())


def _shards(cells: Cells, limits: Limits) -> tuple[list[Shard], str]:
    """The shards with their waves, and the plan's form in words; defers the cells that no wave can take."""
    neighbours: Neighbours = {}
    form = ""
    if any(True for _ in crossing(cells)):
        neighbours = neighbours_of(cells)
        shards = shards_of(_groups(cells, limits.max_array_size, neighbours), limits, cells.inventory.live_children)
        calls = sum(len(shard.group.runs) for shard in shards)
        fits = calls <= limits.most_calls and not any(shard.wave for shard in shards)
        form = form_in_words(cells, calls, limits, fits=fits)
        if not fits:
            neighbours = {}
            defer_crossing(cells)
    while True:
        groups = _groups(cells, limits.max_array_size, neighbours)
        shards = shards_of(groups, limits, cells.inventory.live_children)
        later: dict[Rows, set[int]] = {}
        for shard in shards:
            if shard.wave:
                later.setdefault(shard.group.rows, set()).update(shard.members)
        if following := {job.native_id for shard in shards if shard.wave for job in shard.group.live.values()}:
            cells.defer(following)
        elif not cells.hold(later):
            return shards, form


def _groups(cells: Cells, max_array_size: int, neighbours: Neighbours) -> list[Group]:
    """Groups of all rows, those of different neighbours apart; defers the cells that no group can hold."""
    every = dict.fromkeys(rows for rows in cells.rows.values() if not rows.is_cohort)
    return [group for rows in every for group in _groups_of(cells, rows, max_array_size, neighbours)]


def _groups_of(cells: Cells, rows: Rows, max_array_size: int, neighbours: Neighbours) -> list[Group]:
    """Groups of some rows, in the order of their first one."""
    live = {job.native_id: job for job in cells.inventory.live}
    nodes = _marked(cells, rows)
    steps = [node.name for node in nodes]
    while True:
        signatures = _signatures(cells, rows, nodes, neighbours)
        torn = {
            job
            for (_, signature), members in signatures.items()
            for _, job, _ in signature
            if job and (len(members) > max_array_size or tuple(rows.names[i] for i in members) != live[job].samples)
        }
        if not torn:
            break
        cells.defer(torn)
    groups = []
    for (_, signature), members in signatures.items():
        marks = dict(zip(steps, signature, strict=True))
        runs = {step: overrides for step, (overrides, _, _) in marks.items() if overrides is not None}
        if runs:
            waits = {step: live[job] for step, (_, job, _) in marks.items() if job}
            reads = {step: read for step, (_, _, read) in marks.items() if step in cells.choices}
            groups.append(Group(rows, tuple(members), runs, waits, reads))
    return groups


def _marked(cells: Cells, rows: Rows) -> list[Node]:
    """The steps that make signatures of rows: theirs, and gathers that do not read the same of every one."""
    return [
        node
        for node in cells.graph
        if cells.rows[node.name] is rows
        or (node.scope is Scope.COHORT and node.name in cells.choices and cells.gathered_rows(node) is rows)
    ]


def _signatures(
    cells: Cells, rows: Rows, nodes: Sequence[Node], neighbours: Neighbours
) -> dict[tuple[Hashable, tuple[_Mark, ...]], list[int]]:
    """Positions of rows by their neighbours (None: none), and by what they run and wait for."""
    columns, neighbours_by_row = {node.name: _marks(cells, node) for node in nodes}, neighbours.get(rows, {})
    if cells.inventory.needs:
        _size(cells, columns)
    members: dict[tuple[Hashable, tuple[_Mark, ...]], list[int]] = {}
    for i, signature in enumerate(zip(*columns.values(), strict=True)):
        members.setdefault((neighbours_by_row.get(i), signature), []).append(i)
    return members


def _marks(cells: Cells, node: Node) -> list[_Mark]:
    states, choices = cells.columns[node.name].states, cells.choices.get(node.name)
    if node.scope is Scope.COHORT:
        runs = choices is not None and states[0] is CellState.TO_RUN
        return (
            [(None, "", read) for read in choices.steps]
            if choices and runs
            else [_RESTS] * len(cells.gathered_rows(node).names)
        )
    column = [_RUNS if state is CellState.TO_RUN else _RESTS for state in states]
    _overridden(cells, node, column)
    if choices is not None:
        column = [(*mark[:2], read) if mark[0] else mark for mark, read in zip(column, choices.steps, strict=True)]
    rows = cells.rows[node.name]
    readers = [other for other in cells.graph if node.name in other.upstream and cells.rows[other.name] is rows]
    live_jobs = cells.live.jobs.get(node.name, {})
    for i, sample in enumerate(rows.names if live_jobs and readers else ()):
        job = live_jobs.get(sample)
        if job is None or job.native_id in cells.split or column[i][0] is not None:
            continue
        if any(_will_read(cells, reader, node.name, i) for reader in readers):
            column[i] = (None, job.native_id, ())
    return column


def _will_read(cells: Cells, reader: Node, step: str, position: int) -> bool:
    runs = cells.columns[reader.name].states[position] is CellState.TO_RUN
    return runs and step in cells.reads(reader, position)


def _overridden(cells: Cells, node: Node, column: list[_Mark]) -> None:
    """Marks the cells that run otherwise than their step says."""
    overrides = {sample: one for (step, sample), one in cells.inventory.overrides.items() if step == node.name}
    for i, sample in enumerate(cells.names(node) if overrides else ()):
        if sample in overrides and column[i] is _RUNS:
            column[i] = (overrides[sample], "", ())


def _size(cells: Cells, columns: Mapping[str, list[_Mark]]) -> None:
    """Marks the cells that ask for their resources with those of the sample's group, the same one in all steps."""
    needs: dict[str, dict[int, CellNeed]] = {}
    overrides: dict[str, dict[int, RetryOverrides]] = {}
    for step, by_sample in cells.inventory.needs.items():
        for i, ((run, _, _), name) in enumerate(
            zip(columns.get(step, ()), cells.names(cells.graph[step]), strict=False)
        ):
            if run is not None and name in by_sample:
                needs.setdefault(step, {})[i] = by_sample[name]
                overrides.setdefault(step, {})[i] = run
    waits = (tuple(job for _, job, _ in marks) for marks in zip(*columns.values(), strict=True))
    together = {i: jobs for i, jobs in enumerate(waits) if any(jobs)}
    for step, sent in sized(needs, overrides, together).items():
        column = columns[step]
        for i, run in sent.items():
            column[i] = (run, *column[i][1:])


class _Jobs:
    """Names the jobs of the groups' shards, steps in order, each after those that it depends on."""

    def __init__(self, cells: Cells, shards: Sequence[Shard], limits: Limits) -> None:
        self.cells = cells
        self.shards = shards
        self.max_dependencies = limits.max_dependencies
        #: Rows -> position -> the shard that it is in.
        self.shard_of: dict[Rows, dict[int, Shard]] = {}
        for shard in shards:
            self.shard_of.setdefault(shard.group.rows, {}).update(dict.fromkeys(shard.members, shard))

    def all(self) -> Iterator[PlannedJob]:
        """Every job, steps in order."""
        for node in self.cells.graph:
            if node.scope is Scope.COHORT:
                if self.cells.columns[node.name].states[0] is CellState.TO_RUN:
                    yield from self._gather(node)
                continue
            for shard in self.shards:
                if node.name in shard.group.runs:
                    yield from self._array(node, shard)

    def _array(self, node: Node, shard: Shard) -> Iterator[PlannedJob]:
        group, members = shard.group, shard.members
        edges: list[Edge] = []
        between: list[Edge] = []
        for step in group.reads.get(node.name, node.upstream):
            if self.cells.graph[step].scope is Scope.COHORT:
                edges.extend(self._gather_edge(step))
            elif is_between(self.cells, node, step):
                between += self._edges_between(node, members, step)
            elif step in group.runs:
                edges.append(Edge(job=f"{step}-{shard.suffix}", index_by_index=len(members) > 1))
            elif step in group.live:
                edges.append(Edge(job=group.live[step].native_id, index_by_index=len(members) > 1, live=True))
        if between and len(edges) + len(between) > self.max_dependencies:
            joined = yield from self._joined(f"{node.name}-{shard.suffix}", node, between, 1)
            between = list(joined)
        edges += between
        if len(edges) > self.max_dependencies:
            raise InvalidPlan(
                f"Step {node.name} reads from {len(edges)} steps that are to run, but a job may depend on"
                f" {self.max_dependencies}. Gather some of them first, or run the pipeline with --only-step in parts."
            )
        yield PlannedJob(
            name=f"{node.name}-{shard.suffix}",
            step=node.name,
            members=members,
            after=tuple(edges),
            overrides=group.runs[node.name],
            wave=shard.wave,
        )

    def _edges_between(self, node: Node, members: Sequence[int], step: str) -> Iterator[Edge]:
        """The whole jobs of a step of other rows that make what these rows read."""
        shard_of = self.shard_of.get(self.cells.rows[step], {})
        read = dict.fromkeys(at for i in members for at in self.cells.rows_read(node, step, i))
        shards = (shard_of.get(at) for at in read)
        for suffix in dict.fromkeys(one.suffix for one in shards if one is not None and step in one.group.runs):
            yield Edge(job=f"{step}-{suffix}", index_by_index=False)

    def _gather_edge(self, step: str) -> Iterator[Edge]:
        state = self.cells.columns[step].states[0]
        if state is CellState.TO_RUN:
            yield Edge(job=step, index_by_index=False)
        elif state is CellState.LIVE:
            yield Edge(job=self.cells.live.jobs[step][COHORT].native_id, index_by_index=False, live=True)

    def _gather(self, node: Node) -> Iterator[PlannedJob]:
        edges: list[Edge] = []
        for step in node.upstream:
            if self.cells.graph[step].scope is Scope.COHORT:
                edges.extend(self._gather_edge(step) if step in self.cells.reads(node, 0) else ())
                continue
            for shard in self.shards:
                if step in shard.group.runs and step in shard.group.reads.get(node.name, node.upstream):
                    edges.append(Edge(job=f"{step}-{shard.suffix}", index_by_index=False))
            edges.extend(self._live_edges(node, step))
        if self.max_dependencies < 2 <= len(edges):
            raise InvalidPlan(f"The gather {node.name} waits for {len(edges)} jobs, but a job may depend on one only.")
        after = yield from self._joined(node.name, node, edges, self.max_dependencies)
        overrides = self.cells.inventory.overrides.get((node.name, COHORT), AS_DEFINED)
        if (need := self.cells.inventory.needs.get(node.name, {}).get(COHORT)) is not None:
            overrides = sized({node.name: {0: need}}, {node.name: {0: overrides}}, {})[node.name][0]
        yield PlannedJob(name=node.name, step=node.name, after=tuple(after), overrides=overrides)

    def _joined(
        self, name: str, node: Node, edges: Sequence[Edge], most: int
    ) -> Generator[PlannedJob, None, Sequence[Edge]]:
        """Joins whole jobs until they are so few, through jobs of their own; returns what is left to wait for."""
        level = 0
        while len(edges) > most:
            chunks = [edges[i : i + self.max_dependencies] for i in range(0, len(edges), self.max_dependencies)]
            joins = []
            for i, chunk in enumerate(chunks):
                join = PlannedJob(name=f"{name}-join-{level}-{i}", step=node.name, after=tuple(chunk), join=True)
                yield join
                joins.append(Edge(job=join.name, index_by_index=False))
            edges = joins
            level += 1
        return edges

    def _live_edges(self, node: Node, step: str) -> Iterator[Edge]:
        """The live jobs that still have to do a cell of a step which the gather reads."""
        live_jobs, seen = self.cells.live.jobs.get(step, {}), set()
        names = self.cells.rows[step].names
        for i, (sample, state) in enumerate(zip(names, self.cells.columns[step].states, strict=True)):
            is_read = state is CellState.LIVE and step in self.cells.reads(node, i)
            if is_read and live_jobs[sample].native_id not in seen:
                seen.add(live_jobs[sample].native_id)
                yield Edge(job=live_jobs[sample].native_id, index_by_index=False, live=True)
