"""How a task lies in a DynamoDB table: its item's attributes, its places in the indexes, its history. Pure.

Table: partition `pk`, sort `sk`. All items of a task share the partition of its id:

- `task`: how it stands, field by field, so that any client can read it and put conditions on it; what was asked of it
  and how it ended as JSON. `tail` holds its last events, so that a move and its event are one write.
- `event#NUMBER`: older events, moved out of the tail eight at a time, so that no history makes an item large.
- `needs#ID`: the task `ID` waits for this one. `needed` on the item says that there are any.

Partitions that begin with `#` are nobody's id: `#pool` is what holds for the whole pool, `#act#NAME#SHARD` lists what a
person's action was meant to move, written before.

Index `queue` (`queue_part`, `queue_place`; all attributes) has only what is not settled, each state in parts of its
own: what is to be done by class, level and shard, sorted by priority and time; what is held or waiting by class and
shard. Index `ended` (`ended_part`, `ended_at_ms`; keys only) has what is settled, by state, class and shard.

The outbox (`rows`) needs no index of its own: a task is marked by `outbox`, the number of the move, and stands in the
part `outbox#SHARD` of the index that its state leaves free.

What is written at a move stands in `updates`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any
from zlib import crc32

from batch_pipeline.pool.records import (
    event_of,
    outcome_of,
    record_of_event,
    record_of_outcome,
    record_of_spec,
    spec_of,
)
from batch_pipeline.pool.stores.storage import PendingMove
from batch_pipeline.pool.task import Task, TaskEvent, TaskState

Item = dict[str, Any]
Value = dict[str, Any]

#: A deleted task's state: its item stays for its numbers and its history.
GONE = "gone"
#: How many events the tail holds at most.
TAIL = 8
#: Priorities below this have a level each; above, a level spans a doubling.
_FINE_PRIORITIES = 16
_PRIORITY_BASE = 10**15
OPEN = (TaskState.TODO, TaskState.HELD, TaskState.WAITING)
FINAL = (TaskState.DONE, TaskState.FAILED, TaskState.CANCELLED)
_NUMBERS = (
    "moves",
    "fence",
    "attempts",
    "returns",
    "lease_ms",
    "lease_until_ms",
    "added_at_ms",
    "claimed_at_ms",
    "ended_at_ms",
)
_TEXTS = ("owner", "native_id", "reason")
TABLE: Mapping[str, Any] = {
    "BillingMode": "PAY_PER_REQUEST",
    "AttributeDefinitions": [
        {"AttributeName": name, "AttributeType": "N" if name == "ended_at_ms" else "S"}
        for name in ("pk", "sk", "queue_part", "queue_place", "ended_part", "ended_at_ms")
    ],
    "KeySchema": [{"AttributeName": "pk", "KeyType": "HASH"}, {"AttributeName": "sk", "KeyType": "RANGE"}],
    "GlobalSecondaryIndexes": [
        {
            "IndexName": name,
            "KeySchema": [{"AttributeName": part, "KeyType": "HASH"}, {"AttributeName": place, "KeyType": "RANGE"}],
            "Projection": {"ProjectionType": kind},
        }
        for name, part, place, kind in (
            ("queue", "queue_part", "queue_place", "ALL"),
            ("ended", "ended_part", "ended_at_ms", "KEYS_ONLY"),
        )
    ],
}


def text(value: str) -> Value:
    """A string."""
    return {"S": value}


def number(value: float) -> Value:
    """A number."""
    return {"N": str(value)}


def key(task_id: str, sort: str = "task") -> Item:
    """The key of one of a task's items."""
    return {"pk": text(task_id), "sk": text(sort)}


def level(priority: int) -> int:
    """The level of a priority: never lower for a higher priority, and only a few dozen levels for any priorities."""
    if abs(priority) < _FINE_PRIORITIES:
        return priority
    size = 12 + abs(priority).bit_length()
    return size if priority > 0 else -size


def shard(task_id: str, shards: int) -> int:
    """The shard of a task."""
    return crc32(task_id.encode()) % shards


def part_of_todo(resource_class: str, of_level: int, of_shard: int) -> str:
    """The part of the queue that one claim looks at."""
    return f"todo#{resource_class}#{of_level}#{of_shard}"


def part(state: TaskState, resource_class: str, of_shard: int) -> str:
    """The part of an index that has the tasks of another state."""
    return f"{state.value}#{resource_class}#{of_shard}"


def outbox_part(of_shard: int) -> str:
    """The part of both indexes that has the tasks whose last move is not propagated."""
    return f"outbox#{of_shard}"


def outbox(task_id: str, move_number: int, state: TaskState | None, shards: int) -> Item:
    """The mark of a task in the outbox."""
    return {"outbox": number(move_number), _free_index(state): text(outbox_part(shard(task_id, shards)))}


def _free_index(state: TaskState | None) -> str:
    return "ended_part" if state in OPEN else "queue_part"


def queue_part(task: Task, shards: int) -> str:
    """The part of the queue that a task is in, or was to be claimed from."""
    of_shard = shard(task.id, shards)
    if task.state is TaskState.TODO:
        return part_of_todo(task.spec.resource_class, level(task.spec.priority), of_shard)
    return part(task.state, task.spec.resource_class, of_shard)


def queue_place(task: Task, running: int) -> str:
    """The place of a task in its part: by priority, then in the order of adding. It never changes."""
    rank = _PRIORITY_BASE - max(min(task.spec.priority, _PRIORITY_BASE), -_PRIORITY_BASE)
    return f"{rank:016d}#{task.added_at_ms:015d}#{running:08d}#{task.id}"


def attributes(task: Task, shards: int) -> Item:
    """How a task stands; what has its default is left out."""
    item = {name: number(getattr(task, name)) for name in _NUMBERS if getattr(task, name)}
    item |= {name: text(getattr(task, name)) for name in _TEXTS if getattr(task, name)}
    item |= {"state": text(task.state.value), "moves": number(task.moves), "fence": number(task.fence)}
    item |= {"added_at_ms": number(task.added_at_ms)}
    if task.progress is not None:
        item["progress"] = number(task.progress)
    if task.outcome:
        item["outcome"] = text(_json(record_of_outcome(task.outcome)))
    if task.state in FINAL:
        item |= {"ended_part": text(queue_part(task, shards)), "ended_at_ms": number(task.ended_at_ms)}
    else:
        item["queue_part"] = text(queue_part(task, shards))
    return item


#: All that `attributes` may give: what is not among them is to be removed.
STANDING = (*_NUMBERS, *_TEXTS, "state", "progress", "outcome", "queue_part", "ended_part")


def fixed_attributes(task: Task, running: int) -> Item:
    """What never changes of a task."""
    item = {
        "spec": text(_json(record_of_spec(task.spec))),
        "class": text(task.spec.resource_class),
        "queue_place": text(queue_place(task, running)),
    }
    return item | ({"parent": text(task.spec.parent)} if task.spec.parent else {})


def task_of(item: Item) -> Task | None:
    """The task that an item holds; None: a deleted one, or one that is waited for and not there yet."""
    if "state" not in item or item["state"]["S"] == GONE:
        return None
    standing: dict[str, Any] = {name: int(item[name]["N"]) for name in _NUMBERS if name in item}
    standing |= {name: item[name]["S"] for name in _TEXTS if name in item}
    return Task(
        spec=spec_of(json.loads(item["spec"]["S"])),
        state=TaskState(item["state"]["S"]),
        progress=float(item["progress"]["N"]) if "progress" in item else None,
        outcome=outcome_of(json.loads(item["outcome"]["S"])) if "outcome" in item else None,
        **standing,
    )


def tail_of(item: Item) -> list[TaskEvent]:
    """The events that an item holds, the oldest first."""
    return [event_of(json.loads(value["S"])) for value in item.get("tail", {"L": []})["L"]]


def event_text(event: TaskEvent) -> Value:
    """An event, as it lies in a tail or an item of its own."""
    return text(_json(record_of_event(event)))


def event_item(event: TaskEvent) -> Item:
    """An event in an item of its own."""
    return {**key(event.task_id, f"event#{event.number:010d}"), "event": event_text(event)}


def event_in(item: Item) -> TaskEvent:
    """The event that an item of its own holds."""
    return event_of(json.loads(item["event"]["S"]))


def pending_of(item: Item) -> PendingMove | None:
    """What an item has in the outbox."""
    if "outbox" not in item:
        return None
    state = None if item["state"]["S"] == GONE else TaskState(item["state"]["S"])
    return PendingMove(task_id=item["pk"]["S"], number=int(item["outbox"]["N"]), state=state, needed="needed" in item)


def _json(record: Mapping[str, Any]) -> str:
    return json.dumps(record, ensure_ascii=False, separators=(",", ":"))
