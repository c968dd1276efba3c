"""Draws the diagram of a pipeline as SVG, without Graphviz: inline in a page, or as a file of its own. Pure.

Inline it has neither style element nor style attribute nor script, so that a page's content security policy needs no
exception, and lines and text are `currentColor`: it is light or dark as the page is. The file follows the reader's
`prefers-color-scheme`. Text is escaped; its widths are estimated, as no font is at hand.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping
from html import escape
from typing import Final

from batch_pipeline.pipeline.workflow import Graph
from batch_pipeline.report.diagram import (
    Diagram,
    DiagramEdge,
    DiagramNode,
    NodeKind,
    StateCounts,
    counts_in_words,
    diagram_of,
)
from batch_pipeline.report.graph_layout import LayoutEdge, Route, Size, lay_out

#: State in words -> colour: told apart by colour-blind readers, and on light and dark ground.
STATE_COLOURS: Final = {
    "done": "#1b9e77",
    "failed": "#d55e00",
    "to run": "#e0a100",
    "live": "#3b8fd4",
    "running": "#3b8fd4",
    "waiting": "#8fa9c4",
    "deferred": "#8fa9c4",
    "blocked": "#c26a9d",
    "cannot run": "#c26a9d",
    "cancelled": "#9a7b4f",
}
OTHER_COLOUR: Final = "#8c8c8c"
_COLOURS: Final = {NodeKind.SAMPLES: "#3f7fbf", NodeKind.GATHER: "#8464b8"}
_TITLE, _LINE, _LABEL = 13, 11, 11
_ROW: Final = 15
_BAR: Final = 6
#: Pixels by which the cards of an array job stick out below and beside the first one.
_STACK: Final = 6
_STYLE: Final = (
    "<style>svg{color:#1f2328;background:#fff}"
    "@media(prefers-color-scheme:dark){svg{color:#e6edf3;background:#0d1117}}</style>"
)
#: What XML 1.0 does not allow, whichever way it is written.
_NOT_XML: Final = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def graph_svg(graph: Graph, states: StateCounts | None = None, *, reference: str = "") -> str:
    """The diagram of a pipeline as an `<svg>` element to put into a page; see the module.

    `states`: step -> state in words -> cells, drawn as a bar with its numbers. `reference`: the name of the one read.
    """
    return _svg(diagram_of(graph, states, reference=reference))


def svg_file(diagram: Diagram) -> str:
    """The diagram as the text of an SVG file (UTF-8), which is light or dark as its reader prefers."""
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{_svg(diagram, _STYLE)}'


def _svg(diagram: Diagram, style: str = "") -> str:
    boxes = {node.key: _size(node) for node in diagram.nodes}
    links = [LayoutEdge(tail=edge.tail, head=edge.head, label=_label_size(edge)) for edge in diagram.edges]
    layout = lay_out(boxes, links)
    width, height = layout.size.width, layout.size.height
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}"'
        f' height="{height:.0f}" role="img" aria-labelledby="graph-title graph-description" fill="none"'
        ' font-family="system-ui, -apple-system, Segoe UI, Roboto, Helvetica Neue, Arial, sans-serif"'
        f' text-anchor="middle" stroke-linejoin="round">{style}',
        f'<title id="graph-title">{_text(f"Pipeline {diagram.name}")}</title>',
        f'<desc id="graph-description">{_text(_description(diagram))}</desc>',
    ]
    for edge, route in zip(diagram.edges, layout.routes, strict=True):
        parts.extend(_edge(edge, route))
    for node in diagram.nodes:
        parts.extend(_node(node, layout.centres[node.key], boxes[node.key]))
    return "\n".join((*parts, "</svg>")) + "\n"


def _description(diagram: Diagram) -> str:
    """The diagram in sentences, for screen readers."""
    titles = {node.key: node.title for node in diagram.nodes}
    sentences = [
        f"{node.kind.value} {node.title}: {counts_in_words(node.counts)}." for node in diagram.nodes if node.counts
    ]
    sentences += [f"{titles[edge.tail]} to {titles[edge.head]}: {', '.join(edge.labels)}." for edge in diagram.edges]
    return " ".join(sentences)


def _size(node: DiagramNode) -> Size:
    lines = _lines(node)
    width = max(_width(node.title, _TITLE, bold=True), *(_width(line, _LINE) for line in lines), 84) + 28
    height = 14 + 17 + _ROW * len(lines) + (_BAR + 8 if node.counts else 0)
    if node.kind is NodeKind.SAMPLES:
        return Size(width + 2 * _STACK, height + _STACK)
    return Size(width, height + (8 if node.kind is NodeKind.REFERENCE else 0))


def _lines(node: DiagramNode) -> list[str]:
    """The lines below the title; states two a line."""
    counts = list(node.counts.items())
    pairs = [dict(counts[at : at + 2]) for at in range(0, len(counts), 2)]
    return [*node.lines, *map(counts_in_words, pairs)]


def _label_size(edge: DiagramEdge) -> Size:
    return Size(max(_width(label, _LABEL) for label in edge.labels) + 4, 14.0 * len(edge.labels) + 2)


def _edge(edge: DiagramEdge, route: Route) -> Iterator[str]:
    """The line, broken where its label stands, and the head of the arrow."""
    x, y = route.start
    path = [f"M{x:.1f} {y:.1f}"]
    for to_x, top, bottom in route.passages:
        path += [_curve(x, y, to_x, top), f"V{bottom:.1f}"]
        x, y = to_x, bottom
    label_x, top, bottom = route.passages[-1]
    label_y, half = (top + bottom) / 2, _label_size(edge).height / 2
    path[-1] = f"V{label_y - half:.1f}M{label_x:.1f} {label_y + half:.1f}V{bottom:.1f}"
    end_x, end_y = route.end
    path.append(_curve(x, y, end_x, end_y - 5))
    dashes = ' stroke-dasharray="5 4"' if edge.conditional else ""
    yield f'<path d="{"".join(path)}" stroke="currentColor" stroke-opacity=".45" stroke-width="1.3"{dashes}/>'
    head = f"M{end_x:.1f} {end_y:.1f}l-4.5 -8h9z"
    yield f'<path d="{head}" fill="currentColor" fill-opacity=".6"/>'
    first = label_y - 7.0 * (len(edge.labels) - 1) + 3.8
    for row, label in enumerate(edge.labels):
        yield _row(label, label_x, first + 14 * row, _LABEL, opacity=".75")


def _curve(x: float, y: float, to_x: float, to_y: float) -> str:
    """A curve that begins and ends vertically."""
    if abs(x - to_x) < 0.5:
        return f"V{to_y:.1f}"
    middle = (y + to_y) / 2
    return f"C{x:.1f} {middle:.1f} {to_x:.1f} {middle:.1f} {to_x:.1f} {to_y:.1f}"


def _node(node: DiagramNode, centre: tuple[float, float], size: Size) -> Iterator[str]:
    is_array = node.kind is NodeKind.SAMPLES
    x, y = centre
    width = size.width - (2 * _STACK if is_array else 0)
    height = size.height - (_STACK if is_array else 0)
    left, top = x - width / 2, y - size.height / 2
    yield f"<g><title>{_text(node.tooltip or node.title)}</title>"
    yield from _shape(node.kind, left, top, width, height)
    row = top + 7 + _TITLE + (8 if node.kind is NodeKind.REFERENCE else 0)
    yield _row(node.title, x, row, _TITLE, bold=node.kind in _COLOURS)
    for line in _lines(node):
        row += _ROW
        yield _row(line, x, row, _LINE, opacity=".75")
    if node.counts:
        yield from _bar(node.counts, left + 14, row + 8, width - 28)
    yield "</g>"


def _shape(kind: NodeKind, left: float, top: float, width: float, height: float) -> Iterator[str]:
    """Cards for steps, several for an array job; a cylinder for the reference, outlines for what comes and goes."""
    colour = _COLOURS.get(kind, "currentColor")
    look = f'stroke="{colour}" stroke-opacity=".7" fill="{colour}" fill-opacity=".1"'
    if kind is NodeKind.SAMPLES:
        for out in (3, _STACK):
            corner = f"M{left + out + 4:.1f} {top + height + out:.1f}H{left + width + out - 6:.1f}"
            corner += f"q6 0 6 -6V{top + out + 4:.1f}"
            yield f'<path d="{corner}" stroke="{colour}" stroke-opacity=".45"/>'
    if kind is NodeKind.REFERENCE:
        side = f"v{height - 12:.1f}a{width / 2:.1f} 6 0 0 0 {width:.1f} 0v-{height - 12:.1f}"
        lid = f"a{width / 2:.1f} 6 0 0 0 -{width:.1f} 0a{width / 2:.1f} 6 0 0 0 {width:.1f} 0"
        plain = 'stroke="currentColor" stroke-opacity=".5" fill="currentColor" fill-opacity=".04"'
        yield f'<path d="M{left:.1f} {top + 6:.1f}{side}{lid}" {plain}/>'
        return
    if kind in (NodeKind.SOURCE, NodeKind.RESULT):
        look = 'stroke="currentColor" stroke-opacity=".35" fill="currentColor" fill-opacity=".04"'
    round_by = height / 2 if kind is NodeKind.RESULT and height < 40 else 14 if kind is NodeKind.RESULT else 6
    dashes = ' stroke-dasharray="2 3"' if kind is NodeKind.SOURCE else ""
    place = f'x="{left:.1f}" y="{top:.1f}" width="{width:.1f}" height="{height:.1f}" rx="{round_by:.0f}"'
    yield f"<rect {place} {look}{dashes}/>"


def _bar(counts: Mapping[str, int], left: float, top: float, width: float) -> Iterator[str]:
    """The states of a step's cells as one bar; a state that any cell has is at least two pixels wide."""
    total = sum(counts.values())
    widths = [max(2.0, width * count / total) for count in counts.values()]
    scale = width / sum(widths)
    for state, wide in zip(counts, widths, strict=True):
        colour = STATE_COLOURS.get(state, OTHER_COLOUR)
        size = f'width="{wide * scale:.1f}" height="{_BAR}"'
        yield f'<rect x="{left:.1f}" y="{top:.1f}" {size} fill="{colour}"/>'
        left += wide * scale


def _row(text: str, x: float, y: float, font_size: int, *, bold: bool = False, opacity: str = "1") -> str:
    weight = ' font-weight="600"' if bold else ""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{font_size}"{weight} fill="currentColor" fill-opacity="{opacity}">'
        f"{_text(text)}</text>"
    )


def _text(text: str) -> str:
    return escape(_NOT_XML.sub("\ufffd", text))


def _width(text: str, font_size: int, *, bold: bool = False) -> float:
    """Pixels that a text takes in a usual sans-serif font, about."""
    return font_size * sum(map(_em, text)) * (1.06 if bold else 1.0)


def _em(character: str) -> float:
    if unicodedata.east_asian_width(character) in "WF":
        return 1.0
    if character in "ijlft.,:;'|!I()[]{} ":
        return 0.34
    if character in "mwMW@%…→":
        return 0.95
    return 0.68 if character.isupper() else 0.57
