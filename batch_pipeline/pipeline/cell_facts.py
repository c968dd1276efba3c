"""Resources by evidence: what a step's `memory_mb` and `timeout_seconds` may be computed from, cell by cell.

    class Align(Step):
        def memory_mb(self, cell: CellFacts) -> int:
            return 2_000 + 3 * cell.source_bytes // 1_000_000

    class Call(Step):
        memory_mb = Learned(4096)      # MiB until receipts tell

A method of the name that a number has otherwise, because that is what people look for: Snakemake has
`resources: mem_mb=lambda wildcards, input, attempt: …` and Nextflow `memory { 2.GB * task.attempt }` in the very place
of the number. A method has `self`, and so the step's parameters, it has a name in a traceback, and the editor knows the
fields of `cell`. It is run by the driver, once for each cell that is to run, and never in a container.

Neither is part of a fingerprint: what a cell may use changes no result. What the settings say (`[steps.NAME]`) goes
before both. `Learned` is no time limit: a cell that is killed at a percentile is lost, one that ran out of memory goes
again with more.

Imported on both sides of the wire, so this module needs the standard library and `wire` alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from batch_pipeline.wire.errors import InvalidPipeline

#: MiB that stand in the job definition of a step whose cells have numbers of their own.
ANY_MEMORY_MB: Final = 1024


@dataclass(frozen=True, kw_only=True)
class CellFacts:
    """What is known of a cell before it is sent."""

    #: Name of the sample; empty for a gather.
    sample: str
    #: Samples whose results it may read: 1, and for a gather all of the list.
    samples: int = 1
    #: Bytes of all files that come with the sample (`self.source(…)` of any step), each counted once; for a gather of
    #: all samples.
    source_bytes: int
    #: Input port -> bytes of its files; None where they are not made yet, and for what a gather reads. On a first run
    #: that is every port which another step feeds, as all steps are sent at once.
    input_bytes: Mapping[str, int | None] = field(default_factory=dict)
    #: Column of the sample sheet -> text of the sample's first row; empty for a gather.
    columns: Mapping[str, str] = field(default_factory=dict)
    #: 1, and one more for each time that the cell is known to have run out of memory.
    attempt: int = 1


class Learned:
    """MiB of memory by the peaks of a step's earlier cells: the percentile that `rightsize` would propose.

    Cells that ran out of memory and were never done count as needing twice what they had. It is one number for all
    cells of the step; a method can tell them apart.
    """

    def __init__(self, first: int, *, percent: int = 99, headroom: float = 0.2) -> None:
        """Learns from receipts.

        Parameters
        ----------
        first
            MiB until there are receipts of the step.
        percent
            Of the earlier cells that the number must hold, 1 to 100.
        headroom
            Room above the peaks, as a share of them.

        Raises InvalidPipeline for what is no such number.
        """
        if type(first) is not int or first < 1:
            raise InvalidPipeline(f"Learned({first!r}) must begin with a whole number of MiB: Learned(4096).")
        if not 0 < percent <= 100 or headroom < 0:
            raise InvalidPipeline(
                f"Learned({first}, percent={percent}, headroom={headroom}): percent must be 1 to 100, and headroom must"
                " not be below 0."
            )
        self.first = first
        self.percent = percent
        self.headroom = headroom
