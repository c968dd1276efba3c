"""Settings: option > environment > preset > file > `defaults.toml`, and that last file is the manual.

A preset is a table `[preset.NAME]` of the settings file with any settings inside. A parameter of all steps goes before
one that an earlier place has for one step: `--quality 30` before `[params.call] quality = 20`. `load_settings` merges
the places and returns one frozen value that everything below the command line takes. Every key is checked against
`settings`: an unknown one is an error that lists the known ones, a wrong value says where it was written. The validator
is pydantic's core without its models: those take a tenth of a second to import, a third of what a command with nothing
to do may take.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping, Sequence
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any, Final

from batch_pipeline.settings import (
    SECTIONS,
    STEP_KEYS,
    AwsSettings,
    EmbeddedSettings,
    PriceSettings,
    Settings,
    WatchSettings,
)
from batch_pipeline.settings_file import PRESET, SettingsFile, Written, flat, parsed, place_of, read_settings_file
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
    "place_of_setting",
    "variable_of",
]

PREFIX: Final = "BATCH_PIPELINE__"
#: Variables of options that are no settings (`--force`); the command line reads them itself.
CLI_PREFIX: Final = "BATCH_PIPELINE__CLI__"
FILE_NAME: Final = "batch_pipeline.toml"
#: Origin of the values of options.
COMMAND_LINE: Final = "the command line"
DEFAULTS: Final = Path(__file__).with_name("defaults.toml")
#: Sections whose keys are the user's own.
OPEN: Final = ("tags.", "params.", "reference_files.")
_FREE_SECTIONS: Final = ("tags", "params", "reference_files", "steps")


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
        `section.key` -> value of the options that were given; for `params`, `tags` and `reference_files` too.
    config
        The file that `--config` names; default: `batch_pipeline.toml` in `folder`, if there is one.
    folder
        The working directory.

    Raises InvalidConfig with every unknown key and wrong value at once, or for an unknown preset.
    """
    from_flags = {key: Written(value=value, origin=COMMAND_LINE) for key, value in (flags or {}).items()}
    merged = {key: Written(value=value, origin="defaults") for key, value in default_values().items()}
    file = read_settings_file(config or (folder or Path()) / FILE_NAME, must_exist=config is not None)
    from_environment = _from_environment(os.environ if environ is None else environ)
    preset = from_flags.pop("preset", None) or from_environment.pop("preset", None)
    from_environment.pop("preset", None)
    layers = (file.values, _from_preset(file, preset), from_environment, from_flags)
    for layer in layers:
        merged = {**_without_overridden(merged, layer), **layer}
    if from_flags.get("store.bucket") and not from_flags.get("store.url"):
        merged["store.url"] = Written(value="", origin="--bucket-name")
    of_presets = (item for values in file.presets.values() for item in values.items())
    _refuse_unknown([*merged.items(), *of_presets])
    return _validated(merged, preset.value if preset else "")


def _without_overridden(values: Mapping[str, Written], layer: Mapping[str, Written]) -> dict[str, Written]:
    """The values so far, without parameters of one step that the next layer sets for all steps."""
    of_all = {key.removeprefix("params.") for key in layer if key.startswith("params.")}
    return {
        key: written
        for key, written in values.items()
        if not (key.startswith("params.") and key.count(".") > 1 and key.rpartition(".")[2] in of_all)
    }


@cache
def default_values() -> Mapping[str, Any]:
    """`section.key` -> value in `defaults.toml`."""
    return dict(flat(parsed(DEFAULTS)))


def known_keys() -> tuple[str, ...]:
    """Every `section.key`, in the order of the manual."""
    return tuple(f"{section}.{item.name}" for section, cls in SECTIONS.items() for item in fields(cls))


def variable_of(key: str) -> str:
    """The environment variable of a setting: `backend.queue` -> `BATCH_PIPELINE__BACKEND__QUEUE`."""
    return PREFIX + key.upper().replace(".", "__")


def _from_preset(file: SettingsFile, preset: Written | None) -> Mapping[str, Written]:
    """The values of the preset that was chosen. Raises InvalidConfig for one that is not in the file."""
    if preset is None or not preset.value:
        return {}
    if preset.value not in file.presets:
        known = ", ".join(file.presets) or "none"
        raise InvalidConfig(
            f"There is no preset {preset.value!r} ({preset.origin}); {file.path} has: {known}."
            f" Write its settings below [preset.{preset.value}.SECTION], or choose another."
        )
    values = file.presets[preset.value]
    if values.get("store.bucket") and "store.url" not in values:
        return {**values, "store.url": Written(value="", origin=values["store.bucket"].origin)}
    return values


def place_of_setting(settings: Settings, key: str) -> str:
    """Where a setting was written: `batch_pipeline.toml, line 7`, a variable, the command line, or `defaults`."""
    return place_of(key, settings.origins.get(key, "defaults"))


def is_of_preset(settings: Settings, key: str) -> bool:
    """Whether a setting was taken from the preset that was chosen."""
    return bool(settings.preset) and settings.origins.get(key, "").endswith(f"{PRESET}{settings.preset}")


def _from_environment(environ: Mapping[str, str]) -> dict[str, Written]:
    return {
        name.removeprefix(PREFIX).lower().replace("__", "."): Written(value=value, origin=f"${name}")
        for name, value in environ.items()
        if name.startswith(PREFIX) and not name.startswith(CLI_PREFIX)
    }


def _refuse_unknown(written_by_key: Sequence[tuple[str, Written]]) -> None:
    known = known_keys()
    every = ", ".join((*known, *(f"{section}…" for section in OPEN), *(f"steps.NAME.{name}" for name in STEP_KEYS)))
    problems = []
    for key, written in written_by_key:
        if key in known or key.startswith(OPEN) or _is_of_step(key):
            continue
        problems.append(f"There is no setting {key!r} ({place_of(key, written.origin)}).{_hint(key, known)}")
    if any(" A step has: " not in problem for problem in problems):
        problems.append(f"Known settings: {every}.")
    if problems:
        raise InvalidConfig("\n".join(problems))


def _is_of_step(key: str) -> bool:
    section, *names = key.split(".")
    return section == "steps" and len(names) == 2 and names[1] in STEP_KEYS


def _hint(key: str, known: Sequence[str]) -> str:
    """What an unknown key may have meant."""
    section, *names = key.split(".")
    if section == "steps":
        near = difflib.get_close_matches(names[-1], STEP_KEYS, n=1) if names else []
        example = ".".join(("steps", names[0] if len(names) > 1 else "NAME", near[0] if near else "memory_mb"))
        return f" Did you mean {example}? A step has: {', '.join(STEP_KEYS)}."
    if section not in SECTIONS and len(names) == 1 and names[0] in STEP_KEYS:
        return f" Did you mean steps.{key}?"
    close = [name for name in known if name.endswith(f".{key}")] or difflib.get_close_matches(key, known, n=1)
    return f" Did you mean {close[0]}?" if close else ""


def _validated(merged: Mapping[str, Written], preset: str) -> Settings:
    from pydantic_core import SchemaValidator, ValidationError

    values: dict[str, dict[str, Any]] = {section: {} for section in (*SECTIONS, *_FREE_SECTIONS)}
    for key, written in merged.items():
        section, _, name = key.partition(".")
        if section == "steps":
            step, _, name = name.partition(".")
            values[section].setdefault(step, {})[name] = written.value
        else:
            values[section][name] = written.value
    try:
        checked = SchemaValidator(_schema()).validate_python(values)
    except ValidationError as error:
        raise InvalidConfig("\n".join(_sentence(item, merged) for item in error.errors())) from error
    sections = {section: cls(**checked[section]) for section, cls in SECTIONS.items()}
    origins = {key: written.origin for key, written in merged.items() if written.origin != "defaults"}
    open_sections = {section: checked[section] for section in _FREE_SECTIONS}
    return Settings(**sections, **open_sections, preset=preset, origins=origins)


def _sentence(error: Any, merged: Mapping[str, Written]) -> str:
    key = ".".join(map(str, error["loc"]))
    written = merged.get(key, Written(value=error["input"], origin="defaults"))
    rule = str(error["msg"]).replace("Input should be", "it should be").replace("String should", "it should")
    rule = rule.partition(", unable to parse")[0]
    if error["type"] == "string_pattern_mismatch":
        section, _, name = key.partition(".")
        rule = next(item.metadata["rule"] for item in fields(SECTIONS[section]) if item.name == name)
    return f"Setting {key} is {written.value!r} ({place_of(key, written.origin)}); {rule}."


def _schema() -> Any:
    """The settings in pydantic-core's terms: https://docs.pydantic.dev/latest/api/pydantic_core_schema/"""
    schemas: dict[str, Any] = {
        section: _table({item.name: _schema_of(item.type, item.metadata) for item in fields(cls)})
        for section, cls in SECTIONS.items()
    }
    scalar = {"type": "union", "choices": [{"type": kind, "strict": True} for kind in ("bool", "int", "float", "str")]}
    texts = {"type": "dict", "keys_schema": {"type": "str"}, "values_schema": {"type": "str"}}
    schemas["tags"] = schemas["reference_files"] = texts
    schemas["params"] = {"type": "dict", "keys_schema": {"type": "str"}, "values_schema": scalar}
    step = {name: {"type": "typed-dict-field", "schema": dict(rule)} for name, rule in STEP_KEYS.items()}
    of_step = {"type": "typed-dict", "fields": step, "total": False}
    schemas["steps"] = {"type": "dict", "keys_schema": {"type": "str"}, "values_schema": of_step}
    return _table(schemas)


def _table(schemas: Mapping[str, Any]) -> dict[str, Any]:
    entries = {name: {"type": "typed-dict-field", "schema": schema} for name, schema in schemas.items()}
    return {"type": "typed-dict", "fields": entries, "total": True, "extra_behavior": "forbid"}


def _schema_of(annotation: Any, metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Of one field; annotations are text here (`from __future__ import annotations`), and all are plain types."""
    schema = {"type": annotation, **metadata}
    schema.pop("rule", None)
    return schema | {"allow_inf_nan": False} if annotation == "float" else schema
