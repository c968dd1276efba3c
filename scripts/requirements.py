"""Prints packages of Pipfile.lock for pip, by checksum: `python -m scripts.requirements default cohort multiqc`."""

from __future__ import annotations

import json
import sys
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Final

LOCK: Final = Path(__file__).resolve().parent.parent / "Pipfile.lock"


def requirements(lock: Mapping[str, Mapping[str, Mapping[str, object]]], categories: Collection[str] = ()) -> str:
    """Requirements of some categories of a lock file, or of all, each with its checksums and markers.

    Raises KeyError for a category that the file does not have.
    """
    groups = categories or [group for group in lock if group != "_meta"]
    pinned = {name: package for group in groups for name, package in lock[group].items()}
    return "".join(f"{line}\n" for name in sorted(pinned) if (line := _requirement(name, pinned[name])))


def _requirement(name: str, package: Mapping[str, object]) -> str:
    if "version" not in package:
        return ""
    extras, hashes = package.get("extras") or [], package["hashes"]
    assert isinstance(extras, list)
    assert isinstance(hashes, list)
    named = f"{name}[{','.join(extras)}]" if extras else name
    marker = f" ; {package['markers']}" if "markers" in package else ""
    # pip takes what stands behind the first option for options.
    return " ".join((f"{named}{package['version']}{marker}", *(f"--hash={each}" for each in hashes)))


if __name__ == "__main__":
    sys.stdout.write(requirements(json.loads(LOCK.read_text()), sys.argv[1:]))
