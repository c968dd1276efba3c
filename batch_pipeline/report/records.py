"""Plans, progress and outcomes as JSON values: what `--json` and `--events` print. Keys are a promise to scripts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, is_dataclass
from enum import Enum
from typing import Any, Final

from batch_pipeline.pipeline.plan import Plan, PlannedJob
from batch_pipeline.pipeline.waves import children_by_wave
from batch_pipeline.records.events import FailedCell, Outcome, StepProgress
from batch_pipeline.records.spent import read_records, spent_in, wall_seconds
from batch_pipeline.report.tables import FailureGroup, counted, failure_groups, plan_rows
from batch_pipeline.wire.contract import EndReason
from batch_pipeline.wire.store import Store

FORMAT: Final = 1
#: Kinds of failure that the event `ended` tells, and samples that it names of each.
MOST_CAUSES: Final = 20
MOST_SAMPLES: Final = 10


def _step_records(plan: Plan) -> list[dict[str, Any]]:
    return [
        {
            "step": row.step,
            "to_run": row.to_run,
            "why": {reason.value: count for reason, count in row.reasons},
            "done": row.done,
            "live": row.live,
            "deferred": row.deferred,
            "blocked": row.blocked,
            "skipped": row.skipped,
            "excluded": row.excluded,
        }
        for row in plan_rows(plan)
    ]


def plan_record(plan: Plan) -> dict[str, Any]:
    """A plan: steps with counts and reasons, jobs with sizes and dependencies, blocked cells, conflicts."""
    members = {job.name: [sample for sample, _ in plan.members_of(job)] for job in plan.jobs if not job.join}
    return {
        "format": FORMAT,
        **plan_counts_record(plan),
        "jobs": [_job_record(job, members.get(job.name, [])) for job in plan.jobs],
        "max_live_children": plan.limits.max_live_children,
        "no_longer_done": [{"step": step, "sample": sample} for step, sample in sorted(plan.no_longer_done())],
        "blocked": [
            {"step": step, "sample": sample, "message": sentence} for (step, sample), sentence in plan.blocked.items()
        ],
        "conflicts": [asdict(conflict) for conflict in plan.conflicts],
    }


def plan_counts_record(plan: Plan) -> dict[str, Any]:
    """A plan in counts alone: cells of each step by state, children of each wave, jobs to submit."""
    return {
        "pipeline": plan.graph.name,
        "samples": len(plan.samples),
        "steps": _step_records(plan),
        "form": plan.form,
        "waves": children_by_wave(plan),
        "submit_calls": len(plan.jobs),
    }


def _job_record(job: PlannedJob, samples: Sequence[str]) -> dict[str, Any]:
    """A job of a plan; what it has otherwise than its step's definition says is None where it has not."""
    return {
        "job": job.name,
        "step": job.step,
        "size": job.size,
        "samples": samples,
        "after": [asdict(edge) for edge in job.after],
        "wave": job.wave,
        "memory_mb": job.overrides.memory_mb,
        "timeout_seconds": job.overrides.timeout_seconds,
    }


def progress_record(progress: Mapping[str, StepProgress]) -> list[dict[str, Any]]:
    """The counts of every step."""
    return [
        {
            "step": step.step,
            "total": step.total,
            "done": step.done_before + step.done,
            "done_before": step.done_before,
            "running": step.running,
            "waiting": step.waiting,
            "failed": {reason.value: count for reason, count in step.failed.items()},
            "left_out": step.left_out,
            "excluded": step.excluded,
        }
        for step in progress.values()
    ]


def failed_record(failed: Sequence[FailedCell]) -> list[dict[str, Any]]:
    """Every failed cell."""
    return [plain(cell) for cell in failed]


def outcome_record(outcome: Outcome) -> dict[str, Any]:
    """How a command's work ended."""
    return {
        "format": FORMAT,
        "ok": outcome.ok,
        "run_ids": list(outcome.run_ids),
        "submitted": outcome.submitted,
        "unsent": outcome.unsent,
        "detached": outcome.detached,
        "interrupted": outcome.interrupted,
        "steps": progress_record(outcome.progress),
        "failed": failed_record(outcome.failed),
        "blocked": [{"step": step, "sample": sample, "message": text} for step, sample, text in outcome.blocked],
        "again": plain(outcome.again),
        "stopped_by": outcome.stopped_by,
        "removed": plain(outcome.removed),
        "store_calls": dict(outcome.store_calls),
    }


def spending_record(store: Store, outcome: Outcome) -> dict[str, Any]:
    """What the runs of an ended command took; empty for a command whose jobs go on."""
    if outcome.detached:
        return {}
    records = read_records(store, outcome.run_ids)
    return {"spent": plain(spent_in(records)), "wall_seconds": wall_seconds(records)}


def ended_record(outcome: Outcome, spending: Mapping[str, Any], *, has_pipeline: bool) -> dict[str, Any]:
    """The event `ended` (docs/events.md), whose size does not grow with the samples.

    `spending` is what `spending_record` returns.
    """
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


def plain(value: Any) -> Any:
    """A frozen value as JSON: dataclasses as objects, enums as their words."""
    if is_dataclass(value) and not isinstance(value, type):
        return {item.name: plain(getattr(value, item.name)) for item in fields(value)}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Mapping):
        return {str(key.value if isinstance(key, Enum) else key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(item) for item in value]
    return value
