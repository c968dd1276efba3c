"""Reviews the code of a pipeline before anything is sent: what would fail in every container, with file and line.

Declarations of the wrong kind, steps that a container cannot import, scripts that cannot be started, outputs that would
overwrite each other. Sources are read, not run.
"""

from __future__ import annotations

import ast
import logging
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, TypeGuard

from batch_pipeline.pipeline.cell_facts import Learned
from batch_pipeline.pipeline.code import (
    code_of,
    in_main_guard,
    is_main_guard,
    module_file,
    own_classes,
    parsed,
    place_of,
    script_of,
)
from batch_pipeline.pipeline.foreign_words import doubtful_words, ignored_words
from batch_pipeline.pipeline.output_review import overlapping_outputs, wrong_outputs
from batch_pipeline.pipeline.step import Input, Parameter, Reference, Scope, SheetColumn, Step
from batch_pipeline.pipeline.wiring import class_for_port
from batch_pipeline.pipeline.workflow import Graph
from batch_pipeline.wire.errors import InvalidPipeline

_LOG: Final = logging.getLogger(__name__)

_PORTS: Final = ("Input", "Output", "Reference")
#: Types that a parameter may have.
_TYPES: Final = ("bool", "int", "float", "str")
_GETTERS: Final = ("os.environ.get", "environ.get", "os.getenv", "getenv")
#: Attribute of a step -> whether a value will do, and what will.
_KINDS: Final[dict[str, tuple[Callable[[Any], bool], str]]] = {
    "scope": (lambda value: isinstance(value, Scope), "Scope.SAMPLE, Scope.PART, Scope.GROUP or Scope.COHORT"),
    "cpus": (lambda value: _is_number(value, int, float), "a number of vCPUs, without quotes"),
    "memory_mb": (
        lambda value: isinstance(value, Learned) or callable(value) or _is_number(value, int),
        "a whole number of MiB, without quotes and unit",
    ),
    "timeout_seconds": (
        lambda value: value is None or callable(value) or _is_number(value, int),
        "a whole number of seconds, or None",
    ),
    "max_parallel": (
        lambda value: value is None or _is_number(value, int),
        "a whole number of cells from 1 on, or None",
    ),
    "tolerant": (lambda value: isinstance(value, bool), "True or False"),
    "script": (lambda value: isinstance(value, str), "a file's name"),
    "command": (lambda value: isinstance(value, str), "a text for bash"),
    "when": (lambda value: isinstance(value, str), "a text with a condition"),
    "group_by": (lambda value: isinstance(value, str), "a column's name"),
    "role_column": (lambda value: isinstance(value, str), "a column's name"),
    "part_names": (lambda value: _is_names(value), 'a tuple of names: ("chr1", "chr2")'),
    "part_file": (lambda value: isinstance(value, str), "a file's name"),
    "part_column": (lambda value: isinstance(value, str), "a column's name"),
    "image": (lambda value: isinstance(value, str), "an image's name"),
    "files": (lambda value: _is_names(value), 'a tuple of names: ("table.tsv",)'),
    "tools": (lambda value: _is_names(value), 'a tuple of names: ("samtools",)'),
}


def require_sound(graph: Graph) -> None:
    """Warns of what may go wrong in containers. Raises InvalidPipeline with all that will."""
    if problems := code_problems(graph):
        raise InvalidPipeline("\n".join(problems))
    for warning in code_warnings(graph):
        _LOG.warning("%s", warning)


def require_kinds(graph: Graph) -> None:
    """Raises InvalidPipeline with all that is wrong, if an attribute has a value of which no digest can be made.

    It reads no source unless something is wrong.
    """
    if any(problem for node in graph for problem in wrong_kinds(type(node.step))):
        raise InvalidPipeline("\n".join(code_problems(graph)))


def code_problems(graph: Graph) -> list[str]:
    """What is wrong with the steps of a graph, a sentence each."""
    classes = dict.fromkeys(type(node.step) for node in graph)
    checks = (
        *(wrong_kinds, _texts_for_ports, _other_types, wrong_outputs, overlapping_outputs),
        *(_not_importable, _wrong_ways, _variables_alike, _tolerant_of_nothing),
    )
    problems = [problem for step in classes for check in checks for problem in check(step)]
    problems += [problem for step in classes for problem in ignored_words(step, graph.file)]
    if any(step.command for step in classes):
        from batch_pipeline.pipeline.command_review import wrong_commands, wrong_positions

        problems += [problem for step in classes for problem in wrong_commands(step)]
        problems += [problem for node in graph for problem in wrong_positions(node)]
    problems += _unguarded_main(graph)
    problems += [problem for step in classes for problem in _not_named(step, graph.root)]
    return problems + [problem for step in classes for problem in _not_startable(step, graph.root)]


def code_warnings(graph: Graph) -> list[str]:
    """What may go wrong in containers: values of the driver's environment, and words that nothing may read."""
    classes = dict.fromkeys(type(node.step) for node in graph)
    names = sorted({name for node in graph for name in code_of(type(node.step), graph.root) if name.suffix == ".py"})
    doubtful = [warning for step in classes for warning in doubtful_words(step, graph.file)]
    return doubtful + [
        f"{graph.root / name}, line {line}: {variable} is read when the module is imported, and containers have another"
        " environment. Make it a Param, or write the value down."
        for name in names
        for line, variable in _environment_reads(parsed(graph.root / name))
    ]


def _is_number(value: Any, *kinds: type) -> bool:
    return type(value) in kinds and bool(value > 0)


def _is_names(value: Any) -> bool:
    return isinstance(value, (tuple, list)) and all(isinstance(name, str) for name in value)


def wrong_kinds(step: type[Step]) -> Iterator[str]:
    """Attributes of a step whose value is not of the kind that they must have, a sentence each."""
    for name, (fits, rule) in _KINDS.items():
        value = getattr(step, name)
        if not fits(value):
            yield f"{place_of(step, name)}: {step.__name__}.{name} must be {rule}, not {value!r}."


def _texts_for_ports(step: type[Step]) -> Iterator[str]:
    for owner in own_classes(step):
        annotations = vars(owner).get("__annotations__", {})
        for name, value in vars(owner).items():
            if problem := class_for_port(step, name):
                yield f"{place_of(step, name)}: {problem}"
            kind = str(annotations.get(name, name)).rpartition(".")[2].strip("'>")
            if kind in _PORTS and isinstance(value, (str, tuple, list)):
                yield (
                    f"{place_of(step, name)}: {step.__name__}.{name} is {value!r}, which declares no port."
                    f" Write NAME = {kind}({value!r})."
                )


def _other_types(step: type[Step]) -> Iterator[str]:
    """Parameters that are annotated with another type than their default has, which decides."""
    for owner in own_classes(step):
        annotations = vars(owner).get("__annotations__", {})
        for name, value in vars(owner).items():
            annotation = annotations.get(name)
            written = getattr(annotation, "__name__", annotation)
            if isinstance(value, Parameter) and written in _TYPES and written != value.kind.__name__:
                yield (
                    f"{place_of(step, name)}: {step.__name__}.{name} is annotated as {written}, but its default"
                    f" {value.default!r} is of type {value.kind.__name__}, which decides. Give a default of type"
                    f" {written}, or write {name}: {value.kind.__name__}."
                )


def _wrong_ways(step: type[Step]) -> Iterator[str]:
    """No command, script or run(), or more than one of them."""
    if not step.command and not step.script and step.run is Step.run:
        yield (
            f"{place_of(step)}: {step.__name__} has no command, no script and no run(); it needs one of them."
            ' Write command = "…".'
        )
    texts = [name for name in ("command", "script") if getattr(step, name)]
    ways = [*(f"a {name}" for name in texts), *(["run()"] if step.run is not Step.run else [])]
    if len(ways) > 1:
        yield (
            f"{place_of(step, texts[0])}: {step.__name__} has {ways[0]} and {ways[1]}; a step is run in one way."
            " Remove one of them."
        )


def _variables_alike(step: type[Step]) -> Iterator[str]:
    """Names that a script would find in one variable, which are in capitals."""
    for kind in (Parameter, SheetColumn, Input, Reference) if step.script else ():
        names: dict[str, str] = {}
        for name in step.declared(kind):
            if (other := names.setdefault(name.upper(), name)) != name:
                yield (
                    f"{place_of(step, name)}: {step.__name__}.{name} and {other} would be one variable for the script,"
                    f" …_{name.upper()}. Rename one."
                )


def _tolerant_of_nothing(step: type[Step]) -> Iterator[str]:
    if step.tolerant is True and step.scope is not Scope.COHORT:
        yield (
            f"{place_of(step, 'tolerant')}: {step.__name__}.tolerant is for gathers, and this step runs for each"
            " sample. Remove it, or write scope = Scope.COHORT."
        )


def _unguarded_main(graph: Graph) -> Iterator[str]:
    """The call of the command line where containers would run it, as they import the file."""
    if graph.file not in {graph.root / module_file(type(node.step), graph.root) for node in graph}:
        return
    for statement in parsed(graph.file).body:
        if isinstance(statement, ast.Expr) and ast.unparse(statement) == f"{graph.name}.main()":
            yield (
                f"{graph.file}, line {statement.lineno}: {graph.name}.main() would be called in containers too, which"
                ' import the file. Write it below `if __name__ == "__main__":`.'
            )


def _not_importable(step: type[Step]) -> Iterator[str]:
    module = sys.modules[step.__module__]
    if getattr(module, step.__qualname__, None) is not step or in_main_guard(step):
        yield (
            f"{place_of(step)}: {step.__name__} is not at the top level of its module, from where containers import it"
            " by its name. Define it outside of functions, classes and `if __name__`."
        )


def _not_named(step: type[Step], root: Path) -> Iterator[str]:
    file = module_file(step, root)
    if "." in file.stem or "\\" in file.name:
        yield (
            f"{place_of(step)}: containers cannot import {step.__name__} from a file named {file.name}. Rename it:"
            " no dots and backslashes before .py."
        )


def _not_startable(step: type[Step], root: Path) -> Iterator[str]:
    if not step.script or not isinstance(step.script, str):
        return
    path = root / script_of(step, root)
    first = path.read_bytes().partition(b"\n")[0]
    place = f"{place_of(step, 'script')}: the script {step.script}"
    if not os.access(path, os.X_OK):
        yield f"{place} is not executable. Run: chmod +x {path}"
    if not first.startswith((b"#!", b"\x7fELF")):
        yield f"{place} does not say what runs it. Give it a first line like #!/bin/sh."
    elif first.startswith(b"#!") and first.endswith(b"\r"):
        yield f"{place} has the line ends of Windows, with which no interpreter is found. Save it with Unix line ends."


def _environment_reads(node: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and variable of what is read outside of functions."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)) or is_main_guard(child):
            continue
        if _is_read(child):
            yield child.lineno, ast.unparse(child)
        else:
            yield from _environment_reads(child)


def _is_read(node: ast.AST) -> TypeGuard[ast.expr]:
    """Whether it is `os.environ["X"]` or one of its like, and gives a value."""
    if isinstance(node, ast.Subscript):
        return isinstance(node.ctx, ast.Load) and ast.unparse(node.value) in ("os.environ", "environ")
    return isinstance(node, ast.Call) and ast.unparse(node.func) in _GETTERS
