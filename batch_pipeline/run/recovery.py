"""Recovery of cells that failed through nobody's fault: from what failed to what is sent again. Pure.

A cell that ran out of memory is sent with more, up to a cap. One that was interrupted in every attempt that the
scheduler gave it, or that nobody knows the end of, is sent as it was, to the queue without Spot instances where there
is one. What never ran on account of such a cell goes with it. A step's own failure is left alone: the same sample
would end so again.

Cells with the same overrides and the same steps ahead of them become one array: the planner groups by overrides.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from batch_pipeline.pipeline.plan import RetryOverrides
from batch_pipeline.pipeline.rows import Rows
from batch_pipeline.pipeline.workflow import Graph, Node
from batch_pipeline.records.events import FailedCell, RetrySummary
from batch_pipeline.wire.contract import EndReason
from batch_pipeline.wire.layout import COHORT

Cell = tuple[str, str]


@dataclass(frozen=True, kw_only=True)
class RetryPolicy:
    """How far a driver goes."""

    #: Whether anything is sent again at all.
    active: bool = True
    #: 1: no cell is given more memory.
    memory_factor: float
    #: MiB; 0: no cap.
    memory_cap_mb: int
    #: The command's own queue.
    queue: str
    #: Empty: the queue where the cell was.
    on_demand_queue: str
    #: Step -> MiB that its definition gives.
    defined_mb: Mapping[str, int]

    def overrides_for(self, cell: FailedCell) -> RetryOverrides | None:
        """With what the cell is sent again; None when it is not."""
        if not self.active:
            return None
        if cell.reason is EndReason.OUT_OF_MEMORY:
            return self._more_memory(cell)
        if cell.reason.is_blameless:
            return RetryOverrides(memory_mb=self._raised(cell), queue=self._other(self.on_demand_queue or cell.queue))
        return None

    def _more_memory(self, cell: FailedCell) -> RetryOverrides | None:
        had = cell.memory_mb or self.defined_mb.get(cell.step, 0)
        wanted = math.ceil(had * self.memory_factor)
        memory_mb = min(wanted, self.memory_cap_mb) if self.memory_cap_mb else wanted
        if memory_mb <= had:
            return None
        # What the definition gives by now may be more than what it gave then.
        more = memory_mb > self.defined_mb.get(cell.step, 0)
        return RetryOverrides(memory_mb=memory_mb if more else None, queue=self._other(cell.queue))

    def _other(self, queue: str) -> str:
        return "" if queue == self.queue else queue

    def _raised(self, cell: FailedCell) -> int | None:
        return cell.memory_mb if cell.memory_mb > self.defined_mb.get(cell.step, 0) else None


@dataclass(frozen=True, kw_only=True)
class FailurePartition:
    """Failed cells by what is done about them."""

    #: With what cells are sent again.
    overrides: Mapping[Cell, RetryOverrides]
    #: What stays failed.
    lasting: Sequence[FailedCell]
    #: Cells that go again, with what never ran on their account.
    retried: Sequence[FailedCell]


def partition_failures(
    graph: Graph, failed: Sequence[FailedCell], policy: RetryPolicy, rows: Mapping[str, Rows] | None = None
) -> FailurePartition:
    """Separates what is sent again from what stays failed; every cell is in exactly one of the two."""
    overrides = {}
    for cell in failed:
        if (retry := policy.overrides_for(cell)) is not None:
            overrides[cell.step, cell.sample] = retry
    by_step: dict[str, dict[str, FailedCell]] = {}
    for cell in failed:
        by_step.setdefault(cell.step, {})[cell.sample] = cell
    goes: dict[str, set[str]] = {}
    for node in graph:
        cells = by_step.get(node.name, {})
        goes[node.name] = {
            sample for sample, cell in cells.items() if _goes_again(node, cell, overrides, by_step, goes, rows or {})
        }
    lasting: list[FailedCell] = []
    retried: list[FailedCell] = []
    for cell in failed:
        (retried if cell.sample in goes[cell.step] else lasting).append(cell)
    return FailurePartition(overrides=overrides, lasting=lasting, retried=retried)


def _goes_again(
    node: Node,
    cell: FailedCell,
    overrides: Mapping[Cell, RetryOverrides],
    failed_by_step: Mapping[str, Mapping[str, FailedCell]],
    goes: Mapping[str, AbstractSet[str]],
    rows: Mapping[str, Rows],
) -> bool:
    """Whether a cell is sent again; what never ran is if all that it reads and that failed is, and something did.

    A tolerant gather was sent with all samples; it is sent again for those that are left.
    """
    if cell.reason is not EndReason.DEPENDENCY:
        return (cell.step, cell.sample) in overrides
    if node.step.tolerant and any(failed_by_step.get(step) for step in node.upstream):
        return True
    causes = [
        (step, sample)
        for step in node.upstream
        for sample in failed_by_step.get(step, ())
        if _reads(rows, node.name, cell.sample, step, sample)
    ]
    return bool(causes) and all(sample in goes[step] for step, sample in causes)


def _reads(rows: Mapping[str, Rows], reader: str, name: str, step: str, read: str) -> bool:
    """Whether a cell reads a cell of a step that it reads. Without their rows, both are of samples or gathers."""
    if COHORT in (name, read) or name == read:
        return True
    own, above = rows.get(reader), rows.get(step)
    if own is None or above is None or own is above or name not in own.positions:
        return False
    return above.positions.get(read, -1) in own.read_in(above, own.positions[name])


def summary(cells: Sequence[FailedCell], overrides: Mapping[Cell, RetryOverrides]) -> list[RetrySummary]:
    """What is sent again, a line for each step, reason and overrides, the largest first; not what follows from it."""
    counts: dict[tuple[str, EndReason, RetryOverrides], int] = {}
    for cell in cells:
        retry = overrides.get((cell.step, cell.sample))
        if retry is not None:
            key = (cell.step, cell.reason, retry)
            counts[key] = counts.get(key, 0) + 1
    lines = [
        RetrySummary(step=step, reason=reason, cells=count, memory_mb=retry.memory_mb, queue=retry.queue)
        for (step, reason, retry), count in counts.items()
    ]
    return sorted(lines, key=lambda line: -line.cells)


def remembered(
    failed: Sequence[FailedCell], wanted: Callable[[], Iterable[Cell]], policy: RetryPolicy
) -> dict[Cell, RetryOverrides]:
    """Overrides for cells that are about to run and failed in earlier runs, the newest word on each first."""
    open_cells = set(wanted()) if failed else set()
    overrides: dict[Cell, RetryOverrides] = {}
    for cell in failed:
        key = (cell.step, cell.sample)
        if key not in open_cells or cell.reason is EndReason.DEPENDENCY:
            continue
        open_cells.discard(key)
        retry = policy.overrides_for(cell)
        if retry is not None:
            overrides[key] = retry
    return overrides
