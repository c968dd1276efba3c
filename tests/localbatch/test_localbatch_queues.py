"""Queues and compute environments that are switched off, and queues with shares."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from batch_pipeline.localbatch.testing import VirtualBatch
from tests.localbatch.conftest import describe, refusal, submit

if TYPE_CHECKING:
    from mypy_boto3_batch import BatchClient


def test_a_disabled_environment_starts_nothing_and_lets_go_on_what_runs(
    batch: VirtualBatch, client: BatchClient
) -> None:
    running = submit(client, "running")
    batch.advance(0.5)
    client.update_compute_environment(computeEnvironment="embedded", state="DISABLED")
    waiting = submit(client, "waiting", 3)
    batch.run_until_idle()
    assert [job["status"] for job in describe(client, running, waiting)] == ["SUCCEEDED", "PENDING"]
    assert client.describe_jobs(jobs=[f"{waiting}:0"])["jobs"][0]["status"] == "RUNNABLE"
    client.update_compute_environment(computeEnvironment="embedded", state="ENABLED")
    batch.run_until_idle()
    assert [job["status"] for job in describe(client, waiting)] == ["SUCCEEDED"]


def test_what_is_changed_is_shown(batch: VirtualBatch, client: BatchClient) -> None:
    client.update_compute_environment(computeEnvironment="embedded", state="DISABLED")
    (shown,) = client.describe_compute_environments(computeEnvironments=["embedded"])["computeEnvironments"]
    assert (shown["state"], shown["status"]) == ("DISABLED", "VALID")


def test_a_delay_of_scaling_down_is_kept_if_aws_would_take_it(client: BatchClient) -> None:
    def change(minutes: int) -> None:
        policy: Any = {"scalingPolicy": {"minScaleDownDelayMinutes": minutes}}
        client.update_compute_environment(computeEnvironment="embedded", computeResources=policy)

    for minutes in (20, 10_080, 0):
        change(minutes)
        (shown,) = client.describe_compute_environments(computeEnvironments=["embedded"])["computeEnvironments"]
        assert dict(shown["computeResources"])["scalingPolicy"] == {"minScaleDownDelayMinutes": minutes}
    for minutes in (19, 10_081):
        assert "must be 0 or between 20 and 10080" in refusal(lambda: change(minutes))  # noqa: B023


def test_a_disabled_queue_takes_no_jobs_and_finishes_those_it_has(batch: VirtualBatch, client: BatchClient) -> None:
    waiting = submit(client, "waiting", 3)
    client.update_job_queue(jobQueue="default", state="DISABLED")
    assert "DISABLED" in refusal(lambda: submit(client, "late"))
    batch.run_until_idle()
    assert [job["status"] for job in describe(client, waiting)] == ["SUCCEEDED"]


def test_one_environment_that_works_is_enough(batch: VirtualBatch, client: BatchClient) -> None:
    client.create_compute_environment(computeEnvironmentName="second", type="UNMANAGED")
    client.create_job_queue(
        jobQueueName="both",
        priority=1,
        computeEnvironmentOrder=[
            {"order": 1, "computeEnvironment": "embedded"},
            {"order": 2, "computeEnvironment": "second"},
        ],
    )
    client.update_compute_environment(computeEnvironment="embedded", state="DISABLED")
    job, stuck = submit(client, jobQueue="both"), submit(client)
    batch.run_until_idle()
    assert [found["status"] for found in describe(client, job, stuck)] == ["SUCCEEDED", "RUNNABLE"]


def test_a_starved_queue_says_why_at_its_head(batch: VirtualBatch, client: BatchClient) -> None:
    job = submit(client)
    batch.starve()
    second = submit(client, size=2)
    assert describe(client, job)[0]["status"] == "RUNNING"
    batch.run_until_idle()
    batch.starve()
    assert "CAPACITY" in client.describe_jobs(jobs=[f"{second}:0"])["jobs"][0]["statusReason"]
    batch.feed()
    batch.run_until_idle()
    (ended,) = describe(client, second)
    assert ended["status"] == "SUCCEEDED"
    assert "statusReason" not in ended


# Shares.


@pytest.fixture
def fair(client: BatchClient) -> str:
    policy = client.create_scheduling_policy(name="fair", fairsharePolicy={"shareDistribution": []})["arn"]
    client.create_job_queue(
        jobQueueName="fair",
        priority=1,
        schedulingPolicyArn=policy,
        computeEnvironmentOrder=[{"order": 1, "computeEnvironment": "embedded"}],
    )
    assert client.describe_scheduling_policies(arns=[policy])["schedulingPolicies"][0]["name"] == "fair"
    return "fair"


def test_a_fair_share_queue_takes_jobs_that_name_a_share(batch: VirtualBatch, client: BatchClient, fair: str) -> None:
    job = submit(client, size=2, jobQueue=fair, shareIdentifier="lab*", schedulingPriorityOverride=7)
    batch.run_until_idle()
    (shown,) = describe(client, job)
    assert (shown["status"], shown["shareIdentifier"], shown["schedulingPriority"]) == ("SUCCEEDED", "lab*", 7)


@pytest.mark.parametrize(
    "more", [{}, {"shareIdentifier": "a-b"}, {"shareIdentifier": "a", "schedulingPriorityOverride": 10_000}]
)
def test_a_fair_share_queue_refuses_other_jobs(more: Any, client: BatchClient, fair: str) -> None:
    assert refusal(lambda: submit(client, jobQueue=fair, **more))


@pytest.mark.parametrize("more", [{"shareIdentifier": "a"}, {"schedulingPriorityOverride": 1}])
def test_other_queues_refuse_shares(more: Any, client: BatchClient) -> None:
    assert "fair share scheduling policy" in refusal(lambda: submit(client, **more))


def test_a_queue_needs_a_policy_that_is_there(client: BatchClient) -> None:
    arn = "arn:aws:batch:us-east-1:000000000000:scheduling-policy/none"
    order = [{"order": 1, "computeEnvironment": "embedded"}]
    assert "does not exist" in refusal(
        lambda: client.create_job_queue(
            jobQueueName="q",
            priority=1,
            schedulingPolicyArn=arn,
            computeEnvironmentOrder=order,  # type: ignore[arg-type]
        )
    )


def test_a_snapshot_has_the_front_of_the_queue_in_order_and_the_vcpus_in_use(
    batch: VirtualBatch, client: BatchClient
) -> None:
    batch.queue("other")
    first = submit(client, "first", 3)
    batch.advance(10)
    second = submit(client, "second", 200)
    submit(client, jobQueue="other")
    began = batch.clock.now_ms()

    def snapshot(queue: str = "default") -> dict[str, Any]:
        return dict(client.get_job_queue_snapshot(jobQueue=queue))

    client.update_compute_environment(computeEnvironment="embedded", state="DISABLED")
    batch.run_until_idle()
    front = snapshot()["frontOfQueue"]["jobs"]
    assert len(front) == 100
    assert [job["jobArn"].rpartition("/")[2] for job in front[:2]] == [f"{second}:2", f"{second}:3"]
    assert all(job["earliestTimeAtPosition"] <= began for job in front)
    assert snapshot()["queueUtilization"]["totalCapacityUsage"] == [{"capacityUnit": "VCPU", "quantity": 0.0}]
    client.update_compute_environment(computeEnvironment="embedded", state="ENABLED")
    moved = batch.clock.now_ms()
    shown = snapshot("arn:aws:batch:us-east-1:000000000000:job-queue/default")
    assert shown["queueUtilization"]["totalCapacityUsage"] == [{"capacityUnit": "VCPU", "quantity": 2.0}]
    assert shown["frontOfQueue"]["jobs"][0]["jobArn"].endswith(f"{second}:4")
    assert {job["earliestTimeAtPosition"] for job in shown["frontOfQueue"]["jobs"]} == {moved}
    client.cancel_job(jobId=f"{second}:4", reason="not needed")
    assert snapshot()["frontOfQueue"]["jobs"][0]["jobArn"].endswith(f"{second}:5")
    assert "does not exist" in refusal(lambda: snapshot("nowhere"))
    assert describe(client, first)[0]["status"] == "SUCCEEDED"
