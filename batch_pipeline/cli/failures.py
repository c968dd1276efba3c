"""Prints what failed: what never ran, by its root cause, each kind of failure with its samples, and what to do next."""

from __future__ import annotations

from collections.abc import Sequence

from batch_pipeline.cli.output import data, say
from batch_pipeline.records.events import FailedCell
from batch_pipeline.report.records import next_commands
from batch_pipeline.report.tables import (
    MOST_KINDS,
    counted,
    failure_groups,
    first_few,
    root_causes,
    spoken,
)


def print_failures(failed: Sequence[FailedCell], *, has_pipeline: bool = True) -> None:
    """Nothing when nothing failed. What needs the pipeline's file is not proposed without it."""
    if not failed:
        return
    data("")
    for line in root_causes(failed):
        data(line)
    groups = failure_groups(failed)
    for group in groups[:MOST_KINDS]:
        names = first_few([spoken(sample) for sample in group.samples])
        times = f"{len(group.samples):,} x " if len(group.samples) > 1 else ""
        data(f"  {times}{group.step}, {group.reason.words}: {names}")
        if group.message:
            data(f"    {group.message}")
    left = groups[MOST_KINDS:]
    if left:
        cells = counted(sum(len(group.samples) for group in left), "cell")
        data(f"  and {cells} for {counted(len(left), 'other reason')}; see `logs SAMPLE`.")
    if commands := next_commands(groups, has_pipeline=has_pipeline):
        say(f"Next: {', '.join(f'`{command}` {effect}' for command, effect in commands)}.")
