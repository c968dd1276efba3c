"""Reads which cell this is: the submission's header and the child's own row, in two requests."""

from __future__ import annotations

import json

from batch_pipeline.container.environment import CellLocation
from batch_pipeline.container.files import Files
from batch_pipeline.container.keep import standing_receipt
from batch_pipeline.container.process_cache import ProcessCache
from batch_pipeline.wire.contract import Variable
from batch_pipeline.wire.errors import ContractBroken
from batch_pipeline.wire.manifest import Manifest, Row
from batch_pipeline.wire.store import NotInStore


def read_cell(location: CellLocation, files: Files, cache: ProcessCache) -> tuple[Manifest, Row]:
    """The manifest, as this cell reads it, and its row. Raises ContractBroken, StoreFailed."""
    key = location.manifest_key
    manifest = cache.keep(f"manifest {location.store} {key}", lambda: _read_manifest(key, files))
    if location.index >= manifest.count:
        raise ContractBroken(
            f"{Variable.ARRAY_INDEX} is {location.index}, but {files.url_of(key)} has {manifest.count} cells: "
            "it is another job's. Submit again."
        )
    width = manifest.row_bytes
    rows = f"{key.rpartition('/')[0]}/rows.txt"
    try:
        line = files.read_range(rows, location.index * width, width)
    except NotInStore as error:
        raise ContractBroken(f"{files.url_of(rows)} is gone; the job cannot know its sample. Submit again.") from error
    if len(line) != width or not line.endswith(b"\n"):
        raise ContractBroken(f"{files.url_of(rows)} is cut off at row {location.index}. Submit again.")
    row = Row.from_line(line)
    return manifest.of_row(row), row


def is_done(manifest: Manifest, row: Row, files: Files) -> bool:
    """Whether an earlier attempt of this very job left the receipt of the cell. Raises StoreFailed.

    Another run's receipt proves nothing here: this job was sent to make the cell again.
    """
    receipt = standing_receipt(manifest, row, files)
    return receipt is not None and receipt.written_by[0] == manifest.run_id


def _read_manifest(key: str, files: Files) -> Manifest:
    try:
        value = json.loads(files.read(key))
    except NotInStore as error:
        raise ContractBroken(f"{files.url_of(key)} is gone; the job cannot know what to do. Submit again.") from error
    except ValueError as error:
        raise ContractBroken(f"{files.url_of(key)} is damaged ({error}). Submit again.") from error
    if not isinstance(value, dict):
        raise ContractBroken(f"{files.url_of(key)} is damaged: it is no JSON object. Submit again.")
    manifest = Manifest.from_json(value)
    if manifest.row_bytes < 1:
        raise ContractBroken(f"{files.url_of(key)} does not say how long a row is. Submit again.")
    return manifest
