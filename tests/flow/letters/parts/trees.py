"""Takes a text apart, and counts the pieces."""

from __future__ import annotations

from batch_pipeline import Input, Job, Output, Scope, Step


class Split(Step):
    """One file a word in a folder a letter, and one file a length of words."""

    text = Input()
    words = Output("{sample}_words/")
    lengths = Output("*.length", many=True)

    def run(self, job: Job) -> None:
        """Writes them."""
        for word in job.input("text").read_text().split():
            path = job.output("words") / word[0] / word
            path.parent.mkdir(exist_ok=True)
            path.write_text(word)
            with (job.work / f"{len(word)}.length").open("a") as file:
                file.write(f"{word}\n")

    def check(self, job: Job) -> None:
        """Notes how many there are."""
        job.note(lengths=len(job.outputs("lengths")))


class Tally(Step):
    """Counts the files of the directory."""

    words = Input()
    count = Output("count.txt")
    command = "basename {words} >{count}; (cd {words}; find . -name '[a-zA-Z]*' -not -type d | sort) >>{count}"


class Join(Step):
    """Lists what all samples have."""

    scope = Scope.COHORT
    words = Input()
    lengths = Input()
    table = Output("table.txt")

    def run(self, job: Job) -> None:
        """One line a sample."""
        folders = job.gathered_directories("words")
        with job.output("table").open("w") as table:
            for sample, files in job.gathered("lengths").items():
                names = " ".join(file.name for file in files)
                words = " ".join(sorted(path.name for path in folders[sample].glob("*/*")))
                table.write(f"{sample}: {names}: {words}\n")
