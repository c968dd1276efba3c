"""Prints what failed: first what never ran, by its root cause, then each (step, reason) with its samples."""

from __future__ import annotations

from collections.abc import Sequence

from batch_pipeline.cli.output import data
from batch_pipeline.report.tables import failure_groups, first_few, root_causes, spoken
from batch_pipeline.run.events import FailedCell


def print_failures(failed: Sequence[FailedCell]) -> None:
    """Nothing when nothing failed."""
    if not failed:
        return
    data("")
    for line in root_causes(failed):
        data(line)
    for group in failure_groups(failed):
        names = first_few([spoken(sample) for sample in group.samples])
        data(f"  {group.step}, {group.reason.words}: {names}")
        if group.message:
            data(f"    {group.message}")
