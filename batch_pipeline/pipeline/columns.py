"""The values of the sheet that steps declare (`Column`): read, typed and checked for all samples before anything runs.

Columns that no step declares are no part of a plan: they may hold what people like to note of their samples.
"""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, Final

from batch_pipeline.pipeline.choices import choices_of
from batch_pipeline.pipeline.samples import Sample, SampleList, sample_problems
from batch_pipeline.pipeline.step import Scope, SheetColumn, Step
from batch_pipeline.pipeline.workflow import Graph, Node, Source
from batch_pipeline.wire.errors import InvalidConfig, InvalidSampleList
from batch_pipeline.wire.layout import COHORT

#: Characters of a value: the rows of a manifest are all as long as the longest one, and variables have a limit.
MAX_VALUE: Final = 1024
#: What would end a value, or a line of the tables that scripts read.
_CONTROL: Final = "[\x00-\x1f\x7f-\x9f\u2028\u2029]"
#: Beginnings of places that no store can read.
FOREIGN_URLS: Final = ("https://", "http://", "ftp://")
#: Changed values of a gather's samples that are named one by one.
CHANGES_SHOWN: Final = 8

Values = Mapping[str, Any]


def column_values(step: type[Step] | Step, sample: Sample, names: Collection[str] | None = None) -> Values:
    """The values that a step's columns (None: all) have for a sample, by attribute.

    Raises InvalidConfig for the first bad one.
    """
    declared = step.declared(SheetColumn).items()
    return {name: _value(column, sample) for name, column in declared if names is None or name in names}


def typed_values(step: Step, values: Values) -> Values:
    """The values of a step's columns from some of them, by attribute. Raises InvalidConfig, also for an unknown one."""
    declared = step.declared(SheetColumn)
    if unknown := sorted(set(values) - set(declared)):
        raise InvalidConfig(
            f"{type(step).__name__} has no column {unknown[0]!r}; it has: {', '.join(declared) or 'none'}."
        )
    if step.scope in (Scope.COHORT, Scope.GROUP):
        return {}
    if missing := [name for name, column in declared.items() if column.is_required and name not in values]:
        raise InvalidConfig(f"{type(step).__name__} needs a value of its column {missing[0]!r}.")
    return {name: column.parse(values[name]) if name in values else column.default for name, column in declared.items()}


def columns_of(
    graph: Graph, samples: SampleList, excluded: Mapping[str, AbstractSet[str]]
) -> Mapping[str, Sequence[Values]]:
    """Step that declares columns -> their values for each sample, in order; equal ones are one object.

    A sample that does not have the step, by `excluded_cells`, has no values, and its row needs none. Raises
    InvalidSampleList with every problem of the values, and of the columns that name files.
    """
    nodes = [node for node in graph if node.step.declared(SheetColumn)]
    rows = {node.name: _reading(graph, node, samples, excluded) for node in nodes}
    problems = [problem for node in nodes if any(rows[node.name]) for problem in _lacking(node, samples)]
    for node in graph:
        for port, source in node.sources.items():
            # An optional port does without columns that the sheet has not.
            is_named = port not in node.optional or not set(source.all_columns).isdisjoint(samples.columns)
            if source.all_columns and is_named and node.step.scope is not Scope.REFERENCE:
                reading = _reading(graph, node, samples, excluded, port)
                problems += _file_problems(f"{node.name}.in_{port}", source, samples, reading)
    if not problems:
        values_by_step = {
            node.name: _values_of(node.step.declared(SheetColumn), rows[node.name], samples.origin, problems)
            for node in nodes
        }
    if problems:
        raise InvalidSampleList(sample_problems(list(dict.fromkeys(problems)), samples.origin))
    return values_by_step


def _reading(
    graph: Graph, node: Node, samples: SampleList, excluded: Mapping[str, AbstractSet[str]], port: str = ""
) -> Sequence[Sample | None]:
    """The samples that have a cell of a step, or that a gather takes, or that read a port's source; None for others."""
    without = excluded.get(node.name, frozenset())
    if COHORT in without:
        return [None] * len(samples)
    choices = choices_of(graph, node, samples.names, excluded)
    reads = [True] * len(samples)
    if choices is not None and port in choices.by_port:
        last = len(node.choosing[port]) - 1
        reads = [at == last for at in choices.by_port[port]]
    elif choices is not None and node.scope is Scope.COHORT:
        of_samples = {step for step in node.upstream if graph[step].scope is not Scope.COHORT}
        reads = [not of_samples or not of_samples.isdisjoint(steps) for steps in choices.steps]
    return [
        sample if here and sample.name not in without else None for sample, here in zip(samples, reads, strict=True)
    ]


def _lacking(node: Node, samples: SampleList) -> Iterator[str]:
    """The columns that the sheet must have and has not, or has under another spelling: `Fastq-1` for `fastq_1`."""
    step = node.name
    present = {_spelled(name): name for name in samples.columns}
    for declared in node.step.declared(SheetColumn).values():
        near = {column: present[_spelled(column)] for column in declared.columns if _spelled(column) in present}
        yield from (
            f"{samples.origin} has a column {name!r}, step {step} one named {column!r}. Rename one."
            for column, name in near.items()
            if column not in samples.columns
        )
        if declared.is_required and not near:
            purpose = f" ({declared.help.rstrip('.')})" if declared.help else ""
            yield (
                f"Step {step} needs the column {declared.column!r}{purpose}, which {samples.origin} does not have; its"
                f" columns are: {_columns_and_nearest(declared.column, samples)} Add it to"
                f" the sheet, or give Column({declared.column!r}) a default."
            )


def _spelled(name: str) -> str:
    """A column's name without case and punctuation."""
    return re.sub(r"[\W_]", "", name).casefold()


def _columns_and_nearest(name: str, samples: SampleList) -> str:
    """The columns of a sheet, and the one that a name may have meant."""
    near = difflib.get_close_matches(name, samples.columns, n=1)
    return f"{', '.join(samples.columns) or 'none beside the sample'}.{f' Did you mean {near[0]!r}?' if near else ''}"


def column_changes(step: Step, before: SampleList, after: Mapping[str, Values]) -> list[str]:
    """What differs from the values that an earlier list has, a phrase each: `column strand of S1: auto -> forward`."""
    changes = []
    for name, values in after.items():
        try:
            earlier = column_values(step, before[name]) if name in before.by_name else values
        except InvalidConfig:
            continue
        of = f" of {name}" if step.scope in (Scope.COHORT, Scope.GROUP) else ""
        changes += [
            f"column {key}{of}: {earlier[key]} -> {values[key]}" for key in values if earlier[key] != values[key]
        ]
    more = [f"and {len(changes) - CHANGES_SHOWN} more columns"] if len(changes) > CHANGES_SHOWN else []
    return changes[:CHANGES_SHOWN] + more


def named_files(source: Source, sample: Sample) -> Iterator[tuple[Sample, str, str]]:
    """Row, column and name of each file that the sheet names for a port: row by row, the columns in order."""
    columns = source.all_columns
    for row in sample.rows if columns else ():
        for column in columns:
            if name := row.columns.get(column):
                yield row, column, name


def _file_problems(port: str, source: Source, samples: SampleList, reading: Sequence[Sample | None]) -> Iterator[str]:
    """What is wrong with the columns of a port's files: a file must not be left out, or read twice, unseen."""
    columns, origin = source.all_columns, samples.origin
    absent = [name for name in columns if name not in samples.columns]
    if any(reading) and absent and (len(absent) < len(columns) or not source.files):
        there = _columns_and_nearest(absent[0], samples)
        instead = "" if source.files else ", or name the files in self.source()"
        yield (
            f"{port} reads the column {absent[0]!r}, which {origin} does not have; its columns are: {there} Add it,"
            f" with an empty field for a sample that has no such file{instead}."
        )
        return
    for sample in filter(None, reading):
        for row, column, name in named_files(source, sample):
            if name.startswith(FOREIGN_URLS):
                yield (
                    f"Sample {sample.name!r} (line {row.line} of {origin}), column {column!r}: {name} cannot be read; a"
                    " source is a file, or an s3:// URL. Fetch it first."
                )
        if len(columns) == 1 and not sample.further_rows:
            continue
        filled = [tuple(bool(row.columns.get(name)) for name in columns) for row in sample.rows]
        for row, fields in zip(sample.rows, filled, strict=True):
            where = f"Sample {sample.name!r} (line {row.line} of {origin})"
            if fields != tuple(sorted(fields, reverse=True)):
                gap = fields.index(False)
                yield f"{where} has nothing in the column {columns[gap]!r} and a file in a later one. Move the file."
            elif fields != filled[0]:
                yield f"{where} has another number of files than line {sample.line}; rows of a sample must be alike."
        counts = Counter(name for _, _, name in named_files(source, sample))
        if twice := next((name for name, count in counts.items() if count > 1), ""):
            yield f"Sample {sample.name!r} (line {sample.line} of {origin}) names the file {twice!r} twice for {port}."


def _values_of(
    columns: Mapping[str, SheetColumn], reading: Sequence[Sample | None], origin: str, problems: list[str]
) -> list[Values]:
    """The values of each sample, none of None. Notes the problems."""
    values_by_text: dict[tuple[str | None, ...], Values] = {}
    distinct: dict[tuple[Any, ...], Values] = {}
    names = [name for column in columns.values() for name in column.columns]
    values: list[Values] = []
    for sample in reading:
        if sample is None:
            values.append({})
            continue
        by_row = []
        for row in sample.rows:
            text = tuple(row.columns.get(name) for name in names)
            if text not in values_by_text:
                problems_before = len(problems)
                typed = dict(_typed(columns, row, origin, problems))
                if len(problems) > problems_before:
                    continue
                values_by_text[text] = distinct.setdefault(tuple(map(repr, typed.values())), typed)
            by_row.append(values_by_text[text])
        if any(one != by_row[0] for one in by_row[1:]):
            problems += _unlike(columns, sample, by_row, origin)
        values += by_row[:1]
    return values


def _typed(
    columns: Mapping[str, SheetColumn], row: Sample, origin: str, problems: list[str]
) -> Iterator[tuple[str, Any]]:
    for name, column in columns.items():
        try:
            yield name, _value(column, row)
        except InvalidConfig as error:
            problems.append(f"Sample {row.name!r} (line {row.line} of {origin}), column {column.column!r}: {error}")


def _value(column: SheetColumn, row: Sample) -> Any:
    texts = [row.columns.get(name, "") for name in column.columns]
    if not any(texts):
        if column.is_required:
            raise InvalidConfig("it is empty. Write a value.")
        return column.default
    for text in texts:
        _require_short_line(text)
    value = column.value_of(*texts)
    _require_short_line(str(value))
    return value


def _require_short_line(text: str) -> None:
    if len(text) > MAX_VALUE:
        raise InvalidConfig(f"it has {len(text):,} characters; a value has at most {MAX_VALUE:,}. Shorten it.")
    if control := re.search(_CONTROL, text):
        raise InvalidConfig(f"it has a control character (U+{ord(control[0]):04X}); a value is one line. Remove it.")


def _unlike(columns: Mapping[str, SheetColumn], sample: Sample, by_row: Sequence[Values], origin: str) -> Iterator[str]:
    """The columns in which rows of a sample differ, which only the names of its files may."""
    for name, column in columns.items():
        other = next((i for i, one in enumerate(by_row) if one[name] != by_row[0][name]), 0)
        if other:
            yield (
                f"Sample {sample.name!r} has {column.column} {by_row[0][name]!r} on line {sample.line} of {origin} and"
                f" {by_row[other][name]!r} on line {sample.rows[other].line}; the rows of a sample must agree. Correct"
                " one of them."
            )
