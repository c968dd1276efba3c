"""What cells took, as their receipts record it, and the memory that such cells should have. Pure.

Memory is the tools' peak, some room for tomorrow's samples, and the container's own. A cell that ran out of memory left
no receipt; it needed more than it had, and is taken to need twice that.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Self, TypeVar

from batch_pipeline.wire.receipt import Receipt

#: MiB of the container's own process and libraries, beside the step's.
OWN_MB: Final = 64
#: Proposals are multiples of this many MiB.
ROUND_MB: Final = 64
MIB: Final = 1 << 20

Number = TypeVar("Number", int, float)


@dataclass(frozen=True, kw_only=True)
class CellUsage:
    """What one cell took."""

    memory_bytes: int
    cpu_seconds: float
    #: From start to stop, staging included.
    seconds: float
    #: What it had; 0 where its receipt does not tell.
    memory_mb: int = 0
    cpus: int = 0
    #: It ran out of memory, and this is a guess.
    guessed: bool = False
    started_at: str = ""

    @classmethod
    def out_of_memory(cls, memory_mb: int) -> Self:
        """What a cell needs that ran out of so many MiB."""
        return cls(memory_bytes=2 * memory_mb * MIB, cpu_seconds=0.0, seconds=0.0, memory_mb=memory_mb, guessed=True)


def usage_of(receipt: Receipt) -> CellUsage | None:
    """What the cell of a receipt took; None for a receipt that tells nothing."""
    if not receipt.usage.peak_memory_bytes:
        return None
    began, ended = (datetime.fromisoformat(moment) for moment in (receipt.started_at, receipt.stopped_at))
    return CellUsage(
        memory_bytes=receipt.usage.peak_memory_bytes,
        cpu_seconds=receipt.usage.cpu_seconds,
        seconds=(ended - began).total_seconds(),
        memory_mb=receipt.memory_mb,
        cpus=receipt.cpus,
        started_at=receipt.started_at,
    )


def memory_for(usages: Sequence[CellUsage], percent: int, headroom: float) -> int:
    """MiB that hold so many percent of the cells, with room above their peaks; there is one cell at least."""
    return quantile(needs_of(usages, headroom), percent)


def needs_of(usages: Sequence[CellUsage], headroom: float) -> list[int]:
    """MiB that each cell should have, sorted."""
    return sorted(one.memory_bytes // MIB if one.guessed else with_room(one.memory_bytes, headroom) for one in usages)


def with_room(memory_bytes: int, headroom: float) -> int:
    """MiB that a cell with this peak should have."""
    wanted = memory_bytes / MIB * (1 + headroom) + OWN_MB
    return ROUND_MB * max(1, math.ceil(wanted / ROUND_MB))


def quantile(values: Sequence[Number], percent: int) -> Number:
    """The least of the sorted values that at least so many percent are not above."""
    return values[max(0, math.ceil(len(values) * percent / 100) - 1)]
