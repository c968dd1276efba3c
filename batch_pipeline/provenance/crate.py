"""Exports a run as an RO-Crate: a folder or a zip with its records, its code, its results, and metadata about all.

    ro-crate-metadata.json  README.md  workflow/…  code/…  run/…  results/…  cohort/…  receipts/…

`run/` has the run's records and `driver.log`, the log of its drivers (`records.driver_log`), joined.

The metadata (`crate_metadata`) are written last. What a receipt vouches for is digested on the way: a file that is
not what its receipt says is not exported. With `results` false the crate names the results' URLs instead.
"""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol
from urllib.parse import quote

from batch_pipeline.provenance.crate_metadata import DRIVER_LOG, METADATA, README, Member, metadata
from batch_pipeline.records.driver_log import read_driver_log
from batch_pipeline.records.record import RunRecord
from batch_pipeline.records.removals import Removal
from batch_pipeline.records.results import results_of
from batch_pipeline.wire import layout
from batch_pipeline.wire.errors import InvalidUse, StoreFailed
from batch_pipeline.wire.receipt import FileRecord, Receipt
from batch_pipeline.wire.store import NotInStore, Store

_README: Final = """# Run {run_id} of {pipeline}

What this run was, what it read and what it made: an RO-Crate (Workflow Run Crate). `ro-crate-metadata.json` describes
every file, with sizes and SHA-256. `workflow/` has the file that wires the steps, `code/` the steps as they ran, `run/`
the run's record and the log of its drivers, `receipts/` what each cell did, `results/` and `cohort/` what was made.
"""
#: Of a run's folder: file -> what it is.
_RECORDS: Final = {
    "run.json": "The run's record: who, when, with what",
    "plan.json": "The plan: what each step's results depend on, and the jobs",
    "samples.tsv": "The list of samples as read",
    "config.json": "The settings as merged",
    "diff.patch": "What was changed since the commit",
    "end.json": "How it ended",
    "failed.json": "Cells that failed, and why",
}


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What was written."""

    place: str
    files: int
    size_bytes: int
    #: Cells of the run that have no results.
    left_out: int
    #: Temporary files that are not in it, for they were removed after use; their records are.
    removed: int = 0


class Target(Protocol):
    """Where a crate is written to."""

    def write(self, name: str, pieces: Iterable[bytes]) -> None:
        """Writes one file."""


def export(store: Store, run: RunRecord, to: str, *, results: bool = True) -> Exported:
    """Writes the crate of a run to a new folder or zip.

    Raises InvalidUse for a place that is taken, StoreFailed for a result that is not what its receipt says.
    """
    with _opened(Path(to).expanduser()) as target:
        crate = _Crate(store, target)
        main = crate.records(run)
        outcome = results_of(store, run)
        for receipt in outcome.receipts:
            crate.cell(receipt, outcome.removed, results=results)
        crate.text(README, _README.format(run_id=run.run_id, pipeline=run.pipeline), "What this is")
        document = metadata(run, outcome.receipts, crate.members, crate.places(outcome.receipts), main)
        crate.write(METADATA, [json.dumps(document, indent=1, ensure_ascii=False).encode()])
    return Exported(
        place=to,
        files=crate.files,
        size_bytes=crate.size_bytes,
        left_out=len(outcome.missing),
        removed=len(outcome.removed),
    )


class _Crate:
    """What was written so far."""

    def __init__(self, store: Store, target: Target) -> None:
        self._store = store
        self._target = target
        self.members: list[Member] = []
        self.files = 0
        self.size_bytes = 0
        #: Key of the store -> path in the crate, or URL.
        self._places: dict[str, str] = {}

    def records(self, run: RunRecord) -> str:
        """Writes the run's own files and its code; returns where the workflow is."""
        folder = layout.run_folder(run.run_id)
        for name, description in _RECORDS.items():
            self.copy(f"{folder}{name}", f"run/{name}", description)
        if lines := read_driver_log(self._store, run.run_id):
            self.text(DRIVER_LOG, "".join(f"{line}\n" for line in lines), "What the run's drivers decided, by time")
        self.copy(layout.bundle(run.bundle_sha256), f"code/{run.bundle_sha256}.zip", "The steps' code, as it ran")
        main = f"workflow/{run.workflow_file or 'workflow.py'}"
        # Records of before the wiring was kept have it in the plan.
        return main if self.copy(layout.run_workflow(run.run_id), main, "Wires the steps") else "run/plan.json"

    def cell(self, receipt: Receipt, removed: Mapping[str, Removal], *, results: bool) -> None:
        """Writes a cell's receipt and results; of those that were removed after use the records."""
        key = layout.receipt(receipt.step, receipt.sample, receipt.fingerprint)
        self.copy(key, key, f"Receipt of {receipt.step}, sample {receipt.sample}")
        for record in {one.key: one for output in receipt.outputs if (one := removed.get(output.key))}.values():
            names = ", ".join(file["key"] for file in record.files)
            self.copy(record.key, record.key, f"{names}: {record.words}")
        for output in (one for one in receipt.outputs if one.key not in removed):
            self._places[output.key] = quote(output.key) if results else self._store.url_of(output.key)
            if results:
                self._verified(output)

    def places(self, receipts: Iterable[Receipt]) -> dict[str, str]:
        """Where everything is that receipts name, sources by their URLs."""
        places = dict(self._places)
        for receipt in receipts:
            for file in receipt.inputs:
                if file.key not in places:
                    places[file.key] = file.key if "://" in file.key else self._store.url_of(file.key)
        return places

    def copy(self, key: str, name: str, description: str) -> bool:
        """Copies an object of the store, if it is there: whether it is."""
        try:
            data = self._store.get(key)
        except NotInStore:
            return False
        self._add(name, data, description)
        return True

    def text(self, name: str, text: str, description: str) -> None:
        """Writes a text of our own."""
        self._add(name, text.encode(), description)

    def write(self, name: str, pieces: Iterable[bytes]) -> str:
        """Writes a file, counts it and returns its SHA-256."""
        digest = hashlib.sha256()

        def counted() -> Iterator[bytes]:
            for piece in pieces:
                digest.update(piece)
                self.size_bytes += len(piece)
                yield piece

        self._target.write(name, counted())
        self.files += 1
        return digest.hexdigest()

    def _add(self, name: str, data: bytes, description: str) -> None:
        sha256 = self.write(name, [data])
        self.members.append(Member(place=quote(name), description=description, size_bytes=len(data), sha256=sha256))

    def _verified(self, output: FileRecord) -> None:
        _, pieces = self._store.stream(output.key)
        if self.write(output.key, pieces) != output.sha256:
            raise StoreFailed(
                f"{self._store.url_of(output.key)} is not what its receipt says. See `verify`, and make it again."
            )


class _Folder:
    """See `Target`."""

    def __init__(self, root: Path) -> None:
        self._folder = root

    def write(self, name: str, pieces: Iterable[bytes]) -> None:
        """See `Target.write`."""
        path = self._folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            for piece in pieces:
                file.write(piece)


class _Zip:
    """See `Target`."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self._archive = archive

    def write(self, name: str, pieces: Iterable[bytes]) -> None:
        """See `Target.write`."""
        with self._archive.open(name, "w", force_zip64=True) as file:
            for piece in pieces:
                file.write(piece)


@contextmanager
def _opened(path: Path) -> Iterator[Target]:
    """The place, which must be new. A zip that was not finished leaves nothing."""
    if path.suffix == ".zip":
        if path.exists():
            raise InvalidUse(f"{path} is there already. Choose another name, or remove it.")
        part = path.with_name(f".{path.name}.part")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with zipfile.ZipFile(part, "w", compression=zipfile.ZIP_DEFLATED) as archive:
                yield _Zip(archive)
            os.replace(part, path)
        except OSError as error:
            raise _unwritable(path, error) from error
        finally:
            part.unlink(missing_ok=True)
        return
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise InvalidUse(f"{path} is there already and not an empty folder. Choose another, or remove it.")
    try:
        path.mkdir(parents=True, exist_ok=True)
        yield _Folder(path)
    except OSError as error:
        raise _unwritable(path, error) from error


def _unwritable(path: Path, error: OSError) -> StoreFailed:
    return StoreFailed(f"{path} cannot be written: {error.strerror}. Choose another place.")
