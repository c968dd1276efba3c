"""Reads which cell this is: the submission's header and the child's own row, with jitter where many children start.

Ten thousand children of an array start within seconds, and all of them want the same two objects of S3, which answers
5,500 reads a second below one prefix and asks of more to slow down (503):
https://docs.aws.amazon.com/AmazonS3/latest/userguide/optimizing-performance.html
So containers of one machine of ECS share both objects (`host_cache`), and who fetches the header of a large array
waits before: a random part of `spread_seconds`. On Fargate no two containers share a host, and each waits.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from functools import partial

from batch_pipeline.container.environment import CellLocation
from batch_pipeline.container.fetch import fetched
from batch_pipeline.container.files import Files
from batch_pipeline.container.host_cache import cached_bytes
from batch_pipeline.container.keep import standing_receipt
from batch_pipeline.container.logger import Logger
from batch_pipeline.container.process_cache import ProcessCache
from batch_pipeline.wire.contract import Variable
from batch_pipeline.wire.errors import ContractBroken, MissingInput
from batch_pipeline.wire.manifest import Manifest, Row
from batch_pipeline.wire.s3 import random_share
from batch_pipeline.wire.store import NotInStore

LOGGER = Logger(__name__)
#: Children of an array up to which nobody waits.
SPREAD_ABOVE = 1000
#: First reads a second of a larger array: each is followed by some five others.
FIRST_READS_PER_SECOND = 1000
MOST_SPREAD_SECONDS = 20.0
#: Rows that have more bytes together are not shared: each child reads its own alone.
MOST_SHARED_BYTES = 4 << 20


def read_cell(
    location: CellLocation,
    files: Files,
    cache: ProcessCache,
    *,
    sleep: Callable[[float], None] = time.sleep,
    share: Callable[[], float] = random_share,
) -> tuple[Manifest, Row]:
    """The manifest, as this cell reads it, and its row. Raises ContractBroken, UnsafeFolder, DiskFull, StoreFailed.

    `share` returns a random number from 0 to 1, and `sleep` waits for that part of `spread_seconds`.
    """

    def wait() -> None:
        seconds = round(share() * spread_seconds(location, files), 3)
        if seconds:
            LOGGER.info("waiting before the first read", seconds=seconds, array_size=location.array_size)
            sleep(seconds)

    key = location.manifest_key
    manifest = cache.keep(f"manifest {location.store} {key}", lambda: _read_manifest(location, files, wait))
    if location.index >= manifest.count:
        raise ContractBroken(
            f"{Variable.ARRAY_INDEX} is {location.index}, but {files.url_of(key)} has {manifest.count} cells: "
            "it is another job's. Submit again."
        )
    row = _read_row(location, files, manifest)
    return manifest.of_row(row), row


def spread_seconds(location: CellLocation, files: Files) -> float:
    """Over how many seconds the first reads of an array are spread.

    0 for up to `SPREAD_ABOVE` children, on the embedded Batch, and where the store is a folder.
    """
    if location.array_size <= SPREAD_ABOVE or not location.on_ecs or not files.parallel:
        return 0.0
    return min(MOST_SPREAD_SECONDS, location.array_size / FIRST_READS_PER_SECOND)


def is_done(manifest: Manifest, row: Row, files: Files) -> bool:
    """Whether an earlier attempt of this very job left the receipt of the cell. Raises StoreFailed.

    Another run's receipt proves nothing here: this job was sent to make the cell again.
    """
    receipt = standing_receipt(manifest, row, files)
    return receipt is not None and receipt.written_by[0] == manifest.run_id


def _read_manifest(location: CellLocation, files: Files, wait: Callable[[], None]) -> Manifest:
    key, sha256 = location.manifest_key, location.manifest_sha256

    def fetch() -> bytes:
        wait()
        return _fetched(files, key, sha256, "the job cannot know what to do")

    shares = _shares(location, files, sha256)
    data = cached_bytes("manifest.json", sha256, location.cache_root, fetch) if shares else fetch()
    try:
        value = json.loads(data)
    except ValueError as error:
        raise ContractBroken(f"{files.url_of(key)} is damaged ({error}). Submit again.") from error
    if not isinstance(value, dict):
        raise ContractBroken(f"{files.url_of(key)} is damaged: it is no JSON object. Submit again.")
    manifest = Manifest.from_json(value)
    if manifest.row_bytes < 1:
        raise ContractBroken(f"{files.url_of(key)} does not say how long a row is. Submit again.")
    return manifest


def _read_row(location: CellLocation, files: Files, manifest: Manifest) -> Row:
    key, sha256 = f"{location.manifest_key.rpartition('/')[0]}/rows.txt", location.rows_sha256
    width = manifest.row_bytes
    start = location.index * width
    lost = "the job cannot know its sample"
    if _shares(location, files, sha256) and manifest.count * width <= MOST_SHARED_BYTES:
        fetch = partial(_fetched, files, key, sha256, lost)
        line = cached_bytes("rows.txt", sha256, location.cache_root, fetch)[start : start + width]
    else:
        try:
            line = files.read_range(key, start, width)
        except NotInStore as error:
            raise ContractBroken(f"{files.url_of(key)} is gone; {lost}. Submit again.") from error
    if len(line) != width or not line.endswith(b"\n"):
        raise ContractBroken(f"{files.url_of(key)} is cut off at row {location.index}. Submit again.")
    return Row.from_line(line)


def _shares(location: CellLocation, files: Files, sha256: str) -> bool:
    """Whether other containers of this host may read the same object, and its digest is known."""
    return bool(sha256) and location.shares_host and location.array_size > 1 and files.parallel


def _fetched(files: Files, key: str, sha256: str, lost: str) -> bytes:
    try:
        return fetched(files, key, sha256)
    except MissingInput as error:
        raise ContractBroken(f"{files.url_of(key)} is gone; {lost}. Submit again.") from error
