"""`python3 -m batch_pipeline.container.put FILE…`: puts files where a driver's script writes; idempotent.

Writes to S3 or a folder, for scripts in any language: shells and R need no library for S3. Folders are put with all
that is in them. What is there already with the same bytes is left alone: a driver that was interrupted and runs again
changes nothing that its jobs read.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from batch_pipeline.wire.contract import ContainerExit, Variable
from batch_pipeline.wire.digest import sha256_of_file
from batch_pipeline.wire.errors import BatchPipelineError
from batch_pipeline.wire.store import NotInStore, Store, open_store


def put(names: Sequence[str], url: str) -> None:
    """Puts files below a URL, each under its own name. Raises StoreFailed, DiskFull."""
    store = open_store(url, create="://" not in url)
    for path, key in (pair for name in names for pair in _files(Path(name))):
        if not _is_there(store, key, path):
            store.put_file(key, path)
        print(store.url_of(key))


def _is_there(store: Store, key: str, path: Path) -> bool:
    """Whether the object has the file's bytes."""
    try:
        if store.head(key).size_bytes != path.stat().st_size:
            return False
        digest = hashlib.sha256()
        for piece in store.stream(key)[1]:
            digest.update(piece)
        return digest.hexdigest() == sha256_of_file(path)
    except NotInStore:
        return False


def _files(path: Path) -> Iterator[tuple[Path, str]]:
    if not path.is_dir():
        yield path, path.name
        return
    inside = sorted(file for file in path.rglob("*") if file.is_file())
    yield from ((file, str(Path(path.name) / file.relative_to(path))) for file in inside)


def main(names: Sequence[str], url: str) -> int:
    """The command; returns the exit code."""
    if not names or not url:
        print(
            f"usage: python3 -m batch_pipeline.container.put FILE…   ({Variable.OUTPUT_URL} says where)",
            file=sys.stderr,
        )
        return ContainerExit.USAGE
    missing = [name for name in names if not Path(name).exists()]
    if missing:
        print(f"{missing[0]} is not there; nothing was put. Check the name.", file=sys.stderr)
        return ContainerExit.MISSING_INPUT
    try:
        put(names, url)
    except BatchPipelineError as error:
        print(error.message, file=sys.stderr)
        return ContainerExit.STORE_UNREACHABLE
    return ContainerExit.DONE


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], os.environ.get(Variable.OUTPUT_URL, "")))
