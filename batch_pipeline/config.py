"""Settings: option > environment > file > `defaults.toml`, and that last file is the manual.

`load_settings` merges the four places and returns one frozen value that everything below the command line takes. Every
key is checked against `settings`: an unknown one is an error that lists the known ones, a wrong value says where it was
written. The validator is pydantic's core without its models: those take a tenth of a second to import, a third of what
a command with nothing to do may take.
"""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any, Final

from batch_pipeline.settings import (
    SECTIONS,
    AwsSettings,
    EmbeddedSettings,
    PriceSettings,
    Settings,
    WatchSettings,
)
from batch_pipeline.wire.errors import InvalidConfig

__all__ = [
    "SECTIONS",
    "AwsSettings",
    "EmbeddedSettings",
    "PriceSettings",
    "Settings",
    "WatchSettings",
    "default_values",
    "known_keys",
    "load_settings",
    "variable_of",
]

PREFIX: Final = "BATCH_PIPELINE__"
#: Variables of options that are no settings (`--force`); the command line reads them itself.
CLI_PREFIX: Final = "BATCH_PIPELINE__CLI__"
FILE_NAME: Final = "batch_pipeline.toml"
DEFAULTS: Final = Path(__file__).with_name("defaults.toml")
#: Sections whose keys are the user's own.
OPEN: Final = ("tags.", "params.")


@dataclass(frozen=True, kw_only=True)
class _Written:
    """A value as it was written, and where."""

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
