"""The one optimistic write of a transition to a DynamoDB item, and its condition. Pure.

An UpdateItem sets what has changed, appends the event to the item's tail, and marks the task in the outbox, on the
condition that the task still is in the state, with the moves and the fencing number that the transition began with.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from batch_pipeline.pool.moves import Transition
from batch_pipeline.pool.stores.dynamodb.items import (
    GONE,
    STANDING,
    TAIL,
    Item,
    Value,
    attributes,
    event_text,
    fixed_attributes,
    key,
    number,
    outbox,
    text,
)
from batch_pipeline.pool.stores.storage import PendingMove
from batch_pipeline.pool.task import Task


class Update:
    """An UpdateItem in the making: what is set, what is removed, and under which condition."""

    def __init__(self, task_id: str, sort: str = "task") -> None:
        self.key = key(task_id, sort)
        self._names: dict[str, str] = {}
        self._values: dict[str, Value] = {}
        self._clauses: dict[str, list[str]] = {"SET": [], "REMOVE": [], "ADD": []}
        self._condition = ""

    def name(self, name: str) -> str:
        """A placeholder for an attribute: many of their names are reserved."""
        self._names[f"#{name}"] = name
        return f"#{name}"

    def value(self, name: str, value: Value) -> str:
        """A placeholder for a value."""
        self._values[f":{name}"] = value
        return f":{name}"

    def set(self, values: Mapping[str, Value]) -> None:
        """Sets attributes."""
        self._clauses["SET"] += [f"{self.name(name)} = {self.value(name, value)}" for name, value in values.items()]

    def remove(self, names: Iterable[str]) -> None:
        """Removes attributes."""
        self._clauses["REMOVE"] += [self.name(name) for name in names]

    def add(self, name: str, value: Value) -> None:
        """Adds to a set."""
        self._clauses["ADD"].append(f"{self.name(name)} {self.value(name, value)}")

    def append(self, name: str, value: Value) -> None:
        """Appends to a list."""
        listed, none = self.value(name, {"L": [value]}), self.value("none", {"L": []})
        self._clauses["SET"].append(
            f"{self.name(name)} = list_append(if_not_exists({self.name(name)}, {none}), {listed})"
        )

    def require(self, condition: str) -> None:
        """Writes only if this holds too."""
        self._condition += f" AND {condition}" if self._condition else condition

    def require_equal(self, values: Mapping[str, Value]) -> None:
        """Writes only if attributes are as they were."""
        for name, value in values.items():
            self.require(f"{self.name(name)} = {self.value(f'was_{name}', value)}")

    def parameters(self) -> dict[str, Any]:
        """The parameters of the call, but for the table."""
        clauses = (f"{word} {', '.join(parts)}" for word, parts in self._clauses.items() if parts)
        optional = {"ConditionExpression": self._condition, "ExpressionAttributeValues": self._values}
        return {
            "Key": self.key,
            "UpdateExpression": " ".join(clauses),
            "ExpressionAttributeNames": self._names,
            **{name: value for name, value in optional.items() if value},
        }


def update_of(change: Transition, *, shards: int, running: int, nonce: str, marked: bool | None = None) -> Update:
    """The one write of a transition. `nonce` tells the write from any other, should its answer be lost.

    `marked`: puts the task into the outbox. False: out of it, if nobody waits for the task. None: it stays as it is.
    """
    update = Update(change.task_id)
    mark: Item = {}
    if marked and change.event:
        mark = outbox(change.task_id, change.event.number, change.event.target, shards)
    elif marked is False:
        update.require(f"attribute_not_exists({update.name('needed')})")
        update.remove(("outbox",))
    _require_as_before(update, change)
    values = {"nonce": text(nonce)}
    if change.after is None:
        moves = (change.before.moves if change.before else 0) + 1
        values |= {"state": text(GONE), "moves": number(moves), **mark}
        update.remove(name for name in ("queue_part", "ended_part") if name not in mark)
    elif change.event is None:
        values |= _renewed(update, change.after)
    else:
        values |= _moved(update, change.before, change.after, mark, shards=shards, running=running)
    if change.event and (change.event.number - 1) % TAIL:
        update.append("tail", event_text(change.event))
    elif change.event:
        values["tail"] = {"L": [event_text(change.event)]}
    update.set(values)
    return update


def _require_as_before(update: Update, change: Transition) -> None:
    """The condition: the task is as the transition began with, or is not there, or deleted, where that began so."""
    before, after = change.before, change.after
    if before is None:
        fresh = f"attribute_not_exists({update.name('state')})"
        was_gone = f"{update.name('state')} = {update.value('gone', text(GONE))}"
        same = f"{update.name('moves')} = {update.value('was_moves', number(after.moves - 1 if after else 0))}"
        update.require(f"({fresh} OR ({was_gone} AND {same}))")
        return
    update.require_equal(
        {"state": text(before.state.value), "moves": number(before.moves), "fence": number(before.fence)}
    )
    if change.lease_counts:
        update.require_equal({"lease_until_ms": number(before.lease_until_ms)})


def _renewed(update: Update, after: Task) -> Item:
    """What a heartbeat, or a reason that is written down, sets."""
    values = {"lease_until_ms": number(after.lease_until_ms)}
    values |= {"reason": text(after.reason)} if after.reason else {}
    update.remove(() if after.reason else ("reason",))
    return values | ({"progress": number(after.progress)} if after.progress is not None else {})


def _moved(update: Update, before: Task | None, after: Task, mark: Item, *, shards: int, running: int) -> Item:
    """What a move sets: the attributes that differ."""
    old, new = attributes(before, shards) if before else {}, attributes(after, shards) | mark
    if "ended_part" in mark:
        # It is the place in that index, and attributes with their default are left out.
        new.setdefault("ended_at_ms", number(0))
    values = {name: value for name, value in new.items() if old.get(name) != value}
    values |= fixed_attributes(after, running) if before is None else {}
    update.remove(name for name in STANDING if name not in new and (name in old or before is None))
    if before is None and not after.spec.parent:
        update.remove(("parent",))
    return values


def propagated(entry: PendingMove, shards: int) -> Update:
    """Takes a task out of the outbox, if it stands there for this move."""
    mark = outbox(entry.task_id, entry.number, entry.state, shards)
    update = Update(entry.task_id)
    update.require_equal(mark)
    update.remove(mark)
    return update
