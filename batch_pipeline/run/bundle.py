"""Packs the pipeline's code into a zip that is the same for the same bytes, named by its digest.

The bundle holds the code of all steps (`pipeline.code`), nothing else: names sorted, times fixed, modes reduced to
"executable or not". It is uploaded only when its digest is new, and the digest goes into each job.
"""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from batch_pipeline.pipeline.code import code_of
from batch_pipeline.pipeline.workflow import Graph
from batch_pipeline.wire import layout
from batch_pipeline.wire.digest import sha256_of_bytes
from batch_pipeline.wire.store import Store

#: The earliest time that a zip can hold.
_EPOCH = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """A packed bundle."""

    sha256: str
    data: bytes
    #: Its files, from the pipeline's folder.
    names: tuple[Path, ...] = ()

    @property
    def key(self) -> str:
        """Its key in the store."""
        return layout.bundle(self.sha256)


def make_bundle(graph: Graph) -> Bundle:
    """Packs the code of all steps of a graph. Raises InvalidPipeline for a file that is missing."""
    return pack(graph.root, {name for node in graph for name in code_of(type(node.step), graph.root)})


def pack(root: Path, names: Iterable[Path], texts: Mapping[str, bytes] = MappingProxyType({})) -> Bundle:
    """Packs files of a folder, and texts by the names that they are to have. Raises OSError."""
    names = sorted(names)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression=zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            archive.writestr(_member(root, name), (root / name).read_bytes())
        for text, content in sorted(texts.items()):
            archive.writestr(_member(root, Path(text)), content)
    data = buffer.getvalue()
    return Bundle(sha256=sha256_of_bytes(data), data=data, names=tuple(names))


def upload(bundle: Bundle, store: Store) -> str:
    """Makes sure that the bundle is in the store and returns its URL."""
    store.put_if_absent(bundle.key, bundle.data)
    return store.url_of(bundle.key)


def _member(root: Path, name: Path) -> zipfile.ZipInfo:
    member = zipfile.ZipInfo(name.as_posix(), date_time=_EPOCH)
    member.compress_type = zipfile.ZIP_DEFLATED
    member.create_system = 3  # Unix, on every machine: the mode below is read only then
    member.external_attr = (0o100755 if os.access(root / name, os.X_OK) else 0o100644) << 16
    return member
