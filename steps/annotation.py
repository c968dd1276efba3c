"""Genes, transcripts and exons of a reference, and their GTF in the form that pizzly reads rightly.

pizzly takes exons in the order of their lines for the order of transcription, so ascending exons of the minus strand
cost fusions; its cache loses its place at a gene name with a space. Places are held as arrays, so that the human
annotation (3.4 million lines) fits into memory.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from steps.published import CODING
from steps.sequences import writing

#: What would end a column of pizzly's cache, an attribute of a GTF, or a text of pizzly's JSON.
UNSPEAKABLE = re.compile(r"[\s;,\"\\\x00-\x1f]+")


@dataclass(kw_only=True, slots=True, eq=False)
class Gene:
    """A gene, from its line or else from its transcripts."""

    id: str
    name: str
    biotype: str
    chromosome: str
    strand: str
    source: str
    #: From 1, both ends included, as in the GTF.
    start: int
    end: int
    #: Whether it has a line of its own.
    listed: bool
    transcripts: list[Transcript] = field(default_factory=list)


@dataclass(kw_only=True, slots=True, eq=False)
class Transcript:
    """A transcript, from its line or else from its exons."""

    id: str
    gene: Gene
    biotype: str
    chromosome: str
    strand: str
    source: str
    #: From 1, both ends included, as in the GTF.
    start: int
    end: int
    #: Whether it has a line of its own.
    listed: bool
    #: Whether an exon is on another chromosome or strand (trans-splicing): their order is then the file's.
    scattered: bool = False
    #: Start and end of each exon, one behind the other.
    exons: array[int] = field(default_factory=lambda: array("q"))
    #: Start, end and frame (-1: none) of each part of the coding sequence, one behind the other.
    cds: array[int] = field(default_factory=lambda: array("q"))

    @property
    def coding(self) -> bool:
        """Whether pizzly reports fusions of it."""
        return self.biotype == self.gene.biotype == CODING

    @property
    def length(self) -> int:
        """Bases of all exons."""
        return sum(self.exons[1::2]) - sum(self.exons[::2]) + len(self.exons) // 2

    def ordered_exons(self) -> list[tuple[int, ...]]:
        """Start and end of each exon, in the order of transcription."""
        return self._ordered(self.exons, 2)

    def ordered_cds(self) -> list[tuple[int, ...]]:
        """Start, end and frame of each part of the coding sequence, in the order of transcription."""
        return self._ordered(self.cds, 3)

    def _ordered(self, places: array[int], size: int) -> list[tuple[int, ...]]:
        rows = [tuple(places[at : at + size]) for at in range(0, len(places), size)]
        return rows if self.scattered else sorted(rows, reverse=self.strand == "-")


@dataclass(kw_only=True)
class Annotation:
    """What a GTF holds. Genes and transcripts by id, in the order of their first line."""

    genes: dict[str, Gene] = field(default_factory=dict)
    transcripts: dict[str, Transcript] = field(default_factory=dict)
    #: Genes without transcripts, which were left out.
    dropped_genes: int = 0
    #: Gene names with spaces or the like, in which `_` now stands.
    renamed: int = 0
    #: Transcripts whose exons did not stand in the order of transcription.
    reordered: int = 0
    #: Exon lines that name no transcript, which were left out.
    strays: int = 0


def write_gtf(target: Path, genes: Iterable[Gene], ids: Mapping[str, str], gene_ids: Mapping[str, str]) -> None:
    """Writes genes, each with its transcripts, each with its exons and then its CDS, under the ids given."""
    with writing(target) as out:
        for gene in genes:
            attributes = {"gene_id": gene_ids[gene.id], "gene_name": gene.name, "gene_biotype": gene.biotype}
            out.write(_line(gene, "gene", gene.start, gene.end, -1, attributes))
            for transcript in gene.transcripts:
                out.writelines(_transcript_lines(transcript, gene_ids[gene.id], ids[transcript.id]))


def _transcript_lines(transcript: Transcript, gene_id: str, name: str) -> Iterator[str]:
    attributes = {"gene_id": gene_id, "transcript_id": name}
    biotype = {"transcript_biotype": transcript.biotype}
    yield _line(transcript, "transcript", transcript.start, transcript.end, -1, attributes | biotype)
    for start, end in transcript.ordered_exons():
        yield _line(transcript, "exon", start, end, -1, attributes)
    for start, end, frame in transcript.ordered_cds():
        yield _line(transcript, "CDS", start, end, frame, attributes)


def _line(place: Gene | Transcript, kind: str, start: int, end: int, frame: int, attributes: dict[str, str]) -> str:
    text = " ".join(f'{key} "{value}";' for key, value in attributes.items() if value)
    columns = (place.chromosome, place.source, kind, str(start), str(end), ".", place.strand)
    return "\t".join((*columns, "." if frame < 0 else str(frame), text)) + "\n"
