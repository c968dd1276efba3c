#!/usr/bin/env python3
"""A tiny pipeline over text files: lower case -> sorted words -> a count for the whole cohort.

    python examples/words.py --sample-list-file examples/texts.txt --sources examples/texts --store /tmp/words

One step is a shell script, one a command with a check in Python, and the last a gather: one job after all samples.
"""

from __future__ import annotations

from batch_pipeline import Input, InvalidOutput, Job, Output, Param, Scope, Step, WorkflowTask


class Lower(Step):
    """Writes the text in lower case (lower.sh)."""

    script = "lower.sh"
    memory_mb = 64

    text = Input()
    lowered = Output("{sample}.lower.txt")


class Words(Step):
    """Lists the words of a text, sorted, one a line (tr, awk and sort)."""

    memory_mb = 64

    text = Input()
    words = Output("{sample}.words.txt")
    shortest: int = Param(1, minimum=1, help="Letters that a word has at least.")

    command = "tr -cs '[:alpha:]' '\\n' < {text} | awk 'length >= {shortest}' | sort > {words}"

    def check(self, job: Job) -> None:
        """A text without a word is an error, not a result."""
        if job.output("words").stat().st_size == 0:
            raise InvalidOutput(
                f"Sample {job.sample} has no word of {self.shortest} letters or more; look at its text."
            )


class Count(Step):
    """Counts the words of all texts together."""

    scope = Scope.COHORT
    memory_mb = 64

    words = Input()
    table = Output("words.tsv")

    def run(self, job: Job) -> None:
        """One line a sample, in the order of the list, then the total."""
        counts = {sample: len(files[0].read_text().splitlines()) for sample, files in job.gathered("words").items()}
        lines = [f"{sample}\t{count}\n" for sample, count in (*counts.items(), ("total", sum(counts.values())))]
        job.output("table").write_text("".join(lines))
        job.note(words=sum(counts.values()))


class WordCount(WorkflowTask):
    """Counts the words of text files."""

    def workflow(self) -> None:
        """Text -> lower case -> words -> one table."""
        lower = self.new_task("lower", Lower)
        words = self.new_task("words", Words)
        count = self.new_task("count", Count)

        lower.in_text = self.source("{sample}.txt")
        words.in_text = lower.out_lowered
        count.in_words = words.out_words


if __name__ == "__main__":
    WordCount.main()
