"""Text -> without vowels for some samples -> words -> one table."""

from __future__ import annotations

from parts.both_kinds import Kinds  # type: ignore[import-not-found]  # its folder is on the path when it is run
from parts.trim import Trim  # type: ignore[import-not-found]
from parts.words import Words  # type: ignore[import-not-found]

from batch_pipeline import WorkflowTask


class Conditions(WorkflowTask):
    """Lists words, some without vowels."""

    def workflow(self) -> None:
        """Words are of the trimmed text, where there is one."""
        trim = self.new_task("trim", Trim)
        words = self.new_task("words", Words)
        kinds = self.new_task("kinds", Kinds)
        trim.in_text = self.source("{sample}.txt")
        words.in_text = trim.out_trimmed | self.source("{sample}.txt")
        kinds.in_words = words.out_words
        kinds.in_logs = trim.out_log


if __name__ == "__main__":
    Conditions.main()
