"""Folders of one user alone, in places that several users share: scratch of processes, caches, state.

Whoever can write to a folder decides what lies in it, and what is read from there is run with our rights. So in a
shared place ($TMPDIR, /scratch) each user has a folder, and neither that nor a folder of state is used before it was
seen to be this user's, and that nobody else may write to it:

    {root}/batch_pipeline-{uid}/
        cache/                              bundles and references, for all processes of this user here
        {boot}-{host}-{random}/             scratch of one process, which holds a lock on it while it lives

Scratch whose lock can be had is that of a process that was killed, and `sweep` removes it. Locks are the kernel's, so
this holds over containers, servers and versions; what another machine left on a shared disk is left alone, for not
every file system tells machines of each other's locks, and where a file system has no locks nothing is swept.
"""

from __future__ import annotations

import fcntl
import os
import re
import stat
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from batch_pipeline.wire.contract import METADATA, Variable
from batch_pipeline.wire.digest import sha256_of_bytes
from batch_pipeline.wire.errors import UnsafeFolder

#: Scratch of our images: a volume with room, mounted by the job definition.
DEFAULT_ROOT = "/scratch"
#: What others may not have on a folder that is trusted.
_WRITABLE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH
_PRIVATE = 0o700
_BOOT = "/proc/sys/kernel/random/boot_id"
#: Digits that tell one boot, host or process from another.
_DIGITS = 8
#: Names that earlier versions gave: caches, emptied folders, attempts and drivers by the id of their job.
_EARLIER = re.compile(r"\.references|\.spare-\d+|(driver-)?[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}(-\d+)?_\d+")
_REMEDY = f"Set {Variable.SCRATCH} or TMPDIR to another folder"


def scratch_root(environment: Mapping[str, str]) -> str:
    """The place for scratch: as told, else /scratch where it can be written, else the temporary folder."""
    folder = environment.get(Variable.SCRATCH)
    if folder:
        return folder
    if os.access(DEFAULT_ROOT, os.W_OK | os.X_OK):
        return DEFAULT_ROOT
    return environment.get("TMPDIR") or "/tmp"


def own_folder(root: str, remedy: str = _REMEDY) -> str:
    """This user's folder in a place that others may use too; made when it is not there.

    Raises UnsafeFolder when others could write to it or exchange it, OSError when it cannot be made.
    """
    folder = private_folder(_own(root), remedy)
    mode = os.stat(root).st_mode
    # A machine of ECS is one account's, and its disk may be as its owner likes.
    if mode & stat.S_IWOTH and not mode & stat.S_ISVTX and METADATA not in os.environ:
        raise UnsafeFolder(
            f"{root} may be written by everybody and has no sticky bit, so anybody could exchange what is there."
            f" {remedy}, or have its owner run: chmod +t {root}"
        )
    return folder


def own_name() -> str:
    """Name of this user's folder in such places."""
    return f"batch_pipeline-{os.geteuid()}"


def _own(root: str) -> str:
    return f"{root}/{own_name()}"


def private_folder(folder: str | Path, remedy: str) -> str:
    """Makes a folder, or sees that one that is there is this user's alone. Raises UnsafeFolder, OSError.

    `remedy` is what names another place, as the beginning of a sentence.
    """
    try:
        try:
            os.mkdir(folder, _PRIVATE)
        except FileNotFoundError:
            _make_parents(Path(folder))
            os.mkdir(folder, _PRIVATE)
    except FileExistsError:
        require_private(folder, remedy)
    return os.fspath(folder)


def folder_beside(folder: Path, name: str) -> Path:
    """Where state is kept beside other state: in the same folder where that is this user's, else in the other."""
    place = folder.parent / name
    there = next(each for each in (place, *place.parents) if each.exists())
    return place if there.stat().st_uid == os.geteuid() else folder / name


def _make_parents(folder: Path) -> None:
    """Makes the folders above one; none may be written by others, whatever the umask."""
    for parent in reversed([each for each in folder.parents if not each.exists()]):
        try:
            os.mkdir(parent, 0o755)
        except FileExistsError:
            pass  # Another process was faster.


def require_private(folder: str | Path, remedy: str) -> None:
    """Sees that a folder is this user's, and that nobody else may write to it. Raises UnsafeFolder, OSError."""
    status = os.lstat(folder)
    me = os.geteuid()
    if not stat.S_ISDIR(status.st_mode):
        what = "is a link" if stat.S_ISLNK(status.st_mode) else "is no folder"
        mend = "remove it"
    elif status.st_uid != me:
        what = f"belongs to {_name(status.st_uid)}"
        mend = "ask its owner to remove it"
    elif status.st_mode & _WRITABLE_BY_OTHERS:
        what = f"may be written by others (mode {stat.S_IMODE(status.st_mode):04o})"
        mend = f"look at what others put there and run: chmod go-w {folder}"
    else:
        return
    raise UnsafeFolder(
        f"{folder} {what}; it must be a folder of {_name(me)} that no other user may write to, because what lies there "
        f"is trusted. {remedy}, or {mend}"
    )


def _name(uid: int) -> str:
    import pwd

    try:
        return f"{pwd.getpwuid(uid).pw_name} (uid {uid})"
    except KeyError:
        return f"uid {uid}"


class Scratch:
    """The folder of this process below a root, held by a lock for as long as the process lives or until `close`."""

    def __init__(self, root: str) -> None:
        """Makes it. Raises UnsafeFolder, OSError."""
        self._own = own_folder(root)
        while not self._made():
            pass

    def _made(self) -> bool:
        """Whether a new folder was made and locked before a sweep of another process could take it."""
        self.path = f"{self._own}/{'-'.join(_machine())}-{os.urandom(_DIGITS // 2).hex()}"
        os.mkdir(self.path, _PRIVATE)
        try:
            self._lock = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        status = os.fstat(self._lock)
        self._facts = (status.st_dev, status.st_ino)
        if _locked(self._lock) is not False and self._is_there():
            return True
        self.forget()
        return False

    def _is_there(self) -> bool:
        try:
            status = os.lstat(self.path)
        except FileNotFoundError:
            return False
        return (status.st_dev, status.st_ino) == self._facts

    def is_intact(self) -> bool:
        """Whether it is still there, and still in a folder that is this user's alone. Raises UnsafeFolder."""
        if not self._is_there():
            return False
        require_private(self._own, _REMEDY)
        return True

    def forget(self) -> None:
        """Gives the lock up, and leaves the folder to whoever sweeps."""
        os.close(self._lock)

    def close(self) -> None:
        """Removes it."""
        remove_tree(self.path)
        self.forget()


def sweep(root: str) -> list[str]:
    """Removes the scratch of this user's processes that were killed; returns what was removed.

    Raises UnsafeFolder. A folder that cannot be removed whole is left for the next sweep.
    """
    own = _own(root)
    try:
        names = os.listdir(own)
    except FileNotFoundError:
        return []
    require_private(own, _REMEDY)
    return [path for name in names if _is_ours(name) and _swept(path := f"{own}/{name}")]


def left_by_earlier_versions(root: str) -> list[str]:
    """What versions without folders of one user left of this user's: caches, and scratch of processes that were killed.

    Nothing tells whether any of it is in use, so nobody but its user may remove it.
    """
    try:
        with os.scandir(root) as entries:
            known = [entry for entry in entries if _EARLIER.fullmatch(entry.name)]
        return sorted(each.path for each in known if each.stat(follow_symlinks=False).st_uid == os.geteuid())
    except FileNotFoundError:
        return []


def _swept(path: str) -> bool:
    try:
        lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        if _locked(lock):
            remove_tree(path)
        return not os.path.lexists(path)
    finally:
        os.close(lock)


def _is_ours(name: str) -> bool:
    """Whether a name is that of scratch of this machine: of this boot, in whichever container, or an earlier one."""
    boot, host = _machine()
    parts = name.split("-")
    return len(parts) == 3 and (parts[0] == boot or parts[1] == host)


@cache
def _machine() -> tuple[str, str]:
    """This boot of the kernel, and the host's name, as digits."""
    try:
        boot = Path(_BOOT).read_text().strip()
    except OSError:
        boot = ""
    return (boot or "0" * _DIGITS)[:_DIGITS], sha256_of_bytes(os.uname().nodename.encode())[:_DIGITS]


def _locked(descriptor: int) -> bool | None:
    """Whether a lock was had on a folder; None where the file system has none."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def remove_tree(path: str | Path) -> None:
    """Removes a folder and all in it, whatever its permissions; links are not followed. An absent one is no error."""
    try:
        os.rmdir(path)
        return
    except OSError:
        # There is something in it: more often than not there is nothing.
        pass
    try:
        _remove_inside(os.fspath(path))
        os.rmdir(path)
    except OSError:
        if not os.path.lexists(path):
            return
        # A tool took away its own rights, or still writes: once more with the careful and slow one.
        for folder, _, _ in os.walk(path):
            os.chmod(folder, 0o700)
        import shutil

        shutil.rmtree(path, ignore_errors=True)


def _remove_inside(folder: str) -> None:
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                _remove_inside(entry.path)
                os.rmdir(entry.path)
            else:
                os.unlink(entry.path)
