"""Durable files: they appear whole, and those that vouch for others outlast a power cut only together with these.

A file system may write names before bytes, and a later file before an earlier one: after a power cut a receipt could
stand beside results that are empty. So a file gets its name when its bytes, and the files that it vouches for, are on
the disk. Many small ones share the wait: each is a `Seal`, and `seal_all` does what all of them need at once.
"""

from __future__ import annotations

import errno
import itertools
import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar

T = TypeVar("T")

#: What the kernel says when a disk or a quota is full.
NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT})
#: Up to so many files and folders are synced one by one, and nobody waits for what others write. Of more, the whole
#: file system is: that takes one commit of its journal instead of one each.
_ONE_BY_ONE = 12
_COUNTER = itertools.count()


@dataclass(frozen=True, kw_only=True)
class Seal:
    """A file that is written and has no name yet, and what must be on the disk before it gets it."""

    part: str
    target: str
    #: Files, and the folders that hold their names.
    others: tuple[str, ...] = ()


def is_part(name: str) -> bool:
    """Whether a file of this name is one that somebody still writes, or never finished."""
    head, mark, digits = name.rpartition("#")
    return bool(head and mark) and digits.isdigit()


def put(target: str, data: bytes, *, synced: bool = False) -> None:
    """Writes a file so that a reader of it sees the old bytes or the new ones; after a power cut too, if `synced`."""
    _whole(target, lambda part: _write(part, data, synced), os.replace, synced)


def put_new(target: str, data: bytes) -> bool:
    """Writes a file, synced, unless there is one: whether it did. Of several callers at once one is told True."""

    def name(part: str, target: str) -> None:
        os.link(part, target)
        os.unlink(part)

    try:
        _whole(target, lambda part: _write(part, data, True), name, True)
    except FileExistsError:
        return False
    return True


def put_copy(target: str, path: str, *, mode: int | None = None, synced: bool = False) -> None:
    """Makes a file a copy of another one, as `put`; `mode` are its rights, if not those that the umask leaves."""
    _whole(target, lambda part: _copy(part, path, mode, synced), os.replace, synced)


def prepared(target: str, data: bytes, others: Iterable[str], root: str) -> Seal:
    """Writes a file without giving it its name yet; `others` are the files below `root` that it vouches for."""
    part = _part(target)
    try:
        in_folder(target, lambda: _write(part, data, False))
    except OSError:
        _forget(part)
        raise
    wanted = dict.fromkeys(others)
    wanted.update(dict.fromkeys(folder for path in tuple(wanted) for folder in _folders(path, root)))
    return Seal(part=part, target=target, others=tuple(wanted))


def seal_all(seals: Sequence[Seal]) -> list[OSError | None]:
    """Brings to the disk what they wait for and gives them their names; what went wrong with each, or None.

    A part that is gone was taken away by whoever has replaced what it vouches for.
    """
    try:
        sync(dict.fromkeys(path for one in seals for path in (*one.others, one.part)))
    except OSError:
        # One by one, so that what ails one of them harms no other.
        return [_sealed(one) for one in seals]
    return [_named(one) for one in seals]


def sync(paths: Iterable[str]) -> None:
    """Brings files and folders to the disk. Raises OSError."""
    wanted = list(paths)
    if len(wanted) <= _ONE_BY_ONE:
        for path in wanted:
            _on(path, _sync_file)
    else:
        devices = {os.stat(path).st_dev: path for path in wanted}
        for path in devices.values():
            _on(path, _sync_file_system)


def make_folder(path: str, mode: int = 0o777, *, synced: bool = False) -> None:
    """Makes a folder that most often is not there, in one that most often is. One that is there is no error, a file is.

    It has the rights `mode` that the umask leaves, and so have the folders above it that are made.
    """
    above = os.path.dirname(path)
    try:
        is_new = _is_made(path, mode)
    except FileNotFoundError:
        if above == path:
            raise
        make_folder(above, mode, synced=synced)
        # Where no folder can be made, as in /proc, it is not found a second time.
        is_new = _is_made(path, mode)
    if synced and is_new:
        sync((above,))


def _is_made(path: str, mode: int) -> bool:
    """Makes a folder in one that is there; False: it was there before. Raises OSError when it cannot be made."""
    try:
        os.mkdir(path, mode)
    except FileExistsError:
        if not os.path.isdir(path):
            raise
        return False
    return True


def in_folder(path: str, act: Callable[[], T], *, synced: bool = False) -> T:
    """Does what creates `path`, making its folder if that is missing: most often it is there."""
    try:
        return act()
    except FileNotFoundError:
        make_folder(os.path.dirname(path), synced=synced)
        return act()


def write_all(descriptor: int, data: bytes) -> None:
    """Writes all of it, in as many calls as that takes."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def _whole(target: str, fill: Callable[[str], None], rename: Callable[[str, str], object], synced: bool) -> None:
    part = _part(target)
    try:
        in_folder(target, lambda: fill(part), synced=synced)
        rename(part, target)
    except OSError:
        _forget(part)
        raise
    if synced:
        sync((os.path.dirname(target),))


def _part(path: str) -> str:
    """Where a file is written before it gets its name. obstore's listings leave out names that end in `#digits`."""
    return f"{path}#{os.getpid()}{time.time_ns()}{next(_COUNTER)}"


def _write(part: str, data: bytes, synced: bool) -> None:
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        write_all(descriptor, data)
        if synced:
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _copy(part: str, path: str, mode: int | None, synced: bool) -> None:
    import shutil

    open(part, "xb").close()
    shutil.copyfile(path, part)
    if mode is not None:
        os.chmod(part, mode)
    if synced:
        sync((part,))


def _forget(part: str) -> None:
    try:
        os.unlink(part)
    except OSError:
        pass


def _folders(path: str, root: str) -> Iterable[str]:
    """The folders of a file up to `root`, the nearest first: each may be as new as the file."""
    folder, root = os.path.dirname(path), root or "/"
    while len(folder) > len(root):
        yield folder
        folder = os.path.dirname(folder)
    yield root


def _sealed(one: Seal) -> OSError | None:
    try:
        for path in (*one.others, one.part):
            _on(path, _sync_file)
    except OSError as error:
        return _unless_named(one, error)
    return _named(one)


def _named(one: Seal) -> OSError | None:
    try:
        os.rename(one.part, one.target)
    except OSError as error:
        return _unless_named(one, error)
    return None


def _unless_named(one: Seal, error: OSError) -> OSError | None:
    """The error, if it does not come of having been here before."""
    return None if isinstance(error, FileNotFoundError) and os.path.exists(one.target) else error


def _on(path: str, act: Callable[[int], object]) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        act(descriptor)
    finally:
        os.close(descriptor)


def _sync_file(descriptor: int) -> None:
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some file systems in user space have nothing to sync of a folder.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise


def _sync_file_system(descriptor: int) -> None:
    library, ctypes = _library()
    if library.syncfs(descriptor) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


@cache
def _library() -> tuple[Any, Any]:
    import ctypes

    return ctypes.CDLL(None, use_errno=True), ctypes
