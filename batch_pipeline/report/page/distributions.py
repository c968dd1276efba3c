"""Distributions of what cells of each step took, and what `rightsize` would propose by them."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence

from batch_pipeline.provenance.rightsize import MOST, ResourceProposal, propose
from batch_pipeline.records.cell_table import REASONS
from batch_pipeline.records.usage import MIB, CellUsage
from batch_pipeline.report.page.boxes import PERCENT, SIZE, TIME, Box, box_of, boxes_svg
from batch_pipeline.report.page.html import command, section, table
from batch_pipeline.report.page.source import RunSource, ShownCells
from batch_pipeline.report.page.states import SEVERITY, ShownState
from batch_pipeline.report.sizes import rightsize_rows
from batch_pipeline.wire.contract import EndReason

_DONE = SEVERITY[ShownState.DONE]
_OUT_OF_MEMORY = REASONS.index(EndReason.OUT_OF_MEMORY.value)
#: Of the table of proposals.
_COLUMNS = ("step", "cells", "MiB now", "fit now", "50 %", "90 %", "95 %", "99 %", "100 %", "propose MiB")


def distributions_section(source: RunSource, program: Sequence[str]) -> str:
    """Box plots and proposals; empty for a run of which nothing was measured."""
    steps = source.steps
    proposals = list(_proposals(source))
    proposed = {one.step: one.memory_mb for one in proposals}
    durations = _boxes(box_of(name, step.cells.columns["duration_ms"]) for name, step in steps.items())
    memory = _boxes(_memory_box(name, step, proposed.get(name, 0)) for name, step in steps.items())
    busy = _boxes(box_of(name, _busy(step), unit=0.1) for name, step in steps.items())
    staged_in = _boxes(box_of(name, step.cells.columns["in_bytes"]) for name, step in steps.items())
    staged_out = _boxes(box_of(name, step.cells.columns["out_bytes"]) for name, step in steps.items())
    sizes = table(
        "rightsize",
        [*_COLUMNS, "vCPUs now", "busy", "propose vCPUs"],
        rightsize_rows(proposals),
        caption="Memory and vCPUs that rightsize would propose by this run",
    )
    return section(
        "distributions",
        "Distributions",
        boxes_svg("Duration", durations, TIME),
        boxes_svg("Peak memory, beside what was asked (bar) and what is proposed (diamond)", memory, SIZE),
        boxes_svg("Processor time, of one vCPU", busy, PERCENT),
        boxes_svg("Bytes staged in", staged_in, SIZE),
        boxes_svg("Bytes staged out", staged_out, SIZE),
        sizes,
        f"<p>{command(' '.join((*program, 'rightsize')))} reads the receipts of all runs.</p>" if sizes else "",
        note="Boxes hold the middle half of the cells, whiskers 90 %, dots are the least and the most; scales are"
        " logarithmic.",
    )


def _boxes(boxes: Iterator[Box | None]) -> list[Box]:
    return [box for box in boxes if box is not None]


def _memory_box(name: str, step: ShownCells, proposed_mb: int) -> Box | None:
    asked = max(step.cells.columns["memory_mb"], default=0)
    marks = {"asked": asked * float(MIB), "proposed": proposed_mb * float(MIB)}
    return box_of(name, step.cells.columns["peak_memory_bytes"], {word: size for word, size in marks.items() if size})


def _busy(step: ShownCells) -> array[int]:
    """Tenths of a per cent of one vCPU that each cell kept busy."""
    columns = step.cells.columns
    pairs = zip(columns["cpu_ms"], columns["duration_ms"], strict=True)
    return array("q", (1000 * cpu // took if took else 0 for cpu, took in pairs))


def _proposals(source: RunSource) -> Iterator[ResourceProposal]:
    """What cells of each step make `rightsize` propose: at most `MOST`, evenly spread."""
    for name, step in source.steps.items():
        cells = len(step.states)
        usages = list(_usages(step, range(0, cells, -(-cells // MOST) or 1)))
        if usages:
            yield propose(name, usages, cells, None)


def _usages(step: ShownCells, positions: Sequence[int]) -> Iterator[CellUsage]:
    """What the cells took that were done; those that ran out of memory count as needing twice what they had."""
    columns = step.cells.columns
    for at in positions:
        had, peak = columns["memory_mb"][at], columns["peak_memory_bytes"][at]
        cpus, seconds = columns["cpus"][at], columns["duration_ms"][at] / 1000
        if step.states[at] == _DONE and peak:
            cpu_seconds = columns["cpu_ms"][at] / 1000
            yield CellUsage(memory_bytes=peak, cpu_seconds=cpu_seconds, seconds=seconds, memory_mb=had, cpus=cpus)
        elif columns["reason"][at] == _OUT_OF_MEMORY and had:
            yield CellUsage(
                memory_bytes=2 * had * MIB, cpu_seconds=0.0, seconds=0.0, memory_mb=had, cpus=cpus, guessed=True
            )
