"""Removes temporary outputs that every cell which reads them is done with: by the driver at its end, or `store tidy`.

    take the lock -> finish removals that a kill cut short -> plan all cells -> by batches of cells:
    read their receipts and their readers' -> removing/{id}.json -> records beside the receipts -> the files go
    -> removing/{id}.json goes

Nobody submits meanwhile, for the lock is held; what a live job may read or make is left alone. A file goes only if the
receipt of each reader names the very bytes that the receipt of its maker names. Killed at any line, the store is true:
until a record is there the files are, and after that they count as removed, and the list in `removing/` has whoever
comes next remove those that are left. Between batches the lock is let go of, so that other drivers need not wait; if
one of them took it, the rest is left to a later command.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import islice
from typing import Final

from batch_pipeline.log import Facts, of_run
from batch_pipeline.pipeline.plan import Selection
from batch_pipeline.pipeline.temporary import UsedOutput, is_live, temporary_ports, used_outputs
from batch_pipeline.pipeline.workflow import Graph
from batch_pipeline.records.events import Removed
from batch_pipeline.records.history import new_run_id, now
from batch_pipeline.records.removals import AT_ONCE, FORMAT, Removal, files_of, read_removal
from batch_pipeline.records.request import Request
from batch_pipeline.records.results import read_receipts
from batch_pipeline.run.backend import LazyBackend
from batch_pipeline.run.lock import DriverLock
from batch_pipeline.run.owners import shared_steps
from batch_pipeline.run.snapshot import DriverState, Snapshot, take_snapshot
from batch_pipeline.wire import layout
from batch_pipeline.wire.errors import BackendFailed, RunConflict, StoreFailed
from batch_pipeline.wire.receipt import FileRecord, Receipt
from batch_pipeline.wire.store import NotInStore, Store

#: Ports of cells whose receipts are in memory at a time; their files go in a few calls.
BATCH: Final = 500
_LOG: Final = logging.getLogger(__name__)


def has_temporary(graph: Graph) -> bool:
    """Whether a step has a temporary output."""
    return any(temporary_ports(node) for node in graph)


def remove_at_end(
    snapshot: Snapshot, backend: LazyBackend, lock: DriverLock, run_ids: Sequence[str], *, is_new: bool
) -> Removed:
    """Removes what may go when a driver is through; `is_new`: cells were made since the snapshot.

    Without new cells the snapshot tells whether a look is worth it, and one LIST. What cannot be removed now is left to
    the next command: the run is not the worse for it.
    """
    request, store = snapshot.request, snapshot.request.store
    if request.settings.pipeline.keep_temporary or not has_temporary(request.graph):
        return Removed()
    used = used_outputs(snapshot.plan, snapshot.inventory)
    if not is_new and next(used, None) is None and next(store.keys(layout.REMOVING), None) is None:
        return Removed()
    of_run("")
    try:
        return remove_used(request, backend, lock, run_id=run_ids[-1] if run_ids else "")
    except (BackendFailed, RunConflict, StoreFailed) as error:
        _LOG.warning("temporary outputs stay %s", Facts(because=error.message))
        return Removed()


def remove_used(request: Request, backend: LazyBackend, lock: DriverLock, *, run_id: str = "") -> Removed:
    """Removes what may go of the samples of a request, whatever else it chooses; `run_id` is who did it.

    Raises RunConflict while another driver submits, and as `take_snapshot` and the store do.
    """
    store, chosen = request.store, request.selection
    lock.take()
    try:
        selection = Selection(accept_code_changes=chosen.accept_code_changes, min_success=chosen.min_success)
        snapshot = take_snapshot(DriverState.of(replace(request, selection=selection)), backend)
        live = frozenset(sample for job in snapshot.inventory.live for sample in job.samples)
        removed = _finish(store, live)
        shared = shared_steps(store, request.graph)
        used = (one for one in used_outputs(snapshot.plan, snapshot.inventory) if one.step not in shared)
        remover = _Remover(store, run_id)
        is_held = True
        while batch := list(islice(used, BATCH)):
            if not (is_held or _takes_again(lock)):
                break
            removed += remover.remove(batch)
            lock.release()
            is_held = False
    finally:
        lock.release()
    _LOG.info("removed temporary outputs %s", Facts(files=removed.files, size_bytes=removed.size_bytes))
    return removed


def _takes_again(lock: DriverLock) -> bool:
    """Takes the lock that was let go of between batches; whether nobody else had it since."""
    try:
        return lock.take_again()
    except RunConflict:
        return False


class _Remover:
    """Removes batches of outputs, and remembers the receipts of gathers, which many of them share."""

    def __init__(self, store: Store, run_id: str) -> None:
        self._store = store
        self._run_id = run_id
        self._gathers: dict[str, Mapping[str, FileRecord]] = {}

    def remove(self, batch: Sequence[UsedOutput]) -> Removed:
        """Removes the files of these outputs of which every reader's receipt names the bytes."""
        removals = list(self._removals(batch))
        if not removals:
            return Removed()
        store, marker = self._store, layout.removing(new_run_id())
        store.put(marker, json.dumps({"removals": [one.key for one in removals], "format": FORMAT}).encode())
        with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="removals") as pool:
            list(pool.map(lambda one: store.put(one.key, one.to_bytes()), removals))
        removed = _delete(store, removals)
        store.delete([marker])
        return removed

    def _removals(self, batch: Sequence[UsedOutput]) -> Iterator[Removal]:
        makers = {layout.receipt(one.step, one.sample, one.fingerprint) for one in batch}
        readers = {layout.receipt(*reader) for one in batch for reader in one.readers}
        receipts = self._read([*makers, *(readers - makers - self._gathers.keys())])
        read = {key: _inputs(receipt) for key, receipt in receipts.items() if key in readers} | self._gathers
        self._gathers |= {key: read[key] for key in read if f"/{layout.COHORT}/" in key}
        for one in batch:
            receipt = receipts.get(layout.receipt(one.step, one.sample, one.fingerprint))
            files = files_of(receipt, one.port) if receipt else []
            if receipt is None or not files:
                continue
            if all(_names(read.get(layout.receipt(*reader), {}), files) for reader in one.readers):
                yield Removal.of(receipt, one.port, run_id=self._run_id, removed_at=now())

    def _read(self, keys: Sequence[str]) -> dict[str, Receipt]:
        receipts = read_receipts(self._store, keys, damaged=lambda _: None)
        return {layout.receipt(one.step, one.sample, one.fingerprint): one for one in receipts}


def _inputs(receipt: Receipt) -> Mapping[str, FileRecord]:
    return {file.key: file for file in receipt.inputs}


def _names(inputs: Mapping[str, FileRecord], files: Sequence[FileRecord]) -> bool:
    """Whether a reader's receipt names the very bytes of these files."""
    read = [inputs.get(file.key) for file in files]
    return all(
        one is not None and bool(one.sha256) and (one.size_bytes, one.sha256) == (file.size_bytes, file.sha256)
        for one, file in zip(read, files, strict=True)
    )


def _finish(store: Store, live: AbstractSet[str]) -> Removed:
    """Removes files of which the records were written, and that a kill may have left."""
    removed = Removed()
    for marker in sorted(store.keys(layout.REMOVING)):
        try:
            keys = store.get_json(marker)["removals"]
        except (NotInStore, ValueError, KeyError):
            continue
        cells = [cell for cell in map(layout.port_of_removal, keys) if cell]
        if any(is_live(sample, live) for _, sample, _, _ in cells):
            # A live job may make them again.
            continue
        records = [
            read_removal(store, layout.receipt(step, sample, fingerprint), port)
            for step, sample, fingerprint, port in cells
        ]
        removed += _delete(store, [record for record in records if record is not None])
        store.delete([marker])
    return removed


def _delete(store: Store, removals: Sequence[Removal]) -> Removed:
    """Removes the files that records name, each in the folder of its own cell."""
    files = []
    for removal in removals:
        cell = layout.port_of_removal(removal.key)
        files += [file for file in removal.files if cell and layout.cell_of_result(file["key"]) == cell[:2]]
    store.delete([file["key"] for file in files])
    return Removed(files=len(files), size_bytes=sum(file["size_bytes"] for file in files))
