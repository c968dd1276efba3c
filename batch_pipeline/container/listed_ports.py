"""Finds the files of ports that only a cell's receipt lists: those of directories, and those that patterns stand for.

What the step left is refused where it could not be a key of the store, or is no file of its own. What the store holds
of the port, and the step did not make, is `leftovers`: an attempt that was killed while it published left no receipt
that lists it.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from batch_pipeline.container.disk import PRIVATE
from batch_pipeline.container.files import Files
from batch_pipeline.container.publish import output_key
from batch_pipeline.wire import layout
from batch_pipeline.wire.contract import DIRECTORY
from batch_pipeline.wire.durable import is_part, make_folder
from batch_pipeline.wire.errors import ContractBroken, InvalidOutput
from batch_pipeline.wire.file_patterns import files_matching, matches
from batch_pipeline.wire.manifest import InputSpec, Manifest, OutputSpec, Row
from batch_pipeline.wire.receipt import FileRecord, Receipt

if TYPE_CHECKING:
    from batch_pipeline.container.stage import Staged

#: Of one port: the receipt has some 150 bytes and its key on each, and who reads a receipt takes it into memory.
MAX_FILES = 100_000
#: S3 takes 1,024 with the store's prefix: https://docs.aws.amazon.com/AmazonS3/latest/userguide/object-keys.html
_KEY_BYTES = 900


def files_left(manifest: Manifest, row: Row, spec: OutputSpec, work: str) -> list[tuple[str, str]]:
    """The files of a port, sorted by name: relative name, and path of the bytes, which differ for a link.

    Raises InvalidOutput when there is none and the port is not optional, and for what cannot be published.
    """
    wanted = [name.replace("{sample}", row.sample) for name in spec.files]
    names = _names_below(work, wanted[0], spec, manifest.step) if spec.form == DIRECTORY else None
    if names is None:
        names = files_matching(work, wanted)
    missing = next((one for one in wanted if not any(_belongs(name, one) for name in names)), None)
    if missing is not None and not spec.optional:
        what = f"no file in {missing!r}" if spec.form == DIRECTORY else f"no file like {missing!r}"
        raise InvalidOutput(
            f"{manifest.step} ended well but left {what}, its output {spec.port!r}. Outputs are written to the working"
            " directory under their declared names."
        )
    if len(names) > MAX_FILES:
        raise InvalidOutput(
            f"{manifest.step} left more than {MAX_FILES:,} files as its output {spec.port!r}. Pack them: tar or zip."
        )
    root = os.path.realpath(work)
    folders = {folder: os.path.realpath(f"{root}/{folder}") for folder in {name.rpartition("/")[0] for name in names}}
    return [(name, _path(root, name, folders, spec.port, manifest.step)) for name in sorted(names)]


def leftovers(manifest: Manifest, row: Row, files: Files) -> set[str]:
    """Keys of all files of the cell's listed ports that the store holds, whoever made them. Raises StoreFailed."""
    keys: set[str] = set()
    for spec in manifest.outputs:
        # Beside what was built of a reference lies what people put there, which a pattern may match.
        if not spec.form or (spec.form != DIRECTORY and manifest.scope == "reference"):
            continue
        for wanted in (name.replace("{sample}", row.sample) for name in spec.files):
            folder = f"{_fixed(wanted)}/" if _fixed(wanted) else ""
            before = output_key(manifest, row, "")
            below = files.keys_below(f"{before}{folder}")
            keys |= {key for key in below if _belongs(key.removeprefix(before), wanted)}
    return keys


def listed_records(spec: InputSpec, sample: str, receipt: Receipt) -> Iterator[tuple[str, FileRecord]]:
    """The files of an upstream cell's port, sorted by key, each with its name below the port's folder.

    That of a directory begins with the directory's last name. Raises ContractBroken for a receipt that names others.
    """
    folder = spec.files[0].replace("{sample}", sample) if spec.form == DIRECTORY else ""
    before = layout.result(spec.step, sample, folder)
    for record in sorted(receipt.outputs, key=lambda record: record.key):
        if record.port != spec.output or not record.key.startswith(before):
            continue
        name = record.key.removeprefix(before)
        if not all(part not in ("", ".", "..") for part in name.split("/")):
            raise ContractBroken(f"The receipt of {spec.step} for {sample} names {record.key!r}, which is no result.")
        yield (f"{_last_name(folder)}/{name}" if folder else name), record


def make_input_folders(manifest: Manifest, row: Row, staged: Staged, folder: str) -> None:
    """Makes and notes the folders of input ports that read a directory: it may have no files. Raises OSError."""
    for spec in (spec for spec in manifest.inputs if spec.form == DIRECTORY):
        port = f"{folder}/in-{spec.port}"
        if spec.kind == "gather":
            samples = staged.gathered_files[spec.port]
            staged.gathered_folders[spec.port] = {one: _made(spec, f"{port}/{one}", one) for one in samples}
        else:
            sample = layout.COHORT if spec.kind == "cohort" else row.at.get(spec.step, row.sample)
            staged.input_folders[spec.port] = _made(spec, port, sample)


def _made(spec: InputSpec, port: str, sample: str) -> Path:
    path = f"{port}/{_last_name(spec.files[0].replace('{sample}', sample))}"
    make_folder(path, PRIVATE)
    return Path(path)


def _last_name(directory: str) -> str:
    """Under which name a directory is staged: the last of its path."""
    return directory.rstrip("/").rpartition("/")[2]


def _names_below(work: str, folder: str, spec: OutputSpec, step: str) -> list[str]:
    """The names below a directory, relative to `work`; links are not followed."""
    names: list[str] = []
    folders = [folder.rstrip("/")]
    if os.path.realpath(f"{work}/{folders[0]}") != f"{os.path.realpath(work)}/{folders[0]}":
        raise InvalidOutput(f"{step} left a link as {folder!r}, its output {spec.port!r}; it must be a directory.")
    while folders and len(names) <= MAX_FILES:
        folder = folders.pop()
        try:
            with os.scandir(f"{work}/{folder}") as entries:
                for entry in entries:
                    (folders if entry.is_dir(follow_symlinks=False) else names).append(f"{folder}/{entry.name}")
        except FileNotFoundError:
            continue
        except NotADirectoryError as error:
            raise InvalidOutput(
                f"{step} left a file as {folder!r}, its output {spec.port!r}; it must be a directory."
            ) from error
    return names


def _path(root: str, name: str, folders: Mapping[str, str], port: str, step: str) -> str:
    """Where the bytes of a file lie: elsewhere if it, or its folder, is a link.

    `folders` are the real paths of folders. Raises InvalidOutput for what cannot be published.
    """
    what = f"{name!r} in its output {port!r}"
    for part in name.split("/"):
        if not part.isprintable() or part != part.strip() or is_part(part):
            raise InvalidOutput(
                f"{step} left {what}, which cannot be a key of the store: names are UTF-8 without control characters,"
                " without blanks at their ends, and do not end in #digits. Let the step rename it."
            )
    if len(name.encode()) > _KEY_BYTES:
        raise InvalidOutput(f"{step} left {what}, whose name is too long for a key: at most {_KEY_BYTES} bytes.")
    folder, _, last = name.rpartition("/")
    path = f"{folders[folder].rstrip('/')}/{last}"
    real = os.path.realpath(path) if os.path.islink(path) else path
    if not real.startswith(f"{root}/") or not os.path.exists(real):
        raise InvalidOutput(
            f"{step} left {what}, a link to {real}, which is not a file in the working directory."
            " Let the step copy what it means."
        )
    mode = os.stat(real).st_mode
    if not stat.S_ISREG(mode):
        kind = "link to a folder" if stat.S_ISDIR(mode) else "special file"
        raise InvalidOutput(f"{step} left {what}, a {kind}; only files are published. Let the step remove it.")
    return real


def _fixed(wanted: str) -> str:
    """The folders of a directory, or of a pattern before its first wildcard."""
    if wanted.endswith("/"):
        return wanted.rstrip("/")
    parts = wanted.split("/")[:-1]
    wild = next((number for number, part in enumerate(parts) if set(part) & set("*?[")), len(parts))
    return "/".join(parts[:wild])


def _belongs(name: str, wanted: str) -> bool:
    """Whether a name lies below a directory, or is one that a pattern stands for."""
    return name.startswith(wanted) if wanted.endswith("/") else matches(name, wanted)
