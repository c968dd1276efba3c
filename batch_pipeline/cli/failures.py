"""Prints what failed: what never ran, by its root cause, each kind of failure with its samples, and what to do next."""

from __future__ import annotations

from collections.abc import Sequence

from batch_pipeline.cli.output import data, say
from batch_pipeline.records.events import FailedCell
from batch_pipeline.report.tables import (
    MOST_KINDS,
    FailureGroup,
    counted,
    failure_groups,
    first_few,
    root_causes,
    spoken,
)
from batch_pipeline.wire.contract import EndReason


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
    if line := _next_commands(groups, has_pipeline=has_pipeline):
        say(line)


def _next_commands(groups: Sequence[FailureGroup], *, has_pipeline: bool) -> str:
    """The commands that look closer at the first failure and go on; empty where all was cancelled."""
    groups = [group for group in groups if group.reason is not EndReason.CANCELLED]
    if not groups:
        return ""
    first = groups[0]
    commands = [f"`logs {first.samples[0]} {first.step}` prints its log"]
    if len(groups) > 1 or len(first.samples) > 1:
        commands.append(f"`logs --step {first.step} --failed` those of all that failed there")
    if any(group.reason is EndReason.OUT_OF_MEMORY for group in groups):
        commands.append("`rightsize` proposes memory")
    if has_pipeline:
        commands.append("`run --failed` runs what failed again")
    return f"Next: {', '.join(commands)}."
