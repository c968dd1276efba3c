from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

import pytest

from batch_pipeline.backends.base import After, JobRequest
from batch_pipeline.backends.definitions import resources
from batch_pipeline.backends.limits import check
from batch_pipeline.backends.payload import (
    RunContext,
    needs_list_file,
    overrides_bytes,
    request_of,
    samples_of,
    submit_json,
    with_digests,
)
from batch_pipeline.backends.quotas import AWS_BATCH
from batch_pipeline.pipeline.plan import Plan

PlanOf = Callable[..., Plan]
RUN = "01J00000000000000000000000"


def test_an_array_is_sent_with_its_samples_as_a_comma_list(plan_of: PlanOf, context: RunContext) -> None:
    plan = plan_of(["a", "b", "c"])
    upper, count = plan.jobs[0], plan.jobs[1]
    request = request_of(plan, count, context, [After(native_id="id-1", index_by_index=True)])
    digest = request.definition["jobDefinitionName"].rpartition("-")[2]
    assert upper.name == "upper-0-0"
    sent = with_digests(request, manifest="1" * 64, rows="2" * 64)
    # What was held to the limits is as long as what is sent.
    assert overrides_bytes(sent) == overrides_bytes(request)
    assert submit_json(sent, 7) == {
        "jobName": f"letters-{RUN}-count-0-0",
        "jobQueue": "mixed",
        "jobDefinition": f"letters-count-{digest}:7",
        "arrayProperties": {"size": 3},
        "dependsOn": [{"jobId": "id-1", "type": "N_TO_N"}],
        "containerOverrides": {
            "environment": [
                {"name": "BATCH_FILE_S3_URL", "value": "file:///store/b/code/abc.zip"},
                {"name": "BATCH_FILE_SHA256", "value": "abc"},
                {"name": "BATCH_FILE_TYPE", "value": "zip"},
                {
                    "name": "BATCH_PIPELINE_MANIFEST",
                    "value": f"runs/{RUN}/submissions/count-0-0/manifest.json",
                },
                {"name": "BATCH_PIPELINE_MANIFEST_SHA256", "value": "1" * 64},
                {"name": "BATCH_PIPELINE_ROWS_SHA256", "value": "2" * 64},
                {"name": "BATCH_PIPELINE_RUN_ID", "value": RUN},
                {"name": "BATCH_PIPELINE_STORE", "value": "file:///store/b"},
                {"name": "BUCKET_NAME", "value": "b"},
                {"name": "LIST_OF_SAMPLES", "value": "a,b,c"},
            ]
        },
        "tags": {"batch-pipeline": "letters", "batch-pipeline-run": RUN, "batch-pipeline-step": "count"},
        "propagateTags": True,
    }


def test_a_shard_of_one_is_a_plain_job_with_its_sample(plan_of: PlanOf, context: RunContext) -> None:
    plan = plan_of(["only"])
    request = request_of(plan, plan.jobs[0], context)
    assert request.size == 1
    assert request.environment["SAMPLE_NAME"] == "only"
    assert "LIST_OF_SAMPLES" not in request.environment
    assert "arrayProperties" not in submit_json(request)


def test_a_gather_gets_the_samples_that_it_gathers(plan_of: PlanOf, context: RunContext) -> None:
    plan = replace(plan_of(["a", "b", "c"]), missing={"total": ("b",)})
    total = plan.jobs[-1]
    assert samples_of(plan, total) == ("a", "c")
    assert request_of(plan, total, context).environment["LIST_OF_SAMPLES"] == "a,c"


@pytest.mark.parametrize("count", [10, 500, 800, 10_000])
def test_a_list_that_does_not_fit_becomes_the_url_of_a_file(count: int, plan_of: PlanOf, context: RunContext) -> None:
    samples = [f"sample{i}" for i in range(count)]
    plan = plan_of(samples)
    request = request_of(plan, plan.jobs[0], context)
    listed = request.environment["LIST_OF_SAMPLES"]
    assert overrides_bytes(request) <= 6_500
    check(request, AWS_BATCH)
    if needs_list_file(request):
        assert listed == f"file:///store/b/runs/{RUN}/submissions/upper-0-0/samples.txt"
        with_list = replace(request, environment={**request.environment, "LIST_OF_SAMPLES": ",".join(samples)})
        assert overrides_bytes(with_list) > 6_500
    else:
        assert listed.split(",") == samples
    assert needs_list_file(request) is (count >= 800)


def test_a_join_runs_nothing_and_needs_next_to_nothing(plan_of: PlanOf, context: RunContext) -> None:
    plan = plan_of([f"s{i}" for i in range(12)], max_dependencies=2, max_array_size=3)
    joins = [job for job in plan.jobs if job.join]
    assert joins
    request = request_of(plan, joins[0], context)
    assert request.environment == {"BATCH_PIPELINE_JOIN": "1", "BATCH_PIPELINE_RUN_ID": RUN}
    assert request.command == ("true",)
    assert request.size == 1
    assert resources(request.definition) == (1, 128)
    assert samples_of(plan, joins[0]) == ()
    names = {request_of(plan, job, context).name for job in plan.jobs}
    assert len(names) == len(plan.jobs)


@pytest.mark.parametrize("pipeline", ["first test/pipeline", "_x", "é", "p" * 300, "--", "a.b"])
def test_job_names_are_lawful_and_keep_run_and_job(pipeline: str, plan_of: PlanOf, context: RunContext) -> None:
    plan = plan_of(["a", "b"])
    request = request_of(plan, plan.jobs[0], replace(context, pipeline_name=pipeline))
    check(request, AWS_BATCH)
    assert len(request.name) <= 128
    assert request.name.endswith(f"{RUN}-upper-0-0")


def test_what_is_measured_is_what_is_sent(plan_of: PlanOf, context: RunContext) -> None:
    plan = plan_of(["a", "b"])
    request = request_of(plan, plan.jobs[0], context)
    assert overrides_bytes(request) == len(json.dumps(submit_json(request)["containerOverrides"]))


def _request(context: RunContext, **changes: object) -> JobRequest:
    request = JobRequest(
        name="job", queue="mixed", size=2, definition=context.definitions["upper"], environment={"A": "1"}
    )
    return replace(request, **changes)  # type: ignore[arg-type]


def test_more_memory_is_an_override(context: RunContext) -> None:
    overrides = submit_json(_request(context, memory_mb=4096))["containerOverrides"]
    assert overrides["resourceRequirements"] == [{"type": "MEMORY", "value": "4096"}]


def test_variables_without_a_value_are_left_out(context: RunContext) -> None:
    sent = submit_json(_request(context, environment={"A": "", "B": "2"}))["containerOverrides"]
    assert sent["environment"] == [{"name": "B", "value": "2"}]
