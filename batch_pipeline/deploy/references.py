"""Verifies what every sample shares: each reference's files against the checksums that were recorded for them.

A reference that the pipeline built has a receipt, which vouches for every file. One that somebody put there has none:
its checksums are recorded the first time, in `SHA256SUMS` beside the files and in that program's own form, and held
against them ever after. Every byte is read, from wherever the store is.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from batch_pipeline.wire import layout
from batch_pipeline.wire.errors import StoreFailed
from batch_pipeline.wire.receipt import Receipt
from batch_pipeline.wire.store import NotInStore, Store, StoreEntry


@dataclass(frozen=True, kw_only=True)
class VerifiedReference:
    """What came of one reference."""

    name: str
    files: int
    size_bytes: int
    #: `receipt`, `SHA256SUMS`, or empty when nothing was recorded before.
    vouched_by: str
    #: One sentence a file that is not what it was.
    problems: tuple[str, ...] = ()


def verify_references(store: Store, builder: str = "", *, dry_run: bool = False) -> Sequence[VerifiedReference]:
    """Verifies all references of a store; those without checksums get them, unless it is a dry run.

    Parameters
    ----------
    builder: name of the step that builds references, if the pipeline has one.

    Raises StoreFailed.
    """
    return [_verified(store, name, builder, dry_run) for name in sorted(store.folders(layout.REFERENCES))]


def _verified(store: Store, name: str, builder: str, dry_run: bool) -> VerifiedReference:
    sums_key = layout.reference(name, layout.CHECKSUMS)
    prefix = layout.reference(name, "")
    entries = {entry.key: entry for entry in store.list(prefix) if entry.key != sums_key}
    promised, vouched_by = _of_receipt(store, name, builder), "receipt"
    if not promised:
        promised, vouched_by = _of_sums(store, sums_key, prefix), layout.CHECKSUMS
    if not promised:
        vouched_by = ""
        if not dry_run and entries:
            lines = (f"{_sha256(store, key)}  {key.removeprefix(prefix)}\n" for key in sorted(entries))
            store.put(sums_key, "".join(lines).encode())
    return VerifiedReference(
        name=name,
        files=len(entries),
        size_bytes=sum(entry.size_bytes for entry in entries.values()),
        vouched_by=vouched_by,
        problems=tuple(_problems(store, promised, entries)),
    )


def _of_receipt(store: Store, name: str, builder: str) -> dict[str, str]:
    """Key -> SHA-256 as the builder's receipt has it; empty when it has none."""
    if not builder:
        return {}
    promised: dict[str, str] = {}
    for key in store.keys(layout.receipts(builder, name)):
        receipt = Receipt.from_json(store.get_json(key))
        promised |= {record.key: record.sha256 for record in receipt.outputs}
    return promised


def _of_sums(store: Store, key: str, prefix: str) -> dict[str, str]:
    """Key -> SHA-256 as recorded; empty when nothing is. Raises StoreFailed for a damaged record."""
    try:
        lines = store.get(key).decode(errors="replace").splitlines()
    except NotInStore:
        return {}
    promised = {}
    for line in lines:
        digest, separator, file = line.partition("  ")
        if not separator or len(digest) != 64:
            shown = json.dumps(line)
            raise StoreFailed(
                f"{store.url_of(key)} has the line {shown}, which is no checksum. Fix or remove the file."
            )
        promised[f"{prefix}{file}"] = digest
    return promised


def _problems(store: Store, promised: Mapping[str, str], entries: Mapping[str, StoreEntry]) -> list[str]:
    problems = []
    for key, digest in promised.items():
        if key not in entries:
            problems.append(f"{store.url_of(key)} is gone. Build or upload the reference again.")
        elif _sha256(store, key) != digest:
            problems.append(f"{store.url_of(key)} is not what it was. Build or upload the reference again.")
    return problems


def _sha256(store: Store, key: str) -> str:
    digest = hashlib.sha256()
    for piece in store.stream(key)[1]:
        digest.update(piece)
    return digest.hexdigest()
