"""The diagram of a pipeline's DAG: sources, reference, steps and results, joined by ports; Mermaid and DOT. Pure.

`graph_svg` draws the same diagram as SVG. A node of a step may carry counts of its cells by state, under any words.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from batch_pipeline.pipeline.plan import CellState, Plan
from batch_pipeline.pipeline.step import Scope
from batch_pipeline.pipeline.wiring import Port, Source, options_of
from batch_pipeline.pipeline.workflow import Graph, Node
from batch_pipeline.wire.plain_text import printable

#: Files or ports that a label names before it says how many more there are.
MOST_NAMES: Final = 3
#: Characters of a line of a label.
MOST_CHARACTERS: Final = 40
#: Step -> state in words -> cells.
StateCounts = Mapping[str, Mapping[str, int]]


class NodeKind(Enum):
    """What a node of the diagram stands for."""

    SOURCE = "source"  #: Files that come with each sample.
    REFERENCE = "reference"  #: Files that all samples share.
    SAMPLES = "step"  #: A step with a job a sample.
    GATHER = "gather"  #: A step with one job after all samples.
    RESULT = "result"  #: Outputs that no step reads.


@dataclass(frozen=True, kw_only=True)
class DiagramNode:
    """A node: a title, lines below it, and what a tooltip says of it."""

    key: str
    kind: NodeKind
    title: str
    lines: tuple[str, ...] = ()
    tooltip: str = ""
    #: State in words -> cells; only of steps.
    counts: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class DiagramEdge:
    """The ports through which one node's files reach another."""

    tail: str
    head: str
    #: `fastq → reads`; one name where both ports have it.
    labels: tuple[str, ...]
    #: Whether some sample may not take this way: one of several alternatives, or from a step with a condition.
    conditional: bool = False


@dataclass(frozen=True, kw_only=True)
class Diagram:
    """A pipeline's DAG as it is drawn."""

    name: str
    nodes: tuple[DiagramNode, ...]
    edges: tuple[DiagramEdge, ...]


def plan_states(plan: Plan) -> dict[str, dict[str, int]]:
    """The cells of a plan by state, a step; in the order of the states."""
    return {
        step: {state.value: count for state in CellState if (count := counts[state])}
        for step in plan.graph.names
        if (counts := plan.counts(step))
    }


def diagram_of(graph: Graph, states: StateCounts | None = None, *, reference: str = "") -> Diagram:
    """The diagram of a pipeline, with counts of cells by state on the steps; `reference`: name of the one it reads."""
    nodes: dict[str, DiagramNode] = {}
    #: Tail and head -> labels, and whether some sample may not take this way.
    edges: dict[tuple[str, str], list[tuple[str, bool]]] = {}
    sources: dict[Source, str] = {}
    for step in graph:
        head = _key(step.name)
        for port, option in _read(step):
            if isinstance(option, Port):
                tail, label = _key(option.task.name), port if port == option.name else f"{option.name} → {port}"
            else:
                tail, label = sources.setdefault(option, f"source_{len(sources) + 1}"), port
                nodes.setdefault(tail, _source_node(tail, option))
            edges.setdefault((tail, head), []).append((label, port in step.choosing))
        for port in step.references:
            title = f"reference {reference}".strip()
            nodes.setdefault("reference", DiagramNode(key="reference", kind=NodeKind.REFERENCE, title=title))
            edges.setdefault(("reference", head), []).append((port, False))
        nodes[head] = _step_node(step, (states or {}).get(step.name, {}))
    for step in graph:
        if unread := _unread(graph, step):
            key = f"result_{step.name}"
            nodes[key] = _result_node(key, step, unread)
            edges[_key(step.name), key] = [(_few(unread), False)]
    return Diagram(
        name=graph.name,
        nodes=tuple(nodes.values()),
        edges=tuple(_edge(tail, head, ports) for (tail, head), ports in edges.items()),
    )


def _read(step: Node) -> Iterator[tuple[str, Port | Source]]:
    """What may feed each input port, but for sources of which the parameters leave no file."""
    for port, connection in step.inputs.items():
        for option in options_of(connection):
            if isinstance(option, Port) or _lines_of_source(option):
                yield port, option


def _edge(tail: str, head: str, ports: Sequence[tuple[str, bool]]) -> DiagramEdge:
    labels = tuple(dict.fromkeys(label for label, _ in ports))
    return DiagramEdge(tail=tail, head=head, labels=labels, conditional=all(conditional for _, conditional in ports))


def _key(name: str) -> str:
    return f"step_{name}"


#: What a step runs, by its scope.
_CELLS: Final = {
    Scope.COHORT: "all samples",
    Scope.SAMPLE: "each sample",
    Scope.PART: "each part of a sample",
    Scope.GROUP: "each group",
}


def _step_node(step: Node, counts: Mapping[str, int]) -> DiagramNode:
    gather = step.scope is Scope.COHORT
    lines = [_CELLS[step.scope]]
    if step.when:
        lines.append(f"when {step.when}")
    if step.image:
        lines.append(_short_image(step.image))
    return DiagramNode(
        key=_key(step.name),
        kind=NodeKind.GATHER if gather else NodeKind.SAMPLES,
        title=step.name,
        lines=tuple(_cut(line) for line in lines),
        tooltip=type(step.step).summary(),
        counts={state: count for state, count in counts.items() if count},
    )


def _short_image(image: str) -> str:
    """`picard@sha256:0123456789ab` of an image's whole address."""
    name = image.rsplit("/", 1)[-1]
    return re.sub(r"(@sha256:[0-9a-f]{12})[0-9a-f]+\Z", r"\1", name)


def _lines_of_source(source: Source) -> tuple[str, ...]:
    """Columns and files; none where the parameters leave no file."""
    columns = ", ".join(source.all_columns)
    lines = ([f"column{'s' * (len(source.all_columns) > 1)} {columns}"] if columns else []) + list(source.files)
    return tuple(_cut(line) for line in lines)


def _source_node(key: str, source: Source) -> DiagramNode:
    lines = _lines_of_source(source)
    title, *others = lines
    return DiagramNode(
        key=key, kind=NodeKind.SOURCE, title=title, lines=tuple(f"or {line}" for line in others), tooltip="source"
    )


def _unread(graph: Graph, step: Node) -> tuple[str, ...]:
    """Output ports of the step that no step reads."""
    options = (option for node in graph for _, option in _read(node))
    read = {option.name for option in options if isinstance(option, Port) and option.task.name == step.name}
    return tuple(port for port in step.outputs if port not in read)


def _result_node(key: str, step: Node, ports: Sequence[str]) -> DiagramNode:
    files = [file for port in ports for file in step.outputs[port].files]
    shown = files if len(files) <= MOST_NAMES + 1 else files[:MOST_NAMES]
    more = [f"and {len(files) - len(shown)} more"] if len(files) > len(shown) else []
    title, *lines = (*map(_cut, shown), *more)
    return DiagramNode(
        key=key, kind=NodeKind.RESULT, title=title, lines=tuple(lines), tooltip=f"results: {', '.join(files)}"
    )


def _few(names: Sequence[str]) -> str:
    shown = names if len(names) <= MOST_NAMES else names[: MOST_NAMES - 1]
    more = [f"{len(names) - len(shown)} more"] if len(names) > len(shown) else []
    return ", ".join((*shown, *more))


def _cut(line: str) -> str:
    """The line in one row, without its middle when it is long."""
    line = printable(" ".join(line.split()))
    half = MOST_CHARACTERS // 2 - 1
    return line if len(line) <= MOST_CHARACTERS else f"{line[:half]}…{line[-half:]}"


def counts_in_words(counts: Mapping[str, int]) -> str:
    """`1,198 done, 2 failed`."""
    return ", ".join(f"{count:,} {state}" for state, count in counts.items())


def diagram_text(diagram: Diagram, form: str) -> str:
    """The diagram as `mermaid`, `dot` or `svg`."""
    if form == "svg":
        # Which imports this module.
        from batch_pipeline.report.graph_svg import svg_file

        return svg_file(diagram)
    return dot(diagram) if form == "dot" else mermaid(diagram)


_MERMAID_SHAPES: Final = {
    NodeKind.SOURCE: ("[/", "/]"),
    NodeKind.REFERENCE: ("[(", ")]"),
    NodeKind.SAMPLES: ("[[", "]]"),
    NodeKind.GATHER: ("[", "]"),
    NodeKind.RESULT: ("([", "])"),
}


def mermaid(diagram: Diagram) -> str:
    """The diagram as a Mermaid flowchart, as GitHub and many pages show it."""
    lines = ["flowchart TD"]
    for node in diagram.nodes:
        start, end = _MERMAID_SHAPES[node.kind]
        lines.append(f'    {node.key}{start}"{"<br/>".join(map(_mermaid_text, _texts(node)))}"{end}')
    for edge in diagram.edges:
        arrow = "-.->" if edge.conditional else "-->"
        label = "<br/>".join(map(_mermaid_text, edge.labels))
        lines.append(f'    {edge.tail} {arrow}|"{label}"| {edge.head}')
    return "\n".join(lines) + "\n"


def _texts(node: DiagramNode) -> tuple[str, ...]:
    return (node.title, *node.lines, *([counts_in_words(node.counts)] if node.counts else []))


def _mermaid_text(text: str) -> str:
    """Text between double quotes: what Mermaid or HTML would read otherwise as a character's number."""
    return re.sub(r"[^\w\s.,:=→…!{}'()/+-]", lambda character: f"#{ord(character[0])};", text)


_DOT_SHAPES: Final = {
    NodeKind.SOURCE: "shape=note",
    NodeKind.REFERENCE: "shape=cylinder",
    NodeKind.SAMPLES: 'shape=box, style="rounded", peripheries=2',
    NodeKind.GATHER: 'shape=box, style="rounded"',
    NodeKind.RESULT: 'shape=box, style="rounded,dashed"',
}


def dot(diagram: Diagram) -> str:
    """The diagram in Graphviz's language."""
    lines = [f"digraph {_dot_text([diagram.name])} {{", '    node [fontname="sans-serif"];']
    for node in diagram.nodes:
        lines.append(f"    {node.key} [label={_dot_text(_texts(node))}, {_DOT_SHAPES[node.kind]}];")
    for edge in diagram.edges:
        style = ", style=dashed" if edge.conditional else ""
        lines.append(f"    {edge.tail} -> {edge.head} [label={_dot_text(edge.labels)}{style}];")
    return "\n".join((*lines, "}")) + "\n"


def _dot_text(lines: Sequence[str]) -> str:
    escapes = str.maketrans({"&": "&amp;", "\\": "\\\\", '"': '\\"'})
    return '"' + "\\n".join(line.translate(escapes) for line in lines) + '"'
