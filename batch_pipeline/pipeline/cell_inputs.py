"""What each cell's inputs add to its fingerprint, and what they lack: a part of the planner's first pass (`cells.py`).

Upstream fingerprints and source files, of the alternative that the cell reads where conditions decide that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from batch_pipeline.pipeline.choices import NONE, gathering_ports
from batch_pipeline.pipeline.fingerprint import (
    ABSENT,
    cell_fingerprint,
    columns_part,
    excluded_part,
    gather_part,
    missing_part,
    part_part,
    source_part,
    wire_of,
)
from batch_pipeline.pipeline.plan import Inventory
from batch_pipeline.pipeline.rows import Rows, reads_many
from batch_pipeline.pipeline.step import Input, Scope
from batch_pipeline.pipeline.wiring import options_of
from batch_pipeline.pipeline.workflow import Node, Port, Source
from batch_pipeline.wire.errors import InvalidPlan

if TYPE_CHECKING:
    from batch_pipeline.pipeline.cells import Cells


def fingerprints_of(cells: Cells, node: Node, digest: str, chain: Mapping[str, Sequence[str]]) -> Sequence[str]:
    """Fingerprints of a step's cells, from its digest and the fingerprints of the steps above by name.

    Empty where something that a cell reads has none.
    """
    ports = {port: _port_parts(cells, node, port, chain) for port in node.inputs}
    if node.scope is Scope.COHORT:
        return [_gather_fingerprint(cells, node, digest, ports)]
    columns = [*ports.values()]
    if node.name in cells.inventory.columns:
        columns.append(_columns_of_rows(cells, node))
    if parts := cells.rows[node.name].parts:
        columns.append([part_part(part) for part in parts])
    if not columns:
        return [cell_fingerprint(digest, ())] * len(cells.names(node))
    return [cell_fingerprint(digest, inputs) if all(inputs) else "" for inputs in zip(*columns, strict=True)]


def _port_parts(cells: Cells, node: Node, port: str, chain: Mapping[str, Sequence[str]]) -> Sequence[str]:
    """What a port adds to the fingerprint of each cell; of alternatives, which one it is too."""
    options = options_of(node.inputs[port])
    columns = [_input_parts(cells, node, port, option, chain) for option in options]
    if port not in node.choosing:
        return columns[0]
    if len(options) > 1:
        columns = [
            [part and f"{wire_of(option)} {part}" for part in column]
            for option, column in zip(options, columns, strict=True)
        ]
    absent = ABSENT if port in node.optional else ""
    chosen = cells.choices[node.name].by_port[port]
    return [absent if at == NONE else columns[at][i] for i, at in enumerate(chosen)]


def _input_parts(
    cells: Cells, node: Node, port: str, source: Port | Source, chain: Mapping[str, Sequence[str]]
) -> Sequence[str]:
    """What a port adds to the fingerprint of each cell if this feeds it."""
    if isinstance(source, Port):
        return _upstream_parts(cells, node, port, source.task.name, chain[source.task.name])
    if node.scope is Scope.GROUP:
        raise InvalidPlan(f"The step of groups {node.name} reads a source; only steps of the samples have sources.")
    key = f"{node.name}.{port}"
    sources = cells.inventory.sources
    rows = cells.rows[node.name]
    samples = rows.names if rows.names is cells.samples else [cells.sample_of(node, i) for i in range(len(rows.names))]
    parts = [source_part(sources.get(sample, {}).get(key, ())) for sample in samples]
    if port in node.optional:
        return [part or (ABSENT if _has_files(cells, node, port, i) else "") for i, part in enumerate(parts)]
    return parts


def _upstream_parts(cells: Cells, node: Node, port: str, step: str, fingerprints: Sequence[str]) -> Sequence[str]:
    """What a port adds to the fingerprint of each cell that a step feeds; for a gather, that of each cell it reads."""
    rows, above = cells.rows[node.name], cells.rows[step]
    if above.is_cohort:
        return [fingerprints[0]] * (len(cells.samples) if rows.is_cohort else len(rows.names))
    if above is rows or rows.is_cohort:
        return fingerprints
    if not reads_many(node.scope, cells.graph[step].scope, equal=False):
        return [fingerprints[rows.read_in(above, i)[0]] for i in range(len(rows.names))]
    parts = []
    for i in range(len(rows.names)):
        read = [
            (above.names[at], fingerprints[at]) for at in rows_for_port(cells.inventory, rows, above, node, port, i)
        ]
        parts.append(gather_part(read) if all(fingerprint for _, fingerprint in read) else "")
    return parts


def rows_for_port(inventory: Inventory, rows: Rows, above: Rows, node: Node, port: str, position: int) -> Sequence[int]:
    """Positions of the rows whose files a port takes: of a port with a role, those of members that have it."""
    positions = rows.read_in(above, position)
    if not (role := node.step.declared(Input)[port].role):
        return positions
    roles = inventory.roles[node.name]
    return [at for at in positions if roles[above.samples_of(at)[0]] == role]


def _columns_of_rows(cells: Cells, node: Node) -> Sequence[str]:
    """The same for each row: of a part those of its sample, of a group those of its members."""
    parts, rows = _columns_parts(cells, node), cells.rows[node.name]
    if rows.members is None:
        return parts
    if node.scope is Scope.PART:
        return [parts[members[0]] for members in rows.members]
    return [gather_part([(cells.samples[i], parts[i]) for i in members]) for members in rows.members]


def _columns_parts(cells: Cells, node: Node) -> Sequence[str]:
    """What the columns that a step declares add to the fingerprint, of each sample."""
    values = cells.inventory.columns[node.name]
    parts = {id(one): columns_part(one) for one in {id(one): one for one in values}.values()}
    return [parts[id(one)] for one in values]


def _gather_fingerprint(cells: Cells, node: Node, digest: str, ports: Mapping[str, Sequence[str]]) -> str:
    """The one fingerprint of a gather; empty while it cannot be known which samples it will have."""
    gathered = cells.gathers[node.name]
    if gathered.positions is None:
        return ""
    inputs = []
    for port, connection in node.inputs.items():
        source = options_of(connection)[0]
        if node.sources or not isinstance(source, Port):
            raise InvalidPlan(f"The gather {node.name} reads a source; only steps of the samples have sources.")
        parts = ports[port]
        if cells.graph[source.task.name].scope is Scope.COHORT:
            inputs.append(parts[0])
            continue
        positions = gathered.positions
        if port in node.choosing:
            chosen = cells.choices[node.name].by_port[port]
            positions = [i for i in positions if chosen[i] != NONE]
        names = cells.gathered_rows(node).names
        inputs.append(gather_part([(names[i], parts[i]) for i in positions]))
    if node.name in cells.inventory.columns:
        parts, rows = _columns_parts(cells, node), cells.gathered_rows(node)
        samples = dict.fromkeys(sample for i in gathered.positions for sample in rows.samples_of(i))
        inputs.append(gather_part([(cells.samples[i], parts[i]) for i in samples]))
    if gathered.missing:
        # A step may tell of them in what it makes.
        inputs.append(missing_part(gathered.missing))
    if gathered.excluded:
        inputs.append(excluded_part(gathered.excluded))
    return cell_fingerprint(digest, inputs) if all(inputs) else ""


def excluded_port(cells: Cells, node: Node, position: int) -> str:
    """A port that must have files and of which conditions exclude all; empty: none."""
    choices = cells.choices.get(node.name)
    if choices is None:
        return ""
    gathering = gathering_ports(cells.graph, node) if node.scope is Scope.COHORT else ()
    ports = (port for port in node.choosing if port not in node.optional and port not in gathering)
    return next((port for port in ports if choices.by_port[port][position] == NONE), "")


def lacks_source(cells: Cells, node: Node, position: int) -> bool:
    """Whether a source that a cell reads is not there."""
    return any(not _has_files(cells, node, port, position) for port in node.sources)


def _has_files(cells: Cells, node: Node, port: str, position: int) -> bool:
    """Whether a source port has what it needs of a sample."""
    if port in node.choosing:
        chosen = cells.choices[node.name].by_port[port][position]
        if not isinstance(node.choosing[port][chosen], Source):
            return True
    files = cells.inventory.sources.get(cells.sample_of(node, position), {}).get(f"{node.name}.{port}")
    return files is not None if port in node.optional else bool(files)
