"""The settings as values: one frozen class a section of `defaults.toml`, its keys with their rules.

`config` loads them; each rule is checked there, in pydantic-core's terms. (A little longer than most modules: a class a
section, and no section is read without the others.)
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from batch_pipeline.wire.errors import InvalidConfig


def _one_of(*words: str) -> Any:
    return field(metadata={"type": "literal", "expected": list(words)})


def _matching(pattern: str, rule: str) -> Any:
    return field(metadata={"pattern": pattern, "rule": rule})


def _place(named: str, variable: str, usual: str, name: str) -> Path:
    """The place that a setting names, else the usual one in the user's home. Raises InvalidConfig for want of one."""
    try:
        if named:
            return Path(named).expanduser().absolute()
        return Path(os.environ.get(variable) or Path.home() / usual) / "batch_pipeline" / name
    except RuntimeError as error:
        raise InvalidConfig(f"This user has no home directory. Set HOME, or {variable}.") from error


def _at_least(minimum: float, maximum: float | None = None) -> Any:
    return field(metadata={"ge": minimum} | ({} if maximum is None else {"le": maximum}))


@dataclass(frozen=True, kw_only=True)
class StoreSettings:
    """Section `store`: where everything lies."""

    url: str
    bucket: str
    root: str
    prefix: str = _matching(
        r"^/*([A-Za-z0-9_][A-Za-z0-9._+=@-]*/*)*$", "a prefix is names with slashes between, none beginning with a dot"
    )
    kms_key: str


@dataclass(frozen=True, kw_only=True)
class SampleSettings:
    """Section `samples`: the list, and where the samples' own files lie."""

    file: str
    sources: str


@dataclass(frozen=True, kw_only=True)
class PipelineSettings:
    """Section `pipeline`: what a run is called and what it demands."""

    name: str = _matching(r"^([A-Za-z0-9][A-Za-z0-9_-]{0,39})?$", "a name is 1 to 40 letters, digits, - and _")
    reference: str = _matching(
        r"^([A-Za-z0-9][A-Za-z0-9._+=@-]{0,127})?$", "a reference's name is 1 to 128 letters, digits and . _ + = @ -"
    )
    description: str
    min_success: float = field(metadata={"gt": 0, "le": 1})
    check_results: bool
    keep_temporary: bool


@dataclass(frozen=True, kw_only=True)
class BackendSettings:
    """Section `backend`: where jobs run."""

    name: str = _one_of("embedded", "aws")
    queue: str = _matching(
        r"^(arn:\S+|[A-Za-z0-9][A-Za-z0-9_-]{0,127})$", "a queue's name is 1 to 128 letters, digits, - and _"
    )
    attempts: int = _at_least(1, 10)
    on_demand_queue: str = _matching(
        r"^(arn:\S+|[A-Za-z0-9][A-Za-z0-9_-]{0,127})?$", "a queue's name is 1 to 128 letters, digits, - and _"
    )
    share_identifier: str = _matching(
        r"^([A-Za-z0-9]{1,255}\*?)?$", "a share identifier is 1 to 255 letters and digits"
    )
    priority: int = _at_least(-1, 9999)
    max_children: int = _at_least(0)
    most_calls: int = _at_least(1)
    driver: str = _one_of("here", "batch")


@dataclass(frozen=True, kw_only=True)
class RecoverySettings:
    """Section `recovery`: what a driver does about cells that failed through nobody's fault."""

    memory_factor: float = _at_least(1, 16)
    memory_cap_mb: int = _at_least(0)
    rounds: int = _at_least(0, 10)


@dataclass(frozen=True, kw_only=True)
class EmbeddedSettings:
    """Section `embedded`: the AWS Batch on this machine. 0 means: as the machine has."""

    state: str
    vcpus: int = _at_least(0)
    memory_mb: int = _at_least(0)
    idle_seconds: int = _at_least(1)
    container: str = _one_of("", "podman", "docker")

    @property
    def folder(self) -> Path:
        """Where its state lies."""
        return _place(self.state, "XDG_STATE_HOME", ".local/state", "localbatch")


@dataclass(frozen=True, kw_only=True)
class WatchSettings:
    """Section `watch`: how a command looks after running jobs."""

    poll_seconds: float = field(metadata={"gt": 0})
    dwell_seconds: float = _at_least(0)
    on_interrupt: str = _one_of("ask", "leave", "cancel")


@dataclass(frozen=True, kw_only=True)
class LogSettings:
    """Section `logs`: where what a step prints goes."""

    mode: str = _one_of("both", "store")


@dataclass(frozen=True, kw_only=True)
class NotifySettings:
    """Section `notify`: who is told when a command that follows a run ends."""

    url: str = _matching(
        r"^(env:[A-Za-z_][A-Za-z0-9_]*|file:\S+|secretsmanager:arn:\S+|https?://[!-~]+)?$",
        "a URL is https://host/path, or where it is: env:NAME, file:PATH or secretsmanager:ARN",
    )
    command: str
    allow_http: bool


@dataclass(frozen=True, kw_only=True)
class LuigiSettings:
    """Section `luigi`: the central scheduler, if any."""

    scheduler_host: str
    scheduler_port: int = _at_least(1, 65535)


@dataclass(frozen=True, kw_only=True)
class AwsSettings:
    """Section `aws`: empty means what the AWS environment says."""

    region: str
    profile: str
    endpoint: str
    s3_endpoint: str
    job_role: str = _matching(r"^(arn:\S+)?$", "a role is given by its ARN")
    execution_role: str = _matching(r"^(arn:\S+)?$", "a role is given by its ARN")
    driver_role: str = _matching(r"^(arn:\S+)?$", "a role is given by its ARN")
    log_group: str = _matching(r"^[A-Za-z0-9_./#-]{0,512}$", "a log group's name is letters, digits and _ - / . #")


@dataclass(frozen=True, kw_only=True)
class DeploySettings:
    """Section `deploy`: what `deploy` sets up, and with what."""

    stack: str = _matching(r"^[A-Za-z][A-Za-z0-9-]{0,127}$", "a stack's name is letters, digits and -, a letter first")
    registry: str
    base_image: str
    builder: str = _one_of("", "docker", "podman", "buildah")


@dataclass(frozen=True, kw_only=True)
class PriceSettings:
    """Section `prices`: what an hour costs, and how much a run may cost."""

    currency: str
    vcpu_hour: float = _at_least(0)
    gib_hour: float = _at_least(0)
    file: str = ""
    max_cost: float = field(default=0, metadata={"ge": 0})
    max_cost_cancel: bool = False

    @property
    def own_file(self) -> Path:
        """Where the user's own table of prices lies."""
        return _place(self.file, "XDG_CONFIG_HOME", ".config", "prices.csv")


@dataclass(frozen=True, kw_only=True)
class AccessSettings:
    """Section `access`: who may run which code on a dataset."""

    policies: str
    cache: str

    @property
    def cache_folder(self) -> Path:
        """Where fetched repositories lie on this machine."""
        return _place(self.cache, "XDG_CACHE_HOME", ".cache", "repositories")


@dataclass(frozen=True, kw_only=True)
class ServerSettings:
    """Section `server`: the service that starts runs for others, and how a client finds it."""

    url: str = _matching(r"^(https?://[^\s/?#@]+(/[^\s?#]*)?)?$", "a service's URL is https://host/path")
    token: str = _matching(
        r"^((env|file):\S+)?$", "a token is never written here but where it is: env:NAME or file:PATH"
    )
    host: str
    port: int = _at_least(1, 65535)
    issuer: str
    audience: str
    algorithms: str = _matching(
        r"^(RS|PS|ES)(256|384|512)(,((RS|PS|ES)(256|384|512)|EdDSA))*$|^EdDSA$",
        "algorithms are asymmetric ones with commas between: RS256,ES256",
    )
    claim: str = _one_of("email", "sub")
    leeway_seconds: float = _at_least(0, 300)
    token_header: str = _matching(r"^([A-Za-z][A-Za-z0-9-]{0,63})?$", "a header's name is letters, digits and -")
    trusted_proxy: str
    requests_per_minute: int = _at_least(1, 100_000)
    audit: str

    @property
    def audit_file(self) -> Path:
        """Where the audit log lies."""
        return _place(self.audit, "XDG_STATE_HOME", ".local/state", "server/audit.jsonl")


@dataclass(frozen=True, kw_only=True)
class PoolSettings:
    """Section `pool`: the pool of tasks, and the pilots that drain it."""

    url: str
    pilots: int = _at_least(0, 10_000)
    items: int = _at_least(1, 1000)
    nests: int = _at_least(1, 1000)
    lease_seconds: float = _at_least(1, 86_400)
    image: str


@dataclass(frozen=True, kw_only=True)
class Settings:
    """All settings of one command."""

    store: StoreSettings
    samples: SampleSettings
    pipeline: PipelineSettings
    backend: BackendSettings
    embedded: EmbeddedSettings
    watch: WatchSettings
    logs: LogSettings
    notify: NotifySettings
    luigi: LuigiSettings
    aws: AwsSettings
    recovery: RecoverySettings
    deploy: DeploySettings
    prices: PriceSettings
    pool: PoolSettings
    access: AccessSettings
    server: ServerSettings
    #: Tags of all jobs.
    tags: Mapping[str, str]
    #: Parameters of the steps by option name, as written: `Graph.of` parses them.
    params: Mapping[str, Any]
    #: Input of the reference builder -> its file, from which `reference` and `run --prepare` build.
    reference_files: Mapping[str, str] = field(default_factory=dict)
    #: Step -> what it has instead of its class and job definition: a key of `STEP_KEYS`.
    steps: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    #: Name of the preset that was chosen; empty: none.
    preset: str = ""
    #: `section.key` -> where its value was written, for those that are not defaults.
    origins: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)

    @property
    def uses_containers(self) -> bool:
        """Whether steps run in their images, and not as processes of this machine."""
        return self.backend.name == "aws" or bool(self.embedded.container)

    @property
    def store_location(self) -> str:
        """URL or folder of the store, prefix included, for `open_store`. Raises InvalidConfig when there is none."""
        base = self.store.url or self._bucket()
        return "/".join(part for part in (base.rstrip("/"), self.store.prefix.strip("/")) if part)

    def _bucket(self) -> str:
        bucket = self.store.bucket.removeprefix("s3://").strip("/")
        if "/" in bucket or bucket in (".", ".."):
            raise InvalidConfig(f"The bucket {bucket!r} is not a name. Give the part behind the slash as --prefix.")
        if self.backend.name == "embedded":
            return str(Path(self.store.root).expanduser() / (bucket or "default"))
        if not bucket:
            raise InvalidConfig("No store was named. Give --bucket-name NAME or --store s3://bucket/prefix.")
        return f"s3://{bucket}"


#: Keys of a table `[steps.NAME]` with their rules in pydantic-core's terms.
STEP_KEYS: Final[Mapping[str, Mapping[str, Any]]] = {
    "memory_mb": {"type": "int", "ge": 4},
    "cpus": {"type": "float", "gt": 0, "allow_inf_nan": False},
    "timeout_seconds": {"type": "int", "ge": 0},
    "max_parallel": {"type": "int", "ge": 0},
    "image": {"type": "str", "min_length": 1},
}

SECTIONS: Final[Mapping[str, type[Any]]] = {
    "store": StoreSettings,
    "samples": SampleSettings,
    "pipeline": PipelineSettings,
    "backend": BackendSettings,
    "embedded": EmbeddedSettings,
    "watch": WatchSettings,
    "logs": LogSettings,
    "notify": NotifySettings,
    "luigi": LuigiSettings,
    "aws": AwsSettings,
    "recovery": RecoverySettings,
    "deploy": DeploySettings,
    "prices": PriceSettings,
    "pool": PoolSettings,
    "access": AccessSettings,
    "server": ServerSettings,
}
