"""A directory and any number of files, each made by a step and read by others; a gather of both."""

from __future__ import annotations

from parts.trees import Join, Split, Tally  # type: ignore[import-not-found]  # its folder is on the path when it is run

from batch_pipeline import WorkflowTask


class Trees(WorkflowTask):
    """Takes texts apart and counts the pieces."""

    def workflow(self) -> None:
        """One file a word, and one a length of words."""
        split = self.new_task("split", Split)
        tally = self.new_task("tally", Tally)
        join = self.new_task("join", Join)
        split.in_text = self.source("{sample}.txt")
        tally.in_words = split.out_words
        join.in_words = split.out_words
        join.in_lengths = split.out_lengths


if __name__ == "__main__":
    Trees.main()
