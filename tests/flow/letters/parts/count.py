"""One table of all samples."""

from __future__ import annotations

from batch_pipeline import Input, Job, Output, Scope, Step


class Count(Step):
    """Counts the words of every sample."""

    scope = Scope.COHORT
    memory_mb = 64

    words = Input()
    table = Output("words.tsv")

    def run(self, job: Job) -> None:
        """A line a sample, one a missing sample, then the total."""
        counts = {sample: len(files[0].read_text().splitlines()) for sample, files in job.gathered("words").items()}
        lines = [f"{sample}\t{count}\n" for sample, count in counts.items()]
        lines += [f"{sample}\tmissing\n" for sample in job.missing_samples]
        job.output("table").write_text("".join([*lines, f"total\t{sum(counts.values())}\n"]))
