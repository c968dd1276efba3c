"""Runs of any size for `report`: a real record, a cell table with plausible numbers, and failures where they are named.

The record and the plan are those of one sample; the cell table, which pages are made from, has all of them.
"""

from __future__ import annotations

import json
import random
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import replace
from operator import add
from typing import Any

from batch_pipeline.config import load_settings
from batch_pipeline.pipeline.samples import Sample, SampleList
from batch_pipeline.pipeline.workflow import Graph, WorkflowTask
from batch_pipeline.records.cell_table import REASONS, STATES, CellColumns, CellEnd, CellTableWriter, rounded
from batch_pipeline.records.events import FailedCell
from batch_pipeline.records.history import new_run_id
from batch_pipeline.records.origin import Provenance
from batch_pipeline.records.record import write_end
from batch_pipeline.records.record_writing import begun_run, write_record
from batch_pipeline.records.request import Request
from batch_pipeline.run import driver
from batch_pipeline.run.verdict import write_failed
from batch_pipeline.wire import layout
from batch_pipeline.wire.contract import EndReason
from batch_pipeline.wire.receipt import Failure
from batch_pipeline.wire.store import Store
from benchmarks.copies.pipeline import Copies

Cell = tuple[str, str]
#: 2026-11-30T12:00:00Z in milliseconds, and seconds that a run of any size takes.
BEGIN_MS = 1_796_040_000_000
WALL_SECONDS = 6 * 3600
#: Of the first step, the second and the third: MiB that their cells take about, and seconds.
_USUAL = ((900, 240), (6_000, 900), (2_500, 420))
_MACHINES = [f"{kind}, {purchase}, eu-west-1{zone}" for kind in ("m6i.2xlarge", "r6i.xlarge", "c6i.4xlarge")
             for purchase in ("spot", "on-demand") for zone in "abc"]  # fmt: skip


def write_run(
    store: Store,
    samples: int,
    failures: Mapping[Cell, tuple[EndReason, str]],
    workflow: type[WorkflowTask] = Copies,
    **changes: Any,
) -> str:
    """Writes a run of samples x 3 that has ended, and returns its id; `failures`: cell -> reason and end of its log.

    A `workflow` has three steps a sample, the first of which reads `{sample}.txt`. `changes` are of the run's record.
    """
    names = tuple(f"sample-{number:07}" for number in range(samples))
    store.put(f"SR/{names[0]}.txt", b"x")
    request = Request(
        workflow=workflow,
        graph=Graph.of(workflow),
        samples=SampleList(samples=(Sample(name=names[0], line=1),), origin="made up"),
        store=store,
        settings=load_settings(environ={}),
        sources="SR",
    )
    plan = driver.inspect(request).plan
    run_id = new_run_id()
    begun = begun_run(request, plan, run_id, "", "0" * 64, Provenance())
    record = replace(begun.record, samples=samples, started_at="2026-11-30T12:00:00.000Z", **changes)
    write_record(store, replace(begun, record=record), request, plan)
    steps = request.graph.names
    never_ran = {(later, sample) for step, sample in failures for later in steps[steps.index(step) + 1 :]}
    counts = {"done": 3 * samples - len(never_ran | failures.keys()), "failed": len(failures)}
    _write_table(store, run_id, names, dict(zip(steps, _USUAL, strict=True)), failures, counts)
    write_failed(store, run_id, [_failed(store, run_id, cell, *why) for cell, why in failures.items()])
    store.put_json(layout.run_end(run_id), counts | {"ended_at": "2026-11-30T18:00:00.000Z", "problem": ""})
    write_end(store, run_id, done=counts["done"], failed=counts["failed"])
    return run_id


def _failed(store: Store, run_id: str, cell: Cell, reason: EndReason, tail: str) -> FailedCell:
    step, sample = cell
    message = f"{sample}.txt: {reason.words}"
    record = Failure(
        run_id=run_id,
        step=step,
        sample=sample,
        fingerprint="f" * 32,
        attempt=1,
        started_at="2026-11-30T12:00:00.000Z",
        stopped_at="2026-11-30T12:10:00.000Z",
        end_reason=reason.value,
        exit_code=1,
        message=message,
        log_tail=tail,
        host="ip-10-0-0-1",
    )
    store.put(layout.failure(run_id, step, sample, 1), json.dumps(record.to_json()).encode())
    return FailedCell(step=step, sample=sample, reason=reason, message=message, run_id=run_id, attempt=1, exit_code=1)


def _write_table(
    store: Store,
    run_id: str,
    names: tuple[str, ...],
    usual: Mapping[str, tuple[int, int]],
    failures: Mapping[Cell, tuple[EndReason, str]],
    counts: Mapping[str, int],
) -> None:
    chance = random.Random(7)
    writer = CellTableWriter(run_id, names, done=counts["done"], failed=counts["failed"], measured=True)
    machines = [writer.machine(name) for name in _MACHINES]
    position = {name: at for at, name in enumerate(names)}
    before = array("q", [BEGIN_MS]) * len(names)
    hindered: set[str] = set()
    for step, (mib, seconds) in usual.items():
        cells = CellColumns.blank(step, names)
        columns = cells.columns
        _measure(columns, chance, machines, before, mib, seconds)
        columns["state"][:] = array("B", [STATES.index(CellEnd.DONE)]) * len(names)
        failed = {sample: why for (of_step, sample), (why, _) in failures.items() if of_step == step}
        for sample, why in (dict.fromkeys(hindered, EndReason.DEPENDENCY) | failed).items():
            at = position[sample]
            for name in columns if why is EndReason.DEPENDENCY else ():
                columns[name][at] = 0
            columns["state"][at] = STATES.index(CellEnd.FAILED)
            columns["reason"][at] = REASONS.index(why.value)
        hindered |= set(failed)
        before = array("q", map(add, columns["started_ms"], columns["duration_ms"]))
        writer.add(cells)
    writer.write(store)


def _measure(
    columns: Mapping[str, array[int]],
    chance: random.Random,
    machines: Sequence[int],
    before: Sequence[int],
    mib: int,
    seconds: int,
) -> None:
    """Fills the columns of a step in which all is done: numbers with as many different values as a table keeps."""
    cells = len(before)

    def drawn(usual: float, spread: float) -> array[int]:
        different = [rounded(round(usual * chance.lognormvariate(0, spread))) for _ in range(1_000)]
        return array("q", chance.choices(different, k=cells))

    columns["queued_ms"][:] = array("q", chance.choices(range(1, 1000 * WALL_SECONDS // 4), k=cells))
    columns["started_ms"][:] = array("q", map(add, before, columns["queued_ms"]))
    columns["duration_ms"][:] = drawn(1000 * seconds, 0.5)
    columns["cpu_ms"][:] = drawn(1000 * seconds, 0.6)
    columns["peak_memory_bytes"][:] = drawn(mib * 2**20, 0.25)
    columns["in_bytes"][:] = drawn(4e9, 0.4)
    columns["out_bytes"][:] = drawn(1e9, 0.4)
    columns["machine"][:] = array("H", chance.choices(machines, k=cells))
    columns["attempts"][:] = array("B", chance.choices((1, 2), (97, 3), k=cells))
    for at, attempts in enumerate(columns["attempts"]):
        if attempts > 1:
            columns[("interrupted_ms", "lost_ms")[at % 2]][at] = rounded(columns["duration_ms"][at] // 2)
    columns["cpus"][:] = array("H", [2]) * cells
    columns["memory_mb"][:] = array("q", [2 * mib]) * cells
