"""Reads tasks from files of other tools and of this one: what stands on each line, or what is wrong with it. Streaming.

    pyanamo   `itemID|TaskID|TaskScript[|TaskArgs]`; an item with arguments becomes a sub-task an argument
    csv, tsv  a header with the names of `TaskSpec`'s fields, a task a row; what an export tells besides is passed over
    jsonl     a record a line, with the same names, or a line of an export
    picas     tokens of a PiCaS database: a list, `{"docs": […]}`, a view's `{"rows": […]}`, or one a line
    lines     a command a line, as PiCaS's examples have them: `token_0`, `token_1`, …

A script that needs a shell ($, |, >, ; …) becomes a shell line, any other the words that a shell would make of it. What
was done or is held in PiCaS is passed over, and counted.

(A little longer than most modules: one function a format, and what all of them share.)
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any, Final

from batch_pipeline.pool.files.documents import documents_of
from batch_pipeline.pool.files.task_fields import ALIASES, FIELDS, InvalidRow, command_fields, parse_task_spec
from batch_pipeline.pool.task import TaskSpec
from batch_pipeline.wire.errors import InvalidTasks, InvalidUse


class Format(Enum):
    """How tasks stand in a file."""

    PYANAMO = "pyanamo"
    CSV = "csv"
    TSV = "tsv"
    JSONL = "jsonl"
    PICAS = "picas"
    LINES = "lines"


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How a file is to be read."""

    format: Format
    #: Between the fields of a row; empty: `|` for PyAnamo, a comma for CSV, a tab for TSV.
    delimiter: str = ""
    #: Between PyAnamo's arguments.
    nested_delimiter: str = ","
    #: What PiCaS's inputs are for: `process_task.sh`. It gets input and id. Empty: each input is a shell line.
    program: tuple[str, ...] = ()
    #: What ids of `lines` begin with.
    prefix: str = "token_"
    #: Field of `TaskSpec` -> what it is where the file does not say.
    defaults: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SkippedRow:
    """Why a row is no task to be done, in a word or two."""

    why: str


ParsedRow = TaskSpec | InvalidRow | SkippedRow
#: Line -> what stands there.
ParsedRows = Iterator[tuple[int, ParsedRow]]

_SUFFIXES: Final = {
    ".csv": Format.CSV,
    ".tsv": Format.TSV,
    ".jsonl": Format.JSONL,
    ".ndjson": Format.JSONL,
    ".json": Format.PICAS,
}
_DELIMITER: Final = {Format.PYANAMO: "|", Format.CSV: ",", Format.TSV: "\t"}
_PYANAMO: Final = ("itemID", "TaskID", "TaskScript", "TaskArgs")
#: What exports tell of a task besides what was asked of it.
STATE_COLUMNS: Final = (
    "state",
    "attempts",
    "returns",
    "owner",
    "native_id",
    "progress",
    "reason",
    "end_reason",
    "exit_code",
    "error",
    "log_key",
    "results",
    "added_at",
    "claimed_at",
    "ended_at",
)
#: What PiCaS itself keeps in a token; anything else is its user's.
_PICAS: Final = frozenset(
    (
        *("type", "lock", "done", "hostname", "scrub_count", "input", "exit_code", "output", "uploads", "error"),
        *("_id", "_rev", "_attachments", "resource_class", "priority", "pool", "events", "nonce", "place"),
        *("slurm_job_id", "dirac_job_id", "wms_job_id", "cream_job_id", "pbs_job_id"),
    )
)


def guessed(path: Path) -> Format:
    """The format of a file, by its name, or by its first line where that has PyAnamo's header.

    Raises
    ------
    InvalidUse
        Neither tells, or it cannot be read.
    """
    try:
        first = next((line for _, line in _lines(path) if line.strip()), "")
    except OSError as error:
        raise InvalidUse(f"{path} cannot be read: {error.strerror}.") from error
    if first.startswith(_PYANAMO[0]) and _PYANAMO[2] in first:
        return Format.PYANAMO
    if format_of_name := _SUFFIXES.get(path.suffix.lower()):
        return format_of_name
    known = ", ".join(one.value for one in Format)
    raise InvalidUse(f"{path}: neither its name nor its first line tells what it is. Give --format: {known}.")


def parse_rows(path: Path, reading: Reading) -> ParsedRows:
    """What stands in a file, in its order. Each field is of its type; the rules of `problems_of` are not looked at.

    Raises
    ------
    InvalidTasks
        It has no header where one is needed, a column that nobody knows, or is no text in UTF-8.
    """
    return _READERS[reading.format](path, reading)


# Files with a row a task.


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise InvalidTasks(f"{path}, line {number}: it is no text in UTF-8 ({error.reason}).") from error
            yield number, text


def _delimiter(reading: Reading) -> str:
    return reading.delimiter.replace("\\t", "\t") or _DELIMITER[reading.format]


def _pyanamo(path: Path, reading: Reading) -> ParsedRows:
    delimiter = _delimiter(reading)
    rows = ((number, line.strip("\r\n").split(delimiter)) for number, line in _lines(path) if line.strip())
    number, header = next(rows, (1, [""]))
    names = [name.strip() for name in header]
    if set(names) - set(_PYANAMO) or not {"itemID", "TaskScript"} <= set(names):
        raise InvalidTasks(
            f"{path}, line {number}: the header is {delimiter.join(names)!r}; it must be "
            f"{delimiter.join(_PYANAMO)!r}, the last one only for items with sub-tasks. Fix it, or give --delimiter."
        )
    for number, row in rows:
        if len(row) > len(names):
            what = f"it has {len(row)} fields where the header has {len(names)}: has a script the delimiter in it?"
            yield number, InvalidRow(f"{what} Write the file with another one, and name that with --delimiter.")
            continue
        try:
            made = list(_items(dict(zip(names, map(str.strip, row), strict=False)), reading))
        except ValueError as error:
            made = [InvalidRow(f"its script cannot be split into words: {error}.")]
        yield from ((number, one) for one in made)


def _items(item: Mapping[str, str], reading: Reading) -> Iterator[ParsedRow]:
    name, script = item["itemID"], item.get("TaskScript", "")
    group = {"environment": {"PYANAMO_TASK_ID": item["TaskID"]}} if item.get("TaskID") else {}
    arguments = [one.strip() for one in item.get("TaskArgs", "").split(reading.nested_delimiter) if one.strip()]
    if not script:
        yield InvalidRow(f"item {name!r} has no TaskScript.")
    elif not arguments:
        yield parse_task_spec({"id": name, **command_fields(script), **group}, reading.defaults)
    else:
        for number, argument in enumerate(arguments):
            command = command_fields(f"{script} {argument}")
            yield parse_task_spec({"id": f"{name}/Task_{number}", "parent": name, **command, **group}, reading.defaults)


def _table(path: Path, reading: Reading) -> ParsedRows:
    reader = csv.reader((line for _, line in _lines(path)), delimiter=_delimiter(reading), strict=True)
    header: Sequence[str] | None = None
    while True:
        number = reader.line_num + 1
        try:
            row = next(reader, None)
        except csv.Error as error:
            yield number, InvalidRow(f"it is no row: {error}.")
            continue
        if row is None:
            break
        if not any(cell.strip() for cell in row):
            continue
        if header is None:
            header = _header(path, number, row)
        elif len(row) > len(header):
            yield number, InvalidRow(f"it has {len(row)} fields where the header has {len(header)}.")
        else:
            yield number, parse_task_spec(_cells(header, row), reading.defaults)
    if header is None:
        raise InvalidTasks(f"{path} has no header. Its first row names the columns: {', '.join(FIELDS)}.")


def _header(path: Path, number: int, row: Sequence[str]) -> Sequence[str]:
    names = [name.strip() for name in row]
    known = {*FIELDS, *ALIASES, *STATE_COLUMNS}
    strange = [name for name in names if name.partition(".")[0] not in known]
    whole = {name for name in names if any(other.startswith(f"{name}.") for other in names)}
    if strange or whole or "id" not in names or len(set(names)) < len(names):
        what = f"unknown columns: {', '.join(strange)}" if strange else "no column id, or one twice"
        raise InvalidTasks(
            f"{path}, line {number}: it has {what}. Known: {', '.join((*FIELDS, *ALIASES))}; environment.NAME, "
            "inputs.PORT and outputs.PORT for one of a kind."
        )
    return names


def _cells(header: Sequence[str], row: Sequence[str]) -> dict[str, Any]:
    """What is asked in a row; an empty cell asks nothing."""
    values: dict[str, Any] = {}
    for name, cell in zip(header, row, strict=False):
        kind, dot, key = name.partition(".")
        if not cell or name in STATE_COLUMNS:
            continue
        if dot:
            values.setdefault(kind, {})[key] = cell
        else:
            values[name] = cell
    return values


def _jsonl(path: Path, reading: Reading) -> ParsedRows:
    for number, line in _lines(path):
        if line.strip():
            yield number, _record(line, reading)


def _record(line: str, reading: Reading) -> ParsedRow:
    try:
        record = json.loads(line)
    except ValueError as error:
        return InvalidRow(f"it is no JSON: {error}.")
    if not isinstance(record, dict):
        return InvalidRow('it is no object; a task is {"id": …, "command": […]}.')
    spec = record["spec"] if isinstance(record.get("spec"), dict) else record
    return parse_task_spec({name: value for name, value in spec.items() if name != "format"}, reading.defaults)


def _numbered(path: Path, reading: Reading) -> ParsedRows:
    place = 0
    for number, line in _lines(path):
        if text := line.strip():
            yield number, _token({"_id": f"{reading.prefix}{place}", "input": text}, reading)
            place += 1


# Tokens of PiCaS.


def _tokens(path: Path, reading: Reading) -> ParsedRows:
    with path.open(encoding="utf-8-sig") as file:
        documents = documents_of(file.read)
        try:
            for number, document in documents:
                yield number, _document(document, reading)
        except ValueError as error:
            raise InvalidTasks(f"{path}, {error} Fix it and import it again.") from error


def _document(document: Any, reading: Reading) -> ParsedRow:
    if not isinstance(document, dict):
        return InvalidRow("it is no document.")
    if "key" in document and "_id" not in document:
        return InvalidRow("it is a view's row without its document. Ask the view with include_docs=true.")
    return _token(document, reading)


def _token(token: Mapping[str, Any], reading: Reading) -> ParsedRow:
    name, lock, done = str(token.get("_id", "")), token.get("lock", 0), token.get("done", 0)
    # A class of PiCaS makes its documents of type `task`, though its views look at `token`: both are meant.
    if name.startswith("_design/") or token.get("type", "token") not in ("token", "task"):
        return SkippedRow("no token")
    if lock and not done:
        return SkippedRow("held in PiCaS")
    if lock and done and str(token.get("exit_code", "")) == "0":
        return SkippedRow("done in PiCaS")
    text = token.get("input")
    if not isinstance(text, str | int | float) or text == "":
        return InvalidRow(f"token {name!r} has the input {text!r}; it must be a text.")
    command = {"command": (*reading.program, str(text), name)} if reading.program else {"shell": str(text)}
    own = {key: value for key, value in token.items() if key not in _PICAS and isinstance(value, str | int | float)}
    environment = {f"TOKEN_{re.sub(r'[^A-Za-z0-9]', '_', key).upper()}": str(value) for key, value in own.items()}
    more = {key: token[key] for key in ("priority", "resource_class") if key in token}
    if "cores" in own and "resource_class" not in more:
        more["resource_class"] = f"cores-{own['cores']}"
    return parse_task_spec({"id": name, **command, "environment": environment, **more}, reading.defaults)


_READERS: Final[Mapping[Format, Callable[[Path, Reading], ParsedRows]]] = {
    Format.PYANAMO: _pyanamo,
    Format.CSV: _table,
    Format.TSV: _table,
    Format.JSONL: _jsonl,
    Format.PICAS: _tokens,
    Format.LINES: _numbered,
}
