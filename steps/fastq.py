"""Reads a pair of FASTQ files through once and tells whether kallisto may be trusted with them.

kallisto stops at the end of the shorter file, and at a torn gzip, without a word and with exit code 0.
"""

from __future__ import annotations

import gzip
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_CHUNK: Final = 1 << 20
#: A record whose sequence is `*`: what picard writes for an alignment without bases. `*` alone may be a quality too.
_NO_BASES: Final = b"\n*\n+"


@dataclass(frozen=True, kw_only=True)
class FastqFile:
    """What one file holds."""

    path: Path
    records: int
    first_name: str
    last_name: str
    #: Whether some record has `*` for a sequence.
    lacks_bases: bool


def read_through(path: Path) -> FastqFile:
    """Reads a gzipped FASTQ to its end, checksum included. Raises ValueError with the reason when it is torn."""
    newlines = 0
    head = tail = b""
    lacks_bases = False
    try:
        with gzip.open(path) as stream:
            while chunk := stream.read(_CHUNK):
                newlines += chunk.count(b"\n")
                head = head or chunk
                lacks_bases = lacks_bases or _NO_BASES in tail[-len(_NO_BASES) :] + chunk
                tail = (tail + chunk)[-_CHUNK:] if len(chunk) < _CHUNK else chunk
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{path.name} is not a whole gzip file ({error}); make it anew.") from error
    if newlines % 4 or (tail and not tail.endswith(b"\n")):
        raise ValueError(
            f"{path.name} ends inside a FASTQ record ({newlines} lines, not a multiple of 4); make it anew."
        )
    return FastqFile(
        path=path,
        records=newlines // 4,
        first_name=_name(head.split(b"\n", 1)[0]),
        last_name=_name(tail.rsplit(b"\n", 5)[1]) if newlines >= 4 else "",
        lacks_bases=lacks_bases,
    )


def disagreement(first: FastqFile, second: FastqFile) -> str:
    """Why two files are not the mates of each other, as a clause; empty when they are."""
    if first.records != second.records:
        return f"{first.path.name} has {first.records} records and {second.path.name} has {second.records}"
    if first.records == 0:
        return f"{first.path.name} and {second.path.name} have no reads"
    for one, other in ((first.first_name, second.first_name), (first.last_name, second.last_name)):
        if one != other:
            return (
                f"{first.path.name} and {second.path.name} are not in the same order: {one!r} stands beside {other!r}"
            )
    for file in (first, second):
        if file.lacks_bases:
            return f"{file.path.name} has reads without bases ('*')"
    return ""


def _name(line: bytes) -> str:
    words = line.removeprefix(b"@").split()
    return words[0].removesuffix(b"/1").removesuffix(b"/2").decode("utf-8", "replace") if words else ""
