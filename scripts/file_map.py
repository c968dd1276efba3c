"""Writes the list of files in ARCHITECTURE.md anew: one line a file, out of the first line of its docstring.

`python -m scripts.file_map` (or `make map`) rewrites the page; a test holds that there is nothing to rewrite. A folder
is a heading with three marks, the sentence below it is written by hand, and so are the lines of files that have no
docstring. New modules of folders that hold the product come in by themselves; files that went go.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "ARCHITECTURE.md"
#: Folders of which every module is listed; of others those that somebody has listed.
_WHOLE = ("batch_pipeline/", "steps/", "examples/", "benchmarks/", "scripts/")
_HEADING = re.compile(r"### `(.*/)`")
_ENTRIES = re.compile(r"(?:^- `[^`\n]+`: .*\n)+", re.MULTILINE)
_ENTRY = re.compile(r"- `([^`]+)`: (.*)")


def mapped(page: str, files: Collection[str]) -> str:
    """The page with the lines of its folders as they should be; `files` are those of the tree."""
    return "".join(_section(text, files) for text in re.split(r"(?m)^(?=#+ )", page))


def _section(text: str, files: Collection[str]) -> str:
    heading = _HEADING.match(text)
    if not heading:
        return text
    folder = heading[1].removeprefix("./")
    return _ENTRIES.sub(lambda found: "".join(_entries(folder, found[0].splitlines(), files)), text)


def _entries(folder: str, lines: Sequence[str], files: Collection[str]) -> Iterator[str]:
    """The lines of one folder, in the order of their names."""
    told = {found[1]: found[2] for found in map(_ENTRY.fullmatch, lines) if found}
    there = {name: text for name, text in told.items() if name.endswith("/") or f"{folder}{name}" in files}
    if folder.startswith(_WHOLE):
        inside = (file.removeprefix(folder) for file in files if file.startswith(folder) and file.endswith(".py"))
        there |= {name: told.get(name, "") for name in inside if "/" not in name}
    for name in sorted(there):
        yield f"- `{name}`: {_sentence(ROOT / folder / name) or there[name]}\n"


def _sentence(path: Path) -> str:
    """The first line of a module's docstring; empty for anything else."""
    if path.suffix != ".py":
        return ""
    return (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").partition("\n")[0]


def tracked() -> frozenset[str]:
    """The files of the tree, new ones included that git does not ignore."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, check=True, text=True).stdout
    return frozenset(name for name in listed.split("\0") if name and (ROOT / name).exists())


def main() -> int:
    """Rewrites the page, and says whether that changed it."""
    before = PAGE.read_text(encoding="utf-8")
    after = mapped(before, tracked())
    PAGE.write_text(after, encoding="utf-8")
    print("ARCHITECTURE.md was up to date." if after == before else "ARCHITECTURE.md: rewritten.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
