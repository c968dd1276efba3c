"""Consumable resources as AWS documents them: the six operations, and how many children run side by side."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from batch_pipeline.localbatch.api.logs import LogMemory
from batch_pipeline.localbatch.engine.state import SqliteStorage
from batch_pipeline.localbatch.hosts.scripted import ScriptedExecutor, VirtualClock
from batch_pipeline.localbatch.service import Batch
from batch_pipeline.localbatch.testing import VirtualBatch
from tests.localbatch.conftest import define, describe, refusal, statuses, submit

if TYPE_CHECKING:
    from mypy_boto3_batch import BatchClient


@pytest.fixture
def batch() -> VirtualBatch:
    return VirtualBatch(vcpus=10)


def needs(name: str = "licence", quantity: int = 1) -> Any:
    return {"consumableResourceList": [{"consumableResource": name, "quantity": quantity}]}


def running(client: BatchClient, job_id: str, size: int) -> int:
    return statuses(client, job_id, size).count("RUNNING")


def in_use(client: BatchClient, name: str = "licence") -> tuple[int, int, int]:
    shown = client.describe_consumable_resource(consumableResource=name)
    return shown["totalQuantity"], shown["inUseQuantity"], shown["availableQuantity"]


def test_children_run_side_by_side_as_units_are_there(batch: VirtualBatch, client: BatchClient) -> None:
    client.create_consumable_resource(consumableResourceName="licence", totalQuantity=2)
    job = submit(client, size=5, consumableResourcePropertiesOverride=needs())
    assert statuses(client, job, 5) == ["RUNNING", "RUNNING", "RUNNABLE", "RUNNABLE", "RUNNABLE"]
    assert in_use(client) == (2, 2, 0)
    batch.advance(1)
    assert statuses(client, job, 5) == ["SUCCEEDED", "SUCCEEDED", "RUNNING", "RUNNING", "RUNNABLE"]
    batch.run_until_idle()
    assert describe(client, job)[0]["status"] == "SUCCEEDED"
    assert in_use(client) == (2, 0, 2)


def test_a_definition_says_it_too_and_the_job_goes_before_it(batch: VirtualBatch, client: BatchClient) -> None:
    client.create_consumable_resource(consumableResourceName="licence", totalQuantity=4)
    define(client, "licensed", consumableResourceProperties=needs(quantity=2))
    usual = submit(client, size=3, jobDefinition="licensed")
    assert running(client, usual, 3) == 2
    assert describe(client, usual)[0]["consumableResourceProperties"] == needs(quantity=2)
    batch.run_until_idle()
    other = submit(client, size=3, jobDefinition="licensed", consumableResourcePropertiesOverride=needs(quantity=1))
    assert running(client, other, 3) == 3


def test_a_child_without_its_units_holds_up_nobody_else(client: BatchClient) -> None:
    client.create_consumable_resource(consumableResourceName="licence", totalQuantity=1)
    narrow = submit(client, size=3, consumableResourcePropertiesOverride=needs())
    free = submit(client, size=3)
    assert (running(client, narrow, 3), running(client, free, 3)) == (1, 3)


def test_those_who_waited_longest_go_first_whatever_they_need(batch: VirtualBatch, client: BatchClient) -> None:
    client.create_consumable_resource(consumableResourceName="licence", totalQuantity=9)
    define(client, "large", vcpus="10")
    ids = [
        submit(client, jobDefinition="large", **({"consumableResourcePropertiesOverride": needs()} if odd else {}))
        for odd in (False, True, False, True, False)
    ]
    for number in range(5):
        assert [job["status"] for job in describe(client, *ids)].index("RUNNING") == number
        batch.advance(1)


def test_a_total_that_changes_starts_more_or_lets_those_go_on_that_run(
    batch: VirtualBatch, client: BatchClient
) -> None:
    client.create_consumable_resource(consumableResourceName="licence", totalQuantity=1)
    job = submit(client, size=9, consumableResourcePropertiesOverride=needs())
    assert client.update_consumable_resource(consumableResource="licence", operation="ADD", quantity=2)[
        "totalQuantity"
    ] == (3)
    assert running(client, job, 9) == 3
    client.update_consumable_resource(consumableResource="licence", operation="REMOVE", quantity=1)
    assert (running(client, job, 9), in_use(client)) == (3, (2, 3, 0))
    client.update_consumable_resource(consumableResource="licence", operation="SET", quantity=1)
    batch.advance(1)
    assert running(client, job, 9) == 1


def test_an_update_with_the_same_token_happens_once(client: BatchClient) -> None:
    client.create_consumable_resource(consumableResourceName="licence", totalQuantity=1)
    for _ in range(2):
        client.update_consumable_resource(
            consumableResource="licence", operation="ADD", quantity=2, clientToken="a-token"
        )
    assert in_use(client)[0] == 3
    assert "clientToken" not in client.describe_consumable_resource(consumableResource="licence")


def test_units_that_are_not_replenishable_are_spent(batch: VirtualBatch, client: BatchClient) -> None:
    client.create_consumable_resource(
        consumableResourceName="credit", totalQuantity=3, resourceType="NON_REPLENISHABLE"
    )
    job = submit(client, size=5, consumableResourcePropertiesOverride=needs("credit"))
    assert in_use(client, "credit") == (3, 3, 0)
    batch.run_until_idle()
    assert statuses(client, job, 5) == ["SUCCEEDED"] * 3 + ["RUNNABLE"] * 2
    assert in_use(client, "credit") == (0, 0, 0)
    client.update_consumable_resource(consumableResource="credit", operation="ADD", quantity=2)
    batch.run_until_idle()
    assert describe(client, job)[0]["status"] == "SUCCEEDED"


def test_a_failed_attempt_gives_its_unit_back(batch: VirtualBatch, client: BatchClient) -> None:
    client.create_consumable_resource(consumableResourceName="licence", totalQuantity=1)
    batch.outcome("*", attempt=1, exit_code=1)
    job = submit(
        client,
        size=2,
        consumableResourcePropertiesOverride=needs(),
        retryStrategy={"attempts": 2, "evaluateOnExit": []},
    )
    batch.run_until_idle()
    assert describe(client, job)[0]["status"] == "SUCCEEDED"
    client.terminate_job(jobId=submit(client, consumableResourcePropertiesOverride=needs()), reason="enough")
    batch.run_until_idle()
    assert in_use(client) == (1, 0, 1)


def test_what_is_deleted_lets_go_on_what_runs_and_is_the_same_when_it_is_made_again(
    batch: VirtualBatch, client: BatchClient
) -> None:
    client.create_consumable_resource(consumableResourceName="licence", totalQuantity=1)
    job = submit(client, size=2, consumableResourcePropertiesOverride=needs())
    client.delete_consumable_resource(consumableResource="licence")
    assert "does not exist" in refusal(lambda: in_use(client))
    batch.run_until_idle()
    assert statuses(client, job, 2) == ["SUCCEEDED", "RUNNABLE"]
    client.create_consumable_resource(consumableResourceName="licence", totalQuantity=1)
    batch.run_until_idle()
    assert statuses(client, job, 2) == ["SUCCEEDED"] * 2


def test_resources_are_listed_in_pages_by_the_beginning_of_their_names(client: BatchClient) -> None:
    for name in ("run-a", "run-b", "run-c", "other"):
        client.create_consumable_resource(consumableResourceName=name, totalQuantity=1)
    chosen: Any = [{"name": "CONSUMABLE_RESOURCE_NAME", "values": ["RUN-*"]}]
    pages = client.get_paginator("list_consumable_resources").paginate(filters=chosen, PaginationConfig={"PageSize": 2})
    listed = [[item["consumableResourceName"] for item in page["consumableResources"]] for page in pages]
    assert listed == [["run-a", "run-b"], ["run-c"]]
    wrong: Any = [{"name": "NAME", "values": ["x"]}]
    assert "CONSUMABLE_RESOURCE_NAME" in refusal(lambda: client.list_consumable_resources(filters=wrong))


def test_jobs_are_listed_by_what_they_need(batch: VirtualBatch, client: BatchClient) -> None:
    client.create_consumable_resource(consumableResourceName="licence", totalQuantity=4)
    submit(client, "without")
    submit(client, "ended", consumableResourcePropertiesOverride=needs(quantity=3))
    batch.advance(1)
    submit(client, "array", 2, consumableResourcePropertiesOverride=needs())

    def listed(**filters: str) -> list[tuple[str, str, int]]:
        chosen: Any = [{"name": name, "values": [value]} for name, value in filters.items()]
        answer = client.list_jobs_by_consumable_resource(consumableResource="licence", filters=chosen)
        return [(job["jobName"], job["jobStatus"], job["quantity"]) for job in answer["jobs"]]

    assert listed() == [("ended", "SUCCEEDED", 3), ("array", "PENDING", 1)]
    assert listed(JOB_STATUS="PENDING") == [("array", "PENDING", 1)]
    assert listed(JOB_NAME="END*") == [("ended", "SUCCEEDED", 3)]


@pytest.mark.parametrize(
    ("request_of", "sentence"),
    [
        ({"consumableResourceName": "a b"}, "valid pattern"),
        ({"consumableResourceName": "a", "totalQuantity": -1}, "must not be negative"),
        ({"consumableResourceName": "a", "resourceType": "LEFT"}, "REPLENISHABLE or NON_REPLENISHABLE"),
        ({"consumableResourceName": "there"}, "already exists"),
    ],
)
def test_what_aws_refuses_to_make_is_refused(client: BatchClient, request_of: Any, sentence: str) -> None:
    client.create_consumable_resource(consumableResourceName="there")
    assert sentence in refusal(lambda: client.create_consumable_resource(**request_of))


def test_what_aws_refuses_to_change_or_to_submit_is_refused(client: BatchClient) -> None:
    client.create_consumable_resource(consumableResourceName="licence", totalQuantity=1)
    for changed, sentence in (
        ({"operation": "REMOVE", "quantity": 2}, "cannot be removed"),
        ({"operation": "SET", "quantity": -1}, "negative"),
        ({"operation": "DOUBLE", "quantity": 1}, "SET, ADD or REMOVE"),
    ):
        change: Any = {"consumableResource": "licence", **changed}
        assert sentence in refusal(lambda: client.update_consumable_resource(**change))  # noqa: B023
    five = {"consumableResourceList": [needs()["consumableResourceList"][0]] * 6}
    for wrong, sentence in (
        (needs("absent"), "does not exist"),
        (needs(quantity=0), "at least 1"),
        (five, "more than 5"),
    ):
        assert sentence in refusal(lambda: submit(client, consumableResourcePropertiesOverride=wrong))  # noqa: B023


def test_an_arn_names_a_resource_and_can_have_tags(client: BatchClient) -> None:
    arn = client.create_consumable_resource(consumableResourceName="licence", tags={"a": "1"})["consumableResourceArn"]
    client.tag_resource(resourceArn=arn, tags={"b": "2"})
    assert client.describe_consumable_resource(consumableResource=arn)["tags"] == {"a": "1", "b": "2"}


def test_totals_and_needs_survive_a_restart(tmp_path: Path) -> None:
    """Spent units are not there again, and what waits for a unit waits for the same."""

    def started() -> tuple[Batch, BatchClient, VirtualClock]:
        storage, clock, logs = SqliteStorage(tmp_path / "batch.sqlite"), VirtualClock(), LogMemory()
        served = Batch(clock=clock, storage=storage, logs=logs, vcpus=9, memory_mib=1000)
        served.load(storage.documents(), storage.jobs())
        served.resume(ScriptedExecutor(clock, served, logs))
        other = VirtualBatch(queues=())
        other.batch = served
        return served, other.client("batch"), clock

    _, client, clock = started()
    client.create_job_queue(
        jobQueueName="default", priority=1, computeEnvironmentOrder=[{"order": 1, "computeEnvironment": "embedded"}]
    )
    define(client)
    client.create_consumable_resource(consumableResourceName="licence", totalQuantity=2)
    client.create_consumable_resource(
        consumableResourceName="credit", totalQuantity=5, resourceType="NON_REPLENISHABLE"
    )
    client.create_consumable_resource(consumableResourceName="gone")
    client.delete_consumable_resource(consumableResource="gone")
    submit(client, size=3, consumableResourcePropertiesOverride=needs("credit"))
    clock.advance_to(clock.now_ms() + 5000)
    job = submit(client, size=4, consumableResourcePropertiesOverride=needs())
    _, client, _ = started()
    listed = client.list_consumable_resources()["consumableResources"]
    assert [(item["consumableResourceName"], item["totalQuantity"]) for item in listed] == [
        ("licence", 2),
        ("credit", 2),
    ]
    assert running(client, job, 4) == 2
