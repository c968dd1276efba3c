"""Reads pairs of FASTQ files through once, R1 beside R2, and refuses those that kallisto may not be trusted with.

kallisto stops at the end of the shorter file, at a torn gzip, and at a record whose qualities are not as many as its
bases, without a word and with exit code 0; it takes any two files for mates, and one lane as often as it is given.
It reads gzip, bgzip and plain text, a last line without its newline, and lines that end as on Windows; so does this.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Final, NamedTuple

from steps.gzipped import GZIP_MAGIC

#: Bytes that are read at a time; what they hold and become stays in the processor's cache.
_CHUNK: Final = 1 << 14
#: Records that are compared at a time.
_BLOCK: Final = 512
#: One of so many records, the first of a block, is remembered, to know a lane when it comes again.
_REMEMBERED: Final = 8 * _BLOCK
_GZIP_FORMAT: Final = zlib.MAX_WBITS | 16
#: A read's name, and what tells it from its mate: `/1`, SRA's `.1`, or Illumina's ` 1:N:0:ACGT`.
_NAME: Final = re.compile(rb"@(\S*?)(?:[/._]([12]))?(?:[ \t]+([12]):.*|[ \t].*)?\Z", re.DOTALL)


class _Block(NamedTuple):
    """Some records of one file, in its order."""

    #: First lines of the records, `@` and comments included.
    names: list[bytes]
    bases: list[bytes]


def count_pairs(pairs: Sequence[tuple[Path, Path]]) -> int:
    """Read pairs in the lanes of one sample, each an R1 and its R2. Memory is flat.

    Raises ValueError with a sentence that names file and record: what is no whole FASTQ, files that are not mates of
    each other record by record, one file given for both mates, reads without bases, and reads that come twice.
    """
    seen: dict[bytes, bytes] = {}
    return sum(_count(first, second, seen) for first, second in pairs)


def is_empty(path: Path) -> bool:
    """Whether a FASTQ has no reads. Raises ValueError where it begins with something else."""
    return next(_blocks(path), None) is None


def _count(first: Path, second: Path, seen: dict[bytes, bytes]) -> int:
    """Pairs in two files. `seen` has names and bases of some reads of the files before, and gets some of these."""
    count = 0
    is_same = True
    one, other = _blocks(first), _blocks(second)
    for block, mates in zip_longest(one, other, fillvalue=_Block([], [])):
        if len(block.names) != len(mates.names):
            records = [
                count + len(b.names) + sum(len(b.names) for b in rest) for b, rest in ((block, one), (mates, other))
            ]
            raise ValueError(
                f"{first.name} has {records[0]} records and {second.name} has {records[1]}; R1 and R2 must be mates,"
                " read by read. Give both files as the sequencer wrote them."
            )
        _require_mates(first, second, block.names, mates.names, count)
        _require_new(first, block, seen, count)
        is_same = is_same and block.bases == mates.bases
        count += len(block.names)
    if count == 0:
        raise ValueError(f"{first.name} and {second.name} have no reads; that is not the same as no fusions.")
    if is_same:
        raise ValueError(
            f"{first.name} and {second.name} hold the same reads, one file given twice; give R1 and its R2."
        )
    return count


def _blocks(path: Path) -> Iterator[_Block]:
    """Blocks of `_BLOCK` records, the last one shorter. Raises ValueError where the file is no whole FASTQ."""
    lines = [b""]
    count = 0
    try:
        for chunk in _chunks(path):
            text = lines[-1] + chunk
            lines[-1:] = (text.replace(b"\r\n", b"\n") if b"\r" in text else text).split(b"\n")
            while len(lines) > 4 * _BLOCK:
                yield _block(path, lines[: 4 * _BLOCK], count)
                del lines[: 4 * _BLOCK]
                count += _BLOCK
    except (EOFError, zlib.error) as error:
        raise ValueError(f"{path.name} is not a whole gzip file ({error}); make it again.") from error
    if not lines[-1]:
        lines.pop()
    while len(lines) % 4 and not lines[-1]:
        lines.pop()
    if lines:
        yield _block(path, lines, count)


def _chunks(path: Path) -> Iterator[bytes]:
    """The text of a file, decompressed if it is gzip, of one member or of several as bgzip's. Checksums are compared.

    A tenth of the CPU of `gzip.open`, which would make this dearer than the check that it replaced.
    """
    with path.open("rb") as stream:
        chunk = stream.read(_CHUNK)
        if not chunk.startswith(GZIP_MAGIC):
            while chunk:
                yield chunk
                chunk = stream.read(_CHUNK)
            return
        member = zlib.decompressobj(_GZIP_FORMAT)
        while chunk := chunk or stream.read(_CHUNK):
            if member.eof:
                member = zlib.decompressobj(_GZIP_FORMAT)
            yield member.decompress(chunk)
            chunk = member.unused_data
        if not member.eof:
            raise EOFError("its end is missing")


def _block(path: Path, lines: list[bytes], count: int) -> _Block:
    """The records of these lines, which `count` records precede. Raises ValueError for the first that is none."""
    names, bases, separators, qualities = (lines[i::4] for i in range(4))
    # Nearly all files have nothing else behind the `+`; to count is fastest.
    is_plain = separators.count(b"+") == len(names) == len(qualities) and names[0].startswith(b"@")
    if not (is_plain and list(map(len, bases)) == list(map(len, qualities))):
        _require_records(path, lines, count)
    if b"*" in bases:
        number = bases.index(b"*")
        raise ValueError(
            f"{path.name} has reads without bases ('*'): record {count + number + 1}, {_text(names[number])}. Leave"
            " them out, with their mates."
        )
    return _Block(names, bases)


def _require_records(path: Path, lines: list[bytes], count: int) -> None:
    """Raises ValueError for the first record that is not of four lines, or has not a quality for each base."""
    for number in range(0, len(lines), 4):
        name, bases, separator, qualities = (*lines[number : number + 4], b"", b"", b"")[:4]
        where = f"{path.name}, record {count + number // 4 + 1}"
        if not name.startswith(b"@") or (number + 2 < len(lines) and not separator.startswith(b"+")):
            raise ValueError(
                f"{where} is not four lines of FASTQ: it begins {_text(name)}. Give reads as @name,"
                " bases, + and qualities."
            )
        if number + 4 > len(lines):
            raise ValueError(
                f"{path.name} ends inside a FASTQ record, number {count + number // 4 + 1}; make it again."
            )
        if len(bases) != len(qualities):
            raise ValueError(
                f"{where}, {_text(name)}, has {len(bases)} bases and {len(qualities)} qualities; kallisto would stop"
                " there. Make the file again."
            )


def _require_mates(first: Path, second: Path, names: list[bytes], mates: list[bytes], count: int) -> None:
    """Raises ValueError for the first two names that stand beside each other and are no mates."""
    if names == mates:
        return
    one, other = b"\n".join([*names, b""]), b"\n".join([*mates, b""])
    # Of nearly all files the names of mates differ as those of the first two: compare all of them at once.
    mark = _mate_mark(names[0] + b"\n", mates[0] + b"\n")
    if mark and one.replace(*mark) == other:
        return
    for number, (name, mate) in enumerate(zip(names, mates, strict=True), count + 1):
        if not _are_mates(name, mate):
            raise ValueError(
                f"{first.name} and {second.name} are not in the same order: their record {number} is {_text(name)} and"
                f" {_text(mate)}. R1 comes first, and each of its reads stands beside its mate of R2."
            )


def _mate_mark(name: bytes, mate: bytes) -> tuple[bytes, bytes] | None:
    """Where two names differ in one character, `1` and `2`: it with those beside it, of both."""
    places = [i for i, (a, b) in enumerate(zip(name, mate, strict=False)) if a != b]
    if len(name) != len(mate) or len(places) != 1 or not _are_mates(name.rstrip(), mate.rstrip()):
        return None
    around = slice(places[0] - 1, places[0] + 2)
    return name[around], mate[around]


def _are_mates(name: bytes, mate: bytes) -> bool:
    one, other = _NAME.match(name), _NAME.match(mate)
    if one is None or other is None or one[1] != other[1]:
        return False
    return all(
        (a, b) != (b"2", b"1") and (a == b or (a, b) == (b"1", b"2"))
        for a, b in zip(one.groups()[1:], other.groups()[1:], strict=True)
    )


def _require_new(path: Path, block: _Block, seen: dict[bytes, bytes], count: int) -> None:
    """Raises ValueError when a read of `seen` comes again, name and bases; keeps one of `_REMEMBERED` there."""
    is_suspect = not seen.keys().isdisjoint(block.names) or block.names.count(block.names[0]) > 1
    # Other reads may bear the same names: those of two lanes that were numbered from 1.
    for number, (name, bases) in enumerate(zip(*block, strict=True) if is_suspect else (), count + 1):
        if seen.get(name) == bases:
            raise ValueError(
                f"{path.name} has reads that were there before: record {number}, {_text(name)}, with the same bases."
                " Each lane must be there once; leave out the file, or the part of it, that repeats another."
            )
        if number == count + 1:
            seen.setdefault(name, bases)
    if count % _REMEMBERED == 0:
        seen.setdefault(block.names[0], block.bases[0])


def _text(name: bytes) -> str:
    return repr(name.removeprefix(b"@")[:200].decode("utf-8", "replace"))
