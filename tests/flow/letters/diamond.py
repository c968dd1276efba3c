"""Two steps read the first, one reads both, and a last step reads the gather back for each sample."""

from __future__ import annotations

from parts.both import Both  # type: ignore[import-not-found]  # its folder is on the path when it is run
from parts.count import Count  # type: ignore[import-not-found]
from parts.lower import Lower  # type: ignore[import-not-found]
from parts.share import Share  # type: ignore[import-not-found]
from parts.size import Size  # type: ignore[import-not-found]
from parts.words import Words  # type: ignore[import-not-found]

from batch_pipeline import WorkflowTask


class Diamond(WorkflowTask):
    """Lists words and sizes, joins them, and compares each sample with all."""

    def workflow(self) -> None:
        """Written from the end, as the order of the lines is no order of the steps."""
        share = self.new_task("share", Share)
        both = self.new_task("both", Both)
        count = self.new_task("count", Count)
        size = self.new_task("size", Size)
        words = self.new_task("words", Words)
        lower = self.new_task("lower", Lower)
        lower.in_text = self.source("{sample}.txt")
        words.in_text = lower.out_lowered
        size.in_text = lower.out_lowered
        both.in_words = words.out_words
        both.in_size = size.out_size
        count.in_words = words.out_words
        share.in_words = words.out_words
        share.in_table = count.out_table


if __name__ == "__main__":
    Diamond.main()
