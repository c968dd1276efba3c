"""The chain in one file, with a helper in another: what one step uses, the others need not."""

from __future__ import annotations

from collections import Counter

from parts.text import listed, split  # type: ignore[import-not-found]  # its folder is on the path when it is run

from batch_pipeline import Input, Job, Output, Scope, Step, WorkflowTask

ENDING = "\n"


class Lower(Step):
    """Makes a text lower case."""

    memory_mb = 64

    text = Input()
    lowered = Output("{sample}.lower.txt")

    def run(self, job: Job) -> None:
        """Reads and writes."""
        job.output("lowered").write_text(job.input("text").read_text().lower())


class Words(Step):
    """Lists the words of a text."""

    memory_mb = 64

    text = Input()
    words = Output("{sample}.words.txt")

    def run(self, job: Job) -> None:
        """Splits."""
        job.output("words").write_text("".join(word + ENDING for word in split(job.input("text").read_text())))


class Count(Step):
    """Counts the words of all."""

    scope = Scope.COHORT
    memory_mb = 64

    words = Input()
    table = Output("table.tsv")

    def run(self, job: Job) -> None:
        """Adds up."""
        counts: Counter[str] = Counter()
        for files in job.gathered("words").values():
            counts.update(files[0].read_text().split())
        job.output("table").write_text(listed(counts))


class Single(WorkflowTask):
    """Counts words."""

    def workflow(self) -> None:
        """One after the other."""
        lower = self.new_task("lower", Lower)
        words = self.new_task("words", Words)
        count = self.new_task("count", Count)
        lower.in_text = self.source("{sample}.txt", column="file")
        words.in_text = lower.out_lowered
        count.in_words = words.out_words


if __name__ == "__main__":
    Single.main()
