"""Finds a cell unchanged whose success receipt was retired: it read the same bytes, and its results stand as recorded.

Such a cell runs nothing; its receipt is written once more, with a note of who kept it. Only bytes decide, by their
SHA-256 and size: times and ETags tell that a file was written, not that it is another one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
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
    try:
        receipt = Receipt.from_json(json.loads(files.read(layout.receipt(manifest.step, row.sample, row.fingerprint))))
    except NotInStore:
        return None
    except (ValueError, TypeError, AttributeError):
        return None
    return receipt if receipt.outcome == "succeeded" else None


def is_unchanged(receipt: Receipt, manifest: Manifest, staged: Staged, files: Files) -> bool:
    """Whether the cell would read what it read, and what it made then is there. Raises StoreFailed."""
    made_by_steps = {spec.port for spec in manifest.inputs if spec.kind != "source"}
    before = {(record.port, record.key): record for record in receipt.inputs}
    now = {(record.port, record.key): record for record in staged.records}
    return (
        before.keys() == now.keys()
        and receipt.metrics_read == metrics_read(staged)
        and all(_are_same(before[name], now[name], by_digest=name[0] in made_by_steps) for name in now)
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
    noted: list[Mapping[str, object]] = [staged.upstream_metrics, staged.gathered_metrics]
    is_empty = not any(staged.upstream_metrics.values()) and not any(
        metrics for samples in staged.gathered_metrics.values() for metrics in samples.values()
    )
    return "" if is_empty else fingerprint_of(noted)


def kept(receipt: Receipt, staged: Staged, *, run_id: str, attempt: int, at: str) -> Receipt:
    """The receipt with the note that this attempt kept it."""
    note = {"run_id": run_id, "attempt": attempt, "at": at}
    return replace(receipt, inputs=tuple(staged.records), kept=note)


def _are_same(before: FileRecord, now: FileRecord, *, by_digest: bool) -> bool:
    if before.size_bytes != now.size_bytes:
        return False
    if by_digest or (before.sha256 and now.sha256):
        return bool(before.sha256) and before.sha256 == now.sha256
    # A source or a file of a reference: its ETag is part of the fingerprint.
    return before.etag == now.etag
