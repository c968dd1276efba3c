"""FASTA of transcripts: lengths and checksums of the sequences, and a copy with the ids that the tools get.

The file is read twice as a stream, since what is left out and how ids are written depends on the GTF too. Of 250,000
transcripts ids, lengths and checksums are kept in memory, never sequences.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from batch_pipeline import MissingInput
from steps.gzipped import GZIP_MAGIC, gzip_writer

_AS_DNA: Final = str.maketrans("Uu", "Tt")
#: Bytes of a checksum: two of 250,000 different sequences share one with a chance of 1e-28.
_DIGEST_SIZE: Final = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class Sequence:
    """One sequence of a FASTA, as DNA in capitals."""

    #: In bases.
    length: int
    digest: bytes
    #: Whether it is written with U in place of T.
    rna: bool


@contextmanager
def reading(path: Path) -> Iterator[IO[str]]:
    """Opens a text, gzipped or not, after its byte-order mark if it has one.

    Raises MissingInput when it is not there, empty, torn or no text.
    """
    if not path.is_file() or path.stat().st_size == 0:
        raise MissingInput(f"{path.name} is not there or empty; give the reference's file.")
    with path.open("rb") as raw:
        zipped = raw.read(2) == GZIP_MAGIC
        raw.seek(0)
        stream = gzip.GzipFile(fileobj=raw) if zipped else raw
        try:
            with io.TextIOWrapper(io.BufferedReader(stream), encoding="utf-8-sig") as text:
                yield text
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise MissingInput(f"{path.name} is not a whole gzip file ({error}); get it again.") from error
        except UnicodeDecodeError as error:
            raise MissingInput(f"{path.name} is not a text ({error.reason}); give the reference's file.") from error


@contextmanager
def writing(path: Path) -> Iterator[IO[str]]:
    """Opens a gzipped text for writing; the same content makes the same bytes."""
    with gzip_writer(path) as zipped, io.TextIOWrapper(zipped, encoding="utf-8", newline="\n") as text:
        yield text


def read_fasta(source: Path) -> dict[str, Sequence]:
    """The sequences of a FASTA by id, in order; an id ends at the first blank or `|`. Raises MissingInput by line."""
    sequences: dict[str, Sequence] = {}
    name, length, rna, digest = "", 0, False, hashlib.blake2b(digest_size=_DIGEST_SIZE)

    def close() -> None:
        if name and length == 0:
            raise MissingInput(f"{source.name}: {name} has no sequence; is the file cut off? Get it again.")
        if name:
            sequences[name] = Sequence(length=length, digest=digest.digest(), rna=rna)

    with reading(source) as lines:
        for number, line in enumerate(lines, 1):
            if line.startswith(">"):
                close()
                name = _fasta_id(source, number, line)
                if name in sequences:
                    raise MissingInput(
                        f"{source.name} has {name} twice (line {number}); ids must be unique. Remove one of the two."
                    )
                length, rna, digest = 0, False, hashlib.blake2b(digest_size=_DIGEST_SIZE)
            elif name:
                bases = line.strip().upper()
                dna = bases.translate(_AS_DNA)
                length, rna = length + len(dna), rna or dna != bases
                digest.update(dna.encode())
            elif line.strip():
                raise MissingInput(f"{source.name} is no FASTA: line {number} stands before the first '>'.")
        close()
    if not sequences:
        raise MissingInput(f"{source.name} has no sequences; give the FASTA of the transcripts (cDNA).")
    return sequences


def write_fasta(source: Path, target: Path, names: Mapping[str, str]) -> None:
    """Copies the records whose id is in `names`, under the name that it has there, with T for U."""
    kept = False
    with reading(source) as lines, writing(target) as out:
        for number, line in enumerate(lines, 1):
            if line.startswith(">"):
                name = _fasta_id(source, number, line)
                kept = name in names
                if kept:
                    out.write(f">{names[name]}\n")
            elif kept:
                out.write(line.strip().translate(_AS_DNA) + "\n")


def _fasta_id(source: Path, number: int, line: str) -> str:
    words = line[1:].split()
    name = words[0].split("|", 1)[0] if words else ""
    if not name:
        raise MissingInput(f"{source.name}, line {number}: a sequence has no id behind the '>'. Give it one.")
    return name
