"""Orders a driver that runs as a job (`run --driver batch`): its bundle, its record, its job.

The bundle (`run.driver_bundle`) is named by its digest, which the order has, whose digest the job has: what the job
runs is what the command saw.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import replace
from itertools import chain
from typing import Any, Final

from batch_pipeline import backends
from batch_pipeline.backends.account import Inspectable
from batch_pipeline.backends.base import JobRequest
from batch_pipeline.backends.definitions import driver_definition, driver_retry_strategy, resources, sanitised
from batch_pipeline.backends.limits import check_all, largest_definitions
from batch_pipeline.backends.payload import LAST_TAG, OWN_TAGS
from batch_pipeline.log import Facts
from batch_pipeline.pipeline.images import FILE as IMAGES
from batch_pipeline.pipeline.images import read_pins
from batch_pipeline.pipeline.plan import Inventory
from batch_pipeline.pipeline.review import require_sound
from batch_pipeline.pipeline.workflow import file_of
from batch_pipeline.records.history import new_run_id
from batch_pipeline.records.origin import ProvenanceReader
from batch_pipeline.records.people import user_name
from batch_pipeline.records.record_writing import begun_run, write_record
from batch_pipeline.records.request import Request
from batch_pipeline.run.bundle import Bundle, upload
from batch_pipeline.run.context import context_of
from batch_pipeline.run.cost_bound import require_cost
from batch_pipeline.run.driver_bundle import REQUEST, SETTINGS, memory_mb_of, pack_driver
from batch_pipeline.run.driver_jobs import (
    DRIVER,
    SubmittedDriver,
    driver_variables,
    forget_ended,
    live_drivers,
    submit_driver,
)
from batch_pipeline.run.local_capacity import embedded_capacity, require_capacity
from batch_pipeline.run.lock import DriverLock
from batch_pipeline.run.preflight import account_findings, preflight, refuse_conflicts, require_ready
from batch_pipeline.run.snapshot import Snapshot
from batch_pipeline.wire import layout
from batch_pipeline.wire.errors import BackendFailed, InvalidUse, RunConflict, StoreFailed
from batch_pipeline.wire.order import DriverOrder, secret_variable
from batch_pipeline.wire.toolchain import Toolchain

#: Runs the pipeline's file in the job.
MODULE: Final = "batch_pipeline.cli.driver_job"
#: vCPUs of a driver: on this machine, which steps may need whole, none; the embedded Batch counts thousandths.
CPUS: Final = {"aws": 1.0, "embedded": 0.0001}
_LOG: Final = logging.getLogger(__name__)


def order_driver(
    request: Request, snapshot: Snapshot, *, events: bool = False, sleep: Callable[[float], None] = time.sleep
) -> SubmittedDriver:
    """Checks all that can be known to be wrong, records the driver and submits its job, which prints its `events`.

    Raises InvalidUse and NotReady for what a run could not have, RunConflict while another driver runs as a job or
    submits; then nothing is submitted. Raises what `submit_driver` raises.
    """
    refuse_conflicts(snapshot.plan)
    require_sound(request.graph)
    definition = definition_of(request)
    bundle = pack_driver(request)
    lock = DriverLock(request.store)
    with closing(backends.create(request.settings)) as backend:
        backend.wake()
        _require_ready(request, snapshot, definition, backend)
        lock.take()
        try:
            live = live_drivers(request.store, request.settings)
            if live:
                raise RunConflict(
                    f"The driver {live[0].run_id} (job {live[0].native_id}) runs in this store. Follow it with `watch`,"
                    f" or end it: cancel {live[0].run_id}."
                )
            forget_ended(request.store)
            return _submit(request, snapshot, definition, bundle, backend, events, sleep)
        finally:
            lock.release()


def definition_of(request: Request) -> dict[str, Any]:
    """The job definition of the driver. Raises InvalidUse for what its backend lacks for one."""
    settings = request.settings
    if settings.pool.pilots:
        raise InvalidUse("Pilots have no driver that runs as a job. Drop --driver batch, or --pilots and pool.pilots.")
    if settings.embedded.container and settings.backend.name == "embedded":
        raise InvalidUse(
            "A driver cannot run in a container of this machine, whose embedded Batch it would not reach. Drop"
            " --driver batch, or --container and embedded.container."
        )
    image, url = "", settings.notify.url
    if settings.backend.name == "aws":
        if not settings.aws.driver_role:
            raise InvalidUse(
                "A driver that runs as a job needs a role that may submit, and aws.driver_role is not set. `deploy"
                " infrastructure` makes one (its output DriverRoleArn); set it, or drop --driver batch."
            )
        pin = read_pins(request.graph.root).get(DRIVER)
        if pin is None:
            raise InvalidUse(f"No image of the driver is pinned in {IMAGES}. Build it: deploy images driver.")
        image = pin.image
    return driver_definition(
        settings,
        image=image,
        cpus=CPUS[settings.backend.name],
        memory_mb=memory_mb_of(request),
        job_role=settings.aws.driver_role,
        execution_role="",
        secrets={secret_variable(url): url.partition(":")[2]} if url.startswith("secretsmanager:") else {},
        retry=driver_retry_strategy(),
    )


def _require_ready(request: Request, snapshot: Snapshot, definition: Mapping[str, Any], backend: object) -> None:
    """What `run` looks at before it submits, and whether there is room beside the driver."""
    settings, plan = request.settings, snapshot.plan
    context = context_of(request, reference=snapshot.reference)
    wanted = {job.step for job in plan.jobs}
    definitions = largest_definitions(context.definitions, plan)
    require_capacity(settings, definitions, wanted)
    require_cost(request, plan, snapshot.inventory, backend, ())
    check_all(plan, context)
    if settings.backend.name != "embedded":
        require_remote_sources(snapshot.inventory)
        findings = preflight(request, backend, plan, reference=snapshot.reference)
        if isinstance(backend, Inspectable):
            findings += account_findings(backend.account, settings, {DRIVER: definition})
        require_ready(findings)
        return
    most = embedded_capacity(settings.embedded)[1] - memory_mb_of(request)
    for step in sorted(wanted):
        if (memory_mb := resources(definitions[step])[1]) > most:
            raise InvalidUse(
                f"Step {step} asks for {memory_mb:,} MiB of memory, and beside its driver the embedded backend has"
                f" {most:,}, so its jobs would wait for ever. Drop --driver batch, or ask for less."
            )


def require_remote_sources(inventory: Inventory) -> None:
    """Raises InvalidUse for a source that is a file of this machine: a driver that is a job on AWS plans without it."""
    for sample, files_by_port in inventory.sources.items():
        for file in chain.from_iterable(files_by_port.values()):
            if file.url.startswith("file://"):
                raise InvalidUse(
                    f"Source {file.url} of sample {sample!r} is a file of this machine, which a driver on AWS does not"
                    " find. Put it into the bucket, or drop --driver batch."
                )


def _submit(
    request: Request,
    snapshot: Snapshot,
    definition: Mapping[str, Any],
    bundle: Bundle,
    backend: Any,
    events: bool,
    sleep: Callable[[float], None],
) -> SubmittedDriver:
    """Bundle, record, order, marker, then the job."""
    store = request.store
    provenance = ProvenanceReader(request.graph.root)
    run_id = new_run_id()
    upload(bundle, store)
    origin = provenance.read(backend, [request.graph.root / name for name in bundle.names])
    begun = begun_run(request, snapshot.plan, run_id, snapshot.reference, bundle.sha256, origin)
    record = replace(begun.record, kind=DRIVER, jobs=1)
    write_record(store, replace(begun, record=record), request, snapshot.plan, live=False)
    order = json.dumps(_order_of(request, run_id, bundle, events).to_json(), indent=1, ensure_ascii=False).encode()
    store.put(layout.driver_order(run_id), order)
    store.put_json(layout.driving(run_id), {"run_id": run_id, "started_at": record.started_at, "format": 1})
    job = _job_of(request, run_id, definition, order)
    try:
        native_id = submit_driver(store, backend, run_id, job, memory_mb=memory_mb_of(request), sleep=sleep)
    except (BackendFailed, StoreFailed):
        store.delete([layout.driving(run_id)])
        raise
    _LOG.info("driver submitted %s", Facts(run=run_id, job=job.name, native_id=native_id, queue=job.queue))
    return SubmittedDriver(run_id=run_id, native_id=native_id, store=store.url, output=store.url)


def _order_of(request: Request, run_id: str, bundle: Bundle, events: bool) -> DriverOrder:
    file = file_of(request.workflow).relative_to(request.graph.root).as_posix()
    words: tuple[str, ...] = (
        "-m",
        MODULE,
        file,
        request.workflow.__qualname__,
        "--config",
        SETTINGS,
        "--resume",
        REQUEST,
    )
    words += ("--events", "-") if events else ()
    local = not request.settings.uses_containers
    path = Toolchain.of_this_process().environment()["PYTHONPATH"]
    return DriverOrder(
        run_id=run_id,
        dataset="",
        access_level="",
        user=user_name(),
        output="",
        script=(sys.executable if local else "python3", *words),
        settings={"PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"} if local else {},
        bundle_sha256=bundle.sha256,
    )


def _job_of(request: Request, run_id: str, definition: Mapping[str, Any], order: bytes) -> JobRequest:
    """The driver's job: of the run no more than where its order is."""
    settings, store = request.settings, request.store
    name = settings.pipeline.name or request.graph.name
    return JobRequest(
        name=f"{sanitised(name)}-{run_id}-{DRIVER}",
        # Where it is interrupted least.
        queue=settings.backend.on_demand_queue or settings.backend.queue,
        size=1,
        definition=definition,
        environment=driver_variables(store, run_id, order),
        tags={**settings.tags, **dict(zip(OWN_TAGS, (name, run_id, DRIVER), strict=True)), LAST_TAG: "yes"},
        share_identifier=settings.backend.share_identifier,
        priority=settings.backend.priority if settings.backend.priority >= 0 else None,
    )
