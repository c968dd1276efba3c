"""Settings: option > environment > file > `defaults.toml`, and that last file is the manual.

`load_settings` merges the four places and returns one frozen value that everything below the command line takes. Every
key is checked: an unknown one is an error that lists the known ones, a wrong value says where it was written. The
validator is pydantic's core without its models: those take a tenth of a second to import, a third of what a command
with nothing to do may take.

(Longer than most modules: the keys, their rules and the four places they come from are read together.)
"""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any, Final

from batch_pipeline.wire.errors import InvalidConfig

PREFIX: Final = "BATCH_PIPELINE__"
#: Variables of options that are no settings (`--force`); the command line reads them itself.
CLI_PREFIX: Final = "BATCH_PIPELINE__CLI__"
FILE_NAME: Final = "batch_pipeline.toml"
DEFAULTS: Final = Path(__file__).with_name("defaults.toml")
#: Sections whose keys are the user's own.
OPEN: Final = ("tags.", "params.")


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
    """Section `prices`: what an hour costs, for estimates."""

    currency: str
    vcpu_hour: float = _at_least(0)
    gib_hour: float = _at_least(0)


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


SECTIONS: Final[Mapping[str, type[Any]]] = {
    "store": StoreSettings,
    "samples": SampleSettings,
    "pipeline": PipelineSettings,
    "backend": BackendSettings,
    "embedded": EmbeddedSettings,
    "watch": WatchSettings,
    "luigi": LuigiSettings,
    "aws": AwsSettings,
    "recovery": RecoverySettings,
    "deploy": DeploySettings,
    "prices": PriceSettings,
    "pool": PoolSettings,
    "access": AccessSettings,
    "server": ServerSettings,
}


@dataclass(frozen=True, kw_only=True)
class _Written:
    """A value as it was found, and where."""

    value: Any
    origin: str


def load_settings(
    flags: Mapping[str, Any] | None = None,
    *,
    config: Path | None = None,
    environ: Mapping[str, str] | None = None,
    folder: Path | None = None,
) -> Settings:
    """The settings of a command.

    Parameters
    ----------
    flags
        `section.key` -> value of the options that were given; for `params` and `tags` too.
    config
        The file that `--config` names; default: `batch_pipeline.toml` in `folder`, if there is one.
    folder
        The working directory.

    Raises InvalidConfig with every unknown key and wrong value at once.
    """
    from_flags = {key: _Written(value=value, origin="the command line") for key, value in (flags or {}).items()}
    merged = {key: _Written(value=value, origin="defaults") for key, value in default_values().items()}
    merged |= _from_file(config, folder or Path())
    merged |= _from_environment(os.environ if environ is None else environ)
    merged |= from_flags
    if from_flags.get("store.bucket") and not from_flags.get("store.url"):
        merged["store.url"] = _Written(value="", origin="--bucket-name")
    _refuse_unknown(merged)
    return _validated(merged)


@cache
def default_values() -> Mapping[str, Any]:
    """`section.key` -> value in `defaults.toml`."""
    return dict(_flat(_parsed(DEFAULTS)))


def known_keys() -> tuple[str, ...]:
    """Every `section.key`, in the order of the manual."""
    return tuple(f"{section}.{item.name}" for section, cls in SECTIONS.items() for item in fields(cls))


def variable_of(key: str) -> str:
    """The environment variable of a setting: `backend.queue` -> `BATCH_PIPELINE__BACKEND__QUEUE`."""
    return PREFIX + key.upper().replace(".", "__")


def _parsed(path: Path) -> Mapping[str, Any]:
    try:
        with path.open("rb") as file:
            return tomllib.load(file)
    except tomllib.TOMLDecodeError as error:
        raise InvalidConfig(f"The settings file {path} is not valid TOML: {error}. Fix that line.") from error
    except UnicodeDecodeError as error:
        raise InvalidConfig(f"The settings file {path} is not UTF-8 text. Save it as UTF-8.") from error
    except OSError as error:
        raise InvalidConfig(f"The settings file {path} cannot be read: {error.strerror}. Check --config.") from error


def _flat(table: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in table.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value


def _from_file(config: Path | None, folder: Path) -> dict[str, _Written]:
    path = config or folder / FILE_NAME
    if config is None and not path.is_file():
        return {}
    return {key: _Written(value=value, origin=str(path)) for key, value in _flat(_parsed(path))}


def _from_environment(environ: Mapping[str, str]) -> dict[str, _Written]:
    return {
        name.removeprefix(PREFIX).lower().replace("__", "."): _Written(value=value, origin=f"${name}")
        for name, value in environ.items()
        if name.startswith(PREFIX) and not name.startswith(CLI_PREFIX)
    }


def _refuse_unknown(merged: Mapping[str, _Written]) -> None:
    known = known_keys()
    problems = []
    for key, written in merged.items():
        if key in known or key.startswith(OPEN):
            continue
        near = difflib.get_close_matches(key, known, n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        problems.append(f"There is no setting {key!r} ({written.origin}).{hint}")
    if problems:
        raise InvalidConfig("\n".join((*problems, f"Known settings: {', '.join(known)}, tags.…, params.….")))


def _validated(merged: Mapping[str, _Written]) -> Settings:
    from pydantic_core import SchemaValidator, ValidationError

    values: dict[str, dict[str, Any]] = {section: {} for section in (*SECTIONS, "tags", "params")}
    for key, written in merged.items():
        section, _, name = key.partition(".")
        values[section][name] = written.value
    try:
        checked = SchemaValidator(_schema()).validate_python(values)
    except ValidationError as error:
        raise InvalidConfig("\n".join(_sentence(item, merged) for item in error.errors())) from error
    sections = {section: cls(**checked[section]) for section, cls in SECTIONS.items()}
    origins = {key: written.origin for key, written in merged.items() if written.origin != "defaults"}
    return Settings(**sections, tags=checked["tags"], params=checked["params"], origins=origins)


def _sentence(error: Any, merged: Mapping[str, _Written]) -> str:
    key = ".".join(map(str, error["loc"]))
    written = merged.get(key, _Written(value=error["input"], origin="defaults"))
    rule = str(error["msg"]).replace("Input should be", "it should be").replace("String should", "it should")
    if error["type"] == "string_pattern_mismatch":
        section, _, name = key.partition(".")
        rule = next(item.metadata["rule"] for item in fields(SECTIONS[section]) if item.name == name)
    return f"Setting {key} is {written.value!r} ({written.origin}); {rule}."


def _schema() -> Any:
    """The settings in pydantic-core's terms: https://docs.pydantic.dev/latest/api/pydantic_core_schema/"""
    schemas: dict[str, Any] = {
        section: _table({item.name: _schema_of(item.type, item.metadata) for item in fields(cls)})
        for section, cls in SECTIONS.items()
    }
    scalar = {"type": "union", "choices": [{"type": kind, "strict": True} for kind in ("bool", "int", "float", "str")]}
    schemas["tags"] = {"type": "dict", "keys_schema": {"type": "str"}, "values_schema": {"type": "str"}}
    schemas["params"] = {"type": "dict", "keys_schema": {"type": "str"}, "values_schema": scalar}
    return _table(schemas)


def _table(schemas: Mapping[str, Any]) -> dict[str, Any]:
    entries = {name: {"type": "typed-dict-field", "schema": schema} for name, schema in schemas.items()}
    return {"type": "typed-dict", "fields": entries, "total": True, "extra_behavior": "forbid"}


def _schema_of(annotation: Any, metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Of one field; annotations are text here (`from __future__ import annotations`), and all are plain types."""
    schema = {"type": annotation, **metadata}
    schema.pop("rule", None)
    return schema | {"allow_inf_nan": False} if annotation == "float" else schema
