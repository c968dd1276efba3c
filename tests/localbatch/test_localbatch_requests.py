"""What is refused, what is shown: submission, definitions, queues, lists, tags."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from botocore.exceptions import ClientError, ReadTimeoutError

from batch_pipeline.localbatch.api.middleware import AnswerLost
from batch_pipeline.localbatch.api.model import ApiError, ApiRequest
from batch_pipeline.localbatch.engine.job import Document
from batch_pipeline.localbatch.testing import VirtualBatch
from tests.localbatch.conftest import define, describe, refusal, submit

if TYPE_CHECKING:
    from mypy_boto3_batch import BatchClient


_EXIT = {"onReason": "*", "action": "EXIT"}


def variables(characters: int) -> dict[str, Any]:
    return {"containerOverrides": {"environment": [{"name": "X", "value": "x" * characters}]}}


@pytest.mark.parametrize("name", ["-a", "a b", "", "a" * 129, "a/b", "é"])
def test_job_names(client: BatchClient, name: str) -> None:
    assert "jobName" in refusal(lambda: submit(client, name))
    submit(client, "a" * 128)
    submit(client, "0_-")


def test_a_request_of_more_than_30_kib_is_refused(client: BatchClient) -> None:
    assert "Job size must be less than 30 KiB, got 40 KiB" in refusal(lambda: submit(client, **variables(40_000)))


@pytest.mark.parametrize(("characters", "accepted"), [(6_500, True), (7_700, False), (20_000, False)])
def test_long_overrides_are_accepted_and_fail_later(
    batch: VirtualBatch, client: BatchClient, characters: int, accepted: bool
) -> None:
    job_id = submit(client, size=2, **variables(characters))
    batch.run_until_idle()
    for job in describe(client, job_id, f"{job_id}:1"):
        assert job["status"] == ("SUCCEEDED" if accepted else "FAILED")
        assert (job.get("statusReason") == "Container Overrides length must be at most 8192") is not accepted


def test_names_of_batch_are_not_for_users(client: BatchClient) -> None:
    overrides = {"environment": [{"name": "AWS_BATCH_FOO", "value": "1"}]}
    assert "AWS_BATCH" in refusal(lambda: submit(client, containerOverrides=overrides))
    assert "AWS_BATCH" in refusal(lambda: define(client, "x", environment=overrides["environment"]))


def test_an_empty_word_in_a_command_is_refused(client: BatchClient) -> None:
    assert "empty string" in refusal(lambda: submit(client, containerOverrides={"command": ["a", ""]}))


@pytest.mark.parametrize(
    "unknown", [{"jobQueue": "nowhere"}, {"jobDefinition": "nothing"}, {"jobDefinition": "tool:9"}]
)
def test_what_is_not_there_is_refused(client: BatchClient, unknown: dict[str, Any]) -> None:
    assert next(iter(unknown.values())) in refusal(lambda: submit(client, **unknown))


def test_share_identifiers_need_a_fair_share_queue(client: BatchClient) -> None:
    assert "fair share" in refusal(lambda: submit(client, shareIdentifier="me"))


def test_a_disabled_queue_takes_no_jobs_and_finishes_those_it_has(batch: VirtualBatch, client: BatchClient) -> None:
    job_id = submit(client, size=3)
    client.update_job_queue(jobQueue="default", state="DISABLED")
    assert "DISABLED" in refusal(lambda: submit(client))
    batch.run_until_idle()
    assert describe(client, job_id)[0]["status"] == "SUCCEEDED"
    client.update_job_queue(jobQueue="default", state="ENABLED")
    submit(client)


def test_a_definition_may_be_named_in_four_ways(batch: VirtualBatch, client: BatchClient) -> None:
    arn = client.describe_job_definitions(jobDefinitionName="tool")["jobDefinitions"][0]["jobDefinitionArn"]
    for name in ("tool", "tool:1", arn, arn.rpartition(":")[0]):
        assert describe(client, submit(client, jobDefinition=name))[0]["jobDefinition"] == arn


def test_without_a_revision_the_latest_active_one_is_meant(client: BatchClient) -> None:
    define(client, command=["second"])
    define(client, command=["third"])
    client.deregister_job_definition(jobDefinition="tool:3")
    assert describe(client, submit(client))[0]["container"]["command"] == ["second"]


def test_inactive_definitions_are_refused(client: BatchClient) -> None:
    client.deregister_job_definition(jobDefinition="tool:1")
    for name in ("tool", "tool:1"):
        assert "INACTIVE" in refusal(lambda name=name: submit(client, jobDefinition=name))  # type: ignore[misc]
    found = client.describe_job_definitions(jobDefinitions=["tool:1"])["jobDefinitions"]
    assert [each["status"] for each in found] == ["INACTIVE"]


def test_a_definition_shows_lists_and_loses_empty_variables(client: BatchClient) -> None:
    pairs = [{"name": "A", "value": ""}, {"name": "B", "value": "b"}]
    define(
        client,
        "d",
        environment=pairs,
        retryStrategy={"attempts": 2, "evaluateOnExit": [{"onReason": "*", "action": "EXIT"}]},
    )
    (shown,) = client.describe_job_definitions(jobDefinitions=["d"])["jobDefinitions"]
    assert shown["containerProperties"]["environment"] == [{"name": "B", "value": "b"}]
    assert shown["containerProperties"]["volumes"] == []
    assert shown["retryStrategy"]["evaluateOnExit"] == [{"onReason": "*", "action": "exit"}]
    assert (shown["status"], shown["revision"]) == ("ACTIVE", 1)


def test_a_new_revision_is_its_own(client: BatchClient) -> None:
    define(client, "d", platformCapabilities=["EC2"], propagateTags=False)
    define(client, "d", propagateTags=True)
    found = client.describe_job_definitions(jobDefinitionName="d", status="ACTIVE")["jobDefinitions"]
    assert [(each["revision"], each["propagateTags"]) for each in found] == [(2, True), (1, False)]


def test_definitions_come_in_pages(client: BatchClient) -> None:
    for _ in range(5):
        define(client, "many")
    pages = client.get_paginator("describe_job_definitions").paginate(
        jobDefinitionName="many", PaginationConfig={"PageSize": 2}
    )
    assert [[each["revision"] for each in page["jobDefinitions"]] for page in pages] == [[5, 4], [3, 2], [1]]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"command": ["x" * 25_000]}, "24 KiB"),
        ({"vcpus": "0"}, "VCPU"),
        ({"vcpus": "many"}, "not a number"),
        ({"retryStrategy": {"attempts": 99}}, "between 1 and 10"),
        ({"timeout": {"attemptDurationSeconds": 5}}, "at least 60"),
        ({"platformCapabilities": ["FARGATE"], "vcpus": "3"}, "Fargate"),
        ({"tags": {f"k{n}": "v" for n in range(51)}}, "50 tags"),
    ],
)
def test_wrong_definitions_are_refused(client: BatchClient, changes: Any, words: str) -> None:
    assert words in refusal(lambda: define(client, "wrong", **changes))


def test_kinds_of_definitions_that_the_embedded_batch_does_not_run(client: BatchClient) -> None:
    call = lambda: client.register_job_definition(jobDefinitionName="x", type="multinode")  # noqa: E731
    assert "type container" in refusal(call)


@pytest.mark.parametrize(
    ("command", "parameters", "wanted"),
    [
        (["Ref::a", "x"], {"a": "1"}, ["1", "x"]),
        (["--ab=Ref::ab"], {"a": "1", "ab": "2"}, ["--ab=2"]),
        (["Ref::a-Ref::b"], {"a": "1", "b": "2"}, ["1-2"]),
        (["Ref::a.bam"], {"a": "1"}, ["1.bam"]),
        (["Ref::a/Ref::a"], {"a": "1"}, ["1/1"]),
    ],
)
def test_parameters_are_put_in(client: BatchClient, command: Any, parameters: Any, wanted: list[str]) -> None:
    define(client, "refs", command=command, parameters={"a": "default"})
    job_id = submit(client, jobDefinition="refs", parameters=parameters)
    assert describe(client, job_id)[0]["container"]["command"] == wanted


def test_the_definitions_parameters_are_defaults(client: BatchClient) -> None:
    define(client, "refs", command=["Ref::a"], parameters={"a": "default"})
    assert describe(client, submit(client, jobDefinition="refs"))[0]["container"]["command"] == ["default"]


@pytest.mark.parametrize("command", [["Ref::b"], ["--ab=Ref::ab"]])
def test_a_missing_parameter_is_refused(client: BatchClient, command: list[str]) -> None:
    define(client, "refs", command=command, parameters={"a": "1"})
    wanted = "Unable to substitute value. No parameter found for reference "
    assert wanted in refusal(lambda: submit(client, jobDefinition="refs"))


def test_no_more_than_a_hundred_jobs_are_described(client: BatchClient) -> None:
    assert "Maximum number of jobs supported is  100" in refusal(lambda: client.describe_jobs(jobs=["x"] * 101))


def test_unknown_jobs_are_silently_missing(client: BatchClient) -> None:
    job_id = submit(client, size=2)
    found = client.describe_jobs(jobs=["unknown", job_id, f"{job_id}:7", f"{job_id}:x", "u:0"])["jobs"]
    assert [job["jobId"] for job in found] == [job_id]
    assert client.describe_jobs(jobs=[])["jobs"] == []


def test_lists_show_running_jobs_unless_told(batch: VirtualBatch, client: BatchClient) -> None:
    plain, array = submit(client), submit(client, size=2)
    listed = [job["jobId"] for job in client.list_jobs(jobQueue="default")["jobSummaryList"]]
    assert listed == [plain]
    pending = client.list_jobs(jobQueue="default", jobStatus="PENDING")["jobSummaryList"]
    assert [job["jobId"] for job in pending] == [array]
    assert [c["jobId"] for c in client.list_jobs(arrayJobId=array)["jobSummaryList"]] == [f"{array}:0"]


def test_a_list_needs_exactly_one_place(client: BatchClient) -> None:
    assert "Exactly one" in refusal(client.list_jobs)
    assert "Exactly one" in refusal(lambda: client.list_jobs(jobQueue="default", arrayJobId="x"))


def test_children_are_listed_in_pages_of_a_thousand(batch: VirtualBatch, client: BatchClient) -> None:
    job_id = submit(client, size=2502)
    pages = list(client.get_paginator("list_jobs").paginate(arrayJobId=job_id, jobStatus="RUNNABLE"))
    assert [len(page["jobSummaryList"]) for page in pages] == [1000, 1000, 500]
    listed = [job["jobId"] for page in pages for job in page["jobSummaryList"]]
    assert listed == [f"{job_id}:{index}" for index in range(2, 2502)]


def test_queue_pages_do_not_shift_when_jobs_arrive(client: BatchClient) -> None:
    ids = [submit(client, f"job{number}", size=2) for number in range(5)]
    request: dict[str, Any] = {"jobQueue": "default", "jobStatus": "PENDING", "maxResults": 2}
    listed: list[str] = []
    more = True
    while more:
        page = client.list_jobs(**request)
        listed += [job["jobId"] for job in page["jobSummaryList"]]
        submit(client, "later", size=2)
        more = "nextToken" in page
        request["nextToken"] = page.get("nextToken")
    assert listed == ids[::-1]


def test_a_childs_summary_tells_why_it_failed(batch: VirtualBatch, client: BatchClient) -> None:
    batch.outcome("job", 1, exit_code=137, reason="OutOfMemoryError: much")
    job_id = submit(client, size=3)
    batch.run_until_idle()
    (failed,) = client.list_jobs(arrayJobId=job_id, jobStatus="FAILED")["jobSummaryList"]
    assert failed["container"] == {"exitCode": 137, "reason": "OutOfMemoryError: much"}
    assert (failed["arrayProperties"], failed["jobId"]) == ({"index": 1}, f"{job_id}:1")


def listed(client: BatchClient, name: str, *values: str) -> list[str]:
    found = client.list_jobs(jobQueue="default", filters=[{"name": name, "values": list(values)}])
    return [job["jobName"] for job in found["jobSummaryList"]]


def test_filters(batch: VirtualBatch, client: BatchClient) -> None:
    define(client, "other")
    submit(client, "run-Aa-1")
    batch.advance(10)
    middle = str(batch.now_ms() - 5)
    submit(client, "run-ab-2", size=2, jobDefinition="other")
    batch.run_until_idle()
    assert listed(client, "JOB_NAME", "RUN-aA-1") == ["run-Aa-1"]
    assert listed(client, "JOB_NAME", "run-a*") == ["run-ab-2", "run-Aa-1"]
    assert listed(client, "JOB_NAME", "run-a") == []
    assert listed(client, "JOB_DEFINITION", "other") == ["run-ab-2"]
    assert listed(client, "AFTER_CREATED_AT", middle) == ["run-ab-2"]
    assert listed(client, "BEFORE_CREATED_AT", middle) == ["run-Aa-1"]
    assert "one filter" in refusal(
        lambda: client.list_jobs(jobQueue="default", filters=[{"name": "JOB_NAME", "values": ["x"]}] * 2)
    )
    assert "not supported" in refusal(lambda: listed(client, "COLOUR", "red"))


def test_filtered_pages_hold_a_hundred(client: BatchClient) -> None:
    for _ in range(101):
        submit(client)
    page = client.list_jobs(jobQueue="default", filters=[{"name": "JOB_NAME", "values": ["job"]}])
    assert len(page["jobSummaryList"]) == 100
    assert "nextToken" in page


def test_tags_are_for_jobs_and_not_for_children(client: BatchClient) -> None:
    job_id = submit(client, size=2, tags={"a": "1"})
    parent, child = describe(client, job_id, f"{job_id}:0")
    client.tag_resource(resourceArn=parent["jobArn"], tags={"b": "2"})
    assert client.list_tags_for_resource(resourceArn=parent["jobArn"])["tags"] == {"a": "1", "b": "2"}
    client.untag_resource(resourceArn=parent["jobArn"], tagKeys=["a"])
    assert describe(client, job_id)[0]["tags"] == {"b": "2"}
    assert child["tags"] == {}
    assert "child jobs" in refusal(lambda: client.tag_resource(resourceArn=child["jobArn"], tags={"b": "2"}))


@pytest.mark.parametrize("tags", [{"aws:x": "1"}, {"a*": "1"}, {"a": "x" * 257}, {f"k{n}": "v" for n in range(51)}])
def test_wrong_tags_are_refused(client: BatchClient, tags: dict[str, str]) -> None:
    assert "ag" in refusal(lambda: submit(client, tags=tags))


def test_queues_and_environments_are_made_and_described(client: BatchClient) -> None:
    client.create_compute_environment(computeEnvironmentName="ce", type="UNMANAGED")
    order: Any = [{"order": 1, "computeEnvironment": "ce"}]
    client.create_job_queue(jobQueueName="mine", priority=5, computeEnvironmentOrder=order)
    (queue,) = client.describe_job_queues(jobQueues=["mine"])["jobQueues"]
    (environment,) = client.describe_compute_environments(computeEnvironments=["ce"])["computeEnvironments"]
    assert (queue["state"], queue["status"], queue["priority"]) == ("ENABLED", "VALID", 5)
    assert queue["computeEnvironmentOrder"][0]["computeEnvironment"] == environment["computeEnvironmentArn"]
    assert len(client.describe_job_queues()["jobQueues"]) == 2
    again = {"jobQueueName": "mine", "priority": 5, "computeEnvironmentOrder": order}
    assert "already exists" in refusal(lambda: client.create_job_queue(**again))
    assert "does not exist" in refusal(
        lambda: client.create_job_queue(
            jobQueueName="q", priority=1, computeEnvironmentOrder=[{"order": 1, "computeEnvironment": "none"}]
        )
    )


def test_logs_are_read_forward_and_backward(batch: VirtualBatch, client: BatchClient) -> None:
    text = "".join(f"line {number}\n" for number in range(25)) + "no end"
    batch.outcome(log=text)
    job_id = submit(client, size=2)
    batch.run_until_idle()
    stream = describe(client, f"{job_id}:1")[0]["container"]["logStreamName"]
    logs = batch.client("logs")
    request: Any = {"logGroupName": "/aws/batch/job", "logStreamName": stream, "limit": 10}
    page = logs.get_log_events(**request, startFromHead=True)
    lines: list[str] = []
    while page["events"]:
        lines += [event["message"] for event in page["events"]]
        token = page["nextForwardToken"]
        page = logs.get_log_events(**request, nextToken=token)
    assert page["nextForwardToken"] == token
    assert lines == text.splitlines()
    tail = logs.get_log_events(**request)
    assert [event["message"] for event in tail["events"]] == lines[-10:]
    before = logs.get_log_events(**request, nextToken=tail["nextBackwardToken"])
    assert [event["message"] for event in before["events"]] == lines[-20:-10]


def test_logs_are_filtered_and_streams_are_listed(batch: VirtualBatch, client: BatchClient) -> None:
    batch.outcome(log="good\nbad one\ngood\n")
    submit(client, size=3)
    batch.run_until_idle()
    logs = batch.client("logs")
    found = logs.filter_log_events(logGroupName="/aws/batch/job", filterPattern="bad", logStreamNamePrefix="tool/")
    assert [event["message"] for event in found["events"]] == ["bad one"] * 3
    pages = logs.get_paginator("describe_log_streams").paginate(
        logGroupName="/aws/batch/job", logStreamNamePrefix="tool/default/", PaginationConfig={"PageSize": 2}
    )
    names = [stream["logStreamName"] for page in pages for stream in page["logStreams"]]
    assert len(set(names)) == 3
    paged = logs.get_paginator("filter_log_events").paginate(
        logGroupName="/aws/batch/job", logStreamNames=names, PaginationConfig={"PageSize": 2}
    )
    assert [len(page["events"]) for page in paged] == [2, 2, 2, 2, 1]


@pytest.mark.parametrize("changed", [{"logGroupName": "/other"}, {"logStreamName": "tool/default/" + "0" * 32}])
def test_logs_that_do_not_exist(batch: VirtualBatch, changed: dict[str, str]) -> None:
    request: Any = {"logGroupName": "/aws/batch/job", "logStreamName": "x", **changed}
    with pytest.raises(ClientError, match="does not exist") as caught:
        batch.client("logs").get_log_events(**request)
    assert caught.value.response["Error"]["Code"] == "ResourceNotFoundException"


def test_what_the_model_does_not_allow_is_refused(batch: VirtualBatch) -> None:
    def post(path: str, body: bytes) -> tuple[int, str]:
        answer = batch.batch.answer("POST", path, {}, body)
        return answer.status, json.loads(answer.body)["message"]

    assert "Missing required parameter" in post("/v1/submitjob", b"{}")[1]
    assert "Unknown parameter" in post("/v1/describejobs", b'{"jobs": [], "colour": 1}')[1]
    assert "Invalid type" in post("/v1/describejobs", b'{"jobs": 1}')[1]
    assert "must be one of" in post("/v1/listjobs", b'{"jobQueue": "default", "jobStatus": "HAPPY"}')[1]
    assert "json" in post("/v1/listjobs", b"{")[1]
    assert post("/v1/nothing", b"{}")[0] == 404


def test_operations_that_are_missing_say_so(batch: VirtualBatch) -> None:
    with pytest.raises(ClientError) as caught:
        batch.client("batch").list_scheduling_policies()
    assert caught.value.response["Error"]["Code"] == "UnknownOperationException"


class Trouble:
    """Throttles the first call and loses the second's answer."""

    def __init__(self) -> None:
        self.calls = 0

    def before(self, request: ApiRequest) -> None:
        self.calls += 1
        if self.calls == 1:
            raise ApiError("Too Many Requests", code="TooManyRequestsException", status=429)

    def after(self, request: ApiRequest, answer: Document) -> Document:
        if self.calls == 2:
            raise AnswerLost
        return {**answer, "jobs": []} if "jobs" in answer else answer


def test_faults_on_purpose(batch: VirtualBatch) -> None:
    from botocore.config import Config

    once = Config(retries={"total_max_attempts": 1})
    client = batch.client("batch", config=once)
    define(client)
    batch.calls.clear()
    batch.faults = Trouble()
    with pytest.raises(ClientError, match="TooManyRequestsException"):
        submit(client)
    with pytest.raises(ReadTimeoutError):
        submit(client)
    assert client.describe_jobs(jobs=[])["jobs"] == []
    batch.faults = None
    assert len(client.list_jobs(jobQueue="default")["jobSummaryList"]) == 1
    assert [call.operation for call in batch.calls] == ["SubmitJob", "SubmitJob", "DescribeJobs", "ListJobs"]
    assert batch.calls[0].parameters["jobName"] == "job"


def test_answers_have_the_shape_of_the_model(batch: VirtualBatch, client: BatchClient) -> None:
    """Whatever is answered is a member of the model's output; botocore would drop it silently otherwise."""
    batch.outcome("job", 0, exit_code=1, log="x")
    job_id = submit(client, size=2, retryStrategy={"attempts": 2}, timeout={"attemptDurationSeconds": 60})
    batch.run_until_idle()
    asked = [
        ("DescribeJobs", {"jobs": [job_id, f"{job_id}:0"]}),
        ("ListJobs", {"arrayJobId": job_id, "jobStatus": "FAILED"}),
        ("ListJobs", {"jobQueue": "default", "jobStatus": "FAILED"}),
        ("DescribeJobDefinitions", {}),
        ("DescribeJobQueues", {}),
        ("DescribeComputeEnvironments", {}),
    ]
    for operation, parameters in asked:
        answer = batch.batch.answer("POST", f"/v1/{operation.lower()}", {}, json.dumps(parameters).encode())
        shape = client.meta.service_model.operation_model(operation).output_shape
        assert shape is not None
        assert_fits(json.loads(answer.body), shape, operation)


def assert_fits(value: Any, shape: Any, where: str) -> None:
    kinds: dict[str, Any] = {
        "string": str,
        "integer": int,
        "long": int,
        "boolean": bool,
        "structure": dict,
        "map": dict,
        "list": list,
    }
    assert isinstance(value, kinds[shape.type_name]), where
    if shape.type_name == "structure":
        assert value.keys() <= shape.members.keys(), where
        for name, member in value.items():
            assert_fits(member, shape.members[name], f"{where}.{name}")
    elif shape.type_name == "list":
        for item in value:
            assert_fits(item, shape.member, where)
