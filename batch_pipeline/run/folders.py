"""Folders of this machine that jobs in containers read besides the store: of samples' own files, and a reference's.

The embedded Batch gives them to the containers under the same paths, to be read only.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Final
from urllib.parse import unquote, urlsplit

from batch_pipeline.pipeline.columns import named_files
from batch_pipeline.records.request import Request

#: A sheet may name files in a folder for each sample; then it is the folder above all.
MOST: Final = 8


def local_folders(request: Request) -> tuple[str, ...]:
    """The folders, none below another; empty where jobs do not run in containers of this machine."""
    if request.settings.backend.name != "embedded" or not request.settings.embedded.container:
        return ()
    folders = sorted(set(_named(request)))
    if len(folders) > MOST:
        folders = [os.path.commonpath(folders)]
    return tuple(each for each in folders if not any(each.startswith(f"{other.rstrip('/')}/") for other in folders))


def _named(request: Request) -> Iterator[str]:
    if path := local_path(request.sources):
        yield path
    for url in request.reference_files.values():
        if path := local_path(url):
            yield os.path.dirname(path)
    sources = [source for node in request.graph for source in node.sources.values() if source.all_columns]
    names = {name for source in sources for sample in request.samples for _, _, name in named_files(source, sample)}
    for name in names:
        if path := local_path(name):
            yield os.path.dirname(path)
    beside = local_path(request.sheet_folder or "")
    for folder in {os.path.dirname(name) for name in names if beside and "://" not in name and name[:1] != "/"}:
        if os.path.isdir(path := os.path.normpath(f"{beside}/{folder}")):
            yield path


def local_path(place: str) -> str:
    """The path that a place names, if it is one of this machine: a `file:` URL or an absolute path."""
    if place.startswith("file://"):
        return os.path.normpath(unquote(urlsplit(place).path))
    return os.path.normpath(place) if place.startswith("/") else ""
