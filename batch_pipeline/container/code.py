"""The code of a job: a bundle by its digest, kept as it came and unpacked by each process for itself.

What a process runs is what the digest says at that moment: the archive's bytes are compared with it whenever they are
read, be they cached or fetched, and they are unpacked into the process's own scratch. A process that runs many cells
compares, before each, what the kernel says of the files and folders with what it said when they were unpacked: a file
that was changed, exchanged or added in between has the code unpacked again. Archives are not trusted: no member leaves
the folder.
"""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Callable
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from batch_pipeline.container.disk import local_error
from batch_pipeline.container.fetch import fetched
from batch_pipeline.container.files import Files
from batch_pipeline.container.host_cache import cached_bytes
from batch_pipeline.container.logger import Logger
from batch_pipeline.wire.errors import ContractBroken
from batch_pipeline.wire.scratch import remove_tree

if TYPE_CHECKING:
    import zipfile

LOGGER = Logger(__name__)


class Code:
    """A bundle in the scratch of this process."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        #: Each file and folder, with what the kernel said of it.
        self._facts: list[tuple[str, tuple[int, ...]]] = []

    def unpacked(self, read: Callable[[], bytes]) -> str:
        """The folder with exactly the bundle; unpacked from `read` when it is not there, or not as it was unpacked.

        Raises ContractBroken for an archive that is broken or hostile, DiskFull, StoreFailed, and what `read` raises.
        """
        if self._facts:
            try:
                if all(_facts_of(path) == facts for path, facts in self._facts):
                    return self._folder
            except FileNotFoundError:
                pass
            LOGGER.warning(f"The code in {self._folder} was changed after it was unpacked; it is unpacked again.")
            self._facts = []
        data = read()
        remove_tree(self._folder)
        try:
            unpack(data, Path(self._folder))
        except OSError as error:
            raise local_error(self._folder, error) from error
        paths = [name for folder, _, files in os.walk(self._folder) for name in (folder, *_joined(folder, files))]
        self._facts = [(path, _facts_of(path)) for path in paths]
        return self._folder


def _joined(folder: str, names: list[str]) -> list[str]:
    return [f"{folder}/{name}" for name in names]


def _facts_of(path: str) -> tuple[int, ...]:
    """What differs once a file was written to, exchanged or given other rights, or a folder has other entries."""
    status = os.lstat(path)
    return status.st_ino, status.st_mode, status.st_uid, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def bundle_bytes(files: Files, key: str, sha256: str, cache_root: str) -> bytes:
    """The archive of this digest: from this user's cache, else from the store; what is in a folder is read there.

    Raises UnsafeFolder, MissingInput, ContractBroken, DiskFull, StoreFailed.
    """
    if not files.parallel:
        return fetched(files, key, sha256)
    return cached_bytes("bundle.zip", sha256, cache_root, partial(fetched, files, key, sha256))


def unpack(data: bytes, folder: Path) -> None:
    """Unpacks a zip into a new folder, executable bits included. Raises ContractBroken, OSError."""
    import zipfile

    os.makedirs(folder)
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for member in archive.infolist():
                _unpack_member(archive, member, folder)
    except (zipfile.BadZipFile, FileExistsError, NotImplementedError, EOFError, RuntimeError) as error:
        raise ContractBroken(f"The bundle is no sound zip archive ({error}). Submit again.") from error


def _unpack_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo, folder: Path) -> None:
    name = PurePosixPath(member.filename.replace("\\", "/"))
    if name.is_absolute() or ".." in name.parts or not name.parts:
        raise ContractBroken(f"The bundle's member {member.filename!r} would leave its folder. Build the bundle again.")
    mode = member.external_attr >> 16
    if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise ContractBroken(f"The bundle's member {member.filename!r} is neither file nor folder. Build it again.")
    target = folder.joinpath(*name.parts)
    if member.is_dir():
        target.mkdir(parents=True, exist_ok=True)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("xb") as file:
        file.write(archive.read(member))
    os.chmod(target, 0o755 if mode & 0o111 else 0o644)
