"""Packs the cells of a run for the page: columns of numbers, gzipped, as base64 that a script unpacks.

A block a step has its columns one behind the other, the bytes of a column sorted by their significance, which gzip
packs better. Durations and sizes are 16-bit codes with 10 significant bits (0.1 %): a number below 1024 is itself, and
each doubling above adds 512. Codes sort as their numbers do. Starts are ticks since the first one.
"""

from __future__ import annotations

import sys
import zlib
from array import array
from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from batch_pipeline.records.cell_table import CellColumns
from batch_pipeline.report.page.source import ShownCells

#: Column of a block -> type of its numbers as `array` has it, in their order.
PACKED: Final[Mapping[str, str]] = {
    "state": "B",
    "reason": "B",
    "attempts": "B",
    "machine": "H",
    "start": "I",
    "duration": "H",
    "memory": "H",
    "asked": "H",
    "cpus": "H",
}
_MIB: Final = 1 << 20
#: Longest run whose starts are kept to the given tick, in milliseconds; those of longer ones to the second.
_TICKS: Final = ((60_000, 1), (600_000, 100))
_SECOND: Final = 1000
#: zlib's word for gzip's header and checksum.
_GZIP: Final = 31


@dataclass(frozen=True, kw_only=True)
class TimeScale:
    """Time of a run in ticks. Times are milliseconds since 1970; 0 for a run of which none is known."""

    begin_ms: int
    end_ms: int
    tick_ms: int

    @classmethod
    def of(cls, steps: Iterable[CellColumns]) -> TimeScale:
        """From the first start to the last end of the cells of all steps."""
        begin, end = 0, 0
        for cells in steps:
            starts, durations = cells.columns["started_ms"], cells.columns["duration_ms"]
            first = min((start for start in starts if start), default=0)
            begin = min(begin or first, first or begin)
            end = max(end, max((start + lasted for start, lasted in zip(starts, durations, strict=True)), default=0))
        tick = next((tick for longest, tick in _TICKS if end - begin <= longest), _SECOND)
        return cls(begin_ms=begin, end_ms=max(begin, end), tick_ms=tick)


def packed_step(step: ShownCells, scale: TimeScale) -> str:
    """The block of a step: `PACKED` columns, each with a number a cell; a start of 0 is none, else ticks plus one."""
    columns = step.cells.columns
    begin, tick = scale.begin_ms, scale.tick_ms
    numbers: Mapping[str, Iterable[int]] = {
        "state": step.states,
        "reason": columns["reason"],
        "attempts": columns["attempts"],
        "machine": columns["machine"],
        "start": ((start - begin) // tick + 1 if start else 0 for start in columns["started_ms"]),
        "duration": map(code_of, columns["duration_ms"]),
        "memory": (code_of(size // _MIB) for size in columns["peak_memory_bytes"]),
        "asked": map(code_of, columns["memory_mb"]),
        "cpus": columns["cpus"],
    }
    parts = [part for name, kind in PACKED.items() for part in _planes(array(kind, numbers[name]))]
    return _base64(parts)


def packed_names(names: Sequence[str]) -> str:
    """The names of the samples, a line each; a name has no line end in it (`pipeline.samples`)."""
    return _base64(["\n".join(names).encode()])


def code_of(number: int) -> int:
    """The 16-bit code of a number: its 10 most significant bits and how many follow. Rounded down."""
    shift = number.bit_length() - 10
    return max(number, 0) if shift <= 0 else min((shift << 9) + (number >> shift), 0xFFFF)


def number_of(code: int) -> int:
    """The number of a code, as the page's script has it."""
    return code if code < 1024 else ((code & 511) + 512) << ((code >> 9) - 1)


def _planes(column: array[int]) -> list[bytes]:
    """A column in as many parts as a number has bytes, the least significant ones of all cells first."""
    if sys.byteorder == "big":
        column.byteswap()
    data = column.tobytes()
    return [data[byte :: column.itemsize] for byte in range(column.itemsize)]


def _base64(parts: Sequence[bytes]) -> str:
    packer = zlib.compressobj(level=9, wbits=_GZIP)
    # A code of its own for each part takes a tenth less than one for them all.
    packed = b"".join(packer.compress(part) + packer.flush(zlib.Z_FULL_FLUSH) for part in parts)
    return b64encode(packed + packer.flush()).decode()
