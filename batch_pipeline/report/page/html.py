"""Elements of the page as text: every value is escaped here, and nowhere else."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from html import escape
from typing import Final

#: A number with a unit, or what stands for none.
_AMOUNT: Final = re.compile(r"(under )?[\d.,]+( \S{1,3})?|-|")


def text(value: object) -> str:
    """A value as text of an element or attribute; numbers with thousands apart."""
    return escape(f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value))


def sentence(words: str) -> str:
    """A sentence in which what stands between backticks is code."""
    parts = [text(part) for part in words.split("`")]
    return "".join(f"<code>{part}</code>" if number % 2 else part for number, part in enumerate(parts))


def table(name: str, columns: Sequence[str], rows: Iterable[Sequence[object]], *, caption: str = "") -> str:
    """A table that can be downloaded as NAME.tsv; columns of numbers, or of `number unit`, are set right."""
    listed = [list(row) for row in rows]
    if not listed:
        return ""
    right = [all(_is_amount(row[at]) for row in listed) for at in range(len(columns))]
    head = "".join(f'<th scope="col"{_right(right[at])}>{text(title)}</th>' for at, title in enumerate(columns))
    lines = []
    for row in listed:
        first, *rest = row
        cells = [f'<th scope="row"{_right(right[0])}>{text(first)}</th>']
        cells += [f"<td{_right(right[at])}>{text(value)}</td>" for at, value in enumerate(rest, 1)]
        lines.append(f"<tr>{''.join(cells)}</tr>")
    label = f"<caption>{text(caption)}</caption>" if caption else ""
    body = "\n".join(lines)
    return (
        f'<div class="table"><table data-name="{text(name)}">{label}<thead><tr>{head}</tr></thead>\n'
        f"<tbody>{body}</tbody></table></div>"
    )


def pairs(rows: Iterable[Sequence[object]]) -> str:
    """Names with values, as a description list."""
    items = "".join(f"<div><dt>{text(name)}</dt><dd>{text(value)}</dd></div>" for name, value in rows)
    return f'<dl class="pairs">{items}</dl>' if items else ""


def section(key: str, title: str, *parts: str, note: str = "") -> str:
    """A section with a heading, and a note below it; empty without any part."""
    inside = "\n".join(filter(None, parts))
    if not inside:
        return ""
    below = f'<p class="note">{text(note)}</p>' if note else ""
    heading = f'<h2 id="{key}-title">{text(title)}</h2>'
    return f'<section id="{key}" aria-labelledby="{key}-title">{heading}{below}\n{inside}</section>'


def folded(title: str, *parts: str) -> str:
    """Parts behind a line that opens them."""
    inside = "\n".join(filter(None, parts))
    return f"<details><summary>{text(title)}</summary>\n{inside}</details>" if inside else ""


def command(words: str) -> str:
    """A command line to copy."""
    return f'<code class="command">{text(words)}</code>'


def _right(is_right: bool) -> str:
    return ' class="n"' if is_right else ""


def _is_amount(value: object) -> bool:
    return isinstance(value, (int, float)) or bool(_AMOUNT.fullmatch(str(value)))
