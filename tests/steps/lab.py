"""The small sample that the tests of the steps share, and what a good run left of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from batch_pipeline import Job

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
