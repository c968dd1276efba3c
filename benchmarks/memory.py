"""Memory of a heavy-tailed cohort, replayed from a seed: GiB-hours with one number a step and with groups by evidence.

Sizes of samples are log-normal with a Pareto tail; a cell's peak grows with the bytes of its sample, times noise, and
so does its time. Three ways to ask for memory, by what an earlier cohort took so that about 1 % of the cells runs out
of it once:

- one number a step: the 99th percentile of the peaks, what `Learned` and `rightsize` propose without headroom;
- groups: a method of the source bytes with a margin of the same percentile, in the groups of the planner;
- cells: the same method, each cell with its own number, which no array can have.

A cell that runs out of memory took its whole time, and goes again with twice as much until it fits.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from batch_pipeline.pipeline.plan import CellNeed
from batch_pipeline.pipeline.resource_groups import partition, sized
from batch_pipeline.records.usage import quantile
from benchmarks import table

SEED: Final = 16
SAMPLES: Final = 2_000
#: Samples of which the partition is timed.
MANY: Final = 100_000
#: Percent of the cells that may not run out of memory.
PERCENT: Final = 99
#: Hours that a cell takes whatever the size.
LEAST_HOURS: Final = 0.1
#: Step -> MiB whatever the size, MiB and hours a GiB of the sample, spread of the noise.
STEPS: Final[Mapping[str, tuple[float, float, float, float]]] = {
    "align": (1_500, 700, 0.20, 0.15),
    "sort": (500, 1_400, 0.05, 0.10),
    "call": (1_000, 250, 0.30, 0.25),
}


@dataclass(frozen=True, kw_only=True)
class Replay:
    """What a cohort took in one way to ask for memory."""

    gib_hours: float
    #: Percent of the cells that ran out of memory at least once.
    out_of_memory: float


@dataclass(frozen=True, kw_only=True)
class Cohort:
    """Samples that were drawn."""

    #: GiB of each sample.
    sizes: Sequence[float]
    #: Step -> peak of each sample's cell in MiB.
    peaks: Mapping[str, Sequence[float]]


def main(*, results_folder: Path) -> None:
    """Replays, prints and keeps."""
    ways = replays(SAMPLES, SEED)
    one = ways["one number a step"]
    rows = [
        (
            name,
            f"{way.gib_hours:,.0f}",
            f"{100 * (1 - way.gib_hours / one.gib_hours):.0f} %",
            f"{way.out_of_memory:.2f} %",
        )
        for name, way in ways.items()
    ]
    seconds = partition_seconds(MANY)
    groups = ways["at most 4 groups"]
    notes = [
        table.verdict(groups.out_of_memory, 100 - PERCENT, f"groups: at most {100 - PERCENT} % out of memory once"),
        f"the partition of {MANY:,} samples x {len(STEPS)} steps took {seconds:.1f} s",
        f"seed {SEED}, {SAMPLES:,} samples x {len(STEPS)} steps",
    ]
    table.show(
        "memory: a heavy-tailed cohort", ("memory by", "GiB-hours", "saved", "out of memory once"), rows, notes=notes
    )
    found = {name: vars(way) for name, way in ways.items()}
    table.keep("memory", {"machine": table.machine(), "results": found, "seconds": seconds}, results_folder)


def replays(samples: int, seed: int) -> dict[str, Replay]:
    """The replay of each way."""
    draw = random.Random(seed)
    earlier, cohort = drawn(draw, samples), drawn(draw, samples)
    numbers = {step: quantile(sorted(peaks), PERCENT) for step, peaks in earlier.peaks.items()}
    asks = {step: [method(size) for size in cohort.sizes] for step, method in methods(earlier).items()}
    needs = {
        step: {
            i: CellNeed(memory_mb=math.ceil(ask), weight=round(size * 2**30))
            for i, (ask, size) in enumerate(zip(of, cohort.sizes, strict=True))
        }
        for step, of in asks.items()
    }
    sent = sized(needs, {}, {})
    grouped = {step: [float(sent[step][i].memory_mb or 0) for i in range(samples)] for step in STEPS}
    return {
        "one number a step": replayed(cohort, {step: [number] * samples for step, number in numbers.items()}),
        "at most 4 groups": replayed(cohort, grouped),
        "each cell its own": replayed(cohort, asks),
        "peaks, known before": replayed(cohort, cohort.peaks),
    }


def drawn(draw: random.Random, samples: int) -> Cohort:
    """A cohort: one sample of ten is of the tail."""
    sizes = [
        4 * draw.paretovariate(1.5) if draw.random() < 0.1 else draw.lognormvariate(0.5, 0.5) for _ in range(samples)
    ]
    # No machine has more than a terabyte.
    sizes = [min(size, 400.0) for size in sizes]
    peaks = {
        step: [(fixed + slope * size) * draw.lognormvariate(0, noise) for size in sizes]
        for step, (fixed, slope, _, noise) in STEPS.items()
    }
    return Cohort(sizes=sizes, peaks=peaks)


def methods(earlier: Cohort) -> dict[str, Callable[[float], float]]:
    """Step -> MiB by the size of a sample: the trend of the tool, times what an earlier cohort took beyond it."""
    made: dict[str, Callable[[float], float]] = {}
    for step, (fixed, slope, _, _) in STEPS.items():
        beyond = sorted(
            peak / (fixed + slope * size) for peak, size in zip(earlier.peaks[step], earlier.sizes, strict=True)
        )
        margin = quantile(beyond, PERCENT)
        made[step] = lambda size, fixed=fixed, slope=slope, margin=margin: margin * (fixed + slope * size)  # type: ignore[misc]
    return made


def replayed(cohort: Cohort, given: Mapping[str, Sequence[float]]) -> Replay:
    """GiB-hours of all attempts when cells are given so many MiB."""
    mib_hours, hungry = 0.0, 0
    for step, (_, _, hours, _) in STEPS.items():
        for size, peak, memory in zip(cohort.sizes, cohort.peaks[step], given[step], strict=True):
            attempts = [memory]
            while attempts[-1] < peak:
                attempts.append(2 * attempts[-1])
            hungry += len(attempts) > 1
            mib_hours += sum(attempts) * (LEAST_HOURS + hours * size)
    return Replay(gib_hours=mib_hours / 1024, out_of_memory=100 * hungry / (len(STEPS) * len(cohort.sizes)))


def partition_seconds(samples: int) -> float:
    """Seconds of processor time that the partition of so many samples takes."""
    cohort = drawn(random.Random(SEED), samples)
    rows = list(zip(*([round(peak) for peak in cohort.peaks[step]] for step in STEPS), strict=True))
    began = time.process_time()
    partition(rows, weights=[round(size * 2**30) for size in cohort.sizes])
    return time.process_time() - began
