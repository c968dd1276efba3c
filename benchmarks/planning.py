"""What a plan costs: samples x 3 steps on a store in memory, from the listings to the jobs, nothing submitted.

Each size is planned twice in a process of its own: of a cohort that is new, and of one where all is done, which lists
one receipt a cell. The seconds and the memory are those of `driver.inspect`: everything that `plan` and a rerun with
nothing to do cost beyond starting Python and reading the sample list.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import table
from benchmarks.measure import BenchmarkFailed, peak_mib, run

SIZES = (1_000, 10_000, 100_000)
#: Past one array's 10,000: two arrays a step.
SPLIT = 20_000
#: Seconds for the largest.
GOAL_SECONDS = 30.0


def main(*, results_folder: Path) -> None:
    """Plans every size, prints and keeps."""
    found = {size: plan_alone(size) for size in sorted((*SIZES, SPLIT))}
    rows = [
        (
            f"{size:,} x 3, {kind}",
            f"{one['seconds']:.2f}",
            f"{1e6 * one['seconds'] / (3 * size):.1f}",
            f"{one['cpu_seconds']:.2f}",
            f"{one['mib']:.0f}",
            f"{1024 * one['mib'] / (3 * size):.2f}",
            str(one["jobs"]),
            str(one["lists"]),
            str(one["other_calls"]),
        )
        for size, figures in found.items()
        for kind, one in figures.items()
    ]
    largest = max(one["seconds"] for one in found[SIZES[-1]].values())
    header = ("plan", "s", "us/cell", "CPU s", "MiB more", "KiB/cell", "jobs", "LIST pages", "other calls")
    notes = [
        table.verdict(largest, GOAL_SECONDS, f"{SIZES[-1]:,} x 3 within {GOAL_SECONDS:.0f} s"),
        table.verdict(found[SPLIT]["new"]["jobs"], 6, f"{SPLIT:,} x 3 in 6 jobs"),
        f"load now {table.load()}",
    ]
    table.show("planning: on a store in memory", header, rows, notes=notes)
    table.keep("planning", {"machine": table.machine(), "results": found}, results_folder)


def plan_alone(size: int) -> dict[str, Any]:
    """The figures of one size, from a process of its own: memory that was once taken would hide what is taken later."""
    import os
    import tempfile

    root = Path(__file__).resolve().parent.parent
    with tempfile.TemporaryDirectory(prefix="planning-") as folder:
        log = Path(folder) / "log"
        environment = {**os.environ, "PYTHONPATH": str(root)}
        run([sys.executable, "-m", "benchmarks.planning", str(size)], folder=root, environment=environment, log=log)
        try:
            figures: dict[str, Any] = json.loads(log.read_text().splitlines()[-1])
        except (ValueError, IndexError) as error:
            raise BenchmarkFailed(f"planning {size} samples said: {log.read_text()[-500:]}") from error
    return figures


def planned(size: int) -> dict[str, dict[str, float]]:
    """Plans a new cohort, then the same cohort with a receipt for every cell."""
    from batch_pipeline.config import load_settings
    from batch_pipeline.pipeline.samples import Sample, SampleList
    from batch_pipeline.pipeline.workflow import Graph
    from batch_pipeline.records.receipts import LEAST_BYTES
    from batch_pipeline.records.request import Request
    from batch_pipeline.run import driver
    from batch_pipeline.wire import layout
    from batch_pipeline.wire.store import open_store
    from benchmarks.copies.pipeline import Copies

    store = open_store("memory://planning")
    names = [f"sample-{number:06}" for number in range(size)]
    for name in names:
        store.put(f"SR/{name}.txt", b"x")
    samples = SampleList(samples=tuple(Sample(name=name, line=n) for n, name in enumerate(names, 1)), origin="made up")
    request = Request(
        workflow=Copies,
        graph=Graph.of(Copies),
        samples=samples,
        store=store,
        settings=load_settings(environ={}),
        sources="SR",
    )
    plan, new = _look(request)
    for step, prints in plan.fingerprints.items():
        for name, fingerprint in zip(plan.samples, prints, strict=True):
            store.put(layout.receipt(step, name, fingerprint), b" " * LEAST_BYTES)
    del plan
    again, done = _look(request)
    if again.jobs or len(driver.inspect(request).plan.samples) != size:
        raise BenchmarkFailed(f"{len(again.jobs)} jobs are left of {size} samples that are done.")
    return {"new": new, "done": done}


def _look(request: Any) -> tuple[Any, dict[str, float]]:
    import time

    from batch_pipeline.run import driver

    request.store.calls.clear()
    resident, began, cpu = peak_mib(reset=True), time.perf_counter(), time.process_time()
    plan = driver.inspect(request).plan
    seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - cpu
    calls = dict(request.store.calls)
    return plan, {
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
        "mib": peak_mib(reset=False) - resident,
        "jobs": len(plan.jobs),
        "lists": calls.pop("list", 0),
        "other_calls": sum(calls.values()),
    }


def _main(arguments: Sequence[str]) -> None:
    print(json.dumps(planned(int(arguments[0]))))


if __name__ == "__main__":
    _main(sys.argv[1:])
