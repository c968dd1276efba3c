"""kallisto's fusion candidates (fusion.txt): the transcripts they name, and the gene pairs that pizzly lost.

pizzly drops each read that fits two genes on one side, so that a gene whose transcripts the reference has twice takes
part in no fusion. Its split reads are in fusion.txt all the same.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Final

from steps.breakpoints import load_structures
from steps.published import TranscriptRow

#: Split reads of a gene pair from which on pizzly found it in every simulation (87 of 87).
WELL_SUPPORTED: Final = 8
#: What pizzly leaves out by design: partners nearer than this on a chromosome, and those on the mitochondrion.
_NEIGHBOURS: Final = 10_000
_MITOCHONDRION: Final = frozenset({"MT", "M", "chrM", "chrMT"})
_CODING: Final = "protein_coding"
_TRANSCRIPT = re.compile(r"\(([^,()]+),\d+,([A-Z]+)\)")


def named_transcripts(fusion: Path) -> set[str]:
    """The transcripts in the last two columns of a fusion.txt."""
    named: set[str] = set()
    with fusion.open(encoding="utf-8") as lines:
        next(lines)
        for line in lines:
            named.update(name for name, _ in _TRANSCRIPT.findall("\t".join(line.split("\t")[-2:])))
    return named


def lost_gene_pairs(
    fusion: Path, gtf: Path, transcripts: Mapping[str, TranscriptRow], listed: Collection[frozenset[str]]
) -> dict[tuple[str, str], int]:
    """Pairs of gene names with many split reads of which pizzly lists nothing, with their split reads, most first.

    Left out are reads that another listed pair explains, and what pizzly leaves out by design: genes or transcripts
    that are not coding, antisense or mitochondrial partners, neighbours.

    Parameters
    ----------
    fusion: kallisto's fusion.txt.
    gtf: the reference's annotation.gtf.gz; read only where pairs have that many split reads.
    listed: the pairs of gene names that pizzly lists.
    """
    counts: Counter[tuple[str, str]] = Counter()
    for pairs in _split_pairs(fusion, transcripts):
        if not any(frozenset(pair) in listed for pair in pairs):
            counts.update(pairs)
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    many = {pair: count for pair, count in ordered if count >= WELL_SUPPORTED}
    spans = _spans(gtf, transcripts, {name for pair in many for name in pair})
    return {pair: count for pair, count in many.items() if not _near(spans.get(pair[0]), spans.get(pair[1]))}


def _split_pairs(fusion: Path, transcripts: Mapping[str, TranscriptRow]) -> Iterator[set[tuple[str, str]]]:
    """For each split read, the pairs of coding genes that it fits in sense, each pair sorted by name."""
    with fusion.open(encoding="utf-8") as lines:
        for line in lines:
            if not line.startswith("SPLIT\t"):
                continue
            first, second = (_genes(cell, transcripts) for cell in line.split("\t")[-2:])
            yield {
                (min(a, b), max(a, b))
                for a, strand_a in first
                for b, strand_b in second
                if a != b and strand_a != strand_b
            }


def _genes(cell: str, transcripts: Mapping[str, TranscriptRow]) -> set[tuple[str, str]]:
    """The coding genes of a list of transcripts, by name, each with the direction of the read on it (FW, RC)."""
    genes = set()
    for name, direction in _TRANSCRIPT.findall(cell):
        row = transcripts.get(name)
        if row and row.biotype == _CODING and row.chromosome not in _MITOCHONDRION:
            genes.add((row.gene_name, direction))
    return genes


def _spans(
    gtf: Path, transcripts: Mapping[str, TranscriptRow], genes: Collection[str]
) -> dict[str, tuple[str, int, int]]:
    """Chromosome, first and last base of genes, by name."""
    gene_of = {name: row.gene_name for name, row in transcripts.items() if row.gene_name in genes}
    spans: dict[str, tuple[str, int, int]] = {}
    for name, structure in load_structures(gtf, gene_of.keys()).items():
        bases = [base for exon in structure.exons for base in exon]
        _, first, last = spans.get(gene_of[name], (structure.chromosome, bases[0], bases[0]))
        spans[gene_of[name]] = structure.chromosome, min(first, *bases), max(last, *bases)
    return spans


def _near(a: tuple[str, int, int] | None, b: tuple[str, int, int] | None) -> bool:
    return a is not None and b is not None and a[0] == b[0] and max(a[1], b[1]) - min(a[2], b[2]) < _NEIGHBOURS
