"""Genes that stand in a reference twice: which copies are left out, and which genes pizzly then cannot see.

A read of such a gene fits both. pizzly drops a pair whose read fits coding genes of two chromosomes, or any
mitochondrial gene, so all fusions of the gene are lost. Of copies on one chromosome it reports both; transcripts of
genes that are not coding, or in the FASTA alone, do no harm (each measured with a copy of EWSR1).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from steps.annotation import Annotation, Gene
from steps.published import CODING, MITOCHONDRIAL
from steps.sequences import Sequence

#: As Ensembl, GENCODE and RefSeq (GRCh37, GRCh38, T2T-CHM13) call the sex chromosomes.
_X = re.compile(r"(chr)?X|NC_000023\.\d+|NC_060947\.\d+")
_Y = re.compile(r"(chr)?Y|NC_000024\.\d+|NC_060948\.\d+")
_PSEUDOAUTOSOMAL: Final = "_PAR_Y"


@dataclass(frozen=True, kw_only=True)
class Copy:
    """A gene and the one that has its sequences too, by their ids as published."""

    gene: str
    name: str
    other: str


def pseudoautosomal_copies(
    annotation: Annotation, sequences: Mapping[str, Sequence], pairs: Mapping[str, str]
) -> list[Copy]:
    """Genes on Y that are on X too: by the suffix `_PAR_Y`, or by the name and a sequence that both have.

    Parameters
    ----------
    sequences: of the FASTA, by id.
    pairs: id in the FASTA -> id in the GTF.
    """
    digests = _digests_by_gene(annotation, sequences, pairs)
    on_x = {gene.name: gene for gene in annotation.genes.values() if _X.fullmatch(gene.chromosome)}
    copies = []
    for gene in annotation.genes.values():
        original = annotation.genes.get(gene.id.removesuffix(_PSEUDOAUTOSOMAL))
        if original is gene and _Y.fullmatch(gene.chromosome):
            original = on_x.get(gene.name)
            if original and not digests.get(gene.id, set()) & digests.get(original.id, set()):
                original = None
        if original is not None and original is not gene:
            copies.append(Copy(gene=gene.id, name=gene.name, other=original.id))
    return copies


def hidden_genes(annotation: Annotation, sequences: Mapping[str, Sequence], pairs: Mapping[str, str]) -> Iterator[Copy]:
    """Coding genes of which each coding transcript has the sequence of one of a gene that makes pizzly drop its reads.

    Sequences are compared whole: genes that share a part of them only are not told.
    """
    owners: dict[bytes, list[Gene]] = {}
    for name, annotated in pairs.items():
        gene = annotation.transcripts[annotated].gene
        genes = owners.setdefault(sequences[name].digest, [])
        if gene not in genes:
            genes.append(gene)
    named = {annotated: name for name, annotated in pairs.items()}
    for gene in annotation.genes.values():
        coding = [named[item.id] for item in gene.transcripts if item.coding and item.id in named]
        rivals = [[other for other in owners[sequences[name].digest] if _hides(other, gene)] for name in coding]
        if rivals and all(rivals):
            yield Copy(gene=gene.id, name=gene.name, other=rivals[0][0].id)


def remove_genes(annotation: Annotation, genes: Collection[str]) -> set[str]:
    """Takes genes out of an annotation and returns the ids of their transcripts."""
    removed = {item.id for gene in genes for item in annotation.genes[gene].transcripts}
    for gene in genes:
        del annotation.genes[gene]
    for transcript in removed:
        del annotation.transcripts[transcript]
    return removed


def _hides(other: Gene, gene: Gene) -> bool:
    if other is gene:
        return False
    return other.chromosome in MITOCHONDRIAL or (other.biotype == CODING and other.chromosome != gene.chromosome)


def _digests_by_gene(
    annotation: Annotation, sequences: Mapping[str, Sequence], pairs: Mapping[str, str]
) -> dict[str, set[bytes]]:
    digests: dict[str, set[bytes]] = {}
    for name, annotated in pairs.items():
        digests.setdefault(annotation.transcripts[annotated].gene.id, set()).add(sequences[name].digest)
    return digests
