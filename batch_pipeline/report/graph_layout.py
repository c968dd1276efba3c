"""Lays out a DAG in layers, from top to bottom (Sugiyama's method): places of boxes, and routes of edges. Pure.

Longest paths rank the boxes; an edge that spans several ranks becomes a chain of points, one a rank, and its label is
a point of its own rank, so that neither covers a box. Barycentre sweeps order each rank by its neighbours and keep the
order with the fewest crossings. Last, each rank is moved to the weighted means of its neighbours as far as the order
allows, which is an isotonic regression.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

#: Pixels between boxes of one rank, between chains of edges, and between ranks.
BETWEEN_BOXES: Final = 28.0
BETWEEN_CHAINS: Final = 14.0
BETWEEN_RANKS: Final = 22.0
MARGIN: Final = 16.0
_SWEEPS: Final = 12
#: Pixels between two edges that leave or reach one box.
_BETWEEN_ENDS: Final = 26.0


@dataclass(frozen=True)
class Size:
    """Width and height in pixels."""

    width: float
    height: float


@dataclass(frozen=True, kw_only=True)
class LayoutEdge:
    """An edge between two boxes, with the size of its label."""

    tail: str
    head: str
    label: Size


@dataclass(frozen=True, kw_only=True)
class Route:
    """How an edge is drawn: down from the first point to the last, straight within each of the passages between.

    A passage is (x, top, bottom): there the edge runs vertically. The label is in the middle of the last one.
    """

    start: tuple[float, float]
    passages: tuple[tuple[float, float, float], ...]
    end: tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Layout:
    """A drawing in pixels, from its upper left corner."""

    size: Size
    #: Key of a box -> its middle.
    centres: Mapping[str, tuple[float, float]]
    #: One an edge, in the order of the edges.
    routes: tuple[Route, ...]


@dataclass(eq=False)
class _Spot:
    """A box, or the point of a chain, in its rank."""

    size: Size
    is_box: bool
    #: How much the edge of a chain counts where neighbours are lined up.
    weight: float = 1.0
    x: float = 0.0

    def __post_init__(self) -> None:
        self.above: list[_Spot] = []
        self.below: list[_Spot] = []


def lay_out(boxes: Mapping[str, Size], edges: Sequence[LayoutEdge]) -> Layout:
    """Places the boxes of a DAG, given each after those that lead to it or not.

    Raises ValueError when the edges form a cycle.
    """
    rank_of = _ranks(list(boxes), edges)
    ranks: list[list[_Spot]] = [[] for _ in range(max(rank_of.values()) + 1)]
    spots = {key: _Spot(size, is_box=True) for key, size in boxes.items()}
    for key, spot in spots.items():
        ranks[rank_of[key]].append(spot)
    chains = list(_chains(edges, spots, rank_of, ranks))
    _order(ranks)
    _place(ranks)
    tops, total = _tops(ranks)
    left = min(spot.x - spot.size.width / 2 for rank in ranks for spot in rank) - MARGIN
    for spot in (spot for rank in ranks for spot in rank):
        spot.x -= left
    width = max(spot.x + spot.size.width / 2 for rank in ranks for spot in rank) + MARGIN
    heights = [max(spot.size.height for spot in rank) for rank in ranks]
    centres = {key: (spot.x, tops[rank_of[key]] + heights[rank_of[key]] / 2) for key, spot in spots.items()}
    starts = _ends(edges, [chain[0].x for chain in chains], spots, by_head=False)
    ends = _ends(edges, [chain[-1].x for chain in chains], spots, by_head=True)
    routes = tuple(
        Route(
            start=(starts[at], centres[edge.tail][1] + boxes[edge.tail].height / 2),
            passages=tuple(
                (spot.x, tops[rank], tops[rank] + heights[rank])
                for rank, spot in enumerate(chain, rank_of[edge.tail] + 1)
            ),
            end=(ends[at], centres[edge.head][1] - boxes[edge.head].height / 2),
        )
        for at, (edge, chain) in enumerate(zip(edges, chains, strict=True))
    )
    return Layout(size=Size(width, total), centres=centres, routes=routes)


def _ranks(keys: Sequence[str], edges: Sequence[LayoutEdge]) -> dict[str, int]:
    """The rank of each box: even numbers, since labels have the odd ranks between."""
    above: dict[str, list[str]] = {key: [] for key in keys}
    below: dict[str, list[str]] = {key: [] for key in keys}
    for edge in edges:
        above[edge.head].append(edge.tail)
        below[edge.tail].append(edge.head)
    rank_of: dict[str, int] = {}
    waiting = {key: len(tails) for key, tails in above.items()}
    ready = [key for key in keys if not waiting[key]]
    for key in ready:
        rank_of[key] = max((rank_of[tail] + 2 for tail in above[key]), default=0)
        for head in below[key]:
            waiting[head] -= 1
            if not waiting[head]:
                ready.append(head)
    if len(rank_of) < len(keys):
        raise ValueError("The edges form a cycle, and layers need a DAG.")
    # What nothing leads to stands just above what it leads to.
    for key in keys:
        if not above[key] and below[key]:
            rank_of[key] = min(rank_of[head] for head in below[key]) - 2
    return rank_of


def _chains(
    edges: Sequence[LayoutEdge], spots: Mapping[str, _Spot], rank_of: Mapping[str, int], ranks: list[list[_Spot]]
) -> Iterator[list[_Spot]]:
    """The points of each edge in the ranks between its boxes, the label in the last."""
    tails, heads = {edge.tail for edge in edges}, {edge.head for edge in edges}
    for edge in edges:
        chain: list[_Spot] = []
        last = spots[edge.tail]
        # A line of boxes is straight, whatever small things it has at its sides.
        at_side = edge.tail not in heads or edge.head not in tails
        for rank in range(rank_of[edge.tail] + 1, rank_of[edge.head]):
            is_label = rank == rank_of[edge.head] - 1
            spot = _Spot(edge.label if is_label else Size(0.0, 0.0), is_box=False, weight=0.01 if at_side else 1.0)
            ranks[rank].append(spot)
            _join(last, spot)
            chain.append(spot)
            last = spot
        _join(last, spots[edge.head])
        yield chain


def _join(upper: _Spot, lower: _Spot) -> None:
    upper.below.append(lower)
    lower.above.append(upper)


def _order(ranks: list[list[_Spot]]) -> None:
    """Sorts each rank so that few edges cross."""
    best, fewest = [list(rank) for rank in ranks], _crossings(ranks)
    for sweep in range(_SWEEPS):
        if not fewest:
            break
        downwards = sweep % 2 == 0
        for at in range(1, len(ranks)) if downwards else range(len(ranks) - 2, -1, -1):
            fixed = {spot: place for place, spot in enumerate(ranks[at - 1 if downwards else at + 1])}
            own = {spot: place for place, spot in enumerate(ranks[at])}
            means = {}
            for spot, place in own.items():
                places = [fixed[other] for other in (spot.above if downwards else spot.below)]
                means[spot] = sum(places) / len(places) if places else float(place)
            ranks[at].sort(key=means.__getitem__)
        crossings = _crossings(ranks)
        if crossings < fewest:
            best, fewest = [list(rank) for rank in ranks], crossings
    ranks[:] = best


def _crossings(ranks: Sequence[Sequence[_Spot]]) -> int:
    """How many pairs of edges cross: inversions between each rank and the next."""
    total = 0
    for upper, lower in pairwise(ranks):
        place = {spot: at for at, spot in enumerate(lower)}
        seen: list[int] = []
        for spot in upper:
            ends = sorted(place[other] for other in spot.below)
            total += sum(len(seen) - bisect_left(seen, end + 1) for end in ends)
            for end in ends:
                insort(seen, end)
    return total


def _place(ranks: Sequence[Sequence[_Spot]]) -> None:
    """Gives each spot its x: near its neighbours', in the order of its rank, and without overlap."""
    for rank in ranks:
        _fit(rank, [0.0] * len(rank), [1.0] * len(rank))
    for sweep in range(2 * _SWEEPS):
        downwards = sweep % 2 == 0
        last = sweep >= 2 * _SWEEPS - 4
        for rank in ranks if downwards else reversed(ranks):
            wishes, weights = [], []
            for spot in rank:
                both = last and spot.is_box
                others = (*spot.above, *spot.below) if both else spot.above if downwards else spot.below
                # A long edge is kept straight before boxes are centred.
                weighted = [
                    (other.x, min(spot.weight, other.weight) * (1.0 if spot.is_box or other.is_box else 8.0))
                    for other in others
                ]
                weight = sum(weight for _, weight in weighted)
                wishes.append(sum(x * weight for x, weight in weighted) / weight if weight else spot.x)
                weights.append(weight or 0.1)
            _fit(rank, wishes, weights)


def _fit(rank: Sequence[_Spot], wishes: Sequence[float], weights: Sequence[float]) -> None:
    """Sets x as near to the wishes as the spots' widths allow."""
    offsets = [0.0]
    for left, right in pairwise(rank):
        gap = BETWEEN_BOXES if left.is_box and right.is_box else BETWEEN_CHAINS
        offsets.append(offsets[-1] + (left.size.width + right.size.width) / 2 + gap)
    for spot, x in zip(rank, _spread(wishes, offsets, weights), strict=True):
        spot.x = x


def _spread(wishes: Sequence[float], offsets: Sequence[float], weights: Sequence[float]) -> Iterator[float]:
    """The x nearest to the wishes by least squares, as far apart as their offsets: pool adjacent violators."""
    #: (mean, weight, how many spots)
    pools: list[tuple[float, float, int]] = []
    for wish, offset, weight in zip(wishes, offsets, weights, strict=True):
        mean, total, count = wish - offset, weight, 1
        while pools and pools[-1][0] > mean:
            other, other_weight, others = pools.pop()
            mean = (mean * total + other * other_weight) / (total + other_weight)
            total, count = total + other_weight, count + others
        pools.append((mean, total, count))
    means = [mean for mean, _, count in pools for _ in range(count)]
    yield from (mean + offset for mean, offset in zip(means, offsets, strict=True))


def _tops(ranks: Sequence[Sequence[_Spot]]) -> tuple[list[float], float]:
    """The upper edge of each rank, and the height of the whole."""
    tops, y = [], MARGIN
    for rank in ranks:
        tops.append(y)
        y += max(spot.size.height for spot in rank) + BETWEEN_RANKS
    return tops, y - BETWEEN_RANKS + MARGIN


def _ends(
    edges: Sequence[LayoutEdge], toward: Sequence[float], spots: Mapping[str, _Spot], *, by_head: bool
) -> list[float]:
    """The x at which each edge leaves its tail (or reaches its head), as near as may be to where it goes."""
    at_box: dict[str, list[int]] = {}
    for at, edge in enumerate(edges):
        at_box.setdefault(edge.head if by_head else edge.tail, []).append(at)
    ends = [0.0] * len(edges)
    for key, members in at_box.items():
        spot = spots[key]
        room = 0.4 * spot.size.width
        apart = min(_BETWEEN_ENDS, 2 * room / len(members))
        members.sort(key=toward.__getitem__)
        wishes = [min(max(toward[at], spot.x - room), spot.x + room) for at in members]
        offsets = [place * apart for place in range(len(members))]
        for at, x in zip(members, _spread(wishes, offsets, [1.0] * len(members)), strict=True):
            ends[at] = x
    return ends
