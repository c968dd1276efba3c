#!/usr/bin/env python3
"""Three steps that copy one small file each: what is left is what a cell costs."""

from __future__ import annotations

from batch_pipeline import Input, Output, Step, WorkflowTask


class Copy(Step):
    """Copies a file (cp)."""

    script = "copy.sh"
    memory_mb = 64

    x = Input()
    y = Output("y")


class Copies(WorkflowTask):
    """Copies a file three times over."""

    def workflow(self) -> None:
        """Source -> one -> two -> three."""
        one = self.new_task("one", Copy)
        two = self.new_task("two", Copy)
        three = self.new_task("three", Copy)

        one.in_x = self.source("{sample}.txt")
        two.in_x = one.out_y
        three.in_x = two.out_y


if __name__ == "__main__":
    Copies.main()
