"""The store as a cell uses it: `ObjectFiles`, which retries with exponential back-off, and `FolderFiles`, a folder.

`ObjectFiles` goes through obstore, `FolderFiles` takes the shortcuts of a folder.

In a folder an input is linked instead of copied, an output is renamed into place, and a read is a read: some ten system
calls a cell instead of as many trips through obstore's threads. What lies in the store afterwards is the same, ETags
included; one test suite runs over both.

(Longer than most modules: the two offer the same methods, and are read side by side.)
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from batch_pipeline.container.disk import contents, copy, digest, local_error, renamed
from batch_pipeline.container.logger import Logger
from batch_pipeline.wire.durable import NO_SPACE, Seal, is_part, prepared, put, seal_all, sync, write_all
from batch_pipeline.wire.errors import DiskFull, InvalidOutput, StoreFailed
from batch_pipeline.wire.s3 import jittered
from batch_pipeline.wire.store import NotInStore, Store, StoreEntry

T = TypeVar("T")
LOGGER = Logger(__name__)

#: Seconds between the tries of a request that failed for a reason that may pass.
PAUSES = (0.3, 1.5)


@dataclass(frozen=True, kw_only=True)
class Link:
    """An input that is the store's own file: what it was like when it was linked."""

    target: str
    size_bytes: int
    modified_ns: int

    def verify(self) -> None:
        """Raises InvalidOutput when the file is not as it was."""
        try:
            now = os.stat(self.target)
        except FileNotFoundError:
            now = None
        if now is None or (now.st_size, now.st_mtime_ns) != (self.size_bytes, self.modified_ns):
            raise InvalidOutput(
                f"The step changed its input {self.target}. Inputs are read-only, and those of other cells: let the "
                "step work on a copy, and run the same command again: if a step made that input, it makes it again."
            )


@dataclass(frozen=True, kw_only=True)
class StagedFile:
    """A file as it was staged."""

    size_bytes: int
    etag: str
    #: See `Store.version`.
    version: str
    #: In hex; empty when the bytes were not read.
    sha256: str = ""
    link: Link | None = None


class Files(Protocol):
    """Reads and writes a store; a request that fails for a passing reason was tried three times.

    All raise NotInStore for an absent object, DiskFull, and StoreFailed for anything else.
    """

    #: Whether bringing several files at once saves time.
    parallel: bool

    def url_of(self, key: str) -> str:
        """The full URL of a key."""

    def read(self, key: str) -> bytes:
        """The object's bytes."""

    def read_range(self, key: str, start: int, length: int) -> bytes:
        """`length` bytes from `start`; fewer at the object's end."""

    def write(self, key: str, data: bytes, *, synced: bool = True) -> None:
        """Writes the object whole: a reader sees the old bytes or the new ones; after a power cut too, if `synced`."""

    def write_last(self, key: str, data: bytes, others: Sequence[str]) -> Seal | None:
        """Writes an object that vouches for others: after a power cut it is there only if these are.

        What is returned has to be sealed before anybody sees the object.
        """

    def seal(self, seal: Seal) -> None:
        """Waits for the disk, and gives an object its name."""

    def versions_in(self, prefix: str) -> dict[str, str]:
        """Keys directly under a prefix that ends with a slash, each with its version (`Store.version`)."""

    def look(self, key: str) -> tuple[int, str]:
        """Bytes and version (`Store.version`) of an object."""

    def digest(self, key: str) -> tuple[int, str]:
        """Bytes and SHA-256 in hex of an object. Reads it."""

    def keys_below(self, prefix: str) -> list[str]:
        """All keys below a prefix that ends with a slash; in a folder links are keys, and not followed."""

    def delete(self, keys: list[str], *, prune: bool = False) -> None:
        """Removes objects, for good, and with `prune` folders that it leaves empty; absent ones are no error."""

    def withdraw(self, prefix: str) -> None:
        """Sees to it that nothing directly under a prefix that waits to be sealed ever is."""

    def path_in_place(self, key: str) -> tuple[Path, StoreEntry] | None:
        """The file behind a key and what it is like, where the store is a folder; else None."""

    def bring(self, key: str, destination: str | Path, check: Callable[[], None]) -> StagedFile:
        """Puts the object at `destination`, which must not exist; `check` is called between pieces and may raise."""

    def publish(self, path: str | Path, key: str, *, move: bool) -> None:
        """Makes the file the object, whole; afterwards the file may be gone if `move`."""


class FolderFiles:
    """See `Files`. For a store that is a folder."""

    parallel = False

    def __init__(self, store: Store, folder: Path) -> None:
        self._store = store
        self._folder = os.fspath(folder).rstrip("/")

    def url_of(self, key: str) -> str:
        """See `Files.url_of`."""
        return self._store.url_of(key)

    def read(self, key: str) -> bytes:
        """See `Files.read`."""
        try:
            return contents(self._path(key))
        except OSError as error:
            raise self._translated(key, error) from error

    def read_range(self, key: str, start: int, length: int) -> bytes:
        """See `Files.read_range`."""
        try:
            descriptor = os.open(self._path(key), os.O_RDONLY | os.O_CLOEXEC)
            try:
                return os.pread(descriptor, length, start)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise self._translated(key, error) from error

    def write(self, key: str, data: bytes, *, synced: bool = True) -> None:
        """See `Files.write`."""
        try:
            put(self._path(key), data, synced=synced)
        except OSError as error:
            raise self._translated(key, error) from error

    def write_last(self, key: str, data: bytes, others: Sequence[str]) -> Seal:
        """See `Files.write_last`."""
        try:
            return prepared(self._path(key), data, map(self._path, others), self._folder)
        except OSError as error:
            raise self._translated(key, error) from error

    def seal(self, seal: Seal) -> None:
        """See `Files.seal`."""
        error = seal_all([seal])[0]
        if error:
            raise self._translated(seal.target.removeprefix(f"{self._folder}/"), error) from error

    def versions_in(self, prefix: str) -> dict[str, str]:
        """See `Files.versions_in`."""
        versions = {}
        for key in (prefix + name for name in self._names(prefix) if not is_part(name)):
            try:
                versions[key] = self._store.version(self._entry(key, self._stat(key, self._path(key))))
            except NotInStore:
                continue
        return versions

    def look(self, key: str) -> tuple[int, str]:
        """See `Files.look`."""
        entry = self._entry(key, self._stat(key, self._path(key)))
        return entry.size_bytes, self._store.version(entry)

    def digest(self, key: str) -> tuple[int, str]:
        """See `Files.digest`."""
        path = self._path(key)
        size_bytes = self._stat(key, path).st_size
        try:
            return size_bytes, digest(path, size_bytes)
        except OSError as error:
            raise self._translated(key, error) from error

    def keys_below(self, prefix: str) -> list[str]:
        """See `Files.keys_below`."""
        keys, folders = [], [prefix]
        while folders:
            folder = folders.pop()
            try:
                with os.scandir(self._path(folder)) as entries:
                    for entry in entries:
                        if entry.is_dir(follow_symlinks=False):
                            folders.append(f"{folder}{entry.name}/")
                        elif not is_part(entry.name):
                            keys.append(f"{folder}{entry.name}")
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError as error:
                raise self._translated(folder, error) from error
        return keys

    def delete(self, keys: list[str], *, prune: bool = False) -> None:
        """See `Files.delete`."""
        folders = set()
        for key in keys:
            path = self._path(key)
            try:
                os.unlink(path)
                folders.add(os.path.dirname(path))
            except FileNotFoundError:
                pass
            except OSError as error:
                raise self._translated(key, error) from error
        try:
            sync(self._pruned(folders) if prune else folders)
        except OSError as error:
            raise self._translated(keys[0], error) from error

    def withdraw(self, prefix: str) -> None:
        """See `Files.withdraw`."""
        self.delete([prefix + name for name in self._names(prefix) if is_part(name)])

    def path_in_place(self, key: str) -> tuple[Path, StoreEntry] | None:
        """See `Files.path_in_place`."""
        path = self._path(key)
        return Path(path), self._entry(key, self._stat(key, path))

    def bring(self, key: str, destination: str | Path, check: Callable[[], None]) -> StagedFile:
        """See `Files.bring`. Links."""
        path = self._path(key)
        status = self._stat(key, path)
        try:
            os.symlink(path, destination)
        except OSError as error:
            raise local_error(destination, error) from error
        link = Link(target=path, size_bytes=status.st_size, modified_ns=status.st_mtime_ns)
        entry = self._entry(key, status)
        return StagedFile(size_bytes=status.st_size, etag=entry.etag, version=self._store.version(entry), link=link)

    def publish(self, path: str | Path, key: str, *, move: bool) -> None:
        """See `Files.publish`. Renames within a file system."""
        target = self._path(key)
        try:
            if not move or not renamed(os.fspath(path), target):
                copy(os.fspath(path), target)
        except IsADirectoryError as error:
            remedy = "Remove it and run the same command again."
            raise StoreFailed(f"{self.url_of(key)} is a folder, where a file has to be. {remedy}") from error
        except OSError as error:
            raise self._translated(key, error) from error

    def _names(self, prefix: str) -> list[str]:
        try:
            return os.listdir(self._path(prefix))
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise self._translated(prefix, error) from error

    def _pruned(self, folders: Set[str]) -> set[str]:
        """Removes the folders that are empty, and those above that are then; returns which of all these are left."""
        above = {"/".join(folder.split("/")[:length]) for folder in folders for length in range(folder.count("/") + 2)}
        left = set()
        for folder in sorted((one for one in above if len(one) > len(self._folder)), key=len, reverse=True):
            try:
                os.rmdir(folder)
            except FileNotFoundError:
                continue
            except OSError:
                left.add(folder)
        return left

    def _path(self, key: str) -> str:
        return f"{self._folder}/{key}"

    def _stat(self, key: str, path: str) -> os.stat_result:
        try:
            status = os.stat(path)
        except OSError as error:
            raise self._translated(key, error) from error
        if not _is_regular(status):
            raise NotInStore(f"{self.url_of(key)} is no regular file.")
        return status

    @staticmethod
    def _entry(key: str, status: os.stat_result) -> StoreEntry:
        return StoreEntry(key=key, size_bytes=status.st_size, etag=_etag(status))

    def _translated(self, key: str, error: OSError) -> StoreFailed | DiskFull:
        if isinstance(error, (FileNotFoundError, NotADirectoryError, IsADirectoryError)):
            return NotInStore(f"{self.url_of(key)} is not in the store.")
        if error.errno in NO_SPACE:
            return DiskFull(f"No space is left for {self.url_of(key)}. Free some and run the same command again.")
        return StoreFailed(f"{self.url_of(key)}: {error.strerror}. Check the store and the rights on it, run again.")


class ObjectFiles:
    """See `Files`. For S3 and memory."""

    parallel = True

    def __init__(self, store: Store, pauses: Sequence[float] = PAUSES) -> None:
        self._store = store
        self._pauses = pauses

    def url_of(self, key: str) -> str:
        """See `Files.url_of`."""
        return self._store.url_of(key)

    def read(self, key: str) -> bytes:
        """See `Files.read`."""
        return self._with_retries(lambda: self._store.get(key))

    def read_range(self, key: str, start: int, length: int) -> bytes:
        """See `Files.read_range`."""
        return self._with_retries(lambda: self._store.get_range(key, start, length))

    def write(self, key: str, data: bytes, *, synced: bool = True) -> None:
        """See `Files.write`."""
        self._with_retries(lambda: self._store.put(key, data))

    def write_last(self, key: str, data: bytes, others: Sequence[str]) -> None:
        """See `Files.write_last`. What an object store has taken lasts."""
        self.write(key, data)

    def seal(self, seal: Seal) -> None:
        """See `Files.seal`. Has nothing to do."""

    def withdraw(self, prefix: str) -> None:
        """See `Files.withdraw`. Has nothing to do."""

    def versions_in(self, prefix: str) -> dict[str, str]:
        """See `Files.versions_in`."""
        entries = self._with_retries(lambda: list(self._store.list(prefix)))
        return {entry.key: self._store.version(entry) for entry in entries if "/" not in entry.key[len(prefix) :]}

    def look(self, key: str) -> tuple[int, str]:
        """See `Files.look`."""
        entry = self._with_retries(lambda: self._store.head(key))
        return entry.size_bytes, self._store.version(entry)

    def digest(self, key: str) -> tuple[int, str]:
        """See `Files.digest`. Downloads."""
        return self._with_retries(lambda: self._digested(key))

    def keys_below(self, prefix: str) -> list[str]:
        """See `Files.keys_below`."""
        return self._with_retries(lambda: [entry.key for entry in self._store.list(prefix)])

    def delete(self, keys: list[str], *, prune: bool = False) -> None:
        """See `Files.delete`. Has no folders to prune."""
        self._with_retries(lambda: self._store.delete(keys))

    def path_in_place(self, key: str) -> tuple[Path, StoreEntry] | None:
        """See `Files.path_in_place`."""
        return None

    def bring(self, key: str, destination: str | Path, check: Callable[[], None]) -> StagedFile:
        """See `Files.bring`. Downloads, and digests on the way."""
        return self._with_retries(lambda: self._download(key, destination, check))

    def publish(self, path: str | Path, key: str, *, move: bool) -> None:
        """See `Files.publish`. Uploads."""
        self._with_retries(lambda: self._store.put_file(key, Path(path)))

    def _download(self, key: str, destination: str | Path, check: Callable[[], None]) -> StagedFile:
        entry, pieces = self._store.stream(key)
        sha256 = hashlib.sha256()
        size = 0
        try:
            with open(destination, "wb", buffering=0) as file:
                for piece in pieces:
                    check()
                    write_all(file.fileno(), piece)
                    sha256.update(piece)
                    size += len(piece)
        except OSError as error:
            raise local_error(destination, error) from error
        if size != entry.size_bytes:
            raise StoreFailed(f"{self.url_of(key)} broke off after {size} of {entry.size_bytes} bytes. Run again.")
        version = self._store.version(entry)
        return StagedFile(size_bytes=size, etag=entry.etag, version=version, sha256=sha256.hexdigest())

    def _digested(self, key: str) -> tuple[int, str]:
        sha256, size_bytes = hashlib.sha256(), 0
        for piece in self._store.stream(key)[1]:
            sha256.update(piece)
            size_bytes += len(piece)
        return size_bytes, sha256.hexdigest()

    def _with_retries(self, call: Callable[[], T]) -> T:
        """Makes a request, and after transient errors again, with exponential back-off and jitter."""
        for pause in self._pauses:
            try:
                return call()
            except StoreFailed as error:
                if not error.transient:
                    raise
                LOGGER.warning("retrying after a transient store error", pause_seconds=pause, error=error.message)
            time.sleep(jittered(pause))
        return call()


def files_of(store: Store) -> Files:
    """The better of the two for a store."""
    return ObjectFiles(store) if store.folder is None else FolderFiles(store, store.folder)


def _etag(status: os.stat_result) -> str:
    """The ETag that obstore gives a local file: inode, modification time in microseconds and size, in hex."""
    return f"{status.st_ino:x}-{status.st_mtime_ns // 1000:x}-{status.st_size:x}"


def _is_regular(status: os.stat_result) -> bool:
    return status.st_mode & 0o170000 == 0o100000
