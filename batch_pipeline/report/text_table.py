"""Lays out tables as lines of text, for any width: nothing is ever broken within a word or an id. Pure.

Where a table is wider than the screen, its widest columns move below: each record then has its other columns on one
line, and `name: value` of those under it. A word that is wider than the screen stays whole; terminals wrap it, and what
is copied from there is right.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from batch_pipeline.wire.plain_text import printable

_GAP: Final = "  "
_INDENT: Final = "    "


def table_lines(columns: Sequence[str], rows: Sequence[Sequence[object]], *, width: int | None) -> Iterator[str]:
    """The header and the records of a table; without a width each record is one line, however long."""
    texts = [[_text(value) for value in row] for row in rows]
    numeric = [bool(rows) and all(isinstance(row[at], int) for row in rows) for at in range(len(columns))]
    widths = [max(map(_width, (name, *(row[at] for row in texts)))) for at, name in enumerate(columns)]
    shown = _fitting(widths, width)
    for row in (columns, *texts):
        yield _GAP.join(_padded(row[at], widths[at], right=numeric[at]) for at in shown).rstrip()
        if row is not columns:
            below = (
                f"{columns[at]}: {row[at]}".removeprefix(": ")
                for at in range(len(columns))
                if at not in shown and row[at]
            )
            yield from _filled(below, width)


def pair_lines(pairs: Sequence[Sequence[object]], *, width: int | None) -> Iterator[str]:
    """Names with their values, aligned; a value that is wider than the screen goes on below itself."""
    names = max((_width(str(name)) for name, _ in pairs), default=0)
    start = " " * (names + 2 * len(_GAP))
    for name, value in pairs:
        text = printable(" ".join(str(value).rstrip().split("\n")))
        first, *others = _wrapped(text, None if width is None else width - len(start)) or [""]
        yield f"{_GAP}{_padded(str(name), names)}{_GAP}{first}".rstrip()
        yield from (f"{start}{line}" for line in others)


def _fitting(widths: Sequence[int], width: int | None) -> list[int]:
    """Positions of the columns that stay on one line: all but the widest ones; the first always."""
    shown = list(range(len(widths)))
    while width is not None and len(shown) > 1 and sum(widths[at] + len(_GAP) for at in shown) - len(_GAP) > width:
        shown.remove(max(shown[1:], key=widths.__getitem__))
    return shown


def _filled(parts: Iterable[str], width: int | None) -> Iterator[str]:
    """Parts beside each other as far as they fit, indented; a part that is too long for a line is wrapped at blanks."""
    line = ""
    for part in parts:
        if line and width is not None and _width(f"{line}{_GAP}{part}") > width:
            yield line
            line = ""
        line = f"{line}{_GAP}{part}" if line else f"{_INDENT}{part}"
        if width is not None and _width(line) > width:
            *full, last = _wrapped(line.strip(), width - len(_INDENT))
            yield from (f"{_INDENT}{one}" for one in full)
            line = f"{_INDENT}{last}"
    if line:
        yield line


def _wrapped(text: str, width: int | None) -> list[str]:
    """The text in lines, broken at blanks alone."""
    if width is None or _width(text) <= width:
        return [text]
    lines = [""]
    for word in text.split(" "):
        if lines[-1] and _width(f"{lines[-1]} {word}") > width:
            lines.append(word)
        else:
            lines[-1] = f"{lines[-1]} {word}" if lines[-1] else word
    return lines


def _text(value: object) -> str:
    """A value in one line, without what a terminal would obey."""
    text = f"{value:,}" if isinstance(value, int) else " ".join(str(value).split("\n"))
    return printable(text)


def _padded(text: str, width: int, *, right: bool = False) -> str:
    blanks = " " * (width - _width(text))
    return f"{blanks}{text}" if right else f"{text}{blanks}"


def _width(text: str) -> int:
    """Columns of a terminal that a text takes."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(one) else 2 if unicodedata.east_asian_width(one) in "WF" else 1 for one in text
    )
