"""Reads the files of a dataset's area: one that is streamed, or a folder's list. Nothing outside of it is ever opened.

Paths come from the client. Their parts are names and nothing else (`parts_of`). A store that is a folder of this
machine may hold links that a job has put there: it is walked from its root, each part opened without following one, so
that nothing can be exchanged between a look and its use.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from batch_pipeline.access.names import has_control
from batch_pipeline.wire.errors import InvalidUse, StoreFailed
from batch_pipeline.wire.store import NotInStore, Store

MOST_CHARACTERS: Final = 1024
#: Entries of a folder that are shown.
MOST_ENTRIES: Final = 5000
_PIECE: Final = 1 << 20
_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
#: Without waiting for the other end of what is a pipe and no file.
_FILE: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


@dataclass(frozen=True, kw_only=True)
class OpenedFile:
    """A file as it is now. Whoever opened it closes it, read or not."""

    name: str
    size_bytes: int
    #: Another one as soon as the file is another; without quotes.
    etag: str
    #: First byte and the one after the last -> the bytes between.
    pieces: Callable[[int, int], Iterator[bytes]]
    close: Callable[[], None] = lambda: None


@dataclass(frozen=True, kw_only=True)
class Listing:
    """What is right below a folder, by name."""

    folders: Sequence[str]
    #: Name -> bytes.
    files: Sequence[tuple[str, int]]
    #: There is more than is shown.
    cut: bool = False


def parts_of(path: str) -> tuple[str, ...]:
    """The names in a path from an area's root; a slash at its end says that it is a folder's. Raises InvalidUse."""
    parts = tuple(path.removesuffix("/").split("/")) if path else ()
    wrong = any(part in ("", ".", "..") or len(part.encode()) > 255 for part in parts)
    if wrong or len(path) > MOST_CHARACTERS or "\\" in path or has_control(path):
        raise InvalidUse("The path is not names with single slashes between. Follow the links from the folder above.")
    return parts


def open_file(store: Store, parts: Sequence[str]) -> OpenedFile:
    """The file. Raises NotInStore, also for what is no plain file, and StoreFailed."""
    return _in_store(store, parts) if store.folder is None else _in_folder(store.folder, parts)


def list_folder(store: Store, parts: Sequence[str]) -> Listing:
    """The folder. Raises NotInStore when nothing is below it, StoreFailed."""
    if store.folder is None:
        folders, entries = store.children("/".join(parts))
        files = [(entry.key.rsplit("/", 1)[-1], entry.size_bytes) for entry in entries]
    else:
        folders, files = _listed(store.folder, parts)
    if not folders and not files and parts:
        raise NotInStore("There is no such folder.")
    folders = [name for name in folders if not has_control(name)]
    files = [(name, size) for name, size in files if not has_control(name)]
    cut = len(folders) + len(files) > MOST_ENTRIES
    folders, files = sorted(folders)[:MOST_ENTRIES], sorted(files)
    return Listing(folders=folders, files=files[: MOST_ENTRIES - len(folders)], cut=cut)


def _in_store(store: Store, parts: Sequence[str]) -> OpenedFile:
    key = "/".join(parts)
    entry = store.head(key)

    def pieces(start: int, end: int) -> Iterator[bytes]:
        if start >= end:
            return
        now, data = store.stream(key, (start, end))
        if now.etag != entry.etag:
            raise StoreFailed("The file changed while it was read. Ask again.")
        yield from data

    return OpenedFile(name=parts[-1], size_bytes=entry.size_bytes, etag=entry.etag, pieces=pieces)


def _in_folder(root: Path, parts: Sequence[str]) -> OpenedFile:
    with _Walk(root, parts[:-1]) as folder:
        handle = _opened(parts[-1], _FILE, folder)
    status = os.fstat(handle)
    if not stat.S_ISREG(status.st_mode):
        os.close(handle)
        raise NotInStore("It is no plain file.")

    file = open(handle, "rb", buffering=0)  # noqa: SIM115 -- the caller closes it

    def pieces(start: int, end: int) -> Iterator[bytes]:
        file.seek(start)
        while start < end and (piece := file.read(min(_PIECE, end - start))):
            start += len(piece)
            yield piece

    etag = f"{status.st_ino:x}-{status.st_mtime_ns:x}-{status.st_size:x}"
    return OpenedFile(name=parts[-1], size_bytes=status.st_size, etag=etag, pieces=pieces, close=file.close)


def _listed(root: Path, parts: Sequence[str]) -> tuple[list[str], list[tuple[str, int]]]:
    folders: list[str] = []
    files: list[tuple[str, int]] = []
    with _Walk(root, parts) as folder, os.scandir(folder) as entries:
        for entry in entries:
            status = entry.stat(follow_symlinks=False)
            if stat.S_ISDIR(status.st_mode):
                folders.append(entry.name)
            elif stat.S_ISREG(status.st_mode):
                files.append((entry.name, status.st_size))
    return folders, files


class _Walk:
    """Opens a folder by its names, one after another; no link is followed."""

    def __init__(self, root: Path, parts: Sequence[str]) -> None:
        self._root = root
        self._parts = parts
        self._handle = -1

    def __enter__(self) -> int:
        try:
            self._handle = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise NotInStore("The store is not there.") from error
        for part in self._parts:
            above = self._handle
            try:
                self._handle = _opened(part, _FOLDER, above)
            finally:
                os.close(above)
        return self._handle

    def __exit__(self, *_: object) -> None:
        os.close(self._handle)


def _opened(name: str, flags: int, folder: int) -> int:
    """Opens a name below an open folder. Raises NotInStore for what is not there or no such thing, a link among it."""
    try:
        return os.open(name, flags, dir_fd=folder)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise NotInStore("It is not in the store.") from error
    except OSError as error:
        # A link is ELOOP; what may not be read is told like what is not there.
        raise NotInStore("It cannot be opened in the store.") from error
