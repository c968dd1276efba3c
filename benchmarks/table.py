"""Prints tables and keeps them as JSON beside what the machine was like: benchmarks/results/NAME.json."""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

#: Where `keep` writes, unless told otherwise.
RESULTS = Path(__file__).resolve().parent / "results"
_CONSOLE = Console(width=None if os.isatty(1) else 150, highlight=False)


def say(text: str) -> None:
    """Prints a line."""
    _CONSOLE.print(text, markup=False)


def load() -> str:
    """The machine's load averages."""
    return " ".join(f"{value:.2f}" for value in os.getloadavg())


def machine(versions: Iterable[tuple[str, str]] = ()) -> dict[str, str]:
    """Where it was measured."""
    return {
        "system": platform.platform(terse=True),
        "cpus": str(len(os.sched_getaffinity(0))),
        "python": platform.python_version(),
        **dict(versions),
    }


#: A cell with more characters than these is prose.
WORDY = 40


def show(title: str, header: Sequence[str], rows: Iterable[Sequence[str]], *, notes: Iterable[str] = ()) -> None:
    """Prints a table with notes below."""
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    listed = list(rows)
    for number, name in enumerate(header):
        # Only what is words and not a figure may take several lines.
        wordy = any(len(row[number]) > WORDY for row in listed)
        table.add_column(name, justify="right" if number and not wordy else "left", no_wrap=not wordy)
    for row in listed:
        table.add_row(*row)
    _CONSOLE.print()
    _CONSOLE.print(table)
    for note in notes:
        say(f"  {note}")


def keep(name: str, values: Mapping[str, Any], folder: Path) -> None:
    """Writes the figures of a benchmark."""
    folder.mkdir(parents=True, exist_ok=True)
    stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    text = json.dumps({"at": stamp, "load": load(), **values}, indent=1, default=vars)
    (folder / f"{name}.json").write_text(text + "\n")


def median(values: Iterable[float]) -> float:
    """The median; NaN of nothing."""
    found = list(values)
    return statistics.median(found) if found else float("nan")


def verdict(value: float, most: float, text: str) -> str:
    """A goal and whether it is reached."""
    return f"goal {text}: {'reached' if value <= most else 'MISSED'} ({value:.2f})"
