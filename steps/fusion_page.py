"""A page with fusions by samples as a picture: one HTML file that needs neither a network nor a script."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from itertools import accumulate
from typing import Final

#: Most fusions, samples and coloured cells in the picture, which keep the page below a megabyte; the matrix has all.
_MOST_FUSIONS: Final = 60
_MOST_SAMPLES: Final = 300
_MOST_CELLS: Final = 6000
#: Width and height of a cell, and room for names, in pixels.
_CELL: Final = 14
_LEFT: Final = 220
_TOP: Final = 130
#: Reads from which on a cell has the darkest colour.
_DARKEST: Final = 1000

_STYLE: Final = """
body { font: 14px sans-serif; margin: 2em; color: #222 }
svg { font: 11px sans-serif }
td, th { text-align: left; padding: 0.1em 1em 0.1em 0 }
"""


def fusion_page(
    samples: Sequence[str], fusions: Sequence[tuple[str, Mapping[str, int]]], missing: Sequence[str] = ()
) -> str:
    """The page's HTML.

    Parameters
    ----------
    samples: in the order of the columns, those without fusions among them.
    fusions: name and, by sample, supporting reads; in the order of the rows.
    missing: samples that the cohort does without.
    """
    columns, shown = _shown(samples, fusions)
    recurrent = sum(len(support) > 1 for _, support in fusions)
    without = len(samples) - len({sample for _, support in fusions for sample in support})
    lines = [
        "<!DOCTYPE html>",
        '<html lang="en"><head><meta charset="utf-8"><title>Fusions of the cohort</title>',
        f"<style>{_STYLE}</style></head><body>",
        "<h1>Fusions of the cohort</h1>",
        f"<p>{len(samples)} samples, {len(fusions)} fusions, {recurrent} of them in more than one sample; {without} "
        "samples without a fusion.</p>",
    ]
    if missing:
        lines.append(f"<p>Without results, and left out: {escape(', '.join(missing))}.</p>")
    if len(shown) < len(fusions) or len(columns) < len(samples):
        lines.append(
            f"<p>The picture shows {len(shown)} fusions and {len(columns)} samples; fusion_matrix.tsv has all.</p>"
        )
    lines += _picture(columns, shown) if shown else ["<p>No sample has a fusion.</p>"]
    return "\n".join([*lines, *_table(shown), "</body></html>", ""])


def _shown(
    samples: Sequence[str], fusions: Sequence[tuple[str, Mapping[str, int]]]
) -> tuple[list[str], list[tuple[str, Mapping[str, int]]]]:
    """The samples and fusions of the picture: of many samples those with one of the first fusions."""
    columns, shown = list(samples), list(fusions[:_MOST_FUSIONS])
    if len(columns) > _MOST_SAMPLES:
        having = {sample for _, support in shown for sample in support}
        columns = [sample for sample in columns if sample in having][:_MOST_SAMPLES]
    drawn = set(columns)
    cells = list(accumulate(len(drawn & support.keys()) for _, support in shown))
    return columns, shown[: bisect_right(cells, _MOST_CELLS)]


def _picture(samples: Sequence[str], fusions: Sequence[tuple[str, Mapping[str, int]]]) -> Iterator[str]:
    """An SVG with a row a fusion and a column a sample; a cell tells its reads when pointed at."""
    width, height = _LEFT + _CELL * len(samples) + 60, _TOP + _CELL * len(fusions) + 4
    yield "<p>The darker a cell, the more reads support the fusion; point at it for their number.</p>"
    yield f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" role="img">'
    yield "<title>Fusions by samples</title>"
    place = {sample: _LEFT + _CELL * number for number, sample in enumerate(samples)}
    for sample, x in place.items():
        yield f'<text transform="translate({x + 11},{_TOP - 6}) rotate(-60)">{escape(sample)}</text>'
    yield f'<path stroke="#ddd" d="{_grid(len(samples), len(fusions))}"/>'
    for row, (name, support) in enumerate(fusions):
        y = _TOP + _CELL * row
        yield f'<text x="{_LEFT - 6}" y="{y + 11}" text-anchor="end">{escape(name)}</text>'
        for sample, reads in support.items():
            if sample in place:
                size = f'x="{place[sample]}" y="{y}" width="{_CELL}" height="{_CELL}"'
                label = escape(f"{name}, {sample}: {reads}")
                yield f'<rect {size} fill="{_colour(reads)}"><title>{label}</title></rect>'
    yield "</svg>"


def _grid(columns: int, rows: int) -> str:
    """Path of the lines between cells."""
    across = (f"M{_LEFT} {_TOP + _CELL * row}h{_CELL * columns}" for row in range(rows + 1))
    down = (f"M{_LEFT + _CELL * column} {_TOP}v{_CELL * rows}" for column in range(columns + 1))
    return "".join((*across, *down))


def _colour(reads: int) -> str:
    """From light to dark blue with the logarithm of the reads."""
    share = min(1.0, math.log1p(reads) / math.log1p(_DARKEST))
    return f"hsl(210,70%,{round(85 - 60 * share)}%)"


def _table(fusions: Sequence[tuple[str, Mapping[str, int]]]) -> Iterator[str]:
    if not fusions:
        return
    yield "<h2>Fusions</h2><table><tr><th>Fusion</th><th>Samples</th><th>Most reads</th><th>In</th></tr>"
    for name, support in fusions:
        best = sorted(support, key=lambda sample: (-support[sample], sample))
        named = ", ".join(best[:5]) + (f" and {len(best) - 5} more" if len(best) > 5 else "")
        yield (
            f"<tr><td>{escape(name)}</td><td>{len(support)}</td><td>{support[best[0]]}</td><td>{escape(named)}</td></tr>"
        )
    yield "</table>"
