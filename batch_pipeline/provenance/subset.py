"""Copies chosen samples from one store to another, from production to test say, and records that on both sides.

    subsets/{id}.json       who copies what from where to where      in both stores, before anything is copied
    subsets/{id}.end.json   the files with their SHA-256             in both, when all of it is there

Files are named whole, by patterns: what merely begins like a sample's name may be another sample's. What is there
already is left alone, unless it is another file: then nothing is copied.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from batch_pipeline.provenance.transfer import FileToCopy, Transfer
from batch_pipeline.records.history import new_run_id, now
from batch_pipeline.records.listing import FileKeys, entries_of
from batch_pipeline.records.people import user_name
from batch_pipeline.records.results import receipts_counting
from batch_pipeline.wire import layout
from batch_pipeline.wire.digest import sha256_of_bytes
from batch_pipeline.wire.errors import InvalidUse, RunConflict
from batch_pipeline.wire.store import Store

FORMAT: Final = 1
SAMPLE: Final = "{sample}"


@dataclass(frozen=True, kw_only=True)
class Copied:
    """What was copied."""

    subset_id: str
    files: int
    size_bytes: int
    #: Of them, those that were there already.
    there: int
    #: Records of temporary results that were removed after use, and so are in neither store.
    removed: int = 0


def subset(
    source: Store,
    target: Store,
    samples: Sequence[str],
    *,
    prefix: str,
    patterns: Sequence[str],
    results: bool = False,
    on_copied: Callable[[FileToCopy], None] = lambda file: None,
) -> Copied:
    """Copies the files of these samples below a prefix, and with `results` their results and receipts too.

    Raises InvalidUse for samples without a file or a pattern without `{sample}`, RunConflict where the target has other
    files of the same names; then nothing was copied.
    """
    if source.url.rstrip("/") == target.url.rstrip("/"):
        raise InvalidUse(f"Source and target are both {source.url}. Name two stores.")
    if "://" in prefix or prefix.startswith("/"):
        raise InvalidUse(f"The samples' files must be below a prefix of both stores, not at {prefix}. Give --sources.")
    for pattern in patterns:
        if SAMPLE not in pattern:
            raise InvalidUse(
                f"The pattern {pattern!r} has no {SAMPLE}, so it would name the same file for each sample."
            )
    files = [*_sources(source, samples, prefix, patterns), *(_results(source, samples) if results else ())]
    transfer = Transfer(source, target, files)
    for file in files:
        if transfer.there.get(file.key, file.size_bytes) != file.size_bytes:
            raise RunConflict(
                f"{target.url_of(file.key)} is there with another size than the file to copy. Remove it, or choose"
                " another target."
            )
    subset_id = new_run_id()
    about = _about(subset_id, source, target, samples)
    _record(layout.subset(subset_id), {**about, "files": [asdict(file) for file in files]}, source, target)
    copied = transfer.copy_all(on_copied)
    end = {"format": FORMAT, "ended_at": now(), "files": [asdict(file) for file in copied]}
    _record(layout.subset_end(subset_id), end, source, target)
    return Copied(
        subset_id=subset_id,
        files=len(copied),
        size_bytes=sum(file.size_bytes for file in copied),
        there=sum(file.key in transfer.there for file in files),
        removed=sum(layout.port_of_removal(file.key) is not None for file in files),
    )


def _about(subset_id: str, source: Store, target: Store, samples: Sequence[str]) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "id": subset_id,
        "begun_at": now(),
        "by": user_name(),
        "host": socket.gethostname(),
        "from": source.url,
        "to": target.url,
        "samples": list(samples),
    }


def _record(key: str, value: dict[str, Any], *stores: Store) -> None:
    for store in stores:
        store.put(key, json.dumps(value, indent=1, ensure_ascii=False).encode())


def _sources(store: Store, samples: Sequence[str], prefix: str, patterns: Sequence[str]) -> Iterator[FileToCopy]:
    """The samples' own files."""
    place = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
    keys_by_sample = {
        sample: [f"{place}{pattern.replace(SAMPLE, sample)}" for pattern in patterns] for sample in samples
    }
    files = FileKeys(key for keys in keys_by_sample.values() for key in keys)
    there = {entry.key: entry.size_bytes for group in entries_of(store, files) for entry in group}
    absent = []
    for sample, keys in keys_by_sample.items():
        present = [key for key in keys if key in there]
        yield from (FileToCopy(key=key, size_bytes=there[key]) for key in present)
        if not present:
            absent.append(sample)
    if absent:
        names = ", ".join(pattern.replace(SAMPLE, absent[0]) for pattern in patterns)
        raise InvalidUse(
            f"{len(absent):,} samples have no file below {store.url_of(place)}: {', '.join(absent[:5])}. Looked for"
            f" {names}. Check the names, --sources and --files."
        )


def _results(store: Store, samples: Sequence[str]) -> Iterator[FileToCopy]:
    cells = dict.fromkeys(store.folders(layout.RECEIPTS), samples)
    receipts, removed = receipts_counting(store, cells)
    for record in sorted({one.key for one in removed.values()}):
        data = store.get(record)
        yield FileToCopy(key=record, size_bytes=len(data), sha256=sha256_of_bytes(data))
    for receipt in receipts:
        if any(file.key.startswith(layout.REFERENCES) for file in receipt.outputs):
            continue
        key = layout.receipt(receipt.step, receipt.sample, receipt.fingerprint)
        for output in (one for one in receipt.outputs if one.key not in removed):
            yield FileToCopy(key=output.key, size_bytes=output.size_bytes, sha256=output.sha256)
        data = store.get(key)
        yield FileToCopy(key=key, size_bytes=len(data), sha256=sha256_of_bytes(data))
