"""The normal form of Python syntax: equal for code that differs in comments, layout and quotes, on any interpreter.

`ast.dump` writes a tree differently from one version of Python to the next (new fields, left-out defaults), and a
digest of code must not depend on who plans. So a tree is written here field by field: without positions and contexts,
without fields that are empty, constants with their type.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Collection, Mapping
from functools import cache
from types import MappingProxyType
from typing import Any

#: Fields that say nothing of what code does: how a name is used follows from its place; `u` before a string is a habit.
_LEFT_OUT = frozenset({"ctx", "kind", "type_comment", "type_ignores"})
_BELOW = (ast.AST, list)


#: Called with each node of a kind before it is written; a node is left out, with all that is in it, where it says True.
Hooks = Mapping[type[ast.AST], Callable[[Any], object]]


def normal_form(node: ast.AST, without: Collection[ast.AST] = (), hooks: Hooks = MappingProxyType({})) -> str:
    """The tree as text, without some of its nodes. It uses no recursion: expressions may be nested deeply."""
    written: list[str] = []
    #: Texts to write as they are, nodes and lists, the next one last.
    waiting: list[Any] = [node]
    while waiting:
        item = waiting.pop()
        kind = item.__class__
        if kind is str:
            written.append(item)
        elif kind is list:
            waiting.append("]")
            waiting += [each if isinstance(each, _BELOW) else _constant(each) for each in reversed(item)]
            written.append("[")
        elif not ((without and item in without) or (kind in hooks and hooks[kind](item) is True)):
            if kind is ast.Name:
                written.append(f"Name {item.id}")
            elif kind is ast.Constant:
                written.append(f"Constant {_constant(item.value)}")
            elif kind is ast.JoinedStr:
                written.append("JoinedStr")
                waiting.append(_merged(item.values))
            else:
                _open(item, written, waiting, without)
    return " ".join(written)


def _open(node: Any, written: list[str], waiting: list[Any], without: Collection[ast.AST]) -> None:
    """Writes the kind of a node, and has its fields written next; those that are empty are left out."""
    written.append(node.__class__.__name__)
    fields = _fields_of(node.__class__)
    if fields:
        waiting.append(")")
    for field in fields:
        value = getattr(node, field, None)
        if without and isinstance(value, list):
            value = [each for each in value if each not in without]
        if isinstance(value, _BELOW):
            if value != []:
                waiting += (value, field)
        elif value is not None:
            waiting.append(f"{field}={_constant(value)}")


@cache
def _fields_of(kind: type[ast.AST]) -> tuple[str, ...]:
    """The fields that say what code does, the last one first."""
    return tuple(field for field in reversed(kind._fields) if field not in _LEFT_OUT)


def _constant(value: Any) -> str:
    """A constant as text, with its type. Neither `repr` nor a decimal number will do:

    which characters `repr` escapes depends on the version of Unicode, and decimals have a limit of length.
    """
    return f"{value:#x}" if type(value) is int else f"{type(value).__name__}:{value!a}"


def _merged(values: list[ast.expr]) -> list[ast.expr]:
    """Parts of an f-string with texts that stand side by side made one, and no empty ones: versions cut differently."""
    merged: list[ast.expr] = []
    for value in values:
        if not isinstance(value, ast.Constant):
            if isinstance(value, ast.FormattedValue) and _is_empty(value.format_spec):
                value = ast.FormattedValue(value=value.value, conversion=value.conversion, format_spec=None)
            merged.append(value)
        elif merged and isinstance(merged[-1], ast.Constant):
            merged[-1] = ast.Constant(value=f"{merged[-1].value!s}{value.value!s}")
        elif value.value:
            merged.append(value)
    return merged


def _is_empty(spec: ast.expr | None) -> bool:
    return isinstance(spec, ast.JoinedStr) and not _merged(spec.values)
