"""Where a fusion's breakpoint lies on the genome, and whether the reading frame goes on behind it.

pizzly places a breakpoint on transcripts: so many bases of A are kept, so many of B are left out. Here these positions
are put on the genome by the exons, and on the codons by the CDS lines, of annotation.gtf.gz. Several pairs of isoforms
of two genes mostly share one place on the genome.
"""

from __future__ import annotations

import gzip
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from steps.pizzly_json import IsoformPair

#: Frames of a fusion, the most telling first.
FRAMES: Final = ("in", "out", "utr", "unknown")
#: Bases between the breakpoints of a read-through at most, as in arriba (`fusion_t::is_read_through`, 400 kb).
READ_THROUGH: Final = 400_000
#: Bases between partners on one chromosome below which pizzly leaves them out.
_NEIGHBOURS: Final = 10_000
_NO_ISOFORMS: Final = IsoformPair(record="", transcript_a="", end_a=0, transcript_b="", start_b=0, support=0)


@dataclass(frozen=True, kw_only=True, slots=True)
class GenomePosition:
    """A base of the genome, with the strand of the transcript that it belongs to."""

    chromosome: str
    #: 1-based.
    position: int
    strand: str

    def __str__(self) -> str:
        return f"{self.chromosome}:{self.position}:{self.strand}"


@dataclass(kw_only=True, slots=True)
class TranscriptStructure:
    """Exons and coding segments of a transcript, in the order of transcription."""

    chromosome: str
    strand: str
    #: First and last base on the genome, 1-based.
    exons: list[tuple[int, int]] = field(default_factory=list)
    #: The same of CDS lines, and their bases before the next codon (GTF's frame): not 0 where a CDS begins within one.
    coding: list[tuple[int, int, int]] = field(default_factory=list)

    def position(self, offset: int) -> GenomePosition | None:
        """The place of a base, counted from 0 along the transcript; None behind its end."""
        for first, last in self.exons:
            length = last - first + 1
            if 0 <= offset < length:
                base = first + offset if self.strand != "-" else last - offset
                return GenomePosition(chromosome=self.chromosome, position=base, strand=self.strand)
            offset -= length
        return None

    def codon_phase(self, position: int) -> int | None:
        """Which base of its codon (0, 1, 2) a base of the genome is; None outside the coding sequence."""
        before = -self.coding[0][2] if self.coding else 0
        for first, last, _ in self.coding:
            if first <= position <= last:
                return (before + (position - first if self.strand != "-" else last - position)) % 3
            before += last - first + 1
        return None


@dataclass(frozen=True, kw_only=True, slots=True)
class Breakpoint:
    """The junction of a pair of isoforms."""

    isoforms: IsoformPair
    #: The last base that is kept of A and the first of B; None where the annotation has not got that base.
    position_a: GenomePosition | None
    position_b: GenomePosition | None
    #: One of `FRAMES`.
    frame: str

    @property
    def distance(self) -> int | None:
        """Bases between the two positions on one chromosome, else None."""
        a, b = self.position_a, self.position_b
        return abs(b.position - a.position) if a and b and a.chromosome == b.chromosome else None

    @property
    def read_through(self) -> bool:
        """Whether B follows A on its strand so near that transcription past the end of A explains it.

        It says nothing against a deletion between the two: RNA does not tell them apart.
        """
        a, b = self.position_a, self.position_b
        if not a or not b or (a.chromosome, a.strand) != (b.chromosome, b.strand):
            return False
        return 0 < (b.position - a.position if a.strand != "-" else a.position - b.position) < READ_THROUGH


def load_structures(gtf: Path, transcripts: Collection[str]) -> dict[str, TranscriptStructure]:
    """Exons and CDS of these transcripts, out of one pass over a reference's annotation.gtf.gz."""
    structures: dict[str, TranscriptStructure] = {}
    if not transcripts:
        return structures
    with gzip.open(gtf, "rt", encoding="utf-8") as lines:
        for line in lines:
            name = line.partition('transcript_id "')[2].partition('"')[0]
            if name not in transcripts:
                continue
            chromosome, _, kind, first, last, _, strand, phase, _ = line.split("\t")
            structure = structures.setdefault(name, TranscriptStructure(chromosome=chromosome, strand=strand))
            if kind == "exon":
                structure.exons.append((int(first), int(last)))
            elif kind == "CDS":
                structure.coding.append((int(first), int(last), int(phase) if phase.isdecimal() else 0))
    for structure in structures.values():
        # Earlier references have the exons as they were published, which is not always in the order of transcription.
        structure.exons.sort(reverse=structure.strand == "-")
        structure.coding.sort(reverse=structure.strand == "-")
    return structures


def best_breakpoint(isoforms: Iterable[IsoformPair], structures: Mapping[str, TranscriptStructure]) -> Breakpoint:
    """The breakpoint of the pair of isoforms that most reads fit.

    Of several the one with the most telling frame (`FRAMES`) is taken, then the first by transcript ids and positions.
    """
    return min(
        (_breakpoint(pair, structures) for pair in isoforms),
        default=_breakpoint(_NO_ISOFORMS, structures),
        key=lambda one: (
            -one.isoforms.support,
            FRAMES.index(one.frame),
            *(one.isoforms.transcript_a, one.isoforms.end_a, one.isoforms.transcript_b, one.isoforms.start_b),
        ),
    )


def without_neighbours(
    pairs: Mapping[tuple[str, str], int], gene_of: Mapping[str, str], structures: Mapping[str, TranscriptStructure]
) -> dict[tuple[str, str], int]:
    """The pairs of genes that are not so near to each other that pizzly leaves them out.

    Parameters
    ----------
    pairs: by the genes' names.
    gene_of: name of the gene of each transcript of these genes.
    structures: by transcript, of those transcripts and of any others.
    """
    spans = _spans(gene_of, structures)
    return {pair: count for pair, count in pairs.items() if not _near(spans.get(pair[0]), spans.get(pair[1]))}


def _breakpoint(pair: IsoformPair, structures: Mapping[str, TranscriptStructure]) -> Breakpoint:
    a, b = structures.get(pair.transcript_a), structures.get(pair.transcript_b)
    position_a = a.position(pair.end_a - 1) if a else None
    position_b = b.position(pair.start_b) if b else None
    frame = "unknown"
    if a and b and position_a and position_b and a.coding and b.coding:
        phase_a, phase_b = a.codon_phase(position_a.position), b.codon_phase(position_b.position)
        frame = "utr" if phase_a is None or phase_b is None else "in" if (phase_a + 1) % 3 == phase_b else "out"
    return Breakpoint(isoforms=pair, position_a=position_a, position_b=position_b, frame=frame)


def _spans(
    gene_of: Mapping[str, str], structures: Mapping[str, TranscriptStructure]
) -> dict[str, tuple[str, int, int]]:
    """Chromosome, first and last base of genes, by name."""
    spans: dict[str, tuple[str, int, int]] = {}
    for name in gene_of.keys() & structures.keys():
        structure = structures[name]
        bases = [base for exon in structure.exons for base in exon]
        _, first, last = spans.get(gene_of[name], (structure.chromosome, bases[0], bases[0]))
        spans[gene_of[name]] = structure.chromosome, min(first, *bases), max(last, *bases)
    return spans


def _near(a: tuple[str, int, int] | None, b: tuple[str, int, int] | None) -> bool:
    return a is not None and b is not None and a[0] == b[0] and max(a[1], b[1]) - min(a[2], b[2]) < _NEIGHBOURS
