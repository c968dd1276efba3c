from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from dataclasses import replace

import pytest

from batch_pipeline.backends.base import After, JobRequest
from batch_pipeline.backends.limits import check, check_all, plan_problems
from batch_pipeline.backends.payload import RunContext, outline, request_bytes, request_of, submit_json
from batch_pipeline.backends.quotas import AWS_BATCH, JOBS_PER_DESCRIBE, MAX_PRIORITY
from batch_pipeline.config import load_settings
from batch_pipeline.localbatch.api import operations, submit
from batch_pipeline.pipeline.plan import Edge, Plan
from batch_pipeline.wire.errors import InvalidConfig, InvalidPlan, SubmissionRefused

PlanOf = Callable[..., Plan]


def _request(context: RunContext, **changes: object) -> JobRequest:
    request = JobRequest(
        name="job", queue="mixed", size=2, definition=context.definitions["upper"], environment={"A": "1"}
    )
    return replace(request, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"size": 0}, "it has 0 children, an array takes 2 to 10000"),
        ({"size": 10_001}, "it has 10001 children"),
        ({"after": [After(native_id="i", index_by_index=True)] * 21}, "it depends on 21 jobs, at most 20"),
        ({"size": 1, "after": [After(native_id="i", index_by_index=True)]}, "cannot wait index by index"),
        ({"name": "a b"}, "its name must be"),
        ({"name": "-a"}, "its name must be"),
        ({"name": "é"}, "its name must be"),
        ({"name": "n" * 129}, "its name must be 1 to 128"),
        ({"environment": {"AWS_BATCH_FOO": "1"}}, "AWS_BATCH_FOO begins with AWS_BATCH"),
        ({"environment": {"A": "x" * 8192}}, "its environment and command take 8237 bytes, at most 6500"),
        ({"tags": {f"k{i}": "v" * 256 for i in range(51)}}, "52 tags"),
        ({"tags": {"AWS:x": "v"}}, "not beginning with aws:"),
        ({"tags": {"owner": "ada; drop"}}, "the tag owner=ada; drop"),
        ({"tags": {"owner": "two\nlines"}}, "the tag owner=two"),
        ({"tags": {"owner": "v" * 257}}, "at most 128 and 256 characters"),
        ({"tags": {"k" * 129: "v"}}, "at most 128 and 256 characters"),
        ({"share_identifier": "a-b"}, "the share identifier 'a-b' must be"),
        ({"share_identifier": "a" * 256}, "the share identifier"),
        ({"share_identifier": "a", "priority": 10_000}, "the priority 10000 must be 0 to 9999"),
        ({"priority": 3}, "a priority counts within a share only"),
        ({"share_identifier": "lab*", "priority": 0, "tags": {"größe": "a b", "empty": ""}}, ""),
        ({"tags": {f"{i}" + "k" * 120: "v" * 255 for i in range(49)} | {}}, ""),
    ],
)
def test_what_aws_would_refuse_is_refused_before(
    changes: dict[str, object], sentence: str, context: RunContext
) -> None:
    request = _request(context, **changes)
    if not sentence:
        check(request, AWS_BATCH)
        return
    with pytest.raises(SubmissionRefused) as raised:
        check(request, AWS_BATCH)
    assert sentence in raised.value.message
    assert raised.value.message.startswith(f"Job {request.name}: ")


def test_a_request_past_30_kib_is_refused(context: RunContext) -> None:
    with pytest.raises(SubmissionRefused, match=r"the request takes \d+ bytes, at most 30720"):
        check(_request(context, environment={"A": "x" * 30_700}), replace(AWS_BATCH, max_overrides_bytes=40_000))


def test_all_that_is_wrong_is_told_at_once(context: RunContext) -> None:
    with pytest.raises(SubmissionRefused) as raised:
        check(_request(context, size=0, name="a b"), AWS_BATCH)
    assert len(raised.value.message.splitlines()) == 2


def test_the_definitions_tags_count_too(context: RunContext) -> None:
    definition = {**context.definitions["upper"], "tags": {f"d{i}": "" for i in range(30)}}
    check(_request(context, definition=definition, tags={f"k{i}": "" for i in range(20)}), AWS_BATCH)
    with pytest.raises(SubmissionRefused, match="it has 51 tags with those of its definition"):
        check(_request(context, definition=definition, tags={f"k{i}": "" for i in range(21)}), AWS_BATCH)


# Whole plans.


def test_a_lawful_plan_passes_whatever_its_size(plan_of: PlanOf, context: RunContext) -> None:
    check_all(plan_of([f"s{i}" for i in range(30_000)]), context)


def test_what_is_checked_is_as_long_as_what_is_sent(plan_of: PlanOf, context: RunContext) -> None:
    plan = plan_of([f"s{i}" for i in range(5)], max_array_size=2)
    for job, request in outline(plan, context):
        ids = [str(uuid.UUID(int=i)) for i in range(len(job.after))]
        queued = [replace(after, native_id=native_id) for after, native_id in zip(request.after, ids, strict=True)]
        sent = request_of(plan, job, context, queued)
        assert request_bytes(request) == len(json.dumps(submit_json(sent)))


def test_a_problem_of_all_jobs_is_told_once(plan_of: PlanOf, context: RunContext) -> None:
    plan = plan_of([f"s{i}" for i in range(8)], max_array_size=2)
    tags = {f"k{i}": "" for i in range(48)}
    with pytest.raises(InvalidPlan) as raised:
        check_all(plan, replace(context, tags=tags, share_identifier="no spaces please"))
    lines = raised.value.message.splitlines()
    assert len(plan.jobs) == 9
    first = "Jobs upper-0-0, upper-0-1, upper-0-2 and"
    assert [line.split(":")[0] for line in lines] == [f"{first} 5 more", f"{first} 6 more", "Job total"]
    assert "51 tags" in lines[0]
    assert "share identifier" in lines[1]
    assert "52 tags" in lines[2], "the last job has a tag more"


def test_our_own_tags_are_not_for_users(plan_of: PlanOf, context: RunContext) -> None:
    problems = plan_problems(plan_of(["a"]), replace(context, tags={"batch-pipeline-run": "mine"}))
    assert problems == ["The tag batch-pipeline-run is set by the program itself; name yours otherwise."]


def test_two_jobs_of_one_name_are_refused(plan_of: PlanOf, context: RunContext) -> None:
    """A job in doubt is found by its name."""
    plan = plan_of(["a", "b"])
    twins = replace(plan, jobs=(plan.jobs[0], replace(plan.jobs[1], name="upper.0.0", after=())))
    (problem,) = plan_problems(twins, context)
    assert problem.startswith("2 jobs are called letters-")


def test_too_many_dependencies_are_found_before_anything_is_sent(plan_of: PlanOf, context: RunContext) -> None:
    plan = plan_of(["a", "b"])
    greedy = replace(plan.jobs[-1], after=tuple(Edge(job=f"j{i}", index_by_index=False) for i in range(21)))
    with pytest.raises(InvalidPlan, match="Job total: it depends on 21 jobs, at most 20 are taken"):
        check_all(replace(plan, jobs=(*plan.jobs[:-1], greedy)), context)


def test_the_embedded_batch_and_the_settings_hold_to_the_same_quotas() -> None:
    assert AWS_BATCH.max_request_bytes == submit.REQUEST_BYTES
    assert AWS_BATCH.max_dependencies == submit.DEPENDENCIES
    assert submit.ARRAY_SIZES[1] == AWS_BATCH.max_array_size
    assert AWS_BATCH.max_overrides_bytes < submit.OVERRIDE_CHARACTERS
    assert submit.PRIORITIES == MAX_PRIORITY
    assert operations.DESCRIBED_JOBS == JOBS_PER_DESCRIBE
    for setting, most in (("backend.priority", MAX_PRIORITY), ("pool.pilots", AWS_BATCH.max_array_size)):
        load_settings({setting: most})
        with pytest.raises(InvalidConfig):
            load_settings({setting: most + 1})
