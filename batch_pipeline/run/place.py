"""Where a run's jobs are, for a machine that knows nothing but the store: the run record tells.

What the command line, the environment or a settings file says goes before it. The embedded Batch answers on its own
machine alone; from another one there is what the store holds, and a sentence that says where to go.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from batch_pipeline.config import Settings
from batch_pipeline.records.place import place_of

if TYPE_CHECKING:
    from batch_pipeline.records.record import RunRecord


def reaching(settings: Settings, record: RunRecord) -> Settings:
    """The settings with which the backend of a run is reached."""
    if _is_elsewhere(settings, record):
        return settings
    return _with(settings, {"backend.name": record.backend, **record.place})


def why_unreachable(settings: Settings, record: RunRecord) -> str:
    """Why a command with these settings on this machine cannot ask the run's backend, and who can; empty: it can.

    Another backend would know nothing of its jobs, and what is unknown counts as lost.
    """
    if not _is_elsewhere(settings, record):
        return _why_another(reaching(settings, record), record)
    state = record.place.get("embedded.state", "")
    return (
        f"The jobs of run {record.run_id} are on the embedded Batch of {record.host}{f' ({state})' if state else ''},"
        " which only that machine can ask. Run the same command there."
    )


def _why_another(settings: Settings, record: RunRecord) -> str:
    """Why these settings lead to another backend than the run's; empty: they do not."""
    place = place_of(settings)
    differs = [
        f"{key} {record.place[key]!r}, not {place.get(key, '')!r}"
        for key in ("embedded.state", "aws.region", "aws.endpoint", "pool.url")
        if key in record.place and record.place[key] != place.get(key, "")
    ]
    if "pool.url" in place and "pool.url" not in record.place:
        differs.append("array jobs, not pilots")
    if record.backend != settings.backend.name:
        differs = [f"backend.name {record.backend!r}, not {settings.backend.name!r}"]
    if not differs:
        return ""
    return (
        f"Run {record.run_id} has its jobs at {'; '.join(differs)}. Give the same settings, wait for it, or cancel it"
        " with them."
    )


def _is_elsewhere(settings: Settings, record: RunRecord) -> bool:
    named = {"backend.name", "embedded.state"}.intersection(settings.origins)
    if record.backend != "embedded" or named or "embedded.state" not in record.place:
        return False
    return record.host != socket.gethostname()


def _with(settings: Settings, values: Mapping[str, str]) -> Settings:
    for key, value in values.items():
        section, _, name = key.partition(".")
        if key not in settings.origins and hasattr(getattr(settings, section, None), name):
            kind = type(getattr(getattr(settings, section), name))
            changed = replace(getattr(settings, section), **{name: kind(value)})
            settings = replace(settings, **{section: changed})
    return settings
