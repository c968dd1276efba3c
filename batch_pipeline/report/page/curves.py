"""Concurrency over time: cells of each step that run, and that wait, as an SVG that shares one time axis.

Each step has a band of its own, so that no legend of colours is needed; its scale is its own maximum, which is printed.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Final

from batch_pipeline.records.cell_table import CellColumns
from batch_pipeline.report.estimates import lasting
from batch_pipeline.report.page.html import text
from batch_pipeline.report.page.packing import TimeScale

#: Points of time of a curve.
BINS: Final = 300
#: In pixels: width of names, of the curves, of maxima, and height of a band.
_LEFT, _WIDTH, _RIGHT, _BAND, _GAP, _AXIS = 150, 840, 90, 44, 10, 34


@dataclass(frozen=True, kw_only=True)
class StepCurve:
    """Cells of a step at each of `BINS` points of time."""

    step: str
    running: Sequence[int]
    #: Sent and not yet running; zeros where nobody wrote down since when.
    waiting: Sequence[int]


def step_curve(cells: CellColumns, scale: TimeScale) -> StepCurve:
    """How many cells of a step run and wait, from the first start of the run to its last end."""
    # A start counts from its point of time on, an end from the point behind it: what is short is not lost.
    running, waiting = array("q", bytes(8 * (BINS + 1))), array("q", bytes(8 * (BINS + 1)))
    begin, per_ms = scale.begin_ms, BINS / max(scale.end_ms - scale.begin_ms, 1)
    columns = (cells.columns[name] for name in ("started_ms", "duration_ms", "queued_ms"))
    for start, lasted, queued in zip(*columns, strict=True):
        if not start:
            continue
        at = min(max(int((start - begin) * per_ms), 0), BINS - 1)
        running[at] += 1
        running[min(int((start + lasted - begin) * per_ms) + 1, BINS)] -= 1
        if queued:
            waiting[min(max(int((start - queued - begin) * per_ms), 0), at)] += 1
            waiting[at] -= 1
    return StepCurve(
        step=cells.step, running=list(accumulate(running))[:BINS], waiting=list(accumulate(waiting))[:BINS]
    )


def curves_svg(curves: Sequence[StepCurve], scale: TimeScale) -> str:
    """The picture; empty where no cell of any step is known to have run."""
    shown = [curve for curve in curves if any(curve.running)]
    if not shown:
        return ""
    height = _AXIS + (_BAND + _GAP) * len(shown)
    width = _LEFT + _WIDTH + _RIGHT
    parts = [f'<svg class="curves" viewBox="0 0 {width} {height}" role="img" aria-labelledby="curves-label">']
    words = "; ".join(f"{curve.step}: at most {max(curve.running):,} at once" for curve in shown)
    parts.append(f'<title id="curves-label">{text(f"Cells that run and wait over time. {words}.")}</title>')
    parts += _grid(scale, height)
    for row, curve in enumerate(shown):
        parts += _band(curve, row * (_BAND + _GAP) + 4)
    return "\n".join([*parts, "</svg>"])


def _grid(scale: TimeScale, height: int) -> Iterator[str]:
    """Lines at round times, with the time since the first start below them."""
    seconds = (scale.end_ms - scale.begin_ms) / 1000
    step = _round_step(seconds)
    for number in range(int(seconds / step) + 1 if step else 1):
        x = _LEFT + (_WIDTH * number * step / seconds if seconds else 0)
        yield f'<line class="grid" x1="{x:.1f}" y1="0" x2="{x:.1f}" y2="{height - _AXIS + 6}"/>'
        label = "0" if not number else lasting(number * step)
        yield f'<text class="axis" x="{x:.1f}" y="{height - 14}" text-anchor="middle">{text(label)}</text>'


def _band(curve: StepCurve, top: int) -> Iterator[str]:
    base = top + _BAND
    most = max(max(curve.running), max(curve.waiting), 1)
    if any(curve.waiting):
        yield f'<path class="waiting" d="{_area(curve.waiting, most, base)}"/>'
    yield f'<path class="running" d="{_area(curve.running, most, base)}"/>'
    yield f'<line class="base" x1="{_LEFT}" y1="{base}" x2="{_LEFT + _WIDTH}" y2="{base}"/>'
    yield f'<text x="{_LEFT - 12}" y="{base - 6}" text-anchor="end">{text(_short(curve.step))}</text>'
    right = _LEFT + _WIDTH + 10
    yield f'<text class="axis" x="{right}" y="{base - 20}">{max(curve.running):,} run</text>'
    if any(curve.waiting):
        yield f'<text class="axis" x="{right}" y="{base - 5}">{max(curve.waiting):,} wait</text>'


def _area(counts: Sequence[int], most: int, base: int) -> str:
    """A path of steps above the base line."""
    path, before = [f"M{_LEFT} {base}"], 0
    for number, count in enumerate(counts):
        if count != before:
            path.append(f"H{_LEFT + _WIDTH * number / BINS:.1f}V{base - (_BAND - 4) * count / most:.1f}")
            before = count
    return "".join([*path, f"H{_LEFT + _WIDTH}V{base}Z"])


def _round_step(seconds: float) -> float:
    """A round time of which 4 to 10 are in the whole."""
    rounds = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 14400, 28800, 86400)
    return next((step for step in rounds if seconds / step <= 8), 86400 * max(1.0, seconds // (8 * 86400)))


def _short(name: str) -> str:
    return name if len(name) <= 20 else f"{name[:19]}…"
