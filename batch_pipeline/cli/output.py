"""Prints: tables and JSON on stdout, talk on stderr."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from batch_pipeline.report.text_table import pair_lines, table_lines
from batch_pipeline.wire.durable import put
from batch_pipeline.wire.errors import InvalidUse


def say(sentence: str) -> None:
    """Talk: to stderr."""
    click.echo(sentence, err=True)


def data(text: str) -> None:
    """Data: to stdout."""
    click.echo(text)


def one_reader() -> bool:
    """Whether data and talk go to one place, as at a terminal: what was told as talk need not be told again."""
    try:
        out, err = (os.fstat(stream.fileno()) for stream in (sys.stdout, sys.stderr))
    except (OSError, ValueError):
        return False
    return os.path.samestat(out, err)


def write_file(file: Path, text: str) -> None:
    """Writes a file that a user named, whole or not at all. Raises InvalidUse when it cannot be written."""
    if str(file) == "-":
        raise InvalidUse("-o needs the name of a file, and - is none. Name a file.")
    target = file.resolve()
    if target.exists() and not target.is_file():
        raise InvalidUse(f"{file} is no regular file. Name another file.")
    try:
        # Records may bring lone surrogates, which UTF-8 does not have.
        put(str(target), text.encode(errors="replace"))
    except OSError as error:
        raise InvalidUse(f"{file} cannot be written: {error.strerror}. Name another file.") from error


def print_json(value: Any) -> None:
    """A JSON value to stdout."""
    click.echo(json.dumps(value, indent=1, ensure_ascii=False))


def print_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """A table to stdout; columns of numbers are set right. On a terminal it is folded as `text_table` says."""
    header, *lines = table_lines(columns, rows, width=terminal_width())
    click.secho(header, bold=True)
    for line in lines:
        click.echo(line)


def print_pairs(pairs: Sequence[Sequence[object]]) -> None:
    """Names with their values to stdout, indented; on a terminal a long value goes on below itself."""
    for line in pair_lines(pairs, width=terminal_width()):
        click.echo(line)


def terminal_width() -> int | None:
    """Columns of the terminal that stdout is; None: it is none, and nothing is folded."""
    return shutil.get_terminal_size().columns if sys.stdout and sys.stdout.isatty() else None


def print_store_calls(calls: dict[str, int]) -> None:
    """The store calls that planning took, as `--verbose` tells them."""
    counts = ", ".join(f"{count} {kind}" for kind, count in calls.items() if count) or "none"
    say(f"Store calls for planning: {counts} ({sum(calls.values())} in all).")
