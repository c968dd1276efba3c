"""What differs between two runs: code, settings, the parts of each step, samples. From their records alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any, Final

from batch_pipeline.records.record import RunRecord
from batch_pipeline.records.registry import samples_of
from batch_pipeline.wire import layout
from batch_pipeline.wire.store import NotInStore, Store

#: Fields that differ between any two runs, or that are told in parts.
_LEFT_OUT: Final = frozenset(
    {
        "run_id",
        "started_at",
        "ended_at",
        "format",
        "params",
        "step_digests",
        "config_sha256",
        "samples_sha256",
        "images",
    }
)
ABSENT: Final = "(absent)"


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One thing that two runs do not have in common."""

    #: `run`, `settings`, `step kallisto` or `samples`.
    about: str
    field: str
    before: str
    after: str


def differences(store: Store, before: RunRecord, after: RunRecord) -> list[Difference]:
    """Everything that differs, in the order: the runs, their settings, their steps, their samples."""
    return [
        *_changed("run", _record(before), _record(after)),
        *_changed("settings", _settings(store, before), _settings(store, after)),
        *_steps(_parts(store, before), _parts(store, after)),
        *_samples(_listed(store, before), _listed(store, after)),
    ]


def _record(record: RunRecord) -> dict[str, str]:
    named = {item.name: getattr(record, item.name) for item in fields(record) if item.name not in _LEFT_OUT}
    return dict(_flat(named))


def _settings(store: Store, record: RunRecord) -> dict[str, str]:
    try:
        return dict(_flat(store.get_json(layout.run_config(record.run_id))["settings"]))
    except NotInStore:
        return {}


def _parts(store: Store, record: RunRecord) -> dict[str, dict[str, str]]:
    """Step -> what its fingerprint is made of."""
    try:
        parts = store.get_json(layout.plan(record.run_id))["parts"]
    except NotInStore:
        return {}
    return {step: dict(_flat(part)) for step, part in parts.items()}


def _steps(before: Mapping[str, dict[str, str]], after: Mapping[str, dict[str, str]]) -> Iterator[Difference]:
    for step in [*before, *(step for step in after if step not in before)]:
        if step not in before or step not in after:
            there = ("there", ABSENT) if step in before else (ABSENT, "there")
            yield Difference(about=f"step {step}", field="step", before=there[0], after=there[1])
        else:
            yield from _changed(f"step {step}", before[step], after[step])


def _listed(store: Store, record: RunRecord) -> dict[str, str]:
    try:
        return samples_of(store, record.run_id)
    except NotInStore:
        return {}


def _samples(before: Mapping[str, str], after: Mapping[str, str]) -> Iterator[Difference]:
    for name in [*before, *(name for name in after if name not in before)]:
        if before.get(name) != after.get(name):
            rows = (_row(before.get(name)), _row(after.get(name)))
            yield Difference(about="samples", field=name, before=rows[0], after=rows[1])


def _row(line: str | None) -> str:
    """A sample's columns beside its name."""
    return ABSENT if line is None else line.partition("\t")[2] or "listed"


def _changed(about: str, before: Mapping[str, str], after: Mapping[str, str]) -> Iterator[Difference]:
    for name in [*before, *(name for name in after if name not in before)]:
        one, other = before.get(name, ABSENT), after.get(name, ABSENT)
        if one != other:
            yield Difference(about=about, field=name, before=one, after=other)


def _flat(value: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, str]]:
    for key, item in value.items():
        if isinstance(item, Mapping):
            yield from _flat(item, f"{above}{key}.")
        elif isinstance(item, (list, tuple)):
            yield f"{above}{key}", " ".join(map(str, item))
        else:
            yield f"{above}{key}", "" if item is None else str(item)
