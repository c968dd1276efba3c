"""Joins two branches."""

from __future__ import annotations

from batch_pipeline import Input, Job, Output, Step


class Both(Step):
    """Puts words and size together."""

    memory_mb = 64

    words = Input()
    size = Input()
    both = Output("both.txt")

    def run(self, job: Job) -> None:
        """The size, then the words."""
        job.output("both").write_text(job.input("size").read_text() + job.input("words").read_text())
