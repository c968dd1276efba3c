"""Consumable resources: the six operations on them, and what a job asks of them.

The documents are the registry's, the counts the engine's (`engine.units`). A resource may be deleted while jobs need
it: those that run go on, and those that wait do so until it is made again.

https://docs.aws.amazon.com/batch/latest/userguide/resource-aware-scheduling.html
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import islice
from typing import Any, Final

from batch_pipeline.localbatch.api.definitions import refused
from batch_pipeline.localbatch.api.describe import summary
from batch_pipeline.localbatch.api.listing import like, listing_position
from batch_pipeline.localbatch.api.registry import ARN, ResourceRegistry, check_name, check_tags
from batch_pipeline.localbatch.engine.job import BatchJob, Document
from batch_pipeline.localbatch.engine.state_machine import Engine
from batch_pipeline.localbatch.engine.units import Consumable, Needs

# https://docs.aws.amazon.com/batch/latest/userguide/resource-aware-scheduling-how-to-for-jobs.html
RESOURCES_PER_JOB: Final = 5
# https://docs.aws.amazon.com/batch/latest/APIReference/API_ListConsumableResources.html
PAGE: Final = 100
REPLENISHABLE: Final = "REPLENISHABLE"


def needs_of(properties: Document, registry: ResourceRegistry) -> Needs:
    """What each child needs, from `consumableResourceProperties` or its override; equal names are added up."""
    entries = properties.get("consumableResourceList", [])
    if len(entries) > RESOURCES_PER_JOB:
        raise refused(f"Job cannot need more than {RESOURCES_PER_JOB} consumable resources, got {len(entries)}")
    needs: dict[str, int] = {}
    for entry in entries:
        if "consumableResource" not in entry or entry.get("quantity", 0) < 1:
            raise refused("A consumable resource of a job needs its name or ARN, and a quantity of at least 1.")
        name = registry.consumable(entry["consumableResource"])["consumableResourceName"]
        needs[name] = needs.get(name, 0) + entry["quantity"]
    return tuple(needs.items())


class ConsumableApi:
    """Answers the requests about consumable resources."""

    def __init__(self, registry: ResourceRegistry, engine: Engine, now_ms: Callable[[], int]) -> None:
        self._registry = registry
        self._engine = engine
        self._now_ms = now_ms
        self.handlers: dict[str, Callable[[Document], Document]] = {
            "CreateConsumableResource": self._create,
            "DescribeConsumableResource": self._describe,
            "UpdateConsumableResource": self._update,
            "DeleteConsumableResource": self._delete,
            "ListConsumableResources": self._list,
            "ListJobsByConsumableResource": self._list_jobs,
        }

    def load(self) -> None:
        """Lets the engine know the resources that were stored."""
        for document in self._registry.consumables.values():
            self._count(document)

    def keep_spent(self) -> None:
        """Stores totals from which units were spent since the last call."""
        for name in self._engine.units.spent:
            if name in self._registry.consumables:
                total = self._engine.units.consumables[name].total
                document = {**self._registry.consumables[name], "totalQuantity": total}
                self._registry.put_consumable(name, document)
        self._engine.units.spent.clear()

    def _count(self, document: Document) -> None:
        self._engine.units.consumables[document["consumableResourceName"]] = Consumable(
            total=document["totalQuantity"], is_replenishable=document["resourceType"] == REPLENISHABLE
        )

    def _create(self, request: Document) -> Document:
        name, total = request["consumableResourceName"], request.get("totalQuantity", 0)
        kind = request.get("resourceType", REPLENISHABLE)
        check_name(name, "consumableResourceName")
        check_tags(request.get("tags", {}))
        if name in self._registry.consumables:
            raise refused("Object already exists")
        if total < 0:
            raise refused(f"totalQuantity must not be negative, got {total}")
        if kind not in (REPLENISHABLE, "NON_REPLENISHABLE"):
            raise refused(f"resourceType must be REPLENISHABLE or NON_REPLENISHABLE, got {kind}")
        document = {
            "consumableResourceName": name,
            "consumableResourceArn": f"{ARN}:consumable-resource/{name}",
            "totalQuantity": total,
            "resourceType": kind,
            "createdAt": self._now_ms(),
            "tags": request.get("tags", {}),
        }
        self._registry.put_consumable(name, document)
        self._count(document)
        return _identity(document)

    def _describe(self, request: Document) -> Document:
        document = self._registry.consumable(request["consumableResource"])
        name, units = document["consumableResourceName"], self._engine.units
        return {
            **{key: item for key, item in document.items() if key != "clientToken"},
            "totalQuantity": units.consumables[name].total,
            "inUseQuantity": units.in_use[name],
            "availableQuantity": units.available(name),
        }

    def _update(self, request: Document) -> Document:
        document = self._registry.consumable(request["consumableResource"])
        quantity, operation = request.get("quantity", 0), request.get("operation", "SET")
        if quantity < 0:
            raise refused(f"quantity must not be negative, got {quantity}")
        token = request.get("clientToken")
        if token and token == document.get("clientToken"):
            return {**_identity(document), "totalQuantity": document["totalQuantity"]}
        before = self._engine.units.consumables[document["consumableResourceName"]].total
        totals = {"SET": quantity, "ADD": before + quantity, "REMOVE": before - quantity}
        if operation not in totals:
            raise refused(f"operation must be SET, ADD or REMOVE, got {operation}")
        if totals[operation] < 0:
            raise refused(f"The total quantity is {before}; {quantity} cannot be removed.")
        document = {**document, "totalQuantity": totals[operation], **({"clientToken": token} if token else {})}
        self._registry.put_consumable(document["consumableResourceName"], document)
        self._count(document)
        return {**_identity(document), "totalQuantity": document["totalQuantity"]}

    def _delete(self, request: Document) -> Document:
        name = self._registry.consumable(request["consumableResource"])["consumableResourceName"]
        self._registry.put_consumable(name, None)
        del self._engine.units.consumables[name]
        return {}

    def _list(self, request: Document) -> Document:
        fits = _filtered(request, "CONSUMABLE_RESOURCE_NAME")
        documents = [self._describe({"consumableResource": name}) for name in self._registry.consumables if fits(name)]
        shown = ("consumableResourceArn", "consumableResourceName", "totalQuantity", "inUseQuantity", "resourceType")
        return _page("consumableResources", [{key: item[key] for key in shown} for item in documents], request)

    def _list_jobs(self, request: Document) -> Document:
        name = self._registry.consumable(request["consumableResource"])["consumableResourceName"]
        jobs = (job for job in self._engine.jobs.values() if name in dict(job.spec.consumes))
        filters = request.get("filters", [])
        if filters and filters[0].get("name") == "JOB_STATUS":
            wanted = filters[0].get("values", [])
            shown = [item for item in map(self._job, jobs) if item["jobStatus"] in wanted]
        else:
            fits = _filtered(request, "JOB_NAME")
            shown = [item for item in map(self._job, jobs) if fits(item["jobName"])]
        return _page("jobs", [{**item, "quantity": _quantity(item, name)} for item in shown], request)

    def _job(self, job: BatchJob) -> Document:
        listed = summary(job, None)
        shown = {
            "jobArn": listed["jobArn"],
            "jobQueueArn": job.spec.shown["jobQueue"],
            "jobName": listed["jobName"],
            "jobDefinitionArn": job.spec.shown["jobDefinition"],
            "jobStatus": listed["status"],
            "createdAt": listed["createdAt"],
            "consumableResourceProperties": {
                "consumableResourceList": [{"consumableResource": n, "quantity": q} for n, q in job.spec.consumes]
            },
        }
        optional = {key: listed[key] for key in ("statusReason", "startedAt") if key in listed}
        return shown | optional | {key: job.spec.shown[key] for key in ("shareIdentifier",) if key in job.spec.shown}


def _quantity(item: Document, name: str) -> int:
    entries = item["consumableResourceProperties"]["consumableResourceList"]
    return int(next(entry["quantity"] for entry in entries if entry["consumableResource"] == name))


def _identity(document: Document) -> Document:
    return {key: document[key] for key in ("consumableResourceName", "consumableResourceArn")}


def _filtered(request: Document, name: str) -> Callable[[str], bool]:
    filters = request.get("filters", [])
    if not filters:
        return lambda text: True
    values = filters[0].get("values", [])
    if len(filters) != 1 or filters[0].get("name") != name or not values:
        raise refused(f"Only one filter is supported: {name} with values.")
    return lambda text: any(like(text.lower(), value.lower()) for value in values)


def _page(key: str, items: Iterable[Any], request: Document) -> Document:
    size = request.get("maxResults") or PAGE
    if not 1 <= size <= PAGE:
        raise refused(f"maxResults must be between 1 and {PAGE}.")
    start = listing_position(request.get("nextToken"))
    page = list(islice(items, start, start + size + 1))
    answer: Document = {key: page[:size]}
    return answer | ({"nextToken": f"embedded.{start + size}"} if len(page) > size else {})
