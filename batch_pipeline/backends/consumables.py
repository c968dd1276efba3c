"""Widths as consumable resources of AWS Batch: a child of a job holds one unit while it runs.

Batch unlocks a unit when its child has ended, and starts the next child that needs one.
https://docs.aws.amazon.com/batch/latest/userguide/resource-aware-scheduling.html
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from batch_pipeline.backends.aws_clients import Clients
from batch_pipeline.wire.errors import BackendFailed

#: States of jobs that may still need units; a listing takes one at a time.
_UNENDED: Final = ("SUBMITTED", "PENDING", "RUNNABLE", "STARTING", "RUNNING")


class ConsumableResources:
    """The consumable resources of one account and region, or of the embedded Batch."""

    def __init__(self, clients: Clients) -> None:
        self._clients = clients

    def named(self, prefix: str) -> Mapping[str, int]:
        """Name -> units in all, of those whose names begin so. A call a hundred of them. Raises BackendFailed."""
        filters = [{"name": "CONSUMABLE_RESOURCE_NAME", "values": [f"{prefix}*"]}]
        items = self._clients.pages("list_consumable_resources", "consumableResources", filters=filters)
        totals = {str(item["consumableResourceName"]): int(item.get("totalQuantity", 0)) for item in items}
        # The filter takes upper and lower case for the same.
        return {name: total for name, total in totals.items() if name.startswith(prefix)}

    def set_total(self, name: str, units: int) -> None:
        """Makes a resource of so many units, or gives it so many. Two calls, one if it has them. Raises BackendFailed.

        Each call may be sent twice: a resource that is there by now is given its units.
        """
        total = self.named(name).get(name)
        if total is None:
            try:
                self._clients.read("create_consumable_resource", consumableResourceName=name, totalQuantity=units)
            except BackendFailed:
                total = self.named(name).get(name)
                if total is None:
                    raise
        if total not in (None, units):
            self._clients.read("update_consumable_resource", consumableResource=name, operation="SET", quantity=units)

    def delete_unused(self, name: str) -> bool:
        """Deletes a resource unless a job that needs it has not ended; whether it is gone. Raises BackendFailed."""
        if name not in self.named(name):
            return True
        if any(self._has_jobs(name, state) for state in _UNENDED):
            return False
        try:
            self._clients.read("delete_consumable_resource", consumableResource=name)
        except BackendFailed:
            if name in self.named(name):
                raise
        return True

    def _has_jobs(self, name: str, state: str) -> bool:
        filters = [{"name": "JOB_STATUS", "values": [state]}]
        jobs = self._clients.pages("list_jobs_by_consumable_resource", "jobs", consumableResource=name, filters=filters)
        return next(jobs, None) is not None
