"""Takes a cell's outputs from its scratch folder to the store, and writes what vouches for them, last.

Order: older receipts of the cell go, outputs are put in place, the log, then the receipt. So whenever a receipt is
there, every output it names is, with the bytes that it names.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from batch_pipeline.container.disk import digest
from batch_pipeline.container.files import Files
from batch_pipeline.container.run import Signals
from batch_pipeline.container.stage import in_parallel
from batch_pipeline.wire import layout
from batch_pipeline.wire.errors import InvalidOutput
from batch_pipeline.wire.manifest import Manifest, Row
from batch_pipeline.wire.receipt import Failure, FileRecord, Receipt

_ENCODER = json.JSONEncoder(default=vars, ensure_ascii=False, separators=(",", ":"))


@dataclass(frozen=True, kw_only=True)
class Product:
    """One output as the step left it."""

    record: FileRecord
    path: str
    #: Whether this name is the file's only one; another may belong to somebody else.
    alone: bool


def products_of(manifest: Manifest, row: Row, work: str) -> list[Product]:
    """The declared outputs. Raises InvalidOutput when one is missing or is no regular file."""
    products = []
    for spec in manifest.outputs:
        for file in spec.files:
            name = file.replace("{sample}", row.sample)
            path = f"{work}/{name}"
            found = _look(path)
            if found is not None:
                products.append(_product(manifest, row, spec.port, name, path, found))
            elif not spec.optional:
                raise InvalidOutput(
                    f"{manifest.step} ended well but did not write {name!r}, its output {spec.port!r}. Outputs are "
                    "written to the working directory under their declared names."
                )
    return products


def publish(products: Sequence[Product], manifest: Manifest, row: Row, files: Files, signals: Signals) -> None:
    """Puts the outputs in place, after the cell's older receipts are gone.

    Raises StepInterrupted before the next output when a signal came, DiskFull, StoreFailed.
    """
    stale = files.keys_in(layout.receipts(manifest.step, row.sample))
    if stale:
        files.delete(stale)

    def put(product: Product) -> None:
        signals.check()
        files.publish(product.path, product.record.key, move=product.alone)

    in_parallel([partial(put, product) for product in products], at_once=files.parallel)


def as_json(record: Receipt | Failure) -> bytes:
    """A record as the store keeps it: what `to_json` says, without its copies of every value."""
    return _ENCODER.encode(record).encode(errors="replace")


def _look(path: str) -> os.stat_result | None:
    try:
        return os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None


def _product(manifest: Manifest, row: Row, port: str, name: str, path: str, found: os.stat_result) -> Product:
    if not stat.S_ISREG(found.st_mode):
        kind = "folder" if stat.S_ISDIR(found.st_mode) else "link" if stat.S_ISLNK(found.st_mode) else "special file"
        raise InvalidOutput(f"{manifest.step} left a {kind} as {name!r}, its output {port!r}; it must be a file.")
    if manifest.scope == "reference":
        key = layout.reference(manifest.reference or row.sample, name)
    else:
        key = layout.result(manifest.step, row.sample, name)
    record = FileRecord(port=port, key=key, size_bytes=found.st_size, sha256=digest(path, found.st_size))
    return Product(record=record, path=path, alone=found.st_nlink == 1)
