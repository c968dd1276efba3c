"""Finds the cells that a live job makes with another fingerprint than a plan wants. Pure."""

from __future__ import annotations

from batch_pipeline.pipeline.cells import Cells
from batch_pipeline.pipeline.plan import CellState, Conflict
from batch_pipeline.pipeline.workflow import Node


def conflicts_of(cells: Cells) -> tuple[Conflict, ...]:
    """Cells that a live job makes differently, where that touches what was chosen."""
    return tuple(
        Conflict(run_id=cells.live.jobs[node.name][name].run_id, step=node.name, sample=name)
        for node in cells.graph
        if node.name in cells.live.jobs
        for i, name in enumerate(cells.names(node))
        if _clashes(cells, node, name, i) and (cells.takes(node.name, name) or _touches(cells, node, i))
    )


def _clashes(cells: Cells, node: Node, name: str, position: int) -> bool:
    own, live = cells.columns[node.name].fingerprints[position], cells.live.fingerprints.get((node.name, name), "")
    return bool(own and live) and own != live


def _touches(cells: Cells, node: Node, position: int) -> bool:
    """Whether a cell that is to run makes what this one reads, or reads what it makes."""
    touching = set(cells.read_states(node, position).values())
    for reader in cells.graph:
        rows, other = cells.rows[node.name], cells.rows[reader.name]
        one_to_one = other is rows and not rows.is_cohort
        if node.name in (cells.reads(reader, position) if one_to_one else reader.upstream):
            states = cells.columns[reader.name].states
            touching.update(states[i] for i in rows.read_in(other, position))
    return not touching.isdisjoint((CellState.TO_RUN, CellState.DEFERRED))
