"""The cell table of a run, `runs/{run_id}/cells`: how each of its cells ended, in columns, in one object.

Who only looks reads it in one call instead of a receipt a cell: how cells ended, when, where, and what they took. Who
decides never does: a receipt is the only proof that a cell is done. It is written when a run is judged (`run.closing`).

The object is a series of gzip members, so that `zcat` reads it and every byte is under a checksum. The first one is a
header in JSON: `format`, `run_id`, `done` and `failed` (as in `end.json`; a table with others is out of date),
`measured`, `steps` (name, and whether it is a gather), `samples` (with how many characters of the name before each
begins, and the rest), `rows` (the same of each step of parts or groups, in format 3), `machines`, `states` and
`reasons`: what the numbers in the columns stand for. A member a step follows: its columns one behind the other, a
number a cell in the order of the samples, little-endian, the bytes of a column sorted by their significance, which gzip
packs better. Starts are kept as differences to the start before. Sizes and durations have 10 significant bits (0.1 %).
Tables of format 1 have the columns up to `memory_mb`; the others are read as zeros.

(A little longer than most modules: the values and their one form as bytes, which nobody else has to know.)
"""

from __future__ import annotations

import json
import sys
import zlib
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from itertools import accumulate
from os.path import commonprefix
from typing import Any, Final

from batch_pipeline.records.record import RunRecord
from batch_pipeline.wire import layout
from batch_pipeline.wire.contract import EndReason
from batch_pipeline.wire.errors import StoreFailed
from batch_pipeline.wire.store import NotInStore, Store

#: Of the table alone; other records have their own.
FORMAT: Final = 2
#: Of tables that have cells of parts or groups.
FORMAT_WITH_ROWS: Final = 3
#: Significant bits of sizes and durations.
BITS: Final = 10
#: Different machines that a table names; all others are "".
MOST_MACHINES: Final = 1000
#: Column -> type of its numbers, as `array` has it, in their order in the object.
COLUMNS: Final[Mapping[str, str]] = {
    "state": "B",
    "reason": "B",
    "attempts": "B",
    "machine": "H",
    "started_ms": "q",
    "duration_ms": "q",
    "peak_memory_bytes": "q",
    "in_bytes": "q",
    "out_bytes": "q",
    "cpus": "H",
    "memory_mb": "q",
    "queued_ms": "q",
    "cpu_ms": "q",
    "lost_ms": "q",
    "interrupted_ms": "q",
    "unrecorded": "B",
}
#: Format -> how many of the columns, from the first, a step has in it.
_COLUMNS_OF: Final = {1: 11, FORMAT: len(COLUMNS), FORMAT_WITH_ROWS: len(COLUMNS)}
_ROUNDED: Final = tuple(name for name in COLUMNS if name.endswith(("_bytes", "_ms")) and name != "started_ms")
#: zlib's word for gzip's header and checksum.
_GZIP: Final = 31


class CellEnd(Enum):
    """How a cell of a run ended. The value is the word for people."""

    UNKNOWN = "not known"  #: Nothing that is left says so, or it was left to another run.
    DONE = "done"  #: This run made it.
    KEPT = "found unchanged"  #: This run sent it, and its attempt found what was there to be right.
    REUSED = "done before"  #: An earlier run had made it; this one sent nothing.
    FAILED = "failed"  #: This run sent it; `reason` says why it is not done.
    LEFT_OUT = "left out"  #: Not sent: not chosen or blocked.
    EXCLUDED = "excluded"  #: The step's condition is false for it.


#: States and reasons as numbers of their columns; files have the words, so that the order here may change.
STATES: Final = tuple(CellEnd)
REASONS: Final = ("", *(reason.value for reason in EndReason))


class UnreadableCellTable(StoreFailed):
    """The cell table of a run is damaged, or a later version wrote it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CellRow:
    """One cell of a table. What nobody knows is 0 or empty."""

    step: str
    #: `layout.COHORT` of a gather.
    sample: str
    state: CellEnd
    #: Why it is not done; None: it is, or was not sent.
    reason: EndReason | None
    #: Number of the attempt that ended it; 0: what it took is not known, nor when it began.
    attempts: int
    #: Instance type, purchase and zone, else the host.
    machine: str
    #: Milliseconds since 1970, UTC.
    started_ms: int
    duration_ms: int
    peak_memory_bytes: int
    #: Staged in and out.
    in_bytes: int
    out_bytes: int
    #: What its job had.
    cpus: int
    memory_mb: int
    #: Of the attempt that ended it: from its submission, or the end of the attempt before, to its start. The wait for
    #: cells that it reads is part of it.
    queued_ms: int
    #: Of the same attempt: processor time, of all its processes.
    cpu_ms: int
    #: Of its earlier attempts that failed for its own sake (step, memory, disk, time limit), and of those that were
    #: interrupted (Spot, lost host, store): their durations together.
    lost_ms: int
    interrupted_ms: int
    #: Attempts that left no record, killed with their container: their durations are in no column.
    unrecorded: int

    @property
    def started_at(self) -> str:
        """ISO-8601 in UTC with milliseconds; empty when it is not known."""
        return iso(self.started_ms) if self.started_ms else ""

    @property
    def stopped_at(self) -> str:
        """The same of its end."""
        return iso(self.started_ms + self.duration_ms) if self.started_ms else ""


@dataclass(frozen=True, kw_only=True)
class CellColumns:
    """The cells of a step: `COLUMNS`, each with a number a cell, in the order of `samples`."""

    step: str
    samples: Sequence[str]
    columns: Mapping[str, array[int]]

    @classmethod
    def blank(cls, step: str, samples: Sequence[str]) -> CellColumns:
        """Columns of zeros, to be filled."""
        columns = {name: array(code, bytes(array(code).itemsize * len(samples))) for name, code in COLUMNS.items()}
        return cls(step=step, samples=samples, columns=columns)

    def counts(self) -> Counter[CellEnd]:
        """Cells by how they ended."""
        return Counter({STATES[number]: count for number, count in Counter(self.columns["state"]).items()})


@dataclass(frozen=True, kw_only=True)
class CellTable:
    """How all cells of a run ended."""

    run_id: str
    #: As `end.json` has them.
    done: int
    failed: int
    #: Whether times, machines and sizes are there, and not how cells ended alone.
    measured: bool
    machines: Sequence[str]
    #: In the order of the pipeline.
    steps: Mapping[str, CellColumns]

    @classmethod
    def read(cls, store: Store, run_id: str) -> CellTable:
        """The table of a run. One GET. Raises NotInStore, and UnreadableCellTable."""
        data = store.get(layout.run_cells(run_id))
        try:
            return _decoded(data)
        except (ValueError, KeyError, TypeError, IndexError, AttributeError, OverflowError, zlib.error) as error:
            raise UnreadableCellTable(
                f"The cell table {store.url_of(layout.run_cells(run_id))} cannot be read ({error})."
                f" `store index {run_id}` writes it again."
            ) from error

    def rows(self) -> Iterator[CellRow]:
        """All cells, step by step, in the order of the samples."""
        for step in self.steps.values():
            for sample, *numbers in zip(step.samples, *(step.columns[name] for name in COLUMNS), strict=True):
                values: dict[str, Any] = dict(zip(COLUMNS, numbers, strict=True))
                values["state"] = STATES[values["state"]]
                values["reason"] = EndReason(REASONS[values["reason"]]) if values["reason"] else None
                values["machine"] = self.machines[values["machine"]]
                yield CellRow(step=step.step, sample=sample, **values)


class CellTableWriter:
    """Writes a table, a step at a time, so that the columns of one step alone are in memory."""

    def __init__(self, run_id: str, samples: Sequence[str], *, done: int, failed: int, measured: bool) -> None:
        self._header = {"run_id": run_id, "done": done, "failed": failed, "measured": measured}
        self._samples = samples
        self._machines: dict[str, int] = {"": 0}
        self._steps: list[tuple[str, bool]] = []
        self._rows: dict[str, Any] = {}
        self._members: list[bytes] = []

    def machine(self, name: str) -> int:
        """The number of a machine; that of "" when there are too many."""
        if len(self._machines) >= MOST_MACHINES:
            return self._machines.get(name, 0)
        return self._machines.setdefault(name, len(self._machines))

    def add(self, cells: CellColumns) -> None:
        """Adds a step whose columns are filled."""
        gathers = tuple(cells.samples[:2]) == (layout.COHORT,)
        self._steps.append((cells.step, gathers))
        if not gathers and cells.samples is not self._samples and tuple(cells.samples) != tuple(self._samples):
            self._rows[cells.step] = _front_coded(cells.samples)
        self._members.append(_packed([part for name in COLUMNS for part in _bytes_of(name, cells.columns[name])]))

    def write(self, store: Store) -> CellTable:
        """Puts the table into the store, whole, and returns it as it will be read. Raises StoreFailed."""
        data = self.to_bytes()
        store.put(layout.run_cells(str(self._header["run_id"])), data)
        return _decoded(data)

    def to_bytes(self) -> bytes:
        """The object."""
        header = {
            "format": FORMAT_WITH_ROWS if self._rows else FORMAT,
            **self._header,
            **({"rows": self._rows} if self._rows else {}),
            "steps": self._steps,
            "samples": _front_coded(self._samples),
            "machines": list(self._machines),
            "states": [state.value for state in STATES],
            "reasons": REASONS,
        }
        text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
        return b"".join([_packed([text]), *self._members])


def table_of(store: Store, run: RunRecord) -> tuple[CellTable | None, str]:
    """The table of a run that has ended, if it may be read for it; and a sentence where one is there that may not.

    One GET, none for a run that has not ended. Raises StoreFailed when the store fails.
    """
    if not run.ended:
        return None, ""
    try:
        table = CellTable.read(store, run.run_id)
    except NotInStore:
        return None, ""
    except UnreadableCellTable as error:
        return None, error.message
    if (table.done, table.failed) != (run.done, run.failed):
        return None, f"The cell table of run {run.run_id} is out of date. `store index {run.run_id}` writes it again."
    return table, ""


def milliseconds(moment: str) -> int:
    """Since 1970, of a time as records have it; 0 for an empty one."""
    return round(datetime.fromisoformat(moment).timestamp() * 1000) if moment else 0


def rounded(number: int) -> int:
    """A number to `BITS` significant bits: what a table keeps of a size or duration."""
    shift = number.bit_length() - BITS
    return number if shift <= 0 else (number + (1 << (shift - 1))) >> shift << shift


def iso(ms: int) -> str:
    """A time as records have it, of milliseconds since 1970."""
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _bytes_of(name: str, column: array[int]) -> list[bytes]:
    """A column in as many parts as a number has bytes: the least significant ones of all cells first."""
    numbers: Iterable[int] = column
    if name in _ROUNDED:
        numbers = map(rounded, column)
    elif name == "started_ms":
        numbers = _differences(column)
    data = _little_endian(array(column.typecode, numbers)).tobytes()
    return [data[byte :: column.itemsize] for byte in range(column.itemsize)]


def _differences(starts: array[int]) -> Iterator[int]:
    """From each start to the next; 0 where there is none."""
    before = 0
    for start in starts:
        yield start - before if start else 0
        before = start or before


def _starts(differences: array[int], attempts: array[int]) -> array[int]:
    """The starts again: a cell of which no attempt is known has none."""
    return array("q", [start if known else 0 for start, known in zip(accumulate(differences), attempts, strict=True)])


def _column(name: str, data: memoryview) -> array[int]:
    column = array(COLUMNS[name])
    cells = len(data) // column.itemsize
    mixed = bytearray(len(data))
    for byte in range(column.itemsize):
        mixed[byte :: column.itemsize] = data[byte * cells : (byte + 1) * cells]
    column.frombytes(mixed)
    return _little_endian(column)


def _little_endian(column: array[int]) -> array[int]:
    if sys.byteorder == "big":
        column.byteswap()
    return column


def _front_coded(names: Sequence[str]) -> dict[str, list[Any]]:
    """Names as lists: how many characters each has in common with the one before, and the rest of it."""
    # Of names that stand for no files: character by character.
    shared = [len(commonprefix(pair)) for pair in zip(("", *names), names, strict=False)]  # noqa: RUF071
    return {"shared": shared, "rest": [name[length:] for name, length in zip(names, shared, strict=True)]}


def _names(coded: Mapping[str, Sequence[Any]]) -> Iterator[str]:
    """The names again."""
    name = ""
    for length, rest in zip(coded["shared"], coded["rest"], strict=True):
        name = name[:length] + rest
        yield name


def _packed(parts: Sequence[bytes]) -> bytes:
    """One gzip member; each part has a code of its own, which takes a tenth less than one for them all."""
    packer = zlib.compressobj(wbits=_GZIP)
    packed = [packer.compress(part) + packer.flush(zlib.Z_FULL_FLUSH) for part in parts]
    return b"".join([*packed, packer.flush()])


def _members(data: bytes) -> Iterator[bytes]:
    """Each gzip member of an object, unpacked. Raises ValueError or zlib.error for what is cut off or damaged."""
    while data:
        unpacker = zlib.decompressobj(wbits=_GZIP)
        yield unpacker.decompress(data)
        if not unpacker.eof:
            raise ValueError("it is cut off")
        data = unpacker.unused_data


def _decoded(data: bytes) -> CellTable:
    """Reads an object. Raises ValueError, KeyError, TypeError or zlib.error for one that is none of this format."""
    members = _members(data)
    header: Mapping[str, Any] = json.loads(next(members, b""))
    if header["format"] not in _COLUMNS_OF:
        raise ValueError(f"its format is {header['format']}, and this version reads up to {FORMAT_WITH_ROWS}")
    names = list(COLUMNS)[: _COLUMNS_OF[header["format"]]]
    samples = tuple(_names(header["samples"]))
    states = [STATES.index(CellEnd(word)) for word in header["states"]]
    reasons = [REASONS.index(word) for word in header["reasons"]]
    steps: dict[str, CellColumns] = {}
    for (step, gathers), member in zip(header["steps"], members, strict=True):
        own = tuple(_names(header["rows"][step])) if step in header.get("rows", ()) else samples
        cells = _step_cells(step, (layout.COHORT,) if gathers else own, memoryview(member), names)
        for name, numbers in (("state", states), ("reason", reasons)):
            if numbers != list(range(len(numbers))):
                cells.columns[name][:] = array("B", [numbers[number] for number in cells.columns[name]])
        steps[step] = cells
    return CellTable(
        run_id=str(header["run_id"]),
        done=int(header["done"]),
        failed=int(header["failed"]),
        measured=bool(header["measured"]),
        machines=tuple(header["machines"]),
        steps=steps,
    )


def _step_cells(step: str, samples: Sequence[str], data: memoryview, names: Sequence[str]) -> CellColumns:
    """The cells of a step, of which the columns `names` are in the data."""
    cells = CellColumns.blank(step, samples)
    start = 0
    for name in names:
        end = start + cells.columns[name].itemsize * len(samples)
        cells.columns[name][:] = _column(name, data[start:end])
        start = end
    if start != len(data):
        raise ValueError(f"its columns of {step} have another length")
    cells.columns["started_ms"][:] = _starts(cells.columns["started_ms"], cells.columns["attempts"])
    return cells
