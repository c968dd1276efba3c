"""CRAM to BAM with samtools, which knows all versions of the format; picard's library reads no CRAM 3.1."""

from __future__ import annotations

import os
from pathlib import Path

from batch_pipeline import Column, Input, Job, MissingInput, Output, Param, Step, StepFailed
from steps.sheet import READS_COLUMNS, reads_format


class Cram(Step):
    """Decodes a CRAM to a BAM (samtools view)."""

    tools = ("samtools",)
    memory_mb = 2048

    cram = Input("Paired-end reads, aligned or not, in any order; several of a sample are its lanes.")
    genome = Input("FASTA that the CRAM was compressed with; needs no index.", optional=True)
    bam = Output("{sample}.*.bam", many=True)

    cram_reference: str = Param(
        "", help="Genome that CRAMs were compressed with: a FASTA below --sources, or its absolute path or URL."
    )
    reads_format: str = Column(*READS_COLUMNS, default="bam", convert=reads_format)

    def run(self, job: Job) -> None:
        """Decodes each CRAM; refuses one that is cut off, or was compressed with another genome."""
        genome = self._genome(job)
        # Without this, samtools asks a server of the EBI for each sequence that it lacks.
        environment = {"REF_PATH": os.environ.get("REF_PATH", os.devnull)}
        for number, cram in enumerate(job.inputs("cram"), 1):
            self._require_whole(job, cram)
            bam = job.work / f"{job.sample}.{number:04}.bam"
            try:
                job.run(
                    *("samtools", "view", "-b", "-@", job.cpus - 1, *(("-T", genome) if genome else ())),
                    *("-o", bam, cram),
                    environment=environment,
                )
            except StepFailed as error:
                with_genome = f"with {genome.name}" if genome else "without its genome"
                raise MissingInput(
                    f"{cram.name} of sample {job.sample} cannot be decoded {with_genome} (the log has samtools' words);"
                    " it needs the genome that it was compressed with. Name that: --cram-reference GENOME.fa."
                ) from error

    def _genome(self, job: Job) -> Path | None:
        """The genome, linked into the working directory and indexed there; None: none is named."""
        if not self.cram_reference:
            return None
        if not job.inputs("genome"):
            raise MissingInput(
                f"The genome {self.cram_reference} is not there. Give --cram-reference a file below --sources, an"
                " absolute path or a URL."
            )
        genome = job.work / job.input("genome").name
        genome.symlink_to(job.input("genome"))
        try:
            job.run("samtools", "faidx", genome)
        except StepFailed as error:
            raise MissingInput(
                f"The genome {genome.name} cannot be indexed; it must be a FASTA, plain or compressed by bgzip. Give"
                " another one to --cram-reference."
            ) from error
        return genome

    def _require_whole(self, job: Job, cram: Path) -> None:
        try:
            job.run("samtools", "quickcheck", "-u", cram)
        except StepFailed as error:
            raise MissingInput(
                f"{cram.name} of sample {job.sample} is no whole CRAM: samtools quickcheck misses its header or its"
                " end-of-file block, as after an interrupted copy. Upload it again."
            ) from error
