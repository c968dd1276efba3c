"""Reads results again and compares them with what their receipts, or a release's checksums, say.

Files are read side by side, in pieces; nothing is kept of them. What no receipt vouches for is not looked at.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from itertools import islice
from typing import Final

from batch_pipeline.records.record import RunRecord, new_run_id
from batch_pipeline.records.removals import read_removal
from batch_pipeline.records.results import (
    all_receipts,
    maker_of,
    read_checksums,
    read_receipts,
    receipt_of,
    results_of,
)
from batch_pipeline.wire import layout
from batch_pipeline.wire.errors import InvalidUse
from batch_pipeline.wire.receipt import FileRecord, Receipt
from batch_pipeline.wire.retirement import Retirement
from batch_pipeline.wire.store import NotInStore, Store

#: Files that are read at once.
AT_ONCE: Final = 8
#: Beside a release's files: their checksums, written last.
SUMS: Final = layout.CHECKSUMS


@dataclass(frozen=True, kw_only=True)
class Promise:
    """What a file must be like, and who says so."""

    key: str
    sha256: str
    #: None: unknown.
    size_bytes: int | None
    #: Key of the receipt or of the checksums.
    witness: str
    #: `Store.version` of the file as it was made, if that is known: while it has it, readers do not look at its bytes.
    version: str = ""
    #: Output port of the cell; empty: it is of a release, or a receipt.
    port: str = ""


@dataclass(frozen=True, kw_only=True)
class Checked:
    """One file as it is, compared with its promise."""

    promise: Promise
    size_bytes: int = 0
    #: Why it is not what was promised; empty: it is.
    problem: str = ""
    #: `removed after use by run …`, of a temporary output that is not there; empty otherwise.
    removed: str = ""


def promises_of_run(store: Store, run: RunRecord) -> list[Promise]:
    """Those of all results of a run. Raises InvalidUse for a run without cells."""
    return _of_receipts(results_of(store, run).receipts)


def all_promises(store: Store) -> Iterator[Promise]:
    """Those of every receipt in the store, which are read as they are asked for."""
    return _all_below(store, layout.RECEIPTS)


def promises_below(store: Store, key: str) -> list[Promise]:
    """Those of one file, of all below a folder of results, or of a release. Raises InvalidUse when there are none."""
    key = key.strip("/")
    head, _, rest = key.partition("/")
    parts = [part for part in rest.split("/") if part]
    if head == layout.RELEASE.rstrip("/"):
        promises: Iterable[Promise] = _of_release(store, key)
    elif head in ("results", "cohort") and len(parts) == 1:
        promises = _all_below(store, layout.step_receipts(parts[0]))
    elif head in ("results", "cohort") and not parts:
        promises = all_promises(store)
    else:
        promises = _of_cell(store, key, head, parts)
    chosen = [one for one in promises if one.key in (key, one.witness) or one.key.startswith(f"{key}/")]
    if not chosen:
        raise InvalidUse(f"No receipt in {store.url} vouches for {key}. Name a file or folder below results/.")
    return chosen


def verify(store: Store, promises: Iterable[Promise]) -> Iterator[Checked]:
    """Reads the files again; yields each when it was read, in no promised order, and keeps none of the promises."""
    waiting = iter(promises)
    with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="verify") as pool:
        running: set[Future[Checked]] = set()
        try:
            while True:
                running |= {
                    pool.submit(check, store, promise) for promise in islice(waiting, 2 * AT_ONCE - len(running))
                }
                if not running:
                    return
                ended, running = wait(running, return_when=FIRST_COMPLETED)
                for future in ended:
                    yield future.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def check(store: Store, promise: Promise) -> Checked:
    """Reads one file. Raises StoreFailed when the store cannot be read."""
    if promise.key == promise.witness:
        damaged = promise in _promises_at(store, promise.key)
        return Checked(promise=promise, problem="It cannot be read, and vouches for nothing." if damaged else "")
    digest, size = hashlib.sha256(), 0
    try:
        _, pieces = store.stream(promise.key)
        for piece in pieces:
            digest.update(piece)
            size += len(piece)
    except NotInStore:
        if promise.port and (removal := read_removal(store, promise.witness, promise.port)):
            return Checked(promise=promise, removed=removal.words)
        return Checked(promise=promise, problem=f"It is not there, but {promise.witness} vouches for it.")
    if promise.size_bytes is not None and size != promise.size_bytes:
        problem = f"It has {size:,} bytes; {promise.witness} says {promise.size_bytes:,}."
        return Checked(promise=promise, size_bytes=size, problem=problem)
    if promise.sha256 and digest.hexdigest() != promise.sha256:
        problem = f"Its SHA-256 is {digest.hexdigest()}; {promise.witness} says {promise.sha256}."
        return Checked(promise=promise, size_bytes=size, problem=problem)
    return Checked(promise=promise, size_bytes=size)


def repair(store: Store, results: Sequence[Checked]) -> list[str]:
    """Retires the receipts of files that are not what they say, so that the next run makes them again.

    So it does for cells that read a file which has other bytes at the size that it should have: in a folder they may
    have been misled, and their own receipts cannot tell. These must run, whatever the file is like when it was made
    again.

    Each receipt is retired as it stands beside the files while they are read once more: one that was replaced meanwhile
    stays. Returns the keys of those retired. A release is no run's to repair.
    """
    retiring: dict[str, list[tuple[str, str, str, bool]]] = {}
    references: dict[str, str] = {}
    retired = []
    misleading: set[str] = set()
    for key in sorted({one.promise.witness for one in results if one.problem}):
        cell = layout.cell_of_receipt(key)
        version = store.version(store.head(key)) if cell and key.startswith(layout.RECEIPTS) else ""
        checked = [check(store, one) for one in _promises_at(store, key)] if version else []
        if not cell or not any(one.problem for one in checked) or store.version(store.head(key)) != version:
            continue
        step, sample, fingerprint = cell
        retiring.setdefault(step, []).append((sample, fingerprint, version, False))
        misleading |= {one.promise.key for one in checked if _misleads(store, one)}
        if any(one.promise.key.startswith(layout.REFERENCES) for one in checked):
            references[sample] = step
        retired.append(key)
    for receipt in all_receipts(store, damaged=lambda key: None) if misleading else ():
        key = layout.receipt(receipt.step, receipt.sample, receipt.fingerprint)
        if misleading.isdisjoint(record.key for record in receipt.inputs) or key in retired:
            continue
        version = store.version(store.head(key))
        retiring.setdefault(receipt.step, []).append((receipt.sample, receipt.fingerprint, version, True))
        retired.append(key)
    if retired:
        run_id = new_run_id()
        noted = Retirement(run_id=run_id, receipts=retiring, references=references, untrue=True)
        store.put(layout.retired(run_id), noted.to_bytes())
    return retired


def _misleads(store: Store, result: Checked) -> bool:
    """Whether a file has other bytes, and nothing else about it would have shown that to whoever read it."""
    promise = result.promise
    if store.folder is None or not result.problem or result.size_bytes != promise.size_bytes:
        return False
    return promise.version in ("", store.version(store.head(promise.key)))


def _promises_at(store: Store, key: str) -> list[Promise]:
    damaged: list[str] = []
    promises = _of_receipts(read_receipts(store, [key], damaged=damaged.append))
    return promises + [_of_damaged(key) for key in damaged]


def _all_below(store: Store, prefix: str) -> Iterator[Promise]:
    """Those of all receipts below a prefix of the receipts, damaged ones last."""
    damaged: list[str] = []
    for receipt in all_receipts(store, prefix, damaged=damaged.append):
        yield from _of_receipts([receipt])
    yield from map(_of_damaged, sorted(damaged))


def _of_damaged(key: str) -> Promise:
    """That a receipt can be read."""
    return Promise(key=key, sha256="", size_bytes=None, witness=key)


def _of_receipts(receipts: Iterable[Receipt]) -> list[Promise]:
    return [_promise(receipt, output) for receipt in receipts for output in receipt.outputs]


def _promise(receipt: Receipt, output: FileRecord) -> Promise:
    witness = layout.receipt(receipt.step, receipt.sample, receipt.fingerprint)
    return Promise(
        key=output.key,
        sha256=output.sha256,
        size_bytes=output.size_bytes,
        witness=witness,
        version=output.etag,
        port=output.port,
    )


def _of_cell(store: Store, key: str, head: str, parts: Sequence[str]) -> list[Promise]:
    """Of the cell whose file or folder it is."""
    if head == "results" and len(parts) == 2:
        receipt = receipt_of(store, parts[0], parts[1])
    else:
        cell = maker_of(store, key)
        receipt = receipt_of(store, *cell) if cell else None
    return _of_receipts([receipt]) if receipt else []


def _of_release(store: Store, key: str) -> list[Promise]:
    """Of a release by its own checksums. Raises InvalidUse for one that is not finished."""
    parts = key.split("/")
    base = layout.release(parts[1], parts[2]) if len(parts) > 2 else ""
    try:
        sums = read_checksums(store.get(f"{base}{SUMS}").decode()) if base else {}
    except NotInStore as error:
        raise InvalidUse(f"{store.url_of(base)} has no {SUMS}: it is no release, or an unfinished one.") from error
    witness = f"{base}{SUMS}"
    return [Promise(key=f"{base}{name}", sha256=sha, size_bytes=None, witness=witness) for name, sha in sums.items()]
