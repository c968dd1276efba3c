"""Finds the help texts of ports, parameters and columns in a step's class: people read them, and jobs do not."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import Final

from batch_pipeline.pipeline.analysis.statements import Module, bound_names

#: What a step declares with a help. It is given by name; that of an input may be its first argument too.
_WITH_HELP: Final = ("Column", "Input", "Output", "Param", "Reference")


def help_texts(node: ast.ClassDef, module: Module) -> Iterator[ast.AST]:
    """The arguments of declarations in a class that are a help and a plain text, where the names are surely ours."""
    own = {name for statement in node.body for name in bound_names(statement)}
    for statement in node.body:
        call = statement.value if isinstance(statement, (ast.Assign, ast.AnnAssign)) else None
        if not isinstance(call, ast.Call):
            continue
        declared = _declared(call.func, module, own)
        if declared in _WITH_HELP:
            yield from (each for each in call.keywords if each.arg == "help" and _is_plain(each.value))
        if declared == "Input":
            yield from filter(_is_plain, call.args[:1])


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


def _is_plain(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)
