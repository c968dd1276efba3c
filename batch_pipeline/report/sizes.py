"""Turns proposals of memory and vCPUs into rows and sentences: pure functions."""

from __future__ import annotations

from collections.abc import Sequence

from batch_pipeline.provenance.rightsize import ResourceProposal
from batch_pipeline.report.tables import counted


def rightsize_rows(proposals: Sequence[ResourceProposal]) -> list[list[object]]:
    """A step's cells, memory now, the share that fits, memory a share, proposal; vCPUs now, busy and proposed."""
    return [
        [
            one.step,
            one.cells,
            one.memory_mb_now or "-",
            "-" if one.fit_now is None else f"{one.fit_now:.4g} %",
            *one.memory_mb_for.values(),
            one.memory_mb,
            one.cpus_now or "-",
            f"{one.busy_median:.1f} to {one.busy_most:.1f}",
            one.cpus,
        ]
        for one in proposals
    ]


def rightsize_lines(proposals: Sequence[ResourceProposal]) -> list[str]:
    """What to change, a sentence a step."""
    return [f"{one.step}: {_change(one)}" for one in proposals]


def _change(one: ResourceProposal) -> str:
    sentences = []
    if one.memory_mb_now and one.memory_mb != one.memory_mb_now:
        times = one.memory_mb / one.memory_mb_now
        much = f"{1 - times:.0%} less" if times < 1 else f"{times:.2g} times as much"
        sentences.append(f"memory {one.memory_mb:,} MiB instead of {one.memory_mb_now:,} ({much})")
    elif not one.memory_mb_now:
        sentences.append(f"memory {one.memory_mb:,} MiB")
    if one.cpus != one.cpus_now:
        now = f" instead of {one.cpus_now}" if one.cpus_now else ""
        sentences.append(f"{counted(one.cpus, 'vCPU')}{now}")
    hungry = one.out_of_memory
    note = f" {counted(hungry, 'cell')} ran out of memory and counts as needing twice as much." if hungry else ""
    if not sentences:
        return f"as it should be.{note}"
    where = f"Set it with --write, in the settings below [steps.{one.step}], or in the step's class (memory_mb, cpus)."
    return f"{' and '.join(sentences)}. {where}{note}"
