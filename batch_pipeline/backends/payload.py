"""What is sent for a planned array job: its name, its environment, its SubmitJob parameters. Pure.

`request_of` says it in terms of every backend, `submit_json` in those of AWS Batch. The check of
sizes (`limits`) and the submission read the same value, so what was shown and checked is what is sent.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from batch_pipeline.backends.base import After, JobRequest
from batch_pipeline.backends.definitions import join_definition, sanitised
from batch_pipeline.backends.quotas import MAX_TAG_VALUE
from batch_pipeline.pipeline.plan import Limits, Plan, PlannedJob
from batch_pipeline.pipeline.step import Scope
from batch_pipeline.wire import layout
from batch_pipeline.wire.contract import Variable

#: Beside the manifest where the list is too long for an environment: one sample a line.
SAMPLES_FILE: Final = "samples.txt"
MANIFEST_FILE: Final = "manifest.json"
#: Stands for the revision of a job definition that is not registered yet.
REVISION: Final = "REVISION"

#: What we put on each job ourselves: by these a bill is split, and a run's jobs are found.
OWN_TAGS: Final = ("batch-pipeline", "batch-pipeline-run", "batch-pipeline-step")
#: On jobs after which no other of the run comes: `yes`. A rule of EventBridge tells of their ends.
LAST_TAG: Final = "batch-pipeline-last"
#: Names of widths begin so; the id of the run that made one follows, and the step.
WIDTH_PREFIX: Final = "batch-pipeline-"
#: Length of a job's id, a UUID: the id of a job that is not queued yet is written so long.
ID_CHARACTERS: Final = 36
#: Stands for the digests of what is not written yet, and is as long.
NO_DIGEST: Final = "0" * 64


@dataclass(frozen=True, kw_only=True)
class RunContext:
    """What all jobs of a run share."""

    run_id: str
    pipeline_name: str
    queue: str
    #: `s3://bucket/prefix`, `file:///folder` or `memory://name`.
    store_url: str
    bundle_url: str
    bundle_sha256: str
    #: Step -> job definition, of `definitions_of`.
    definitions: Mapping[str, Mapping[str, Any]]
    #: The bucket as the user named it; empty: none.
    bucket_name: str = ""
    #: Name of the reference; empty: none.
    reference: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)
    #: How a job reaches the store, beside its role: `Store.variables`. No secrets.
    store_variables: Mapping[str, str] = field(default_factory=dict)
    #: Empty: none. Only for queues with a fair share policy, and there it must be given.
    share_identifier: str = ""
    #: Priority within the share; None: as the definition says.
    priority: int | None = None
    #: Step -> the width that its cells share (`JobRequest.width`), where it has one.
    widths: Mapping[str, str] = field(default_factory=dict)


def request_of(plan: Plan, job: PlannedJob, context: RunContext, after: Sequence[After] = ()) -> JobRequest:
    """The request of a planned job, whose upstream jobs are queued as `after`.

    `LIST_OF_SAMPLES` is the comma list while the whole override fits, else the URL of `samples.txt` beside the
    manifest, which the caller then writes (`needs_list_file`).
    """
    definition = context.definitions[job.step]
    request = JobRequest(
        name=job_name(context, job, plan.limits),
        queue=job.overrides.queue or context.queue,
        size=job.size,
        definition=join_definition(definition) if job.join else definition,
        environment=_join_environment(context) if job.join else _cell_environment(plan, job, context),
        command=("true",) if job.join else (),
        after=tuple(after),
        tags={**context.tags, **_own_tags(plan, job, context)},
        share_identifier=context.share_identifier,
        priority=context.priority,
        memory_mb=None if job.join else job.overrides.memory_mb,
        width="" if job.join else context.widths.get(job.step, ""),
        timeout_seconds=None if job.join else job.overrides.timeout_seconds,
    )
    if (
        Variable.LIST_OF_SAMPLES not in request.environment
        or overrides_bytes(request) <= plan.limits.max_overrides_bytes
    ):
        return request
    key = layout.submission(context.run_id, job.name, SAMPLES_FILE)
    url = f"{context.store_url.rstrip('/')}/{key}"
    return replace(request, environment={**request.environment, Variable.LIST_OF_SAMPLES: url})


def with_digests(request: JobRequest, *, manifest: str, rows: str) -> JobRequest:
    """The request of cells whose manifest is written: with the SHA-256, in hex, of its header and of its rows."""
    digests = {Variable.MANIFEST_SHA256: manifest, Variable.ROWS_SHA256: rows}
    return replace(request, environment={**request.environment, **digests})


def outline(plan: Plan, context: RunContext) -> Iterator[tuple[PlannedJob, JobRequest]]:
    """Each job of a plan with its request, as long as it will be; ids that nobody knows yet are placeholders."""
    for job in plan.jobs:
        after = [
            After(native_id=edge.job if edge.live else placeholder(edge.job), index_by_index=edge.index_by_index)
            for edge in job.after
        ]
        yield job, request_of(plan, job, context, after)


def placeholder(name: str) -> str:
    """Stands for the id of a job that is not queued yet, and is as long."""
    return f"<{name}>".ljust(ID_CHARACTERS, "_")


def needs_list_file(request: JobRequest) -> bool:
    """Whether `LIST_OF_SAMPLES` is the URL of a file that must be there when the job starts."""
    return request.environment.get(Variable.LIST_OF_SAMPLES, "").endswith(f"/{SAMPLES_FILE}")


def samples_of(plan: Plan, job: PlannedJob) -> tuple[str, ...]:
    """The samples of a job in the order of its indices; of a gather, those that it gathers; of a join, none."""
    if job.join or plan.graph[job.step].scope is not Scope.COHORT:
        return tuple(plan.rows[job.step].names[member] for member in job.members)
    names = plan.gathered_rows(job.step).names
    if job.step in plan.choices:
        return tuple(names[position] for position in plan.gathered(job.step))
    missing = frozenset(plan.missing.get(job.step, ()))
    return tuple(name for name in names if name not in missing)


def job_name(context: RunContext, job: PlannedJob, limits: Limits) -> str:
    """`{pipeline}-{run}-{job}`: unique to the run; where it is too long the pipeline's part is shortened."""
    tail = sanitised(f"{context.run_id}-{job.name}")
    room = limits.max_name - len(tail) - 1
    head = sanitised(context.pipeline_name)[: max(room, 0)].rstrip("-_")
    return f"{head}-{tail}" if head else tail


def width_name(run_id: str, step: str) -> str:
    """The name of the width that a run makes for a step."""
    return f"{WIDTH_PREFIX}{run_id}-{step}"


def submit_json(request: JobRequest, revision: int | str = REVISION) -> dict[str, Any]:
    """The parameters of SubmitJob."""
    parameters: dict[str, Any] = {
        "jobName": request.name,
        "jobQueue": request.queue,
        "jobDefinition": f"{request.definition['jobDefinitionName']}:{revision}",
        "containerOverrides": overrides_json(request),
        "tags": dict(request.tags),
    }
    if request.tags:
        # Onto the task, where a bill can see them: https://docs.aws.amazon.com/batch/latest/userguide/using-tags.html
        parameters["propagateTags"] = True
    if request.share_identifier:
        parameters["shareIdentifier"] = request.share_identifier
    if request.priority is not None:
        parameters["schedulingPriorityOverride"] = request.priority
    if request.width:
        needed = [{"consumableResource": request.width, "quantity": 1}]
        parameters["consumableResourcePropertiesOverride"] = {"consumableResourceList": needed}
    if request.timeout_seconds is not None:
        parameters["timeout"] = {"attemptDurationSeconds": request.timeout_seconds}
    if request.size > 1:
        parameters["arrayProperties"] = {"size": request.size}
    if request.after:
        parameters["dependsOn"] = [
            {"jobId": after.native_id} | ({"type": "N_TO_N"} if after.index_by_index else {}) for after in request.after
        ]
    return {key: value for key, value in parameters.items() if value not in ({}, [])}


def overrides_json(request: JobRequest) -> dict[str, Any]:
    """What a job changes in its definition; a variable without a value is left out, as AWS would drop it."""
    environment = [{"name": name, "value": value} for name, value in sorted(request.environment.items()) if value]
    overrides: dict[str, Any] = {"environment": environment}
    if request.command:
        overrides["command"] = list(request.command)
    if request.memory_mb is not None:
        overrides["resourceRequirements"] = [{"type": "MEMORY", "value": str(request.memory_mb)}]
    return overrides


def overrides_bytes(request: JobRequest) -> int:
    """Bytes of the overrides as JSON, spaces included: AWS adds its own part to them before it counts."""
    return len(json.dumps(overrides_json(request)).encode())


def request_bytes(request: JobRequest) -> int:
    """Bytes of the whole request as JSON."""
    return len(json.dumps(submit_json(request)).encode())


def _own_tags(plan: Plan, job: PlannedJob, context: RunContext) -> dict[str, str]:
    name = sanitised(context.pipeline_name)[:MAX_TAG_VALUE]
    own = dict(zip(OWN_TAGS, (name, context.run_id, job.step), strict=True))
    is_last = not job.join and not any(job.step in node.upstream for node in plan.graph)
    return own | ({LAST_TAG: "yes"} if is_last else {})


def _cell_environment(plan: Plan, job: PlannedJob, context: RunContext) -> dict[str, str]:
    samples = samples_of(plan, job)
    one = len(job.members) == 1
    return {
        **context.store_variables,
        Variable.FILE_TYPE: "zip",
        Variable.FILE_URL: context.bundle_url,
        Variable.FILE_SHA256: context.bundle_sha256,
        Variable.STORE: context.store_url,
        Variable.MANIFEST: layout.submission(context.run_id, job.name, MANIFEST_FILE),
        Variable.MANIFEST_SHA256: NO_DIGEST,
        Variable.ROWS_SHA256: NO_DIGEST,
        Variable.RUN_ID: context.run_id,
        Variable.BUCKET_NAME: context.bucket_name,
        Variable.REFERENCE: context.reference,
        (Variable.SAMPLE_NAME if one else Variable.LIST_OF_SAMPLES): ",".join(samples),
    }


def _join_environment(context: RunContext) -> dict[str, str]:
    """No bundle: nothing is fetched; an image's entry ends at once when it sees JOIN."""
    return {Variable.JOIN: "1", Variable.RUN_ID: context.run_id}
