"""kallisto's fusion candidates (fusion.txt): how many, the transcripts they name, the gene pairs that pizzly lost.

pizzly drops each read that fits two genes on one side, so that a gene whose transcripts the reference has twice takes
part in no fusion. Its split reads are in fusion.txt all the same.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Final

from batch_pipeline import InvalidOutput
from steps.published import CODING, MITOCHONDRIAL, TranscriptRow

#: First line of every fusion.txt that kallisto wrote to its end.
FUSION_HEADER: Final = "TYPE\tNAME1\tSEQ1\tKPOS1\tNAME2\tSEQ2\tKPOS2\tINFO\tPOS1\tPOS2"
#: Tabs in a whole row, by kind: kallisto writes two before a PAIR's empty INFO.
_TABS: Final = {"PAIR": 10, "SPLIT": 9}
#: Split reads of a gene pair from which on pizzly found it in every simulation (87 of 87).
WELL_SUPPORTED: Final = 8
_TRANSCRIPT = re.compile(r"\(([^,()]+),\d+,([A-Z]+)\)")


def count_candidates(path: Path, sample: str) -> tuple[int, int]:
    """Rows of a fusion.txt by kind, PAIR and SPLIT. Raises InvalidOutput when kallisto did not write it to its end."""
    pair = split = 0
    with path.open(encoding="utf-8") as lines:
        if next(lines, "") != FUSION_HEADER + "\n":
            raise InvalidOutput(
                f"fusion.txt of sample {sample} does not start with its header, so kallisto did not finish it; pizzly "
                "would take it for a sample without fusions. Run kallisto again."
            )
        for number, line in enumerate(lines, 2):
            kind = line.split("\t", 1)[0]
            if line.count("\t") != _TABS.get(kind) or not line.endswith(")\n"):
                raise InvalidOutput(
                    f"fusion.txt of sample {sample} is cut off or broken at line {number}; run kallisto again."
                )
            pair, split = pair + (kind == "PAIR"), split + (kind == "SPLIT")
    return pair, split


def named_transcripts(fusion: Path) -> set[str]:
    """The transcripts in the last two columns of a fusion.txt."""
    named: set[str] = set()
    with fusion.open(encoding="utf-8") as lines:
        next(lines)
        for line in lines:
            named.update(name for name, _ in _TRANSCRIPT.findall("\t".join(line.split("\t")[-2:])))
    return named


def unlisted_gene_pairs(
    fusion: Path, transcripts: Mapping[str, TranscriptRow], listed: Collection[frozenset[str]]
) -> dict[tuple[str, str], int]:
    """Pairs of gene names with many split reads of which pizzly lists nothing, with their split reads, most first.

    Left out are reads that another listed pair explains, and what pizzly leaves out by design: genes or transcripts
    that are not coding, antisense or mitochondrial partners. `breakpoints.without_neighbours` does the rest.

    Parameters
    ----------
    fusion: kallisto's fusion.txt.
    listed: the pairs of gene names that pizzly lists.
    """
    counts: Counter[tuple[str, str]] = Counter()
    for pairs in _split_pairs(fusion, transcripts):
        if not any(frozenset(pair) in listed for pair in pairs):
            counts.update(pairs)
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return {pair: count for pair, count in ordered if count >= WELL_SUPPORTED}


def transcripts_of(pairs: Collection[tuple[str, str]], transcripts: Mapping[str, TranscriptRow]) -> dict[str, str]:
    """The transcripts of the genes of these pairs, each with its gene's name."""
    genes = {gene for pair in pairs for gene in pair}
    return {name: row.gene_name for name, row in transcripts.items() if row.gene_name in genes} if genes else {}


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
        if row and row.biotype == CODING and row.chromosome not in MITOCHONDRIAL:
            genes.add((row.gene_name, direction))
    return genes
