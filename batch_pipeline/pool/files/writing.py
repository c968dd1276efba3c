"""Writes tasks of a pool to files: tables for a spreadsheet, records, a SQLite file to ask in SQL. Streaming.

All have the same columns: what was asked, under the names that an import knows, then how it stands. The SQLite file has
what tasks said of their results in a table of its own, and every event.
"""

from __future__ import annotations

import csv
import json
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import fields
from datetime import UTC, datetime
from enum import Enum
from pathlib import Path
from typing import Any, Final

from batch_pipeline.pool.base import Filter, TaskReader
from batch_pipeline.pool.files.reading import STATE_COLUMNS
from batch_pipeline.pool.records import record_of_event, record_of_task
from batch_pipeline.pool.task import Task, TaskEvent, TaskSpec

_PAGE: Final = 1000
_SPEC_COLUMNS: Final = tuple(one.name for one in fields(TaskSpec))
COLUMNS: Final = (*_SPEC_COLUMNS, *STATE_COLUMNS)
_NUMBERS: Final = {
    **dict.fromkeys(("priority", "most_attempts", "most_returns", "attempts", "returns", "exit_code"), "INTEGER"),
    **dict.fromkeys(("time_limit_seconds", "progress"), "REAL"),
}
_EVENT: Final = ("task_id", "number", "at", "move", "source", "target", "owner", "fence", "why", "act", "outcome")


class ExportFormat(Enum):
    """What an export is."""

    CSV = "csv"
    TSV = "tsv"
    JSONL = "jsonl"
    SQLITE = "sqlite"


def write_tasks(pool: TaskReader, path: Path, form: ExportFormat, wanted: Filter) -> int:
    """Writes the tasks that are meant to a new file; returns how many. Raises OSError."""
    return _WRITERS[form](pool, path, wanted)


def tasks_of(pool: TaskReader, wanted: Filter) -> Iterator[Task]:
    """All tasks that are meant, page by page."""
    cursor: str | None = None
    while True:
        page = pool.find(wanted, limit=_PAGE, cursor=cursor)
        yield from page.tasks
        cursor = page.cursor
        if cursor is None:
            return


def row_of(task: Task) -> tuple[Any, ...]:
    """A task in the order of `COLUMNS`; what is a list or an object is JSON, what is not there is None."""
    spec_cells = (_cell(getattr(task.spec, name)) for name in _SPEC_COLUMNS)
    outcome = task.outcome
    state_cells = (
        task.state.value,
        task.attempts,
        task.returns,
        task.owner or None,
        task.native_id or None,
        task.progress,
        task.reason or None,
        outcome and outcome.end_reason.value,
        outcome and outcome.exit_code,
        (outcome and outcome.error) or None,
        (outcome and outcome.log_key) or None,
        outcome and _cell(outcome.fields),
        _moment(task.added_at_ms),
        _moment(task.claimed_at_ms),
        _moment(task.ended_at_ms),
    )
    return (*spec_cells, *state_cells)


def _cell(value: Any) -> Any:
    if isinstance(value, tuple | Mapping):
        return json.dumps(value, ensure_ascii=False) if value else None
    return None if value == "" else value


def _moment(milliseconds: int) -> str | None:
    if not milliseconds:
        return None
    return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _table(delimiter: str) -> Callable[[TaskReader, Path, Filter], int]:
    def write(pool: TaskReader, path: Path, wanted: Filter) -> int:
        count = 0
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, delimiter=delimiter, lineterminator="\n")
            writer.writerow(COLUMNS)
            for task in tasks_of(pool, wanted):
                writer.writerow(row_of(task))
                count += 1
        return count

    return write


def _records(pool: TaskReader, path: Path, wanted: Filter) -> int:
    count = 0
    with path.open("w", encoding="utf-8") as file:
        for task in tasks_of(pool, wanted):
            file.write(json.dumps(record_of_task(task), ensure_ascii=False) + "\n")
            count += 1
    return count


def _database(pool: TaskReader, path: Path, wanted: Filter) -> int:
    count = 0
    # Nobody but this process sees it before it is whole: it needs no journal and no sync.
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("PRAGMA journal_mode = OFF")
        connection.execute("PRAGMA synchronous = OFF")
        columns = ", ".join(f"{name} {_NUMBERS.get(name, 'TEXT')}" for name in COLUMNS)
        connection.execute(f"CREATE TABLE task ({columns}, PRIMARY KEY (id))")
        connection.execute("CREATE TABLE result (task_id TEXT, key TEXT, value TEXT, PRIMARY KEY (task_id, key))")
        connection.execute(f"CREATE TABLE event ({', '.join(_EVENT)}, PRIMARY KEY (task_id, number))")
        for task in tasks_of(pool, wanted):
            connection.execute(f"INSERT INTO task VALUES ({_marks(COLUMNS)})", row_of(task))
            results = task.outcome.fields if task.outcome else {}
            connection.executemany(
                "INSERT INTO result VALUES (?, ?, ?)", ((task.id, *pair) for pair in results.items())
            )
            count += 1
        events = pool.events() if wanted == Filter() else _events_of(pool, wanted)
        connection.executemany(f"INSERT INTO event VALUES ({_marks(_EVENT)})", map(_event_row, events))
    return count


def _events_of(pool: TaskReader, wanted: Filter) -> Iterator[TaskEvent]:
    for task in tasks_of(pool, wanted):
        yield from pool.events(task_id=task.id)


def _event_row(event: TaskEvent) -> tuple[Any, ...]:
    record = record_of_event(event)
    outcome = record.get("outcome")
    plain = (record.get(name) for name in _EVENT[3:-1])
    return (event.task_id, event.number, _moment(event.at_ms), *plain, json.dumps(outcome) if outcome else None)


def _marks(columns: tuple[str, ...]) -> str:
    return ", ".join("?" * len(columns))


_WRITERS: Final[Mapping[ExportFormat, Callable[[TaskReader, Path, Filter], int]]] = {
    ExportFormat.CSV: _table(","),
    ExportFormat.TSV: _table("\t"),
    ExportFormat.JSONL: _records,
    ExportFormat.SQLITE: _database,
}
