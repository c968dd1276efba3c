"""Records that temporary files were removed after use: `receipts/{step}/{sample}/{fingerprint}.{port}.removed.json`.

    {"run_id", "removed_at", "files": [{"key", "size_bytes", "sha256"}, …], "format": 1}

One lies beside the receipt of the cell that made the files, which still stands, and was written before they went. Its
key is all that a plan needs, so that planning reads none. A container that makes the cell again removes it, with the
older receipts, before it publishes.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final, Self

from batch_pipeline.wire import layout
from batch_pipeline.wire.receipt import FileRecord, Receipt
from batch_pipeline.wire.store import NotInStore, Store

FORMAT: Final = 1
#: Records that are read or written at once.
AT_ONCE: Final = 16


@dataclass(frozen=True, kw_only=True)
class Removal:
    """That the files of a port were removed."""

    #: Of the record.
    key: str
    #: The run that removed them; empty: a command that sent nothing did, `store tidy` perhaps.
    run_id: str
    removed_at: str
    files: Sequence[Mapping[str, Any]]

    @property
    def words(self) -> str:
        """For people: why the files are not there."""
        return f"removed after use{f' by run {self.run_id}' if self.run_id else ''}"

    def to_bytes(self) -> bytes:
        """As the store keeps it."""
        value = {"run_id": self.run_id, "removed_at": self.removed_at, "files": list(self.files), "format": FORMAT}
        return json.dumps(value, indent=1, ensure_ascii=False).encode()

    @classmethod
    def of(cls, receipt: Receipt, port: str, *, run_id: str, removed_at: str) -> Self:
        """The record of the files that a receipt has of a port."""
        key = layout.removal(receipt.step, receipt.sample, receipt.fingerprint, port)
        files = [
            {"key": file.key, "size_bytes": file.size_bytes, "sha256": file.sha256} for file in files_of(receipt, port)
        ]
        return cls(key=key, run_id=run_id, removed_at=removed_at, files=files)


def files_of(receipt: Receipt, port: str) -> list[FileRecord]:
    """The files of a port that lie in the cell's own folder, as all do that a container published."""
    cell = (receipt.step, receipt.sample)
    return [file for file in receipt.outputs if file.port == port and layout.cell_of_result(file.key) == cell]


def read_removal(store: Store, receipt_key: str, port: str) -> Removal | None:
    """The record of a port beside a receipt; None: there is none. One GET. Raises StoreFailed."""
    cell = layout.cell_of_receipt(receipt_key)
    return _read(store, layout.removal(*cell, port)) if cell else None


def removed_files(
    store: Store, receipts: Iterable[Receipt], removed: Mapping[str, Mapping[str, Mapping[str, Collection[str]]]]
) -> dict[str, Removal]:
    """Key of a file that receipts name -> the record of its removal. A GET a record.

    `removed` has the ports with a record, step -> sample -> fingerprint (`records.receipts.Standing`).
    """
    wanted = [
        (receipt, port)
        for receipt in receipts
        for port in sorted(removed.get(receipt.step, {}).get(receipt.sample, {}).get(receipt.fingerprint, ()))
    ]
    return dict(_files(store, wanted)) if wanted else {}


def _files(store: Store, wanted: Sequence[tuple[Receipt, str]]) -> Iterator[tuple[str, Removal]]:
    keys = [layout.removal(receipt.step, receipt.sample, receipt.fingerprint, port) for receipt, port in wanted]
    with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="removals") as pool:
        for (receipt, port), removal in zip(wanted, pool.map(lambda key: _read(store, key), keys), strict=True):
            if removal is not None:
                yield from ((file.key, removal) for file in files_of(receipt, port))


def _read(store: Store, key: str) -> Removal | None:
    try:
        value = store.get_json(key)
    except NotInStore:
        return None
    return Removal(key=key, run_id=value["run_id"], removed_at=value["removed_at"], files=value["files"])
