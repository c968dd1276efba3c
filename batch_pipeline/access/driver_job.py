"""Builds a driver job from a grant: the run's record, the container's order, the job request. Pure: writes nothing."""

from __future__ import annotations

import socket
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import batch_pipeline
from batch_pipeline.access.gate import Grant
from batch_pipeline.backends.base import JobRequest
from batch_pipeline.backends.definitions import driver_definition, sanitised
from batch_pipeline.backends.payload import LAST_TAG, OWN_TAGS
from batch_pipeline.config import Settings, variable_of
from batch_pipeline.records.history import now
from batch_pipeline.records.origin import package_versions
from batch_pipeline.records.place import place_of
from batch_pipeline.records.record import RunRecord
from batch_pipeline.records.record_writing import toolchain_of
from batch_pipeline.run.driver_jobs import DRIVER, driver_variables
from batch_pipeline.run.folders import local_path
from batch_pipeline.wire import layout
from batch_pipeline.wire.contract import Variable
from batch_pipeline.wire.digest import fingerprint_of
from batch_pipeline.wire.order import Checkout, DriverOrder, secret_variable
from batch_pipeline.wire.scrub import scrubbed_words
from batch_pipeline.wire.store import Store


def record_of(
    grant: Grant, settings: Settings, run_id: str, argv: Sequence[str], config_sha256: str, store_url: str
) -> dict[str, Any]:
    """The record: what every run's has, and what the gate knew besides."""
    record = asdict(_run_record(grant, settings, run_id, config_sha256, store_url))
    begun = {key: item for key, item in record.items() if key not in ("ended_at", "done", "failed", "problem")}
    return begun | {
        "command": scrubbed_words(list(argv)),
        "tree": grant.tree,
        "submodules": {item.path: item.commit for item in grant.submodules},
        "environment": dict(grant.environment),
        "identity_source": grant.identity.source,
        "policy_sha256": grant.policy_sha256,
    }


def _run_record(grant: Grant, settings: Settings, run_id: str, config_sha256: str, store_url: str) -> RunRecord:
    return RunRecord(
        run_id=run_id,
        started_at=now(),
        kind=DRIVER,
        pipeline=grant.entry or grant.script[0],
        pipeline_name=grant.dataset,
        pipeline_digest=fingerprint_of([grant.repository, grant.commit, grant.tree, grant.entry, grant.image]),
        images={DRIVER: grant.image} if grant.image else {},
        user=grant.identity.name,
        identity=grant.identity.name,
        host=socket.gethostname(),
        repository=grant.repository,
        commit=grant.commit,
        branch=grant.protected_branch if grant.level.privileged else next(iter(grant.branches), ""),
        tags=grant.tags,
        argv=scrubbed_words(list(grant.script)),
        cwd=grant.cwd,
        description=grant.description,
        dataset=grant.dataset,
        access_level=grant.level.value,
        output_prefix=grant.output,
        backend=settings.backend.name,
        queue=grant.queue,
        store=store_url,
        config_sha256=config_sha256,
        jobs=1,
        versions=package_versions(),
        place=place_of(settings),
        toolchain=toolchain_of(settings),
    )


def order_of(grant: Grant, settings: Settings, run_id: str, config_sha256: str) -> DriverOrder:
    """The order that the container carries out."""
    root = Checkout(url=grant.repository, commit=grant.commit, tree=grant.tree, secret=grant.secret)
    inside = (
        Checkout(url=item.url, commit=item.commit, tree=item.tree, path=item.path, secret=item.secret)
        for item in grant.submodules
    )
    return DriverOrder(
        run_id=run_id,
        dataset=grant.dataset,
        access_level=grant.level.value,
        user=grant.identity.name,
        output=grant.output,
        script=grant.script,
        entry=grant.entry,
        cwd=grant.cwd,
        checkouts=(root, *inside) if grant.repository else (),
        environment=dict(grant.environment),
        settings=_settings_of(grant, settings),
        config=layout.driver_config(run_id),
        config_sha256=config_sha256,
    )


def request_of(grant: Grant, settings: Settings, store: Store, run_id: str, order: bytes) -> JobRequest:
    """The driver's job: the level's role and queue, and of the run no more than where its order is."""
    secrets = (grant.secret, *(item.secret for item in grant.submodules))
    references = {secret for secret in secrets if secret.startswith("secretsmanager:")}
    definition = driver_definition(
        settings,
        image=grant.image,
        cpus=grant.cpu,
        memory_mb=grant.memory_mb,
        job_role=grant.job_role,
        execution_role=grant.execution_role,
        secrets={secret_variable(reference): reference.partition(":")[2] for reference in references},
    )
    own = dict(zip(OWN_TAGS, (grant.dataset, run_id, DRIVER), strict=True))
    return JobRequest(
        name=f"{sanitised(grant.dataset)}-{run_id}-{DRIVER}",
        queue=grant.queue,
        size=1,
        definition=definition,
        environment={
            **driver_variables(store, run_id, order),
            Variable.FOLDERS: ":".join(_folders(grant, settings)),
        },
        tags={**settings.tags, **own, LAST_TAG: "yes", "batch-pipeline-level": grant.level.value},
        share_identifier=settings.backend.share_identifier,
        priority=settings.backend.priority if settings.backend.priority >= 0 else None,
    )


def _folders(grant: Grant, settings: Settings) -> list[str]:
    """Repositories of this machine, and files with tokens, which a container here must be given."""
    if settings.backend.name != "embedded" or not settings.embedded.container:
        return []
    places = [grant.repository, *(item.url for item in grant.submodules)]
    secrets = (grant.secret, *(item.secret for item in grant.submodules))
    places += [secret.removeprefix("file:") for secret in secrets if secret.startswith("file:")]
    return sorted({path for place in places if (path := local_path(place))})


def _settings_of(grant: Grant, settings: Settings) -> dict[str, str]:
    """The variables by which a pipeline in the script submits where its driver ran, with the level's roles."""
    values: dict[str, object] = {
        "backend.name": settings.backend.name,
        "backend.queue": grant.queue,
        "pipeline.description": grant.description,
    }
    if settings.backend.name == "embedded":
        values |= {f"embedded.{key}": value for key, value in asdict(settings.embedded).items()}
        values["embedded.state"] = str(settings.embedded.folder)
    else:
        place = place_of(settings)
        values |= {**place, "aws.job_role": grant.job_role, "aws.log_group": settings.aws.log_group}
        values["aws.execution_role"] = grant.execution_role or settings.aws.execution_role
    variables = {variable_of(key): str(value) for key, value in values.items() if value not in ("", 0)}
    return variables | _of_this_machine(settings)


def _of_this_machine(settings: Settings) -> dict[str, str]:
    """Where a driver is a process of this machine: this very package, and the Python that has what it needs."""
    if settings.uses_containers:
        return {}
    package = str(Path(batch_pipeline.__file__).resolve().parents[1])
    programs = f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin"
    return {"PYTHONPATH": package, "PATH": programs, "PYTHONDONTWRITEBYTECODE": "1"}
