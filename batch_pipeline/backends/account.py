"""Describes what jobs need besides themselves: our AWS identity, queues, machines, roles, images, log groups.

Each question is one call, or one a hundred things. An AWS identity that may submit jobs need not have the right to
read all of this: `NotVisible` says that a question was not answered, and is no reason not to submit. With the embedded
Batch, or another service in AWS's place, there is nothing but queues and compute environments to describe.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeVar, runtime_checkable

from batch_pipeline.backends.aws_clients import Clients
from batch_pipeline.backends.aws_errors import code_of
from batch_pipeline.backends.capacity import Environment, InstanceType, Queue, ResourceRequest
from batch_pipeline.wire.errors import BackendFailed

T = TypeVar("T")

#: What `optimal` means at the least, and AWS's newer words for about the same: the largest of each family. The families
#: change with the years and grow: https://docs.aws.amazon.com/batch/latest/userguide/instance-type-compute-table.html
_WORDS: Final[Mapping[str, Sequence[InstanceType]]] = {
    word: (
        InstanceType(name="c-family", vcpus=36, memory_mb=61_440),
        InstanceType(name="r-family", vcpus=64, memory_mb=499_712),
    )
    for word in ("optimal", "default_x86_64", "default_arm64")
}
#: https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_Filter.html
_FILTER_VALUES: Final = 200
_ECR_IMAGE = re.compile(
    r"(?P<registry>\d{12})\.dkr\.ecr\.(?P<region>[\w-]+)\.amazonaws\.com(\.cn)?/(?P<repository>[^:@]+)"
    r"(:(?P<tag>[^@]+))?(@(?P<digest>sha256:\w+))?"
)
#: Of machines of EC2 and of EKS; others count instances.
_VCPU_UNITS: Final = ("vcpu", "cpu")
#: Codes that say that we may not ask, or that the one who is asked knows no such question.
_REFUSED: Final = ("AccessDenied", "AccessDeniedException", "UnauthorizedOperation", "UnknownOperationException")


class NotVisible(Exception):
    """AWS does not tell this identity, or there is no AWS to ask. The text says why."""


@dataclass(frozen=True, kw_only=True)
class Waiting:
    """A job that waits, or the first of its children that does."""

    wanted: ResourceRequest
    #: AWS's own words; only the job at the head of a queue has some.
    status_reason: str = ""


@dataclass(frozen=True, kw_only=True)
class QueueSnapshot:
    """GetJobQueueSnapshot of one queue."""

    #: Ids of the first 100 jobs and children that wait for a machine, in their order, each with the time in
    #: milliseconds since 1970 at which it came to its place.
    front: tuple[tuple[str, int], ...]
    #: vCPUs in use; None: it is not said.
    vcpus: float | None


@runtime_checkable
class Inspectable(Protocol):
    """A backend that describes the place where it runs jobs. Callers take any `object` and ask only one of these."""

    @property
    def account(self) -> Account:
        """The description."""


class Account:
    """See the module. `complete`: whether there is more of AWS than Batch."""

    def __init__(self, clients: Clients, *, complete: bool) -> None:
        self._clients = clients
        self.complete = complete

    def identity(self) -> tuple[str, str]:
        """Account and ARN of whoever we are. Raises BackendFailed, NotVisible."""
        identity = self._call("get_caller_identity", "sts")
        return str(identity["Account"]), str(identity["Arn"])

    def queues(self, names: Iterable[str]) -> dict[str, Queue]:
        """The queues that are there, by the name that was asked for. Two calls. Raises BackendFailed, NotVisible."""
        unique = list(dict.fromkeys(names))
        answer = self._permitted(lambda: self._clients.read("describe_job_queues", jobQueues=unique))
        by_name = {item["jobQueueName"]: item for item in answer.get("jobQueues", ())}
        arns = [
            entry["computeEnvironment"]
            for item in by_name.values()
            for entry in item.get("computeEnvironmentOrder", ())
        ]
        environments = self._environments(list(dict.fromkeys(arns)))
        return {
            name: _queue(by_name[short], environments)
            for name, short in ((name, name.rpartition("/")[2]) for name in unique)
            if short in by_name
        }

    def machines(self, queues: Iterable[Queue]) -> dict[str, Sequence[InstanceType]]:
        """Environment -> the types of instance that it may have. One call for all. Raises BackendFailed, NotVisible."""
        environments = {each.name: each for queue in queues for each in queue.environments if each.instance_types}
        patterns = {
            pattern if "." in pattern else f"{pattern}.*"
            for each in environments.values()
            for pattern in each.instance_types
            if pattern not in _WORDS
        }
        types = self._instance_types(sorted(patterns)) if patterns else []
        return {
            name: [
                machine
                for pattern in each.instance_types
                for machine in _WORDS.get(pattern) or [m for m in types if m.name in (pattern, _of(pattern, m))]
            ]
            for name, each in environments.items()
        }

    def role(self, arn: str) -> Mapping[str, Any] | None:
        """The role's document, with the services that may take it on; None: there is none."""
        try:
            return dict(self._call("get_role", "iam", RoleName=arn.rpartition("/")[2])["Role"])
        except BackendFailed as error:
            if code_of(error) in ("NoSuchEntity", "NoSuchEntityException"):
                return None
            raise

    def has_image(self, image: str) -> bool:
        """Whether an image is in its ECR repository. Raises NotVisible for one of another registry."""
        return bool(self.image_digest(image))

    def image_digest(self, image: str) -> str:
        """The digest of an image in its ECR repository; empty: it is not there. Raises as `has_image`."""
        parts = _ECR_IMAGE.fullmatch(image)
        if parts is None:
            raise NotVisible(f"{image} is not in ECR")
        region = self._clients.region("ecr") if self.complete else ""
        if self.complete and parts["region"] != region:
            raise NotVisible(f"{image} is in another region than {region}")
        wanted = {"imageDigest": parts["digest"]} if parts["digest"] else {"imageTag": parts["tag"] or "latest"}
        try:
            answer = self._call(
                "describe_images",
                "ecr",
                registryId=parts["registry"],
                repositoryName=parts["repository"],
                imageIds=[wanted],
            )
        except BackendFailed as error:
            if code_of(error) in ("ImageNotFoundException", "RepositoryNotFoundException"):
                return ""
            raise
        return next((str(item["imageDigest"]) for item in answer["imageDetails"]), "")

    def secret(self, name: str) -> str:
        """The value of a secret in Secrets Manager. Raises BackendFailed, NotVisible."""
        return str(self._call("get_secret_value", "secretsmanager", SecretId=name)["SecretString"])

    def has_log_group(self, name: str) -> bool:
        """Whether there is a log group of exactly that name."""
        answer = self._call("describe_log_groups", "logs", logGroupNamePrefix=name)
        return any(item["logGroupName"] == name for item in answer.get("logGroups", ()))

    def waiting(self, native_id: str) -> Waiting | None:
        """What a job that waits asks for, and AWS's words about it; None for one that is forgotten.

        One call; of an array one more, for its first waiting child.
        """
        jobs = self._clients.read("describe_jobs", jobs=[native_id]).get("jobs", ())
        if not jobs:
            return None
        detail = jobs[0]
        reason = detail.get("statusReason", "")
        if detail.get("arrayProperties", {}).get("size"):
            listed = self._clients.read("list_jobs", arrayJobId=native_id, jobStatus="RUNNABLE", maxResults=100)
            reasons = (item.get("statusReason", "") for item in listed.get("jobSummaryList", ()))
            reason = next(filter(None, reasons), reason)
        return Waiting(
            wanted=resource_request_of(detail["container"], detail.get("platformCapabilities")), status_reason=reason
        )

    def snapshot(self, queue: str) -> QueueSnapshot:
        """The head of a queue, and how much of its machines is used. One call. Raises BackendFailed, NotVisible."""
        answer = self._permitted(lambda: self._clients.read("get_job_queue_snapshot", jobQueue=queue))
        usage = answer.get("queueUtilization", {}).get("totalCapacityUsage")
        return QueueSnapshot(
            front=tuple(
                (str(job["jobArn"]).rpartition("/")[2], int(job.get("earliestTimeAtPosition", 0)))
                for job in answer.get("frontOfQueue", {}).get("jobs", ())
            ),
            vcpus=None
            if usage is None
            else sum(item["quantity"] for item in usage if str(item["capacityUnit"]).lower() in _VCPU_UNITS),
        )

    def _environments(self, arns: Sequence[str]) -> dict[str, Environment]:
        if not arns:
            return {}
        answer = self._permitted(
            lambda: self._clients.read("describe_compute_environments", computeEnvironments=list(arns))
        )
        return {item["computeEnvironmentName"]: _environment(item) for item in answer.get("computeEnvironments", ())}

    def _instance_types(self, patterns: Sequence[str]) -> list[InstanceType]:
        machines: list[InstanceType] = []
        parameters: dict[str, Any] = {"Filters": [{"Name": "instance-type", "Values": list(patterns[:_FILTER_VALUES])}]}
        while True:
            answer = self._call("describe_instance_types", "ec2", **parameters)
            machines += map(_machine, answer.get("InstanceTypes", ()))
            if not answer.get("NextToken"):
                return machines
            parameters["NextToken"] = answer["NextToken"]

    def _call(self, operation: str, service: str, **parameters: Any) -> dict[str, Any]:
        if not self.complete:
            raise NotVisible("another service stands in for AWS")
        return self._permitted(lambda: self._clients.read(operation, service=service, **parameters))

    def _permitted(self, call: Callable[[], T]) -> T:
        try:
            return call()
        except BackendFailed as error:
            if code_of(error) in _REFUSED:
                raise NotVisible(error.message) from error
            raise


def resource_request_of(container: Mapping[str, Any], capabilities: Sequence[str] | None = None) -> ResourceRequest:
    """What a job asks for, from `containerProperties` or what DescribeJobs shows of them."""
    amounts: dict[str, Any] = {"VCPU": container.get("vcpus") or 1, "MEMORY": container.get("memory") or 0}
    amounts |= {item["type"]: item["value"] for item in container.get("resourceRequirements", ())}
    return ResourceRequest(
        vcpus=float(amounts["VCPU"]),
        memory_mb=int(amounts["MEMORY"]),
        gpus=int(amounts.get("GPU", 0)),
        capability="FARGATE" if "FARGATE" in (capabilities or ()) else "EC2",
    )


def _queue(item: Mapping[str, Any], environments: Mapping[str, Environment]) -> Queue:
    order = sorted(item.get("computeEnvironmentOrder", ()), key=lambda entry: int(entry["order"]))
    return Queue(
        name=item["jobQueueName"],
        enabled=item["state"] == "ENABLED",
        valid=item.get("status", "VALID") == "VALID",
        status_reason=item.get("statusReason", ""),
        fair_share=bool(item.get("schedulingPolicyArn")),
        # By ARN, or as it was named when the queue was made.
        environments=tuple(
            environments[name]
            for name in (str(entry["computeEnvironment"]).rpartition("/")[2] for entry in order)
            if name in environments
        ),
    )


def _environment(item: Mapping[str, Any]) -> Environment:
    resources = item.get("computeResources", {})
    kind = resources.get("type", "")
    return Environment(
        name=item["computeEnvironmentName"],
        enabled=item.get("state", "ENABLED") == "ENABLED",
        valid=item.get("status", "VALID") == "VALID",
        status_reason=item.get("statusReason", ""),
        kind=kind,
        max_vcpus=resources.get("maxvCpus"),
        present_vcpus=None if kind.startswith("FARGATE") else resources.get("desiredvCpus"),
        instance_types=tuple(resources.get("instanceTypes", ())),
    )


def _machine(item: Mapping[str, Any]) -> InstanceType:
    return InstanceType(
        name=item["InstanceType"], vcpus=item["VCpuInfo"]["DefaultVCpus"], memory_mb=item["MemoryInfo"]["SizeInMiB"]
    )


def _of(pattern: str, machine: InstanceType) -> str:
    """The machine's name where its family is the pattern, else nothing."""
    return machine.name if machine.name.startswith(f"{pattern}.") else ""
