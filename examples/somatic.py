#!/usr/bin/env python3
"""Somatic variants: reads -> BAM, called a chromosome at a time, joined for each sample, then tumour minus normal.

    python examples/somatic_data.py toy
    python examples/somatic.py --sample-list-file toy/samples.csv --store toy/store

`call` has a cell for each sample and chromosome (`Scope.PART`), `join` gathers those of its sample, and `somatic` has a
cell for each patient (`Scope.GROUP`), whose ports take the files of one role each. The tools are Debian's bwa, samtools
and bcftools.
"""

from __future__ import annotations

from batch_pipeline import Input, Output, Reference, Scope, Step, WorkflowTask


class Align(Step):
    """Aligns the reads, sorted by position and indexed (bwa mem, samtools)."""

    tools = ("bwa", "samtools")

    reads = Input()
    genome = Reference("genome.fa", "genome.fa.amb", "genome.fa.ann", "genome.fa.bwt", "genome.fa.pac", "genome.fa.sa")
    bam = Output("{sample}.bam", "{sample}.bam.bai")

    command = r"""
        bwa mem -t {cpus} -R '@RG\tID:{sample}\tSM:{sample}' {genome[0]} {reads} | samtools sort -o {bam[0]}
        samtools index {bam[0]}
    """


class Call(Step):
    """Calls the variants of one chromosome (bcftools)."""

    scope = Scope.PART
    part_names = ("chr1", "chr2", "chr3:1-3000")
    tools = ("bcftools",)

    bam = Input()
    genome = Reference("genome.fa", "genome.fa.fai")
    vcf = Output("{sample}.vcf.gz")

    command = "bcftools mpileup -r {part} -f {genome[0]} {bam[0]} | bcftools call -mv -Oz -o {vcf}"


class Join(Step):
    """Joins the chromosomes of a sample (bcftools)."""

    tools = ("bcftools",)

    calls = Input()
    vcf = Output("{sample}.vcf.gz", "{sample}.vcf.gz.csi")

    command = """
        bcftools concat -Oz -o {vcf[0]} {calls}
        bcftools index {vcf[0]}
    """


class Somatic(Step):
    """Keeps the variants of a patient's tumour that the normal sample lacks (bcftools)."""

    scope = Scope.GROUP
    group_by = "patient"
    role_column = "status"
    tools = ("bcftools",)

    tumour = Input(role="tumour")
    normal = Input(role="normal")
    vcf = Output("{sample}.vcf")

    command = "bcftools isec -C -w 1 -o {vcf} {tumour[0]} {normal[0]}"


class SomaticVariants(WorkflowTask):
    """Calls somatic variants of pairs of samples."""

    def workflow(self) -> None:
        """Reads -> BAM -> calls of chromosomes -> calls of samples -> calls of patients."""
        align, call = self.new_task("align", Align), self.new_task("call", Call)
        join, somatic = self.new_task("join", Join), self.new_task("somatic", Somatic)
        align.in_reads = self.source(columns=("fastq_1", "fastq_2"))
        call.in_bam = align.out_bam
        join.in_calls = call.out_vcf
        somatic.in_tumour = join.out_vcf
        somatic.in_normal = join.out_vcf


if __name__ == "__main__":
    SomaticVariants.main()
