"""Files that are the same for every sample: fetched once a host, whichever of its containers comes first.

A cached file lies under a digest of its key and ETag, so a new version of a reference never meets an old one. It is
downloaded under a lock, to another name, checked and renamed: who finds it finds it whole. A folder's are
used in place.
"""

from __future__ import annotations

import fcntl
import os
import time
from functools import partial
from pathlib import Path, PurePosixPath

from batch_pipeline.container.disk import PRIVATE, local_error, make_folder
from batch_pipeline.container.files import Files
from batch_pipeline.container.stage import Stop, in_parallel
from batch_pipeline.wire.digest import fingerprint_of
from batch_pipeline.wire.errors import MissingInput
from batch_pipeline.wire.manifest import ReferenceSpec
from batch_pipeline.wire.store import NotInStore

#: Seconds between two looks at a lock that another container of the host holds.
_LOOK_AGAIN = 0.2


def stage_references(specs: tuple[ReferenceSpec, ...], files: Files, cache: str) -> dict[str, Path]:
    """Port -> file, for all references of a step. Raises MissingInput, DiskFull, StoreFailed, StepInterrupted."""
    if not specs:
        return {}
    stop = Stop()
    calls = [partial(_reference, spec, files, Path(cache), stop) for spec in specs]
    found = in_parallel(calls, at_once=files.parallel, stop=stop)
    return {spec.port: path for spec, path in zip(specs, found, strict=True)}


def _reference(spec: ReferenceSpec, files: Files, cache: Path, stop: Stop) -> Path:
    try:
        in_place = files.path_in_place(spec.key)
        if in_place is None:
            return _cached(spec, files, cache, stop)
    except NotInStore as error:
        raise MissingInput(
            f"{files.url_of(spec.key)} is not there. Build or upload the reference, and run again."
        ) from error
    path, entry = in_place
    _verify(spec, files, entry.size_bytes, entry.etag)
    return path


def _cached(spec: ReferenceSpec, files: Files, cache: Path, stop: Stop) -> Path:
    folder = cache / fingerprint_of([files.url_of(spec.key), spec.etag])
    path = folder / PurePosixPath(spec.key).name
    try:
        if _is_whole(path, spec):
            return path
        make_folder(os.fspath(folder), PRIVATE)
        lock = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            _lock(lock, stop)
            if not _is_whole(path, spec):
                _download(spec, files, path, stop)
        finally:
            os.close(lock)
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
    finally:
        part.unlink(missing_ok=True)


def _is_whole(path: Path, spec: ReferenceSpec) -> bool:
    try:
        return path.stat().st_size == spec.size_bytes
    except FileNotFoundError:
        return False


def _verify(spec: ReferenceSpec, files: Files, size_bytes: int, etag: str) -> None:
    if (size_bytes, etag) != (spec.size_bytes, spec.etag or etag):
        raise MissingInput(f"{files.url_of(spec.key)} changed since it was planned; run the same command again.")


def _lock(descriptor: int, stop: Stop) -> None:
    """Waits for the lock; looks again and again, since a thread that the kernel keeps waiting cannot be stopped."""
    while True:
        stop.check()
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            time.sleep(_LOOK_AGAIN)
