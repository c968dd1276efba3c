#!/usr/bin/env python3
"""Two steps, a script and a Python one, whose first instruction writes down the time."""

from __future__ import annotations

import time

from batch_pipeline import Input, Job, Output, Step, WorkflowTask


class Script(Step):
    """Notes the time (bash)."""

    script = "moment.sh"
    memory_mb = 64

    x = Input()
    moment = Output("moment")


class Python(Step):
    """Notes the time."""

    memory_mb = 64

    x = Input()
    moment = Output("moment")

    def run(self, job: Job) -> None:
        """The time, first of all."""
        now = time.time()
        job.output("moment").write_text(f"{now:.6f}\n")


class Moments(WorkflowTask):
    """Notes when its steps began."""

    def workflow(self) -> None:
        """Both read the sample's file."""
        script = self.new_task("script", Script)
        python = self.new_task("python", Python)

        script.in_x = self.source("{sample}.txt")
        python.in_x = self.source("{sample}.txt")


if __name__ == "__main__":
    Moments.main()
