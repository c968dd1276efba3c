"""Matches names of files against patterns (glob), component by component as a shell does; `**` means no more than `*`.

A `*` stands for no slash, and a name that begins with a dot is matched only by a pattern that does so too.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase
from pathlib import Path


def matches(name: str, pattern: str) -> bool:
    """Whether a relative name is one that the pattern stands for."""
    names, patterns = name.split("/"), pattern.split("/")
    return len(names) == len(patterns) and all(map(_is_match, names, patterns))


def files_matching(folder: str | Path, patterns: Iterable[str]) -> list[str]:
    """The relative names of the files below a folder that one of the patterns stands for, sorted; folders are none."""
    return sorted({name for pattern in patterns for name in _matching(os.fspath(folder), "", pattern)})


def _matching(folder: str, before: str, pattern: str) -> Iterator[str]:
    part, _, rest = pattern.partition("/")
    try:
        with os.scandir(f"{folder}/{before}") as entries:
            chosen = [(entry.name, entry.is_dir()) for entry in entries if _is_match(entry.name, part)]
    except (FileNotFoundError, NotADirectoryError):
        return
    for name, is_folder in chosen:
        if rest and is_folder:
            yield from _matching(folder, f"{before}{name}/", rest)
        elif not rest and not is_folder:
            yield f"{before}{name}"


def _is_match(part: str, pattern: str) -> bool:
    return fnmatchcase(part, pattern) and (pattern.startswith(".") or not part.startswith("."))
