"""Values that the gate decides on: the request to submit a run, the user's identity, and facts about code and image.

A `SubmitRequest` comes from the command line or over HTTP, and no word of it is trusted. `CodeFacts` and `ImageFacts`
come from the remote repository and the registry themselves (`access.code`, `access.images`), never from the user.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from enum import Enum
from typing import Any

from batch_pipeline.wire.errors import Problem, Refused


class Level(Enum):
    """How much of a dataset a run may touch, least first."""

    TEST = "test"  #: The dataset's test area, by any code of an allowed repository.
    STANDARD = "standard"  #: Adds to the production area, by reviewed code.
    FULL = "full"  #: Everything in the production area, by reviewed code, and asked for twice.

    @property
    def privileged(self) -> bool:
        """Whether it reaches the production area."""
        return self is not Level.TEST


@dataclass(frozen=True, kw_only=True)
class UserIdentity:
    """An authenticated user, and who authenticated them."""

    #: What policies name as a member: an e-mail address, an ARN, a user of this machine.
    name: str
    #: Who says so: `oidc`, `sts`, `machine`.
    source: str
    #: Further names of the same, that policies may use: the ARN of the role that an STS session has taken.
    aliases: tuple[str, ...] = ()

    @property
    def names(self) -> frozenset[str]:
        """All names."""
        return frozenset((self.name, *self.aliases)) - {""}


@dataclass(frozen=True, kw_only=True)
class SubmitRequest:
    """A request to submit one run, before it is checked."""

    dataset: str
    description: str
    access_level: str
    output_dir: str
    #: Argv: the script and its arguments.
    script: Sequence[str]
    #: URL of the repository, or its name when the policy has one of that name; empty: no code is checked out.
    repository: str = ""
    commit: str = ""
    #: Where in the repository the script starts.
    cwd: str = ""
    #: Empty: the level's own.
    image: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    cpu: float = 1.0
    memory_mb: int = 2048
    #: The script and commit came from a working tree that had changes which the commit lacks; the client tells.
    dirty: bool = False
    #: Whoever asks has said yes to a run at level full.
    confirmed: bool = False

    @classmethod
    def from_json(cls, value: Any) -> SubmitRequest:
        """Parses a request in JSON; unknown keys are refused. Raises Refused with all that is wrong."""
        if not isinstance(value, Mapping):
            raise Refused([Problem(subject="request", rule="It is no JSON object.", remedy="Send one.")])
        known = {item.name: item for item in fields(cls)}
        problems = [
            Problem(subject=str(key), rule="There is no such key.", remedy=f"Known: {', '.join(known)}.")
            for key in value
            if key not in known
        ]
        problems += [
            Problem(subject=name, rule="It is required.", remedy="Add it.")
            for name in ("dataset", "description", "access_level", "output_dir", "script")
            if name not in value
        ]
        problems += [
            Problem(subject=key, rule=f"It is not of its kind ({known[key].type}).", remedy="Fix its value.")
            for key, item in value.items()
            if key in known and not _is_of_kind(key, item)
        ]
        if problems:
            raise Refused(problems)
        return cls(**value)


_TEXTS = frozenset(
    {"dataset", "description", "access_level", "output_dir", "repository", "commit", "cwd", "image"},
)


def _is_of_kind(key: str, value: Any) -> bool:
    if key in _TEXTS:
        return isinstance(value, str)
    if key in ("dirty", "confirmed"):
        return isinstance(value, bool)
    if key in ("cpu", "memory_mb"):
        whole = isinstance(value, int) or (key == "cpu" and isinstance(value, float))
        return whole and not isinstance(value, bool)
    if key == "script":
        return isinstance(value, list | tuple) and all(isinstance(item, str) for item in value)
    if key == "environment":
        return isinstance(value, Mapping) and all(isinstance(item, str) for item in (*value, *value.values()))
    return isinstance(value, Mapping) and all(isinstance(item, str) for item in value)


class EntryKind(Enum):
    """What the script is in the tree of the commit."""

    PROGRAM = "program"  #: A file with the executable bit.
    FILE = "file"  #: A file without it.
    LINK = "link"  #: A symbolic link.
    FOLDER = "folder"
    SUBMODULE = "submodule"  #: A submodule, or inside one.
    MISSING = "missing"


@dataclass(frozen=True, kw_only=True)
class SubmoduleFacts:
    """A submodule of the commit, or of one of its submodules."""

    path: str
    #: As the policy has it; where that has none, as `.gitmodules` has it.
    url: str
    #: Empty: the repository has no such commit on any branch or tag.
    commit: str
    #: Whether the policy allows the repository.
    allowed: bool
    tree: str = ""
    #: Reference to the repository's token.
    secret: str = ""
    #: Whether its commit is on that repository's protected branch; None: that is unknown.
    merged: bool | None = None


@dataclass(frozen=True, kw_only=True)
class CodeFacts:
    """What the remote itself says of a commit, fetched for this request."""

    #: URL of the repository as the policy has it.
    repository: str
    protected_branch: str
    #: What was asked for, made a full SHA; empty: the remote has no such commit on any branch or tag.
    commit: str = ""
    #: Digest of its tree.
    tree: str = ""
    #: Head of the protected branch when it was fetched; empty: there is no such branch.
    protected_head: str = ""
    #: Whether the commit is an ancestor of that head, or is it.
    merged: bool = False
    #: The remote's history is cut off: ancestry cannot be decided.
    shallow: bool = False
    branches: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    entry_kind: EntryKind = EntryKind.MISSING
    #: Where the working directory is no folder of the tree.
    cwd_missing: bool = False
    submodules: tuple[SubmoduleFacts, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ImageFacts:
    """What the registry itself says of an image."""

    #: Without tag and digest.
    repository: str
    tag: str = ""
    #: `sha256:…`; empty: the registry has no such image.
    digest: str = ""
    #: The digest that the request names beside the tag; empty: none.
    asked_digest: str = ""

    @property
    def pinned(self) -> str:
        """The image by its digest."""
        return f"{self.repository}@{self.digest}"


@dataclass(frozen=True, kw_only=True)
class SpendingFacts:
    """What the records of a dataset's runs of this month say."""

    #: `2026-11`.
    month: str
    #: Of runs that have ended.
    cost: float
    #: Empty where nothing was spent.
    currency: str = ""
    #: Runs that go on, of which nobody knows yet.
    live: int = 0
    #: Cells that ran on machines without a price.
    unpriced: int = 0


@dataclass(frozen=True, kw_only=True)
class AdmissionFacts:
    """Facts about code, image and money, looked up before the gate decides."""

    code: CodeFacts | None = None
    image: ImageFacts | None = None
    #: Of a dataset with a budget.
    spending: SpendingFacts | None = None
