"""Tells which receipts count for nothing once a wave is sent: of what is made again, and of everything below it. Pure.

A cell that goes again with its fingerprint kept (forced, a result missing, its receipt cut off) would count as done by
its old receipt if it failed, and everything that read its old result by theirs. So all of these are retired before the
wave is sent, chosen or not; only a new receipt makes a cell done again. A cell whose fingerprint changed needs no
retiring: its old receipt is another one's.

Where conditions decide what a cell reads, a receipt of another fingerprint may be of what the cell does not read now.
It is retired with anything that the cell may ever read, for a condition that changes back makes it count again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from batch_pipeline.pipeline.cells import Cells
from batch_pipeline.pipeline.plan import CellState, Why
from batch_pipeline.pipeline.step import Scope
from batch_pipeline.pipeline.workflow import Node

#: (step, sample, fingerprint).
ReceiptName = tuple[str, str, str]


def retired_by(cells: Cells) -> dict[ReceiptName, bool]:
    """The receipts to retire before the wave is sent -> whether their cell must run even if all is found unchanged.

    What an earlier run retired is named again only if its cell must run now and need not then.
    """
    inventory = cells.inventory
    if not any((*inventory.receipts.values(), *inventory.untrue.values(), *inventory.retired.values())):
        return {}
    if not any(CellState.TO_RUN in column.states for column in cells.columns.values()):
        return {}
    retires: dict[ReceiptName, bool] = {}
    below: dict[str, Sequence[bool]] = {}
    #: The same by all that a cell may read, which is no different without conditions.
    perhaps_below: dict[str, Sequence[bool]] = {} if cells.choices else below
    #: Whether something that all samples of a step read, on the list or not, is sent in this wave, however far up.
    all_read: dict[str, bool] = {}
    for node in cells.graph:
        below[node.name] = _below(cells, node, below)
        if cells.choices:
            perhaps_below[node.name] = _perhaps_below(cells, node, perhaps_below)
        names = cells.names(node)
        states = cells.columns[node.name].states
        for i, (sample, is_below) in enumerate(zip(names, below[node.name], strict=True)):
            if is_below or states[i] is CellState.TO_RUN:
                retires.update(_of_cell(cells, node, sample, i, is_below=is_below))
            if perhaps_below[node.name][i] and not is_below:
                retires.update(_of_other_choices(cells, node, sample, i))
        gathers = [step for step in node.upstream if cells.graph[step].scope is Scope.COHORT]
        if not gathers or node.scope is Scope.COHORT:
            all_read[node.name] = node.scope is not Scope.COHORT and any(all_read[step] for step in node.upstream)
        else:
            all_read[node.name] = any(
                perhaps_below[step][0] or cells.columns[step].states[0] is CellState.TO_RUN for step in gathers
            )
        if all_read[node.name]:
            retires.update(_of_others(cells, node))
    return retires


def _of_others(cells: Cells, node: Node) -> Iterator[tuple[ReceiptName, bool]]:
    """The receipts of samples that an earlier list had."""
    here = frozenset(cells.names(node))
    for receipts in (cells.inventory.receipts, cells.inventory.untrue):
        for sample, fingerprints in receipts.get(node.name, {}).items():
            if sample not in here:
                yield from (((node.name, sample, one), False) for one in fingerprints)


def _below(cells: Cells, node: Node, below: Mapping[str, Sequence[bool]]) -> Sequence[bool]:
    """For each cell of a step whether anything above it is sent in this wave."""
    if (choices := cells.choices.get(node.name)) is not None:
        if node.scope is Scope.COHORT:
            pairs = {(step, i) for step, positions in cells.gathered_cells(node) for i in positions}
            pairs |= {(step, 0) for step in choices.steps[0] if step in cells.gathers}
            return [any(_is_sent(cells, step, i, below) for step, i in pairs)]
        return [
            any(_is_sent(cells, step, at, below) for step in read for at in cells.rows_read(node, step, i))
            for i, read in enumerate(choices.steps)
        ]
    return _below_all(cells, node, below)


def _is_sent(cells: Cells, step: str, position: int, below: Mapping[str, Sequence[bool]]) -> bool:
    """Whether a cell, or anything above it, is sent."""
    return below[step][position] or cells.columns[step].states[position] is CellState.TO_RUN


def _perhaps_below(cells: Cells, node: Node, below: Mapping[str, Sequence[bool]]) -> Sequence[bool]:
    """For each cell of a step whether anything that it may read, however far up, is sent in this wave."""
    if node.scope is Scope.COHORT:
        return [any(_is_sent(cells, step, i, below) for step in node.upstream for i in range(len(below[step])))]
    return _below_all(cells, node, below)


def _below_all(cells: Cells, node: Node, below: Mapping[str, Sequence[bool]]) -> Sequence[bool]:
    columns = {
        step: [
            under or state is CellState.TO_RUN
            for under, state in zip(below[step], cells.columns[step].states, strict=True)
        ]
        for step in node.upstream
    }
    from_gathers = any(column[0] for step, column in columns.items() if step in cells.gathers)
    if node.scope is Scope.COHORT:
        gathered = cells.gathered_cells(node)
        return [from_gathers or any(columns[step][i] for step, positions in gathered for i in positions)]
    of_rows = [
        cells.rows[node.name].any_read(cells.rows[step], column)
        for step, column in columns.items()
        if step not in cells.gathers
    ]
    if from_gathers or not of_rows:
        return [from_gathers] * len(cells.names(node))
    return [any(under) for under in zip(*of_rows, strict=True)]


def _of_other_choices(cells: Cells, node: Node, sample: str, position: int) -> Iterator[tuple[ReceiptName, bool]]:
    """The receipts of a cell that read something else than the cell reads now."""
    inventory, present = cells.inventory, cells.columns[node.name].fingerprints[position]
    for receipts in (inventory.receipts, inventory.untrue):
        standing = receipts.get(node.name, {}).get(sample, ())
        yield from (((node.name, sample, one), False) for one in standing if one != present)


def _of_cell(
    cells: Cells, node: Node, sample: str, position: int, *, is_below: bool
) -> Iterator[tuple[ReceiptName, bool]]:
    step, inventory = node.name, cells.inventory
    forced = cells.is_forced(step, sample) and cells.columns[step].states[position] is not CellState.EXCLUDED
    counting = inventory.receipts.get(step, {}).get(sample, ())
    standing = (*counting, *inventory.untrue.get(step, {}).get(sample, ()))
    # Of two receipts nobody knows which is right. A reference has no fingerprint that its readers would know.
    names_all = is_below or len(standing) > 1 or node.step.scope is Scope.REFERENCE
    names_all = names_all or cells.columns[step].why[position] is Why.FORCED
    fingerprint = cells.columns[step].fingerprints[position]
    for one in standing:
        if names_all or one == fingerprint:
            yield (step, sample, one), forced and one == fingerprint
    for one, retired in inventory.retired.get(step, {}).get(sample, {}).items():
        if forced and one == fingerprint and not retired.must_run:
            yield (step, sample, one), True
