"""Reads the rows of steps of groups and parts: from columns of the sample sheet, files, and lists in classes.

A part is named in keys by its text with `_` for what no key may have: `S1@chr1_1-5000` for `chr1:1-5000`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Final

from batch_pipeline.pipeline.code import module_file, place_of
from batch_pipeline.pipeline.rows import Rows
from batch_pipeline.pipeline.samples import SampleList, is_name, sample_problems
from batch_pipeline.pipeline.step import Input, Scope, Step
from batch_pipeline.pipeline.workflow import Graph, Node, Port
from batch_pipeline.wire.errors import InvalidPipeline, InvalidSampleList

#: Characters of a part: with its sample's it is the name of a folder.
MAX_PART: Final = 100
_FOREIGN: Final = re.compile(r"[^A-Za-z0-9._+=-]")
#: Attributes of a step class -> the scope that they are of.
_OF_SCOPES: Final = {
    "group_by": Scope.GROUP,
    "role_column": Scope.GROUP,
    "part_names": Scope.PART,
    "part_file": Scope.PART,
    "part_column": Scope.PART,
}


def require_rows(graph: Graph) -> None:
    """Raises InvalidPipeline for a step whose groups or parts are not declared, and for one that cannot have them."""
    for node in graph:
        if problem := next(_problems(graph, node), ""):
            raise InvalidPipeline(f"{place_of(type(node.step))}: {problem}")


def rows_of_sheet(graph: Graph, samples: SampleList) -> tuple[dict[str, Rows], dict[str, Sequence[str]]]:
    """Step of groups or parts -> its rows, one object for equal ones; step of groups -> each sample's role, in order.

    Raises InvalidSampleList with every problem of the columns that they are read from, InvalidPipeline for a file of
    parts that cannot be read.
    """
    problems: list[str] = []
    distinct: dict[tuple[tuple[str, ...], tuple[str, ...]], Rows] = {}
    rows: dict[str, Rows] = {}
    roles: dict[str, Sequence[str]] = {}
    for node in graph:
        if node.scope is Scope.GROUP:
            made = _groups(node, samples, problems)
            if node.step.role_column:
                roles[node.name] = _values(node, node.step.role_column, samples, problems)
                problems += _role_problems(node, made, roles[node.name], samples)
        elif node.scope is Scope.PART:
            made = _parts(graph, node, samples, problems)
        else:
            continue
        rows[node.name] = distinct.setdefault((made.names, made.parts), made)
    if problems:
        raise InvalidSampleList(sample_problems(list(dict.fromkeys(problems)), samples.origin))
    return rows, roles


def _problems(graph: Graph, node: Node) -> Iterator[str]:
    step, name = node.step, type(node.step).__name__
    declared = [attribute for attribute, scope in _OF_SCOPES.items() if getattr(step, attribute)]
    if foreign := next((one for one in declared if _OF_SCOPES[one] is not node.scope), ""):
        scope = _OF_SCOPES[foreign].name
        yield f"{name}.{foreign} is of steps with scope = Scope.{scope}. Set that scope, or remove {foreign}."
    if node.scope is Scope.GROUP and not step.group_by:
        yield f'{name} runs a group: name the column of the sheet with the groups, group_by = "patient".'
    if node.scope is Scope.PART and len(declared) != 1:
        yield f"{name} runs a part: set one of part_names, part_file and part_column."
    if temporary := next((port for port, output in node.outputs.items() if output.temporary), ""):
        yield f"{name}.{temporary} is temporary, which outputs beside steps of parts and groups cannot be. Remove that."
    ports = step.declared(Input)
    if with_role := next((port for port in ports if ports[port].role and not step.role_column), ""):
        yield f'{name}.{with_role} has a role: name the column of the sheet with the roles, role_column = "status".'
    if node.scope is Scope.GROUP and node.sources:
        yield f"{name} runs a group, which has no sources of its own. Read them in a step of the samples."
    if node.scope in (Scope.GROUP, Scope.PART) and (node.when or node.choosing):
        yield f"{name} runs a group or part: neither it nor what it reads may have a condition (when) or alternatives."
    for options in node.choosing.values():
        scopes = {graph[option.task.name].scope for option in options if isinstance(option, Port)}
        if not scopes.isdisjoint((Scope.GROUP, Scope.PART)):
            yield f"{name} reads groups or parts as alternatives, which it cannot choose from. Connect one alone."


def _groups(node: Node, samples: SampleList, problems: list[str]) -> Rows:
    members: dict[str, list[int]] = {}
    for i, (sample, group) in enumerate(
        zip(samples, _values(node, node.step.group_by, samples, problems), strict=True)
    ):
        if group and not is_name(group):
            problems.append(
                f"Sample {sample.name!r} (line {sample.line} of {samples.origin}), column {node.step.group_by!r}:"
                f" {group!r} must be 1 to 128 letters, digits and . _ + = @ -, beginning with a letter or digit; groups"
                " become object keys. Rename it."
            )
        members.setdefault(group, []).append(i)
    return Rows(names=tuple(members), members=tuple(map(tuple, members.values())))


def _values(node: Node, column: str, samples: SampleList, problems: list[str]) -> list[str]:
    """What a column of the sheet has for each sample. Notes a column that is not there, and empty fields."""
    if column not in samples.columns:
        columns = ", ".join(samples.columns) or "none beside the sample"
        problems.append(
            f"Step {node.name} needs the column {column!r}, which {samples.origin} does not have; its columns are:"
            f" {columns}. Add it to the sheet."
        )
        return [""] * len(samples)
    problems += (
        f"Sample {sample.name!r} (line {sample.line} of {samples.origin}) has nothing in the column {column!r}, which"
        f" step {node.name} needs. Write a value."
        for sample in samples
        if not sample.columns.get(column)
    )
    return [sample.columns.get(column, "") for sample in samples]


def _role_problems(node: Node, rows: Rows, roles: Sequence[str], samples: SampleList) -> Iterator[str]:
    """Samples whose role no port has, and groups of which a port would have nothing."""
    ports = {port: item for port, item in node.step.declared(Input).items() if port in node.inputs}
    if not all(roles):
        return
    wanted = {item.role for item in ports.values()}
    for sample, role in zip(samples, roles, strict=True):
        if "" not in wanted and role not in wanted:
            yield (
                f"Sample {sample.name!r} (line {sample.line} of {samples.origin}) has {role!r} in the column"
                f" {node.step.role_column!r}; step {node.name} reads {', '.join(sorted(wanted))}. Correct the value."
            )
    for i, name in enumerate(rows.names):
        there = {roles[at] for at in rows.samples_of(i)}
        for port, item in ports.items():
            if item.role and item.role not in there and not item.optional:
                yield (
                    f"Group {name!r} of {samples.origin} has no sample with {item.role!r} in the column"
                    f" {node.step.role_column!r}, which input {port} of step {node.name} needs. Add one, or declare"
                    f" {port} = Input(role={item.role!r}, optional=True)."
                )


def _parts(graph: Graph, node: Node, samples: SampleList, problems: list[str]) -> Rows:
    step = node.step
    if step.part_column:
        columns = _values(node, step.part_column, samples, problems)
        parts_by_sample: Sequence[Sequence[str]] = [value.split() for value in columns]
    else:
        parts_by_sample = [_read_parts(graph, step) if step.part_file else step.part_names] * len(samples)
    checked: set[tuple[str, ...]] = set()
    names: list[str] = []
    for sample, parts in zip(samples.names, parts_by_sample, strict=True):
        if tuple(parts) not in checked:
            checked.add(tuple(parts))
            problems += (f"Step {node.name}: {problem}" for problem in _part_problems(parts))
        own = [f"{sample}@{part_key(part)}" for part in parts]
        problems += (
            f"Step {node.name}: {name!r} is a sample of {samples.origin}, and the name of a part of {sample!r}. Rename"
            " one."
            for name in own
            if name in samples.by_name
        )
        names += own
    members = [(i,) for i, parts in enumerate(parts_by_sample) for _ in parts]
    return Rows(names=tuple(names), members=members, parts=tuple(part for parts in parts_by_sample for part in parts))


def part_key(part: str) -> str:
    """A part as keys have it: `chr1_1-5000` for `chr1:1-5000`."""
    return _FOREIGN.sub("_", part)


def _part_problems(parts: Sequence[str]) -> Iterator[str]:
    text_by_key: dict[str, str] = {}
    for part in parts:
        key = part_key(part)
        if key in text_by_key:
            yield f"the parts {text_by_key[key]!r} and {part!r} have one key, {key!r}. Rename or remove one."
        text_by_key[key] = part
        if len(part) > MAX_PART or not part.isprintable():
            yield f"the part {part[:40]!r} must have at most {MAX_PART} printable characters. Rename it."


def _read_parts(graph: Graph, step: Step) -> tuple[str, ...]:
    """The first word of each line, without blank lines and comments."""
    file = module_file(type(step), graph.root).parent / step.part_file
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidPipeline(
            f"{place_of(type(step), 'part_file')}: {type(step).__name__} names the file of parts {step.part_file!r},"
            f" which cannot be read beside its module ({error}). Put it there."
        ) from error
    parts = tuple(line.split()[0] for line in lines if line.strip() and not line.startswith("#"))
    if not parts:
        raise InvalidPipeline(f"The file of parts {file} of {type(step).__name__} names none. Write one a line.")
    return parts
