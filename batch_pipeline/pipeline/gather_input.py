"""Which rows a gather reads, and whether so many are enough: a part of the planner's first pass (`cells.py`)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from batch_pipeline.pipeline.choices import gathering_ports
from batch_pipeline.pipeline.decisions import BEYOND, DEFERRED, Decision, GatherInput
from batch_pipeline.pipeline.plan import CellState
from batch_pipeline.pipeline.workflow import Node

if TYPE_CHECKING:
    from batch_pipeline.pipeline.cells import Cells

_MOVING = frozenset({CellState.TO_RUN, CellState.LIVE, CellState.DEFERRED})
_STOPPED = frozenset({CellState.BLOCKED, CellState.SKIPPED})


def gather_input_of(cells: Cells, node: Node) -> GatherInput:
    """The rows that a gather reads, those that it does without, and what holds it."""
    columns = [cells.columns[step].states for step in node.upstream if step not in cells.gathers]
    if not columns:
        return GatherInput(positions=[])
    names = cells.gathered_rows(node).names
    expected: Sequence[int] = range(len(names))
    excluded: tuple[str, ...] = ()
    read: Iterable[Sequence[CellState]] = columns
    if (choices := cells.choices.get(node.name)) is None:
        usable = [i for i, states in enumerate(zip(*columns, strict=True)) if _STOPPED.isdisjoint(states)]
    else:
        ports = gathering_ports(cells.graph, node)
        excluded = tuple(name for i, name in enumerate(names) if choices.lack(ports, i))
        here_by_row = {i: here for i in expected if (here := _gathered_states(cells, node, i))}
        expected, read = list(here_by_row), here_by_row.values()
        usable = [i for i in expected if _STOPPED.isdisjoint(here_by_row[i])]
    kept = frozenset(usable)
    missing = tuple(names[i] for i in expected if i not in kept)
    is_tolerant = node.step.tolerant and cells.selection.min_success == 1
    if is_tolerant and usable and not any(CellState.SKIPPED in states for states in read):
        return GatherInput(positions=usable, missing=missing, excluded=excluded)
    if missing and len(usable) < _needed(cells, len(expected)):
        return GatherInput(positions=None, held=_too_few(cells, missing, len(expected)), excluded=excluded)
    if cells.selection.min_success < 1 and any(not _MOVING.isdisjoint(states) for states in read):
        return GatherInput(positions=None, held=DEFERRED, excluded=excluded)
    return GatherInput(positions=usable, missing=missing, excluded=excluded)


def _gathered_states(cells: Cells, node: Node, position: int) -> list[CellState]:
    """States of the cells of a sample that a gather reads."""
    steps = (step for step in cells.reads(node, position) if step not in cells.gathers)
    return [cells.columns[step].states[position] for step in steps]


def _needed(cells: Cells, expected: int) -> int:
    """Samples that a gather needs of those it can have. 7 % of 100 are 7, whatever 0.07 * 100 is in binary."""
    return math.ceil(cells.selection.min_success * expected - 1e-9)


def _too_few(cells: Cells, missing: Sequence[str], expected: int) -> Decision:
    if cells.selection.samples is not None and cells.selection.samples.isdisjoint(missing):
        return BEYOND
    have = f"{len(missing)} of {expected} samples have no result for it"
    if cells.selection.min_success < 1:
        have += f", and --min-success asks for {_needed(cells, expected)}"
    remedy = "a lower --min-success" if cells.selection.min_success < 1 else "--min-success"
    return Decision(state=CellState.BLOCKED, sentence=f"{have}; repair them, or give {remedy}.")
