"""A small made-up reference and one sample with one fusion, taken through the real tools once a session."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from batch_pipeline.demo.alone import run_alone
from batch_pipeline.demo.bam import write_bam
from batch_pipeline.demo.simulate import Library, design_cohort, simulate_sample
from batch_pipeline.demo.transcriptome import generate_transcriptome, read_transcriptome
from steps.kallisto import Kallisto
from steps.picard import Picard
from steps.reference import BuildReference
from tests.steps.lab import SAMPLE, Lab


@pytest.fixture(scope="session")
def sources(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """FASTA and GTF of 30 made-up genes."""
    folder = tmp_path_factory.mktemp("sources")
    fasta, gtf = folder / "transcripts.fasta.gz", folder / "genes.gtf.gz"
    generate_transcriptome(fasta, gtf, seed=5, genes=30)
    return fasta, gtf


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory, sources: tuple[Path, Path]) -> Lab:
    folder = tmp_path_factory.mktemp("lab")
    fasta, gtf = sources
    transcripts = read_transcriptome(fasta, gtf)
    sample = design_cohort(transcripts, seed=5, samples=4)[3]
    assert sample.name == SAMPLE
    bam = folder / f"{SAMPLE}.bam"
    write_bam(bam, SAMPLE, simulate_sample(sample, transcripts, seed=5, library=Library(pairs=2_000)).pairs)
    reference = folder / "reference"
    run_alone(BuildReference(), reference, "made_up", inputs={"fasta": [fasta], "gtf": [gtf]})
    picard = run_alone(Picard(), folder / "picard", SAMPLE, inputs={"bam": [bam]})
    kallisto = run_alone(
        Kallisto(strandedness="none"),
        folder / "kallisto",
        SAMPLE,
        inputs={"reads": picard.outputs("fastq")},
        reference=reference,
        upstream={"picard": picard.metrics},
    )
    return Lab(fasta=fasta, gtf=gtf, bam=bam, reference=reference, picard=picard, kallisto=kallisto)


@pytest.fixture
def own_reference(lab: Lab, tmp_path: Path) -> Path:
    """A copy of the reference that a test may break."""
    return Path(shutil.copytree(lab.reference, tmp_path / "own_reference"))
