"""Makes running a cell again idempotent: one that reads the same bytes, with its results as recorded, runs nothing.

Its success receipt, which was retired, is written once more, with a note of who kept it. Only bytes decide, by their
SHA-256 and size: times and ETags tell that a file was written, not that it is another one.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from dataclasses import replace

from batch_pipeline.container.files import Files
from batch_pipeline.container.stage import Staged
from batch_pipeline.wire import layout
from batch_pipeline.wire.digest import fingerprint_of
from batch_pipeline.wire.manifest import Manifest, Row
from batch_pipeline.wire.receipt import FileRecord, Receipt
from batch_pipeline.wire.store import NotInStore


def standing_receipt(manifest: Manifest, row: Row, files: Files) -> Receipt | None:
    """The success receipt of this very cell as it stands, whoever wrote it; None: there is none that can be read.

    Raises StoreFailed.
    """
    return receipt_at(layout.receipt(manifest.step, row.sample, row.fingerprint), files)


def receipt_at(key: str, files: Files) -> Receipt | None:
    """The success receipt at a key; None: there is none that can be read. Raises StoreFailed."""
    try:
        receipt = Receipt.from_json(json.loads(files.read(key)))
    except (NotInStore, ValueError, TypeError, AttributeError):
        return None
    return receipt if receipt.outcome == "succeeded" else None


def is_unchanged(receipt: Receipt, manifest: Manifest, staged: Staged, files: Files) -> bool:
    """Whether the cell would read what it read, and what it made then is there. Raises StoreFailed.

    What no step made (sources, references) is the same by the fingerprint, which has its ETags and sizes.
    """
    ports = {spec.port for spec in manifest.inputs if spec.kind != "source"}
    now = _bytes_of(staged.records, ports)
    return (
        all(sha256 for _, sha256 in now.values())
        and now == _bytes_of(receipt.inputs, ports)
        and metrics_read(staged) == receipt.metrics_read
        and all(stands(record, files) for record in receipt.outputs)
    )


def stands(record: FileRecord, files: Files) -> bool:
    """Whether a result has the bytes that its receipt names. Reads them. Raises StoreFailed."""
    try:
        return files.digest(record.key) == (record.size_bytes, record.sha256)
    except NotInStore:
        return False


def metrics_read(staged: Staged) -> str:
    """Digest of what the steps above noted, for this step can read it too; empty where they noted nothing."""
    upstream = {step: metrics for step, metrics in staged.upstream_metrics.items() if metrics}
    gathered = {
        step: {sample: metrics for sample, metrics in samples.items() if metrics}
        for step, samples in staged.gathered_metrics.items()
        if any(samples.values())
    }
    return fingerprint_of([upstream, gathered]) if upstream or gathered else ""


def kept(receipt: Receipt, staged: Staged, *, run_id: str, attempt: int, at: str) -> Receipt:
    """The receipt with the note that this attempt kept it."""
    note = {"run_id": run_id, "attempt": attempt, "at": at}
    return replace(receipt, inputs=tuple(staged.records), kept=note)


def _bytes_of(records: Iterable[FileRecord], ports: AbstractSet[str]) -> dict[tuple[str, str], tuple[int, str]]:
    """Port and key -> bytes and SHA-256, of the files of these ports."""
    return {(one.port, one.key): (one.size_bytes, one.sha256) for one in records if one.port in ports}
