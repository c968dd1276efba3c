"""The layout of a DAG: nothing overlaps, edges go down, lines of boxes are straight, and it is the same every time."""

from __future__ import annotations

from itertools import combinations, pairwise

import pytest

from batch_pipeline.report.graph_layout import Layout, LayoutEdge, Size, lay_out

BOX = Size(120.0, 40.0)
LABEL = Size(60.0, 14.0)

CHAIN = [(f"s{number}", f"s{number + 1}") for number in range(29)]
DIAMOND = [
    *(("top", f"mid{number}") for number in range(5)),
    *((f"mid{number}", f"low{(number + by) % 5}") for number in range(5) for by in (0, 2)),
    *((f"low{number}", "bottom") for number in range(5)),
    ("top", "bottom"),
]
GRAPHS = {
    "chain of 30": CHAIN,
    "chain with results": [*CHAIN, *((f"s{number}", f"r{number}") for number in range(30))],
    "diamond of 12": DIAMOND,
    "two pipelines": [("a", "b"), ("c", "d"), ("c", "e")],
    "twice the same way": [("a", "b"), ("a", "b")],
}


def laid_out(edges: list[tuple[str, str]]) -> Layout:
    boxes = dict.fromkeys((key for edge in edges for key in edge), BOX)
    return lay_out(boxes, [LayoutEdge(tail=tail, head=head, label=LABEL) for tail, head in edges])


def _overlap(one: tuple[float, float], one_size: Size, other: tuple[float, float], other_size: Size) -> bool:
    return (
        abs(one[0] - other[0]) < (one_size.width + other_size.width) / 2
        and abs(one[1] - other[1]) < (one_size.height + other_size.height) / 2
    )


@pytest.mark.parametrize("name", GRAPHS)
def test_nothing_overlaps_and_edges_go_down(name: str) -> None:
    layout = laid_out(GRAPHS[name])

    labels = [(x, (top + bottom) / 2) for route in layout.routes for x, top, bottom in route.passages[-1:]]
    things = [*((centre, BOX) for centre in layout.centres.values()), *((label, LABEL) for label in labels)]
    assert not [pair for pair in combinations(things, 2) if _overlap(*pair[0], *pair[1])]
    for (x, y), size in things:
        assert size.width / 2 <= x <= layout.size.width - size.width / 2
        assert size.height / 2 <= y <= layout.size.height - size.height / 2
    for route in layout.routes:
        heights = [route.start[1], *(y for _, top, bottom in route.passages for y in (top, bottom)), route.end[1]]
        assert all(upper <= lower for upper, lower in pairwise(heights))
        for x, top, bottom in route.passages:
            crossed = [
                box for box in layout.centres.values() if _overlap((x, (top + bottom) / 2), Size(0, 1), box, BOX)
            ]
            assert not crossed, "an edge runs through a box"


@pytest.mark.parametrize("name", ["chain of 30", "chain with results"])
def test_a_long_chain_is_a_straight_line(name: str) -> None:
    layout = laid_out(GRAPHS[name])
    xs = [layout.centres[f"s{number}"][0] for number in range(30)]
    assert max(xs) - min(xs) < 2 * BOX.width


def test_what_nothing_leads_to_stands_just_above_what_it_leads_to() -> None:
    layout = laid_out([("a", "b"), ("b", "c"), ("late", "c")])
    assert layout.centres["late"][1] == layout.centres["b"][1]


def test_boxes_are_ordered_so_that_edges_do_not_cross() -> None:
    layout = laid_out([("a", "z"), ("b", "y"), ("c", "x")])
    above = sorted("abc", key=lambda key: layout.centres[key][0])
    below = sorted("xyz", key=lambda key: layout.centres[key][0])
    assert ["zyx"["abc".index(key)] for key in above] == below


def test_the_same_graph_is_laid_out_in_the_same_way() -> None:
    assert laid_out(DIAMOND) == laid_out(DIAMOND)


def test_a_cycle_is_refused() -> None:
    with pytest.raises(ValueError, match="cycle"):
        laid_out([("a", "b"), ("b", "a")])
