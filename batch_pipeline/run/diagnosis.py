"""Why a job waits although nothing of its queue runs: from AWS's descriptions to sentences, each with a remedy.

`diagnose` asks, in five calls at the most; `reasons_of` decides and is pure. What is surely wrong is told first and
alone: a queue or compute environment that is switched off or broken, a job that fits no machine. Then what AWS says of
the head of the queue itself, in codes. Only where AWS says nothing is it inferred: from how much is running already,
and from whether machines were started that never took a job.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from batch_pipeline.backends.account import Account, Inspectable, NotVisible, Waiting
from batch_pipeline.backends.capacity import CapacityProblem, InstanceType, Queue, misfits, queue_problems
from batch_pipeline.records.submissions import Submission
from batch_pipeline.wire.native_id import NativeId

_LARGER: Final = "Raise maxvCpus of the compute environment (deploy infrastructure), or wait for other jobs to end."
_LESS: Final = "Ask for less in the step's class or in job_definitions/, or name a queue with larger machines."

#: AWS's codes for a job that is stuck at the head of its queue, by their beginning; the first that fits decides.
#: https://docs.aws.amazon.com/batch/latest/userguide/job_stuck_in_runnable.html
CODES: Final[Sequence[tuple[str, CapacityProblem]]] = (
    (
        "CAPACITY:INSUFFICIENT_INSTANCE_CAPACITY",
        CapacityProblem(
            sentence="AWS has no free machine of the types and zones that the compute environment allows.",
            remedy="Wait, or allow more types and subnets.",
        ),
    ),
    (
        "CAPACITY:HELD_BY_OTHERS",
        CapacityProblem(
            sentence="Jobs of other stores take the vCPUs or memory of this machine.",
            remedy="Wait for them, or see to them: status --store URL.",
        ),
    ),
    (
        "CAPACITY:",
        CapacityProblem(
            sentence="AWS has not the capacity that the job needs.", remedy="Wait, or allow more types and zones."
        ),
    ),
    (
        "MISCONFIGURATION:COMPUTE_ENVIRONMENT_MAX_RESOURCE",
        CapacityProblem(
            sentence="The job asks for more vCPUs than its compute environment may ever have.", remedy=_LARGER
        ),
    ),
    (
        "MISCONFIGURATION:JOB_RESOURCE_REQUIREMENT",
        CapacityProblem(sentence="No machine of the queue is large enough for the job.", remedy=_LESS),
    ),
    (
        "MISCONFIGURATION:SERVICE_ROLE_PERMISSIONS",
        CapacityProblem(
            sentence="Batch's own role may not do what starting machines takes.",
            remedy="Give the compute environment's service role its permissions back: deploy infrastructure.",
        ),
    ),
    (
        "MISCONFIGURATION:EC2_INSTANCE_CONFIGURATION_UNSUPPORTED",
        CapacityProblem(
            sentence="The compute environment names types of instance that its zones or launch template do not allow.",
            remedy="Name other types: deploy infrastructure.",
        ),
    ),
    (
        "MISCONFIGURATION:",
        CapacityProblem(
            sentence="The queue or its compute environment is set up wrongly.",
            remedy="Fix what AWS names: deploy infrastructure.",
        ),
    ),
    (
        "ACTION_REQUIRED",
        CapacityProblem(
            sentence="The queue's compute environments are broken, and AWS Batch waits until they are repaired.",
            remedy="Do what it names; `doctor` tells more.",
        ),
    ),
)
_UNDETERMINED: Final = "UNDETERMINED"


def diagnose(backend: object, job: Submission) -> str:
    """Why a job waits, a sentence and a remedy for each reason; empty where nobody can say anything.

    Never raises for a question that this AWS identity may not ask; BackendFailed when Batch does not answer at all.
    """
    if not isinstance(backend, Inspectable):
        return ""
    account = backend.account
    waiting = account.waiting(job.native_id)
    if waiting is None:
        return ""
    try:
        queue = account.queues([job.queue]).get(job.queue)
    except NotVisible:
        queue = None
    machines = _machines(account, queue)
    head = _other_at_head(account, job) if queue is not None and not waiting.status_reason else ""
    return " ".join(problem.words for problem in reasons_of(waiting, queue, machines, name=job.queue, head=head))


def reasons_of(
    waiting: Waiting,
    queue: Queue | None,
    machines: Mapping[str, Sequence[InstanceType]],
    *,
    name: str = "",
    head: str = "",
) -> list[CapacityProblem]:
    """Why a job waits.

    Parameters
    ----------
    queue
        None: there is none of that name, or we may not ask.
    head
        Id of somebody else's job that is to start before ours; empty: there is none, or we may not ask.
    """
    sure = [*queue_problems(queue), *misfits(queue, waiting.wanted, machines)] if queue is not None else []
    if sure:
        return sure
    problem = _known_problem(waiting, queue)
    if problem is not None:
        return [problem]
    if head:
        sentence = f"Another job, {head}, is first in queue {name} and cannot start; all others wait behind it."
        return [CapacityProblem(sentence=sentence, remedy="Ask its owner to cancel it, or name another queue.")]
    return [_inferred(waiting, queue, name)]


def _known_problem(waiting: Waiting, queue: Queue | None) -> CapacityProblem | None:
    """What AWS's own words mean; None where there are none or they say nothing."""
    words = " ".join(waiting.status_reason.split())
    if not words or words.startswith(_UNDETERMINED):
        return None
    known = next((problem for code, problem in CODES if words.startswith(code)), None)
    if known is None:
        return CapacityProblem(sentence=f"AWS Batch says: {words.rstrip('.')}.", remedy="Fix what it names.")
    remedy = known.remedy
    if words.startswith("CAPACITY:") and queue is not None and all(each.is_spot for each in queue.environments):
        remedy = f"{remedy} The queue has Spot machines only: --queue can name one with on-demand machines."
    return CapacityProblem(sentence=f"{known.sentence} ({words.rstrip('.')}.)", remedy=remedy)


def _inferred(waiting: Waiting, queue: Queue | None, name: str) -> CapacityProblem:
    """The likeliest reason where AWS gives none."""
    if queue is not None and not any(each.kind for each in queue.environments):
        # The embedded Batch, or machines that somebody else looks after.
        sentence = f"Nothing is wrong with queue {name}; other jobs seem to hold its vCPUs or memory."
        return CapacityProblem(sentence=sentence, remedy="Wait for them, or cancel them.")
    works = [each for each in queue.environments if each.works and each.max_vcpus is not None] if queue else []
    known = [each for each in works if each.present_vcpus is not None]
    if known and len(known) == len(works):
        most, present = sum(each.max_vcpus or 0 for each in works), sum(each.present_vcpus or 0 for each in known)
        if present + waiting.wanted.vcpus > most:
            return CapacityProblem(
                sentence=f"Queue {name} has {present:,} of at most {most:,} vCPUs, and others' jobs use them.",
                remedy=_LARGER,
            )
        if present:
            return CapacityProblem(
                sentence=f"Queue {name} has {present:,} vCPUs started, and none of them takes the job.",
                remedy="Its machines may not reach ECS: check the subnets' route to the internet or VPC endpoints, the"
                " security group, and the instance role.",
            )
        spot = " or of Spot machines" if any(each.is_spot for each in works) else ""
        return CapacityProblem(
            sentence=f"No machine has been started for queue {name}, and AWS Batch does not say why.",
            remedy=f"Look at the account's quota of vCPUs{spot} (Service Quotas, EC2), and at the activity of the"
            " compute environment's Auto Scaling group.",
        )
    return CapacityProblem(
        sentence=f"AWS Batch does not say why the job of queue {name} waits.",
        remedy="Look at the account's quota of vCPUs (Service Quotas), or wait.",
    )


def _machines(account: Account, queue: Queue | None) -> Mapping[str, Sequence[InstanceType]]:
    try:
        return account.machines([queue] if queue is not None else [])
    except NotVisible:
        return {}


def _other_at_head(account: Account, job: Submission) -> str:
    """The job at the head of the queue, where it is none of this array's."""
    try:
        head = next((native_id for native_id, _ in account.snapshot(job.queue).front), "")
    except NotVisible:
        return ""
    return head if NativeId.parse(head).job != job.native_id else ""
