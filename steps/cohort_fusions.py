"""Reads the fusions.tsv of a cohort's samples: which samples have which fusions, and how well supported."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from batch_pipeline import MissingInput

#: Columns of a sample's fusions.tsv that are read here; all others are passed on.
_READ: Final = ("sample", "gene_a", "gene_b", "gene_a_id", "gene_b_id", "pairs", "splits")
#: What stands where a sample has no fusion.
NOTHING: Final = "."


@dataclass(frozen=True, kw_only=True, order=True)
class FusedGenes:
    """The genes of a fusion in the order of the fusion transcript: A is the 5' partner. Ids are as published."""

    gene_a: str
    gene_b: str
    gene_a_id: str
    gene_b_id: str

    @property
    def name(self) -> str:
        """`A--B`, as most fusion callers write it."""
        return f"{self.gene_a}--{self.gene_b}"


@dataclass(frozen=True, kw_only=True)
class FusionRow:
    """One line of a sample's fusions.tsv."""

    pair: FusedGenes
    #: Read pairs of which each read lies in one of the genes, plus reads across the breakpoint.
    support: int
    line: str


@dataclass(kw_only=True)
class CohortFusions:
    """Which samples have which fusions, and how well supported."""

    #: In the order of the sample list, those without fusions among them.
    samples: list[str] = field(default_factory=list)
    #: Fusion -> sample -> read pairs and split reads.
    support: dict[FusedGenes, dict[str, int]] = field(default_factory=dict)

    def add(self, sample: str, rows: Sequence[FusionRow]) -> None:
        """Takes a sample's fusions in."""
        self.samples.append(sample)
        for row in rows:
            self.support.setdefault(row.pair, {})[sample] = row.support

    def ranked(self) -> list[FusedGenes]:
        """Fusions of most samples first, then those of most reads, then by name."""
        return sorted(
            self.support, key=lambda pair: (-len(self.support[pair]), -sum(self.support[pair].values()), pair)
        )


def fusion_rows(path: Path, sample: str) -> tuple[str, list[FusionRow]]:
    """Header and rows of a sample's fusions.tsv, in its order. Raises MissingInput when it is no such table."""
    with path.open(encoding="utf-8") as lines:
        header = next(lines, "").rstrip("\n")
        columns = header.split("\t")
        if not set(_READ) <= set(columns):
            raise MissingInput(
                f"{path.name} of sample {sample} lacks the columns {', '.join(sorted(set(_READ) - set(columns)))}; run "
                "pizzly again."
            )
        rows = []
        for number, line in enumerate(lines, 2):
            cells = dict(zip(columns, line.rstrip("\n").split("\t"), strict=False))
            if len(cells) != len(columns) or cells["sample"] != sample or not _has_counts(cells):
                raise MissingInput(
                    f"{path.name} of sample {sample} is broken at line {number}, or of another sample; run pizzly "
                    "again."
                )
            names = {name: cells[name] for name in ("gene_a", "gene_b", "gene_a_id", "gene_b_id")}
            support = int(cells["pairs"]) + int(cells["splits"])
            rows.append(FusionRow(pair=FusedGenes(**names), support=support, line=line))
    return header, rows


def _has_counts(cells: Mapping[str, str]) -> bool:
    return cells["pairs"].isdecimal() and cells["splits"].isdecimal()
