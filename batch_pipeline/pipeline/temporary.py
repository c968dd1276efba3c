"""Temporary outputs: which of them nothing needs any more, and which are made again for a cell that is to run. Pure.

The files of an `Output(temporary=True)` are removed once each cell that reads them is done; the receipt of the cell
that made them stays, and the cell counts as done. A port that no step reads stays: its files are results. Where a cell
is to run and what it reads was removed, the cell that makes it runs first (`Why.REMOVED`), whether it was chosen or
not, and so on upwards. All that reads it goes with it and is kept if the bytes are the same, as ever when a result is
made again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import TYPE_CHECKING

from batch_pipeline.pipeline.choices import NONE, Choices
from batch_pipeline.pipeline.plan import CellState, Inventory, Plan
from batch_pipeline.pipeline.step import Scope
from batch_pipeline.pipeline.wiring import options_of
from batch_pipeline.pipeline.workflow import Node, Port
from batch_pipeline.wire.layout import COHORT

if TYPE_CHECKING:
    from batch_pipeline.pipeline.cells import Cells


@dataclass(frozen=True, kw_only=True, slots=True)
class UsedOutput:
    """The files of a temporary port of a cell that every cell which reads them is done with."""

    step: str
    sample: str
    fingerprint: str
    port: str
    #: (step, sample, fingerprint) of the cells that read it: their receipts must name its bytes before it goes.
    readers: tuple[tuple[str, str, str], ...]


def temporary_ports(node: Node) -> list[str]:
    """The ports of a step that are temporary."""
    return [port for port, output in node.outputs.items() if output.temporary]


def with_remade(cells: Cells) -> Cells:
    """The cells with all steps added, and with those to be made again whose removed files a cell that runs reads.

    A cell that cannot run after all needs nothing: what only such cells read is left as it is.
    """
    dropped: frozenset[tuple[str, str]] = frozenset()
    positions = {COHORT: 0, **{name: at for at, name in enumerate(cells.samples)}} if cells.inventory.removed else {}

    def in_state(some: AbstractSet[tuple[str, str]], state: CellState) -> set[tuple[str, str]]:
        return {(step, name) for step, name in some if cells.columns[step].states[positions[name]] is state}

    while True:
        for node in cells.graph:
            cells.add(node)
        read = _removed_and_read(cells)
        remade = cells.remade | in_state(read, CellState.DONE)
        if remade == cells.remade:
            unread = in_state(remade - read - dropped, CellState.TO_RUN)
            dropped, remade = dropped | unread, remade - unread
        if remade == cells.remade:
            return cells
        cells = type(cells)(cells.graph, cells.samples, cells.parts, cells.inventory, cells.selection, remade)


def _removed_and_read(cells: Cells) -> set[tuple[str, str]]:
    """(step, sample) of cells of whose removed files a cell that is to run reads some."""
    removed = cells.inventory.removed
    read: set[tuple[str, str]] = set()
    for node in cells.graph:
        if not any(removed.get(step) for step in node.upstream) or node.scope in (Scope.PART, Scope.GROUP):
            continue
        for position, port in _ports_read(node, cells.choices.get(node.name), _to_run(cells, node)):
            step = port.task.name
            is_gather = cells.graph[step].scope is Scope.COHORT
            if cells.graph[step].scope in (Scope.PART, Scope.GROUP):
                continue
            name, at = (COHORT, 0) if is_gather else (cells.samples[position], position)
            if port.name in removed.get(step, {}).get(name, {}).get(cells.columns[step].fingerprints[at], ()):
                read.add((step, name))
    return read


def is_live(sample: str, live: AbstractSet[str]) -> bool:
    """Whether jobs of these samples may read what a cell made, or make it; COHORT stands for a gather."""
    return bool(live) and (sample == COHORT or not live.isdisjoint((sample, COHORT)))


def used_outputs(plan: Plan, inventory: Inventory) -> Iterator[UsedOutput]:
    """The temporary files that may go, by a plan of all cells of the pipeline (nothing forced, nothing left out).

    A cell of a sample of which any job is live keeps its files, and so does one that was removed already.
    """
    live = frozenset(sample for job in inventory.live for sample in job.samples)
    for node in plan.graph:
        for port in temporary_ports(node):
            yield from _used(plan, inventory, node, port, live)


def _used(plan: Plan, inventory: Inventory, node: Node, port: str, live: AbstractSet[str]) -> Iterator[UsedOutput]:
    readings = [
        _Reading(plan, reader, in_port, number)
        for reader in plan.graph
        for in_port, connection in reader.inputs.items()
        for number, option in enumerate(options_of(connection))
        if isinstance(option, Port) and (option.task.name, option.name) == (node.name, port)
    ]
    removed = inventory.removed.get(node.name, {})
    for position, (sample, state) in enumerate(plan.cells(node.name)):
        fingerprint = plan.fingerprints[node.name][position]
        if state is not CellState.DONE or port in removed.get(sample, {}).get(fingerprint, ()):
            continue
        if is_live(sample, live):
            continue
        positions = range(len(plan.samples)) if sample == COHORT else (position,)
        readers: dict[tuple[str, str, str], None] = {}
        if all(reading.is_done(positions, readers) for reading in readings) and readers:
            yield UsedOutput(step=node.name, sample=sample, fingerprint=fingerprint, port=port, readers=tuple(readers))


class _Reading:
    """An input of a step as it takes a port: of the samples that have this alternative."""

    def __init__(self, plan: Plan, reader: Node, in_port: str, number: int) -> None:
        self._plan = plan
        self._step = reader.name
        self._gathers = reader.scope is Scope.COHORT
        self._number = number
        choices = plan.choices.get(reader.name)
        self._chosen = choices.by_port[in_port] if choices is not None and in_port in reader.choosing else None
        self._missing = frozenset(plan.missing.get(reader.name, ()))

    def is_done(self, positions: Sequence[int], readers: dict[tuple[str, str, str], None]) -> bool:
        """Whether all cells that read the files of these samples are done; adds them to the readers."""
        plan, states = self._plan, self._plan.states[self._step]
        for position in positions:
            if self._chosen is not None and self._chosen[position] != self._number:
                continue
            at = 0 if self._gathers else position
            if states[at] is CellState.EXCLUDED:
                continue
            # A gather that does without a sample takes it when it has it.
            if states[at] is not CellState.DONE or (self._gathers and plan.samples[position] in self._missing):
                return False
            name = COHORT if self._gathers else plan.samples[position]
            readers[self._step, name, plan.fingerprints[self._step][at]] = None
        return True


def _to_run(cells: Cells, node: Node) -> Sequence[int]:
    """Positions of the samples of which cells of a step that are to run read something."""
    states = cells.columns[node.name].states
    if node.scope is not Scope.COHORT:
        return [position for position, state in enumerate(states) if state is CellState.TO_RUN]
    if states[0] is not CellState.TO_RUN:
        return ()
    if all(step in cells.gathers for step in node.upstream):
        return (0,)
    positions = cells.gathers[node.name].positions
    return range(len(cells.samples)) if positions is None else positions


def _ports_read(node: Node, choices: Choices | None, positions: Sequence[int]) -> Iterator[tuple[int, Port]]:
    """Position and port of what cells at these positions read of other steps."""
    for name, connection in node.inputs.items():
        options = options_of(connection)
        chosen = choices.by_port[name] if choices is not None and name in node.choosing else None
        for position in positions:
            number = 0 if chosen is None else chosen[position]
            option = options[number] if number != NONE else None
            if isinstance(option, Port):
                yield position, option
