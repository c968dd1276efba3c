"""Explains the resources of one sample's cells: what each asks for, by what, and what its group is given."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from batch_pipeline.backends.definitions import configured_definitions, resources
from batch_pipeline.pipeline.plan import CellNeed, CellState, PlannedJob
from batch_pipeline.pipeline.step import Scope
from batch_pipeline.pipeline.workflow import Node
from batch_pipeline.records.request import Request
from batch_pipeline.records.results import read_receipts
from batch_pipeline.records.usage import MIB
from batch_pipeline.run.backend import LazyBackend
from batch_pipeline.run.cell_needs import cell_facts
from batch_pipeline.run.snapshot import DriverState, Snapshot, take_snapshot
from batch_pipeline.wire import layout


@dataclass(frozen=True, kw_only=True)
class SizeExplanation:
    """The resources of one cell."""

    step: str
    sentence: str
    #: MiB and seconds that it asks for itself; None: no number of its own.
    asks_memory_mb: int | None = None
    asks_timeout_seconds: int | None = None
    #: MiB that its job has; None: it is in no job of the plan.
    memory_mb: int | None = None
    #: Cells of that job.
    cells: int = 0


def explain_sizes(request: Request, sample: str) -> list[SizeExplanation]:
    """Each step that a sample has, in order. Takes a snapshot, as `plan` does."""
    backend = LazyBackend()
    try:
        snapshot = take_snapshot(DriverState.of(request), backend)
    finally:
        backend.close()
    return list(_explained(snapshot, sample))


def _explained(snapshot: Snapshot, sample: str) -> Iterator[SizeExplanation]:
    plan = snapshot.plan
    position = plan.samples.index(sample)
    definitions = configured_definitions(plan.graph, snapshot.request.settings)
    for node in plan.graph:
        if node.scope is Scope.COHORT:
            continue
        state = plan.states[node.name][position]
        job = next((job for job in plan.jobs if job.step == node.name and position in job.members), None)
        if job is None or state is not CellState.TO_RUN:
            yield SizeExplanation(step=node.name, sentence=_had(snapshot, node, sample, position, state))
            continue
        defined = resources(definitions[node.name])[1]
        need = snapshot.inventory.needs.get(node.name, {}).get(sample, CellNeed())
        yield SizeExplanation(
            step=node.name,
            sentence=_sentence(snapshot, node, sample, need, job, defined),
            asks_memory_mb=need.memory_mb,
            asks_timeout_seconds=need.timeout_seconds,
            memory_mb=job.overrides.memory_mb or defined,
            cells=job.size,
        )


def _had(snapshot: Snapshot, node: Node, sample: str, position: int, state: CellState) -> str:
    """What a cell had that is in no job of the plan."""
    key = layout.receipt(node.name, sample, snapshot.plan.fingerprints[node.name][position])
    keys = [key] if state is CellState.DONE else []
    for receipt in read_receipts(snapshot.request.store, keys, damaged=lambda key: None):
        return (
            f"done with {receipt.memory_mb:,} MiB, of which it took {receipt.usage.peak_memory_bytes // MIB:,} at most"
        )
    return f"{state.value}, so nothing is asked for it now"


def _sentence(snapshot: Snapshot, node: Node, sample: str, need: CellNeed, job: PlannedJob, defined: int) -> str:
    given = f"{job.overrides.memory_mb or defined:,} MiB"
    if not node.by_evidence:
        return f"given {given}, the number of the step" if job.overrides.memory_mb is None else f"given {given}"
    request, past = snapshot.request, snapshot.past or ()
    facts = next(cell_facts(request, snapshot.plan, snapshot.inventory, node, [sample], past))
    inputs = ", ".join(
        f"{port} {'not made yet' if size is None else f'{size:,} bytes'}" for port, size in facts.input_bytes.items()
    )
    asks = [f"{need.memory_mb:,} MiB"] if need.memory_mb else []
    asks += [f"{need.timeout_seconds:,} s"] if need.timeout_seconds else []
    limit = f" and {job.overrides.timeout_seconds:,} s" if job.overrides.timeout_seconds else ""
    by = f"sources {facts.source_bytes:,} bytes, {inputs}, attempt {facts.attempt}"
    group = f"the most of {job.size:,} cell{'s' * (job.size > 1)}"
    return f"asks for {' and '.join(asks) or 'nothing'} ({by}); given {given}{limit}, {group}"
