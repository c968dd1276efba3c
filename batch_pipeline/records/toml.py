"""Writes values as TOML, which the standard library reads and does not write."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from typing import Any


def to_toml(value: Mapping[str, Any]) -> str:
    """A TOML document; keys with nothing behind them (None) are left out."""
    return "\n".join(_lines(value, ())).strip() + "\n"


def _lines(table: Mapping[str, Any], path: tuple[str, ...]) -> Iterator[str]:
    plain = {key: item for key, item in table.items() if not isinstance(item, Mapping) and item is not None}
    if path and (plain or not table):
        yield f"\n[{'.'.join(map(_key, path))}]"
    yield from (f"{_key(key)} = {_value(item)}" for key, item in plain.items())
    for key, item in table.items():
        if isinstance(item, Mapping):
            yield from _lines(item, (*path, key))


def _key(key: str) -> str:
    bare = key.isascii() and key.replace("_", "").replace("-", "").isalnum()
    return key if bare else _text(key)


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return repr(value) if math.isfinite(value) else {"inf": "inf", "-inf": "-inf"}.get(str(value), "nan")
    if isinstance(value, int):
        return str(value)
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_key(key)} = {_value(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_value, value)) + "]"
    return _text(str(value))


def _text(text: str) -> str:
    """A basic string: TOML escapes as JSON does, and DEL besides."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
