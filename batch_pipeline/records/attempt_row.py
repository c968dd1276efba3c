"""An attempt at a cell as a row: the columns of a trace file, and what records say of each."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from typing import Any, Final

from batch_pipeline.records.cell_table import milliseconds
from batch_pipeline.wire.receipt import Failure, Receipt

#: An availability zone of AWS: `eu-west-1a`.
_ZONE: Final = re.compile(r"-\d+[a-z]\Z")


@dataclass(frozen=True, kw_only=True, slots=True)
class AttemptRow:
    """One attempt at a cell. The fields are a promise to scripts; what nobody knows is None or empty.

    A cell of which no attempt is known has one row, without a number.
    """

    run_id: str
    step: str
    #: `layout.COHORT` of a gather.
    sample: str
    #: 1 for the first.
    attempt: int | None
    #: `done`, `found unchanged`, `failed`, `live`, or `not known`: it left no record.
    state: str
    #: Value of an `EndReason`.
    reason: str = ""
    exit_code: int | None = None
    fingerprint: str
    native_id: str
    #: ISO-8601 in UTC with milliseconds: of its submission, and of the attempt.
    queued_at: str = ""
    started_at: str = ""
    stopped_at: str = ""
    duration_s: float | None = None
    #: What its job had.
    cpus: int | None = None
    memory_mb: int | None = None
    peak_memory_bytes: int | None = None
    #: Processor time of all its processes.
    cpu_s: float | None = None
    #: Staged in and out.
    in_bytes: int | None = None
    out_bytes: int | None = None
    #: Empty where the cell table names the instance type instead.
    host: str = ""
    instance_type: str = ""
    purchase: str = ""
    zone: str = ""
    #: Of its log in the store.
    log_url: str = ""


#: The columns, in order.
COLUMNS: Final = tuple(column.name for column in fields(AttemptRow))


def measures(record: Receipt | Failure) -> dict[str, Any]:
    """Columns of an attempt that left a record."""
    return {
        "queued_at": record.queued_at,
        "started_at": record.started_at,
        "stopped_at": record.stopped_at,
        "duration_s": (milliseconds(record.stopped_at) - milliseconds(record.started_at)) / 1000,
        "cpus": record.cpus or None,
        "memory_mb": record.memory_mb or None,
        "peak_memory_bytes": record.usage.peak_memory_bytes or None,
        "cpu_s": round(record.usage.cpu_seconds, 3),
        "in_bytes": record.usage.staged_in_bytes,
        "out_bytes": record.usage.staged_out_bytes,
        "host": record.host,
        "instance_type": record.instance_type,
        "purchase": record.purchase,
        "zone": record.availability_zone,
    }


def machine_columns(words: str) -> dict[str, str]:
    """Columns of what the cell table says of a machine: `m5.xlarge, spot, eu-west-1a`, else a host."""
    instance_type, *others = words.split(", ")
    if not others:
        return {"host": words}
    zone = next((word for word in others if _ZONE.search(word)), "")
    return {
        "instance_type": instance_type,
        "purchase": next((word for word in others if word != zone), ""),
        "zone": zone,
    }
