"""Validates jobs and plans against the limits of a backend, before anything is sent. Pure.

Some of it AWS refuses at once; some it accepts and fails later, when nobody looks. `check_all` holds a whole plan to
the limits before the first call of a run, so that no run stops half-way because of its last job.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final

from batch_pipeline.backends.base import JobRequest
from batch_pipeline.backends.definitions import resources
from batch_pipeline.backends.payload import LAST_TAG, OWN_TAGS, RunContext, outline, overrides_bytes, request_bytes
from batch_pipeline.backends.quotas import MAX_PRIORITY, MAX_SHARE_IDENTIFIER, MAX_TAG_KEY, MAX_TAG_VALUE, MAX_TAGS
from batch_pipeline.pipeline.plan import Limits, Plan
from batch_pipeline.wire.errors import InvalidPlan, SubmissionRefused

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
_TAG_KEY = re.compile(rf"(?!(?i:aws):)[\w +\-=.:/@]{{1,{MAX_TAG_KEY}}}")
_TAG_VALUE = re.compile(rf"[\w +\-=.:/@]{{0,{MAX_TAG_VALUE}}}")
_SHARE = re.compile(rf"[A-Za-z0-9]{{1,{MAX_SHARE_IDENTIFIER}}}\*?")
#: Jobs that a problem of many is told of by name.
_NAMED: Final = 3


def largest_definitions(definitions: Mapping[str, Mapping[str, Any]], plan: Plan) -> dict[str, Mapping[str, Any]]:
    """Step of the plan's jobs -> its definition with the most memory that one of these jobs is given."""
    most: dict[str, int] = {}
    for job in plan.jobs:
        memory_mb = (not job.join and job.overrides.memory_mb) or resources(definitions[job.step])[1]
        most[job.step] = max(most.get(job.step, 0), memory_mb)
    return {step: _with_memory(definitions[step], memory_mb) for step, memory_mb in most.items()}


def _with_memory(definition: Mapping[str, Any], memory_mb: int) -> Mapping[str, Any]:
    if memory_mb == resources(definition)[1]:
        return definition
    container = {key: value for key, value in definition["containerProperties"].items() if key != "memory"}
    requirements = [item for item in container.get("resourceRequirements", ()) if item["type"] != "MEMORY"]
    requirements.append({"type": "MEMORY", "value": str(memory_mb)})
    return {**definition, "containerProperties": {**container, "resourceRequirements": requirements}}


def check(request: JobRequest, limits: Limits) -> None:
    """Raises SubmissionRefused, with all that is wrong, for a request that AWS would refuse now or fail later."""
    problems = problems_of(request, limits)
    if problems:
        raise SubmissionRefused("\n".join(f"Job {request.name}: {problem}" for problem in problems))


def check_all(plan: Plan, context: RunContext) -> None:
    """Raises InvalidPlan, with all that is wrong with any job, for a plan that AWS would not take whole."""
    problems = plan_problems(plan, context)
    if problems:
        raise InvalidPlan("\n".join(problems))


def plan_problems(plan: Plan, context: RunContext) -> list[str]:
    """What is wrong with the jobs of a plan, each problem once however many jobs have it."""
    jobs_with: dict[str, list[str]] = {}
    names: Counter[str] = Counter()
    for job, request in outline(plan, context):
        names[request.name] += 1
        for problem in problems_of(request, plan.limits):
            jobs_with.setdefault(problem, []).append(job.name)
    problems = [f"The tag {tag} is set by the program itself; name yours otherwise." for tag in _reserved_tags(context)]
    problems += [f"{count} jobs are called {name}; rename a step." for name, count in names.items() if count > 1]
    return problems + [f"{_jobs(jobs)}: {problem}" for problem, jobs in jobs_with.items()]


def problems_of(request: JobRequest, limits: Limits) -> list[str]:
    """What AWS would refuse now or fail later, a sentence each."""
    checks = (_size_problems, _name_problems, _tag_problems, _share_problems, _width_problems, _byte_problems)
    return [problem for check_one in checks for problem in check_one(request, limits)]


def _reserved_tags(context: RunContext) -> list[str]:
    return [tag for tag in (*OWN_TAGS, LAST_TAG) if tag in context.tags]


def _jobs(jobs: Sequence[str]) -> str:
    more = f" and {len(jobs) - _NAMED:,} more" if len(jobs) > _NAMED else ""
    return f"Job{'s' * (len(jobs) > 1)} {', '.join(jobs[:_NAMED])}{more}"


def _size_problems(request: JobRequest, limits: Limits) -> list[str]:
    problems = []
    if not 1 <= request.size <= limits.max_array_size:
        problems.append(
            f"it has {request.size} children, an array takes 2 to {limits.max_array_size}; cut it in shards."
        )
    if len(request.after) > limits.max_dependencies:
        problems.append(
            f"it depends on {len(request.after)} jobs, at most {limits.max_dependencies} are taken; join some of them."
        )
    if request.size == 1 and any(after.index_by_index for after in request.after):
        problems.append("a plain job cannot wait index by index; let it wait for whole jobs.")
    return problems


def _name_problems(request: JobRequest, limits: Limits) -> list[str]:
    problems = []
    if not _NAME.fullmatch(request.name) or len(request.name) > limits.max_name:
        problems.append(
            f"its name must be 1 to {limits.max_name} letters, digits, - and _, the first a letter or digit; "
            "give a plainer --pipeline-name."
        )
    reserved = sorted(name for name in request.environment if name.startswith("AWS_BATCH"))
    if reserved:
        problems.append(f"the variable {reserved[0]} begins with AWS_BATCH, which is Batch's own; rename it.")
    return problems


def _tag_problems(request: JobRequest, limits: Limits) -> list[str]:
    problems = []
    together = len({*request.tags, *request.definition.get("tags", ())})
    if together > MAX_TAGS:
        problems.append(
            f"it has {together} tags with those of its definition, at most {MAX_TAGS} are taken; drop some."
        )
    for key, value in request.tags.items():
        if not _TAG_KEY.fullmatch(key) or not _TAG_VALUE.fullmatch(value):
            problems.append(
                f"the tag {key}={value} must be letters, digits, spaces and + - = . _ : / @, at most "
                f"{MAX_TAG_KEY} and {MAX_TAG_VALUE} characters, not beginning with aws:; change it."
            )
    return problems


def _share_problems(request: JobRequest, limits: Limits) -> list[str]:
    problems = []
    if request.share_identifier and not _SHARE.fullmatch(request.share_identifier):
        problems.append(
            f"the share identifier {request.share_identifier!r} must be 1 to {MAX_SHARE_IDENTIFIER} letters and "
            "digits, a * may follow; change backend.share_identifier."
        )
    if request.priority is not None and not 0 <= request.priority <= MAX_PRIORITY:
        problems.append(f"the priority {request.priority} must be 0 to {MAX_PRIORITY}; change backend.priority.")
    if request.priority is not None and not request.share_identifier:
        problems.append("a priority counts within a share only; set backend.share_identifier too, or no priority.")
    return problems


def _width_problems(request: JobRequest, limits: Limits) -> list[str]:
    if not request.width or limits.holds_widths:
        return []
    return ["its step has max_parallel, to which pilots do not keep; set it to 0 (`--set`), or run without --pilots."]


def _byte_problems(request: JobRequest, limits: Limits) -> list[str]:
    problems = []
    overrides = overrides_bytes(request)
    if overrides > limits.max_overrides_bytes:
        problems.append(
            f"its environment and command take {overrides} bytes, at most {limits.max_overrides_bytes} are sure to be "
            "taken; shorten the store's URL or what you pass."
        )
    size = request_bytes(request)
    if size > limits.max_request_bytes:
        problems.append(f"the request takes {size} bytes, at most {limits.max_request_bytes} are taken; drop tags.")
    return problems
