"""Files that are the same for every sample: fetched once a host, whichever of its containers comes first.

A cached file lies in this user's cache, under a digest of its key and ETag, so a new version of a reference never meets
an old one. It is downloaded under a lock, to another name, checked and renamed, and what the kernel says of it is noted
beside it: who finds it as noted finds it whole and unchanged, without reading gigabytes. Where a port has several, hard
links to them lie in one folder, for tools that look for one beside another. A folder's are used in place.
"""

from __future__ import annotations

import json
import os
import posixpath
import stat
from collections.abc import Mapping
from functools import partial
from pathlib import Path, PurePosixPath

from batch_pipeline.container.disk import PRIVATE, contents, local_error
from batch_pipeline.container.files import Files
from batch_pipeline.container.host_cache import cache_folder, locked
from batch_pipeline.container.logger import Logger
from batch_pipeline.container.parallel import Stop, in_parallel
from batch_pipeline.wire.digest import fingerprint_of
from batch_pipeline.wire.durable import make_folder, put
from batch_pipeline.wire.errors import MissingInput
from batch_pipeline.wire.manifest import ReferenceSpec
from batch_pipeline.wire.store import NotInStore

LOGGER = Logger(__name__)


def stage_references(specs: tuple[ReferenceSpec, ...], files: Files, cache_root: str) -> dict[str, tuple[Path, ...]]:
    """Port -> files in the order of `specs`, for all references of a step. Those of a port lie as in the store.

    Raises UnsafeFolder, MissingInput, DiskFull, StoreFailed, StepInterrupted.
    """
    if not specs:
        return {}
    stop = Stop()
    calls = [partial(_reference, spec, files, cache_root, stop) for spec in specs]
    paths = in_parallel(calls, at_once=files.parallel, stop=stop)
    by_port: dict[str, dict[ReferenceSpec, Path]] = {}
    for spec, path in zip(specs, paths, strict=True):
        by_port.setdefault(spec.port, {})[spec] = path
    return {port: _side_by_side(staged, files, cache_root) for port, staged in by_port.items()}


def _reference(spec: ReferenceSpec, files: Files, cache_root: str, stop: Stop) -> Path:
    try:
        in_place = files.path_in_place(spec.key)
        if in_place is None:
            return _cached(spec, files, Path(cache_folder(cache_root), "references"), stop)
    except NotInStore as error:
        raise MissingInput(
            f"{files.url_of(spec.key)} is not there. Build or upload the reference, and run again."
        ) from error
    path, entry = in_place
    _verify(spec, files, entry.size_bytes, entry.etag)
    return path


def _side_by_side(staged: Mapping[ReferenceSpec, Path], files: Files, cache_root: str) -> tuple[Path, ...]:
    """The files of a port where they lie to each other as in the store: cached ones are linked into one folder."""
    if len(staged) == 1 or files.path_in_place(next(iter(staged)).key) is not None:
        return tuple(staged.values())
    cache = Path(cache_folder(cache_root), "references")
    folder = cache / fingerprint_of([[files.url_of(spec.key), spec.etag] for spec in staged])
    above = posixpath.commonpath([posixpath.dirname(spec.key) for spec in staged])
    links = {folder / PurePosixPath(spec.key).relative_to(above): path for spec, path in staged.items()}
    try:
        if not all(_is_linked(*link) for link in links.items()):
            with locked(folder, Stop()):
                for link, path in links.items():
                    _link(link, path)
    except OSError as error:
        raise local_error(folder, error) from error
    return tuple(links)


def _is_linked(link: Path, path: Path) -> bool:
    """Whether two names are those of one file."""
    try:
        return os.path.samestat(link.lstat(), path.lstat())
    except FileNotFoundError:
        return False


def _link(link: Path, path: Path) -> None:
    if _is_linked(link, path):
        return
    make_folder(os.fspath(link.parent), PRIVATE)
    part = link.with_name(f".{link.name}.part")
    part.unlink(missing_ok=True)
    os.link(path, part)
    os.replace(part, link)


def _cached(spec: ReferenceSpec, files: Files, cache: Path, stop: Stop) -> Path:
    folder = cache / fingerprint_of([files.url_of(spec.key), spec.etag])
    path = folder / PurePosixPath(spec.key).name
    try:
        if _is_as_noted(path, spec):
            return path
        with locked(folder, stop):
            if not _is_as_noted(path, spec):
                if path.exists():
                    LOGGER.warning(f"{path} is not as it was fetched; it is fetched again.")
                _download(spec, files, path, stop)
    except OSError as error:
        raise local_error(path, error) from error
    return path


def _download(spec: ReferenceSpec, files: Files, path: Path, stop: Stop) -> None:
    part = path.with_name(f".{path.name}.part")
    part.unlink(missing_ok=True)
    try:
        brought = files.bring(spec.key, part, stop.check)
        _verify(spec, files, brought.size_bytes, brought.etag)
        os.chmod(part, 0o444)
        os.replace(part, path)
        put(_note(path), json.dumps(_facts_of(path)).encode())
    finally:
        part.unlink(missing_ok=True)


def _note(path: Path) -> str:
    return f"{path.parent}/.{path.name}.json"


def _facts_of(path: Path) -> dict[str, int]:
    status = path.lstat()
    return {
        "uid": status.st_uid,
        "mode": status.st_mode,
        "inode": status.st_ino,
        "size_bytes": status.st_size,
        "modified_ns": status.st_mtime_ns,
    }


def _is_as_noted(path: Path, spec: ReferenceSpec) -> bool:
    """Whether a file is there, this user's, of its size and as it was when it was fetched."""
    try:
        facts = _facts_of(path)
        noted = json.loads(contents(_note(path)))
    except (FileNotFoundError, ValueError):
        return False
    own = facts["uid"] == os.geteuid() and stat.S_ISREG(facts["mode"])
    return own and facts["size_bytes"] == spec.size_bytes and facts == noted


def _verify(spec: ReferenceSpec, files: Files, size_bytes: int, etag: str) -> None:
    if (size_bytes, etag) != (spec.size_bytes, spec.etag or etag):
        raise MissingInput(f"{files.url_of(spec.key)} changed since it was planned; run the same command again.")
