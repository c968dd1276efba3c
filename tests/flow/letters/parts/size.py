"""The size of a text."""

from __future__ import annotations

from batch_pipeline import Input, Job, Output, Step


class Size(Step):
    """Counts characters."""

    memory_mb = 64

    text = Input()
    size = Output("size.txt")

    def run(self, job: Job) -> None:
        """One number."""
        job.output("size").write_text(f"{len(job.input('text').read_text())}\n")
