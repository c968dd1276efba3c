"""Turns the cell table of a run into a summary a step, and that into rows. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median_low

from batch_pipeline.records.cell_table import CellColumns, CellEnd, CellTable
from batch_pipeline.report.estimates import lasting

#: Of the table that `summary_rows` fills.
SUMMARY_COLUMNS = ("step", "ended", "median", "longest", "most memory", "read", "written")
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


@dataclass(frozen=True, kw_only=True)
class StepSummary:
    """The cells of a step, taken together. Times, memory and bytes are of the attempts that the run made."""

    step: str
    #: How cells ended, in words -> cells.
    ended: Mapping[str, int]
    #: Attempts whose measures are known; without any the rest is 0.
    attempts: int
    median_seconds: float
    longest_seconds: float
    #: Of the cell that needed most.
    peak_memory_bytes: int
    #: Staged in and out, of all cells.
    in_bytes: int
    out_bytes: int


def summaries(table: CellTable) -> list[StepSummary]:
    """A summary a step, in the order of the pipeline."""
    return [_summary(cells) for cells in table.steps.values()]


def summary_rows(steps: Sequence[StepSummary]) -> list[list[object]]:
    """A row a step: `picard`, `8 done, 1 failed`, `4 min`, `6 min`, `1.9 GiB`, `12.3 GiB`, `8.1 GiB`."""
    return [
        [
            step.step,
            ", ".join(f"{count:,} {words}" for words, count in step.ended.items()),
            *([_time(step.median_seconds), _time(step.longest_seconds)] if step.attempts else ["", ""]),
            *(_size(size) for size in (step.peak_memory_bytes, step.in_bytes, step.out_bytes)),
        ]
        for step in steps
    ]


def _summary(cells: CellColumns) -> StepSummary:
    counts = cells.counts()
    columns = cells.columns
    # A cell that was found unchanged took nothing that is known.
    times = [time for time in columns["duration_ms"] if time]
    return StepSummary(
        step=cells.step,
        ended={state.value: counts[state] for state in CellEnd if counts[state]},
        attempts=len(times),
        median_seconds=median_low(times) / 1000 if times else 0.0,
        longest_seconds=max(times, default=0) / 1000,
        peak_memory_bytes=max(columns["peak_memory_bytes"], default=0),
        in_bytes=sum(columns["in_bytes"]),
        out_bytes=sum(columns["out_bytes"]),
    )


def _time(seconds: float) -> str:
    return lasting(seconds) if seconds >= 1 else f"{seconds * 1000:.0f} ms"


def _size(size: float) -> str:
    """`1.9 GiB`; empty for none."""
    power = 0
    while size >= 1024 and power < len(_UNITS) - 1:
        size, power = size / 1024, power + 1
    return f"{size:.3g} {_UNITS[power]}" if size else ""
