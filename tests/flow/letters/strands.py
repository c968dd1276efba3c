"""Reads named by a sheet, in lanes and of one or two files; a step that reads a column, and a gather that does too."""

from __future__ import annotations

from batch_pipeline import Column, Input, Job, Output, Scope, Step, WorkflowTask


class Join(Step):
    """Joins the reads of a sample."""

    memory_mb = 64

    reads = Input()
    joined = Output("{sample}.fastq")

    command = "cat {reads} > {joined}"


class Quantify(Step):
    """Counts reads by strand."""

    memory_mb = 64

    reads = Input()
    counts = Output("{sample}.txt")
    strand: str = Column("strandedness", choices=("auto", "forward", "reverse", "unstranded"), help="Of the library.")
    depth: int = Column(default=10)

    def run(self, job: Job) -> None:
        """Writes what it knows."""
        lines = job.input("reads").read_text().splitlines()
        job.output("counts").write_text(f"{self.strand} {self.depth + 1} {' '.join(lines)}\n")


class Table(Step):
    """Lists the samples with their strands."""

    scope = Scope.COHORT
    memory_mb = 64

    counts = Input()
    table = Output("table.txt")
    strand: str = Column("strandedness")

    command = "printf '%s ' {samples} {strand} > {table}; cat {counts} >> {table}"


class Strands(WorkflowTask):
    """Reads an nf-core sheet as it is."""

    lanes = True

    def workflow(self) -> None:
        """One after the other."""
        join = self.new_task("join", Join)
        quantify = self.new_task("quantify", Quantify)
        table = self.new_task("table", Table)
        join.in_reads = self.source(columns=("fastq_1", "fastq_2"))
        quantify.in_reads = join.out_joined
        table.in_counts = quantify.out_counts


if __name__ == "__main__":
    Strands.main()
