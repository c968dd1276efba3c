"""The policy of a dataset: who may run what at which access level. One TOML file a dataset, `{dataset}.toml`.

    dataset = "fusions"

    [[repositories]]
    url = "https://github.com/example/fusions"        # the very URL that is fetched; `file:///…` and paths are as good
    protected_branch = "main"
    entry_points = ["main.py", "scripts/*.sh"]        # `*` stops at slashes
    secret = "secretsmanager:arn:aws:…:git-token"     # or `env:NAME`, `file:/path`; never the token itself

    [[images]]
    repository = "111122223333.dkr.ecr.eu-central-1.amazonaws.com/driver"
    digests = ["sha256:3fa9"]                         # beginnings; "sha256:" is any

    [budget]
    month = 500                                       # most that its runs of a month may cost, in the prices' currency

    [levels.test]                                     # and standard, full: those that there are
    store = "s3://fusions-test"
    output_prefix = "analysis"
    queue = "fusions-test"
    job_role = "arn:aws:iam::111122223333:role/fusions-test"
    execution_role = ""
    image = "111122223333.dkr.ecr.eu-central-1.amazonaws.com/driver:1"
    members = ["alice@example.org", "*"]              # `*`, at level test only: whoever is known at all
    without_image = false                             # true: on this machine, where steps are plain processes

Whoever may write the policies decides on the dataset: they lie where only maintainers write (`access.policies`).

(Longer than most modules: the keys, their rules and what may not stand beside what are read together.)
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from batch_pipeline.access.names import has_control
from batch_pipeline.access.request import Level
from batch_pipeline.wire.digest import sha256_of_bytes
from batch_pipeline.wire.errors import InvalidConfig, Problem, Refused
from batch_pipeline.wire.order import is_reference
from batch_pipeline.wire.store import NotInStore, open_store

DATASET: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,39}")
ANYBODY: Final = "*"


@dataclass(frozen=True, kw_only=True)
class RepositoryRule:
    """A repository whose code may run on the dataset."""

    url: str
    protected_branch: str = "main"
    #: What may be started at the levels above test.
    entry_points: tuple[str, ...] = ()
    #: Where the token of a private repository is kept: `secretsmanager:ARN`, `env:NAME` or `file:/path`.
    secret: str = ""

    def allows_entry(self, path: str) -> bool:
        """Whether a path from the repository's root is one of the entry points."""
        return any(_pattern(entry).fullmatch(path) for entry in self.entry_points)


@dataclass(frozen=True, kw_only=True)
class ImageRule:
    """Images in which reviewed code may run."""

    repository: str
    #: Beginnings of digests.
    digests: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class LevelRule:
    """What a level reaches, and who may use it."""

    store: str
    queue: str
    members: tuple[str, ...]
    output_prefix: str = ""
    job_role: str = ""
    execution_role: str = ""
    #: The image when the request names none.
    image: str = ""
    without_image: bool = False

    def output_of(self, output_dir: str) -> str:
        """Where outputs of a request lie, from the store's root."""
        return "/".join(part for part in (self.output_prefix, output_dir.rstrip("/")) if part)

    @property
    def area(self) -> str:
        """Where the level's outputs lie, with a slash at the end."""
        return "/".join(part for part in (self.store.rstrip("/"), self.output_prefix.strip("/")) if part) + "/"


@dataclass(frozen=True, kw_only=True)
class DatasetPolicy:
    """What is allowed on one dataset."""

    dataset: str
    #: Of the file's bytes: a run's record tells by which policy it was let through.
    sha256: str
    levels: Mapping[Level, LevelRule]
    repositories: tuple[RepositoryRule, ...] = ()
    images: tuple[ImageRule, ...] = ()
    #: Most that the runs of a month may have cost when one more is let through; None: no bound.
    month_budget: float | None = None

    def repository(self, name: str) -> RepositoryRule | None:
        """The rule for a repository, by its URL in any spelling, or by its name when only one is called so."""
        key = repository_key(name)
        for rule in self.repositories:
            if key and repository_key(rule.url) == key:
                return rule
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)?", name):
            return None
        named = [rule for rule in self.repositories if f"/{repository_key(rule.url)}".endswith(f"/{name}")]
        return named[0] if len(named) == 1 else None

    def is_member(self, level: Level, names: frozenset[str]) -> bool:
        """Whether a user of these names may use a level."""
        rule = self.levels.get(level)
        if rule is None:
            return False
        return not names.isdisjoint(rule.members) or (bool(names) and ANYBODY in rule.members)


@cache
def _pattern(entry: str) -> re.Pattern[str]:
    """An entry point's pattern, in which `*` and `?` stop at slashes."""
    wild = {"*": "[^/]*", "?": "[^/]"}
    return re.compile("".join(wild.get(character) or re.escape(character) for character in entry))


def repository_key(url: str) -> str:
    """Host and path of a repository, the same for its ssh and https spellings; of a local one, its path.

    Empty for what is no such URL: other schemes, credentials, options, `..`.
    """
    if has_control(url) or url.startswith("-") or "::" in url or "\\" in url or "%" in url:
        return ""
    if url.startswith("/"):
        host, path, secret = "", url, None
    elif "://" in url:
        try:
            parts = urlsplit(url)
            host, path, secret = (parts.hostname or "").lower(), parts.path, parts.password
            port = f":{parts.port}" if parts.port else ""
        except ValueError:
            return ""
        user = parts.username
        if parts.query or parts.fragment or (user and not (parts.scheme == "ssh" and user == "git")):
            return ""
        if parts.scheme not in ("https", "ssh", "file") or bool(host) == (parts.scheme == "file"):
            return ""
        host += port
    elif scp_form := re.fullmatch(r"git@([A-Za-z0-9.-]+):([^/].*)", url):
        host, path, secret = scp_form[1].lower(), f"/{scp_form[2]}", None
    else:
        return ""
    segments = path.strip("/").removesuffix(".git").rstrip("/").split("/")
    if secret or any(part in ("", ".", "..") for part in segments):
        return ""
    return f"{host}/{'/'.join(segments)}"


def read_policy(location: str, dataset: str) -> DatasetPolicy:
    """The policy of a dataset, from the folder or prefix of policies.

    Raises Refused for a dataset that has none, InvalidConfig for a policy that is wrong, StoreFailed.
    """
    if not location:
        raise InvalidConfig(
            "access.policies is not set, and without a policy no user may run on a dataset. Set access.policies."
        )
    unknown = Problem(
        subject=f"--dataset {dataset!r}",
        rule="There is no such dataset.",
        remedy="Ask its maintainers for a policy.",
        status=403,
    )
    if not DATASET.fullmatch(dataset):
        raise Refused([unknown])
    name = f"{dataset}.toml"
    try:
        data = open_store(location).get(name)
    except NotInStore as error:
        raise Refused([unknown]) from error
    policy = parse_policy(data, f"{location.rstrip('/')}/{name}")
    if policy.dataset != dataset:
        raise InvalidConfig(f"The policy {name} is for the dataset {policy.dataset!r}. Name the file after it.")
    return policy


def parse_policy(data: bytes, origin: str) -> DatasetPolicy:
    """Reads a policy. Raises InvalidConfig with all that is wrong in it."""
    from pydantic_core import SchemaValidator, ValidationError

    try:
        written = tomllib.loads(data.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidConfig(f"The policy {origin} is not valid TOML: {error}. Fix that line.") from error
    try:
        value = SchemaValidator(_SCHEMA).validate_python(written)
    except ValidationError as error:
        sentences = [
            f"The policy {origin}: {'.'.join(map(str, item['loc']))}: {item['msg']}." for item in error.errors()
        ]
        raise InvalidConfig("\n".join(sentences)) from error
    policy = DatasetPolicy(
        dataset=value["dataset"],
        sha256=sha256_of_bytes(data),
        levels={Level(name): LevelRule(**_tuples(rule)) for name, rule in value["levels"].items()},
        repositories=tuple(RepositoryRule(**_tuples(rule)) for rule in value.get("repositories", ())),
        images=tuple(ImageRule(**_tuples(rule)) for rule in value.get("images", ())),
        month_budget=value["budget"]["month"] if "budget" in value else None,
    )
    problems = list(_contradictions(policy))
    if problems:
        raise InvalidConfig("\n".join(f"The policy {origin}: {problem}" for problem in problems))
    return policy


def _tuples(table: Mapping[str, Any]) -> dict[str, Any]:
    return {key: tuple(item) if isinstance(item, list) else item for key, item in table.items()}


def _contradictions(policy: DatasetPolicy) -> Iterator[str]:
    keys = [repository_key(rule.url) for rule in policy.repositories]
    for rule, key in zip(policy.repositories, keys, strict=True):
        if not key:
            yield f"the repository {rule.url!r} is no https, ssh or file URL without a name or password. Write it so."
        elif keys.count(key) > 1:
            yield f"the repository {rule.url!r} is there twice. Leave one."
        if rule.secret and not is_reference(rule.secret):
            yield f"the secret of {rule.url!r} is no reference. Write secretsmanager:ARN, env:NAME or file:/path."
    for level, place in policy.levels.items():
        if level.privileged and ANYBODY in place.members:
            yield f"level {level.value} is open to anybody ('*'). Name its members."
        if level.privileged and not place.without_image and not policy.images:
            yield f"level {level.value} needs images, and none is allowed. Add [[images]]."
        if place.store.startswith("s3://") and not place.job_role:
            # Without a role a job has that of its machine, which is everybody's.
            yield f"level {level.value} is in S3 and has no job_role. Give it one of its own."
    yield from _shared(policy.levels)


def _shared(levels: Mapping[Level, LevelRule]) -> Iterator[str]:
    """What level test shares with a level above it: then it would be no test."""
    test = levels.get(Level.TEST)
    for level, place in levels.items():
        if test is None or not level.privileged:
            continue
        ours, theirs = _normal(test.area), _normal(place.area)
        if ours.startswith(theirs) or theirs.startswith(ours):
            yield f"the areas of test and {level.value} overlap ({test.area}, {place.area}). Keep them apart."
        if test.job_role and test.job_role == place.job_role:
            yield f"test and {level.value} have one job role. Give each its own."


def _normal(area: str) -> str:
    return unquote(area.removeprefix("file://"))


def _text(pattern: str = "", **more: Any) -> dict[str, Any]:
    return {"type": "str", "strict": True, **({"pattern": pattern} if pattern else {}), **more}


def _table(required: Mapping[str, Any], optional: Mapping[str, Any]) -> dict[str, Any]:
    """In pydantic-core's terms: https://docs.pydantic.dev/latest/api/pydantic_core_schema/"""
    entries = {
        name: {"type": "typed-dict-field", "schema": schema, "required": needed}
        for group, needed in ((required, True), (optional, False))
        for name, schema in group.items()
    }
    return {"type": "typed-dict", "fields": entries, "extra_behavior": "forbid"}


def _list(item: Mapping[str, Any], least: int = 0) -> dict[str, Any]:
    return {"type": "list", "items_schema": item, "min_length": least}


_PREFIX: Final = r"^([A-Za-z0-9_][A-Za-z0-9._+=@-]*(/[A-Za-z0-9_][A-Za-z0-9._+=@-]*)*)?$"
_IMAGE: Final = r"^[a-z0-9][a-z0-9._:/-]*$"
_ENTRY: Final = r"^[A-Za-z0-9_*][A-Za-z0-9_.*?-]*(/[A-Za-z0-9_*][A-Za-z0-9_.*?-]*)*$"
_ROLE: Final = r"^(arn:\S+)?$"

_LEVEL: Final = _table(
    {
        "store": _text(r"^(s3://[^\s/]+(/[^\s]*)?|file:///\S+|/\S+|memory://\S+)$"),
        "queue": _text(r"^(arn:\S+|[A-Za-z0-9][A-Za-z0-9_-]{0,127})$"),
        "members": _list(_text(r"^\S+$")),
    },
    {
        "output_prefix": _text(_PREFIX),
        "job_role": _text(_ROLE),
        "execution_role": _text(_ROLE),
        "image": _text(),
        "without_image": {"type": "bool", "strict": True},
    },
)

_SCHEMA: Final[Any] = _table(
    {
        "dataset": _text(f"^{DATASET.pattern}$"),
        "levels": _table({}, {level.value: _LEVEL for level in Level}),
    },
    {
        "repositories": _list(
            _table(
                {"url": _text(r"^\S+$")},
                {
                    "protected_branch": _text(r"^[A-Za-z0-9_][A-Za-z0-9._/-]*$"),
                    "entry_points": _list(_text(_ENTRY)),
                    "secret": _text(),
                },
            )
        ),
        "budget": _table({"month": {"type": "float", "strict": True, "ge": 0, "allow_inf_nan": False}}, {}),
        "images": _list(
            _table({"repository": _text(_IMAGE), "digests": _list(_text(r"^sha256:[0-9a-f]{0,64}$"), 1)}, {})
        ),
    },
)
