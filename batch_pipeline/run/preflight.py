"""What a run needs, looked at before anything is sent: all that is wrong at once, each with its remedy.

On AWS a missing role, a disabled queue or an image that nobody pushed shows only in jobs that fail or wait for ever, by
the thousand. Everything here can be known in a dozen calls, whatever the number of samples. What this AWS identity may
not ask is said to be unchecked and stops nothing. The embedded Batch needs none of it: there the limits of the plan and
the capacity of the machine are looked at, without a call. That the store can be written is found out by the driver's
lock, the first thing that a run writes; that no two samples share a name, when the list is read.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final
from urllib.parse import unquote

from batch_pipeline.backends.account import Account, Inspectable, NotVisible, resource_request_of
from batch_pipeline.backends.capacity import Queue, misfits, queue_problems
from batch_pipeline.backends.definitions import NO_IMAGE
from batch_pipeline.backends.limits import largest_definitions, plan_problems
from batch_pipeline.config import Settings
from batch_pipeline.pipeline.plan import Plan
from batch_pipeline.records.request import Request
from batch_pipeline.run.context import context_of
from batch_pipeline.run.widths import width_notes
from batch_pipeline.wire.errors import BackendFailed, NotReady, RunConflict

Definitions = Mapping[str, Mapping[str, Any]]

#: Who takes a job's roles on: https://docs.aws.amazon.com/AmazonECS/latest/developerguide/task-iam-roles.html
TASKS: Final = "ecs-tasks.amazonaws.com"
#: Blocked cells that are told one by one.
_FEW: Final = 5


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What one check found."""

    check: str
    ok: bool
    sentence: str
    #: What to do; empty when all is well.
    remedy: str = ""
    #: Whether a run would come to nothing. What is not well and stops nothing concerns some cells only.
    stops: bool = True
    #: Whether it is legal and may be a mistake. It is ok, and stops nothing.
    warns: bool = False


def preflight(request: Request, backend: object, plan: Plan, *, reference: str = "") -> list[Finding]:
    """Everything that can be known to be wrong with what the plan needs, and what was found well.

    Raises InvalidPipeline for definitions that cannot be read, BackendFailed when AWS does not answer at all.
    """
    context = context_of(request, reference=reference)
    definitions = largest_definitions(context.definitions, plan)
    findings = [_bad("limits", problem) for problem in plan_problems(plan, context)]
    findings += blocked_findings(plan)
    findings += [
        Finding(check="width", ok=True, sentence=note, warns=True) for note in width_notes(plan, request.settings)
    ]
    if request.settings.backend.name != "embedded" and isinstance(backend, Inspectable):
        queues = {job.overrides.queue for job in plan.jobs if job.overrides.queue}
        findings += account_findings(backend.account, request.settings, definitions, queue_names=queues)
    return findings


def refuse_conflicts(plan: Plan) -> None:
    """Raises RunConflict, naming one cell, when live jobs make chosen cells differently than they are wanted now."""
    if not plan.conflicts:
        return
    one = plan.conflicts[0]
    more = f" and {len(plan.conflicts) - 1} more cells" if len(plan.conflicts) > 1 else ""
    raise RunConflict(
        f"Run {one.run_id} is still working on {one.step} of sample {one.sample}{more} with other code, parameters or"
        f" inputs than now. Wait for it (status --watch), or cancel it: cancel {one.run_id}."
    )


def require_ready(findings: Iterable[Finding]) -> None:
    """Raises NotReady with all that stops a run, if anything does."""
    stops = [finding for finding in findings if not finding.ok and finding.stops]
    if stops:
        raise NotReady("\n".join(f"{finding.sentence} {finding.remedy}".strip() for finding in stops))


def blocked_findings(plan: Plan) -> Iterator[Finding]:
    """The cells that cannot run, for want of a source most of the time; the others can."""
    cells_by_sentence: dict[str, list[str]] = {}
    for (step, sample), sentence in plan.blocked.items():
        cells_by_sentence.setdefault(sentence, []).append(f"{step} of {sample}")
    for sentence, cells in list(cells_by_sentence.items())[:_FEW]:
        yield _bad("sources", f"{', '.join(cells[:_FEW])}: {sentence}", stops=False)
    if len(cells_by_sentence) > _FEW:
        yield _bad("sources", f"{len(plan.blocked):,} cells cannot run in all.", "`plan` lists them.", stops=False)


def account_findings(
    account: Account, settings: Settings, definitions: Definitions, *, queue_names: Iterable[str] = ()
) -> list[Finding]:
    """What AWS says of our identity, the queues, and what the definitions name."""
    names = [settings.backend.queue, settings.backend.on_demand_queue, *queue_names]
    checks: list[tuple[str, Callable[[], Iterator[Finding]]]] = [
        ("queue", lambda: _queues(account, settings, list(filter(None, dict.fromkeys(names))), definitions)),
        ("role", lambda: _roles(account, definitions)),
        ("image", lambda: _images(account, definitions)),
        ("log group", lambda: _log_groups(account, definitions)),
    ]
    findings = list(_guarded("identity", lambda: _identity(account)))
    if not all(finding.ok for finding in findings):
        # Nobody answers whom AWS does not know: one sentence is enough.
        return findings
    return findings + [finding for name, check in checks for finding in _guarded(name, check)]


def _guarded(name: str, check: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    """A check's findings; what may not be asked is unchecked, and what does not answer is wrong."""
    try:
        yield from check()
    except NotVisible as error:
        yield _unchecked(name, error)
    except BackendFailed as error:
        yield _bad(name, error.message)


def _unchecked(name: str, why: object) -> Finding:
    return Finding(check=name, ok=True, sentence=f"not checked: {str(why).rstrip('.')}")


def _good(name: str, sentence: str) -> Finding:
    return Finding(check=name, ok=True, sentence=sentence)


def _bad(name: str, sentence: str, remedy: str = "", *, stops: bool = True) -> Finding:
    return Finding(check=name, ok=False, sentence=sentence, remedy=remedy, stops=stops)


# Who we are.


def _identity(account: Account) -> Iterator[Finding]:
    number, arn = account.identity()
    yield _good("identity", f"{arn} in account {number}")


# Queues, and whether jobs fit.


def _queues(account: Account, settings: Settings, names: Sequence[str], definitions: Definitions) -> Iterator[Finding]:
    known = account.queues(names)
    for name in names:
        if name not in known:
            yield _bad(
                "queue",
                f"There is no job queue {name} in this account and region.",
                "Name one with --queue (`deploy infrastructure` prints its own), or check aws.region.",
            )
    for name, queue in known.items():
        problems = queue_problems(queue)
        yield from (_bad("queue", problem.sentence, problem.remedy) for problem in problems)
        yield from _shares(queue, settings)
        if not problems:
            yield _good("queue", f"{name}: {', '.join(each.name for each in queue.environments)}")
    yield from _fits(account, list(known.values()), definitions)


def _shares(queue: Queue, settings: Settings) -> Iterator[Finding]:
    share = settings.backend.share_identifier
    if queue.fair_share and not share:
        yield _bad("queue", f"The job queue {queue.name} has a fair share policy and wants a share.", "Give --share.")
    if share and not queue.fair_share:
        sentence = f"The job queue {queue.name} has no fair share policy and refuses jobs with a share."
        yield _bad("queue", sentence, "Leave --share and backend.share_identifier away.")


def _fits(account: Account, queues: Sequence[Queue], definitions: Definitions) -> Iterator[Finding]:
    try:
        machines = account.machines(queues)
    except NotVisible as error:
        machines = {}
        yield _unchecked("machines", error)
    steps_by_problem: dict[tuple[str, str], list[str]] = {}
    for step, definition in definitions.items():
        need = resource_request_of(definition["containerProperties"], definition.get("platformCapabilities"))
        for queue in queues:
            for problem in misfits(queue, need, machines):
                steps_by_problem.setdefault((problem.sentence, problem.remedy), []).append(step)
    for (sentence, remedy), steps in steps_by_problem.items():
        yield _bad("machines", f"Step {', '.join(steps)}: {sentence}", remedy)
    if definitions and queues and not steps_by_problem:
        yield _good("machines", f"large enough for {', '.join(definitions)}")


# What the definitions name.


def _roles(account: Account, definitions: Definitions) -> Iterator[Finding]:
    for arn, steps in _named(definitions, "jobRoleArn", "executionRoleArn").items():
        yield from _guarded("role", partial(_role, account, arn, steps))
    for step, definition in definitions.items():
        container = definition["containerProperties"]
        if "FARGATE" in definition.get("platformCapabilities", ()) and not container.get("executionRoleArn"):
            yield _bad("role", f"Step {step} is for Fargate and names no execution role.", "Set aws.execution_role.")


def _role(account: Account, arn: str, steps: Sequence[str]) -> Iterator[Finding]:
    role = account.role(arn)
    of = f"The role {arn} of step {', '.join(steps)}"
    if role is None:
        yield _bad("role", f"{of} is not there.", "Correct aws.job_role and aws.execution_role: deploy infrastructure.")
    elif role.get("Arn", arn) != arn:
        yield _bad("role", f"{of} is in another account; here it is {role['Arn']}.", "Name a role of this account.")
    elif not _lets_tasks(role.get("AssumeRolePolicyDocument", {})):
        yield _bad("role", f"{of} cannot be taken on by jobs.", f"Let {TASKS} assume it in its trust policy.")
    else:
        yield _good("role", arn)


def _lets_tasks(policy: Any) -> bool:
    """Whether a trust policy lets ECS tasks take the role on."""
    document = json.loads(unquote(policy)) if isinstance(policy, str) else policy
    statements = document.get("Statement", ())
    return any(
        statement.get("Effect") == "Allow" and TASKS in json.dumps(statement.get("Principal", {}))
        for statement in (statements if isinstance(statements, list) else [statements])
    )


def _images(account: Account, definitions: Definitions) -> Iterator[Finding]:
    for image, steps in _named(definitions, "image").items():
        if image == NO_IMAGE:
            yield _bad(
                "image",
                f"Step {', '.join(steps)} names no image, and AWS runs containers only.",
                "Build them: deploy images. Or set `image` in the step's class or in job_definitions/.",
            )
        else:
            yield from _guarded("image", partial(_image, account, image, steps))


def _image(account: Account, image: str, steps: Sequence[str]) -> Iterator[Finding]:
    if account.has_image(image):
        yield _good("image", image)
    else:
        sentence = f"The image {image} of step {', '.join(steps)} is not in its repository."
        yield _bad("image", sentence, "Build and push it: deploy images.")


def _log_groups(account: Account, definitions: Definitions) -> Iterator[Finding]:
    """Groups that a definition names; Batch makes its own by itself."""
    groups: dict[str, list[str]] = {}
    for step, definition in definitions.items():
        options = definition["containerProperties"].get("logConfiguration", {}).get("options", {})
        if options.get("awslogs-group") and options.get("awslogs-create-group") != "true":
            groups.setdefault(options["awslogs-group"], []).append(step)
    for group, steps in groups.items():
        if account.has_log_group(group):
            yield _good("log group", group)
        else:
            sentence = f"The log group {group} of step {', '.join(steps)} is not there, and without it no job starts."
            yield _bad("log group", sentence, f"Make it: aws logs create-log-group --log-group-name {group}")


def _named(definitions: Definitions, *keys: str) -> dict[str, list[str]]:
    """What the definitions name under some keys -> the steps that do."""
    steps_by_value: dict[str, list[str]] = {}
    for step, definition in definitions.items():
        container = definition["containerProperties"]
        for value in dict.fromkeys(container[key] for key in keys if container.get(key)):
            steps_by_value.setdefault(value, []).append(step)
    return steps_by_value
