"""The gate: decides whether a run is admitted, from the request, the policy, the identity and the facts. Pure.

    precheck(request, policy, identity)        before anything is looked up with a credential of ours
    decide(request, policy, identity, facts)   all of it again, and the facts; returns the only Grant there is

Nothing that runs at a level is made from the request: everything behind the gate (the job, its role, its queue, its
store, the driver's orders) takes a `Grant`, and only `decide` makes one. There is no flag around it. A
refusal lists all problems at once; a user who is no member learns only that.

(Longer than most modules: half of it is sentences, and a reviewer of the gate reads all of its rules in one place.)
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from batch_pipeline.access.names import (
    config_problems,
    entry_of,
    folder_of,
    folder_problems,
    has_control,
    output_problems,
    script_problems,
    text_problems,
    variable_problems,
)
from batch_pipeline.access.policy import DATASET, DatasetPolicy, LevelRule, RepositoryRule
from batch_pipeline.access.request import (
    AdmissionFacts,
    CodeFacts,
    EntryKind,
    ImageFacts,
    Level,
    SpendingFacts,
    SubmitRequest,
    SubmoduleFacts,
    UserIdentity,
)
from batch_pipeline.wire.errors import Problem, Refused

FULL_SHA: Final = re.compile(r"[0-9a-f]{40}([0-9a-f]{24})?")
_REVISION: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,199}")
_DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}")
#: Names that git itself gives to what moves.
_MOVING: Final = re.compile(r"(.*/)?([A-Z_]*HEAD|@)", re.IGNORECASE)

MOST_CPU: Final = 192
MOST_MEMORY_MB: Final = 1_536_000


@dataclass(frozen=True, kw_only=True)
class Grant:
    """A run that was let through: everything that is submitted and recorded comes from here."""

    dataset: str
    level: Level
    identity: UserIdentity
    description: str
    #: URL of the dataset's store at this level; the run's record lies there.
    store: str
    #: Where the run may write, from that store's root.
    output: str
    queue: str
    job_role: str
    execution_role: str
    #: By digest; empty where steps are processes of this machine.
    image: str
    #: URL as the policy has it; empty: no code is checked out.
    repository: str
    protected_branch: str
    #: Full SHA, and digest of its tree.
    commit: str
    tree: str
    branches: tuple[str, ...]
    tags: tuple[str, ...]
    submodules: tuple[SubmoduleFacts, ...]
    #: Reference to the repository's token.
    secret: str
    cwd: str
    #: The script from the repository's root; empty: a program of the image.
    entry: str
    script: tuple[str, ...]
    cpu: float
    memory_mb: int
    policy_sha256: str
    environment: Mapping[str, str] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)


def precheck(request: SubmitRequest, policy: DatasetPolicy, identity: UserIdentity) -> None:
    """Refuses what can be refused without looking anything up. Raises Refused."""
    problems = list(_membership(request, policy, identity)) or list(_form(request, policy))
    if problems:
        raise Refused(problems)


def decide(request: SubmitRequest, policy: DatasetPolicy, identity: UserIdentity, facts: AdmissionFacts) -> Grant:
    """Lets a run through, or raises Refused with all that stands against it."""
    precheck(request, policy, identity)
    level = Level(request.access_level)
    place = policy.levels[level]
    rule = policy.repository(request.repository) if request.repository else None
    problems = [*_code(request, level, rule, facts.code), *_image(request, level, policy, place, facts.image)]
    problems += _budget(policy, facts.spending)
    if problems:
        raise Refused(problems)
    return _grant(request, policy, identity, rule, facts)


def _grant(
    request: SubmitRequest,
    policy: DatasetPolicy,
    identity: UserIdentity,
    rule: RepositoryRule | None,
    facts: AdmissionFacts,
) -> Grant:
    level = Level(request.access_level)
    place, code = policy.levels[level], facts.code if rule is not None else None
    inside = code is not None and code.entry_kind in (EntryKind.PROGRAM, EntryKind.FILE)
    return Grant(
        dataset=policy.dataset,
        level=level,
        identity=identity,
        description=request.description.strip(),
        store=place.store,
        output=place.output_of(request.output_dir),
        queue=place.queue,
        job_role=place.job_role,
        execution_role=place.execution_role,
        image=facts.image.pinned if facts.image is not None and (request.image or place.image) else "",
        repository=rule.url if rule is not None else "",
        protected_branch=rule.protected_branch if rule is not None else "",
        commit=code.commit if code is not None else "",
        tree=code.tree if code is not None else "",
        branches=code.branches if code is not None else (),
        tags=code.tags if code is not None else (),
        submodules=code.submodules if code is not None else (),
        secret=rule.secret if rule is not None else "",
        cwd=folder_of(request.cwd),
        entry=entry_of(request.cwd, request.script[0]) if inside else "",
        script=tuple(request.script),
        cpu=request.cpu,
        memory_mb=request.memory_mb,
        policy_sha256=policy.sha256,
        environment=dict(request.environment),
        config=dict(request.config),
    )


def _membership(request: SubmitRequest, policy: DatasetPolicy, identity: UserIdentity) -> Iterator[Problem]:
    """Whoever is no member learns nothing else."""
    known = {level.value: level for level in Level}
    if not DATASET.fullmatch(request.dataset) or request.dataset != policy.dataset:
        yield Problem(
            subject=f"--dataset {request.dataset!r}",
            rule="There is no such dataset.",
            remedy="Name another.",
            status=403,
        )
    elif not any(policy.is_member(level, identity.names) for level in Level):
        yield Problem(
            subject="membership",
            rule=f"{identity.name or 'A user without a name'} is no member of the dataset {policy.dataset}.",
            remedy="Ask its maintainers.",
            status=403,
        )
    elif request.access_level not in known:
        yield Problem(
            subject=f"--access-level {request.access_level!r}",
            rule="There is no such level.",
            remedy=f"Choose among {', '.join(known)}.",
        )
    elif not policy.is_member(known[request.access_level], identity.names):
        yield Problem(
            subject=f"--access-level {request.access_level}",
            rule=f"{identity.name} may not use this level of the dataset {policy.dataset}.",
            remedy="Use level test, or ask its maintainers.",
            status=403,
        )


def _form(request: SubmitRequest, policy: DatasetPolicy) -> Iterator[Problem]:
    """Checks the request itself, without remote and registry."""
    level = Level(request.access_level)
    yield from text_problems("--description", request.description)
    yield from output_problems(request.output_dir)
    yield from folder_problems(request.cwd)
    yield from script_problems(request.script)
    yield from variable_problems(request.environment)
    yield from config_problems(request.config)
    yield from text_problems("--image", request.image, empty=True, most=512)
    yield from _size(request)
    yield from _named_code(request, level, policy)
    if level is Level.FULL and not request.confirmed:
        yield Problem(
            subject="--access-level full",
            rule="It may change and remove everything of the dataset, and is asked for twice.",
            remedy="Answer yes when asked, or give --yes.",
        )


def _size(request: SubmitRequest) -> Iterator[Problem]:
    if not 0.25 <= request.cpu <= MOST_CPU:  # also false for a NaN
        yield Problem(subject="--cpu", rule=f"A driver has 0.25 to {MOST_CPU} vCPUs.", remedy="Give another number.")
    if not 128 <= request.memory_mb <= MOST_MEMORY_MB:
        yield Problem(
            subject="--memory",
            rule=f"A driver has 128 to {MOST_MEMORY_MB} MiB of memory.",
            remedy="Give another number.",
        )


def _named_code(request: SubmitRequest, level: Level, policy: DatasetPolicy) -> Iterator[Problem]:
    """Which repository and commit are named."""
    if not request.repository and not request.commit:
        if level.privileged:
            yield Problem(
                subject="--repository",
                rule=f"Level {level.value} runs reviewed code only, and no repository is named.",
                remedy="Name a repository and a commit.",
                status=403,
            )
        return
    if not (request.repository and request.commit):
        yield Problem(
            subject="--repository, --commit", rule="One of them says nothing without the other.", remedy="Give both."
        )
        return
    if policy.repository(request.repository) is None:
        named = (
            request.repository if "@" not in request.repository and not has_control(request.repository) else "as given"
        )
        yield Problem(
            subject=f"--repository {named}",
            rule=f"The dataset {policy.dataset} does not allow this repository.",
            remedy="Use one that the policy names, by its URL without names or passwords.",
            status=403,
        )
    yield from _revision(request.commit, level)
    if level.privileged and request.dirty:
        yield Problem(
            subject="working tree",
            rule=f"It has changes that the commit lacks, and level {level.value} would run without them.",
            remedy="Commit and merge them, or name --repository and --commit.",
            status=409,
        )


def _revision(commit: str, level: Level) -> Iterator[Problem]:
    if _MOVING.fullmatch(commit):
        yield Problem(
            subject=f"--commit {commit!r}", rule="It means another commit every day.", remedy="Give the full SHA."
        )
    elif not _REVISION.fullmatch(commit) or ".." in commit:
        yield Problem(subject=f"--commit {commit!r}", rule="It is no name of a commit.", remedy="Give the full SHA.")
    elif level.privileged and not FULL_SHA.fullmatch(commit):
        yield Problem(
            subject=f"--commit {commit}",
            rule=f"Level {level.value} needs a full SHA: branches and tags move, and short ones grow ambiguous.",
            remedy="Give all 40 digits (git rev-parse).",
        )


def _code(
    request: SubmitRequest, level: Level, rule: RepositoryRule | None, code: CodeFacts | None
) -> Iterator[Problem]:
    """What the remote says of the commit."""
    if rule is None:
        return
    subject = f"commit {request.commit}"
    if code is None or code.repository != rule.url or not FULL_SHA.fullmatch(code.commit):
        yield Problem(
            subject=subject,
            rule=f"No branch or tag of {rule.url} leads to it.",
            remedy="Push it first; what is on a laptop only can run nowhere.",
            status=409,
        )
        return
    if FULL_SHA.fullmatch(request.commit) and code.commit != request.commit:
        yield Problem(
            subject=subject,
            rule=f"It names no commit of its own: it stands for {code.commit}.",
            remedy="Give the SHA of the commit itself.",
            status=409,
        )
    if level.privileged:
        yield from _review(subject, rule, code)
    yield from _entry(request, level, rule, code)
    yield from _submodules(level, code)


def _review(subject: str, rule: RepositoryRule, code: CodeFacts) -> Iterator[Problem]:
    branch = rule.protected_branch
    if code.protected_branch != branch or not code.protected_head:
        yield Problem(
            subject=subject,
            rule=f"{rule.url} has no branch {branch}, by which code is reviewed.",
            remedy="Ask the dataset's maintainers to correct the policy.",
            status=403,
        )
    elif code.shallow:
        yield Problem(
            subject=subject,
            rule=f"The history of {rule.url} is cut off (shallow), so what was merged cannot be checked.",
            remedy="Serve the repository with its whole history.",
            status=403,
        )
    elif not code.merged:
        yield Problem(
            subject=subject,
            rule=f"It is not on the branch {branch} of {rule.url} as it is now ({code.protected_head[:12]}).",
            remedy="Have it reviewed and merged, or use level test.",
            status=403,
        )


def _entry(request: SubmitRequest, level: Level, rule: RepositoryRule, code: CodeFacts) -> Iterator[Problem]:
    path = entry_of(request.cwd, request.script[0])
    if code.cwd_missing:
        yield Problem(
            subject=f"--cwd {request.cwd}",
            rule="The commit has no such folder.",
            remedy="Name one that it has.",
            status=409,
        )
    if not level.privileged:
        if "/" in request.script[0] and path and code.entry_kind is EntryKind.MISSING:
            yield Problem(
                subject=f"script {path}", rule="It is no file of the commit.", remedy="Commit and push it.", status=409
            )
        return
    rules = {
        EntryKind.LINK: "It is a symbolic link, which may lead anywhere.",
        EntryKind.SUBMODULE: "It lies in a submodule, whose review is another one.",
        EntryKind.FOLDER: "It is a folder.",
        EntryKind.MISSING: f"It is no file of the commit {code.commit[:12]}.",
    }
    if not path or not rule.allows_entry(path):
        yield Problem(
            subject=f"script {path or request.script[0]!r}",
            rule=f"It is none of the entry points of {rule.url} that level {level.value} may start.",
            remedy=f"Use one of them: {', '.join(rule.entry_points) or 'there is none'}.",
            status=403,
        )
    elif code.entry_kind in rules:
        yield Problem(
            subject=f"script {path}",
            rule=rules[code.entry_kind],
            remedy="Make it a file of the repository.",
            status=409 if code.entry_kind is EntryKind.MISSING else 403,
        )


def _submodules(level: Level, code: CodeFacts) -> Iterator[Problem]:
    for item in code.submodules:
        if not item.allowed:
            yield Problem(
                subject=f"submodule {item.path!r}",
                rule="Its repository is none that the policy allows.",
                remedy="Ask the dataset's maintainers to allow it, or take it out.",
                status=403,
            )
        elif not FULL_SHA.fullmatch(item.commit):
            yield Problem(
                subject=f"submodule {item.path!r}",
                rule="Its commit is not in its repository.",
                remedy="Push it there.",
                status=409,
            )
        elif level.privileged and item.merged is not True:
            yield Problem(
                subject=f"submodule {item.path!r}",
                rule=f"Its commit {item.commit[:12]} is not on the protected branch of its repository.",
                remedy="Have it reviewed and merged there.",
                status=403,
            )


def _image(
    request: SubmitRequest, level: Level, policy: DatasetPolicy, place: LevelRule, image: ImageFacts | None
) -> Iterator[Problem]:
    """What the registry says of the image."""
    name = request.image or place.image
    if not name:
        if not place.without_image:
            yield Problem(
                subject="--image",
                rule=f"Level {level.value} runs in an image, and none is named.",
                remedy="Name one.",
            )
        return
    if image is None or not _DIGEST.fullmatch(image.digest):
        yield Problem(
            subject=f"image {name}",
            rule="The registry has no such image, so that it has no digest.",
            remedy="Push it, or name another.",
            status=409,
        )
        return
    if image.asked_digest and image.asked_digest != image.digest:
        yield Problem(
            subject=f"image {name}",
            rule=f"Its tag leads to {image.digest[:19]} now and not to the digest beside it: it was moved.",
            remedy="Name the image by digest alone.",
            status=409,
        )
    allowed = any(
        rule.repository == image.repository and any(image.digest.startswith(begin) for begin in rule.digests)
        for rule in policy.images
    )
    if level.privileged and not allowed:
        yield Problem(
            subject=f"image {image.pinned}",
            rule=f"Level {level.value} runs in allowed images only, and it is none of them.",
            remedy=f"Use one of {', '.join(rule.repository for rule in policy.images) or 'none'}.",
            status=403,
        )


def _budget(policy: DatasetPolicy, spending: SpendingFacts | None) -> Iterator[Problem]:
    """What the month's runs have cost; a budget of which nobody knows what is left lets nothing through."""
    if policy.month_budget is None:
        return
    subject, remedy = f"dataset {policy.dataset}", "Wait for the next month, or ask its maintainers to raise [budget]."
    bound = f"its budget is {policy.month_budget:,.2f} a month"
    if spending is None:
        yield Problem(subject=subject, rule=f"{bound.capitalize()}, and what was spent is not known.", remedy=remedy)
    elif spending.cost >= policy.month_budget:
        spent = f"{spending.cost:,.2f} {spending.currency}".strip()
        unknown = f", without {spending.unpriced:,} cells of unknown cost" if spending.unpriced else ""
        yield Problem(
            subject=subject,
            rule=f"Its runs of {spending.month} cost {spent}{unknown}, and {bound}.",
            remedy=remedy,
            status=403,
        )
