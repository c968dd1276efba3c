"""Provenance of a file: its receipt, the run that made it, and what it read, back to files that no step made.

Level by level: the receipts of all cells that a level read are fetched side by side, each cell once. A file that was
made again after it was read cannot be the one that was read: the trace says so instead of showing another.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from batch_pipeline.records.record import RunRecord, read_record
from batch_pipeline.records.removals import Removal
from batch_pipeline.records.results import Cell, maker_of, read_checksums, receipts_and_removed
from batch_pipeline.wire import layout
from batch_pipeline.wire.errors import InvalidUse
from batch_pipeline.wire.receipt import FileRecord, Receipt
from batch_pipeline.wire.store import NotInStore, Store


@dataclass(frozen=True, kw_only=True)
class Maker:
    """The cell that made a file, and its run."""

    step: str
    sample: str
    receipt: Receipt
    #: Key of the receipt.
    receipt_key: str
    #: None: its record was removed.
    run: RunRecord | None
    #: By digest; empty: a process of the machine.
    image: str
    params: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Traced:
    """One file and where it comes from."""

    #: Key in the store, or URL outside it.
    key: str
    port: str
    size_bytes: int
    sha256: str
    etag: str
    #: The cell that made it; None: no step did.
    maker: Cell | None
    #: Why it cannot be followed further; empty: it can, or it is a source.
    problem: str = ""
    #: `removed after use by run …`, of a temporary output; empty otherwise.
    removed: str = ""


@dataclass(frozen=True, kw_only=True)
class Trace:
    """A file's whole history."""

    file: Traced
    #: Every cell that it goes back to, its own first.
    makers: Mapping[Cell, Maker]
    #: Cell -> what it read.
    inputs: Mapping[Cell, Sequence[Traced]]

    @property
    def sources(self) -> list[Traced]:
        """The files that no step made, each once."""
        by_key = {one.key: one for files in self.inputs.values() for one in files if one.maker is None}
        return list(by_key.values())

    @property
    def problems(self) -> list[str]:
        """All that cannot be followed."""
        files = [self.file, *(one for files in self.inputs.values() for one in files)]
        return [f"{one.key}: {one.problem}" for one in files if one.problem]


def trace(store: Store, text: str, *, samples: frozenset[str] | None = None) -> Trace:
    """The history of a file, given by key, path or URL; of a gather's, through these samples alone if any are named.

    Raises InvalidUse for a file that is not of this store, or that no receipt vouches for.
    """
    base, key = _base_of(key_of(store, text))
    if base:
        # A release has the layout of a store.
        store = store.beside(store.url_of(base))
    cell = maker_of(store, key)
    receipts, removed = receipts_and_removed(store, [cell] if cell else [])
    receipt = receipts.get(cell) if cell else None
    if cell is None or receipt is None:
        raise InvalidUse(f"No receipt in {store.url} vouches for {key}. Name a file below results/ or cohort/.")
    output = next((one for one in receipt.outputs if one.key == key), None)
    if output is None:
        known = ", ".join(one.key for one in receipt.outputs[:10])
        raise InvalidUse(f"{key} is no output of {cell[0]}, whose receipt has: {known}.")
    tracer = _Tracer(store, samples)
    tracer.follow(cell, receipt)
    file = _traced(output, cell, removed.get(key))
    return Trace(file=file, makers=tracer.makers, inputs=tracer.inputs)


def key_of(store: Store, text: str) -> str:
    """The key that is meant by a key, a path or a URL. Raises InvalidUse for a URL or path outside the store."""
    url = store.url.rstrip("/") + "/"
    if text.startswith(url):
        return unquote(text.removeprefix(url))
    path = unquote(text.removeprefix("file://")) if text.startswith("file://") else text
    if "://" in path:
        raise InvalidUse(f"{text} is not in the store {store.url}. Name its own with --store.")
    if store.folder is not None:
        whole, folder = Path(path).expanduser().absolute(), store.folder.resolve()
        for one in (whole, whole.resolve()):
            for root in (store.folder, folder):
                if one.is_relative_to(root) and one != root:
                    return one.relative_to(root).as_posix()
    if path.startswith(("/", "~", "./", "../")):
        raise InvalidUse(f"{text} is not in the store {store.url}. Name its own with --store or --bucket-name.")
    return path.strip("/")


def _base_of(key: str) -> tuple[str, str]:
    """The prefix of the release that a key is in, or nothing, and the key below it."""
    parts = key.split("/")
    if key.startswith(layout.RELEASE) and len(parts) > 3:
        return layout.release(parts[1], parts[2]), "/".join(parts[3:])
    return "", key


class _Tracer:
    """Follows receipts back from one cell, and collects makers and inputs."""

    def __init__(self, store: Store, samples: frozenset[str] | None) -> None:
        self._store = store
        self._samples = samples
        self.makers: dict[Cell, Maker] = {}
        self.inputs: dict[Cell, Sequence[Traced]] = {}
        self._runs: dict[str, tuple[RunRecord | None, Mapping[str, Any]]] = {}
        self._receipts: dict[Cell, Receipt | None] = {}
        #: Key of an output that was removed after use -> the record.
        self._removed: dict[str, Removal] = {}
        self._outputs: dict[Cell, Mapping[str, FileRecord]] = {}
        self._of_reference: dict[str, Cell | None] = {}
        self._checksums: dict[str, Mapping[str, str]] = {}

    def follow(self, cell: Cell, receipt: Receipt) -> None:
        """Goes back to the sources, level by level."""
        level = {cell: receipt}
        while level:
            files_read = {one: list(self._read_by(receipt)) for one, receipt in level.items()}
            wanted = {maker for files in files_read.values() for _, maker in files if maker}
            self._fetch([maker for maker in wanted if maker not in self._receipts and maker not in level])
            following: dict[Cell, Receipt] = {}
            for one, receipt in level.items():
                self._receipts[one] = receipt
                self.makers[one] = self._maker(receipt)
            for one, receipt in level.items():
                self.inputs[one] = [self._linked(file, maker, receipt) for file, maker in files_read[one]]
                for file in self.inputs[one]:
                    before = self._receipts.get(file.maker) if file.maker else None
                    if file.maker and before and not file.problem and file.maker not in self.makers:
                        following[file.maker] = before
            level = following

    def _read_by(self, receipt: Receipt) -> Iterator[tuple[FileRecord, Cell | None]]:
        """What a cell read, with the cells that made it."""
        for file in receipt.inputs:
            maker = None if "://" in file.key else self._made_by(file.key)
            gathered = receipt.sample == layout.COHORT and maker is not None and maker[1] != layout.COHORT
            if self._samples is None or not gathered or (maker and maker[1] in self._samples):
                yield file, maker

    def _made_by(self, key: str) -> Cell | None:
        if not key.startswith(layout.REFERENCES):
            return maker_of(self._store, key)
        if key not in self._of_reference:
            self._of_reference[key] = maker_of(self._store, key)
        return self._of_reference[key]

    def _fetch(self, cells: Sequence[Cell]) -> None:
        receipts, removed = receipts_and_removed(self._store, cells)
        self._receipts |= {**dict.fromkeys(cells), **receipts}
        self._removed |= removed

    def _linked(self, file: FileRecord, maker: Cell | None, reader: Receipt) -> Traced:
        if maker is None:
            return _traced(replace(file, sha256=file.sha256 or self._checksum(file.key)), None)
        before = self._receipts[maker]
        made = self._outputs_of(maker, before).get(file.key) if before else None
        if before is None or made is None:
            return replace(_traced(file, maker), problem=f"The receipt of {maker[0]} of {maker[1]} is gone.")
        read_at = str(reader.kept.get("at") or reader.started_at)
        is_same = bool(file.sha256) and file.sha256 == made.sha256
        if _differ(made, file) or not (is_same or before.started_at <= read_at):
            return replace(_traced(file, maker), problem=f"{maker[0]} of {maker[1]} was done again after it was read.")
        return _traced(replace(file, sha256=file.sha256 or made.sha256), maker, self._removed.get(file.key))

    def _outputs_of(self, cell: Cell, receipt: Receipt) -> Mapping[str, FileRecord]:
        """Key -> output, of a cell of whose files thousands may have been read."""
        if cell not in self._outputs:
            self._outputs[cell] = {one.key: one for one in receipt.outputs}
        return self._outputs[cell]

    def _checksum(self, key: str) -> str:
        """Of a file of a reference that no step built: what was written down when it was put there."""
        name, _, file = key.removeprefix(layout.REFERENCES).partition("/")
        if not key.startswith(layout.REFERENCES) or not file:
            return ""
        if name not in self._checksums:
            self._checksums[name] = _sums(self._store, layout.reference(name, layout.CHECKSUMS))
        return self._checksums[name].get(file, "")

    def _maker(self, receipt: Receipt) -> Maker:
        record, parts = self._run(receipt.run_id)
        part = parts.get(receipt.step, {})
        return Maker(
            step=receipt.step,
            sample=receipt.sample,
            receipt=receipt,
            receipt_key=layout.receipt(receipt.step, receipt.sample, receipt.fingerprint),
            run=record,
            image=str(part.get("image", "")),
            params=part.get("params", {}),
        )

    def _run(self, run_id: str) -> tuple[RunRecord | None, Mapping[str, Any]]:
        if run_id not in self._runs:
            self._runs[run_id] = _record(self._store, run_id), _parts(self._store, run_id)
        return self._runs[run_id]


def _record(store: Store, run_id: str) -> RunRecord | None:
    try:
        return read_record(store, run_id)
    except NotInStore:
        return None


def _parts(store: Store, run_id: str) -> Mapping[str, Any]:
    """Step -> the parts of its fingerprint."""
    try:
        fingerprint_parts: Mapping[str, Any] = store.get_json(layout.plan(run_id))["parts"]
    except NotInStore:
        return {}
    return fingerprint_parts


def _sums(store: Store, key: str) -> Mapping[str, str]:
    """File -> SHA-256, of a file that `sha256sum` wrote."""
    try:
        return read_checksums(store.get(key).decode(errors="replace"))
    except NotInStore:
        return {}


def _traced(file: FileRecord, maker: Cell | None, removal: Removal | None = None) -> Traced:
    return Traced(
        key=file.key,
        port=file.port,
        size_bytes=file.size_bytes,
        sha256=file.sha256,
        etag=file.etag,
        maker=maker,
        removed=removal.words if removal else "",
    )


def _differ(made: FileRecord, read: FileRecord) -> bool:
    """Whether what was made is not what was read, as far as both tell."""
    other = bool(read.sha256) and read.sha256 != made.sha256
    return other or made.size_bytes != read.size_bytes
