"""A reference, and who uses it."""

from __future__ import annotations

import time
from pathlib import Path

from batch_pipeline import Input, Job, Output, Reference, Scope, Step


class Index(Step):
    """Sorts a list of words; a file `broken` beside the list makes it fail after it has written half of its outputs.

    It waits as long as there is a file `held` beside the list.
    """

    scope = Scope.REFERENCE
    memory_mb = 64

    words = Input(help="A word a line.")
    index = Output("words.idx")
    count = Output("count.txt")

    def run(self, job: Job) -> None:
        """Written in two files, so that a reader could meet files of two versions."""
        folder = Path(job.input("words")).resolve().parent
        while (folder / "held").exists():
            time.sleep(0.02)
        words = job.input("words").read_text().split()
        job.output("index").write_text("".join(f"{word}\n" for word in sorted(words)))
        if (folder / "broken").exists():
            raise RuntimeError("The index is broken.")
        if len(words) > len(set(words)):
            job.note(warning="A word stands in the list twice.")
        job.output("count").write_text(f"{len(words)}\n")


class Lookup(Step):
    """Keeps the words that the reference has."""

    memory_mb = 64

    text = Input()
    index = Reference("words.idx")
    known = Output("{sample}.known.txt")

    def run(self, job: Job) -> None:
        """One a line."""
        index = set(job.reference("index").read_text().split())
        known = [word for word in job.input("text").read_text().split() if word in index]
        job.output("known").write_text("".join(f"{word}\n" for word in known))
