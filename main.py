#!/usr/bin/env python3
"""The gene fusion pipeline: picard -> kallisto -> pizzly, every step an array job over the samples.

    python main.py --sample-list-file samples.txt --bucket-name my-data     run what is missing
    python main.py plan | status | logs SAMPLE | cancel | runs | --help

Each sample's BAM becomes two FASTQ files, transcript abundances with fusion candidates, and gene fusions. Child i of
a step waits for child i of the step before, so samples do not wait for each other.
"""

from __future__ import annotations

from batch_pipeline import WorkflowTask
from steps.kallisto import Kallisto
from steps.picard import Picard
from steps.pizzly import Pizzly
from steps.reference import BuildReference


class Fusions(WorkflowTask):
    """Finds gene fusions in RNA-seq samples."""

    reference_builder = BuildReference

    def workflow(self) -> None:
        """Wires the steps: BAM -> FASTQ -> fusion candidates -> fusions."""
        picard = self.new_task("picard", Picard)
        kallisto = self.new_task("kallisto", Kallisto)
        pizzly = self.new_task("pizzly", Pizzly)

        picard.in_bam = self.source("{sample}.bam", column="bam")
        kallisto.in_reads = picard.out_fastq
        pizzly.in_fusion = kallisto.out_fusion


if __name__ == "__main__":
    Fusions.main()
