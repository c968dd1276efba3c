"""The first two steps of the chain, with a sample each and no gather."""

from __future__ import annotations

from parts.lower import Lower  # type: ignore[import-not-found]  # its folder is on the path when it is run
from parts.words import Words  # type: ignore[import-not-found]

from batch_pipeline import WorkflowTask


class Pair(WorkflowTask):
    """Lists words."""

    def workflow(self) -> None:
        """One after the other."""
        lower = self.new_task("lower", Lower)
        words = self.new_task("words", Words)
        lower.in_text = self.source("{sample}.txt")
        words.in_text = lower.out_lowered


if __name__ == "__main__":
    Pair.main()
