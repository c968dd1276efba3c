"""Reads a transcriptome (FASTA and GTF) for the simulator, or makes up a random one.

A made-up one needs no download and no licence; its genes are called SIM1, SIM2, … so that nobody takes them for real.
"""

from __future__ import annotations

import gzip
import io
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Final

#: A transcript that is shorter has no room for a cut with reads on either side.
SHORTEST: Final = 600
_ATTRIBUTE = re.compile(r'(\w+) "([^"]*)"')
_COMPLEMENT = str.maketrans("ACGTN", "TGCAN")


@dataclass(frozen=True, kw_only=True)
class Transcript:
    """A coding transcript that can take part in a fusion."""

    id: str
    gene_id: str
    gene_name: str
    chromosome: str
    #: The gene's, as in the GTF: from 1, both ends included.
    gene_start: int
    gene_end: int
    sequence: str = field(repr=False)
    #: In the order of transcription.
    exons: tuple[int, ...]

    @property
    def inner_ends(self) -> list[int]:
        """Positions behind each exon but the last: where it may be cut."""
        return list(accumulate(self.exons))[:-1]


@dataclass(kw_only=True)
class _Annotated:
    gene_id: str
    coding: bool
    exons: list[int] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class _Gene:
    name: str
    chromosome: str
    start: int
    end: int
    coding: bool


def reverse_complement(sequence: str) -> str:
    """The other strand, read from its 5' end."""
    return sequence.translate(_COMPLEMENT)[::-1]


def read_transcriptome(fasta: Path, gtf: Path) -> list[Transcript]:
    """The longest usable transcript of each gene (ties by id), sorted by gene id.

    Usable: gene and transcript protein-coding, not mitochondrial, two exons or more, at least 600 bases, and as long in
    the FASTA as its exons are in the GTF.
    """
    sequences = dict(_read_fasta(fasta))
    genes, annotated = _read_gtf(gtf)
    best: dict[str, Transcript] = {}
    for name, entry in annotated.items():
        gene, sequence = genes[entry.gene_id], sequences.get(name, "")
        usable = entry.coding and gene.coding and gene.chromosome not in ("MT", "M", "chrM")
        if not usable or len(entry.exons) < 2 or len(sequence) < SHORTEST or sum(entry.exons) != len(sequence):
            continue
        rival = best.get(entry.gene_id)
        if rival is None or (-len(sequence), name) < (-len(rival.sequence), rival.id):
            best[entry.gene_id] = Transcript(
                id=name,
                gene_id=entry.gene_id,
                gene_name=gene.name,
                chromosome=gene.chromosome,
                gene_start=gene.start,
                gene_end=gene.end,
                sequence=sequence,
                exons=tuple(entry.exons),
            )
    return [best[gene] for gene in sorted(best)]


def gene_ids(gtf: Path) -> dict[str, str]:
    """Gene name -> id, with its version."""
    genes, _ = _read_gtf(gtf)
    return {gene.name: name for name, gene in genes.items()}


def _lines(path: Path) -> Iterator[str]:
    with path.open("rb") as raw:
        zipped = path.suffix == ".gz"
        with io.TextIOWrapper(gzip.GzipFile(fileobj=raw) if zipped else raw, encoding="utf-8") as lines:
            yield from lines


def _read_fasta(path: Path) -> Iterator[tuple[str, str]]:
    name, parts = "", list[str]()
    for line in _lines(path):
        if line.startswith(">"):
            if name:
                yield name, "".join(parts).upper()
            name, parts = re.split(r"[\s|]", line[1:], maxsplit=1)[0], []
        else:
            parts.append(line.strip())
    if name:
        yield name, "".join(parts).upper()


def _read_gtf(path: Path) -> tuple[dict[str, _Gene], dict[str, _Annotated]]:
    genes: dict[str, _Gene] = {}
    transcripts: dict[str, _Annotated] = {}
    for line in _lines(path):
        columns = line.rstrip("\n").split("\t")
        if len(columns) != 9 or columns[2] not in ("gene", "transcript", "exon"):
            continue
        attributes = dict(_ATTRIBUTE.findall(columns[8]))
        gene_id, start, end = _versioned(attributes, "gene"), int(columns[3]), int(columns[4])
        if columns[2] == "gene":
            genes[gene_id] = _Gene(
                name=attributes.get("gene_name", gene_id),
                chromosome=columns[0],
                start=start,
                end=end,
                coding=_is_coding(attributes, "gene"),
            )
        elif columns[2] == "transcript":
            coding = _is_coding(attributes, "transcript")
            transcripts[_versioned(attributes, "transcript")] = _Annotated(gene_id=gene_id, coding=coding)
        else:
            transcripts[_versioned(attributes, "transcript")].exons.append(end - start + 1)
    return genes, transcripts


def _versioned(attributes: dict[str, str], kind: str) -> str:
    name, version = attributes[f"{kind}_id"], attributes.get(f"{kind}_version", "")
    return f"{name}.{version}" if version and "." not in name else name


def _is_coding(attributes: dict[str, str], kind: str) -> bool:
    return (attributes.get(f"{kind}_biotype") or attributes.get(f"{kind}_type")) == "protein_coding"


def generate_transcriptome(fasta: Path, gtf: Path, *, seed: int, genes: int = 60) -> None:
    """Writes a random transcriptome: coding genes of 4 to 9 exons, on both strands, far apart; every second gene has an
    isoform that skips an exon. The same seed makes the same bytes."""
    rng = random.Random(f"transcriptome:{seed}")
    sequences: list[str] = []
    annotation: list[str] = []
    for number in range(1, genes + 1):
        _generate_gene(rng, number, sequences, annotation)
    for path, text in ((fasta, "".join(sequences)), (gtf, "".join(annotation))):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(gzip.compress(text.encode(), mtime=0))


def _generate_gene(rng: random.Random, number: int, sequences: list[str], annotation: list[str]) -> None:
    # pizzly has positions in 32 bits, negative from 2^31 on: each 10,000 genes lie on five chromosomes of their own.
    five, place = divmod(number - 1, 10_000)
    strand, chromosome, start = rng.choice("+-"), f"{5 * five + number % 5 + 1}", 100_000 * (place + 1)
    lengths = [rng.randint(150, 420) for _ in range(rng.randint(4, 9))]
    places: list[tuple[int, int]] = []
    for length in lengths:
        first = places[-1][1] + rng.randint(300, 2000) if places else start
        places.append((first, first + length - 1))
    bases = ["".join(rng.choices("ACGT", k=length)) for length in lengths]
    gene = f'gene_id "SIMG{number:05}"; gene_version "1"; gene_name "SIM{number}"; gene_biotype "protein_coding";'

    def line(kind: str, first: int, last: int, more: str = "") -> str:
        return f"{chromosome}\tsimulated\t{kind}\t{first}\t{last}\t.\t{strand}\t.\t{gene}{more}\n"

    annotation.append(line("gene", places[0][0], places[-1][1]))
    for isoform, kept in enumerate(_isoforms(rng, number, len(lengths)), 1):
        name = f"SIMT{number:05}{isoform}"
        more = f' transcript_id "{name}"; transcript_version "1"; transcript_biotype "protein_coding";'
        annotation.append(line("transcript", places[kept[0]][0], places[kept[-1]][1], more))
        # Exons stand in the order of transcription, as in Ensembl's files, on both strands.
        ordered = kept if strand == "+" else kept[::-1]
        annotation.extend(line("exon", *places[exon], more) for exon in ordered)
        sequences.append(f">{name}.1 cdna\n{''.join(bases[exon] for exon in ordered)}\n")


def _isoforms(rng: random.Random, number: int, exons: int) -> list[Sequence[int]]:
    whole = list(range(exons))
    skipped = rng.randrange(1, exons - 1)
    return [whole, [exon for exon in whole if exon != skipped]] if number % 2 else [whole]
