"""What the container does to the host's own disk: whole files or none, moves instead of copies, and cleaning up."""

from __future__ import annotations

import errno
import itertools
import os
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TypeVar

from batch_pipeline.wire.digest import sha256_of_bytes, sha256_of_file
from batch_pipeline.wire.errors import DiskFull, StoreFailed
from batch_pipeline.wire.scratch import own_name
from batch_pipeline.wire.toolchain import process_umask

T = TypeVar("T")

#: What the kernel says when a disk or a quota is full.
NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT})
#: The rights on scratch and caches: their user's alone, whatever the umask.
PRIVATE = 0o700
_SMALL = 1 << 16
_PIECE = 1 << 14
_COUNTER = itertools.count()


def local_error(path: str | Path, error: OSError) -> DiskFull | StoreFailed:
    """Our error for one of the host's own disk."""
    if error.errno in NO_SPACE:
        # Of all processes the same, so that what failed alike is told once.
        place = "".join(os.fspath(path).partition(own_name())[:2])
        return DiskFull(f"No space is left for {place}. Give the job a larger scratch volume, or run fewer at once.")
    return StoreFailed(f"{path} cannot be written: {error.strerror}. Check the scratch folder of this host.")


def put_by(path: str, spare: str) -> bool:
    """Whether a folder that holds only files and flat folders of files is now `spare`, its folders empty.

    Making and removing inodes is what a small cell pays most for on ext4: it looks for one not freed lately.
    """
    try:
        mode = os.lstat(path).st_mode
        with os.scandir(path) as entries:
            for entry in entries:
                if not entry.is_dir(follow_symlinks=False):
                    os.unlink(entry.path)
                elif entry.stat(follow_symlinks=False).st_mode != mode or not _emptied(entry.path):
                    return False
        os.rename(path, spare)
    except OSError:
        return False
    return True


def _emptied(folder: str) -> bool:
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                return False
            os.unlink(entry.path)
    return True


def make_folder(path: str, mode: int = 0o777) -> None:
    """Makes a folder that most often is not there, in one that most often is. One that is there is no error.

    It has the rights `mode` that the umask leaves, and so have the folders above it that are made.
    """
    try:
        os.mkdir(path, mode)
    except FileExistsError:
        pass
    except FileNotFoundError:
        make_folder(os.path.dirname(path), mode)
        make_folder(path, mode)


def digest(path: str, size_bytes: int) -> str:
    """SHA-256 of a file in hex; a small one is read at once."""
    if size_bytes > _SMALL:
        return sha256_of_file(Path(path))
    return sha256_of_bytes(contents(path))


def contents(path: str) -> bytes:
    """The bytes of a file, with as few calls to the kernel as that takes: most files that a cell reads are small."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        pieces = []
        while piece := os.read(descriptor, _PIECE):
            pieces.append(piece)
    finally:
        os.close(descriptor)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def _part(path: str) -> str:
    """Where a file is written before it gets its name. obstore's listings leave out names that end in `#digits`."""
    return f"{path}#{os.getpid()}{time.time_ns()}{next(_COUNTER)}"


def is_part(name: str) -> bool:
    """Whether a file of this name is one that somebody still writes, or never finished."""
    head, mark, digits = name.rpartition("#")
    return bool(head and mark) and digits.isdigit()


def _in_folder(path: str, act: Callable[[], T]) -> T:
    """Does what creates `path`, making its folder if that is missing: most often it is there."""
    try:
        return act()
    except FileNotFoundError:
        make_folder(path.rpartition("/")[0])
        return act()


def _shared(mode: int) -> int:
    """The rights on an output that is published: others may what the owner may, as far as the umask lets them.

    That is for a file of its owner's alone. A tool that writes a temporary file and renames it leaves one; any other
    rights are as the tool wants them.
    """
    mode &= 0o777
    return mode if mode & 0o077 else mode | (mode >> 6) * 0o11 & ~_umask()


def _share(path: str) -> None:
    """Gives a file its `_shared` rights, unless it is somebody else's: a tool may run as another user."""
    found = os.stat(path)
    if not found.st_mode & 0o077 and found.st_uid == os.geteuid():
        os.chmod(path, _shared(found.st_mode))


@cache
def _umask() -> int:
    """Looked up once: a process keeps its umask."""
    return process_umask()


def renamed(path: str, target: str) -> bool:
    """Whether the file could be renamed, with the rights of its new place: not into another file system."""
    try:
        _share(path)
        _in_folder(target, lambda: os.replace(path, target))
    except OSError as error:
        if error.errno == errno.EXDEV:
            return False
        raise
    return True


def copy(path: str, target: str) -> None:
    """Copies a file so that a reader of `target` sees the old bytes or the new ones."""
    import shutil

    part = _part(target)
    try:
        _in_folder(target, lambda: open(part, "xb").close())
        shutil.copyfile(path, part)
        os.chmod(part, _shared(os.stat(path).st_mode))
        os.replace(part, target)
    except OSError:
        _forget(part)
        raise


def put(target: str, data: bytes) -> None:
    """Writes a file so that a reader of it sees the old bytes or the new ones."""
    part = _part(target)
    create = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    try:
        descriptor = _in_folder(target, lambda: os.open(part, create, 0o666))
        try:
            write_all(descriptor, data)
        finally:
            os.close(descriptor)
        os.replace(part, target)
    except OSError:
        _forget(part)
        raise


def write_all(descriptor: int, data: bytes) -> None:
    """Writes all of it, in as many calls as that takes."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def _forget(part: str) -> None:
    try:
        os.unlink(part)
    except OSError:
        pass
