"""A page with fusions by samples as a picture: one HTML file that needs neither a network nor a script.

The picture is an oncoprint: samples are sorted so that those of the most frequent fusion come first, then those of the
next one. Its columns get narrower with the samples, so that a cohort fits the width of a screen.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from itertools import pairwise
from typing import Final

#: Most fusions and samples in the picture, and most cells that say their reads when pointed at, so that the page stays
#: below a megabyte; the matrix has all.
_MOST_FUSIONS: Final = 60
_MOST_SAMPLES: Final = 1000
_MOST_LABELS: Final = 4000
#: Names of samples behind a fusion that are shown before the rest is unfolded, and the most of one fusion.
_FIRST_NAMES: Final = 5
_MOST_NAMES: Final = 100
#: In pixels: width of all cells together, widest and narrowest column, least width for a name below it and for gaps.
_WIDTH: Final = 960
_COLUMN: Final = (1.0, 26.0)
_NAMED: Final = 12
_GAPS: Final = 4
#: In pixels: height of a row and of the bars above, width of a letter, and least room for the names of fusions.
_ROW: Final = 18
_BARS: Final = 48
_LETTER: Final = 6.6
_MOST_LETTERS: Final = 36
_LEFT: Final = 190
#: Least number of reads of each colour; one or two are a hint, eight are enough (docs/fusions.md).
_SHADES: Final = (1, 3, 8, 30, 100)

_STYLE: Final = """
body { font: 14px/1.5 system-ui, sans-serif; margin: 2rem; color: #1f2933 }
h1 { font-size: 1.6rem; margin: 0 0 1rem }
h2 { font-size: 1.15rem; margin: 2rem 0 0.5rem }
dl { display: flex; flex-wrap: wrap; gap: 0.75rem; margin: 0 0 1rem }
dl div { border: 1px solid #d9e2ec; border-radius: 6px; padding: 0.4rem 1rem; min-width: 7rem }
dt { color: #627d98; font-size: 0.85rem }
dd { margin: 0; font-size: 1.5rem; font-weight: 600 }
.missing { background: #fff3cd; border-left: 4px solid #e0a800; padding: 0.5rem 1rem }
.picture { overflow-x: auto }
.legend i { display: inline-block; width: 14px; height: 14px; margin: 0 0.35rem 0 1rem; vertical-align: -2px }
svg { font: 11px system-ui, sans-serif; fill: #1f2933 }
svg .count { fill: #627d98 }
svg .band { fill: #f2f5f8 }
svg .bar { fill: #9fb3c8 }
svg g:hover .band { fill: #dde6ee }
svg rect { stroke: none }
svg rect:hover { stroke: #d64545 }
svg path { stroke-width: 16px }
.s0 { fill: #cbd5e0; stroke: #cbd5e0; background: #cbd5e0 }
.s1 { fill: #8cc0e4; stroke: #8cc0e4; background: #8cc0e4 }
.s2 { fill: #4292c6; stroke: #4292c6; background: #4292c6 }
.s3 { fill: #1f5fa8; stroke: #1f5fa8; background: #1f5fa8 }
.s4 { fill: #0a2a5e; stroke: #0a2a5e; background: #0a2a5e }
table { border-collapse: collapse }
td, th { text-align: left; vertical-align: top; padding: 0.25rem 1.25rem 0.25rem 0; border-bottom: 1px solid #e4eaf0 }
td:nth-child(2), td:nth-child(3), th:nth-child(2), th:nth-child(3) { text-align: right }
summary { cursor: pointer }
"""


def fusion_page(
    samples: Sequence[str], fusions: Sequence[tuple[str, Mapping[str, int]]], missing: Sequence[str] = ()
) -> str:
    """The page's HTML.

    Parameters
    ----------
    samples: all that have results, those without fusions among them.
    fusions: name and, by sample, supporting reads; in the order of the rows.
    missing: samples that the cohort does without.
    """
    columns, shown = _shown(samples, fusions)
    fusions_of = Counter(sample for _, support in fusions for sample in support)
    numbers = {
        "Samples": len(samples),
        "Fusions": len(fusions),
        "In more than one sample": sum(len(support) > 1 for _, support in fusions),
        "Samples without a fusion": len(samples) - len(fusions_of),
    }
    lines = [
        "<!DOCTYPE html>",
        '<html lang="en"><head><meta charset="utf-8"><title>Fusions of the cohort</title>',
        f"<style>{_STYLE}</style></head><body>",
        "<h1>Fusions of the cohort</h1>",
        f"<dl>{''.join(f'<div><dt>{word}</dt><dd>{number:,}</dd></div>' for word, number in numbers.items())}</dl>",
    ]
    if missing:
        lines.append(f'<p class="missing">Without results, and left out: {escape(", ".join(missing))}.</p>')
    if len(shown) < len(fusions) or len(columns) < len(samples):
        lines.append(
            f"<p>The picture shows {len(shown)} fusions and {len(columns)} samples; fusion_matrix.tsv has all.</p>"
        )
    lines += _picture(columns, shown, fusions_of) if shown else ["<p>No sample has a fusion.</p>"]
    return "\n".join([*lines, *_table(shown), "</body></html>", ""])


def _shown(
    samples: Sequence[str], fusions: Sequence[tuple[str, Mapping[str, int]]]
) -> tuple[list[str], list[tuple[str, Mapping[str, int]]]]:
    """The samples, sorted by their fusions, and the fusions of the picture; of many samples those with one of them."""
    shown = list(fusions[:_MOST_FUSIONS])
    rows_of: dict[str, list[int]] = {sample: [] for sample in samples}
    for row, (_, support) in enumerate(shown):
        for sample in support:
            rows_of[sample].append(row)
    columns = list(samples)
    if len(columns) > _MOST_SAMPLES:
        columns = [sample for sample in columns if rows_of[sample]][:_MOST_SAMPLES]
    # Behind the rows of a sample comes one more: who has the first two fusions stands before who has the first alone.
    return sorted(columns, key=lambda sample: (*rows_of[sample], len(shown))), shown


def _picture(
    samples: Sequence[str], fusions: Sequence[tuple[str, Mapping[str, int]]], fusions_of: Mapping[str, int]
) -> Iterator[str]:
    """An SVG with a row a fusion and a column a sample, below bars with the fusions of each sample."""
    column = max(_COLUMN[0], min(_COLUMN[1], _WIDTH / len(samples)))
    wide = column - 1.5 if column >= _GAPS else column
    named = column >= _NAMED
    left = max(_LEFT, round(_LETTER * max(len(_short(name)) for name, _ in fusions)) + 55)
    below = round(_LETTER * max(len(_short(sample)) for sample in samples)) if named else 0
    bottom = _BARS + _ROW * len(fusions)
    most = max(fusions_of.values())
    labelled = sum(len(support) for _, support in fusions) <= _MOST_LABELS
    place = {sample: f"{left + column * number:.1f}" for number, sample in enumerate(samples)}
    size = f'width="{left + column * len(samples) + below / 2:.0f}" height="{bottom + below + 8}"'

    yield _legend()
    yield f'<div class="picture"><svg xmlns="http://www.w3.org/2000/svg" {size} role="img">'
    yield f'<title>Fusions by samples</title><text class="count" x="{left - 6}" y="{_BARS - 8}" text-anchor="end">'
    yield f"fusions of a sample (up to {most})</text>"
    for sample, x in place.items():
        high = (_BARS - 8) * fusions_of.get(sample, 0) / most
        label = escape(f"{sample}: {fusions_of.get(sample, 0)} fusions")
        where = f'x="{x}" y="{_BARS - 4 - high:.1f}" width="{wide:.1f}" height="{high:.1f}"'
        yield f'<rect class="bar" {where}><title>{label}</title></rect>'
    for row, (name, support) in enumerate(fusions):
        y = _BARS + _ROW * row
        yield f'<g><rect class="band" x="{left}" y="{y}" width="{column * len(samples):.1f}" height="{_ROW - 2}"/>'
        yield f'<text x="{left - 40}" y="{y + 12}" text-anchor="end">{escape(_short(name))}</text>'
        yield f'<text class="count" x="{left - 8}" y="{y + 12}" text-anchor="end">{len(support)}</text>'
        if not labelled:
            yield from _lines(samples, support, f"translate({left},{y + _ROW // 2 - 1}) scale({column:.4f},1)")
        for sample in sorted(place.keys() & support.keys()) if labelled else ():
            where = f'x="{place[sample]}" y="{y}" width="{wide:.1f}" height="{_ROW - 2}"'
            label = escape(f"{name}, {sample}: {support[sample]}")
            yield f'<rect class="s{_shade(support[sample])}" {where}><title>{label}</title></rect>'
        yield "</g>"
    if named:
        for sample, x in place.items():
            turned = f"translate({float(x) + column / 2 + 3:.1f},{bottom + 8}) rotate(-60)"
            yield f'<text text-anchor="end" transform="{turned}">{escape(_short(sample))}</text>'
    yield "</svg></div>"


def _lines(samples: Sequence[str], support: Mapping[str, int], transform: str) -> Iterator[str]:
    """The cells of a row as one path a shade, in columns: a tenth of the bytes of cells that have a label each."""
    cells: dict[int, list[str]] = {}
    for number, sample in enumerate(samples):
        if sample in support:
            cells.setdefault(_shade(support[sample]), []).append(f"M{number} 0h1")
    for shade, path in sorted(cells.items()):
        yield f'<path class="s{shade}" transform="{transform}" d="{"".join(path)}"/>'


def _legend() -> str:
    ranges = [f"{low}–{high - 1}" for low, high in pairwise(_SHADES)] + [f"{_SHADES[-1]} or more"]
    shades = "".join(f'<i class="s{shade}"></i>{words}' for shade, words in enumerate(ranges))
    return (
        f'<p class="legend">Supporting reads:{shades}. The number beside a fusion is that of its samples; point at a '
        "cell or a bar for its sample.</p>"
    )


def _shade(reads: int) -> int:
    return max(0, bisect_right(_SHADES, reads) - 1)


def _short(name: str) -> str:
    """A name as the picture has room for it: a long one without its middle."""
    half = _MOST_LETTERS // 2
    return name if len(name) <= _MOST_LETTERS else f"{name[: half - 1]}…{name[-half:]}"


def _table(fusions: Sequence[tuple[str, Mapping[str, int]]]) -> Iterator[str]:
    if not fusions:
        return
    yield "<h2>Fusions</h2><table><tr><th>Fusion</th><th>Samples</th><th>Most reads</th><th>In</th></tr>"
    for name, support in fusions:
        best = sorted(support, key=lambda sample: (-support[sample], sample))
        yield (
            f"<tr><td>{escape(name)}</td><td>{len(support)}</td><td>{support[best[0]]}</td><td>{_names(best)}</td></tr>"
        )
    yield "</table>"


def _names(samples: Sequence[str]) -> str:
    """Names of samples, the first ones before a fold."""
    first = escape(", ".join(samples[:_FIRST_NAMES]))
    if len(samples) <= _FIRST_NAMES:
        return first
    rest = escape(", ".join(samples[_FIRST_NAMES:_MOST_NAMES]))
    more = "; fusion_matrix.tsv has all" if len(samples) > _MOST_NAMES else ""
    return f"<details><summary>{first} and {len(samples) - _FIRST_NAMES} more</summary>{rest}{more}</details>"
