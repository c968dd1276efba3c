"""Releases a run: copies its results to a dated prefix that is never changed, with checksums and records.

    release/{date}/{run_id}/release.json   what is released, by whom, from where        first, once
                           /results/…  cohort/…  receipts/…  runs/…  code/…             copies, by the same keys
                           /SHA256SUMS     as `sha256sum` writes them                   last: now it is a release

A release has the layout of a store, so `runs`, `trace` and `verify` read it as one. The same command, given again after
a kill, goes on with what is missing; a finished release is refused. Begun and finished are events of the run.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Final

from batch_pipeline.provenance.transfer import FileToCopy, Transfer
from batch_pipeline.records.history import Happened, append, now, read_events
from batch_pipeline.records.people import user_name
from batch_pipeline.records.record import RunRecord
from batch_pipeline.records.results import Cell, RunResults, maker_of, receipt_of, results_of
from batch_pipeline.wire import layout
from batch_pipeline.wire.digest import sha256_of_bytes
from batch_pipeline.wire.errors import InvalidUse, RunConflict, StoreFailed
from batch_pipeline.wire.receipt import Receipt
from batch_pipeline.wire.store import NotInStore, Store

FORMAT: Final = 1
RECORD: Final = "release.json"
SUMS: Final = layout.CHECKSUMS
#: Of each run that a released result is from.
_RECORDS: Final = ("run.json", "plan.json", "samples.tsv", "config.json", "diff.patch", "workflow.py", "end.json")


@dataclass(frozen=True, kw_only=True)
class Released:
    """What was released."""

    url: str
    prefix: str
    files: int
    size_bytes: int
    #: Cells of the run that have no results.
    missing: int
    #: Temporary files that are not in it, for they were removed after use; their records are.
    removed: int = 0


def release(
    store: Store,
    run: RunRecord,
    target: Store,
    *,
    partial: bool = False,
    on_copied: Callable[[FileToCopy], None] = lambda file: None,
) -> Released:
    """Copies the results of a run to `release/{date}/{run_id}/` of the target.

    Raises InvalidUse for a run with cells that are not done, unless `partial`; RunConflict for a run that is released
    there already; StoreFailed for a result that is not what its receipt says.
    """
    results = results_of(store, run)
    if not results.receipts or (results.missing and not partial):
        step, sample = results.missing[0] if results.missing else ("no step", "any sample")
        raise InvalidUse(
            f"Run {run.run_id} has {len(results.missing):,} cells that are not done, {step} of {sample} first. Run"
            " them, or give --partial to release the others."
        )
    prefix = _prefix(store, run, target)
    record = _begun(store, run, target, prefix, results)
    files = [FileToCopy(**file) for file in record["files"]]
    copied = Transfer(store, target, files, prefix).copy_all(on_copied)
    _finish(target, prefix, copied)
    size = sum(file.size_bytes for file in copied)
    url = target.url_of(prefix)
    append(store, run.run_id, Happened.RELEASED, url, to=target.url, prefix=prefix, files=len(copied), size_bytes=size)
    return Released(
        url=url,
        prefix=prefix,
        files=len(copied),
        size_bytes=size,
        missing=len(results.missing),
        removed=len(record.get("removed", ())),
    )


def _prefix(store: Store, run: RunRecord, target: Store) -> str:
    """Where the release goes: the one that was begun there and not finished, else a new one of today.

    Raises RunConflict when it was released there.
    """
    begun = [
        str(event.details["prefix"])
        for event in read_events(store, run.run_id)
        if event.event == Happened.RELEASE_BEGUN.value and event.details.get("to") == target.url
    ]
    today = layout.release(datetime.now(UTC).date().isoformat(), run.run_id)
    for prefix in dict.fromkeys((*begun, today)):
        try:
            target.head(f"{prefix}{SUMS}")
        except NotInStore:
            continue
        raise RunConflict(
            f"Run {run.run_id} is released at {target.url_of(prefix)}, and a release is never changed. Release another"
            " run, or to another place."
        )
    return begun[-1] if begun else today


def _begun(store: Store, run: RunRecord, target: Store, prefix: str, results: RunResults) -> dict[str, Any]:
    """The release's record: the one that is there, when it was begun before; else a new one, recorded on both sides."""
    try:
        there: dict[str, Any] = target.get_json(f"{prefix}{RECORD}")
        return there
    except NotInStore:
        pass
    record = {
        "format": FORMAT,
        "run_id": run.run_id,
        "begun_at": now(),
        "by": user_name(),
        "host": socket.gethostname(),
        "from": store.url,
        "to": target.url_of(prefix),
        "files": [asdict(file) for file in _files(store, results)],
        "removed": [{"key": key, "run_id": one.run_id} for key, one in sorted(results.removed.items())],
    }
    append(store, run.run_id, Happened.RELEASE_BEGUN, target.url_of(prefix), to=target.url, prefix=prefix)
    # Two at once: the one who came first says what is released.
    if not target.put_if_absent(f"{prefix}{RECORD}", json.dumps(record, indent=1, ensure_ascii=False).encode()):
        record = target.get_json(f"{prefix}{RECORD}")
    return record


def _files(store: Store, results: RunResults) -> Iterator[FileToCopy]:
    """Results, receipts, those of the references that were read, and the records of all their runs.

    Of what was removed after use the record of that.
    """
    receipts = results.receipts
    built = _references(store, receipts)
    for key in sorted({one.key for one in results.removed.values()}):
        yield from _small(store, key)
    for receipt in receipts:
        for output in (one for one in receipt.outputs if one.key not in results.removed):
            yield FileToCopy(key=output.key, size_bytes=output.size_bytes, sha256=output.sha256)
    for receipt in (*receipts, *built):
        yield from _small(store, layout.receipt(receipt.step, receipt.sample, receipt.fingerprint))
    for run_id in dict.fromkeys(receipt.run_id for receipt in (*receipts, *built)):
        for name in _RECORDS:
            yield from _small(store, f"{layout.run_folder(run_id)}{name}")
        yield from _bundle(store, run_id)


def _small(store: Store, key: str) -> Iterator[FileToCopy]:
    """A file of ours, with its checksum, if it is there."""
    try:
        data = store.get(key)
    except NotInStore:
        return
    yield FileToCopy(key=key, size_bytes=len(data), sha256=sha256_of_bytes(data))


def _bundle(store: Store, run_id: str) -> Iterator[FileToCopy]:
    try:
        sha256 = str(store.get_json(layout.run_record(run_id)).get("bundle_sha256") or "")
    except NotInStore:
        return
    if sha256:
        yield from _small(store, layout.bundle(sha256))


def _references(store: Store, receipts: Sequence[Receipt]) -> list[Receipt]:
    """The receipts of the references that were read; the references themselves stay where they are."""
    keys = {file.key for receipt in receipts for file in receipt.inputs if file.key.startswith(layout.REFERENCES)}
    cells: dict[Cell, None] = {cell: None for cell in (maker_of(store, key) for key in sorted(keys)) if cell}
    return [receipt for receipt in (receipt_of(store, *cell) for cell in cells) if receipt is not None]


def _finish(target: Store, prefix: str, files: Sequence[FileToCopy]) -> None:
    """Writes the checksums, which makes it a release; in a folder, files can be read only from then on."""
    release_record = FileToCopy(key=RECORD, size_bytes=0, sha256=sha256_of_bytes(target.get(f"{prefix}{RECORD}")))
    lines = [f"{file.sha256}  {file.key}\n" for file in sorted((*files, release_record), key=lambda file: file.key)]
    _protect(target, [f"{prefix}{file.key}" for file in (*files, release_record)])
    if not target.put_if_absent(f"{prefix}{SUMS}", "".join(lines).encode()):
        raise RunConflict(f"{target.url_of(prefix)} was finished by another command just now. Nothing is to do.")
    _protect(target, [f"{prefix}{SUMS}"])


def _protect(target: Store, keys: Sequence[str]) -> None:
    for key in keys:
        path = target.path_of(key)
        if path is None:
            return
        try:
            os.chmod(path, 0o444)
        except OSError as error:
            raise StoreFailed(f"{path} cannot be made read-only: {error.strerror}. Check the rights on it.") from error
