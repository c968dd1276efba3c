"""Prints: tables and JSON on stdout, talk on stderr. rich is imported when a table is printed, not before."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import click

from batch_pipeline.wire.durable import put
from batch_pipeline.wire.errors import InvalidUse

#: Width of tables that are not printed to a terminal: a file or pipe must not cut them.
WIDE: Final = 400


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
    target = file.resolve()
    if target.exists() and not target.is_file():
        raise InvalidUse(f"{file} is no regular file. Name another file.")
    try:
        put(str(target), text.encode())
    except OSError as error:
        raise InvalidUse(f"{file} cannot be written: {error.strerror}. Name another file.") from error


def print_json(value: Any) -> None:
    """A JSON value to stdout."""
    click.echo(json.dumps(value, indent=1, ensure_ascii=False))


def print_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """A table to stdout; columns of numbers are set right."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold", show_edge=False)
    for position, column in enumerate(columns):
        numbers = bool(rows) and all(isinstance(row[position], int) for row in rows)
        table.add_column(column, justify="right" if numbers else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(f"{cell:,}" if isinstance(cell, int) else str(cell)) for cell in row))
    terminal = sys.stdout.isatty()
    console = Console(file=sys.stdout, width=None if terminal else WIDE, highlight=False)
    with console.capture() as captured:
        console.print(table)
    for line in captured.get().rstrip("\n").split("\n"):
        click.echo(line.rstrip())


def print_store_calls(calls: dict[str, int]) -> None:
    """The store calls that planning took, as `--verbose` tells them."""
    counts = ", ".join(f"{count} {kind}" for kind, count in calls.items() if count) or "none"
    say(f"Store calls for planning: {counts} ({sum(calls.values())} in all).")
