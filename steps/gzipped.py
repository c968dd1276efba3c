"""Gzip files: how to know one, and how to write one whose bytes depend on its content alone."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

#: First bytes of every gzip, and so of every BGZF and BAM.
GZIP_MAGIC: Final = b"\x1f\x8b"


@contextmanager
def gzip_writer(path: Path) -> Iterator[gzip.GzipFile]:
    """Opens a gzip for writing, without a name and a time in its header: the same content makes the same bytes."""
    with path.open("wb") as raw, gzip.GzipFile(filename="", fileobj=raw, mode="wb", compresslevel=6, mtime=0) as zipped:
        yield zipped
