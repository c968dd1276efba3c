"""Whether a queue and its compute environments can run a job, in sentences. Pure.

A job that no machine of its queue can hold is accepted, waits in RUNNABLE for ever, and in a queue that is first in,
first out holds up everything behind it. All that is needed to know it is in a few descriptions, which `account` reads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

#: vCPUs -> MiB that a Fargate task may have; both in GiB here:
#: https://docs.aws.amazon.com/AmazonECS/latest/developerguide/fargate-tasks-services.html
_FARGATE_GIB: Final[Mapping[float, Sequence[float]]] = {
    0.25: (0.5, 1, 2),
    0.5: range(1, 5),
    1: range(2, 9),
    2: range(4, 17),
    4: range(8, 31),
    8: range(16, 61, 4),
    16: range(32, 121, 8),
    32: (60, 120, 244),
}
#: Share of a machine's memory that a job can have at the most: the rest is its kernel's and the ECS agent's.
#: https://docs.aws.amazon.com/batch/latest/userguide/memory-management.html
USABLE_MEMORY: Final = 0.97
_GIB: Final = 1024


@dataclass(frozen=True, kw_only=True)
class InstanceType:
    """A type of instance."""

    name: str
    vcpus: int
    memory_mb: int


@dataclass(frozen=True, kw_only=True)
class Environment:
    """A compute environment, as far as it concerns a job."""

    name: str
    enabled: bool
    valid: bool
    status_reason: str = ""
    #: EC2, SPOT, FARGATE or FARGATE_SPOT; empty: unmanaged, and AWS knows nothing of its machines.
    kind: str = ""
    #: None: no bound is known.
    max_vcpus: int | None = None
    #: vCPUs that are there now; None for Fargate, which says nothing of it.
    present_vcpus: int | None = None
    #: `m5.large`, families (`m5`) and words (`optimal`).
    instance_types: tuple[str, ...] = ()

    @property
    def works(self) -> bool:
        """Whether jobs are placed in it."""
        return self.enabled and self.valid

    @property
    def is_fargate(self) -> bool:
        """Whether its jobs are Fargate tasks."""
        return self.kind.startswith("FARGATE")

    @property
    def is_spot(self) -> bool:
        """Whether AWS may take its machines back."""
        return self.kind.endswith("SPOT")


@dataclass(frozen=True, kw_only=True)
class Queue:
    """A job queue with its compute environments, in their order."""

    name: str
    enabled: bool
    valid: bool
    status_reason: str = ""
    #: Whether jobs must name a share.
    fair_share: bool = False
    environments: tuple[Environment, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ResourceRequest:
    """What a job asks for."""

    vcpus: float
    memory_mb: int
    #: FARGATE or EC2.
    capability: str = "EC2"
    gpus: int = 0

    @property
    def words(self) -> str:
        """`4 vCPUs and 8,192 MiB`."""
        gpus = f", {self.gpus} GPUs" if self.gpus else ""
        return f"{self.vcpus:g} vCPU{'s' * (self.vcpus != 1)} and {self.memory_mb:,} MiB{gpus}"


@dataclass(frozen=True, kw_only=True)
class CapacityProblem:
    """What is wrong and what to do."""

    sentence: str
    remedy: str

    @property
    def words(self) -> str:
        """Both, as one text."""
        return f"{self.sentence} {self.remedy}"


def queue_problems(queue: Queue) -> list[CapacityProblem]:
    """Why the queue takes no job or starts none; a single environment that works is enough to start them."""
    problems = []
    if not queue.enabled:
        problems.append(
            CapacityProblem(
                sentence=f"The job queue {queue.name} is disabled and takes no jobs.",
                remedy=f"Enable it: aws batch update-job-queue --job-queue {queue.name} --state ENABLED",
            )
        )
    if not queue.valid:
        problems.append(
            CapacityProblem(
                sentence=f"The job queue {queue.name} is not VALID{_because(queue.status_reason)}.",
                remedy="Wait if it is being changed; else set it up again: deploy infrastructure.",
            )
        )
    if queue.environments and not any(each.works for each in queue.environments):
        problems += [_environment_problem(queue, each) for each in queue.environments]
    if not queue.environments:
        problems.append(
            CapacityProblem(
                sentence=f"The job queue {queue.name} has no compute environment.",
                remedy="Give it one: deploy infrastructure, or aws batch update-job-queue.",
            )
        )
    return problems


def _environment_problem(queue: Queue, environment: Environment) -> CapacityProblem:
    of = f"The compute environment {environment.name} of queue {queue.name}"
    if not environment.enabled:
        update = f"aws batch update-compute-environment --compute-environment {environment.name} --state ENABLED"
        return CapacityProblem(sentence=f"{of} is disabled and starts no jobs.", remedy=f"Enable it: {update}")
    return CapacityProblem(
        sentence=f"{of} is not VALID{_because(environment.status_reason)}.",
        remedy="Fix what AWS names (mostly a role, a subnet or a launch template): deploy infrastructure.",
    )


def _because(reason: str) -> str:
    return f" ({reason.strip().rstrip('.')})" if reason.strip() else ""


def misfits(
    queue: Queue, wanted: ResourceRequest, machines: Mapping[str, Sequence[InstanceType]]
) -> list[CapacityProblem]:
    """Why no compute environment of the queue can ever hold the job; empty when one can, or may be able to.

    `machines` has the types of instance by environment; one that is not there is taken for large enough.
    """
    if not queue.environments:
        return []
    reasons = []
    for environment in queue.environments:
        reason = _misfit(environment, wanted, machines.get(environment.name))
        if reason is None:
            return []
        reasons.append(f"{environment.name} {reason}")
    return [
        CapacityProblem(
            sentence=f"A job of {wanted.words} fits no compute environment of {queue.name}: {'; '.join(reasons)}.",
            remedy="Ask for less in the step's class or in job_definitions/, or name a queue with larger machines.",
        )
    ]


def _misfit(environment: Environment, wanted: ResourceRequest, candidates: Sequence[InstanceType] | None) -> str | None:
    if environment.kind and environment.is_fargate != (wanted.capability == "FARGATE"):
        return f"is {environment.kind} and the job's definition is for {wanted.capability}"
    if environment.is_fargate and not _is_fargate_pair(wanted):
        near = ", ".join(f"{gib * _GIB:,.0f}" for gib in _FARGATE_GIB.get(wanted.vcpus, ()))
        vcpus = ", ".join(f"{vcpus:g}" for vcpus in _FARGATE_GIB)
        return f"takes with {wanted.vcpus:g} vCPUs only {near} MiB" if near else f"takes only {vcpus} vCPUs"
    if environment.max_vcpus is not None and wanted.vcpus > environment.max_vcpus:
        return f"has {environment.max_vcpus:,} vCPUs at the most"
    if candidates and not any(_holds(machine, wanted) for machine in candidates):
        largest = max(candidates, key=lambda machine: (machine.memory_mb, machine.vcpus))
        return f"has no larger machine than {largest.name} ({largest.vcpus} vCPUs, {usable(largest):,} MiB for jobs)"
    return None


def _is_fargate_pair(wanted: ResourceRequest) -> bool:
    return wanted.memory_mb in [gib * _GIB for gib in _FARGATE_GIB.get(wanted.vcpus, ())] and not wanted.gpus


def _holds(machine: InstanceType, wanted: ResourceRequest) -> bool:
    return machine.vcpus >= wanted.vcpus and usable(machine) >= wanted.memory_mb


def usable(machine: InstanceType) -> int:
    """MiB that a job can have on it."""
    return int(machine.memory_mb * USABLE_MEMORY)
