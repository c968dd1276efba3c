"""SubmitJob: checks a request as AWS does and resolves it against queue, definition and dependencies.

What AWS refuses at once is an `ApiError`; what AWS accepts and fails later is a doomed job.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from uuid import uuid4

from batch_pipeline.localbatch.api.consumables import needs_of
from batch_pipeline.localbatch.api.definitions import (
    check_command,
    check_environment,
    check_timeout,
    refused,
    resources,
    retry_strategy,
)
from batch_pipeline.localbatch.api.registry import ResourceRegistry, check_name, check_tags
from batch_pipeline.localbatch.engine.job import BatchJob, Dependency, Document, JobSpec
from batch_pipeline.wire.native_id import NativeId

# https://docs.aws.amazon.com/batch/latest/userguide/service_limits.html
REQUEST_BYTES = 30 * 1024
DEPENDENCIES = 20
ARRAY_SIZES = (2, 10_000)
# https://docs.aws.amazon.com/AmazonECS/latest/APIReference/API_RunTask.html, "overrides"
OVERRIDE_CHARACTERS = 8192

# https://docs.aws.amazon.com/batch/latest/APIReference/API_SubmitJob.html
PRIORITIES = 9999
_SHARE = re.compile(r"[A-Za-z0-9]{1,255}\*?")

_UNSUPPORTED = ("nodeOverrides", "eksPropertiesOverride", "ecsPropertiesOverride")
#: The retry strategy where none is given.
_ONCE: Document = {"attempts": 1, "evaluateOnExit": []}
_REFERENCE = re.compile(r"Ref::((?:(?!-?Ref::)[A-Za-z0-9_.-])+)")


def resolve(
    request: Document, registry: ResourceRegistry, jobs: Mapping[str, BatchJob], *, now: int, minimum_timeout: int
) -> JobSpec:
    """Makes the job that a SubmitJob request asks for.

    Raises
    ------
    ApiError
        AWS would refuse the request; nothing was queued.
    """
    _check_request(request)
    queue = registry.queue(request["jobQueue"])
    if queue["state"] != "ENABLED":
        raise refused(f"JobQueue {queue['jobQueueName']} is DISABLED; it does not accept jobs.")
    _check_share(request, queue)
    definition = registry.active_definition(request["jobDefinition"])
    size = _array_size(request)
    dependencies, sequential = _dependencies(request.get("dependsOn", ()), size, jobs)
    container, overrides = definition["containerProperties"], request.get("containerOverrides", {})
    parameters = {**definition["parameters"], **request.get("parameters", {})}
    command = _substitute(overrides.get("command") or container["command"], parameters)
    strategy, rules = retry_strategy(request.get("retryStrategy") or definition.get("retryStrategy") or _ONCE)
    timeout = check_timeout(request.get("timeout") or definition.get("timeout"), minimum_timeout)
    environment = _environment(container, overrides)
    vcpus, memory, impossible = resources(container, overrides)
    return JobSpec(
        id=str(uuid4()),
        name=request["jobName"],
        queue=queue["jobQueueName"],
        size=size,
        vcpus=vcpus,
        memory_mib=memory,
        created_ms=now,
        attempts=strategy["attempts"],
        timeout_seconds=timeout,
        impossible=impossible,
        sequential=sequential,
        dependencies=dependencies,
        rules=rules,
        command=tuple(command),
        environment=environment,
        log_prefix=definition["jobDefinitionName"][:200] + "/default",
        consumes=needs_of(_consumables(request, definition), registry),
        shown=_shown(request, queue, definition, parameters, strategy, timeout, command, environment),
        fails_on_submit=_late_failure(overrides, environment),
    )


def _consumables(request: Document, definition: Document) -> Document:
    override = request.get("consumableResourcePropertiesOverride")
    return override or definition.get("consumableResourceProperties") or {}


def _environment(container: Document, overrides: Document) -> dict[str, str]:
    pairs = (*container["environment"], *overrides.get("environment", ()))
    return {pair["name"]: pair.get("value", "") for pair in pairs if "name" in pair}


def _check_request(request: Document) -> None:
    size = len(json.dumps(request, separators=(",", ":"), ensure_ascii=False).encode())
    if size > REQUEST_BYTES:
        raise refused(f"Job size must be less than {REQUEST_BYTES // 1024} KiB, got {-(-size // 1024)} KiB")
    check_name(request["jobName"], "jobName")
    check_tags(request.get("tags", {}))
    check_environment(request.get("containerOverrides", {}).get("environment", ()))
    check_command(request.get("containerOverrides", {}).get("command", ()))
    for key in _UNSUPPORTED:
        if key in request:
            raise refused(f"{key} is not applicable to a job definition with containerProperties.")


def _check_share(request: Document, queue: Document) -> None:
    """A queue with a fair share policy needs a share, others take none. Shares are noted here; the order is FIFO."""
    if not queue.get("schedulingPolicyArn"):
        if "shareIdentifier" in request or "schedulingPriorityOverride" in request:
            raise refused(
                "Job with shareIdentifier or schedulingPriority can only be submitted to job queue with fair share "
                "scheduling policy."
            )
        return
    share = request.get("shareIdentifier", "")
    if not _SHARE.fullmatch(share):
        raise refused(
            f"Job submitted to a job queue with fair share scheduling policy needs a shareIdentifier of 1 to 255 "
            f"letters and digits, got {share!r}."
        )
    priority = request.get("schedulingPriorityOverride", 0)
    if not 0 <= priority <= PRIORITIES:
        raise refused(f"schedulingPriorityOverride must be between 0 and {PRIORITIES}, got {priority}")


def _array_size(request: Document) -> int:
    size = request.get("arrayProperties", {}).get("size")
    if size is None:
        return 0
    least, most = ARRAY_SIZES
    if not least <= size <= most:
        raise refused(f"Array size must be between {least} and {most}, got {size}")
    return int(size)


def _dependencies(
    entries: list[Document] | tuple[()], size: int, jobs: Mapping[str, BatchJob]
) -> tuple[tuple[Dependency, ...], bool]:
    if len(entries) > DEPENDENCIES:
        raise refused(f"Job cannot have more than {DEPENDENCIES} dependencies")
    dependencies, sequential = [], False
    for entry in entries:
        kind, job_id = entry.get("type"), entry.get("jobId")
        if kind == "SEQUENTIAL":
            if not size or job_id:
                raise refused("A SEQUENTIAL dependency is for array jobs and names no jobId.")
            sequential = True
        elif not job_id:
            raise refused("jobId is required for a dependency that is not SEQUENTIAL.")
        else:
            dependencies.append(_dependency(job_id, kind == "N_TO_N", size, jobs))
    return tuple(dict.fromkeys(dependencies)), sequential


def _dependency(job_id: str, each: bool, size: int, jobs: Mapping[str, BatchJob]) -> Dependency:
    native_id = NativeId.parse(job_id)
    index = native_id.index
    job = jobs.get(native_id.job)
    if job is None or (index is not None and index >= job.spec.size):
        raise refused(f"Job dependency {job_id} does not exist.")
    if each and (index is not None or not size or job.spec.size != size):
        raise refused(
            f"N_TO_N dependency on {job_id} needs two arrays of the same size, got {job.spec.size} and {size}."
        )
    return Dependency(job_id=native_id.job, index=index, each=each)


def _substitute(command: list[str], parameters: Document) -> list[str]:
    """Replaces every `Ref::name`; a name ends where its letters, digits, dots, dashes and underscores do.

    In `Ref::a-Ref::b` the name is `a`: of the parameters that the name begins with, the longest that ends at a dot or
    dash, or at the end, is meant.
    """

    def value(match: re.Match[str]) -> str:
        name = match.group(1)
        ends = [len(name), *(i for i in range(len(name) - 1, 0, -1) if name[i] in ".-")]
        end = next((i for i in ends if name[:i] in parameters), None)
        if end is None:
            raise refused(f"Unable to substitute value. No parameter found for reference {name}")
        return str(parameters[name[:end]]) + name[end:]

    return [_REFERENCE.sub(value, word) for word in command]


def _late_failure(overrides: Document, environment: dict[str, str]) -> str | None:
    """Why ECS will refuse the task: Batch adds its own variables to the override, and the sum has a limit.

    Counted with names as long as those of real accounts: what is accepted here should be accepted there.
    """
    batch = {
        "AWS_BATCH_JOB_ID": "x" * 42,
        "AWS_BATCH_JOB_ARRAY_INDEX": "9999",
        "AWS_BATCH_JOB_ARRAY_SIZE": "10000",
        "AWS_BATCH_JOB_ATTEMPT": "1",
        "AWS_BATCH_JQ_NAME": "x" * 64,
        "AWS_BATCH_CE_NAME": "x" * 64,
    }
    pairs = [{"name": name, "value": value} for name, value in {**environment, **batch}.items()]
    override = {"containerOverrides": [{"name": "default", **overrides, "environment": pairs}]}
    if len(json.dumps(override, separators=(",", ":"), ensure_ascii=False)) > OVERRIDE_CHARACTERS:
        return f"Container Overrides length must be at most {OVERRIDE_CHARACTERS}"
    return None


def _shown(
    request: Document,
    queue: Document,
    definition: Document,
    parameters: Document,
    strategy: Document,
    timeout: int | None,
    command: list[str],
    environment: dict[str, str],
) -> Document:
    container, overrides = definition["containerProperties"], request.get("containerOverrides", {})
    wanted = {r["type"]: r for r in (*container["resourceRequirements"], *overrides.get("resourceRequirements", ()))}
    shown_container = {
        **container,
        "command": command,
        "environment": [{"name": name, "value": value} for name, value in environment.items()],
        "resourceRequirements": list(wanted.values()),
    }
    for key in ("vcpus", "memory"):
        if key in overrides:
            shown_container[key] = overrides[key]
    shown = {
        "jobQueue": queue["jobQueueArn"],
        "jobDefinition": definition["jobDefinitionArn"],
        "parameters": parameters,
        "dependsOn": request.get("dependsOn", []),
        "retryStrategy": strategy,
        "tags": request.get("tags", {}),
        "propagateTags": request.get("propagateTags", definition.get("propagateTags", False)),
        "platformCapabilities": definition.get("platformCapabilities", ["EC2"]),
        "container": shown_container,
    }
    if "shareIdentifier" in request:
        shown["shareIdentifier"] = request["shareIdentifier"]
        shown["schedulingPriority"] = request.get("schedulingPriorityOverride", 0)
    if consumables := _consumables(request, definition):
        shown["consumableResourceProperties"] = consumables
    if timeout is not None:
        shown["timeout"] = {"attemptDurationSeconds": timeout}
    return shown
