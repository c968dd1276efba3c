"""Writes the attempts of a run as lines: tab-separated values, a JSON object a line, or one JSON array. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from batch_pipeline.records.attempt_row import COLUMNS, AttemptRow

#: What would end a field or a line of tab-separated values.
_ESCAPES: Final = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"})


def attempt_lines(rows: Iterable[AttemptRow], form: str) -> Iterator[str]:
    """Lines without their ends, as `tsv` (with a header), `jsonl` or `json`, each as soon as its row is there."""
    if form == "tsv":
        yield "\t".join(COLUMNS)
        for row in rows:
            yield "\t".join(_field(value) for value in _values(row).values())
        return
    objects = (json.dumps(_values(row), ensure_ascii=False) for row in rows)
    if form == "jsonl":
        yield from objects
        return
    yield "["
    before = next(objects, None)
    for line in objects:
        yield f"{before},"
        before = line
    if before is not None:
        yield before
    yield "]"


def _values(row: AttemptRow) -> Mapping[str, Any]:
    return {name: getattr(row, name) for name in COLUMNS}


def _field(value: Any) -> str:
    """Empty for what nobody knows; backslashes, tabs and ends of lines as `\\\\`, `\\t`, `\\n` and `\\r`."""
    return "" if value is None else str(value).translate(_ESCAPES)
