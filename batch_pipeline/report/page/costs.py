"""What a run took, by step, by sample and by cause, from the columns of its cell table; prices by `records.spent`.

Hours and money grow evenly with time, so cells of a step that had the same vCPUs, memory and machine are summed first:
one pass over the columns, and a price for each kind of job.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from heapq import nlargest
from typing import Final

from batch_pipeline.backends.prices import Tariff
from batch_pipeline.records.cell_table import REASONS, CellEnd, CellRow
from batch_pipeline.records.spent import cell_cost
from batch_pipeline.report.page.source import RunSource, ShownCells
from batch_pipeline.wire.contract import EndReason

#: Samples that took most, of which the page has a row each.
MOST_SAMPLES: Final = 20
_COLUMNS: Final = ("cpus", "memory_mb", "machine", "reason", "duration_ms", "lost_ms", "interrupted_ms")
#: vCPUs, MiB, number of the machine, number of the reason.
JobKind = tuple[int, int, int, int]


@dataclass(frozen=True, kw_only=True)
class Amounts:
    """Hours and money of some cells, failed and interrupted attempts with them. Money is of priced machines alone."""

    vcpu_hours: float = 0.0
    lost_vcpu_hours: float = 0.0
    interrupted_vcpu_hours: float = 0.0
    cost: float = 0.0

    def __add__(self, other: Amounts) -> Amounts:
        return Amounts(**{name: getattr(self, name) + getattr(other, name) for name in Amounts.__dataclass_fields__})

    @property
    def used_vcpu_hours(self) -> float:
        """Hours of the attempts that were not in vain, without what rounding leaves of a difference."""
        return max(0.0, round(self.vcpu_hours - self.lost_vcpu_hours - self.interrupted_vcpu_hours, 9))


@dataclass(frozen=True, kw_only=True)
class RunCosts:
    """What a run took. Attempts that left no record are in none of it."""

    currency: str
    by_step: Mapping[str, Amounts]
    #: The samples that took most, the largest first.
    by_sample: Mapping[str, Amounts]
    #: Reason of failed cells in words -> what all attempts at them took.
    by_reason: Mapping[str, Amounts]
    #: Machines without a price, in words.
    unpriced: Sequence[str]
    #: Attempts without a record.
    unrecorded: int

    @property
    def total(self) -> Amounts:
        """All steps together."""
        return sum(self.by_step.values(), Amounts())


def run_costs(source: RunSource, tariff: Tariff) -> RunCosts:
    """The costs of a run."""
    by_step: dict[str, Amounts] = {}
    by_reason: dict[str, Amounts] = {}
    weights = array("q", bytes(8 * len(source.samples)))
    unpriced: dict[str, None] = {}
    unrecorded = 0
    for name, step in source.steps.items():
        by_step[name] = Amounts()
        for kind, times in _times_by_kind(step, weights).items():
            amounts, unknown = _priced(kind, times, source.machines, tariff)
            by_step[name] += amounts
            unpriced |= dict.fromkeys(unknown)
            if kind[3]:
                words = EndReason(REASONS[kind[3]]).words
                by_reason[words] = by_reason.get(words, Amounts()) + amounts
        unrecorded += sum(step.cells.columns["unrecorded"])
    top = nlargest(MOST_SAMPLES, range(len(weights)), key=weights.__getitem__)
    return RunCosts(
        currency=tariff.currency,
        by_step=by_step,
        by_sample={source.samples[at]: _of_sample(source, at, tariff) for at in top if weights[at]},
        by_reason=dict(sorted(by_reason.items(), key=lambda item: -item[1].vcpu_hours)),
        unpriced=list(unpriced),
        unrecorded=unrecorded,
    )


def _times_by_kind(step: ShownCells, weights: array[int]) -> Mapping[JobKind, Sequence[int]]:
    """Milliseconds of last attempts, of failed ones before and of interrupted ones, by the kind of job.

    Adds vCPU-milliseconds to the weights of the samples.
    """
    taken: Counter[JobKind] = Counter()
    lost: Counter[JobKind] = Counter()
    interrupted: Counter[JobKind] = Counter()
    for at, took, before, cut, kind in _attempts(step):
        taken[kind] += took
        if before or cut:
            lost[kind] += before
            interrupted[kind] += cut
        if not step.is_gather:
            weights[at] += kind[0] * (took + before + cut)
    return {kind: (taken[kind], lost[kind], interrupted[kind]) for kind in taken}


def _attempts(step: ShownCells) -> Iterator[tuple[int, int, int, int, JobKind]]:
    """Of each cell that took something: position, milliseconds as above, kind."""
    columns = zip(*(step.cells.columns[name] for name in _COLUMNS), strict=True)
    for at, (cpus, memory_mb, machine, reason, took, before, cut) in enumerate(columns):
        if took or before or cut:
            yield at, took, before, cut, (cpus, memory_mb, machine, reason)


def _of_sample(source: RunSource, at: int, tariff: Tariff) -> Amounts:
    amounts = Amounts()
    for step in source.steps.values():
        if not step.is_gather:
            cpus, memory_mb, machine, reason, *times = (step.cells.columns[name][at] for name in _COLUMNS)
            amounts += _priced((cpus, memory_mb, machine, reason), times, source.machines, tariff)[0]
    return amounts


def _priced(
    kind: JobKind, times: Sequence[int], machines: Sequence[str], tariff: Tariff
) -> tuple[Amounts, Sequence[str]]:
    """What so many milliseconds of a kind of job took, and its machine where that has no price."""
    cpus, memory_mb, machine, reason = kind
    took, lost, interrupted = times
    row = CellRow(
        step="",
        sample="",
        state=CellEnd.FAILED if reason else CellEnd.DONE,
        reason=EndReason(REASONS[reason]) if reason else None,
        attempts=1,
        machine=machines[machine],
        started_ms=0,
        duration_ms=took,
        peak_memory_bytes=0,
        in_bytes=0,
        out_bytes=0,
        cpus=cpus,
        memory_mb=memory_mb,
        queued_ms=0,
        cpu_ms=0,
        lost_ms=lost,
        interrupted_ms=interrupted,
        unrecorded=0,
    )
    cost = cell_cost(row, tariff)
    amounts = Amounts(
        vcpu_hours=cost.vcpu_hours,
        lost_vcpu_hours=cost.lost_vcpu_hours,
        interrupted_vcpu_hours=cost.interrupted_vcpu_hours,
        cost=cost.cost or 0.0,
    )
    return amounts, [] if cost.cost is not None else [tariff.unknown(row.machine)]
