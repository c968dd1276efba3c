"""What `BuildReference` promised about a reference, held against the files that a cell was given.

`reference.json` has the size and checksum of every file and what the tools must report when they load them. A cut-off
cache makes pizzly report fewer fusions with exit code 0, a cut-off index makes kallisto crash: both are told here.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final

from batch_pipeline import MissingInput

#: Version of reference.json.
FORMAT: Final = 1
#: Biotype of the genes and transcripts that pizzly reports fusions of.
CODING: Final = "protein_coding"
#: Chromosomes whose genes pizzly drops every read of.
MITOCHONDRIAL: Final = ("MT", "M", "chrM")


@dataclass(frozen=True, kw_only=True)
class TranscriptRow:
    """One row of transcripts.tsv. What comes from the GTF is empty for a transcript of the FASTA alone."""

    #: As the tools know it: letters, digits, '_' and '.' only.
    transcript_id: str
    #: Bases of the sequence.
    length: int
    gene_id: str
    gene_name: str
    chromosome: str
    strand: str
    biotype: str
    #: As in the FASTA and GTF that the reference was built from.
    published_id: str
    published_gene_id: str


#: Header of transcripts.tsv. References of earlier versions lack the last two columns.
TRANSCRIPT_COLUMNS: Final = tuple(item.name for item in fields(TranscriptRow))


@dataclass(frozen=True, kw_only=True)
class FileOf:
    """One file of a reference as it was built."""

    size: int
    sha256: str

    @classmethod
    def of(cls, path: Path) -> FileOf:
        """Reads a file through."""
        with path.open("rb") as stream:
            return cls(size=path.stat().st_size, sha256=hashlib.file_digest(stream, "sha256").hexdigest())


@dataclass(frozen=True, kw_only=True)
class Published:
    """The content of a reference.json."""

    k: int
    #: Sequences in the FASTA, which are kallisto's targets.
    transcripts: int
    #: What pizzly says that it loaded.
    pizzly_genes: int
    pizzly_transcripts: int
    files: Mapping[str, FileOf]

    @classmethod
    def read(cls, path: Path) -> Published:
        """Reads a reference.json. Raises MissingInput when it is none of this format."""
        try:
            content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            if content["format"] != FORMAT:
                raise ValueError(f"format {content['format']}, not {FORMAT}")
            return cls(
                k=content["k"],
                transcripts=content["transcripts"],
                pizzly_genes=content["pizzly"]["genes"],
                pizzly_transcripts=content["pizzly"]["transcripts"],
                files={name: FileOf(**file) for name, file in content["files"].items()},
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise MissingInput(
                f"{path.name} of the reference is not what the `reference` command writes ({error!r}); build it again."
            ) from error

    def require(self, path: Path, name: str, *, content: bool = False) -> Path:
        """Returns the file when it has the promised size and, on request, content. Raises MissingInput otherwise."""
        promised = self.files.get(name)
        if promised is None:
            raise MissingInput(f"reference.json does not know {name}; build the reference again.")
        size = path.stat().st_size if path.is_file() else None
        if size != promised.size:
            found = "is not there" if size is None else f"has {size} bytes"
            raise MissingInput(
                f"{name} of the reference {found}, reference.json promises {promised.size} bytes; a cut-off file gives "
                "wrong results. Build the reference again."
            )
        if content and FileOf.of(path).sha256 != promised.sha256:
            raise MissingInput(
                f"{name} of the reference is not the one that reference.json was written for (SHA-256 differs); build "
                "the reference again."
            )
        return path


def transcripts(table: Path) -> dict[str, TranscriptRow]:
    """The rows of a reference's transcripts.tsv by transcript id, in the order of its FASTA.

    A table of an earlier version, without published ids, gives the tools' ids for them. Raises MissingInput when the
    file is no such table.
    """
    with table.open(encoding="utf-8") as lines:
        columns = next(lines, "").rstrip("\n").split("\t")
        if columns not in (list(TRANSCRIPT_COLUMNS), list(TRANSCRIPT_COLUMNS[:-2])):
            raise MissingInput(f"{table.name} of the reference has other columns; build the reference again.")
        rows = {}
        for number, line in enumerate(lines, 2):
            cells = dict(zip(columns, line.rstrip("\n").split("\t"), strict=False))
            if len(cells) != len(columns) or not cells["length"].isdecimal():
                raise MissingInput(
                    f"{table.name} of the reference is cut off or broken at line {number}; build the reference again."
                )
            published = {"published_id": cells["transcript_id"], "published_gene_id": cells["gene_id"]}
            row = TranscriptRow(length=int(cells.pop("length")), **published | cells)
            rows[row.transcript_id] = row
    return rows


def transcript_ids(table: Path) -> list[str]:
    """The ids in a reference's transcripts.tsv, in the order of its FASTA."""
    with table.open(encoding="utf-8") as lines:
        next(lines, None)
        return [line.split("\t", 1)[0].rstrip("\n") for line in lines]
