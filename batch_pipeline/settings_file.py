"""A settings file: its values and presets, the line of each key, and its text with other numbers.

The standard library reads TOML and does not write it. A change replaces one number or inserts lines, and counts only
if the new text, read again, differs from the old one in those values alone.
"""

from __future__ import annotations

import io
import os
import re
import shutil
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from batch_pipeline.wire.errors import InvalidConfig

_HEADER: Final = re.compile(r"\s*\[\s*([^\[\]]+?)\s*\]\s*(#.*)?$")
_ASSIGNMENT: Final = re.compile(r"""\s*((?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*'|\s*\.\s*)+?)\s*=""")
_PART: Final = re.compile(r"""([A-Za-z0-9_-]+)|"([^"]*)"|'([^']*)'""")
_NUMBER: Final = re.compile(r"(\s*[^=]+=\s*)([^\s#]+)(.*)", re.DOTALL)


#: Between a file and the name of a preset in the origin of a value.
PRESET: Final = ", preset "


@dataclass(frozen=True, kw_only=True)
class _Line:
    """A line that begins a table or gives a key its value."""

    index: int
    #: Dotted name of the table or the key, without quotes.
    name: str
    #: Dotted name of the table that the line belongs to.
    table: str
    is_header: bool


@dataclass(frozen=True, kw_only=True)
class Written:
    """A value as it was written, and where."""

    value: Any
    origin: str


@dataclass(frozen=True, kw_only=True)
class SettingsFile:
    """What a settings file has: its own values, and those of each preset."""

    path: Path
    values: Mapping[str, Written]
    presets: Mapping[str, Mapping[str, Written]]


def parsed(path: Path) -> Mapping[str, Any]:
    """The tables of a settings file. Raises InvalidConfig."""
    try:
        with path.open("rb") as file:
            return tomllib.load(file)
    except tomllib.TOMLDecodeError as error:
        raise InvalidConfig(f"The settings file {path} is not valid TOML: {error}. Fix that line.") from error
    except UnicodeDecodeError as error:
        raise InvalidConfig(f"The settings file {path} is not UTF-8 text. Save it as UTF-8.") from error
    except OSError as error:
        raise InvalidConfig(f"The settings file {path} cannot be read: {error.strerror}. Check --config.") from error


def flat(table: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted name and value of each key of a table."""
    for key, value in table.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value


def read_settings_file(path: Path, *, must_exist: bool) -> SettingsFile:
    """Reads a settings file; one that need not exist may be absent. Raises InvalidConfig."""
    if not must_exist and not path.is_file():
        return SettingsFile(path=path, values={}, presets={})
    tables = dict(parsed(path))
    presets = tables.pop("preset", {})
    if not isinstance(presets, Mapping):
        raise InvalidConfig(
            f"{place_of('preset', str(path))}: a settings file has presets as tables, [preset.NAME], and chooses none."
            f" Choose with --preset NAME or BATCH_PIPELINE__PRESET=NAME."
        )
    for name, table in presets.items():
        if not isinstance(table, Mapping):
            raise InvalidConfig(
                f"{place_of(f'preset.{name}', str(path))}: preset.{name} is a value, but a preset is a table."
                f" Write [preset.NAME.SECTION] above {name} = …"
            )
    return SettingsFile(
        path=path,
        values={key: Written(value=value, origin=str(path)) for key, value in flat(tables)},
        presets={
            name: {key: Written(value=value, origin=f"{path}{PRESET}{name}") for key, value in flat(table)}
            for name, table in presets.items()
        },
    )


def place_of(key: str, origin: str) -> str:
    """An origin with the line of the key where it is a file."""
    name, _, preset = origin.partition(PRESET)
    path = Path(name)
    if not path.is_file():
        return origin
    line = line_of(path.read_text(encoding="utf-8"), f"preset.{preset}.{key}" if preset else key)
    return f"{name}, line {line}" if line else origin


def line_of(text: str, key: str) -> int | None:
    """Number of the line, from 1, that gives a key its value, or that holds it in a table on one line."""
    lines = list(_lines(text))
    of_key = [line for line in lines if not line.is_header and f"{key}.".startswith(f"{line.name}.")]
    of_table = [line for line in lines if line.is_header and f"{key}.".startswith(f"{line.name}.")]
    best = max(of_key or of_table, key=lambda line: len(line.name), default=None)
    return None if best is None else best.index + 1


def with_numbers(text: str, values: Mapping[str, int]) -> str:
    """The text of a settings file with keys (`steps.call.memory_mb`) set to numbers; other lines stay as they are.

    Raises InvalidConfig where the file has the key or its table in a form that this cannot change.
    """
    changed = text
    for key, value in values.items():
        changed = _with_number(changed, key, value)
    expected = tomllib.loads(text)
    try:
        for key, value in values.items():
            _set(expected, key.split("."), value)
        actual: object = tomllib.loads(changed)
    except (tomllib.TOMLDecodeError, TypeError):
        actual = None
    if actual != expected:
        lines = "; ".join(f"{key} = {value}" for key, value in values.items())
        raise InvalidConfig(f"The tables of the settings file have a form that cannot be changed here. Set: {lines}.")
    return changed


def change_numbers(path: Path, values: Mapping[str, int]) -> None:
    """Sets keys of a settings file to numbers, in one step; it is made when it is not there.

    Raises InvalidConfig as `with_numbers`, or when the file cannot be read or written.
    """
    try:
        with path.open(encoding="utf-8", newline="") if path.exists() else io.StringIO() as file:
            changed = with_numbers(file.read(), values)
        # A link stays one, and a command that is killed leaves the old file or the new one.
        target = path.resolve()
        beside = target.with_name(f".{target.name}.{os.getpid()}")
        with beside.open("w", encoding="utf-8", newline="") as file:
            file.write(changed)
        if target.exists():
            shutil.copymode(target, beside)
        beside.replace(target)
    except OSError as error:
        raise InvalidConfig(f"The settings file {path} cannot be changed: {error.strerror}. Check --config.") from error


def _with_number(text: str, key: str, value: int) -> str:
    table, _, name = key.rpartition(".")
    rows = text.splitlines(keepends=True)
    end = "\r\n" if rows and rows[0].endswith("\r\n") else "\n"
    lines = list(_lines(text))
    for line in lines:
        if not line.is_header and line.name == key:
            rows[line.index] = _NUMBER.sub(lambda match: f"{match[1]}{value}{match[3]}", rows[line.index])
            return "".join(rows)
    if rows and not rows[-1].endswith("\n"):
        rows[-1] += end
    last = max((line.index for line in lines if line.table == table), default=None)
    if last is None:
        rows += [*([end] if rows and rows[-1].strip() else []), f"[{_quoted(table)}]{end}", f"{name} = {value}{end}"]
    else:
        rows.insert(last + 1, f"{name} = {value}{end}")
    return "".join(rows)


def _lines(text: str) -> Iterator[_Line]:
    table = ""
    for index, line in enumerate(text.splitlines()):
        if header := _HEADER.match(line):
            table = _name(header[1])
            yield _Line(index=index, name=table, table=table, is_header=True)
        elif assignment := _ASSIGNMENT.match(line):
            name = _name(assignment[1])
            yield _Line(index=index, name=f"{table}.{name}" if table else name, table=table, is_header=False)


def _name(written: str) -> str:
    return ".".join("".join(parts) for parts in _PART.findall(written))


def _quoted(table: str) -> str:
    return ".".join(part if re.fullmatch(r"[A-Za-z0-9_-]+", part) else f'"{part}"' for part in table.split("."))


def _set(table: dict[str, Any], parts: list[str], value: int) -> None:
    for part in parts[:-1]:
        table = table.setdefault(part, {})
    table[parts[-1]] = value
