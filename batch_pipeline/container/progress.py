"""How far an attempt at a cell has come, and what its receipt or the record of its failure says of that."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from batch_pipeline.container.environment import CellLocation
from batch_pipeline.container.execution import NOT_RUN, Executed
from batch_pipeline.container.log import timestamp
from batch_pipeline.container.meter import Meter
from batch_pipeline.container.stage import Staged
from batch_pipeline.wire.manifest import Manifest, Row
from batch_pipeline.wire.receipt import FileRecord, Usage


# Without comparison and text: each method that is generated costs every start of a container.
@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Progress:
    """What an attempt has done so far; changed by `replace` and `after` alone."""

    staged: Staged = field(default_factory=Staged)
    #: The step's processes that have ended, as one.
    executed: Executed = NOT_RUN
    meter: Meter = field(default_factory=lambda: Meter(""))
    outputs: tuple[FileRecord, ...] = ()

    @property
    def peak_memory_bytes(self) -> int:
        """Of the largest process as the kernel says it, or of all together as they were measured."""
        return max(self.executed.ended.peak_memory_bytes, self.meter.peak_memory_bytes)

    def after(self, executed: Executed) -> Progress:
        """The progress once one more process of the step has ended."""
        return replace(self, executed=executed.after(self.executed))

    @property
    def usage(self) -> Usage:
        """What the attempt took."""
        return Usage(
            peak_memory_bytes=self.peak_memory_bytes,
            cpu_seconds=self.executed.ended.cpu_seconds,
            peak_disk_bytes=self.meter.peak_disk_bytes,
            staged_in_bytes=self.staged.size_bytes,
            staged_out_bytes=sum(record.size_bytes for record in self.outputs),
        )


def facts_of(
    progress: Progress,
    location: CellLocation,
    manifest: Manifest,
    row: Row,
    *,
    started_at: str,
    machine: Mapping[str, str],
) -> dict[str, Any]:
    """What receipts and failures have in common. Reads the clock."""
    return {
        "run_id": manifest.run_id,
        "step": manifest.step,
        "sample": row.sample,
        "fingerprint": row.fingerprint,
        "attempt": location.attempt,
        "queued_at": manifest.queued_at,
        "started_at": started_at,
        "stopped_at": timestamp(),
        "inputs": tuple(progress.staged.records),
        "usage": progress.usage,
        "cpus": manifest.cpus,
        "memory_mb": manifest.memory_mb,
        **machine,
        "metrics": progress.executed.verdict.metrics,
        "versions": progress.executed.verdict.versions,
        "host": location.host,
        "native_id": location.native_id,
    }
