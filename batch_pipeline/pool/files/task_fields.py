"""Parses a task's specification from the texts of a table or from JSON: each field of its type, or what is wrong."""

from __future__ import annotations

import json
import math
import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from batch_pipeline.pool.task import TaskSpec

#: What words alone cannot say.
_FOR_A_SHELL: Final = re.compile(r"[$`|&;<>()*?\[\]{}~#!\n]|^\s*\w+=")
_QUOTED: Final = re.compile(r"[\"'\\]")
#: Other names of fields.
ALIASES: Final = {"class": "resource_class"}


@dataclass(frozen=True, slots=True)
class InvalidRow:
    """What is wrong with a row, in a sentence."""

    text: str


def parse_task_spec(values: Mapping[str, Any], defaults: Mapping[str, Any]) -> TaskSpec | InvalidRow:
    """The task that values ask for, as they stand in a file, or what is wrong with them. `problems_of` is not asked."""
    known: dict[str, Any] = dict(defaults)
    for name, value in values.items():
        field_name = ALIASES.get(name, name)
        if field_name not in FIELDS:
            return InvalidRow(f"it has an unknown field {name!r}. Known: {', '.join(FIELDS)}.")
        try:
            checked = FIELDS[field_name](value)
        except (ValueError, TypeError):
            return InvalidRow(f"its {name} is {value!r}; it must be {_MUST[field_name]}.")
        known[field_name] = {**known.get(field_name, {}), **checked} if isinstance(checked, dict) else checked
    if not known.get("id"):
        return InvalidRow("it has no id. Give it one that does not change, so that importing it again finds it.")
    return TaskSpec(**known)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _whole(value: Any) -> int:
    if isinstance(value, bool | float):
        raise TypeError
    return int(value)


def _seconds(value: Any) -> float | None:
    if isinstance(value, bool):
        raise TypeError
    seconds = None if value is None else float(value)
    if seconds is not None and not math.isfinite(seconds):
        raise ValueError
    return seconds


def _words(value: Any) -> tuple[str, ...]:
    return _names(split_words(value) if isinstance(value, str) and not value.startswith("[") else value)


def _names(value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        value = json.loads(value) if value.startswith("[") else value.split()
    names = tuple(value)
    if not all(isinstance(name, str) for name in names):
        raise TypeError
    return names


def _pairs(value: Any) -> dict[str, str]:
    pairs = dict(json.loads(value) if isinstance(value, str) else value)
    if not all(isinstance(text, str) for text in (*pairs, *pairs.values())):
        raise TypeError
    return pairs


FIELDS: Final[Mapping[str, Callable[[Any], Any]]] = {
    "id": _text,
    "command": _words,
    "shell": _text,
    "resource_class": _text,
    "priority": _whole,
    "environment": _pairs,
    "inputs": _pairs,
    "outputs": _pairs,
    "after": _names,
    "most_attempts": _whole,
    "most_returns": _whole,
    "time_limit_seconds": _seconds,
    "parent": _text,
}
_OF_CHECK: Final[Mapping[Callable[[Any], Any], str]] = {
    _text: "text",
    _words: "a list of words, or a line with its quotes closed",
    _names: "ids with spaces between them, or a list of them",
    _whole: "a whole number",
    _seconds: "a number of seconds",
    _pairs: "an object of texts by names",
}
_MUST: Final = {name: _OF_CHECK[check] for name, check in FIELDS.items()}


def split_words(text: str) -> list[str]:
    """The words that a shell makes of a line without anything special. Raises ValueError: a quote is not closed."""
    return shlex.split(text) if _QUOTED.search(text) else text.split()


def command_fields(text: str) -> dict[str, Any]:
    """A script as fields of a task: words, or a shell line if it needs a shell. Raises ValueError."""
    return {"shell": text} if _FOR_A_SHELL.search(text) else {"command": tuple(split_words(text))}
