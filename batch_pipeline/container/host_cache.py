"""The cache of a host: what many of its containers read alike is fetched once, by whichever comes first.

A reference lies there as a file (`reference`). A bundle, and the manifest and rows of an array, are bytes whose SHA-256
is known before they are read: they are fetched under a lock, while the other containers wait, and compared with that
digest whenever they are read.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from batch_pipeline.container.disk import PRIVATE, contents, local_error
from batch_pipeline.container.logger import Logger
from batch_pipeline.container.parallel import Stop
from batch_pipeline.wire.contract import Variable
from batch_pipeline.wire.digest import sha256_of_bytes
from batch_pipeline.wire.durable import make_folder, put
from batch_pipeline.wire.scratch import own_folder

LOGGER = Logger(__name__)
#: Seconds between two looks at a lock that another container of the host holds.
_LOOK_AGAIN = 0.2


def cache_folder(root: str) -> str:
    """This user's cache below a root, which the first process of a host makes. Raises UnsafeFolder, StoreFailed."""
    try:
        return f"{own_folder(root, f'Set {Variable.CACHE} to another folder')}/cache"
    except OSError as error:
        raise local_error(root, error) from error


def cached_bytes(name: str, sha256: str, cache_root: str, fetch: Callable[[], bytes]) -> bytes:
    """The bytes of this digest from the cache, where `fetch` puts them first; `name` says what they are.

    A cache that cannot be read or written (its disk is full) is done without. Raises UnsafeFolder, StoreFailed, and
    what `fetch` raises.
    """
    folder = Path(cache_folder(cache_root), "objects", sha256.lower())
    path = f"{folder}/{name}"
    data = None
    try:
        data = _read(path, sha256)
        if data is None:
            with locked(folder, Stop()):
                data = _read(path, sha256)
                if data is None:
                    data = fetch()
                    put(path, data)
    except OSError as error:
        LOGGER.warning(f"{name} is read without the cache. {local_error(path, error).message}")
    return fetch() if data is None else data


def _read(path: str, sha256: str) -> bytes | None:
    """A cached object; None: it is not there, or not what it should be."""
    try:
        data = contents(path)
    except FileNotFoundError:
        return None
    if sha256_of_bytes(data) == sha256.lower():
        return data
    LOGGER.warning(f"{path} does not have its SHA-256; it is fetched again.")
    return None


@contextmanager
def locked(folder: Path, stop: Stop) -> Iterator[None]:
    """Holds the lock of a folder of the cache, which is made. Waits for it, and can be stopped."""
    make_folder(os.fspath(folder), PRIVATE)
    descriptor = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        _lock(descriptor, stop)
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int, stop: Stop) -> None:
    """Waits for the lock; looks again and again, since a thread that the kernel keeps waiting cannot be stopped."""
    while True:
        stop.check()
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            time.sleep(_LOOK_AGAIN)
