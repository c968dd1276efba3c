"""Checks that a job definition and a submitted job share: environment, resources, retry strategy, timeout."""

from __future__ import annotations

import re
from collections.abc import Iterable

from batch_pipeline.localbatch.api.model import ApiError
from batch_pipeline.localbatch.api.registry import check_tags
from batch_pipeline.localbatch.engine.job import Document, Rule

# https://docs.aws.amazon.com/batch/latest/APIReference/API_RetryStrategy.html
MAX_ATTEMPTS = 10
MAX_RULES = 5
# https://docs.aws.amazon.com/batch/latest/userguide/job_timeouts.html
MINIMUM_TIMEOUT_SECONDS = 60

_FARGATE_VCPUS = {"0.25", "0.5", "1", "2", "4", "8", "16"}


def refused(message: str) -> ApiError:
    """The error that AWS gives for a request that it understood and refuses."""
    return ApiError(f"Error executing request, Exception : {message}")


def normal_definition(request: Document, minimum_timeout: int) -> Document:
    """RegisterJobDefinition's request as DescribeJobDefinitions will show it.

    Empty lists appear, variables with an empty value disappear, and the actions of `evaluateOnExit` are lower case, as
    in AWS.
    """
    if request["type"] != "container" or "containerProperties" not in request:
        raise refused("The embedded Batch runs definitions of type container with containerProperties only.")
    container = request["containerProperties"]
    if not container.get("image"):
        raise refused("containerProperties.image is required")
    check_environment(container.get("environment", ()))
    check_command(container.get("command", ()))
    _, memory, _ = resources(container, {})
    # Less than half a thousandth of a vCPU occupies none.
    if _written_vcpus(container) <= 0 or memory < 4:
        raise refused("containerProperties needs VCPU and MEMORY (4 MiB at least) as resourceRequirements")
    if "FARGATE" in request.get("platformCapabilities", ()):
        _check_fargate(container)
    check_tags(request.get("tags", {}))
    normal = {
        "parameters": {},
        "tags": {},
        **request,
        "containerProperties": {
            "command": [],
            "volumes": [],
            "mountPoints": [],
            "ulimits": [],
            "resourceRequirements": [],
            "secrets": [],
            **container,
            "environment": _without_empty(container.get("environment", ())),
        },
    }
    if "retryStrategy" in request:
        normal["retryStrategy"], _ = retry_strategy(request["retryStrategy"])
    check_timeout(request.get("timeout"), minimum_timeout)
    return normal


def _written_vcpus(container: Document) -> float:
    """vCPUs as they are written; `resources` has checked that it is a number."""
    listed = {item["type"]: item["value"] for item in container.get("resourceRequirements", ())}
    return float(str(listed.get("VCPU", container.get("vcpus", 0))))


def check_environment(pairs: Iterable[Document]) -> None:
    """Refuses names that belong to Batch itself."""
    for pair in pairs:
        if pair.get("name", "").startswith("AWS_BATCH"):
            raise refused(f"Environment variable names must not start with AWS_BATCH, got {pair['name']}")


def check_command(command: Iterable[str]) -> None:
    """Refuses an empty word."""
    if any(word == "" for word in command):
        raise refused("The command can't contain an empty string")


def _without_empty(pairs: Iterable[Document]) -> list[Document]:
    return [pair for pair in pairs if pair.get("value", "") != ""]


def resources(container: Document, overrides: Document) -> tuple[int, int, bool]:
    """Thousandths of a vCPU, MiB, and whether something is asked that this machine never has (a GPU)."""
    wanted = {"VCPU": str(container.get("vcpus", 0)), "MEMORY": str(container.get("memory", 0))}
    for requirement in (*container.get("resourceRequirements", ()), *overrides.get("resourceRequirements", ())):
        wanted[requirement["type"]] = requirement["value"]
    for key, name in (("VCPU", "vcpus"), ("MEMORY", "memory")):
        if name in overrides and not any(r["type"] == key for r in container.get("resourceRequirements", ())):
            wanted[key] = str(overrides[name])
    try:
        return round(float(wanted["VCPU"]) * 1000), int(wanted["MEMORY"]), int(wanted.get("GPU", 0)) > 0
    except ValueError as error:
        raise refused(f"resourceRequirements have a value that is not a number: {wanted}") from error


def _check_fargate(container: Document) -> None:
    vcpus = {r["type"]: r["value"] for r in container.get("resourceRequirements", ())}.get("VCPU")
    if vcpus not in _FARGATE_VCPUS:
        raise refused(f"Fargate resource requirements (VCPU {vcpus}) not valid")
    if not container.get("executionRoleArn"):
        raise refused("ExecutionRoleArn is required for Fargate jobs")


def check_timeout(timeout: Document | None, minimum: int) -> int | None:
    """Seconds an attempt may run, if limited."""
    if not timeout:
        return None
    seconds = timeout.get("attemptDurationSeconds")
    if not isinstance(seconds, int) or seconds < minimum:
        raise refused(f"attemptDurationSeconds must be at least {minimum}, got {seconds}")
    return seconds


def retry_strategy(strategy: Document) -> tuple[Document, tuple[Rule, ...]]:
    """A retry strategy as Describe shows it, and its rules."""
    attempts, entries = strategy.get("attempts"), strategy.get("evaluateOnExit", [])
    if attempts is None:
        raise refused("RetryAttempts must be provided with retry strategy")
    if not 1 <= attempts <= MAX_ATTEMPTS:
        raise refused(f"Retry attempts must be between 1 and {MAX_ATTEMPTS}, got {attempts}")
    if len(entries) > MAX_RULES:
        raise refused(f"evaluateOnExit can have at most {MAX_RULES} entries, got {len(entries)}")
    shown = [{**entry, "action": entry["action"].lower()} for entry in entries]
    return {"attempts": attempts, "evaluateOnExit": shown}, tuple(_rule(entry) for entry in entries)


def _rule(entry: Document) -> Rule:
    action = entry["action"].upper()
    if action not in ("RETRY", "EXIT"):
        raise refused(f"evaluateOnExit action must be RETRY or EXIT, got {entry['action']}")
    if not {"onStatusReason", "onReason", "onExitCode"} & entry.keys():
        raise refused("An evaluateOnExit entry needs onStatusReason, onReason or onExitCode")
    for key in ("onStatusReason", "onReason"):
        if key in entry and not re.fullmatch(r"(?!$)[A-Za-z0-9.:\s]{0,511}\*?", entry[key]):
            raise refused("Evaluate on exit condition contains restricted characters")
    if "onExitCode" in entry and not re.fullmatch(r"(?!$)[0-9]{0,511}\*?", entry["onExitCode"]):
        raise refused("Evaluate on exit condition contains restricted characters")
    return Rule(
        retry=action == "RETRY",
        on_status_reason=entry.get("onStatusReason"),
        on_reason=entry.get("onReason"),
        on_exit_code=entry.get("onExitCode"),
    )
