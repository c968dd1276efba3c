"""Cuts the groups of a plan into shards, and these into waves: no more children are queued at once than allowed. Pure.

A million samples x three steps are three million children, and a queue takes fewer (`Limits.max_live_children`). The
unit is the shard: all steps of the same samples. So an `N_TO_N` chain is never cut, and what a shard depends on is sent
with it. Groups that follow live arrays come first, while these live.

The first wave takes the room that live jobs leave. Each further one takes half of the bound at most, so that it can be
sent while the other half of the queue still has work; an array is cut smaller only where half of the bound holds no
array of the backend's size. A wave takes one shard at least, however small the bound: a sample's steps are not divided.

What a gather of later samples needs is not known to be sent before all of it is, and AWS may have forgotten a gather by
the time of a later wave. So gathers of what later waves make, and what waits for a gather in a later wave, are deferred
to the next plan (`Cells.hold`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from batch_pipeline.pipeline.plan import CellState, Limits, LiveJob, Plan, RetryOverrides
from batch_pipeline.pipeline.rows import Rows


@dataclass(frozen=True)
class Group:
    """Rows that run the same steps, with the same overrides, after the same live jobs."""

    #: The rows of its steps.
    rows: Rows
    #: Positions in them.
    members: tuple[int, ...]
    #: Step that runs -> with what.
    runs: Mapping[str, RetryOverrides]
    #: Upstream step -> live job of exactly these samples.
    live: Mapping[str, LiveJob]
    #: Step that reads what conditions decide -> the steps that it reads of these samples.
    reads: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class Shard:
    """Samples of a group whose jobs are arrays of the same children."""

    #: `0-1`: group and shard; ends the names of its jobs.
    suffix: str
    members: tuple[int, ...]
    group: Group
    #: With which wave it is sent, from 0.
    wave: int = 0

    @property
    def children(self) -> int:
        """Of all of its jobs."""
        return len(self.members) * len(self.group.runs)


def shards_of(groups: Sequence[Group], limits: Limits, live_children: int) -> list[Shard]:
    """The shards of all groups, each with its wave, in the order of the waves.

    `live_children` are those on the queue already.
    """
    shards = list(_cut(groups, limits.max_array_size))
    bound = limits.max_live_children
    if bound is None or live_children + sum(shard.children for shard in shards) <= bound:
        return shards
    half = max(1, bound // 2)
    shards = []
    wave, capacity, room = 0, bound, bound - live_children
    for shard in sorted(_cut(groups, limits.max_array_size, half), key=lambda shard: not shard.group.live):
        if shard.children > room and room < capacity:
            wave, capacity, room = wave + 1, half, half
        room -= shard.children
        shards.append(replace(shard, wave=wave))
    return shards


def _cut(groups: Sequence[Group], max_array_size: int, most_children: int | None = None) -> Iterator[Shard]:
    """Shards of as many samples as an array takes, and of no more children than that where this is possible."""
    for number, group in enumerate(groups):
        size = max_array_size
        if most_children is not None and not group.live:
            # What follows a live array index by index has its samples, all of them.
            size = max(1, min(size, most_children // len(group.runs)))
        for shard, start in enumerate(range(0, len(group.members), size)):
            yield Shard(f"{number}-{shard}", group.members[start : start + size], group)


def children_by_wave(plan: Plan) -> list[int]:
    """Children of the samples' jobs in each wave of a plan; those of one wave at least."""
    children = Counter({0: 0})
    for job in plan.jobs:
        children[job.wave] += len(job.members)
    return [children[wave] for wave in range(max(children) + 1)]


def cells_after_wave(plan: Plan, wave: int) -> Counter[str]:
    """Step -> its cells that are sent with a later wave than that."""
    cells: Counter[str] = Counter()
    for job in plan.jobs:
        if job.wave > wave:
            cells[job.step] += len(job.members)
    return cells


def plan_of_wave(plan: Plan, wave: int) -> Plan:
    """What is sent with one wave of a plan: cells of earlier waves are live by then, those of later ones deferred.

    All that the plan retires is retired with the first wave.
    """
    if len(children_by_wave(plan)) == 1:
        return plan
    states = {step: list(cells) for step, cells in plan.states.items()}
    why = {step: list(reasons) for step, reasons in plan.why.items()}
    for job in plan.jobs:
        if job.wave == wave:
            continue
        state = CellState.LIVE if job.wave < wave else CellState.DEFERRED
        for position in job.members or (0,):
            states[job.step][position], why[job.step][position] = state, None
    jobs = tuple(job for job in plan.jobs if job.wave == wave)
    return replace(plan, jobs=jobs, states=states, why=why, retires={} if wave else plan.retires)
