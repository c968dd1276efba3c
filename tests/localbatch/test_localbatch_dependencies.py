"""Arrays and dependencies, as boto3 sees them; each is a point at which moto differs from AWS."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from batch_pipeline.localbatch.testing import VirtualBatch
from tests.localbatch.conftest import define, describe, refusal, statuses, submit

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mypy_boto3_batch import BatchClient


def each_after(*ids: str) -> list[dict[str, str]]:
    return [{"jobId": job_id, "type": "N_TO_N"} for job_id in ids]


def test_children_know_index_size_attempt_and_where_they_run(batch: VirtualBatch, client: BatchClient) -> None:
    seen: list[dict[str, str]] = []

    def note(environment: Mapping[str, str], _: Sequence[str]) -> int:
        seen.append(dict(environment))
        return 0

    batch.outcome(action=note)
    job_id = submit(client, size=2, containerOverrides={"environment": [{"name": "MINE", "value": "1"}]})
    batch.run_until_idle()
    assert seen == [
        {
            "MINE": "1",
            "AWS_BATCH_JOB_ID": f"{job_id}:{index}",
            "AWS_BATCH_JOB_ARRAY_INDEX": str(index),
            "AWS_BATCH_JOB_ARRAY_SIZE": "2",
            "AWS_BATCH_JOB_ATTEMPT": "1",
            "AWS_BATCH_JQ_NAME": "default",
            "AWS_BATCH_CE_NAME": "embedded",
        }
        for index in range(2)
    ]


def test_a_plain_job_has_no_index(batch: VirtualBatch, client: BatchClient) -> None:
    seen: list[set[str]] = []

    def note(environment: Mapping[str, str], _: Sequence[str]) -> int:
        seen.append(set(environment))
        return 0

    batch.outcome(action=note)
    submit(client)
    batch.run_until_idle()
    assert "AWS_BATCH_JOB_ID" in seen[0]
    assert not {"AWS_BATCH_JOB_ARRAY_INDEX", "AWS_BATCH_JOB_ARRAY_SIZE"} & seen[0]


def test_describing_children_does_not_mix_their_environments(batch: VirtualBatch, client: BatchClient) -> None:
    job_id = submit(client, size=2, containerOverrides={"environment": [{"name": "A", "value": "b"}]})
    for _ in range(2):
        for child in describe(client, f"{job_id}:0", f"{job_id}:1"):
            assert child["container"]["environment"] == [{"name": "A", "value": "b"}]


def test_a_child_shows_its_index_and_a_parent_its_summary(batch: VirtualBatch, client: BatchClient) -> None:
    job_id = submit(client, size=5)
    parent, child = describe(client, job_id, f"{job_id}:3")
    summary = {"SUBMITTED": 0, "PENDING": 0, "RUNNABLE": 3, "STARTING": 0, "RUNNING": 2, "SUCCEEDED": 0, "FAILED": 0}
    assert child["arrayProperties"] == {"index": 3}
    assert parent["arrayProperties"]["size"] == 5
    assert parent["arrayProperties"]["statusSummary"] == summary
    assert parent["arrayProperties"]["statusSummaryLastUpdatedAt"] == batch.now_ms()


def test_a_parent_is_pending_until_its_last_child_has_ended(batch: VirtualBatch, client: BatchClient) -> None:
    batch.outcome("job", 0, exit_code=1, seconds=1)
    batch.outcome("job", 1, seconds=100)
    job_id = submit(client, size=2)
    batch.advance(50)
    (parent,) = describe(client, job_id)
    assert parent["status"] == "PENDING"
    assert parent["arrayProperties"]["statusSummary"]["FAILED"] == 1
    batch.advance(60)
    (parent,) = describe(client, job_id)
    assert (parent["status"], parent["statusReason"]) == ("FAILED", "Array Child Job failed")


def test_dependents_start_without_anybody_describing_the_parent(batch: VirtualBatch, client: BatchClient) -> None:
    first = submit(client, size=3)
    last = submit(client, after=[{"jobId": first}])
    batch.run_until_idle()
    assert [call.operation for call in batch.calls if call.operation == "DescribeJobs"] == []
    assert describe(client, last)[0]["status"] == "SUCCEEDED"


def test_n_to_n_is_per_index(batch: VirtualBatch, client: BatchClient) -> None:
    batch.outcome("slow", 1, seconds=1000)
    first = submit(client, "slow", size=2)
    second = submit(client, "next", size=2, after=each_after(first))
    batch.advance(10)
    assert statuses(client, first, 2) == ["SUCCEEDED", "RUNNING"]
    assert statuses(client, second, 2) == ["SUCCEEDED", "PENDING"]


def test_n_to_n_on_two_arrays_waits_for_both(batch: VirtualBatch, client: BatchClient) -> None:
    batch.outcome("slow", seconds=100)
    quick, slow = submit(client, "quick", size=2), submit(client, "slow", size=2)
    both = submit(client, size=2, after=each_after(quick, slow))
    batch.advance(50)
    assert statuses(client, quick, 2) == ["SUCCEEDED"] * 2
    assert statuses(client, both, 2) == ["PENDING"] * 2
    batch.run_until_idle()
    assert statuses(client, both, 2) == ["SUCCEEDED"] * 2


def test_a_failed_child_fails_its_own_dependent_only(batch: VirtualBatch, client: BatchClient) -> None:
    batch.outcome("first", 1, exit_code=7)
    first = submit(client, "first", size=3)
    second = submit(client, "second", size=3, after=each_after(first))
    third = submit(client, "third", size=3, after=each_after(second))
    batch.run_until_idle()
    for job_id in (second, third):
        assert statuses(client, job_id, 3) == ["SUCCEEDED", "FAILED", "SUCCEEDED"]
        parent, child = describe(client, job_id, f"{job_id}:1")
        assert parent["statusReason"] == "Array Child Job failed"
        assert child["statusReason"] == "Dependent Job failed"
        assert child["attempts"] == []
        assert "startedAt" not in child


def test_a_failed_array_fails_what_waits_for_the_whole(batch: VirtualBatch, client: BatchClient) -> None:
    batch.outcome("first", 1, exit_code=7)
    first = submit(client, "first", size=2)
    plain = submit(client, after=[{"jobId": first}])
    array = submit(client, size=2, after=[{"jobId": first}])
    batch.run_until_idle()
    for job in describe(client, plain, array, f"{array}:0"):
        assert (job["status"], job["statusReason"]) == ("FAILED", "Dependent Job failed")


def test_sequential_children_run_one_after_another(batch: VirtualBatch, client: BatchClient) -> None:
    job_id = submit(client, size=3, after=[{"type": "SEQUENTIAL"}])
    seen = [statuses(client, job_id, 3)]
    for _ in range(3):
        batch.advance(1)
        seen.append(statuses(client, job_id, 3))
    assert seen == [
        ["RUNNING", "PENDING", "PENDING"],
        ["SUCCEEDED", "RUNNING", "PENDING"],
        ["SUCCEEDED", "SUCCEEDED", "RUNNING"],
        ["SUCCEEDED", "SUCCEEDED", "SUCCEEDED"],
    ]


def test_a_failed_sequential_child_stops_the_rest(batch: VirtualBatch, client: BatchClient) -> None:
    batch.outcome("job", 1, exit_code=1)
    job_id = submit(client, size=4, after=[{"type": "SEQUENTIAL"}])
    batch.run_until_idle()
    assert statuses(client, job_id, 4) == ["SUCCEEDED", "FAILED", "FAILED", "FAILED"]
    assert describe(client, f"{job_id}:3")[0]["statusReason"] == "Dependent Job failed"


def test_kinds_of_dependencies_mix(batch: VirtualBatch, client: BatchClient) -> None:
    first = submit(client, "first", size=3)
    other = submit(client, "other")
    mixed = submit(client, size=3, after=[*each_after(first), {"jobId": other}, {"type": "SEQUENTIAL"}])
    batch.run_until_idle()
    assert statuses(client, mixed, 3) == ["SUCCEEDED"] * 3
    starts = [job["startedAt"] for job in describe(client, *(f"{mixed}:{index}" for index in range(3)))]
    assert starts == sorted(set(starts))


@pytest.mark.parametrize("ended", [0, 1])
def test_a_dependency_that_has_ended_counts_at_once(batch: VirtualBatch, client: BatchClient, ended: int) -> None:
    batch.outcome("first", exit_code=ended)
    first = submit(client, "first", size=2)
    batch.run_until_idle()
    plain, array = submit(client, after=[{"jobId": first}]), submit(client, size=2, after=each_after(first))
    batch.run_until_idle()
    wanted = "FAILED" if ended else "SUCCEEDED"
    assert [job["status"] for job in describe(client, plain, array)] == [wanted, wanted]


def test_a_child_may_be_waited_for(batch: VirtualBatch, client: BatchClient) -> None:
    batch.outcome("first", 0, seconds=100)
    first = submit(client, "first", size=2)
    job_id = submit(client, after=[{"jobId": f"{first}:1"}])
    batch.advance(10)
    assert describe(client, job_id)[0]["status"] == "SUCCEEDED"


@pytest.mark.parametrize(
    ("size", "after", "words"),
    [
        (3, {"type": "N_TO_N"}, "same size"),
        (None, {"type": "N_TO_N"}, "same size"),
        (None, {"type": "SEQUENTIAL", "jobId": None}, "SEQUENTIAL"),
        (2, {"jobId": "11111111-2222-3333-4444-555555555555"}, "does not exist"),
        (2, {"jobId": None, "type": "N_TO_N"}, "jobId is required"),
    ],
)
def test_impossible_dependencies_are_refused(client: BatchClient, size: int | None, after: Any, words: str) -> None:
    first = submit(client, "first", size=2)
    entry = {"jobId": first, **after}
    entry = {key: value for key, value in entry.items() if value is not None}
    assert words in refusal(lambda: submit(client, size=size, after=[entry]))


def test_no_more_than_twenty_dependencies(client: BatchClient) -> None:
    ids = [submit(client, f"job{number}") for number in range(21)]
    after = [{"jobId": job_id} for job_id in ids]
    assert "Job cannot have more than 20 dependencies" in refusal(lambda: submit(client, after=after))
    submit(client, after=after[:20])


@pytest.mark.parametrize("size", [-1, 0, 1, 10_001])
def test_arrays_have_two_to_ten_thousand_children(client: BatchClient, size: int) -> None:
    assert "Array size must be between 2 and 10000" in refusal(lambda: submit(client, size=size))


def test_slots_come_from_the_definition_and_its_overrides(batch: VirtualBatch, client: BatchClient) -> None:
    define(client, "half", vcpus="0.5")
    overrides = {"resourceRequirements": [{"type": "VCPU", "value": "2"}]}
    wide = submit(client, size=2, containerOverrides=overrides)
    narrow = submit(client, size=5, jobDefinition="half")
    assert statuses(client, wide, 2) == ["RUNNING", "RUNNABLE"]
    requirements = describe(client, wide)[0]["container"]["resourceRequirements"]
    assert {"type": "VCPU", "value": "2"} in requirements
    batch.advance(2)
    assert statuses(client, narrow, 5) == ["RUNNING"] * 4 + ["RUNNABLE"]


def test_memory_is_a_slot_too(batch: VirtualBatch, client: BatchClient) -> None:
    define(client, "large", memory="40000")
    job_id = submit(client, size=2, jobDefinition="large")
    assert statuses(client, job_id, 2) == ["RUNNING", "RUNNABLE"]


@pytest.mark.parametrize(
    "wanted", [{"type": "VCPU", "value": "3"}, {"type": "MEMORY", "value": "99999"}, {"type": "GPU", "value": "1"}]
)
def test_a_job_that_never_fits_says_so_and_blocks_nobody(
    batch: VirtualBatch, client: BatchClient, wanted: dict[str, str]
) -> None:
    stuck = submit(client, containerOverrides={"resourceRequirements": [wanted]})
    other = submit(client)
    batch.run_until_idle()
    shown, done = describe(client, stuck, other)
    assert shown["status"] == "RUNNABLE"
    assert shown["statusReason"].startswith("MISCONFIGURATION:JOB_RESOURCE_REQUIREMENT")
    assert done["status"] == "SUCCEEDED"


def test_ten_thousand_children_run_once_each(client: BatchClient, batch: VirtualBatch) -> None:
    first = submit(client, size=10_000)
    second = submit(client, size=10_000, after=each_after(first))
    batch.run_until_idle()
    assert [job["status"] for job in describe(client, first, second)] == ["SUCCEEDED"] * 2
    assert batch.batch.engine.jobs[second].tries == bytes([1]) * 10_000
