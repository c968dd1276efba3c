"""Indexes the cells of running jobs: which job has a cell, with which fingerprint, and what lies above it. Pure.

What a running job still reads must not be made again before it ends, so the planner defers the cells above it: all
ancestors, in the reverse of the topological order of the steps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from batch_pipeline.pipeline.plan import LiveJob
from batch_pipeline.pipeline.rows import Rows
from batch_pipeline.pipeline.step import Scope
from batch_pipeline.pipeline.workflow import Graph
from batch_pipeline.wire.layout import COHORT


@dataclass(frozen=True, kw_only=True, slots=True)
class LiveCells:
    """The cells of live jobs."""

    #: Step -> sample -> the live job that has it (the last that was sent), whether it did it already or not.
    jobs: Mapping[str, Mapping[str, LiveJob]]
    #: (step, sample) -> the fingerprint with which that job makes it.
    fingerprints: Mapping[tuple[str, str], str]
    #: Step -> names (COHORT for a gather) of the cells that a live job's cell depends on.
    ancestors: Mapping[str, AbstractSet[str]]


def index_live_cells(graph: Graph, rows: Mapping[str, Rows], live: Sequence[LiveJob]) -> LiveCells:
    """Indexes the cells of live jobs, which are in the order in which they were sent."""
    jobs: dict[str, dict[str, LiveJob]] = {}
    for job in live:
        jobs.setdefault(job.step, {}).update(dict.fromkeys(job.samples, job))
    fingerprints = {
        (job.step, sample): fingerprint
        for job in live
        for sample, fingerprint in zip(job.samples, job.fingerprints, strict=True)
    }
    ancestors = _ancestors(graph, rows, _unfinished(graph, live)) if live else {}
    return LiveCells(jobs=jobs, fingerprints=fingerprints, ancestors=ancestors)


def _ancestors(
    graph: Graph, rows: Mapping[str, Rows], unfinished: Mapping[str, AbstractSet[str]]
) -> dict[str, AbstractSet[str]]:
    ancestors: dict[str, AbstractSet[str]] = {}
    for node in reversed(graph.nodes):
        names: set[str] = set()
        for reader in graph:
            if node.name not in reader.upstream:
                continue
            below = ancestors[reader.name] | unfinished.get(reader.name, frozenset())
            own, other = rows[node.name], rows[reader.name]
            if other is own:
                # Of samples of an earlier list too.
                names |= below
            elif below and node.scope is Scope.COHORT:
                names.add(COHORT)
            else:
                read = (other.read_in(own, other.positions[name]) for name in below if name in other.positions)
                names.update(own.names[i] for positions in read for i in positions)
        ancestors[node.name] = names
    return ancestors


def _unfinished(graph: Graph, live: Sequence[LiveJob]) -> dict[str, set[str]]:
    """Step -> samples whose cell a live job may still make: not where it, or a gather that it waits for, failed."""
    unfinished: dict[str, set[str]] = {}
    #: Run and step of jobs of which a child failed: no job that waits for all of them will run.
    failed = {(job.run_id, job.step) for job in live if job.ended}
    for node in graph:
        whole = [step for step in node.always_read if Scope.COHORT in (node.scope, graph[step].scope)]
        for job in live:
            if job.step == node.name and failed.isdisjoint((job.run_id, step) for step in whole):
                unfinished.setdefault(node.name, set()).update(set(job.samples) - job.ended)
            elif job.step == node.name:
                failed.add((job.run_id, node.name))
    return unfinished
