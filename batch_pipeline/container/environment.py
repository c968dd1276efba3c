"""Reads where a container is: one table from variables to a value, so that no other module looks at the environment."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from batch_pipeline.wire.contract import EXECUTION, METADATA, ON_EC2, Variable
from batch_pipeline.wire.errors import ContractBroken
from batch_pipeline.wire.scratch import scratch_root


@dataclass(frozen=True, kw_only=True)
class CellLocation:
    """Which attempt at which cell this container is, and where on the host it may work."""

    store: str
    manifest_key: str
    #: The child's row; 0 for a job that is no array.
    index: int
    #: Counts from 1.
    attempt: int
    #: The scheduler's id of the job or child; empty when none is set.
    native_id: str
    scratch_root: str
    cache_root: str
    #: What the scratch folder of this attempt is called.
    name: str
    host: str
    #: Children of the array; at the least, where Batch does not say it.
    array_size: int
    #: Whether ECS started this process, and whether it did so on a machine that has other containers of ours.
    on_ecs: bool
    shares_host: bool
    #: Digests in hex of the manifest and its rows; empty where the driver did not give them.
    manifest_sha256: str
    rows_sha256: str


def read_location(environment: Mapping[str, str]) -> CellLocation:
    """Where the container is. Raises ContractBroken naming the variable that is wrong."""
    store = environment.get(Variable.STORE, "")
    if not store:
        raise ContractBroken(f"{Variable.STORE} is not set; a cell needs the URL of its store. Submit the job again.")
    root = scratch_root(environment)
    native_id = environment.get(Variable.JOB_ID, "")
    attempt = _number(environment, Variable.ATTEMPT, 1)
    name = native_id.replace(":", "-").replace("/", "-") or f"process-{os.getpid()}"
    index = _number(environment, Variable.ARRAY_INDEX, 0)
    return CellLocation(
        store=store,
        manifest_key=environment[Variable.MANIFEST],
        index=index,
        attempt=attempt,
        native_id=native_id,
        scratch_root=root,
        cache_root=environment.get(Variable.CACHE) or root,
        name=f"{name}_{attempt}",
        host=os.uname().nodename,
        array_size=_number(environment, Variable.ARRAY_SIZE, index + 1),
        on_ecs=METADATA in environment or EXECUTION in environment,
        shares_host=environment.get(EXECUTION) == ON_EC2,
        manifest_sha256=environment.get(Variable.MANIFEST_SHA256, ""),
        rows_sha256=environment.get(Variable.ROWS_SHA256, ""),
    )


def _number(environment: Mapping[str, str], variable: str, default: int) -> int:
    text = environment.get(variable, "")
    if not text:
        return default
    if not text.isascii() or not text.isdigit():
        raise ContractBroken(f"{variable} is {text!r}, not a whole number; Batch sets it. Submit the job again.")
    return int(text)
