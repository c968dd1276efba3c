#!/usr/bin/env python3
"""The gene fusion pipeline: picard -> kallisto -> pizzly, every step an array job over the samples, then two gathers.

    python main.py --sample-list-file samples.txt --bucket-name my-data     run what is missing
    python main.py plan | status | logs SAMPLE | cancel | runs | --help

Each sample's BAM becomes two FASTQ files, transcript abundances with fusion candidates, and gene fusions. Child i of
a step waits for child i of the step before, so samples do not wait for each other. A sample sheet may name BAMs, CRAMs
or FASTQ files (sample,bam or nf-core's sample,fastq_1,fastq_2,strandedness), in several rows those of a sample's lanes.
Two jobs make the tables and the report of all samples that are done.
"""

from __future__ import annotations

from batch_pipeline import WorkflowTask
from steps.cohort import Cohort
from steps.cram import Cram
from steps.kallisto import Kallisto
from steps.multiqc import MultiQC
from steps.picard import Picard
from steps.pizzly import Pizzly
from steps.reference import BuildReference


class Fusions(WorkflowTask):
    """Finds gene fusions in RNA-seq samples."""

    reference_builder = BuildReference
    lanes = True

    def workflow(self) -> None:
        """Wires the steps: CRAM -> BAM -> FASTQ -> fusion candidates -> fusions -> the cohort's tables and report."""
        cram = self.new_task("cram", Cram, when="reads_format == 'cram'")
        picard = self.new_task("picard", Picard, when="reads_format != 'fastq'")
        kallisto = self.new_task("kallisto", Kallisto)
        pizzly = self.new_task("pizzly", Pizzly)
        cohort = self.new_task("cohort", Cohort)
        multiqc = self.new_task("multiqc", MultiQC)

        cram.in_cram = self.source(column="bam")
        cram.in_genome = self.source("{cram_reference}")
        picard.in_bam = cram.out_bam | self.source("{sample}.bam", column="bam")
        kallisto.in_reads = picard.out_fastq | self.source(columns=("fastq_1", "fastq_2"))
        pizzly.in_fusion = kallisto.out_fusion
        cohort.in_tables, cohort.in_abundances = pizzly.out_table, kallisto.out_abundance
        multiqc.in_tables, multiqc.in_logs = pizzly.out_table, kallisto.out_log
        multiqc.in_flagstats = picard.out_flagstat


if __name__ == "__main__":
    Fusions.main()
