"""Drivers that run as jobs: recorded and submitted once, observed, and ended.

    runs/{run_id}/submissions/driver/intent.json  before SubmitJob, and sent.json with the native id after it
    driving/{run_id}.json                         there while the driver of a pipeline may run (not those of `submit`)

A driver job is a run of kind `driver`, whose script is in its order (`wire.order`): what `submit` lets through, or the
pipeline itself (`run --driver batch`). What it begins are runs of their own, which name it as their parent.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

from batch_pipeline import backends
from batch_pipeline.backends.base import ArrayChild, JobCanceller, JobObserver, JobRequest, JobState, JobSubmitter
from batch_pipeline.config import Settings
from batch_pipeline.log import Facts
from batch_pipeline.records.history import Happened, append, append_if_possible, now
from batch_pipeline.records.record import RunRecord, read_record, write_end
from batch_pipeline.records.submissions import Submission
from batch_pipeline.run.cancel import REASON
from batch_pipeline.run.live import LOOK_SECONDS, find_with_retries, record_sent, submissions
from batch_pipeline.run.place import reaching, why_unreachable
from batch_pipeline.wire import layout
from batch_pipeline.wire.contract import Variable
from batch_pipeline.wire.digest import sha256_of_bytes
from batch_pipeline.wire.errors import BatchPipelineError, SubmissionUnknown
from batch_pipeline.wire.store import NotInStore, Store

#: The job of a run of kind `driver`, in keys and names.
DRIVER: Final = "driver"
#: Seconds within which a driver that was cancelled has ended: Batch kills it after 30.
END_SECONDS: Final = 90.0
#: How the problem of a run begins that somebody cancelled.
_CANCELLED: Final = "cancelled: "
_LOG: Final = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class SubmittedDriver:
    """A driver job that was submitted."""

    run_id: str
    native_id: str
    #: URL of the store that has its record, and of where the run writes.
    store: str
    output: str


def driver_variables(store: Store, run_id: str, order: bytes) -> dict[str, str]:
    """The environment of a driver's job: where its order is, and the digest that it must have."""
    return {
        **store.variables,
        # The embedded Batch gives to fetch-and-run what has this variable, as if it were an image's entry.
        Variable.FILE_TYPE: DRIVER,
        Variable.STORE: store.url,
        Variable.DRIVER: layout.driver_order(run_id),
        Variable.DRIVER_SHA256: sha256_of_bytes(order),
        Variable.RUN_ID: run_id,
    }


def submit_driver(
    store: Store,
    backend: JobSubmitter,
    run_id: str,
    request: JobRequest,
    *,
    memory_mb: int,
    sleep: Callable[[float], None] = time.sleep,
) -> str:
    """Submits the driver job of a run that is recorded, and returns its native id.

    Raises StoreFailed with nothing sent, and what `JobSubmitter.submit` raises, after the record says so.
    """
    intent = Submission(
        run_id=run_id,
        job=DRIVER,
        step=DRIVER,
        native_id="",
        queue=request.queue,
        native_name=request.name,
        # It has no cells, like a join.
        join=True,
        size=1,
        memory_mb=memory_mb,
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
    return native_id


def ended(store: Store, backend: JobObserver, run_id: str, native_id: str) -> RunRecord | None:
    """The record of a driver that is over; None while it is not.

    A driver that could not write its own end (killed, or never started) gets one that says so.
    """
    record = read_record(store, run_id)
    if record.ended:
        return record
    summary = backend.summaries([native_id])[native_id]
    if not summary.state.final:
        return None
    # It may have written its end between the two looks.
    record = read_record(store, run_id)
    if not record.ended and summary.state is not JobState.SUCCEEDED:
        why = summary.status_reason or next((child.status_reason for child in _children(backend, native_id)), "")
        _write_end(store, run_id, f"the driver left no end: {why or summary.state.value}")
    return read_record(store, run_id)


def exit_code_of(store: Store, run_id: str) -> int:
    """The exit code of a driver that has ended: its script's, or 1 for one that left none."""
    end = store.get_json(layout.run_end(run_id))
    return int(end.get("exit_code", bool(end.get("problem"))))


def is_driver(store: Store, run_id: str) -> bool:
    """Whether a run is a driver's."""
    try:
        return read_record(store, run_id).kind == DRIVER
    except NotInStore:
        return False


def cancel_driver(store: Store, backend: JobCanceller, run_id: str, by: str) -> list[str]:
    """Ends a driver, and says so in its record; returns the stores of runs that it had begun elsewhere, which go on.

    Repeating it is harmless, and a driver that has ended stays as it ended.
    """
    if read_record(store, run_id).ended:
        return []
    append(store, run_id, Happened.CANCELLED, f"by {by}", job=DRIVER)
    _LOG.info("cancelled %s", Facts(run=run_id, by=by))
    for submission in submissions(store, run_id, backend):
        backend.cancel(submission.native_id, REASON)
    _write_end(store, run_id, f"{_CANCELLED}by {by}")
    output = store.get_json(layout.run_record(run_id))["output_prefix"]
    return [store.url_of(output)] if output and store.folders(f"{output}/{layout.RUNS}") else []


def log_of(store: Store, run_id: str) -> dict[str, str]:
    """What the driver's attempts have printed so far, oldest first, by the keys of their logs."""
    keys = sorted(store.keys(layout.cell_logs(run_id, DRIVER, layout.COHORT)), key=_attempt_of)
    return {key: store.get(key).decode(errors="replace") for key in keys if key.endswith(".log")}


@dataclass(frozen=True, kw_only=True)
class LiveDriver:
    """The driver of a pipeline that runs as a job, or waits to."""

    run_id: str
    native_id: str
    #: Those that lead to its backend.
    settings: Settings
    #: Why this machine cannot ask that; empty: it can.
    unreachable: str = ""


def live_drivers(store: Store, settings: Settings) -> list[LiveDriver]:
    """The drivers of pipelines that have not ended, oldest first; writes nothing but ids of doubtful submissions.

    One LIST, and a DescribeJobs for each that is marked.
    """
    marked = sorted(map(_marked, store.keys(layout.DRIVING)))
    return [driver for run_id in marked if (driver := _live(store, settings, run_id)) is not None]


def forget_ended(store: Store) -> None:
    """Removes the markers of drivers, none of which is live, and says of those that left no end that they ended.

    Under the lock: nobody is about to submit one.
    """
    keys = list(store.keys(layout.DRIVING))
    for key in keys:
        _write_end(store, _marked(key), "the driver left no end")
    store.delete(keys)


def end_driver(store: Store, driver: LiveDriver, by: str, *, sleep: Callable[[float], None] = time.sleep) -> bool:
    """Cancels the driver of a pipeline and waits until it submits nothing more; whether it has ended."""
    with closing(backends.create(driver.settings)) as backend:
        cancel_driver(store, backend, driver.run_id, by)
        waited = 0.0
        while not backend.summaries([driver.native_id])[driver.native_id].state.final:
            if waited >= END_SECONDS:
                return False
            sleep(LOOK_SECONDS)
            waited += LOOK_SECONDS
    store.delete([layout.driving(driver.run_id)])
    return True


def runs_of(store: Store, driver_id: str) -> list[str]:
    """Runs that a driver began in its own store, oldest first. One LIST, and a GET for each younger run."""
    return [
        run_id
        for run_id in sorted(store.folders(layout.RUNS))
        if run_id > driver_id and _is_of(store, run_id, driver_id)
    ]


def _marked(key: str) -> str:
    return key.removeprefix(layout.DRIVING).removesuffix(".json")


def _is_of(store: Store, run_id: str, driver_id: str) -> bool:
    try:
        return read_record(store, run_id).parent_run == driver_id
    except NotInStore:
        return False


def _live(store: Store, settings: Settings, run_id: str) -> LiveDriver | None:
    record = read_record(store, run_id)
    # One that was cancelled may still submit until its job has ended.
    if record.ended and not record.problem.startswith(_CANCELLED):
        return None
    reached, unreachable = reaching(settings, record), why_unreachable(settings, record)
    if unreachable:
        sent = submissions(store, run_id)
        return LiveDriver(
            run_id=run_id, native_id=sent[0].native_id if sent else "", settings=reached, unreachable=unreachable
        )
    with closing(backends.create(reached)) as backend:
        sent = submissions(store, run_id, backend)
        ids = [item.native_id for item in sent]
        if not ids or backend.summaries(ids)[ids[0]].state.final:
            return None
    return LiveDriver(run_id=run_id, native_id=ids[0], settings=reached)


def _attempt_of(key: str) -> tuple[int, str]:
    name = key.rsplit("/", 1)[-1].partition(".")[0]
    return (int(name) if name.isdigit() else 0, key)


def _children(backend: JobObserver, native_id: str) -> Iterator[ArrayChild]:
    return backend.children(native_id, (JobState.FAILED,))


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


def _write_end(store: Store, run_id: str, problem: str) -> None:
    """Says how a driver ended that could not say it itself."""
    end: Mapping[str, Any] = {"format": 1, "ended_at": now(), "done": 0, "failed": 1, "problem": problem}
    store.put_if_absent(layout.run_end(run_id), json.dumps(end, indent=1, ensure_ascii=False).encode())
