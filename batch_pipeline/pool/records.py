"""Tasks and events as JSON records, for stores and exports. What has its default is left out; `"format": 1`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any

from batch_pipeline.pool.task import Move, Task, TaskEvent, TaskOutcome, TaskSpec, TaskState
from batch_pipeline.wire.contract import EndReason

FORMAT = 1
Record = dict[str, Any]

#: Field -> its default; what has none is always written.
_DEFAULTS: Mapping[type, Mapping[str, Any]] = {
    kind: {
        field.name: field.default_factory() if field.default_factory is not MISSING else field.default
        for field in fields(kind)
    }
    for kind in (TaskSpec, TaskOutcome, Task, TaskEvent)
}


def record_of_spec(spec: TaskSpec) -> Record:
    """What is asked of a task."""
    return _record(spec)


def spec_of(record: Mapping[str, Any]) -> TaskSpec:
    """Reads what `record_of_spec` wrote."""
    if "command" in record or "after" in record:
        record = {**record, "command": tuple(record.get("command", ())), "after": tuple(record.get("after", ()))}
    return TaskSpec(**record)


def record_of_outcome(outcome: TaskOutcome) -> Record:
    """How an attempt ended."""
    return {**_record(outcome), "end_reason": outcome.end_reason.value}


def outcome_of(record: Mapping[str, Any]) -> TaskOutcome:
    """Reads what `record_of_outcome` wrote."""
    return TaskOutcome(**{**_known(TaskOutcome, record), "end_reason": EndReason(record["end_reason"])})


def record_of_task(task: Task) -> Record:
    """A task as it stands; what is asked of it under `spec`."""
    record = {**_record(task), "format": FORMAT, "spec": record_of_spec(task.spec), "state": task.state.value}
    if task.outcome:
        record["outcome"] = record_of_outcome(task.outcome)
    return record


def task_of(record: Mapping[str, Any]) -> Task:
    """Reads what `record_of_task` wrote."""
    outcome = outcome_of(record["outcome"]) if record.get("outcome") else None
    known = _known(Task, record)
    return Task(**{**known, "spec": spec_of(record["spec"]), "state": TaskState(record["state"]), "outcome": outcome})


def record_of_event(event: TaskEvent) -> Record:
    """A move of a task."""
    record = {**_record(event), "format": FORMAT, "move": event.move.value}
    record |= {name: state and state.value for name, state in (("source", event.source), ("target", event.target))}
    if event.outcome:
        record["outcome"] = record_of_outcome(event.outcome)
    if event.before:
        record["before"] = record_of_task(event.before)
    return record


def event_of(record: Mapping[str, Any]) -> TaskEvent:
    """Reads what `record_of_event` wrote."""
    states = {name: TaskState(record[name]) if record[name] else None for name in ("source", "target")}
    outcome = outcome_of(record["outcome"]) if record.get("outcome") else None
    before = task_of(record["before"]) if record.get("before") else None
    known = _known(TaskEvent, record)
    return TaskEvent(**{**known, **states, "move": Move(record["move"]), "outcome": outcome, "before": before})


def _record(value: TaskSpec | TaskOutcome | Task | TaskEvent) -> Record:
    defaults = _DEFAULTS[type(value)]
    record: Record = {}
    # Called for every task of an import: one plain loop.
    for name, default in defaults.items():
        held = getattr(value, name)
        if held != default:
            record[name] = list(held) if type(held) is tuple else dict(held) if isinstance(held, Mapping) else held
    return record


def _known(kind: type, record: Mapping[str, Any]) -> Record:
    return {name: record[name] for name in _DEFAULTS[kind] if name in record}
