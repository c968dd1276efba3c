"""Cuts a version: `python -m scripts.release 1.2.0`, or `make release VERSION=1.2.0`, which builds the wheel too.

Writes the number into the package, gives what is unreleased in CHANGELOG.md its heading and date, commits both and tags
the commit. Pushing is left to whoever calls. Refuses, with nothing changed, what could not be undone by forgetting it:
a tree with changes, a number that is none or not higher, a tag that is there, a change log with nothing to release.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

_VERSION = re.compile(r'^__version__ = "(\d+)\.(\d+)\.(\d+)"$', re.MULTILINE)
_UNRELEASED = re.compile(r"^## Unreleased\n\n?(?P<news>.*?)(?=^## |\Z)", re.MULTILINE | re.DOTALL)


class Refused(Exception):
    """Nothing was changed, and why."""


def release(root: Path, version: str, *, today: str) -> str:
    """Commits and tags a version of the tree at `root`; returns the tag. Raises Refused."""
    package, log = root / "batch_pipeline" / "__init__.py", root / "CHANGELOG.md"
    code, news = package.read_text(encoding="utf-8"), log.read_text(encoding="utf-8")
    tag = f"v{version}"
    _require(root, code, news, version, tag)
    package.write_text(_VERSION.sub(f'__version__ = "{version}"', code), encoding="utf-8")
    heading = f"## Unreleased\n\n## {version} ({today})\n\n"
    log.write_text(_UNRELEASED.sub(lambda found: heading + found["news"], news), encoding="utf-8")
    _git(root, "commit", "--quiet", "--message", f"Release {version}", str(package), str(log))
    _git(root, "tag", "--annotate", "--message", f"Release {version}", tag)
    return tag


def _require(root: Path, code: str, news: str, version: str, tag: str) -> None:
    found, before = re.fullmatch(r"(\d+)\.(\d+)\.(\d+)", version), _VERSION.search(code)
    if not found:
        raise Refused(f"{version!r} is no version. Give three numbers: 1.2.0.")
    if not before or tuple(map(int, found.groups())) <= tuple(map(int, before.groups())):
        raise Refused(f"{version} is not higher than the version in batch_pipeline/__init__.py.")
    if _git(root, "status", "--porcelain"):
        raise Refused("The tree has changes that are in no commit. Commit or stash them.")
    if _git(root, "tag", "--list", tag):
        raise Refused(f"There is a tag {tag} already.")
    unreleased = _UNRELEASED.search(news)
    if not unreleased or not unreleased["news"].strip():
        raise Refused("CHANGELOG.md has nothing under `## Unreleased`. Say there what users will notice.")


def _git(root: Path, *words: str) -> str:
    return subprocess.run(["git", *words], cwd=root, check=True, capture_output=True, text=True).stdout.strip()


def main(words: Sequence[str]) -> int:
    """The command; returns the exit code."""
    if len(words) != 1:
        print("usage: make release VERSION=1.2.0", file=sys.stderr)
        return 2
    try:
        tag = release(Path(__file__).resolve().parent.parent, words[0], today=f"{datetime.now(UTC):%Y-%m-%d}")
    except Refused as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{tag} is tagged. Publish it with: git push --follow-tags")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
