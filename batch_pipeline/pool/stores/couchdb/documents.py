"""How a task lies in CouchDB: one document that a PiCaS client can read, and the views on such documents. Pure.

A document is a PiCaS token (`type`, `lock`, `done`, `hostname`, `scrub_count`, `input`, `exit_code`, `output`,
`error`), written from the task at each move, with the task itself under `pool`: how it stands, what was asked of it,
and all its events, so that a move and its event are one write. A token of this pool is not to be claimed by a PiCaS
client: such a client may lock what another has locked. One that does all the same takes the task out of our queue.

PiCaS's five views judge by `lock` and `done`: a task that waits or was cancelled has -1 there, and is in none of them.
Documents that are no tokens: `deleted` (a task that is gone, kept for its numbers and history) and `awaited` (a task
that others wait for and that is not there yet). `needed`: others wait for the task; `outbox`: the number of its last
move, as long as that is not propagated to them (`rows`).
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from batch_pipeline.pool import dependencies, records
from batch_pipeline.pool.moves import Transition
from batch_pipeline.pool.stores.storage import PendingMove
from batch_pipeline.pool.task import Move, Task, TaskEvent, TaskState

Document = dict[str, Any]
#: PiCaS's name for each of its views -> the condition.
_PICAS = {
    "todo": "doc.lock == 0 && doc.done == 0",
    "locked": "doc.lock > 0 && doc.done == 0",
    "done": "doc.lock > 0 && doc.done > 0 && parseInt(doc.exit_code) == 0",
    "error": "doc.lock > 0 && doc.done > 0 && parseInt(doc.exit_code) != 0",
}
_TASK = 'doc.type == "token" && doc.pool'
#: Design document -> its views. Each document of views is brought up to date as a whole, by the first who asks: what
#: pilots ask often shares nothing with what people ask now and then.
VIEWS: Mapping[str, Mapping[str, Mapping[str, str]]] = {
    "pool-queue": {
        # Twice: for pilots that take any class, and for those that do not.
        "queue": {
            "map": f"""function (doc) {{
  if ({_TASK} && doc.pool.state == "todo" && doc.lock == 0) {{
    var place = [-(doc.pool.spec.priority || 0), doc.pool.added_at_ms || 0, doc.place];
    emit([""].concat(place), null);
    emit([doc.resource_class].concat(place), null);
  }}
}}"""
        },
    },
    "pool-held": {
        "held": {"map": f'function (doc) {{ if ({_TASK} && doc.pool.state == "held") emit(null, null); }}'},
    },
    "pool-waiting": {
        "waiting": {"map": f'function (doc) {{ if ({_TASK} && doc.pool.state == "waiting") emit(null, null); }}'},
        "needs": {
            "map": f"""function (doc) {{
  if ({_TASK} && (doc.pool.state == "waiting" || doc.pool.state == "todo"))
    (doc.pool.spec.after || []).forEach(function (needed) {{ emit(needed, null); }});
}}"""
        },
    },
    "pool-outbox": {
        "outbox": {"map": "function (doc) { if (doc.outbox) emit(null, null); }"},
    },
    "pool-report": {
        "counts": {
            "map": f"function (doc) {{ if ({_TASK}) emit([doc.resource_class, doc.pool.state], null); }}",
            "reduce": "_count",
        },
        "nests": {
            "map": f"""function (doc) {{
  if ({_TASK} && doc.pool.spec.parent) emit([doc.pool.spec.parent, doc.pool.state], null);
}}""",
            "reduce": "_count",
        },
        "ends": {
            "map": f"""function (doc) {{
  if ({_TASK} && (doc.pool.state == "done" || doc.pool.state == "failed")) emit(doc.pool.ended_at_ms || 0, null);
}}""",
            "reduce": "_count",
        },
    },
    "pool-acts": {
        "acts": {
            "map": """function (doc) {
  (doc.events || []).forEach(function (event) { if (event.act) emit(event.act, null); });
}"""
        },
    },
}


def design(name: str, views: Mapping[str, Mapping[str, str]]) -> Document:
    """A design document."""
    return {
        "_id": f"_design/{name}",
        "language": "javascript",
        "views": {key: dict(value) for key, value in views.items()},
    }


def picas_views(resource_class: str | None = None) -> Mapping[str, Mapping[str, str]]:
    """The five views of PiCaS, on all tokens or on those of a class."""
    token = 'doc.type == "token"'
    if resource_class is not None:
        token += f" && doc.resource_class == {json.dumps(resource_class)}"
    views: dict[str, Mapping[str, str]] = {
        name: {"map": f"function (doc) {{ if ({token} && {condition}) emit(doc._id, doc._id); }}"}
        for name, condition in _PICAS.items()
    }
    states = " else ".join(f"if ({condition}) emit('{name}', 1);" for name, condition in _PICAS.items())
    views["overview_total"] = {"map": f"function (doc) {{ if ({token}) {{ {states} }} }}", "reduce": "_sum"}
    return views


def task_of(document: Mapping[str, Any]) -> Task | None:
    """The task that a document holds; None: a deleted one, one that is not there yet, or no task."""
    there = document.get("type") == "token" and "pool" in document
    return records.task_of(document["pool"]) if there else None


def events_of(document: Mapping[str, Any]) -> list[TaskEvent]:
    """The events that a document holds, the oldest first."""
    return [records.event_of(record) for record in document.get("events", ())]


def is_as_before(document: Mapping[str, Any] | None, change: Transition) -> bool:
    """Whether a change may be written over a document."""
    before, current = change.before, task_of(document) if document else None
    if before is None or current is None:
        if before is not None or current is not None:
            return False
        if document and document.get("type") not in ("deleted", "awaited"):
            return False
        past = events_of(document) if document else []
        return not past or bool(change.after and past[-1].number + 1 == change.after.moves)
    if change.event and change.event.move is Move.CLAIMED and document and document.get("lock"):
        return False
    same = (current.state, current.moves, current.fence) == (before.state, before.moves, before.fence)
    return same and (not change.lease_counts or current.lease_until_ms == before.lease_until_ms)


def written(document: Mapping[str, Any] | None, change: Transition, *, nonce: str, place: int) -> Document:
    """A document after a change. `nonce` tells the write from any other, should its answer be lost."""
    result: Document = {**(document or {}), "_id": change.task_id, "nonce": nonce}
    after, current = change.after, task_of(result) if document else None
    if change.event:
        result["events"] = [*result.get("events", ()), records.record_of_event(change.event)]
        if dependencies.must_propagate(change, needed="needed" in result):
            result["outbox"] = change.event.number
        elif dependencies.must_propagate(change, needed=True):
            result.pop("outbox", None)
    if after is None:
        result["type"] = "deleted"
        return result
    record = records.record_of_task(after)
    if change.event is None and current:
        record = records.record_of_task(current)
        record |= {"lease_until_ms": after.lease_until_ms, "reason": after.reason}
        record |= {"progress": after.progress} if after.progress is not None else {}
    if change.before is None:
        result |= {"place": place, "resource_class": after.spec.resource_class, "scrub_count": 0}
    return result | {"type": "token", "pool": record} | _token(records.task_of(record))


def pending_of(document: Mapping[str, Any]) -> PendingMove | None:
    """What a document has in the outbox."""
    if "outbox" not in document:
        return None
    task, number = task_of(document), document["outbox"]
    state = task.state if task else None
    return PendingMove(task_id=document["_id"], number=number, state=state, needed="needed" in document)


def propagated(document: Document) -> Document:
    """A document without its entry in the outbox."""
    return {name: value for name, value in document.items() if name != "outbox"}


def _token(task: Task) -> Document:
    """What PiCaS knows of a task."""
    outcome = task.outcome
    token: Document = {
        "lock": task.claimed_at_ms // 1000,
        "done": task.ended_at_ms // 1000,
        "hostname": task.owner,
        "scrub_count": task.returns + task.attempts,
        "input": task.spec.shell or shlex.join(task.spec.command),
        "exit_code": "",
        "output": dict(outcome.fields) if outcome else {},
        "error": [],
    }
    if outcome and outcome.error:
        ended = datetime.fromtimestamp(task.ended_at_ms / 1000, UTC).isoformat()
        token["error"] = [{"time": ended, "message": outcome.error, "exception": outcome.log_tail}]
    if task.state in (TaskState.WAITING, TaskState.CANCELLED):
        return token | {"lock": -1, "done": -1}
    if task.state is TaskState.TODO:
        return token | {"lock": 0, "done": 0}
    if task.state is TaskState.HELD:
        return token | {"lock": max(token["lock"], 1), "done": 0}
    if outcome:
        token["exit_code"] = 0 if task.state is TaskState.DONE else outcome.exit_code or ""
    return token | {"lock": max(token["lock"], 1), "done": max(token["done"], 1)}
