"""Copies objects between stores: by the store itself where both are in one bucket, else through this machine.

Each object is there whole or not at all, so a command given again after a kill copies only those that are missing. What
comes through this machine is digested on the way and compared with what it must be; what S3 copies itself is compared
by size. Large objects on their way to S3 lie in the temporary folder, eight at most.
"""

from __future__ import annotations

import errno
import hashlib
import os
import tempfile
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import obstore
from obstore.exceptions import BaseError

from batch_pipeline.records.listing import FileKeys, entries_of
from batch_pipeline.wire.digest import sha256_of_bytes
from batch_pipeline.wire.errors import DiskFull, StoreFailed
from batch_pipeline.wire.store import NotInStore, Store

#: Objects that are copied at once.
AT_ONCE: Final = 8
#: Bytes up to which an object is held in memory.
SMALL: Final = 8 << 20
NO_SPACE: Final = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True, kw_only=True)
class FileToCopy:
    """One object to copy."""

    #: In the source, and below the target's prefix.
    key: str
    size_bytes: int
    #: What it must be; empty: unknown.
    sha256: str = ""


class Transfer:
    """Copies files from one store to below a prefix of another. Raises StoreFailed when that cannot be listed."""

    def __init__(self, source: Store, target: Store, files: Sequence[FileToCopy], prefix: str = "") -> None:
        self._source = source
        self._target = target
        self._prefix = prefix
        self._bucket = _one_bucket(source, target)
        self._files = files
        keys = FileKeys(f"{prefix}{file.key}" for file in files)
        entries = chain.from_iterable(entries_of(target, keys, etags=False))
        #: Key and size of the files that the target has.
        self.there = {entry.key.removeprefix(prefix): entry.size_bytes for entry in entries}

    def copy_all(self, on_copied: Callable[[FileToCopy], None]) -> list[FileToCopy]:
        """Copies those that are not there yet, several at once; each with its SHA-256, as far as anybody knows it.

        Raises StoreFailed for an object that is gone or another one by now.
        """
        missing = [file for file in self._files if self.there.get(file.key) != file.size_bytes]
        done = {file.key: file for file in self._files}
        with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="transfer") as pool:
            try:
                for file in pool.map(self._copy, missing):
                    done[file.key] = file
                    on_copied(file)
            finally:
                pool.shutdown(wait=True, cancel_futures=True)
        return list(done.values())

    def _copy(self, file: FileToCopy) -> FileToCopy:
        if self._bucket is not None and self._copied_there(file, self._bucket):
            return file
        try:
            return replace(file, sha256=self._copied_through(file))
        except NotInStore as error:
            raise StoreFailed(f"{self._source.url_of(file.key)} is gone. See `verify`, and make it again.") from error

    def _copied_there(self, file: FileToCopy, bucket: Store) -> bool:
        """Whether S3 copied it; not what it takes for too large, or may not read and write at once."""
        source, target = (_below(store.url, key) for store, key in self._ends(file))
        try:
            obstore.copy(bucket.backend, source, target)
        except (BaseError, OSError):
            return False
        if self._target.head(self._prefix + file.key).size_bytes == file.size_bytes:
            return True
        raise StoreFailed(
            f"{self._source.url_of(file.key)} has not the {file.size_bytes:,} bytes that it must have. See `verify`."
        )

    def _ends(self, file: FileToCopy) -> tuple[tuple[Store, str], tuple[Store, str]]:
        return (self._source, file.key), (self._target, self._prefix + file.key)

    def _copied_through(self, file: FileToCopy) -> str:
        """Copies through this machine; the SHA-256 of what went through. What is not as it must be is not written."""
        to = self._prefix + file.key
        if file.size_bytes <= SMALL:
            data = self._source.get(file.key)
            sha256 = self._held(file, len(data), sha256_of_bytes(data))
            self._target.put(to, data)
            return sha256
        with self._place_for(to) as path:
            digest, size = hashlib.sha256(), 0
            _, pieces = self._source.stream(file.key)
            with path.open("wb") as spooled:
                for piece in pieces:
                    digest.update(piece)
                    size += len(piece)
                    spooled.write(piece)
            sha256 = self._held(file, size, digest.hexdigest())
            final = self._target.path_of(to)
            if final is None:
                self._target.put_file(to, path)
            else:
                os.replace(path, final)
        return sha256

    @contextmanager
    def _place_for(self, key: str) -> Iterator[Path]:
        """A file of this machine for what is on its way: beside the target where that is a folder.

        Bytes of one object cannot flow into another directly: obstore's streams do not nest.
        """
        final = self._target.path_of(key)
        # Listings leave out names that end so, as those of objects that somebody still writes.
        place = tempfile.gettempdir() if final is None else final
        try:
            path = _spool() if final is None else _part(final)
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                yield path
            finally:
                path.unlink(missing_ok=True)
        except OSError as error:
            if error.errno in NO_SPACE:
                raise DiskFull(f"No space is left for {place}. Free some and run the same command again.") from error
            raise StoreFailed(f"{place} cannot be written: {error.strerror}. Check the rights on it.") from error

    def _held(self, file: FileToCopy, size_bytes: int, sha256: str) -> str:
        """The SHA-256, when a file is what it must be. Raises StoreFailed."""
        if size_bytes == file.size_bytes and file.sha256 in ("", sha256):
            return sha256
        raise StoreFailed(
            f"{self._source.url_of(file.key)} is not what it must be: {size_bytes:,} bytes with SHA-256 {sha256}, not"
            f" {file.size_bytes:,} with {file.sha256 or 'any'}. See `verify`, and make it again."
        )


def _spool() -> Path:
    """A new file in the temporary folder that nobody else may read."""
    handle, path = tempfile.mkstemp(prefix="transfer-")
    os.close(handle)
    return Path(path)


def _part(path: Path) -> Path:
    return path.with_name(f"{path.name}#{uuid.uuid4().int % 10**12}")


def _one_bucket(source: Store, target: Store) -> Store | None:
    """The bucket that both stores are in, whole."""
    one, other = urlsplit(source.url), urlsplit(target.url)
    if one.scheme != "s3" or (one.scheme, one.netloc) != (other.scheme, other.netloc):
        return None
    return source.beside(f"s3://{one.netloc}")


def _below(url: str, key: str) -> str:
    """A key as the bucket has it."""
    prefix = urlsplit(url).path.strip("/")
    return f"{prefix}/{key}" if prefix else key
