#!/usr/bin/env python3
"""Variants of a cohort: reads -> bwa -> sorted, indexed BAM -> bcftools, for each sample -> one VCF and a plot.

    python examples/variants_data.py toy
    python examples/variants.py --sample-list-file toy/samples.csv --store toy/store

The tools are Debian's bwa, samtools and bcftools. The sheet names the reads; the genome and its index are a reference
in the store.
"""

from __future__ import annotations

from batch_pipeline import Input, Job, Output, Reference, Scope, Step, WorkflowTask


class Align(Step):
    """Aligns the reads, sorted by position and indexed (bwa mem, samtools)."""

    tools = ("bwa", "samtools")

    reads = Input()
    genome = Reference("genome.fa", "genome.fa.amb", "genome.fa.ann", "genome.fa.bwt", "genome.fa.pac", "genome.fa.sa")
    bam = Output("{sample}.bam", "{sample}.bam.bai", temporary=True)

    command = r"""
        bwa mem -t {cpus} -R '@RG\tID:{sample}\tSM:{sample}' {genome[0]} {reads} | samtools sort -o {bam[0]}
        samtools index {bam[0]}
    """


class Call(Step):
    """Calls variants (bcftools)."""

    tools = ("bcftools",)

    bam = Input()
    genome = Reference("genome.fa", "genome.fa.fai")
    vcf = Output("{sample}.vcf.gz")

    command = "bcftools mpileup -f {genome[0]} {bam[0]} | bcftools call -mv -Oz -o {vcf}"


class Merge(Step):
    """Gathers the calls of all samples in one VCF, and plots how many each has."""

    scope = Scope.COHORT
    calls = Input()
    vcf, plot = Output("variants.vcf"), Output("variants.svg")

    def run(self, job: Job) -> None:
        """Columns and bars are in the order of the sample list."""
        calls = [file for files in job.gathered("calls").values() for file in files]
        job.run("bcftools", "merge", "--no-index", "-o", job.output("vcf"), *calls)
        rows = [line.split("\t") for line in job.output("vcf").read_text().splitlines() if not line.startswith("##")]
        bars = []
        for y, (sample, *genotypes) in enumerate(list(zip(*rows, strict=True))[9:]):
            n = sum(not genotype.startswith("./.") for genotype in genotypes)
            bars.append(f'<rect y="{y}em" width="{n}" height="12"/><text x="{n + 5}" y="{y + 1}em">{sample} {n}</text>')
        job.output("plot").write_text(f'<svg xmlns="http://www.w3.org/2000/svg">{"".join(bars)}</svg>\n')


class Variants(WorkflowTask):
    """Calls the variants of a cohort."""

    def workflow(self) -> None:
        """Reads -> BAM -> calls -> one VCF and a plot."""
        align, call, merge = self.new_task("align", Align), self.new_task("call", Call), self.new_task("merge", Merge)
        align.in_reads = self.source(columns=("fastq_1", "fastq_2"))
        call.in_bam = align.out_bam
        merge.in_calls = call.out_vcf


if __name__ == "__main__":
    Variants.main()
