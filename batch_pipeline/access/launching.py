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
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

from batch_pipeline.access.configuration import driver_config, to_toml
from batch_pipeline.access.driver_job import DRIVER, order_of, record_of, request_of
from batch_pipeline.access.gate import Grant
from batch_pipeline.backends.base import ArrayChild, JobCanceller, JobObserver, JobRequest, JobState, JobSubmitter
from batch_pipeline.backends.credentials import reach_of
from batch_pipeline.config import Settings
from batch_pipeline.log import Facts
from batch_pipeline.records.history import Happened, append, append_if_possible, new_run_id, now
from batch_pipeline.records.record import RunRecord, read_record, write_end
from batch_pipeline.records.submissions import Submission
from batch_pipeline.run.cancel import REASON
from batch_pipeline.run.live import LOOK_SECONDS, find_with_retries, record_sent, submissions
from batch_pipeline.wire import layout
from batch_pipeline.wire.digest import sha256_of_bytes
from batch_pipeline.wire.errors import BatchPipelineError, RunConflict, SubmissionUnknown
from batch_pipeline.wire.store import NotInStore, Store, open_store

_LOG: Final = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class SubmittedDriver:
    """A driver job that was submitted."""

    run_id: str
    native_id: str
    #: URL of the dataset's store, and of where the run writes.
    store: str
    output: str


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
    intent = Submission(
        run_id=run_id,
        job=DRIVER,
        step=DRIVER,
        native_id="",
        queue=request.queue,
        native_name=request.name,
        size=1,
        memory_mb=grant.memory_mb,
        sent_at=now(),
    )
    store.put_json(layout.submission(run_id, DRIVER, "intent.json"), asdict(intent))
    try:
        native_id = _sent(backend, request, sleep)
    except BatchPipelineError as error:
        append_if_possible(store, run_id, Happened.SUBMISSION_FAILED, error.message, job=DRIVER)
        write_end(store, run_id, done=0, failed=0)
        _LOG.info("launch failed %s", Facts(run=run_id, job=request.name, error=error.message))
        raise
    record_sent(store, replace(intent, native_id=native_id))
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


def ended(store: Store, backend: JobObserver, driver: SubmittedDriver) -> RunRecord | None:
    """The record of a run that is over; None while it is not.

    A driver that could not write its own end (killed, or never started) gets one that says so.
    """
    record = read_record(store, driver.run_id)
    if record.ended:
        return record
    summary = backend.summaries([driver.native_id])[driver.native_id]
    if not summary.state.final:
        return None
    # It may have written its end between the two looks.
    record = read_record(store, driver.run_id)
    if not record.ended and summary.state is not JobState.SUCCEEDED:
        why = summary.status_reason or next((child.status_reason for child in _children(backend, driver)), "")
        end = {
            "format": 1,
            "ended_at": now(),
            "done": 0,
            "failed": 1,
            "problem": f"the driver left no end: {why or summary.state.value}",
        }
        store.put_if_absent(layout.run_end(driver.run_id), _json(end))
    return read_record(store, driver.run_id)


def is_driver(store: Store, run_id: str) -> bool:
    """Whether a run is a driver's."""
    try:
        return read_record(store, run_id).kind == DRIVER
    except NotInStore:
        return False


def cancel_driver(store: Store, backend: JobCanceller, run_id: str, by: str) -> list[str]:
    """Ends a driver, and says so in its record; returns the stores of runs that it had begun, which go on.

    Repeating it is harmless, and a driver that has ended stays as it ended.
    """
    if read_record(store, run_id).ended:
        return []
    append(store, run_id, Happened.CANCELLED, f"by {by}", job=DRIVER)
    _LOG.info("cancelled %s", Facts(run=run_id, by=by))
    for submission in submissions(store, run_id, backend):
        backend.cancel(submission.native_id, REASON)
    end = {"format": 1, "ended_at": now(), "done": 0, "failed": 1, "problem": f"cancelled: by {by}"}
    store.put_if_absent(layout.run_end(run_id), _json(end))
    output = store.get_json(layout.run_record(run_id))["output_prefix"]
    return [store.url_of(output)] if store.folders(f"{output}/{layout.RUNS}") else []


def log_of(store: Store, run_id: str) -> dict[str, str]:
    """What the driver's attempts have printed so far, oldest first, by the keys of their logs."""
    keys = sorted(store.keys(layout.cell_logs(run_id, DRIVER, layout.COHORT)), key=_attempt_of)
    return {key: store.get(key).decode(errors="replace") for key in keys if key.endswith(".log")}


def _attempt_of(key: str) -> tuple[int, str]:
    name = key.rsplit("/", 1)[-1].partition(".")[0]
    return (int(name) if name.isdigit() else 0, key)


def _children(backend: JobObserver, driver: SubmittedDriver) -> Iterator[ArrayChild]:
    return backend.children(driver.native_id, (JobState.FAILED,))


def _sent(backend: JobSubmitter, request: JobRequest, sleep: Callable[[float], None]) -> str:
    try:
        return backend.submit(request)
    except SubmissionUnknown as error:
        _LOG.info("in doubt %s", Facts(job=request.name, error=error.message))
        sleep(LOOK_SECONDS)
        native_id = find_with_retries(backend, request.name, request.queue, sleep)
        result = "queued" if native_id is not None else "not queued, sent again"
        _LOG.info("looked up in doubt %s", Facts(job=request.name, native_id=native_id or "", result=result))
        return native_id if native_id is not None else backend.submit(request)


def _put_new(store: Store, key: str, data: bytes) -> None:
    """Writes what is never changed. A write whose answer was lost is made again, and meets its own object."""
    if not store.put_if_absent(key, data) and store.get(key) != data:
        raise RunConflict(f"There is {store.url_of(key)} already. Run the same command again: it takes another id.")


def _json(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, indent=1, ensure_ascii=False).encode()
