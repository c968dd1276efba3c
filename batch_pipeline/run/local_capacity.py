"""The capacity of the embedded backend: whether it can ever start a step's job.

AWS Batch leaves a job that asks for more than any host has RUNNABLE for ever, and so does the embedded one. On this
machine what there is can be known beforehand, so a user of a small laptop is told at once.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from typing import Any, Final

from batch_pipeline.backends.account import Inspectable, NotVisible
from batch_pipeline.backends.capacity import USABLE_MEMORY
from batch_pipeline.backends.definitions import resources
from batch_pipeline.config import EmbeddedSettings, Settings
from batch_pipeline.wire.errors import InvalidUse

_MIB: Final = 1 << 20


def embedded_capacity(embedded: EmbeddedSettings) -> tuple[int, int]:
    """vCPUs and MiB that the embedded backend hands out."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // _MIB
    return embedded.vcpus or len(os.sched_getaffinity(0)), embedded.memory_mb or machine


def memory_cap(settings: Settings, backend: object) -> int:
    """The most MiB that a cell may be given when it ran out of memory; 0: as much as it takes.

    No more than the settings say, and no more than the largest machine has where that can be known. Raises
    BackendFailed.
    """
    known = [settings.recovery.memory_cap_mb, _largest(settings, backend)]
    return min(filter(None, known), default=0)


def _largest(settings: Settings, backend: object) -> int:
    """What a job can have on the largest machine of the queues; 0 when nobody knows."""
    if settings.backend.name == "embedded":
        return embedded_capacity(settings.embedded)[1]
    if not isinstance(backend, Inspectable):
        return 0
    names = filter(None, (settings.backend.queue, settings.backend.on_demand_queue))
    try:
        machines = backend.account.machines(backend.account.queues(names).values())
    except NotVisible:
        return 0
    return int(USABLE_MEMORY * max((machine.memory_mb for each in machines.values() for machine in each), default=0))


def require_capacity(settings: Settings, definitions: Mapping[str, Mapping[str, Any]], steps: Collection[str]) -> None:
    """Raises InvalidUse for a step whose job would wait for ever. On AWS the compute environments decide."""
    if settings.backend.name != "embedded":
        return
    there = embedded_capacity(settings.embedded)
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
