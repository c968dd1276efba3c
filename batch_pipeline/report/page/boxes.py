"""Distributions a step as box plots: duration, memory beside what was asked, processor use, bytes staged.

A box holds the middle half of the cells, its line is the median, whiskers reach from 5 to 95 %, dots are the least and
the most. Scales are logarithmic, for cells of a step differ by factors.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from batch_pipeline.report.estimates import lasting
from batch_pipeline.report.page.html import text

_LEFT, _WIDTH, _RIGHT, _ROW, _AXIS = 150, 700, 230, 30, 24
MOST_TICKS: Final = 7
_PERCENT: Final = (0, 5, 25, 50, 75, 95, 100)
_UNITS: Final = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


@dataclass(frozen=True, kw_only=True)
class Measure:
    """How values are written, and the round ones that a scale may name, in ascending order."""

    words: Callable[[float], str]
    rounds: Sequence[float]


@dataclass(frozen=True, kw_only=True)
class Box:
    """Figures of one step's cells. `quantiles` are of 0, 5, 25, 50, 75, 95 and 100 %."""

    step: str
    cells: int
    quantiles: Sequence[float]
    #: Marks beside the box: what stands there in words -> the value.
    marks: Mapping[str, float]


def box_of(step: str, values: array[int], marks: Mapping[str, float] | None = None, *, unit: float = 1) -> Box | None:
    """The box of the positive values, each times a unit; None without any."""
    known = sorted(value for value in values if value > 0)
    if not known:
        return None
    last = len(known) - 1
    quantiles = [known[max(0, math.ceil(percent * (last + 1) / 100) - 1)] * unit for percent in _PERCENT]
    return Box(step=step, cells=len(known), quantiles=quantiles, marks=marks or {})


def boxes_svg(title: str, boxes: Sequence[Box], measure: Measure) -> str:
    """A row a box under one logarithmic scale. Empty without boxes."""
    words = measure.words
    if not boxes:
        return ""
    values = [value for box in boxes for value in (*box.quantiles, *box.marks.values()) if value > 0]
    low, high = min(values), max(values)
    low, high = (low / 1.5, high * 1.5) if high / low < 2 else (low / 1.1, high * 1.1)

    def place(value: float) -> float:
        return _LEFT + _WIDTH * math.log(max(value, low) / low) / math.log(high / low)

    height = _AXIS + _ROW * len(boxes)
    width = _LEFT + _WIDTH + _RIGHT
    medians = "; ".join(f"{box.step}: median {words(box.quantiles[3])}" for box in boxes)
    parts = [
        f'<figure><figcaption>{text(title)}</figcaption><svg class="boxes" viewBox="0 0 {width} {height}" role="img">',
        f"<title>{text(f'{title}. {medians}.')}</title>",
    ]
    for value in _ticks(low, high, measure.rounds):
        x = place(value)
        parts.append(f'<line class="grid" x1="{x:.1f}" y1="0" x2="{x:.1f}" y2="{height - _AXIS}"/>')
        parts.append(
            f'<text class="axis" x="{x:.1f}" y="{height - 6}" text-anchor="middle">{text(words(value))}</text>'
        )
    for row, box in enumerate(boxes):
        parts += _row(box, _ROW * row, place, words)
    return "\n".join([*parts, "</svg></figure>"])


def _row(box: Box, top: int, place: Callable[[float], float], words: Callable[[float], str]) -> Iterator[str]:
    least, p5, p25, p50, p75, p95, most = (place(value) for value in box.quantiles)
    middle = top + _ROW / 2
    name = box.step if len(box.step) <= 20 else f"{box.step[:19]}…"
    yield f'<text x="{_LEFT - 12}" y="{middle + 4}" text-anchor="end">{text(name)}</text>'
    yield f'<line class="whisker" x1="{p5:.1f}" y1="{middle}" x2="{p95:.1f}" y2="{middle}"/>'
    wide = max(p75 - p25, 2)
    yield f'<rect class="box" x="{p25:.1f}" y="{middle - 8}" width="{wide:.1f}" height="16" rx="2"/>'
    yield f'<line class="median" x1="{p50:.1f}" y1="{middle - 8}" x2="{p50:.1f}" y2="{middle + 8}"/>'
    for x in (least, most):
        yield f'<circle class="extreme" cx="{x:.1f}" cy="{middle}" r="2.5"/>'
    for number, (label, value) in enumerate(box.marks.items()):
        x = place(value)
        shape = f"M{x:.1f} {middle - 12}v24" if not number else f"M{x:.1f} {middle - 6}l5 6l-5 6l-5 -6z"
        yield f'<path class="mark{number}" d="{shape}"><title>{text(f"{label}: {words(value)}")}</title></path>'
    spread = f"{words(box.quantiles[3])}, most {words(box.quantiles[6])}"
    marks = "".join(f"; {label} {words(value)}" for label, value in box.marks.items())
    right = _LEFT + _WIDTH + 12
    yield f'<text class="axis" x="{right}" y="{middle + (4 if not marks else -2)}">{text(spread)}</text>'
    if marks:
        yield f'<text class="axis" x="{right}" y="{middle + 11}">{text(marks.removeprefix("; "))}</text>'


def _ticks(low: float, high: float, rounds: Sequence[float]) -> list[float]:
    """At most `MOST_TICKS` of the round values between two, evenly thinned."""
    inside = [value for value in rounds if low <= value <= high]
    return inside[:: -(-len(inside) // MOST_TICKS) or 1]


def time_words(milliseconds: float) -> str:
    """`12 s`, `3 h 20 min`; short ones in milliseconds."""
    return lasting(milliseconds / 1000) if milliseconds >= 1000 else f"{milliseconds:.0f} ms"


def size_words(size: float) -> str:
    """`1.9 GiB`."""
    power = 0
    while size >= 1024 and power < len(_UNITS) - 1:
        size, power = size / 1024, power + 1
    return f"{size:.3g} {_UNITS[power]}"


def percent_words(share: float) -> str:
    """`75.2 %`, `1,210 %`."""
    return f"{share:,.0f} %" if share >= 100 else f"{share:.3g} %"


_SECOND, _MINUTE, _HOUR, _DAY = 1e3, 6e4, 3.6e6, 8.64e7
TIME: Final = Measure(
    words=time_words,
    rounds=(
        *(1, 2, 5, 10, 20, 50, 100, 200, 500),
        *(unit * number for unit in (_SECOND, _MINUTE) for number in (1, 2, 5, 10, 20, 30)),
        *(_HOUR * number for number in (1, 2, 4, 8, 12)),
        *(_DAY * number for number in (1, 2, 4, 8, 16, 32)),
    ),
)
SIZE: Final = Measure(words=size_words, rounds=tuple(2.0**power for power in range(60)))
PERCENT: Final = Measure(
    words=percent_words, rounds=tuple(10.0**power * number for power in range(-1, 5) for number in (1, 2, 5))
)
