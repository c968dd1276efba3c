"""Import, idempotent, and export: tasks of a file into a pool, and tasks of a pool into a file. Streaming both.

An import reads its file twice. First it looks for everything that is wrong, all rows at once, and takes nothing if
anything is; then it adds. It keeps eight bytes a task to find ids that come twice, and the ids of those tasks that wait
for others, to find those that wait for one another in a circle. Adding is idempotent: what is there is left alone in
whatever state it is, so a file may be imported again after an interruption, or when it has grown.

An export is written beside its place and moved there when it is whole.
"""

from __future__ import annotations

import shutil
import tempfile
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO, Final

from batch_pipeline.pool.base import AddReport, Filter, TaskReader, TaskWriter
from batch_pipeline.pool.files.reading import Format, ParsedRows, Reading, SkippedRow, guessed, parse_rows
from batch_pipeline.pool.files.task_fields import InvalidRow
from batch_pipeline.pool.files.writing import ExportFormat, write_tasks
from batch_pipeline.pool.task import TaskSpec, problems_of
from batch_pipeline.wire.errors import InvalidTasks, InvalidUse

__all__ = [
    "ExportFormat",
    "Format",
    "ImportReport",
    "Reading",
    "export_file",
    "guessed",
    "guessed_export",
    "import_file",
    "on_disk",
]

#: Problems that a message lists; it counts the rest.
MOST_PROBLEMS: Final = 100
_PARTS: Final = 64


@dataclass(frozen=True, kw_only=True)
class ImportReport:
    """What came of an import, or would come of it."""

    #: Tasks in the file.
    tasks: int
    #: None: it was only looked at.
    report: AddReport | None
    #: Why rows were passed over -> how many.
    passed_over: Mapping[str, int] = field(default_factory=dict)


def import_file(
    pool: TaskWriter, path: Path, reading: Reading, *, now_ms: int, dry_run: bool = False, display_name: str = ""
) -> ImportReport:
    """Adds the tasks of a file to a pool. `dry_run`: only looks at the file. `display_name`: its name for people.

    Raises
    ------
    InvalidTasks
        Rows break rules; the message has all of them with their lines, up to `MOST_PROBLEMS`. Nothing was added.
    InvalidUse
        The file cannot be read.
    """
    try:
        tasks, passed_over = _looked_at(path, reading, display_name or str(path))
        if dry_run:
            return ImportReport(tasks=tasks, report=None, passed_over=passed_over)
        report = pool.add((row for _, row in parse_rows(path, reading) if isinstance(row, TaskSpec)), now_ms=now_ms)
    except OSError as error:
        raise InvalidUse(f"{display_name or path} cannot be read: {error.strerror}.") from error
    return ImportReport(tasks=tasks, report=report, passed_over=passed_over)


@contextmanager
def on_disk(stream: BinaryIO) -> Iterator[Path]:
    """A stream as a file, which can be read twice; it is gone afterwards."""
    with tempfile.NamedTemporaryFile(prefix="import-") as file:
        shutil.copyfileobj(stream, file)
        file.flush()
        yield Path(file.name)


def _looked_at(path: Path, reading: Reading, display_name: str) -> tuple[int, Mapping[str, int]]:
    """Counts tasks, and rows that are passed over by their reasons; raises InvalidTasks."""
    problems, id_hashes, needs = _Problems(display_name), _IdHashes(), dict[str, tuple[str, ...]]()
    passed_over: Counter[str] = Counter()
    tasks = 0
    for line, row in parse_rows(path, reading):
        if isinstance(row, InvalidRow):
            problems.add(line, row.text)
        elif isinstance(row, SkippedRow):
            passed_over[row.why] += 1
        else:
            tasks += 1
            for text in problems_of(row):
                problems.add(line, text)
            id_hashes.add(row.id)
            if row.after:
                needs[row.id] = row.after
    if seen_twice := id_hashes.repeated():
        problems.add_all(_contradictions(parse_rows(path, reading), seen_twice))
    if circle := _circle(needs):
        problems.add(0, f"tasks wait for one another in a circle: {circle}. Take one out of `after`.")
    problems.check()
    return tasks, dict(passed_over)


def _contradictions(rows: ParsedRows, seen_twice: Callable[[str], bool]) -> Iterator[tuple[int, str]]:
    """Tasks with the id of an earlier one that ask for something else; the same task twice is no matter."""
    first: dict[str, tuple[int, TaskSpec]] = {}
    for line, row in rows:
        if isinstance(row, TaskSpec) and seen_twice(row.id):
            earlier, spec = first.setdefault(row.id, (line, row))
            if spec != row:
                yield line, f"task {row.id!r} stands on line {earlier} too, with something else. Rename one."


def _circle(needs: Mapping[str, tuple[str, ...]]) -> str:
    among = {name: [other for other in after if other in needs] for name, after in needs.items()}
    try:
        TopologicalSorter(among).prepare()
    except CycleError as error:
        return " -> ".join(reversed(error.args[1]))
    return ""


class _Problems:
    """What is wrong with a file."""

    def __init__(self, display_name: str) -> None:
        self._display_name = display_name
        self._first: list[str] = []
        self._count = 0

    def add(self, line: int, text: str) -> None:
        """Notes a problem of a line; 0: of no line."""
        self._count += 1
        if len(self._first) < MOST_PROBLEMS:
            self._first.append(f"  line {line}: {text}" if line else f"  {text}")

    def add_all(self, problems: Iterator[tuple[int, str]]) -> None:
        """Notes problems."""
        for line, text in problems:
            self.add(line, text)

    def check(self) -> None:
        """Raises InvalidTasks if there are any."""
        if self._count:
            what = f"{self._count:,} problem{'s' * (self._count > 1)}"
            more = [f"  and {self._count - len(self._first):,} more"] if self._count > len(self._first) else []
            raise InvalidTasks(
                "\n".join([f"{self._display_name} has {what}; nothing was imported.", *self._first, *more])
            )


class _IdHashes:
    """Deduplicates ids: eight bytes of each, in parts that are sorted one after another."""

    def __init__(self) -> None:
        self._parts = [array("q") for _ in range(_PARTS)]

    def add(self, name: str) -> None:
        """Notes an id."""
        value = hash(name)
        self._parts[value % _PARTS].append(value)

    def repeated(self) -> Callable[[str], bool] | None:
        """Tells of an id whether it was noted twice, with some that only look like it; None: there is none."""
        repeated: set[int] = set()
        for part in self._parts:
            order = sorted(part)
            repeated.update(value for value, following in pairwise(order) if value == following)
        return (lambda name: hash(name) in repeated) if repeated else None


_EXPORTS: Final = {
    ".csv": ExportFormat.CSV,
    ".tsv": ExportFormat.TSV,
    ".jsonl": ExportFormat.JSONL,
    ".ndjson": ExportFormat.JSONL,
    ".sqlite": ExportFormat.SQLITE,
    ".db": ExportFormat.SQLITE,
}


def guessed_export(path: Path) -> ExportFormat:
    """The format of an export, by the name of its file.

    Raises
    ------
    InvalidUse
        The name does not tell.
    """
    if form := _EXPORTS.get(path.suffix.lower()):
        return form
    known = ", ".join(one.value for one in ExportFormat)
    raise InvalidUse(f"{path}: its name does not tell what it shall be. Give --format: {known}.")


def export_file(pool: TaskReader, path: Path, form: ExportFormat, *, wanted: Filter | None = None) -> int:
    """Writes the tasks that are meant (None: all) to a file, replaced when the new one is whole; returns how many.

    What is written as CSV, TSV or JSONL can be imported again: its states are then passed over.

    Raises
    ------
    InvalidUse
        The file cannot be written.
    """
    part = path.with_name(f".{path.name}.part")
    try:
        part.unlink(missing_ok=True)
        count = write_tasks(pool, part, form, wanted or Filter())
        part.replace(path)
    except OSError as error:
        raise InvalidUse(f"{path} cannot be written: {error.strerror}.") from error
    finally:
        part.unlink(missing_ok=True)
    return count
