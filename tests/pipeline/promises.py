"""What every plan promises, checked from outside, and the driver's loop of waves over a world."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import replace

from batch_pipeline.pipeline.plan import CellState, Plan, PlannedJob, Selection
from batch_pipeline.pipeline.step import Scope
from batch_pipeline.pipeline.waves import children_by_wave, plan_of_wave
from batch_pipeline.pipeline.wiring import options_of
from batch_pipeline.pipeline.workflow import Source
from batch_pipeline.wire.layout import COHORT
from tests.pipeline.worlds import Cell, World, reads

MOVING = {CellState.TO_RUN, CellState.LIVE, CellState.DEFERRED}
#: States of cells that have or will have a result with the fingerprint that the plan names.
RESULTS = {CellState.DONE, CellState.TO_RUN, CellState.LIVE}
STOPPED = {CellState.BLOCKED, CellState.SKIPPED}


def states_of(plan: Plan) -> dict[Cell, CellState]:
    return {(step, sample): state for step in plan.states for sample, state in plan.cells(step)}


def cells_in(plan: Plan, *states: CellState) -> set[Cell]:
    return {cell for cell, state in states_of(plan).items() if state in states}


def sent_cells(plan: Plan) -> list[Cell]:
    return [(job.step, sample) for job in plan.jobs if not job.join for sample, _ in plan.members_of(job)]


def source_read(plan: Plan, cell: Cell) -> str:
    """The port by which a cell reads its source; empty: it reads none."""
    node, choices = plan.graph[cell[0]], plan.choices.get(cell[0])
    for port in node.sources:
        at = choices.by_port[port][plan.samples.index(cell[1])] if choices and port in node.choosing else 0
        if isinstance(options_of(node.inputs[port])[at], Source):
            return port
    return ""


def above(plan: Plan, cell: Cell) -> set[Cell]:
    """The cells that a cell depends on, however far up."""
    found: set[Cell] = set()
    level = {cell}
    while level := {read for one in level for read in reads(plan, one)} - found:
        found |= level
    return found


def check_plan(plan: Plan, world: World) -> None:
    """Everything that holds for any plan without conflicts."""
    states = states_of(plan)
    sent = Counter(sent_cells(plan))
    assert set(sent) == {cell for cell, state in states.items() if state is CellState.TO_RUN}
    assert set(sent.values()) <= {1}, "a cell in two jobs"
    assert not set(sent) & {(job.step, sample) for job in world.live() for sample in job.samples}, "a live cell again"
    assert cells_in(plan, CellState.EXCLUDED) == world.excluded & states.keys()
    assert set(plan.blocked) == cells_in(plan, CellState.BLOCKED)
    for step, states_there in plan.states.items():
        assert all(plan.fingerprints[step][i] for i, state in enumerate(states_there) if state in RESULTS)
    _check_jobs(plan, world)
    for job in plan.jobs:
        if not job.join:
            _check_dependencies(plan, world, job, states)
    _check_live(plan, world, states)
    if CellState.DEFERRED in states.values():
        assert plan.jobs or world.live(), "deferred, and nothing to wait for"
    for step in plan.states:
        for (_, state), why in zip(plan.cells(step), plan.why[step], strict=True):
            assert (why is not None) == (state is CellState.TO_RUN)


def _check_jobs(plan: Plan, world: World) -> None:
    names = [job.name for job in plan.jobs]
    assert len(set(names)) == len(names)
    by_name = {job.name: job for job in plan.jobs}
    alive = {job.native_id: job for job in world.live()}
    for position, job in enumerate(plan.jobs):
        assert len(job.members) <= world.max_array_size
        assert len(job.after) <= world.max_dependencies
        assert len({edge.job for edge in job.after}) == len(job.after)
        for edge in job.after:
            assert edge.live or edge.job in names[:position], "a job before what it depends on"
            if edge.index_by_index:
                assert job.size > 1
                other = alive[edge.job].samples if edge.live else _samples(plan, by_name[edge.job])
                assert other == _samples(plan, job), "index by index between different samples"


def _check_live(plan: Plan, world: World, states: dict[Cell, CellState]) -> None:
    """What live jobs do and read is left to them until they end."""
    for cell in {(job.step, sample) for job in world.live() for sample in job.samples}.intersection(states):
        read = {other: states[other] for other in reads(plan, cell)}
        if states[cell] is CellState.DONE:
            assert not MOVING.intersection(read.values()), f"{cell} is to be made again with what it reads"
        if states[cell] is CellState.LIVE and plan.selection.takes(*cell):
            assert not {CellState.TO_RUN, CellState.DEFERRED}.intersection(read.values()), f"{cell} can only fail"
        for other in above(plan, cell) if world.may_run(cell) else ():
            assert states[other] is not CellState.TO_RUN, f"{other} is made again above a live job"


def _check_dependencies(plan: Plan, world: World, job: PlannedJob, states: dict[Cell, CellState]) -> None:
    """Each cell that a job reads is done, or its job is waited for: by the same index, or as a whole."""
    for index, (sample, _) in enumerate(plan.members_of(job)):
        awaited = _awaited(plan, world, job, index)
        read = set(reads(plan, (job.step, sample)))
        for cell in read:
            assert states[cell] is CellState.DONE or cell in awaited, f"{job.name} does not wait for {cell}"
        if sample != COHORT or not any(edge.live for other in plan.jobs for edge in other.after):
            assert awaited <= read, f"{job.name} waits for what it does not read"


def _awaited(plan: Plan, world: World, job: PlannedJob, index: int) -> set[Cell]:
    """Cells that child `index` of a job waits for, through joins."""
    by_name = {other.name: other for other in plan.jobs}
    alive = {other.native_id: other for other in world.live()}
    found: set[Cell] = set()
    for edge in job.after:
        if not edge.live and by_name[edge.job].join:
            found |= _awaited(plan, world, by_name[edge.job], 0)
            continue
        step = alive[edge.job].step if edge.live else by_name[edge.job].step
        samples = alive[edge.job].samples if edge.live else _samples(plan, by_name[edge.job])
        found |= {(step, samples[index])} if edge.index_by_index else {(step, sample) for sample in samples}
    return found


def _samples(plan: Plan, job: PlannedJob) -> tuple[str, ...]:
    return tuple(sample for sample, _ in plan.members_of(job))


def finish(world: World, selection: Selection | None = None) -> list[Plan]:
    """What a driver does: plans, sends, waits for all jobs, and again while cells were deferred."""
    plans: list[Plan] = []
    made: frozenset[Cell] = frozenset()
    while True:
        assert len(plans) <= 2 * len(world.graph.names) + 2, "no end of waves"
        plan = world.plan(selection, made)
        assert not plan.conflicts
        check_plan(plan, world)
        world.send(plan)
        world.run()
        plans.append(plan)
        made |= plan.under_way()
        if not cells_in(plan, CellState.DEFERRED):
            return plans


def finish_in_waves(world: World, selection: Selection | None = None) -> list[Plan]:
    """The same below the world's bound of children: a wave is sent as soon as there is room for it."""
    plans: list[Plan] = []
    made: frozenset[Cell] = frozenset()
    bound = world.max_live_children or 10**6
    while True:
        assert len(plans) <= 3 * len(world.samples) * len(world.graph.names) + 2, "no end of plans"
        plan = world.plan(selection, made)
        assert not plan.conflicts
        check_plan(plan, world)
        check_waves(plan, world)
        for wave, children in enumerate(children_by_wave(plan)):
            while wave and world.live_children() > max(0, bound - children):
                world.run(children=1)
            before = world.live_children()
            world.send(plan_of_wave(plan, wave))
            assert world.live_children() <= max(bound, before, most_of_a_sample(plan)), "too many children"
        world.run()
        plans.append(plan)
        made |= plan.under_way()
        if not cells_in(plan, CellState.DEFERRED):
            return plans


def most_of_a_sample(plan: Plan) -> int:
    """The most cells that one sample has to run: a wave takes as many at least."""
    cells = Counter(position for job in plan.jobs for position in job.members)
    return max(cells.values(), default=0)


def check_waves(plan: Plan, world: World) -> None:
    """Shards are whole, no dependency leaves a later wave, and each wave is within the bound."""
    waves = {job.name: job.wave for job in plan.jobs}
    for wave, children in enumerate(children_by_wave(plan)):
        view = plan_of_wave(plan, wave)
        assert all(job.wave == wave for job in view.jobs)
        assert set(sent_cells(view)) == cells_in(view, CellState.TO_RUN)
        left = (world.max_live_children or 10**6) - (0 if wave else world.live_children())
        assert children <= max(0, left) or (len({job.members for job in view.jobs if job.members}) == 1), (
            "a shard alone"
        )
        assert children <= max(0, left) or wave or not world.live_children()
    by_shard: dict[str, set[tuple[int, tuple[int, ...]]]] = {}
    for job in plan.jobs:
        if job.members:
            by_shard.setdefault(job.name.partition("-")[2], set()).add((job.wave, job.members))
        for edge in job.after:
            assert job.wave == 0 if edge.live else waves[edge.job] == job.wave, "a dependency of another wave"
    assert all(len(shapes) == 1 for shapes in by_shard.values()), "jobs of a shard differ"


def check_finished(world: World, selection: Selection | None = None, plans: Sequence[Plan] = ()) -> None:
    """Nothing that was chosen and can run is left, as the same driver sees it after these plans."""
    made = frozenset[Cell]().union(*(plan.under_way() for plan in plans))
    plan = world.plan(selection, made)
    assert not plan.jobs
    assert not cells_in(plan, *MOVING)
    assert states_of(plan) == expected_states(plan, world, made)


def expected_states(plan: Plan, world: World, made: AbstractSet[Cell] = frozenset()) -> dict[Cell, CellState]:
    """The state of every cell while nothing is live, a cell at a time and from first principles."""
    found: dict[Cell, CellState] = {}
    beyond: set[Cell] = set()
    for step in plan.graph.names:
        for position, (sample, _) in enumerate(plan.cells(step)):
            cell = (step, sample)
            forced = plan.selection.force and cell not in made
            found[cell] = _expected(plan, world, cell, plan.fingerprints[step][position], forced, found, beyond)
    return found


def _expected(
    plan: Plan,
    world: World,
    cell: Cell,
    fingerprint: str,
    forced: bool,
    found: dict[Cell, CellState],
    beyond: set[Cell],
) -> CellState:
    if cell in world.excluded:
        return CellState.EXCLUDED
    have = world.counting(cell)
    trusts = plan.selection.accept_code_changes and (cell[1] != COHORT or _is_of_these(plan, world, cell, found))
    kept = len(have) == 1 and (fingerprint in have or trusts)
    remade = any(found[read] in MOVING for read in above(plan, cell))
    if not plan.selection.takes(*cell):
        return CellState.DONE if kept and not remade else CellState.SKIPPED
    return CellState.DONE if kept and not forced and not remade else _to_make(plan, world, cell, found, beyond)


def _is_of_these(plan: Plan, world: World, gather: Cell, found: dict[Cell, CellState]) -> bool:
    """Whether a gather's result was made of the samples that it would take."""
    read = [cell for cell in reads(plan, gather) if cell[1] != COHORT]
    lost = {sample for step, sample in read if found[step, sample] in STOPPED}
    return _held(plan, gather, found) is None and world.gathered(gather) == {sample for _, sample in read} - lost


def _to_make(plan: Plan, world: World, cell: Cell, found: dict[Cell, CellState], beyond: set[Cell]) -> CellState:
    """The state of a chosen cell that is to be made."""
    # What a gather lacks of its samples is `_held`'s; of other gathers it needs the one result.
    needed = [read for read in reads(plan, cell) if read[1] == COHORT or cell[1] != COHORT]
    held = _held(plan, cell, found)
    stopped = [read for read in needed if found[read] in STOPPED]
    if any(found[read] is CellState.BLOCKED for read in stopped):
        return CellState.BLOCKED
    if stopped or held is CellState.SKIPPED:
        if not beyond.issuperset(stopped):
            return CellState.BLOCKED
        beyond.add(cell)
        return CellState.SKIPPED
    if held is not None:
        return held
    port = source_read(plan, cell) if cell[1] in world.absent else ""
    if port and port not in plan.graph[cell[0]].optional:
        return CellState.BLOCKED
    return CellState.DEFERRED if CellState.DEFERRED in (found[read] for read in reads(plan, cell)) else CellState.TO_RUN


def _held(plan: Plan, cell: Cell, found: dict[Cell, CellState]) -> CellState | None:
    """What keeps a gather from being sent, in view of its samples."""
    if cell[1] != COHORT:
        return None
    read: dict[str, list[CellState]] = {}
    for position, name in enumerate(plan.samples):
        steps = [step for step in plan.reads(cell[0], position) if plan.graph[step].scope is Scope.SAMPLE]
        if steps:
            read[name] = [found[step, name] for step in steps]
    lost = [name for name, states in read.items() if STOPPED.intersection(states)]
    if lost and (len(read) - len(lost)) / len(read) < plan.selection.min_success - 1e-9:
        unchosen = plan.selection.samples is not None and not plan.selection.samples.intersection(lost)
        return CellState.SKIPPED if unchosen else CellState.BLOCKED
    moves = any(MOVING.intersection(states) for states in read.values())
    return CellState.DEFERRED if moves and plan.selection.min_success < 1 else None


def drive(world: World, selection: Selection, failing: AbstractSet[Cell] = frozenset()) -> list[Plan]:
    """A command that waits to the end, as the driver does: what failed in it is not sent again. Its plans."""
    plans: list[Plan] = []
    made: frozenset[Cell] = frozenset()
    failed: dict[Cell, str] = {}
    while True:
        assert len(plans) <= 2 * len(world.graph.names) + 2, "no end of waves"
        plan = world.plan(selection, made, failed)
        assert not plan.conflicts
        check_plan(plan, world)
        world.send(plan)
        world.run(failing=failing)
        plans.append(plan)
        made |= plan.under_way()
        for step, sample in plan.under_way():
            if fingerprint_of(plan, (step, sample)) not in world.counting((step, sample)):
                failed[step, sample] = "It failed."
        if not cells_in(plan, CellState.DEFERRED):
            return plans


def fingerprint_of(plan: Plan, cell: Cell) -> str:
    step, sample = cell
    return plan.fingerprints[step][0 if sample == COHORT else plan.samples.index(sample)]


def check_true(world: World, selection: Selection | None = None) -> None:
    """No cell is done whose receipt names other bytes of an input than that input's present receipt vouches for."""
    plan = world.plan(selection)
    for step, sample in cells_in(plan, CellState.DONE):
        (fingerprint,) = world.counting((step, sample))
        for cell, read in world.read.get((step, sample, fingerprint), {}).items():
            if world.counting(cell):
                assert read == world.results.get(cell, -1), (
                    f"{step} of {sample} is done, with another {cell[0]} of {cell[1]}"
                )


def check_as_asked(world: World, selection: Selection, plans: Sequence[Plan], ran: AbstractSet[Cell]) -> None:
    """No chosen cell is done that the command was to make, and that neither succeeded nor was kept in it."""
    moved = {cell for plan in plans for cell in cells_in(plan, *MOVING) if selection.takes(*cell)}
    blocked = {cell for cell in cells_in(plans[0], CellState.BLOCKED) if selection.takes(*cell)}
    assert not cells_in(world.plan(), CellState.DONE) & (moved | blocked) - ran, "done, and neither made nor kept"
    if selection.accept_code_changes:
        # What a live job was to make otherwise, and did not, is trusted as it would have been without that job.
        moved = {cell for plan in plans for cell in cells_in(plan, CellState.TO_RUN)}
    again = world.plan(replace(selection, force=False))
    assert not cells_in(again, CellState.DONE) & moved - ran, "done for the same choice, and neither made nor kept"
