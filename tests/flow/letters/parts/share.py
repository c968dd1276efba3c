"""Reads a gather back."""

from __future__ import annotations

from batch_pipeline import Input, Job, Output, Step


class Share(Step):
    """Compares a sample with all."""

    memory_mb = 64

    words = Input()
    table = Input()
    share = Output("share.txt")

    def run(self, job: Job) -> None:
        """`3 of 9`."""
        own = len(job.input("words").read_text().splitlines())
        total = job.input("table").read_text().splitlines()[-1].split("\t")[1]
        job.output("share").write_text(f"{own} of {total}\n")
