"""Fetches what a job runs: a bundle by its digest, unpacked once a host, or awslabs' file by its URL.

A bundle's folder is named by its SHA-256, so two versions of a step never share one, and it appears whole: it is
unpacked beside and renamed. Archives are not trusted: no member leaves the folder.
"""

from __future__ import annotations

import io
import os
import stat
import time
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from batch_pipeline.container.disk import PRIVATE, local_error, make_folder, remove_tree
from batch_pipeline.container.files import Files, files_of
from batch_pipeline.container.warm import Warm
from batch_pipeline.wire.digest import sha256_of_bytes
from batch_pipeline.wire.errors import ContractBroken, InvalidConfig, MissingInput
from batch_pipeline.wire.store import NotInStore, open_store

if TYPE_CHECKING:
    import zipfile


def opened(url: str, warm: Warm) -> Files:
    """The store at a URL, opened once a process. Raises ContractBroken, StoreFailed."""

    def make() -> Files:
        try:
            with warm.exported():
                return files_of(open_store(url))
        except InvalidConfig as error:
            raise ContractBroken(error.message) from error

    return warm.keep(f"store {url} {warm.identity if url.startswith('s3:') else ''}", make)


def located(url: str, warm: Warm) -> tuple[Files, str]:
    """The store that holds a full URL (or absolute path), and the key there."""
    if "://" not in url:
        return opened("/", warm), url.lstrip("/")
    parts = urlsplit(url)
    root = "/" if parts.scheme == "file" else f"{parts.scheme}://{parts.netloc}"
    return opened(root, warm), unquote(parts.path).lstrip("/")


def fetched(files: Files, key: str, sha256: str) -> bytes:
    """An object's bytes, checked if a digest is given. Raises MissingInput, ContractBroken, StoreFailed."""
    try:
        data = files.read(key)
    except NotInStore as error:
        raise MissingInput(f"{files.url_of(key)} is not there; it holds the code of this job. Submit again.") from error
    if sha256 and sha256_of_bytes(data) != sha256.lower():
        raise ContractBroken(
            f"{files.url_of(key)} does not have the promised SHA-256 {sha256}: it was replaced. Submit again."
        )
    return data


def bundle_folder(cache: str, sha256: str, fetch: Callable[[], bytes]) -> str:
    """The folder with the unpacked bundle of this digest; fetched and unpacked if this host has none yet.

    Raises ContractBroken for an archive that is broken or hostile, DiskFull, and what `fetch` raises.
    """
    folder = f"{cache}/code/{sha256}"
    if os.path.isdir(folder):
        return folder
    data = fetch()
    part = f"{cache}/code/.{sha256[:16]}-{os.getpid()}-{time.time_ns()}"
    try:
        unpack(data, Path(part))
        try:
            os.rename(part, folder)
        except OSError:
            # Another process of this host was faster; the digest says that its folder is the same.
            if not os.path.isdir(folder):
                raise
    except OSError as error:
        raise local_error(part, error) from error
    finally:
        remove_tree(part)
    return folder


def unpack(data: bytes, folder: Path) -> None:
    """Unpacks a zip into a new folder, executable bits included. Raises ContractBroken, OSError."""
    import zipfile

    make_folder(os.fspath(folder.parent), PRIVATE)
    os.mkdir(folder, PRIVATE)
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
