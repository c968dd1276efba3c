"""Folds the failures of a run by root cause: cells that failed alike, logs that end alike, what never ran for them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from batch_pipeline.records.cell_table import REASONS
from batch_pipeline.records.events import FailedCell
from batch_pipeline.report.page.details import CellDetail
from batch_pipeline.report.page.source import CellSource, ShownCells
from batch_pipeline.report.page.states import SEVERITY, ShownState
from batch_pipeline.report.tables import failure_groups
from batch_pipeline.wire import layout
from batch_pipeline.wire.contract import EndReason

#: What helps, by the reason of a failure.
REMEDIES: Final[Mapping[EndReason, str]] = {
    EndReason.STEP_FAILED: "The tool says why in its log. Repair the sample or the parameters, then run again.",
    EndReason.INVALID_OUTPUT: "The tool ended well and left a wrong result: look at its input and its log.",
    EndReason.MISSING_INPUT: "Look at the sample's file: it is cut off, empty or of another kind. Replace it.",
    EndReason.OUT_OF_MEMORY: "Give the step more memory: `rightsize` proposes how much, `--write` sets it.",
    EndReason.DISK_FULL: "Give the step more disk, or fewer jobs to a machine.",
    EndReason.TIMEOUT: "Raise the step's time limit if its log still moved; else look where it hangs.",
    EndReason.INTERRUPTED: "A signal or a lost host ended it, not the sample: run again.",
    EndReason.IMAGE: "Its image could not be had: `doctor` says what is missing, `deploy images` makes it.",
    EndReason.CONTRACT: "The image and this version do not fit together: `deploy images` rebuilds it.",
    EndReason.STORE: "The store could not be reached: `doctor` asks it; then run again.",
    EndReason.CANCELLED: "A user cancelled it. Run again to make it.",
    EndReason.LOST: "It ended without a record: run again, and look at the machine if that repeats.",
}
#: What differs between logs that say the same: times, numbers, hexadecimal ids, folders.
_VARYING: Final = re.compile(r"0x[0-9a-f]+|\b[0-9a-f]{8,}\b|/[^\s:'\"]*/|\d[\d.,:TZ-]*", re.IGNORECASE)
#: Lines of a tail that are compared, from the end.
_LINES_COMPARED: Final = 8


@dataclass(frozen=True, kw_only=True)
class TailGroup:
    """Cells whose logs end alike. `tail` is that of the first."""

    samples: Sequence[str]
    tail: str


@dataclass(frozen=True, kw_only=True)
class RootCause:
    """Cells of a step that failed for one reason and say the same of it."""

    step: str
    reason: EndReason
    samples: Sequence[str]
    message: str
    #: Of those cells whose details were read, the largest group first.
    tails: Sequence[TailGroup] = ()
    #: Step -> cells that never ran on their account.
    not_run: Mapping[str, int] = field(default_factory=dict)

    @property
    def remedy(self) -> str:
        """What to do, as a sentence."""
        return REMEDIES.get(self.reason, "")


def root_causes_of(source: CellSource, details: Sequence[CellDetail]) -> list[RootCause]:
    """The causes, that which hinders most cells first."""
    known = [cell for cell in _failed(source) if cell.reason is not EndReason.DEPENDENCY]
    groups = failure_groups(known)
    cause_of = {(group.step, sample): number for number, group in enumerate(groups) for sample in group.samples}
    hindered = _hindered(source, cause_of)
    tails = {(detail.step, detail.sample): detail.attempts[-1].log_tail for detail in details if detail.attempts}
    causes = [
        RootCause(
            step=group.step,
            reason=group.reason,
            samples=group.samples,
            message=group.message,
            tails=tail_groups(
                {sample: tails[group.step, sample] for sample in group.samples if tails.get((group.step, sample))}
            ),
            not_run=hindered.get(number, {}),
        )
        for number, group in enumerate(groups)
    ]
    return sorted(causes, key=lambda cause: -(len(cause.samples) + sum(cause.not_run.values())))


def tail_groups(tails: Mapping[str, str]) -> list[TailGroup]:
    """Samples by what their logs end with, numbers, ids and folders aside; the largest group first."""
    groups: dict[str, list[str]] = {}
    for sample, tail in tails.items():
        lines = tail.replace(sample, "@").splitlines()[-_LINES_COMPARED:]
        groups.setdefault("\n".join(_VARYING.sub("#", line.strip()) for line in lines), []).append(sample)
    made = [TailGroup(samples=samples, tail=tails[samples[0]]) for samples in groups.values()]
    return sorted(made, key=lambda group: -len(group.samples))


def _failed(source: CellSource) -> Iterator[FailedCell]:
    """The failed cells of the run's list, and those that its table alone knows."""
    yield from source.failed
    listed = {(cell.step, cell.sample) for cell in source.failed}
    wanted = (SEVERITY[ShownState.FAILED], SEVERITY[ShownState.CANCELLED])
    for name, step in source.steps.items():
        for position in _positions(step, wanted):
            sample, reason = step.cells.samples[position], REASONS[step.cells.columns["reason"][position]]
            if reason and (name, sample) not in listed:
                yield FailedCell(step=name, sample=sample, reason=EndReason(reason), message="")


def _positions(cells: ShownCells, states: Sequence[int]) -> Iterator[int]:
    """Positions of the cells in these states."""
    for state in states:
        position = cells.states.find(state)
        while position >= 0:
            yield position
            position = cells.states.find(state, position + 1)


def _hindered(source: CellSource, cause_of: Mapping[tuple[str, str], int]) -> dict[int, Counter[str]]:
    """Cause -> step -> cells that never ran because of it. A gather counts for one of its causes, the most frequent."""
    blame: dict[tuple[str, str], int] = dict(cause_of)
    by_step: dict[str, Counter[int]] = {}
    for (step, _), cause in cause_of.items():
        by_step.setdefault(step, Counter())[cause] += 1
    hindered: dict[int, Counter[str]] = {}
    for node in source.graph or ():
        cells = source.steps.get(node.name)
        if cells is None:
            continue
        for position in _positions(cells, (SEVERITY[ShownState.NOT_RUN],)):
            sample = cells.cells.samples[position]
            causes = (
                _most_frequent(by_step.get(above)) if cells.is_gather else _blamed(blame, above, sample)
                for above in node.upstream
            )
            first_cause = next((number for number in causes if number is not None), None)
            if first_cause is not None:
                blame[node.name, sample] = first_cause
                by_step.setdefault(node.name, Counter())[first_cause] += 1
                hindered.setdefault(first_cause, Counter())[node.name] += 1
    return hindered


def _blamed(blame: Mapping[tuple[str, str], int], step: str, sample: str) -> int | None:
    return blame.get((step, sample), blame.get((step, layout.COHORT)))


def _most_frequent(causes: Counter[int] | None) -> int | None:
    return causes.most_common(1)[0][0] if causes else None
