"""One table of all samples, and of those that were trimmed."""

from __future__ import annotations

from batch_pipeline import Input, Job, Output, Scope, Step


class Kinds(Step):
    """Lists the words of every sample, and what was trimmed."""

    scope = Scope.COHORT
    memory_mb = 64

    words = Input()
    logs = Input()
    notes = Input(optional=True)
    table = Output("kinds.tsv")

    def run(self, job: Job) -> None:
        """A line a sample, then who was trimmed, and who was not."""
        lines = [f"{name}\t{' '.join(files[0].read_text().split())}\n" for name, files in job.gathered("words").items()]
        lines += [f"trimmed\t{name}\n" for name in job.gathered("logs")]
        lines += [f"excluded\t{name}\n" for name in job.excluded_samples]
        assert job.inputs("notes") == ()
        job.output("table").write_text("".join(lines))
