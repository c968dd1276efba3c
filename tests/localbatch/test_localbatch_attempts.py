"""Attempts: retries, timeouts, reasons, exit codes, cancelling and terminating."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from batch_pipeline.localbatch.testing import VirtualBatch
from tests.localbatch.conftest import define, describe, refusal, statuses, submit

if TYPE_CHECKING:
    from mypy_boto3_batch import BatchClient


def test_exit_code_and_reasons_are_on_job_and_attempt(batch: VirtualBatch, client: BatchClient) -> None:
    oom = "OutOfMemoryError: Container killed due to memory usage"
    batch.outcome("job", exit_code=137, reason=oom, seconds=5)
    job_id = submit(client, size=2)
    begun = batch.now_ms()
    batch.run_until_idle()
    (child,) = describe(client, f"{job_id}:1")
    (attempt,) = child["attempts"]
    assert child["statusReason"] == attempt["statusReason"] == "Essential container in task exited"
    for container in (child["container"], attempt["container"]):
        assert (container["exitCode"], container["reason"]) == (137, oom)
        assert container["logStreamName"].startswith("tool/default/")
    assert attempt["startedAt"] == child["startedAt"] == begun
    assert attempt["stoppedAt"] == child["stoppedAt"] == begun + 5000


def test_a_plain_job_that_succeeds_says_so_too(batch: VirtualBatch, client: BatchClient) -> None:
    job_id = submit(client)
    batch.run_until_idle()
    (job,) = describe(client, job_id)
    assert (job["status"], job["container"]["exitCode"]) == ("SUCCEEDED", 0)
    assert "arrayProperties" not in job


def test_a_job_is_tried_as_often_as_its_strategy_says(batch: VirtualBatch, client: BatchClient) -> None:
    batch.outcome("job", exit_code=1)
    batch.outcome("job", attempt=3, exit_code=0)
    job_id = submit(client, retryStrategy={"attempts": 4})
    batch.run_until_idle()
    (job,) = describe(client, job_id)
    assert job["status"] == "SUCCEEDED"
    assert [attempt["container"]["exitCode"] for attempt in job["attempts"]] == [1, 1, 0]
    assert len({attempt["container"]["logStreamName"] for attempt in job["attempts"]}) == 3
    assert job["retryStrategy"] == {"attempts": 4, "evaluateOnExit": []}


def test_the_definitions_strategy_counts_unless_overridden(batch: VirtualBatch, client: BatchClient) -> None:
    define(client, "stubborn", retryStrategy={"attempts": 3})
    batch.outcome(exit_code=1)
    both = (
        submit(client, jobDefinition="stubborn"),
        submit(client, jobDefinition="stubborn", retryStrategy={"attempts": 1}),
    )
    batch.run_until_idle()
    assert [len(job["attempts"]) for job in describe(client, *both)] == [3, 1]


def test_a_retried_child_goes_to_the_front(batch: VirtualBatch, client: BatchClient) -> None:
    batch.outcome("job", 0, attempt=1, exit_code=1, seconds=1)
    batch.outcome("job", 1, seconds=10)
    job_id = submit(client, size=4, retryStrategy={"attempts": 2})
    batch.advance(1.5)
    assert statuses(client, job_id, 4) == ["RUNNING", "RUNNING", "RUNNABLE", "RUNNABLE"]


_HOST = "Host EC2 (instance i-0) terminated."
_EXIT = {"onReason": "*", "action": "EXIT"}


@pytest.mark.parametrize(
    ("rules", "outcome", "attempts"),
    [
        (
            [{"onStatusReason": "Host EC2*", "action": "RETRY"}, _EXIT],
            {"status_reason": _HOST},
            3,
        ),
        ([{"onStatusReason": "Host EC2*", "action": "RETRY"}, _EXIT], {}, 1),
        ([{"onExitCode": "75", "action": "retry"}, _EXIT], {"exit_code": 75}, 3),
        ([{"onExitCode": "75", "action": "RETRY"}, _EXIT], {"exit_code": 7}, 1),
        ([{"onExitCode": "7*", "action": "EXIT"}], {"exit_code": 75}, 1),
        ([{"onExitCode": "7", "action": "EXIT"}], {"exit_code": 75}, 3),
        ([{"onReason": "OutOfMemoryError:*", "action": "EXIT"}], {"reason": "OutOfMemoryError: much"}, 1),
        ([{"onReason": "Out*", "onExitCode": "1", "action": "EXIT"}], {"reason": "Out", "exit_code": 2}, 3),
        ([{"onExitCode": "2", "action": "RETRY"}, {"onExitCode": "*", "action": "EXIT"}], {"exit_code": 2}, 3),
    ],
)
def test_evaluate_on_exit(
    batch: VirtualBatch, client: BatchClient, rules: Any, outcome: dict[str, Any], attempts: int
) -> None:
    batch.outcome(**{"exit_code": 1, **outcome})
    job_id = submit(client, retryStrategy={"attempts": 3, "evaluateOnExit": rules})
    batch.run_until_idle()
    (job,) = describe(client, job_id)
    assert len(job["attempts"]) == attempts
    assert {rule["action"] for rule in job["retryStrategy"]["evaluateOnExit"]} <= {"retry", "exit"}


def test_exit_0_succeeds_whatever_the_status_reason_says(batch: VirtualBatch, client: BatchClient) -> None:
    batch.outcome(status_reason="Your Spot Task was interrupted.")
    job_id = submit(client, retryStrategy={"attempts": 3})
    batch.run_until_idle()
    (job,) = describe(client, job_id)
    assert (job["status"], len(job["attempts"])) == ("SUCCEEDED", 1)


@pytest.mark.parametrize(
    ("strategy", "words"),
    [
        ({"attempts": 0}, "between 1 and 10"),
        ({"attempts": 11}, "between 1 and 10"),
        ({"evaluateOnExit": [_EXIT]}, "RetryAttempts must be provided"),
        ({"attempts": 2, "evaluateOnExit": [_EXIT] * 6}, "at most 5"),
        ({"attempts": 2, "evaluateOnExit": [{"onReason": "*out", "action": "EXIT"}]}, "restricted characters"),
        ({"attempts": 2, "evaluateOnExit": [{"onStatusReason": "(i)", "action": "EXIT"}]}, "restricted characters"),
        ({"attempts": 2, "evaluateOnExit": [{"onExitCode": "x", "action": "EXIT"}]}, "restricted characters"),
        ({"attempts": 2, "evaluateOnExit": [{"action": "EXIT"}]}, "needs onStatusReason"),
    ],
)
def test_wrong_strategies_are_refused(client: BatchClient, strategy: Any, words: str) -> None:
    assert words in refusal(lambda: submit(client, retryStrategy=strategy))


def test_a_timeout_ends_the_attempt_and_is_not_retried(batch: VirtualBatch, client: BatchClient) -> None:
    batch.outcome(seconds=None, stopping_seconds=99)
    job_id = submit(client, size=2, timeout={"attemptDurationSeconds": 60}, retryStrategy={"attempts": 3})
    batch.advance(59)
    assert statuses(client, job_id, 2) == ["RUNNING"] * 2
    batch.advance(32)
    (child,) = describe(client, f"{job_id}:1")
    assert child["status"] == "FAILED"
    assert child["statusReason"] == child["attempts"][0]["statusReason"] == "Job attempt duration exceeded timeout"
    assert (child["container"]["exitCode"], len(child["attempts"])) == (137, 1)


def test_each_attempt_has_the_whole_timeout(batch: VirtualBatch, client: BatchClient) -> None:
    batch.outcome(exit_code=1, seconds=50)
    job_id = submit(client, timeout={"attemptDurationSeconds": 60}, retryStrategy={"attempts": 3})
    batch.run_until_idle()
    (job,) = describe(client, job_id)
    assert [a["statusReason"] for a in job["attempts"]] == ["Essential container in task exited"] * 3


def test_timeouts_below_a_minute_are_refused(client: BatchClient) -> None:
    assert "at least 60" in refusal(lambda: submit(client, timeout={"attemptDurationSeconds": 59}))


def test_terminating_an_array_ends_all_its_children(batch: VirtualBatch, client: BatchClient) -> None:
    batch.outcome(seconds=None)
    job_id = submit(client, size=4)
    after = submit(client, size=4, after=[{"jobId": job_id, "type": "N_TO_N"}])
    client.terminate_job(jobId=job_id, reason="enough")
    batch.run_until_idle()
    assert statuses(client, job_id, 4) == ["FAILED"] * 4
    parent, running, waiting = describe(client, job_id, f"{job_id}:0", f"{job_id}:3")
    for job in (parent, running, waiting):
        assert (job["status"], job["statusReason"], job["isTerminated"]) == ("FAILED", "enough", True)
    assert (running["container"]["exitCode"], waiting["attempts"]) == (143, [])
    assert describe(client, f"{after}:0")[0]["statusReason"] == "Dependent Job failed"


def test_a_terminated_job_is_failed_even_if_it_exits_0(batch: VirtualBatch, client: BatchClient) -> None:
    batch.outcome(seconds=None, stopped_exit_code=0, stopping_seconds=3)
    job_id = submit(client, retryStrategy={"attempts": 5})
    client.terminate_job(jobId=job_id, reason="enough")
    batch.run_until_idle()
    (job,) = describe(client, job_id)
    assert (job["status"], job["statusReason"], len(job["attempts"])) == ("FAILED", "enough", 1)


def test_terminating_one_child_leaves_the_others(batch: VirtualBatch, client: BatchClient) -> None:
    job_id = submit(client, size=3)
    client.terminate_job(jobId=f"{job_id}:1", reason="not this one")
    batch.run_until_idle()
    assert statuses(client, job_id, 3) == ["SUCCEEDED", "FAILED", "SUCCEEDED"]
    assert describe(client, job_id)[0]["statusReason"] == "Array Child Job failed"


def test_cancelling_leaves_alone_what_runs(batch: VirtualBatch, client: BatchClient) -> None:
    job_id = submit(client, size=4)
    client.cancel_job(jobId=job_id, reason="enough")
    assert statuses(client, job_id, 4) == ["RUNNING", "RUNNING", "FAILED", "FAILED"]
    batch.run_until_idle()
    assert statuses(client, job_id, 4) == ["SUCCEEDED", "SUCCEEDED", "FAILED", "FAILED"]
    parent, ran, cancelled = describe(client, job_id, f"{job_id}:0", f"{job_id}:3")
    assert (parent["status"], parent["isCancelled"], parent["isTerminated"]) == ("FAILED", True, False)
    assert (ran["isCancelled"], cancelled["isCancelled"], cancelled["statusReason"]) == (False, True, "enough")


def test_a_pending_job_is_cancelled_when_its_dependencies_have_ended(batch: VirtualBatch, client: BatchClient) -> None:
    batch.outcome("first", seconds=100)
    first = submit(client, "first")
    second = submit(client, after=[{"jobId": first}])
    client.cancel_job(jobId=second, reason="enough")
    (job,) = describe(client, second)
    assert (job["status"], job["isCancelled"]) == ("PENDING", True)
    batch.run_until_idle()
    (job,) = describe(client, second)
    assert (job["status"], job["statusReason"], job["attempts"]) == ("FAILED", "enough", [])


def test_what_has_ended_is_not_changed(batch: VirtualBatch, client: BatchClient) -> None:
    job_id = submit(client)
    batch.run_until_idle()
    before = describe(client, job_id)
    client.terminate_job(jobId=job_id, reason="too late")
    client.cancel_job(jobId=job_id, reason="too late")
    assert describe(client, job_id) == before


def test_unknown_jobs_are_terminated_without_a_word(client: BatchClient) -> None:
    client.terminate_job(jobId="11111111-2222-3333-4444-555555555555", reason="x")
    client.cancel_job(jobId="11111111-2222-3333-4444-555555555555", reason="x")


def test_jobs_are_terminated_in_bulk(batch: VirtualBatch, client: BatchClient) -> None:
    batch.outcome(seconds=None)
    ids = [submit(client) for _ in range(3)]
    answer = client.terminate_jobs(jobs=[*ids, "unknown"], reason="enough")
    assert (answer["successful"], answer["errors"]) == ([*ids, "unknown"], [])
    batch.run_until_idle()
    assert {job["statusReason"] for job in describe(client, *ids)} == {"enough"}
    assert "Maximum" in refusal(lambda: client.cancel_jobs(jobs=["x"] * 51, reason="x"))


def test_a_reason_has_1024_characters_at_most(client: BatchClient) -> None:
    assert "1024" in refusal(lambda: client.terminate_job(jobId="x", reason="x" * 1025))


def test_starting_precedes_running(batch: VirtualBatch, client: BatchClient) -> None:
    batch.outcome(starting_seconds=30)
    job_id = submit(client, size=2)
    (child,) = describe(client, f"{job_id}:0")
    assert child["status"] == "STARTING"
    assert "logStreamName" not in child["container"]
    batch.advance(30)
    assert statuses(client, job_id, 2) == ["RUNNING"] * 2
