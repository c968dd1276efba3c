"""Job definitions: what a step's jobs need, in AWS's own `register-job-definition` shape.

A definition comes from `job_definitions/{step}.json` beside the pipeline's file if there is one, else from the step's
class. In the file `${IMAGE}`, `${VCPUS}` and `${MEMORY_MB}` stand for what the class says, `${JOB_ROLE_ARN}`,
`${EXECUTION_ROLE_ARN}` and `${LOG_GROUP}` for the settings; an entry whose placeholder stands for nothing is left out.
What the file says itself goes before the class, and `[steps.NAME]` in the settings before both; `resources` tells what
a child then really has.

Each has the tag `batch-pipeline` with the pipeline's name, by which `deploy prune` knows whose it is.

AWS gives each registration a new revision, even of the same content, and shows definitions in a normal form that cannot
be compared with what was registered. So the name ends in the content's own digest: a name that is there needs nothing.
"""

from __future__ import annotations

import json
import math
import re
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from batch_pipeline.backends.quotas import MAX_ATTEMPTS, MAX_DEFINITION_BYTES, MAX_DEFINITION_NAME, MAX_RETRY_RULES
from batch_pipeline.pipeline.review import wrong_kinds
from batch_pipeline.pipeline.workflow import Graph, Node
from batch_pipeline.wire.contract import REASON_OF_EXIT, REASON_OF_STATUS, ContainerExit
from batch_pipeline.wire.digest import canonical_json, sha256_of_bytes
from batch_pipeline.wire.errors import InvalidPipeline

if TYPE_CHECKING:
    from batch_pipeline.config import Settings

FOLDER: Final = "job_definitions"
#: Image of a step that names none: the embedded Batch runs the step as a process of this machine.
NO_IMAGE: Final = "batch_pipeline/none"
DIGEST_DIGITS: Final = 12
#: A join runs nothing; the container that says so needs this much.
JOIN_MEMORY_MB: Final = 128
JOIN_NAME: Final = "batch-pipeline-join"
PILOT_NAME: Final = "batch-pipeline-pilot"
DRIVER_NAME: Final = "batch-pipeline-driver"
#: Whose a definition is.
PIPELINE_TAG: Final = "batch-pipeline"

_PLACEHOLDER = re.compile(r"\$\{([^}]*)\}")


def configured_definitions(graph: Graph, settings: Settings, *, pipeline: str = "") -> Mapping[str, Mapping[str, Any]]:
    """`definitions_of` with what the settings say; the pipeline is called as the graph unless told."""
    return definitions_of(
        graph,
        pipeline=pipeline or graph.name,
        attempts=settings.backend.attempts,
        job_role_arn=settings.aws.job_role,
        execution_role_arn=settings.aws.execution_role,
        log_group=settings.aws.log_group,
    )


def definitions_of(
    graph: Graph,
    *,
    pipeline: str,
    attempts: int,
    job_role_arn: str = "",
    execution_role_arn: str = "",
    log_group: str = "",
) -> Mapping[str, Mapping[str, Any]]:
    """Step -> its definition.

    Raises InvalidPipeline for a file in `job_definitions/` that is no definition or has an unknown placeholder.
    """
    roles = {"JOB_ROLE_ARN": job_role_arn, "EXECUTION_ROLE_ARN": execution_role_arn, "LOG_GROUP": log_group}
    return {node.name: _definition_of(node, graph.root, pipeline, attempts, roles) for node in graph}


def pilot_definition(settings: Settings, *, cpus: int, memory_mb: int) -> dict[str, Any]:
    """The definition of jobs that are pilots of a task pool: room for all that one of them runs at once."""
    values = {
        "IMAGE": settings.pool.image or NO_IMAGE,
        "VCPUS": str(cpus),
        "MEMORY_MB": str(memory_mb),
        "JOB_ROLE_ARN": settings.aws.job_role,
        "EXECUTION_ROLE_ARN": settings.aws.execution_role,
        "LOG_GROUP": settings.aws.log_group,
    }
    definition = _filled(_GENERATED, values, Path(FOLDER))
    definition |= {"jobDefinitionName": PILOT_NAME, "retryStrategy": retry_strategy(settings.backend.attempts)}
    return named(definition)


def driver_definition(
    settings: Settings,
    *,
    image: str,
    cpus: float,
    memory_mb: int,
    job_role: str,
    execution_role: str,
    secrets: Mapping[str, str],
    retry: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The definition of a driver job, with the roles of its level of access; `secrets` are variable -> ARN.

    `retry` is its retry strategy where that is not the steps'.
    """
    values = {
        "IMAGE": image or NO_IMAGE,
        "VCPUS": f"{cpus:g}",
        "MEMORY_MB": str(memory_mb),
        "JOB_ROLE_ARN": job_role,
        "EXECUTION_ROLE_ARN": execution_role or settings.aws.execution_role,
        "LOG_GROUP": settings.aws.log_group,
    }
    definition = _filled(_GENERATED, values, Path(FOLDER))
    if secrets:
        # AWS hands them to the container alone; a description of the job names the ARN.
        references = [{"name": name, "valueFrom": arn} for name, arn in sorted(secrets.items())]
        definition["containerProperties"]["secrets"] = references
    strategy = retry or retry_strategy(settings.backend.attempts)
    definition |= {"jobDefinitionName": DRIVER_NAME, "retryStrategy": strategy}
    return named(definition)


def resources(definition: Mapping[str, Any]) -> tuple[int, int]:
    """vCPUs, a part of one counted as one, and MiB that a child has."""
    container = definition["containerProperties"]
    wanted = {"VCPU": container.get("vcpus", 1), "MEMORY": container.get("memory", 0)}
    wanted |= {item["type"]: item["value"] for item in container.get("resourceRequirements", ())}
    return max(1, math.ceil(float(wanted["VCPU"]))), int(wanted["MEMORY"])


def join_definition(definition: Mapping[str, Any]) -> dict[str, Any]:
    """The definition of a join: as the step's, with the least resources and no time limit."""
    container = {**definition["containerProperties"], "resourceRequirements": _requirements("1", str(JOIN_MEMORY_MB))}
    for replaced in ("vcpus", "memory"):
        container.pop(replaced, None)
    changed = {**definition, "jobDefinitionName": JOIN_NAME, "containerProperties": container}
    changed.pop("timeout", None)
    return named(changed)


def named(definition: Mapping[str, Any]) -> dict[str, Any]:
    """The definition under the name that ends in the digest of its content."""
    content = {key: value for key, value in definition.items() if key != "jobDefinitionName"}
    digest = sha256_of_bytes(canonical_json(content))[:DIGEST_DIGITS]
    base = sanitised(str(definition.get("jobDefinitionName") or "job"))[: MAX_DEFINITION_NAME - DIGEST_DIGITS - 1]
    return {**definition, "jobDefinitionName": f"{base}-{digest}"}


def retry_strategy(attempts: int) -> dict[str, Any]:
    """Tries again what was interrupted or lost its store, and nothing else.

    Where no rule fits AWS tries again, so the last rule ends everything. Patterns are a beginning and a star.
    """
    if attempts == 1:
        return {"attempts": 1}
    words = [text for text, reason in REASON_OF_STATUS if reason.is_retried]
    codes = [code for code in ContainerExit if code in REASON_OF_EXIT and REASON_OF_EXIT[code].is_retried]
    rules: list[dict[str, str]] = [{"action": "RETRY", "onStatusReason": f"{text}*"} for text in words]
    rules += [{"action": "RETRY", "onExitCode": str(int(code))} for code in codes]
    return {"attempts": attempts, "evaluateOnExit": [*rules, {"action": "EXIT", "onReason": "*"}]}


def driver_retry_strategy() -> dict[str, Any]:
    """Starts the driver of a pipeline again when it was interrupted or killed, or could not reach store or backend.

    It goes on with its run. On Fargate Spot it ends with 75 or is killed, so that of AWS's words the one for a lost
    host is enough: there is room for five rules.
    """
    codes = (ContainerExit.INTERRUPTED, ContainerExit.STORE_UNREACHABLE, 128 + signal.SIGKILL)
    rules: list[dict[str, str]] = [{"action": "RETRY", "onStatusReason": "Host EC2*"}]
    rules += [{"action": "RETRY", "onExitCode": str(int(code))} for code in codes]
    return {"attempts": MAX_ATTEMPTS, "evaluateOnExit": [*rules, {"action": "EXIT", "onReason": "*"}]}


def sanitised(name: str) -> str:
    """The name with a hyphen for each character that AWS does not allow, beginning with a letter or digit."""
    return re.sub(r"[^A-Za-z0-9_-]", "-", name).lstrip("-_") or "x"


def _requirements(vcpus: str, memory_mb: str) -> list[dict[str, str]]:
    return [{"type": "VCPU", "value": vcpus}, {"type": "MEMORY", "value": memory_mb}]


_GENERATED: Final[Mapping[str, Any]] = {
    "type": "container",
    "containerProperties": {
        "image": "${IMAGE}",
        "jobRoleArn": "${JOB_ROLE_ARN}",
        "executionRoleArn": "${EXECUTION_ROLE_ARN}",
        "resourceRequirements": _requirements("${VCPUS}", "${MEMORY_MB}"),
        "logConfiguration": {"logDriver": "awslogs", "options": {"awslogs-group": "${LOG_GROUP}"}},
        # An init hands signals on: as process 1, a program that does not handle SIGTERM would never get it.
        "linuxParameters": {"initProcessEnabled": True},
        # The machines' scratch volume; a container's own file system lies on their small root volume.
        "volumes": [{"name": "scratch", "host": {"sourcePath": "/docker_scratch"}}],
        "mountPoints": [{"sourceVolume": "scratch", "containerPath": "/scratch", "readOnly": False}],
    },
}


def _definition_of(node: Node, root: Path, pipeline: str, attempts: int, roles: Mapping[str, str]) -> dict[str, Any]:
    step = node.step
    if problems := list(wrong_kinds(type(step))):
        raise InvalidPipeline("\n".join(problems))
    values = {"IMAGE": node.image or NO_IMAGE, "VCPUS": f"{node.cpus:g}", "MEMORY_MB": str(node.memory_mb), **roles}
    path = root / FOLDER / f"{node.name}.json"
    definition = _filled(_read(path) if path.is_file() else _GENERATED, values, path)
    definition.setdefault("jobDefinitionName", f"{pipeline}-{node.name}")
    definition["tags"] = {**(definition.get("tags") or {}), PIPELINE_TAG: pipeline}
    definition.setdefault("retryStrategy", retry_strategy(attempts))
    if node.timeout_seconds is not None:
        definition.setdefault("timeout", {"attemptDurationSeconds": node.timeout_seconds})
    _check(definition, path)
    return named(_with_settings(definition, node))


def _with_settings(definition: dict[str, Any], node: Node) -> dict[str, Any]:
    """The definition with what the settings say of the step, which goes before what its file says."""
    settings, container = node.settings, definition["containerProperties"]
    requirements = {item["type"]: item for item in container.get("resourceRequirements", ())}
    if "cpus" in settings:
        container.pop("vcpus", None)
        requirements["VCPU"] = {"type": "VCPU", "value": f"{node.cpus:g}"}
    if "memory_mb" in settings:
        container.pop("memory", None)
        requirements["MEMORY"] = {"type": "MEMORY", "value": str(node.memory_mb)}
    if requirements:
        container["resourceRequirements"] = list(requirements.values())
    if "image" in settings:
        container["image"] = node.image
    if "timeout_seconds" in settings:
        definition.pop("timeout", None)
        if node.timeout_seconds is not None:
            definition["timeout"] = {"attemptDurationSeconds": node.timeout_seconds}
    return definition


def _read(path: Path) -> Mapping[str, Any]:
    try:
        definition = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InvalidPipeline(f"The job definition {path} cannot be read ({error}). Fix or remove it.") from error
    if not isinstance(definition, dict):
        raise InvalidPipeline(f"The job definition {path} is not in the shape of a JSON object. Fix or remove it.")
    return definition


def _filled(value: Any, values: Mapping[str, str], path: Path) -> Any:
    """The value with its placeholders replaced; an entry whose whole text was an empty one is left out.

    So is an object that has nothing but such entries.
    """
    if isinstance(value, Mapping):
        filled = {key: _filled(item, values, path) for key, item in value.items()}
        return {key: item for key, item in filled.items() if item not in ("", {}) or value[key] == item}
    if isinstance(value, list):
        return [_filled(item, values, path) for item in value]
    return _PLACEHOLDER.sub(lambda match: _value(match[1], values, path), value) if isinstance(value, str) else value


def _value(name: str, values: Mapping[str, str], path: Path) -> str:
    if name not in values:
        known = ", ".join(f"${{{each}}}" for each in values)
        raise InvalidPipeline(f"The job definition {path} has ${{{name}}}; it may have: {known}.")
    return values[name]


def _check(definition: Any, path: Path) -> None:
    """Refuses what this package cannot submit by; AWS checks the rest when it is registered."""
    try:
        _, memory_mb = resources(definition)
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise InvalidPipeline(
            f"The job definition {path} is not in the shape of register-job-definition with containerProperties and "
            f"resourceRequirements VCPU and MEMORY ({type(error).__name__}: {error}). Fix or remove it."
        ) from error
    size = len(canonical_json(definition))
    if size > MAX_DEFINITION_BYTES:
        raise InvalidPipeline(f"The job definition {path} has {size} bytes, AWS takes {MAX_DEFINITION_BYTES}. Cut it.")
    if memory_mb < 4 or not definition["containerProperties"].get("image"):
        raise InvalidPipeline(f"The job definition {path} needs an image and at least 4 MiB of MEMORY. Add them.")
    if len(definition.get("retryStrategy", {}).get("evaluateOnExit", ())) > MAX_RETRY_RULES:
        raise InvalidPipeline(
            f"The job definition {path} has more than {MAX_RETRY_RULES} evaluateOnExit rules. Cut them."
        )
