"""Compute environments, job queues and job definitions: what must be there before a job is submitted."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from uuid import uuid4

from batch_pipeline.localbatch.api.model import ApiError
from batch_pipeline.localbatch.engine.job import Document

REGION = "us-east-1"
ACCOUNT = "000000000000"
ARN = f"arn:aws:batch:{REGION}:{ACCOUNT}"
#: The compute environment that is there from the start: this machine.
COMPUTE_ENVIRONMENT = "embedded"

# https://docs.aws.amazon.com/batch/latest/userguide/service_limits.html
DEFINITION_BYTES = 24 * 1024

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,127}")


def check_name(name: str, what: str) -> None:
    """Refuses a name that AWS would refuse."""
    if not _NAME.fullmatch(name):
        raise ApiError(
            f"Error executing request, Exception : {what} should match valid pattern: {_NAME.pattern}, got {name!r}"
        )


def _check_scaling(request: Document) -> None:
    """Refuses a delay of scaling down that AWS refuses; here nothing scales, and it is noted only.

    https://docs.aws.amazon.com/batch/latest/APIReference/API_ComputeScalingPolicy.html
    """
    policy = request.get("computeResources", {}).get("scalingPolicy", {})
    minutes = policy.get("minScaleDownDelayMinutes", 0)
    if minutes and not 20 <= minutes <= 10_080:
        raise ApiError(
            "Error executing request, Exception : minScaleDownDelayMinutes must be 0 or between 20 and 10080"
        )


def check_tags(tags: Document) -> None:
    """Refuses tags that AWS would refuse.

    https://docs.aws.amazon.com/batch/latest/userguide/using-tags.html
    """
    if len(tags) > 50:
        raise ApiError("Error executing request, Exception : A resource can have at most 50 tags")
    for key, value in tags.items():
        if not re.fullmatch(r"[\w\s+\-=.:/@]{1,128}", key) or not re.fullmatch(r"[\w\s+\-=.:/@]{0,256}", value):
            raise ApiError(f"Error executing request, Exception : Tag {key!r}={value!r} has characters not allowed")
        if key.lower().startswith("aws:"):
            raise ApiError(f"Error executing request, Exception : Tag key {key!r} has the reserved prefix aws:")


class ResourceRegistry:
    """The documents by kind and name, in AWS's Describe shapes.

    `save(kind, name, document)` is called for each change, before the answer goes out; with None for what was deleted.
    """

    def __init__(self, save: Callable[[str, str, Document | None], None]) -> None:
        self._save = save
        self.environments: dict[str, Document] = {}
        self.queues: dict[str, Document] = {}
        #: Fair share policies.
        self.policies: dict[str, Document] = {}
        self.consumables: dict[str, Document] = {}
        #: `name:revision` → definition.
        self.definitions: dict[str, Document] = {}
        self.revisions: dict[str, int] = {}
        #: Tags of jobs that were changed after submission, by job id.
        self.job_tags: dict[str, Document] = {}

    def load(self, kind: str, name: str, document: Document) -> None:
        """Puts a stored document in."""
        self.table(kind)[name] = document
        if kind == "definition":
            base = document["jobDefinitionName"]
            self.revisions[base] = max(self.revisions.get(base, 0), document["revision"])

    def table(self, kind: str) -> dict[str, Document]:
        """The documents of a kind by name."""
        return {
            "environment": self.environments,
            "queue": self.queues,
            "policy": self.policies,
            "definition": self.definitions,
            "consumable": self.consumables,
            "job": self.job_tags,
        }[kind]

    def _put(self, kind: str, name: str, document: Document) -> None:
        self._save(kind, name, document)
        self.load(kind, name, document)

    def add_environment(self, request: Document) -> Document:
        """CreateComputeEnvironment."""
        name = request["computeEnvironmentName"]
        check_name(name, "computeEnvironmentName")
        if name in self.environments:
            raise ApiError("Error executing request, Exception : Object already exists")
        _check_scaling(request)
        arn = f"{ARN}:compute-environment/{name}"
        document = {
            "state": "ENABLED",
            "tags": {},
            **request,
            "computeEnvironmentArn": arn,
            "ecsClusterArn": f"arn:aws:ecs:{REGION}:{ACCOUNT}:cluster/{name}",
            "status": "VALID",
            "statusReason": "ComputeEnvironment Healthy",
            "containerOrchestrationType": "ECS",
            "uuid": str(uuid4()),
        }
        self._put("environment", name, document)
        return {"computeEnvironmentName": name, "computeEnvironmentArn": arn}

    def change_environment(self, request: Document) -> Document:
        """UpdateComputeEnvironment: its state; what else it says of a machine that is not AWS's is noted only."""
        environment = self.environment(request["computeEnvironment"])
        _check_scaling(request)
        changes = {key: item for key, item in request.items() if key not in ("computeEnvironment", "computeResources")}
        resources = {**environment.get("computeResources", {}), **request.get("computeResources", {})}
        changes |= {"computeResources": resources} if resources else {}
        self._put("environment", environment["computeEnvironmentName"], {**environment, **changes})
        return {key: environment[key] for key in ("computeEnvironmentName", "computeEnvironmentArn")}

    def add_policy(self, request: Document) -> Document:
        """CreateSchedulingPolicy."""
        name = request["name"]
        check_name(name, "name")
        if name in self.policies:
            raise ApiError("Error executing request, Exception : Object already exists")
        arn = f"{ARN}:scheduling-policy/{name}"
        self._put("policy", name, {"tags": {}, **request, "arn": arn})
        return {"name": name, "arn": arn}

    def serves(self, queue: str) -> bool:
        """Whether any compute environment of a queue starts jobs; a disabled one lets those go on that run.

        https://docs.aws.amazon.com/batch/latest/APIReference/API_UpdateComputeEnvironment.html
        """
        order = self.queues[queue]["computeEnvironmentOrder"]
        environments = [self.environment(entry["computeEnvironment"]) for entry in order]
        return any(each["state"] == "ENABLED" and each["status"] == "VALID" for each in environments)

    def add_queue(self, request: Document) -> Document:
        """CreateJobQueue."""
        name = request["jobQueueName"]
        check_name(name, "jobQueueName")
        if name in self.queues:
            raise ApiError("Error executing request, Exception : Object already exists")
        order = [
            {**entry, "computeEnvironment": self.environment(entry["computeEnvironment"])["computeEnvironmentArn"]}
            for entry in request.get("computeEnvironmentOrder", ())
        ]
        if not order:
            raise ApiError("Error executing request, Exception : computeEnvironmentOrder must not be empty")
        policy = request.get("schedulingPolicyArn")
        if policy and policy.rpartition("/")[2] not in self.policies:
            raise ApiError(f"Error executing request, Exception : schedulingPolicy {policy} does not exist.")
        arn = f"{ARN}:job-queue/{name}"
        document = {
            "state": "ENABLED",
            "tags": {},
            "jobStateTimeLimitActions": [],
            **request,
            "computeEnvironmentOrder": order,
            "jobQueueArn": arn,
            "status": "VALID",
            "statusReason": "JobQueue Healthy",
        }
        self._put("queue", name, document)
        return {"jobQueueName": name, "jobQueueArn": arn}

    def change_queue(self, request: Document) -> Document:
        """UpdateJobQueue: state and priority."""
        queue = self.queue(request["jobQueue"])
        changes: Document = {key: request[key] for key in ("state", "priority") if key in request}
        self._put("queue", queue["jobQueueName"], {**queue, **changes})
        return {"jobQueueName": queue["jobQueueName"], "jobQueueArn": queue["jobQueueArn"]}

    def tag(self, kind: str, name: str, tags: Document) -> None:
        """Replaces the tags of a job, queue, environment or definition."""
        self._put(kind, name, tags if kind == "job" else {**self.table(kind)[name], "tags": tags})

    def environment(self, name_or_arn: str) -> Document:
        """A compute environment by name or ARN."""
        environment = self.environments.get(name_or_arn.rpartition("/")[2])
        if environment is None:
            raise ApiError(f"Error executing request, Exception : computeEnvironment {name_or_arn} does not exist.")
        return environment

    def queue(self, name_or_arn: str) -> Document:
        """A job queue by name or ARN."""
        queue = self.queues.get(name_or_arn.rpartition("/")[2])
        if queue is None:
            raise ApiError(f"Error executing request, Exception : JobQueue {name_or_arn} does not exist.")
        return queue

    def consumable(self, name_or_arn: str) -> Document:
        """A consumable resource by name or ARN."""
        document = self.consumables.get(name_or_arn.rpartition("/")[2])
        if document is None:
            raise ApiError(f"Error executing request, Exception : consumableResource {name_or_arn} does not exist.")
        return document

    def put_consumable(self, name: str, document: Document | None) -> None:
        """Keeps a consumable resource, or deletes it (None)."""
        if document is not None:
            self._put("consumable", name, document)
            return
        self._save("consumable", name, None)
        del self.consumables[name]

    def add_definition(self, request: Document) -> Document:
        """RegisterJobDefinition; the caller has checked the request."""
        name = request["jobDefinitionName"]
        check_name(name, "jobDefinitionName")
        size = len(json.dumps(request, separators=(",", ":")).encode())
        if size > DEFINITION_BYTES:
            raise ApiError(
                "Error executing request, Exception : Job definition size must be less than "
                f"{DEFINITION_BYTES // 1024} KiB, got {-(-size // 1024)} KiB"
            )
        revision = self.revisions.get(name, 0) + 1
        arn = f"{ARN}:job-definition/{name}:{revision}"
        document = {**request, "jobDefinitionArn": arn, "revision": revision, "status": "ACTIVE"}
        document["containerOrchestrationType"] = "ECS"
        self._put("definition", f"{name}:{revision}", document)
        return {"jobDefinitionName": name, "jobDefinitionArn": arn, "revision": revision}

    def deactivate(self, name_or_arn: str) -> None:
        """DeregisterJobDefinition: `name:revision` or an ARN; again is no error."""
        key = name_or_arn.rpartition("/")[2]
        if ":" not in key:
            raise ApiError(
                f"Error executing request, Exception : jobDefinition {name_or_arn} must be of the form name:revision"
            )
        if key in self.definitions:
            self._put("definition", key, {**self.definitions[key], "status": "INACTIVE"})

    def active_definition(self, name_or_arn: str) -> Document:
        """The definition that SubmitJob means: without a revision the latest ACTIVE one."""
        key = name_or_arn.rpartition("/")[2]
        if ":" in key:
            definition = self.definitions.get(key)
        else:
            revisions = range(self.revisions.get(key, 0), 0, -1)
            candidates = (self.definitions[f"{key}:{revision}"] for revision in revisions)
            definition = next((each for each in candidates if each["status"] == "ACTIVE"), None)
        if definition is None or definition["status"] != "ACTIVE":
            raise ApiError(
                f"Error executing request, Exception : JobDefinition {name_or_arn} is not found or INACTIVE."
            )
        return definition
