"""Publishes a cell's outputs, and its receipt last; fences off an attempt that the scheduler gave up.

Order: older receipts of the cell go, outputs are put in place, the log, then the receipt. So whenever a receipt is
there, every output it names is, with the bytes that it names; and after a power cut too (`Files.write_last`). An
attempt that was taken for dead, and lives, publishes nothing once its successor has ended.
"""

from __future__ import annotations

import json
import os
import stat
from collections import Counter
from collections.abc import Sequence, Set
from dataclasses import dataclass, replace
from functools import partial

from batch_pipeline.container.disk import digest
from batch_pipeline.container.files import Files
from batch_pipeline.container.keep import receipt_at, standing_receipt, stands
from batch_pipeline.container.logger import Logger
from batch_pipeline.container.parallel import in_parallel
from batch_pipeline.container.run import Signals
from batch_pipeline.wire import layout
from batch_pipeline.wire.errors import InvalidOutput, StepInterrupted, StoreFailed
from batch_pipeline.wire.manifest import Manifest, OutputSpec, Row
from batch_pipeline.wire.receipt import Failure, FileRecord, Receipt

LOGGER = Logger(__name__)
#: Keys of results that one line of the log repeats.
_LOGGED_KEYS = 20
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
    is_listed = any(spec.form for spec in manifest.outputs)
    # By one path a file, so that those who share it are known.
    work = os.path.realpath(work) if is_listed else work
    for spec in manifest.outputs:
        if spec.form:
            products += _listed_products(manifest, row, spec, work)
            continue
        for file in spec.files:
            name = file.replace("{sample}", row.sample)
            path = f"{work}/{name}"
            status = _look(path)
            if status is not None:
                products.append(_product(manifest, row, spec.port, name, path, status))
            elif not spec.optional:
                raise InvalidOutput(
                    f"{manifest.step} ended well but did not write {name!r}, its output {spec.port!r}. Outputs are "
                    "written to the working directory under their declared names."
                )
    return _distinct(products) if is_listed else products


def older_receipts(manifest: Manifest, row: Row, attempt: int, files: Files) -> list[str]:
    """Keys of the cell's receipts that this attempt is to replace; looked at right before it publishes.

    Records of removed files (`layout.removal`) come last: while a receipt stands it is told what of it is gone.

    A receipt of another attempt that still waits for the disk will never be one.

    Raises StepInterrupted when a later attempt of its job has ended, or a later run has made the cell: its results are
    not to be replaced by those of an attempt that the scheduler gave up. Raises StoreFailed.
    """
    folders = (layout.receipts(manifest.step, row.sample), layout.cell_logs(manifest.run_id, manifest.step, row.sample))
    receipts, logs = in_parallel([partial(files.versions_in, folder) for folder in folders], at_once=files.parallel)
    failed = [layout.attempt_of_failure(key) for key in logs]
    later = max((number for number in failed if number is not None), default=0)
    own = layout.receipt(manifest.step, row.sample, row.fingerprint)
    last = (manifest.run_id, later)
    if receipts.get(own, "") != (row.retired.version if row.retired else ""):
        receipt = standing_receipt(manifest, row, files)
        last = max(last, receipt.written_by) if receipt else last
    if last > (manifest.run_id, attempt):
        raise StepInterrupted(
            f"Attempt {last[1]} of run {last[0]} has ended meanwhile: the scheduler had given this one up. It publishes"
            " nothing."
        )
    files.withdraw(folders[0])
    return sorted(receipts, key=lambda key: layout.cell_of_receipt(key) is None)


def publish(
    products: Sequence[Product],
    older: Sequence[str],
    before: Receipt | None,
    files: Files,
    signals: Signals,
    *,
    stored: Set[str] = frozenset(),
) -> list[FileRecord]:
    """Puts the outputs in place, after the cell's older receipts are gone; returns what the receipt is to say of them.

    `before` is the receipt of the results that are there; in a folder those of the same bytes are left alone, so that
    what reads them is not made again for their times. `stored` are keys that go too if no output has them
    (`listed_ports.leftovers`). Raises StepInterrupted before the next output when a signal came, DiskFull, StoreFailed.
    """
    known = {record.key: record for record in before.outputs} if before else {}
    gone = (_outputs_of(older, files) | stored) - {product.record.key for product in products}
    files.delete(list(older))
    if older:
        LOGGER.info("removed older receipts", keys=",".join(older))
    try:
        files.delete(sorted(gone), prune=bool(stored))
    except StoreFailed as error:
        # An older stack's role may not; no receipt vouches for them any more.
        names = ", ".join(sorted(gone)[:_LOGGED_KEYS]) + (
            f" and {len(gone):,} in all" if len(gone) > _LOGGED_KEYS else ""
        )
        LOGGER.warning(f"What earlier code made, and this does not, stays: {names}. {error.message}")

    def put(product: Product) -> FileRecord:
        signals.check()
        key = product.record.key
        record = known.get(key)
        is_same = record is not None and record.sha256 == product.record.sha256 and not files.parallel
        if is_same and record is not None and stands(record, files):
            LOGGER.info("left output as it is", key=key, sha256=record.sha256)
        else:
            files.publish(product.path, key, move=product.alone)
        # What is downloaded is digested; only what is linked needs to be known by its version.
        return product.record if files.parallel else replace(product.record, etag=files.look(key)[1])

    return in_parallel([partial(put, product) for product in products], at_once=files.parallel)


def _outputs_of(receipts: Sequence[str], files: Files) -> set[str]:
    """Keys of the cell's outputs that these receipts name: an optional one may not be made any more."""
    keys = set()
    for key in receipts:
        receipt = receipt_at(key, files)
        if receipt is None:
            continue
        cell, folder = (receipt.step, receipt.sample), layout.reference(receipt.sample, "")
        keys |= {
            record.key
            for record in receipt.outputs
            if layout.cell_of_result(record.key) == cell or record.key.startswith(folder)
        }
    return keys


def as_json(record: Receipt | Failure) -> bytes:
    """A record as the store keeps it: what `to_json` says, without its copies of every value."""
    return _ENCODER.encode(record).encode(errors="replace")


def _look(path: str) -> os.stat_result | None:
    try:
        return os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None


def output_key(manifest: Manifest, row: Row, name: str) -> str:
    """Key of an output by its name in the working directory; the prefix of all for an empty one."""
    if manifest.scope == "reference":
        return layout.reference(manifest.reference or row.sample, name)
    return layout.result(manifest.step, row.sample, name)


def _product(manifest: Manifest, row: Row, port: str, name: str, path: str, status: os.stat_result) -> Product:
    if not stat.S_ISREG(status.st_mode):
        kind = "folder" if stat.S_ISDIR(status.st_mode) else "link" if stat.S_ISLNK(status.st_mode) else "special file"
        raise InvalidOutput(f"{manifest.step} left a {kind} as {name!r}, its output {port!r}; it must be a file.")
    key = output_key(manifest, row, name)
    record = FileRecord(port=port, key=key, size_bytes=status.st_size, sha256=digest(path, status.st_size))
    return Product(record=record, path=path, alone=status.st_nlink == 1)


def _listed_products(manifest: Manifest, row: Row, spec: OutputSpec, work: str) -> list[Product]:
    from batch_pipeline.container.listed_ports import files_left

    pairs = files_left(manifest, row, spec, work)
    return [_product(manifest, row, spec.port, name, path, os.lstat(path)) for name, path in pairs]


def _distinct(products: Sequence[Product]) -> list[Product]:
    """The outputs, those copied whose bytes another one has too. Raises InvalidOutput for a file of two ports."""
    ports: dict[str, str] = {}
    for product in products:
        port = ports.setdefault(product.record.key, product.record.port)
        if port != product.record.port:
            raise InvalidOutput(
                f"Outputs {port!r} and {product.record.port!r} both have {product.record.key}; each output needs files"
                " of its own. Write names or patterns that do not overlap."
            )
    uses = Counter(product.path for product in products)
    return [replace(one, alone=one.alone and uses[one.path] == 1) for one in products]
