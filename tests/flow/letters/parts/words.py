"""The words of a text."""

from __future__ import annotations

from batch_pipeline import Input, InvalidOutput, Job, Output, Param, Step


class Words(Step):
    """Lists the words, sorted, one a line."""

    memory_mb = 64

    text = Input()
    words = Output("{sample}.words.txt")
    shortest: int = Param(1, minimum=1, help="Letters that a word has at least.")

    def run(self, job: Job) -> None:
        """Splits at white space."""
        words = sorted(job.input("text").read_text().split())
        job.output("words").write_text("".join(f"{word}\n" for word in words if len(word) >= self.shortest))

    def check(self, job: Job) -> None:
        """The last line is whole, and there is a word: none is an error, not a result."""
        if not job.input("text").read_bytes().endswith(b"\n"):
            raise InvalidOutput(
                f"The text of sample {job.sample} is truncated: its last line has no end. Copy it again."
            )
        if job.output("words").stat().st_size == 0:
            raise InvalidOutput(f"Sample {job.sample} has no word of {self.shortest} letters; look at its text.")
