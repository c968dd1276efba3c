"""How a command ended, for whoever did not watch: counts, failures by cause, what it took, what to do next.

The value of the event `ended` (docs/events.md), which notifications carry too. Its size does not grow with the samples:
of each kind of failure a few are named, and what steps printed stays in the store.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from batch_pipeline.records.events import Outcome, StepProgress
from batch_pipeline.report.records import plain, progress_record
from batch_pipeline.report.tables import FailureGroup, counted, failure_groups
from batch_pipeline.wire.contract import EndReason

#: Kinds of failure that are told, and samples that are named of each.
MOST_CAUSES: Final = 20
MOST_SAMPLES: Final = 10


def ended_record(outcome: Outcome, spending: Mapping[str, Any], *, has_pipeline: bool) -> dict[str, Any]:
    """The event `ended`; `spending` is what `spending_record` returns."""
    groups = failure_groups(outcome.failed)
    total = StepProgress.sum_of("", outcome.progress.values())
    return {
        "text": f"{_word(outcome)}: {total.line}",
        "ok": outcome.ok,
        "run_ids": list(outcome.run_ids),
        "detached": outcome.detached,
        "interrupted": outcome.interrupted,
        "submitted": outcome.submitted,
        "unsent": outcome.unsent,
        "failed": len(outcome.failed),
        "blocked": len(outcome.blocked),
        "stopped_by": outcome.stopped_by,
        "steps": progress_record(outcome.progress),
        "causes": [
            {
                "step": group.step,
                "reason": group.reason.value,
                "cells": len(group.samples),
                "samples": list(group.samples[:MOST_SAMPLES]),
            }
            for group in groups[:MOST_CAUSES]
        ],
        "again": plain(outcome.again),
        **spending,
        "next": [command for command, _ in next_commands(groups, has_pipeline=has_pipeline)],
    }


def next_commands(groups: Sequence[FailureGroup], *, has_pipeline: bool) -> list[tuple[str, str]]:
    """Commands that look closer at the first failure and go on, with what each does; none where all was cancelled."""
    groups = [group for group in groups if group.reason is not EndReason.CANCELLED]
    if not groups:
        return []
    first = groups[0]
    commands = [(f"logs {first.samples[0]} {first.step}", "prints its log")]
    if len(groups) > 1 or len(first.samples) > 1:
        commands.append((f"logs --step {first.step} --failed", "those of all that failed there"))
    if any(group.reason is EndReason.OUT_OF_MEMORY for group in groups):
        commands.append(("rightsize", "proposes memory"))
    if has_pipeline:
        commands.append(("run --failed", "runs what failed again"))
    return commands


def _word(outcome: Outcome) -> str:
    """How it ended in a word or two."""
    if outcome.detached:
        return "Queued"
    if outcome.interrupted:
        return "Interrupted"
    if outcome.ok:
        return "Done"
    return f"{counted(len(outcome.failed), 'cell')} not done" if outcome.failed else "Not all is done"
