"""Builds the `RetryPolicy` of a command from its settings, its job definitions and the largest machine."""

from __future__ import annotations

from collections.abc import Sequence

from batch_pipeline.backends.definitions import configured_definitions, resources
from batch_pipeline.records.events import FailedCell
from batch_pipeline.records.request import Request
from batch_pipeline.run.backend import LazyBackend
from batch_pipeline.run.local_capacity import memory_cap
from batch_pipeline.run.recovery import RetryPolicy
from batch_pipeline.wire.contract import EndReason


def retry_policy(
    request: Request, backend: LazyBackend, failed: Sequence[FailedCell], *, active: bool = True
) -> RetryPolicy:
    """What may be done about failed cells. The backend is asked only when one of them ran out of memory."""
    settings = request.settings
    definitions = configured_definitions(request.graph, settings)
    # What stands in the definition is no cell's number where each has its own.
    own = {node.name for node in request.graph if "memory_mb" in node.by_evidence}
    hungry = any(cell.reason is EndReason.OUT_OF_MEMORY for cell in failed)
    return RetryPolicy(
        active=active and settings.recovery.rounds > 0,
        memory_factor=settings.recovery.memory_factor,
        memory_cap_mb=memory_cap(settings, backend.open(settings)) if hungry else 0,
        queue=settings.backend.queue,
        on_demand_queue=settings.backend.on_demand_queue,
        defined_mb={step: 0 if step in own else resources(definition)[1] for step, definition in definitions.items()},
    )
