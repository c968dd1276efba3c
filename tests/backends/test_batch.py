from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import stamina

from batch_pipeline.backends.base import ArrayChild, JobRequest, JobState
from batch_pipeline.backends.batch import BatchBackend
from batch_pipeline.backends.definitions import NO_IMAGE, named
from batch_pipeline.wire.contract import EndReason
from batch_pipeline.wire.errors import BackendFailed, SubmissionRefused, SubmissionUnknown

Wire = Any


@pytest.fixture
def impatient() -> Iterator[None]:
    """Tries again without waiting in between."""
    with stamina.set_testing(True, attempts=10):
        yield


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """botocore's own waits, noted instead of waited."""
    noted: list[float] = []
    monkeypatch.setattr("botocore.endpoint.time.sleep", noted.append)
    monkeypatch.setattr("botocore.retries.bucket.TokenBucket.acquire", lambda bucket, *amount, **block: True)
    return noted


def _parent(native_id: str = "a", *, size: int = 3, status: str = "PENDING", **counts: Any) -> dict[str, Any]:
    return {
        "jobId": native_id,
        "jobName": "job",
        "status": status,
        "arrayProperties": {"size": size, "statusSummary": counts},
    }


def _child(index: int, status: str, **more: Any) -> dict[str, Any]:
    return {
        "jobId": f"a:{index}",
        "jobName": "job",
        "status": status,
        "arrayProperties": {"index": index},
    } | more


# Submitting.


def test_a_job_names_the_revision_of_its_definition(backend: BatchBackend, wire: Wire, job: JobRequest) -> None:
    wire.answers["DescribeJobDefinitions"] = lambda asked: {"jobDefinitions": []}
    wire.answers["RegisterJobDefinition"] = lambda asked: {
        "jobDefinitionName": asked["jobDefinitionName"],
        "jobDefinitionArn": "arn",
        "revision": 4,
    }
    assert backend.submit(job) == "id-0"
    assert wire.of("RegisterJobDefinition") == [job.definition]
    assert wire.of("SubmitJob")[0]["jobDefinition"] == f"{job.definition['jobDefinitionName']}:4"


def test_one_look_up_serves_all_definitions_and_the_process(backend: BatchBackend, wire: Wire, job: JobRequest) -> None:
    definitions = [named({**job.definition, "jobDefinitionName": f"d{i}"}) for i in range(30)]
    backend.prepare(definitions)
    backend.prepare(definitions)
    for definition in definitions[:3]:
        backend.submit(replace(job, definition=definition))
    assert backend.calls == {"DescribeJobDefinitions": 1, "SubmitJob": 3}


def test_only_definitions_that_are_missing_are_registered(backend: BatchBackend, wire: Wire, job: JobRequest) -> None:
    old, new, gone = (named({**job.definition, "jobDefinitionName": name}) for name in ("old", "new", "gone"))

    def describe(asked: dict[str, Any]) -> dict[str, Any]:
        def shown(definition: Any, revision: int, status: str) -> dict[str, Any]:
            name = definition["jobDefinitionName"]
            return {"jobDefinitionName": name, "revision": revision, "status": status}

        if "jobDefinitions" in asked:
            return {"jobDefinitions": [shown(old, 1, "ACTIVE"), shown(gone, 1, "INACTIVE")]}
        assert asked["status"] == "ACTIVE"
        if "nextToken" not in asked:
            return {"jobDefinitions": [], "nextToken": "more"}
        return {"jobDefinitions": [shown(gone, 7, "ACTIVE")]}

    wire.answers["DescribeJobDefinitions"] = describe
    wire.answers["RegisterJobDefinition"] = lambda asked: {
        "jobDefinitionName": asked["jobDefinitionName"],
        "jobDefinitionArn": "arn",
        "revision": 1,
    }
    backend.prepare([old, new, gone])
    assert [sent["jobDefinitionName"] for sent in wire.of("RegisterJobDefinition")] == [new["jobDefinitionName"]]
    backend.submit(replace(job, definition=gone))
    assert wire.of("SubmitJob")[0]["jobDefinition"].endswith(":7")


@pytest.mark.usefixtures("impatient")
def test_two_drivers_may_register_at_once(backend: BatchBackend, wire: Wire, job: JobRequest) -> None:
    words = "Too many concurrent attempts to create a new revision of the specified family"
    answers = deque(
        [
            wire.refusal("ClientException", message=words),
            {"jobDefinitionName": job.definition["jobDefinitionName"], "jobDefinitionArn": "arn", "revision": 2},
        ]
    )
    wire.answers["DescribeJobDefinitions"] = lambda asked: {"jobDefinitions": []}
    wire.answers["RegisterJobDefinition"] = lambda asked: answers.popleft()
    backend.submit(job)
    assert wire.of("SubmitJob")[0]["jobDefinition"].endswith(":2")


def test_a_refused_definition_means_that_nothing_was_queued(backend: BatchBackend, wire: Wire, job: JobRequest) -> None:
    wire.answers["DescribeJobDefinitions"] = lambda asked: {"jobDefinitions": []}
    wire.answers["RegisterJobDefinition"] = lambda asked: wire.refusal("ClientException", message="image too long")
    with pytest.raises(SubmissionRefused, match=r"nothing was queued.*image too long"):
        backend.submit(job)
    assert not wire.of("SubmitJob")


def test_aws_runs_nothing_without_an_image(backend: BatchBackend, wire: Wire, job: JobRequest) -> None:
    container = {**job.definition["containerProperties"], "image": NO_IMAGE}
    with pytest.raises(SubmissionRefused, match="names no image"):
        backend.submit(replace(job, definition=named({**job.definition, "containerProperties": container})))
    assert wire.requests == []


@pytest.mark.parametrize(
    ("code", "status"),
    [("ClientException", 400), ("AccessDeniedException", 403), ("ValidationException", 400)],
)
def test_a_refusal_is_told_as_such(code: str, status: int, backend: BatchBackend, wire: Wire, job: JobRequest) -> None:
    wire.answers["SubmitJob"] = lambda asked: wire.refusal(code, status, "Job queue no does not exist")
    with pytest.raises(
        SubmissionRefused, match=r"refused job job \(\w+: Job queue no does not exist\)\. \w+"
    ) as raised:
        backend.submit(job)
    assert not raised.value.transient
    assert len(wire.of("SubmitJob")) == 1


@pytest.mark.parametrize(
    ("code", "status"), [("ServerException", 500), ("AuthorizerConfigurationException", 500), ("Unavailable", 503)]
)
def test_a_failing_server_leaves_doubt_and_is_asked_once(
    code: str, status: int, backend: BatchBackend, wire: Wire, job: JobRequest
) -> None:
    wire.answers["SubmitJob"] = lambda asked: wire.refusal(code, status)
    with pytest.raises(SubmissionUnknown, match="It is not known whether job job was queued"):
        backend.submit(job)
    assert len(wire.of("SubmitJob")) == 1


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("code", ["TooManyRequestsException", "ThrottlingException"])
def test_a_throttled_submission_is_made_again(code: str, backend: BatchBackend, wire: Wire, job: JobRequest) -> None:
    answers = deque([wire.refusal(code, 429)] * 3 + [{"jobName": "job", "jobId": "at-last"}])
    wire.answers["SubmitJob"] = lambda asked: answers.popleft()
    assert backend.submit(job) == "at-last"
    assert len(wire.of("SubmitJob")) == 4


@pytest.mark.usefixtures("impatient")
@pytest.mark.slow
def test_throttling_without_end_ends_in_an_error(backend: BatchBackend, wire: Wire, job: JobRequest) -> None:
    wire.answers["SubmitJob"] = lambda asked: wire.refusal("TooManyRequestsException", 429)
    with pytest.raises(BackendFailed, match="job is not queued") as raised:
        backend.submit(job)
    assert not isinstance(raised.value, (SubmissionRefused, SubmissionUnknown))
    assert raised.value.transient
    assert len(wire.of("SubmitJob")) == 10


def test_what_breaks_a_limit_is_not_sent(backend: BatchBackend, wire: Wire, job: JobRequest) -> None:
    with pytest.raises(SubmissionRefused, match="bytes, at most 6500"):
        backend.submit(replace(job, environment={"A": "x" * 8192}))
    assert wire.requests == []


# Reading.


def test_a_job_is_found_by_its_exact_name_on_any_page(backend: BatchBackend, wire: Wire) -> None:
    def listed(asked: dict[str, Any]) -> dict[str, Any]:
        assert asked["filters"] == [{"name": "JOB_NAME", "values": ["Run-a"]}]
        assert "jobStatus" not in asked
        if "nextToken" not in asked:
            return {"jobSummaryList": [{"jobId": "1", "jobName": "run-a"}], "nextToken": "t"}
        named = [{"jobId": "3", "jobName": "Run-a"}, {"jobId": "2", "jobName": "Run-a"}]
        return {"jobSummaryList": named}

    wire.answers["ListJobs"] = listed
    assert backend.find("Run-a", "mixed") == "3"
    wire.answers["ListJobs"] = lambda asked: {"jobSummaryList": [{"jobId": "1", "jobName": "run-a"}]}
    assert backend.find("Run-a", "mixed") is None


def test_summaries_ask_for_a_hundred_at_once_and_keep_what_was_left_out(backend: BatchBackend, wire: Wire) -> None:
    ids = [f"j{i}" for i in range(250)]
    wire.answers["DescribeJobs"] = lambda asked: {
        "jobs": [_parent(native_id, SUCCEEDED=3) for native_id in reversed(asked["jobs"]) if native_id != "j7"]
    }
    found = backend.summaries([*ids, "j3"])
    assert [len(sent["jobs"]) for sent in wire.of("DescribeJobs")] == [100, 100, 50, 1], (
        "what was left out is asked for once more"
    )
    assert list(found) == ids
    assert found["j7"].state is JobState.UNKNOWN
    assert found["j8"].counts == {JobState.SUCCEEDED: 3}


def test_no_ids_are_no_call(backend: BatchBackend, wire: Wire) -> None:
    assert backend.summaries([]) == {}
    assert wire.requests == []


@pytest.mark.parametrize(
    ("status", "told", "expected"),
    [
        ("SUBMITTED", {}, {JobState.SUBMITTED: 3}),
        ("PENDING", {"RUNNING": 1}, {JobState.RUNNING: 1, JobState.PENDING: 2}),
        ("SUCCEEDED", {"SUCCEEDED": 2}, {JobState.SUCCEEDED: 3}),
        ("FAILED", {"SUCCEEDED": 1, "FAILED": 1}, {JobState.SUCCEEDED: 1, JobState.FAILED: 1, JobState.UNKNOWN: 1}),
        ("FAILED", {}, {JobState.FAILED: 3}),
        ("PENDING", {"RUNNING": 0, "FAILED": 3}, {JobState.FAILED: 3}),
    ],
)
def test_counts_add_up_though_aws_counts_late(
    status: str, told: dict[str, Any], expected: dict[JobState, int], backend: BatchBackend, wire: Wire
) -> None:
    wire.answers["DescribeJobs"] = lambda asked: {"jobs": [_parent(status=status, **told)]}
    assert backend.summaries(["a"])["a"].counts == expected


def test_children_come_in_pages_of_the_states_asked_for(backend: BatchBackend, wire: Wire) -> None:
    wire.answers["DescribeJobs"] = lambda asked: {"jobs": [_parent(size=2500)]}

    def listed(asked: dict[str, Any]) -> dict[str, Any]:
        assert asked["arrayJobId"] == "a"
        if asked["jobStatus"] != "RUNNING":
            return {"jobSummaryList": []}
        start = int(asked.get("nextToken", 0))
        page = [_child(i, "RUNNING") for i in range(start, min(start + 1000, 2500))]
        return {"jobSummaryList": page} | ({"nextToken": str(start + 1000)} if start + 1000 < 2500 else {})

    wire.answers["ListJobs"] = listed
    found = list(backend.children("a", [JobState.RUNNING, JobState.SUCCEEDED]))
    assert [child.index for child in found] == list(range(2500))
    assert found[0] == ArrayChild(index=0, state=JobState.RUNNING)
    assert [sent["jobStatus"] for sent in wire.of("ListJobs")] == ["RUNNING"] * 3 + ["SUCCEEDED"]


def test_a_child_tells_why_it_ended(backend: BatchBackend, wire: Wire) -> None:
    failed = _child(
        2,
        "FAILED",
        statusReason="Essential container in task exited",
        container={"exitCode": 137, "reason": "OutOfMemoryError: Container killed due to memory usage"},
    )
    wire.answers["DescribeJobs"] = lambda asked: {"jobs": [_parent()]}
    wire.answers["ListJobs"] = lambda asked: {"jobSummaryList": [failed]}
    assert list(backend.children("a", [JobState.FAILED])) == [
        ArrayChild(
            index=2,
            state=JobState.FAILED,
            end_reason=EndReason.OUT_OF_MEMORY,
            exit_code=137,
            status_reason="Essential container in task exited OutOfMemoryError: Container killed due to memory usage",
        )
    ]


def test_a_plain_job_is_its_own_child(backend: BatchBackend, wire: Wire) -> None:
    wire.answers["DescribeJobs"] = lambda asked: {"jobs": [{"jobId": "p", "jobName": "job", "status": "RUNNING"}]}
    assert list(backend.children("p", [JobState.RUNNING])) == [ArrayChild(index=0, state=JobState.RUNNING)]
    assert list(backend.children("p", [JobState.FAILED])) == []


def test_a_forgotten_job_has_no_children_and_no_log(backend: BatchBackend, wire: Wire) -> None:
    wire.answers["DescribeJobs"] = lambda asked: {"jobs": []}
    assert list(backend.children("x", list(JobState))) == []
    assert list(backend.logs("x", 0)) == []


def test_an_array_that_failed_before_it_had_children_has_failed_children(backend: BatchBackend, wire: Wire) -> None:
    words = "Container Overrides length must be at most 8192"
    wire.answers["DescribeJobs"] = lambda asked: {"jobs": [_parent(status="FAILED") | {"statusReason": words}]}
    wire.answers["ListJobs"] = lambda asked: {"jobSummaryList": []}
    found = list(backend.children("a", [JobState.SUCCEEDED, JobState.FAILED]))
    assert [(child.index, child.end_reason) for child in found] == [(i, EndReason.CONTRACT) for i in range(3)]


def test_a_throttled_reader_insists(backend: BatchBackend, wire: Wire, waits: list[float]) -> None:
    answers: deque[Any] = deque([wire.refusal("TooManyRequestsException", 429)] * 2 + [{"jobs": [_parent()]}])
    wire.answers["DescribeJobs"] = lambda asked: answers.popleft()
    assert backend.summaries(["a"])["a"].state is JobState.PENDING
    assert backend.calls["DescribeJobs"] == 1
    assert len(wire.of("DescribeJobs")) == 3
    assert len(waits) == 2


def test_an_error_names_the_call_the_words_and_the_remedy(backend: BatchBackend, wire: Wire) -> None:
    wire.answers["DescribeJobs"] = lambda asked: wire.refusal("AccessDeniedException", 403, "you may not")
    with pytest.raises(BackendFailed) as raised:
        backend.summaries(["a"])
    assert raised.value.message == (
        "AWS Batch refused DescribeJobs (AccessDeniedException: you may not). "
        "Give your AWS identity the right to call it."
    )
    assert not raised.value.transient


# Logs and the end.


def _logged(wire: Wire, detail: dict[str, Any]) -> None:
    wire.answers["DescribeJobs"] = lambda asked: {
        "jobs": [_parent() if native_id == "a" else detail for native_id in asked["jobs"]]
    }


def test_logs_are_read_until_the_token_repeats(backend: BatchBackend, wire: Wire) -> None:
    _logged(wire, _child(1, "RUNNING", container={"logStreamName": "s"}))
    pages = {None: ("f/1", ["one", "two"]), "f/1": ("f/2", []), "f/2": ("f/3", ["three"]), "f/3": ("f/3", [])}

    def page(asked: dict[str, Any]) -> dict[str, Any]:
        assert (asked["logGroupName"], asked["logStreamName"], asked["startFromHead"]) == ("/aws/batch/job", "s", True)
        token, lines = pages[asked.get("nextToken")]
        return {"events": [{"message": line} for line in lines], "nextForwardToken": token}

    wire.answers["GetLogEvents"] = page
    assert list(backend.logs("a", 1)) == ["one", "two", "three"]
    assert wire.of("DescribeJobs")[-1] == {"jobs": ["a:1"]}


@pytest.mark.parametrize(("attempt", "stream"), [(None, "s3"), (1, "s1"), (2, "s2"), (3, "s3"), (4, None), (0, None)])
def test_an_attempt_has_its_own_log(attempt: int | None, stream: str | None, backend: BatchBackend, wire: Wire) -> None:
    ended = [{"container": {"logStreamName": "s1"}}, {"container": {"logStreamName": "s2"}}]
    _logged(wire, _child(1, "RUNNING", attempts=ended, container={"logStreamName": "s3"}))
    wire.answers["GetLogEvents"] = lambda asked: {
        "events": [] if "nextToken" in asked else [{"message": asked["logStreamName"]}],
        "nextForwardToken": "t",
    }
    assert list(backend.logs("a", 1, attempt)) == ([stream] if stream else [])


def test_a_log_group_of_ones_own_is_read(backend: BatchBackend, wire: Wire) -> None:
    own = {"logStreamName": "s", "logConfiguration": {"logDriver": "awslogs", "options": {"awslogs-group": "mine"}}}
    _logged(wire, _child(1, "RUNNING", container=own))
    wire.answers["GetLogEvents"] = lambda asked: {"events": [], "nextForwardToken": asked.get("nextToken", "t")}
    assert list(backend.logs("a", 1)) == []
    assert wire.of("GetLogEvents")[0]["logGroupName"] == "mine"


def test_a_log_that_is_gone_is_empty(backend: BatchBackend, wire: Wire) -> None:
    _logged(wire, _child(1, "FAILED", container={"logStreamName": "s"}))
    wire.answers["GetLogEvents"] = lambda asked: wire.refusal("ResourceNotFoundException")
    assert list(backend.logs("a", 1)) == []


def test_a_child_that_never_ran_has_no_log(backend: BatchBackend, wire: Wire) -> None:
    _logged(wire, _child(1, "PENDING"))
    assert list(backend.logs("a", 1)) == []


def test_cancelling_terminates_with_the_reason(backend: BatchBackend, wire: Wire) -> None:
    wire.answers["TerminateJob"] = lambda asked: {}
    backend.cancel("a", "x" * 2000)
    assert wire.of("TerminateJob") == [{"jobId": "a", "reason": "x" * 1024}]


def test_cancelling_a_forgotten_job_is_no_error(backend: BatchBackend, wire: Wire) -> None:
    wire.answers["TerminateJob"] = lambda asked: wire.refusal("ClientException", message="no such job")
    wire.answers["DescribeJobs"] = lambda asked: {"jobs": []}
    backend.cancel("a", "enough")
    wire.answers["DescribeJobs"] = lambda asked: {"jobs": [_parent()]}
    with pytest.raises(BackendFailed, match="no such job"):
        backend.cancel("a", "enough")


def test_children_are_ended_fifty_a_call_and_their_siblings_left(backend: BatchBackend, wire: Wire) -> None:
    wire.answers["DescribeJobs"] = lambda asked: {"jobs": [_parent(size=200)]}
    wire.answers["TerminateJobs"] = lambda asked: {"successful": asked["jobs"], "errors": []}
    backend.cancel_children("a", [*range(60), 3], "enough")
    sent = wire.of("TerminateJobs")
    assert [len(each["jobs"]) for each in sent] == [50, 10]
    assert sent[1] == {"jobs": [f"a:{i}" for i in range(50, 60)], "reason": "enough"}
    assert not wire.of("TerminateJob")


@pytest.mark.usefixtures("impatient")
def test_children_that_the_service_had_no_time_for_are_ended_again(backend: BatchBackend, wire: Wire) -> None:
    busy = {"job": "a:1", "code": "ThrottlingException", "message": "later"}
    answers = deque([{"successful": ["a:0"], "errors": [busy]}, {"successful": ["a:0", "a:1"], "errors": []}])
    wire.answers["DescribeJobs"] = lambda asked: {"jobs": [_parent()]}
    wire.answers["TerminateJobs"] = lambda asked: answers.popleft()
    backend.cancel_children("a", [0, 1], "enough")
    assert not answers


def test_a_child_that_may_not_be_ended_says_why(backend: BatchBackend, wire: Wire) -> None:
    denied = {"job": "a:1", "code": "AccessDenied", "message": "no"}
    wire.answers["DescribeJobs"] = lambda asked: {
        "jobs": [_parent() if native_id == "a" else _child(1, "RUNNING") for native_id in asked["jobs"]]
    }
    wire.answers["TerminateJobs"] = lambda asked: {"successful": ["a:0"], "errors": [denied]}
    wire.answers["TerminateJob"] = lambda asked: wire.refusal("AccessDeniedException", 403, f"not {asked['jobId']}")
    with pytest.raises(BackendFailed, match="not a:1"):
        backend.cancel_children("a", [0, 1], "enough")


def test_a_plain_job_is_its_own_child_when_it_is_ended(backend: BatchBackend, wire: Wire) -> None:
    wire.answers["DescribeJobs"] = lambda asked: {"jobs": [{"jobId": "p", "jobName": "job", "status": "RUNNING"}]}
    wire.answers["TerminateJob"] = lambda asked: {}
    backend.cancel_children("p", [0], "enough")
    assert wire.of("TerminateJob") == [{"jobId": "p", "reason": "enough"}]


def test_children_of_a_forgotten_job_need_no_end(backend: BatchBackend, wire: Wire) -> None:
    wire.answers["DescribeJobs"] = lambda asked: {"jobs": []}
    backend.cancel_children("x", [1, 2], "enough")
    assert {name for name, _ in wire.requests} == {"DescribeJobs"}
