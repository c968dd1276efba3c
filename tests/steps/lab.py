"""The small sample that the tests of the steps share, and what a good run left of it."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from batch_pipeline import Job
from batch_pipeline.demo.alone import run_alone
from steps.kallisto import Kallisto
from steps.pizzly import Pizzly
from steps.reference import BuildReference

SAMPLE = "sim04"


@dataclass(frozen=True, kw_only=True)
class Lab:
    """What a good run left."""

    fasta: Path
    gtf: Path
    bam: Path
    #: Folder of the reference's files.
    reference: Path
    picard: Job
    kallisto: Job

    @property
    def reads(self) -> tuple[Path, ...]:
        return self.picard.outputs("fastq")

    @property
    def fusion(self) -> Path:
        return self.kallisto.output("fusion")


def edited(source: Path, target: Path, edit: Callable[[str], str]) -> Path:
    """A gzipped text, changed."""
    target.write_bytes(gzip.compress(edit(gzip.decompress(source.read_bytes()).decode()).encode(), mtime=0))
    return target


def build(fasta: Path, gtf: Path, work: Path, **params: object) -> Job:
    """Builds a reference."""
    return run_alone(BuildReference(**params), work, "made_up", inputs={"fasta": [fasta], "gtf": [gtf]})


def fusions(reads: Sequence[Path], reference: Path, work: Path) -> dict[tuple[str, str], tuple[int, int]]:
    """What kallisto and pizzly find in reads of an unstranded library: pairs and splits by the genes' names."""
    kallisto = run_alone(
        Kallisto(strandedness="none"), work / "kallisto", SAMPLE, inputs={"reads": reads}, reference=reference
    )
    pizzly = run_alone(
        Pizzly(), work / "pizzly", SAMPLE, inputs={"fusion": [kallisto.output("fusion")]}, reference=reference
    )
    genes = json.loads(pizzly.output("fusions").read_text())["genes"]
    return {(gene["geneA"]["name"], gene["geneB"]["name"]): (gene["paircount"], gene["splitcount"]) for gene in genes}
