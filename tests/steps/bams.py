"""Takes BAMs apart and puts them together wrongly, for tests of what is done with broken ones."""

from __future__ import annotations

import struct
import subprocess
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

#: BGZF's empty last block, SAM specification §4.1.2.
END_OF_FILE = bytes.fromhex("1f8b08040000000000ff0600424302001b0003000000000000000000")


def as_sam(bam: Path) -> tuple[list[str], list[list[str]]]:
    text = subprocess.run(["samtools", "view", "-h", bam], capture_output=True, text=True, check=True).stdout
    lines = text.splitlines()
    return [line for line in lines if line[0] == "@"], [line.split("\t") for line in lines if line[0] != "@"]


def rewritten(
    bam: Path, target: Path, edit: Callable[[list[list[str]]], list[list[str]]], more_header: Sequence[str] = ()
) -> Path:
    """The BAM with its records edited as rows of SAM."""
    header, rows = as_sam(bam)
    text = "\n".join([*header, *more_header, *("\t".join(row) for row in edit(rows))]) + "\n"
    subprocess.run(["samtools", "view", "--no-PG", "-b", "-o", target, "-"], input=text, text=True, check=True)
    return target


def block_borders(bam: Path) -> list[int]:
    """Offsets behind each BGZF block; samtools lets no record cross one."""
    data, offset, borders = bam.read_bytes(), 0, list[int]()
    while offset < len(data):
        offset += struct.unpack_from("<H", data, offset + 16)[0] + 1
        borders.append(offset)
    return borders


def records_in(bam: Path) -> int:
    """Records of a BAM whose end may be missing."""
    counted = subprocess.run(["samtools", "view", "-c", bam], capture_output=True, text=True, check=False)
    return int(counted.stdout or 1)


def bgzf(data: bytes) -> bytes:
    """The data compressed as bgzip does it."""
    blocks = []
    for start in range(0, len(data), 60_000):
        part = data[start : start + 60_000]
        packer = zlib.compressobj(wbits=-15)
        packed = packer.compress(part) + packer.flush()
        head = bytes.fromhex("1f8b08040000000000ff060042430200") + struct.pack("<H", len(packed) + 25)
        blocks.append(head + packed + struct.pack("<II", zlib.crc32(part), len(part)))
    return b"".join(blocks) + END_OF_FILE
