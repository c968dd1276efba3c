"""Whether the embedded backend can ever start a step's job.

AWS Batch leaves a job that asks for more than any host has RUNNABLE for ever, and so does the embedded one. On this
machine what there is can be known beforehand, and somebody with a small laptop shall not wait for nothing.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from typing import Any, Final

from batch_pipeline.backends.definitions import resources
from batch_pipeline.config import EmbeddedSettings, Settings
from batch_pipeline.wire.errors import InvalidUse

_MIB: Final = 1 << 20


def embedded_room(settings: EmbeddedSettings) -> tuple[int, int]:
    """vCPUs and MiB that the embedded backend hands out."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // _MIB
    return settings.vcpus or len(os.sched_getaffinity(0)), settings.memory_mb or machine


def memory_cap(settings: Settings) -> int:
    """The most MiB that a cell may be given when it ran out of memory; 0: as much as it takes."""
    cap = settings.recovery.memory_cap_mb
    if settings.backend.name != "embedded":
        return cap
    there = embedded_room(settings.embedded)[1]
    return min(cap, there) if cap else there


def require_room(settings: Settings, definitions: Mapping[str, Mapping[str, Any]], steps: Collection[str]) -> None:
    """Raises InvalidUse for a step whose job would wait for ever. On AWS the compute environments decide."""
    if settings.backend.name != "embedded":
        return
    there = embedded_room(settings.embedded)
    for step in steps:
        for wanted, most, unit, key in zip(
            resources(definitions[step]), there, ("vCPUs", "MiB of memory"), ("vcpus", "memory_mb"), strict=True
        ):
            if wanted > most:
                raise InvalidUse(
                    f"Step {step} asks for {wanted:,} {unit} and the embedded backend has {most:,}, so its jobs would"
                    f" wait for ever. If they need less, let it hand out more than there is"
                    f" (BATCH_PIPELINE__EMBEDDED__{key.upper()}={wanted}); else run on a larger machine."
                )
