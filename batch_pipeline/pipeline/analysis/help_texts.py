"""Finds the arguments of ports, parameters and columns in a step's class that no job reads: help, `temporary`."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from typing import Final

from batch_pipeline.pipeline.analysis.statements import Module, bound_names

#: What a step declares with a help. It is given by name; that of an input may be its first argument too.
_WITH_HELP: Final = ("Column", "Input", "Output", "Param", "Reference")


def unread_arguments(node: ast.ClassDef, module: Module, names: AbstractSet[str]) -> Iterator[ast.AST]:
    """The arguments of declarations in a class that no job reads, where the names are surely ours.

    Of `names` they are `help`, a plain text, and `temporary`, whether an output is.
    """
    own = {name for statement in node.body for name in bound_names(statement)}
    for statement in node.body:
        call = statement.value if isinstance(statement, (ast.Assign, ast.AnnAssign)) else None
        if not isinstance(call, ast.Call):
            continue
        declared = _declared(call.func, module, own)
        if declared in _WITH_HELP and "help" in names:
            yield from (each for each in call.keywords if each.arg == "help" and _is_plain(each.value))
            yield from filter(_is_plain, call.args[:1] if declared == "Input" else ())
        if declared == "Output" and "temporary" in names:
            yield from (each for each in call.keywords if each.arg == "temporary" and _is_plain(each.value, bool))


def _declared(function: ast.expr, module: Module, own: set[str]) -> str:
    """The name in `batch_pipeline` of what is called, `Param` or `bp.Param`; empty: it may be something else."""
    name, _, member = ast.unparse(function).partition(".")
    bindings = module.binding.get(name, ())
    if name in own or name in module.rebound or "*" in module.binding or len(bindings) != 1:
        return ""
    if not isinstance(bindings[0].node, (ast.Import, ast.ImportFrom)):
        return ""
    alias = next(each for each in bindings[0].aliases if each.name == name)
    if alias.module.partition(".")[0] != "batch_pipeline" or bool(alias.member) == bool(member):
        return ""
    return alias.member or member.rpartition(".")[2]


def _is_plain(node: ast.expr, kind: type = str) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, kind)
