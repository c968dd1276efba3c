"""Submits a run that the gate let through: a driver job, recorded before it is sent.

    runs/{run_id}/config.toml                     the merged configuration      first: the order has its digest
    runs/{run_id}/run.json                        the record, of kind `driver`  then
    runs/{run_id}/driver.json                     the order                     then: the job names its digest
    runs/{run_id}/submissions/driver/intent.json  before SubmitJob, and sent.json with the native id after it

Nothing here takes a request: only a `Grant` is launched. What cannot be sent leaves a record that says so.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from batch_pipeline.access.configuration import driver_config
from batch_pipeline.access.driver_job import order_of, record_of, request_of
from batch_pipeline.access.gate import Grant
from batch_pipeline.backends.base import JobSubmitter
from batch_pipeline.backends.credentials import reach_of
from batch_pipeline.config import Settings
from batch_pipeline.log import Facts
from batch_pipeline.records.history import new_run_id
from batch_pipeline.records.toml import to_toml
from batch_pipeline.run.driver_jobs import SubmittedDriver, submit_driver
from batch_pipeline.wire import layout
from batch_pipeline.wire.digest import sha256_of_bytes
from batch_pipeline.wire.errors import RunConflict
from batch_pipeline.wire.store import Store, open_store

_LOG: Final = logging.getLogger(__name__)


def launch(
    grant: Grant,
    settings: Settings,
    backend: JobSubmitter,
    *,
    argv: Sequence[str] = (),
    sleep: Callable[[float], None] = time.sleep,
) -> SubmittedDriver:
    """Records a run and submits its driver.

    Raises StoreFailed with nothing sent, and what `Backend.submit` raises, after the record says so.
    """
    run_id = new_run_id()
    store = store_of(grant.store, settings)
    order = write_run(store, grant, settings, run_id, argv)
    request = request_of(grant, settings, store, run_id, order)
    native_id = submit_driver(store, backend, run_id, request, memory_mb=grant.memory_mb, sleep=sleep)
    level, user = grant.level, grant.identity.name
    about = {"run": run_id, "job": request.name, "native_id": native_id, "queue": request.queue}
    _LOG.info("launched %s", Facts(**about, user=user, dataset=grant.dataset, level=level, store=store.url))
    return SubmittedDriver(run_id=run_id, native_id=native_id, store=store.url, output=store.url_of(grant.output))


def store_of(url: str, settings: Settings) -> Store:
    """A dataset's store, reached with these settings; a folder is made. Raises StoreFailed, InvalidConfig."""
    return open_store(url, create="://" not in url, reach=reach_of(settings))


def write_run(store: Store, grant: Grant, settings: Settings, run_id: str, argv: Sequence[str]) -> bytes:
    """Writes configuration, record and order, in this order; returns the order's bytes. Raises RunConflict."""
    config = to_toml(driver_config(grant, run_id)).encode()
    _put_new(store, layout.driver_config(run_id), config)
    record = record_of(grant, settings, run_id, argv, sha256_of_bytes(config), store.url)
    _put_new(store, layout.run_record(run_id), _json(record))
    order = _json(order_of(grant, settings, run_id, sha256_of_bytes(config)).to_json())
    _put_new(store, layout.driver_order(run_id), order)
    return order


def _put_new(store: Store, key: str, data: bytes) -> None:
    """Writes what is never changed. A write whose answer was lost is made again, and meets its own object."""
    if not store.put_if_absent(key, data) and store.get(key) != data:
        raise RunConflict(f"There is {store.url_of(key)} already. Run the same command again: it takes another id.")


def _json(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, indent=1, ensure_ascii=False).encode()
