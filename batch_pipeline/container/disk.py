"""What the container does to the host's own disk: moves instead of copies, rights, and cleaning up."""

from __future__ import annotations

import errno
import os
from functools import cache
from pathlib import Path

from batch_pipeline.wire.digest import sha256_of_bytes, sha256_of_file
from batch_pipeline.wire.durable import NO_SPACE, in_folder, put_copy
from batch_pipeline.wire.errors import DiskFull, StoreFailed
from batch_pipeline.wire.scratch import own_name
from batch_pipeline.wire.toolchain import process_umask

#: The rights on scratch and caches: their user's alone, whatever the umask.
PRIVATE = 0o700
_SMALL = 1 << 16
_PIECE = 1 << 14


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


def _shared(mode: int) -> int:
    """The rights on an output that is published: others may what the owner may, as far as the umask lets them.

    That is for a file of its owner's alone. A tool that writes a temporary file and renames it leaves one; any other
    rights are as the tool wants them.
    """
    mode &= 0o777
    return mode if mode & 0o077 else mode | (mode >> 6) * 0o11 & ~_umask()


def _share(path: str) -> None:
    """Gives a file its `_shared` rights, unless it is somebody else's: a tool may run as another user."""
    status = os.stat(path)
    if not status.st_mode & 0o077 and status.st_uid == os.geteuid():
        os.chmod(path, _shared(status.st_mode))


@cache
def _umask() -> int:
    """Looked up once: a process keeps its umask."""
    return process_umask()


def renamed(path: str, target: str) -> bool:
    """Whether the file could be renamed, with the rights of its new place: not into another file system."""
    try:
        _share(path)
        in_folder(target, lambda: os.replace(path, target))
    except OSError as error:
        if error.errno == errno.EXDEV:
            return False
        raise
    return True


def copy(path: str, target: str) -> None:
    """Copies a file so that a reader of `target` sees the old bytes or the new ones."""
    put_copy(target, path, mode=_shared(os.stat(path).st_mode))
