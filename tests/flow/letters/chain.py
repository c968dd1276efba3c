"""Text -> lower case (shell) -> its words (Python) -> one table of all samples (gather)."""

from __future__ import annotations

from parts.count import Count  # type: ignore[import-not-found]  # its folder is on the path when it is run
from parts.lower import Lower  # type: ignore[import-not-found]
from parts.words import Words  # type: ignore[import-not-found]

from batch_pipeline import WorkflowTask


class Chain(WorkflowTask):
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
    Chain.main()
