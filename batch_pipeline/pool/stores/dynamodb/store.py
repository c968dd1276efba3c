"""The pool in a DynamoDB table: for pilots anywhere that have an AWS identity.

**One table a pool, billed by request.** A claim, a renewal and a settlement are one conditional UpdateItem each, and
the event that tells of a move is in the same write: the item carries its last events, older ones are moved to items of
their own (`items`). A transaction would cost twice as much and write no more safely.

**No hot partition.** Ids spread over the table. The sparse index `queue` spreads what is to be done over `shards` parts
a class and priority; what is settled leaves it. A claim looks at one part, at random, and keeps what it has seen for
the next claims (`windows`), so that most claims are one call. A part takes 1,000 writes a second, the default of 16
more than most tables do. https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/bp-indexes-gsi-sharding.html
The order of claims is exact by priority level, and by priority and time within a part; from part to part it is not.

**What a move concerns is found.** A task that others wait for is marked by the move itself (`rows`). That nobody waits
for it is a condition of the unmarked write, so that the ordinary end of a task costs one call.

**Counts are queried, not kept.** A counter, sharded or not, is a second write that a crash can lose or repeat, unless
each move pays for a transaction. `queue` and `ended` (keys only, some 100 bytes a task) are counted instead: about
0.0003 dollars for a million settled tasks. Both indexes follow the table by a moment, and so do counts and claims.

A store must not be used on both sides of a fork; threads may share one. (Longer than most modules: what `TaskStorage`
asks for, method by method; items and calls stand in `items` and `table`.)
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import count as counting
from threading import Lock
from typing import Any
from uuid import uuid4

from batch_pipeline.pool import dependencies
from batch_pipeline.pool.base import Counts, Filter, Page
from batch_pipeline.pool.moves import Transition
from batch_pipeline.pool.stores.dynamodb import items
from batch_pipeline.pool.stores.dynamodb.items import Item, key, number, text
from batch_pipeline.pool.stores.dynamodb.table import MOST_READ, Table, pieces, query_of
from batch_pipeline.pool.stores.dynamodb.updates import Update, propagated, update_of
from batch_pipeline.pool.stores.leases import LeaseWatch
from batch_pipeline.pool.stores.optimistic import OptimisticStore
from batch_pipeline.pool.stores.storage import CommitResult, PendingMove
from batch_pipeline.pool.stores.windows import Windows
from batch_pipeline.pool.task import Move, Nest, Task, TaskEvent, TaskState
from batch_pipeline.wire.errors import PoolFailed

SHARDS = 16
#: Candidates that one look at a part of the queue reads: eight pilots that claim ten at once in all parts seldom meet.
WINDOW = 100


class DynamoDbStore(OptimisticStore):
    """A pool in a table.

    Raises
    ------
    PoolFailed
        The table is not there and `create` is not said, or DynamoDB could not be reached.
    """

    def __init__(
        self,
        table: str,
        *,
        region: str = "",
        profile: str = "",
        endpoint: str = "",
        shards: int = SHARDS,
        create: bool = False,
    ) -> None:
        self.table = Table(table, region=region, profile=profile, endpoint=endpoint)
        super().__init__(DynamoDbTasks(self.table, shards=shards, create=create))


class DynamoDbTasks:
    """See `TaskStorage`."""

    def __init__(self, table: Table, *, shards: int, create: bool) -> None:
        self.name = f"dynamodb://{table.name}"
        self._table = table
        self._running = counting()
        self._windows = Windows(self._look)
        self._watch = LeaseWatch()
        self._lock = Lock()
        #: Tasks that others wait for, of those that this process holds or adds: known, that saves a refused write.
        self._needed: set[str] = set()
        #: Class -> levels of its tasks, as far as known.
        self._levels: dict[str, set[int]] = {}
        self._shards = self._opened(shards, create)

    def _opened(self, shards: int, create: bool) -> int:
        if create and not self._table.is_there():
            self._table.create()
        pool = self._pool()
        if not pool and create:
            update = Update("#pool", "pool")
            update.set({"shards": number(shards), "format": number(1)})
            update.require(f"attribute_not_exists({update.name('shards')})")
            self._table.update(update)
            pool = self._pool()
        if not pool:
            raise PoolFailed(
                f"DynamoDB's table {self._table.name} holds no pool. Make it one with `batch-pipeline pool init`, "
                "or name another table."
            )
        return int(pool["shards"]["N"])

    def _pool(self) -> Item:
        item: Item = self._table.call("get_item", Key=key("#pool", "pool"), ConsistentRead=True).get("Item", {})
        levels: dict[str, set[int]] = defaultdict(set)
        for value in item.get("levels", {"SS": []})["SS"]:
            name, _, level = value.rpartition("#")
            levels[name].add(int(level))
        with self._lock:
            self._levels = dict(levels)
        return item

    def _learn(self, changes: Iterable[Transition]) -> None:
        """Writes down classes and levels that are new, before the first task of them is there."""
        specs = [change.after.spec for change in changes if change.after and change.before is None]
        pairs = {(spec.resource_class, items.level(spec.priority)) for spec in specs}
        new = sorted(f"{name}#{level}" for name, level in pairs if level not in self._levels.get(name, ()))
        if new:
            update = Update("#pool", "pool")
            update.add("levels", {"SS": new})
            self._table.update(update)
            self._pool()

    def together(self) -> AbstractContextManager[object]:
        """See `ConditionalTable.together`. Each write is alone; `reap` finds what a crash leaves between two."""
        return nullcontext()

    def read(self, ids: Collection[str]) -> Mapping[str, Task]:
        """See `ConditionalTable.read`."""
        tasks = ((name, items.task_of(item)) for name, item in self._table.get(ids).items())
        return {name: task for name, task in tasks if task}

    def past(self, ids: Collection[str]) -> Mapping[str, TaskEvent]:
        """See `ConditionalTable.past`."""
        items_by_id = self._table.get(ids).items()
        return {
            name: items.tail_of(item)[-1] for name, item in items_by_id if "state" in item and not items.task_of(item)
        }

    def write(self, changes: Sequence[Transition]) -> list[CommitResult]:
        """See `ConditionalTable.write`."""
        self._learn(changes)
        acts = [change.event for change in changes if change.event and change.event.act]
        self._table.put({**key(self._act(event), event.task_id)} for event in acts)
        added = {
            change.task_id: change.after.spec.after for change in changes if change.after and change.before is None
        }
        self._note_needs(added)
        running = {id(change): next(self._running) for change in changes}
        written = self._table.at_once(lambda change: self._write(change, running[id(change)]), changes)
        for change, result in zip(changes, written, strict=True):
            refused = result is CommitResult.REFUSED
            if refused and change.before and change.event and change.event.move is Move.CLAIMED:
                self._windows.missed(items.queue_part(change.before, self._shards))
        if any(change.event and change.event.move in _NEWS for change in changes):
            self._windows.forget()
        return written

    def _write(self, change: Transition, running: int) -> CommitResult:
        nonce = uuid4().hex[:16]
        if change.event and change.event.number > 1 and (change.event.number - 1) % items.TAIL == 0:
            tail = items.tail_of(self._table.get([change.task_id]).get(change.task_id, {}))
            self._table.put(map(items.event_item, tail))
        for marked in self._marks(change):
            update = update_of(change, shards=self._shards, running=running, nonce=nonce, marked=marked)
            item = self._table.update(update, nonce)
            if item is not None:
                break
        else:
            return CommitResult.REFUSED
        needed = "needed" in item
        if needed and change.event and change.event.move is Move.CLAIMED:
            with self._lock:
                self._needed.add(change.task_id)
        return CommitResult.NEEDED if needed else CommitResult.ALONE

    def _marks(self, change: Transition) -> Sequence[bool | None]:
        """Whether a change marks its task. Of two, the second if the first is refused: others wait for it by now."""
        if not change.event or not dependencies.must_propagate(change, needed=True):
            return (None,)
        with self._lock:
            needed = change.task_id in self._needed
            self._needed.discard(change.task_id)
        return (True,) if dependencies.must_propagate(change, needed=needed) else (False, True)

    def pending(self) -> Sequence[PendingMove]:
        """See `Outbox.pending`."""
        parts = [(index, items.outbox_part(number)) for index in ("queue", "ended") for number in range(self._shards)]
        pages = self._table.at_once(lambda one: list(self._table.query(f"{one[0]}_part", one[1], index=one[0])), parts)
        marked = self._table.get({item["pk"]["S"] for page in pages for item in page})
        return [entry for entry in map(items.pending_of, marked.values()) if entry]

    def propagated(self, pending: Sequence[PendingMove]) -> bool:
        """See `Outbox.propagated`."""
        return None not in self._table.at_once(
            lambda entry: self._table.update(propagated(entry, self._shards)), pending
        )

    def _act(self, event: TaskEvent) -> str:
        return f"#act#{event.act}#{items.shard(event.task_id, self._shards)}"

    def _note_needs(self, added: Mapping[str, Sequence[str]]) -> None:
        """Says who waits for whom before the waiting tasks are there, so that nobody who ends one overlooks them."""
        edges = [(needed, name) for name, after in added.items() for needed in after]
        self._table.put({**key(needed, f"needs#{name}")} for needed, name in edges)
        with self._lock:
            self._needed |= added.keys() & {needed for needed, _ in edges}

        def mark(needed: str) -> None:
            update = Update(needed)
            update.set({"needed": {"BOOL": True}})
            self._table.update(update)

        self._table.at_once(mark, sorted({needed for needed, _ in edges}))

    def candidates(self, count: int, classes: Collection[str] | None) -> Sequence[Task]:
        """See `TaskStorage.candidates`."""
        tasks: list[Task] = []
        levels = dict(self._levels)
        for parts in self._parts(classes):
            for part in self._windows.familiar(parts):
                tasks += self._windows.take(part, count - len(tasks))
                if len(tasks) >= count:
                    return sorted(tasks, key=_order)
        if not tasks:
            self._pool()
            if self._levels != levels:
                return self.candidates(count, classes)
        return sorted(tasks, key=_order)

    def _parts(self, classes: Collection[str] | None) -> Iterator[list[str]]:
        """The parts of the queue, those of each level together, the highest level first."""
        known = {name: levels for name, levels in self._levels.items() if classes is None or name in classes}
        for level in sorted(set().union(*known.values()), reverse=True):
            names = [name for name, levels in known.items() if level in levels]
            yield [items.part_of_todo(name, level, shard) for name in names for shard in range(self._shards)]

    def _look(self, part: str, _crowded: bool) -> list[Task]:
        page = self._table.call("query", Limit=WINDOW, **query_of("queue_part", part, "queue"))["Items"]
        return [task for task in map(items.task_of, page) if task]

    def expired(self, now_ms: int) -> Iterable[Task]:
        """See `TaskStorage.expired`. Reapers on different hosts have different clocks."""
        return list(self._watch.expired(self._queued(TaskState.HELD), now_ms=now_ms))

    def _queued(self, state: TaskState) -> Iterator[Task]:
        """Tasks that are held or wait."""
        for part in self._all_parts(state):
            for item in self._table.query("queue_part", part, index="queue"):
                if (task := items.task_of(item)) and task.state is state:
                    yield task

    def _all_parts(self, state: TaskState) -> list[str]:
        return [items.part(state, name, shard) for name in self._levels for shard in range(self._shards)]

    def dependents(self, ids: Collection[str]) -> Iterable[Task]:
        """See `Outbox.dependents`."""
        dependents = self._table.at_once(self._waiting_for, sorted(ids))
        tasks = self.read({name for names in dependents for name in names}).values()
        open_ones = (TaskState.WAITING, TaskState.TODO)
        return [task for task in tasks if task.state in open_ones and not set(ids).isdisjoint(task.spec.after)]

    def _waiting_for(self, needed: str) -> list[str]:
        entries = self._table.query("pk", needed, ConsistentRead=True)
        return [item["sk"]["S"].removeprefix("needs#") for item in entries if item["sk"]["S"].startswith("needs#")]

    def waiting(self) -> Iterable[Task]:
        """See `Outbox.waiting`."""
        return list(self._queued(TaskState.WAITING))

    def find(self, wanted: Filter, *, limit: int, cursor: str | None) -> Page:
        """See `TaskReader.find`. The order is that of the table's hashes, or of the ids that are asked for."""
        if wanted.ids:
            names = sorted(name for name in wanted.ids if name > (cursor or ""))
            there = self.read(names[:limit])
            named = tuple(task for name in names[:limit] if (task := there.get(name)) and wanted.accepts(task))
            return Page(tasks=named, cursor=names[limit - 1] if len(names) > limit else None)
        start = {"ExclusiveStartKey": key(json.loads(cursor))} if cursor else {}
        page = self._table.call("scan", **_filtered(wanted), **start)
        tasks = [task for item in page["Items"] if (task := items.task_of(item)) and wanted.accepts(task)]
        if len(tasks) > limit:
            return Page(tasks=tuple(tasks[:limit]), cursor=json.dumps(tasks[limit - 1].id))
        last = page.get("LastEvaluatedKey")
        return Page(tasks=tuple(tasks), cursor=json.dumps(last["pk"]["S"]) if last else None)

    def counts(self) -> Counts:
        """See `Statistics.counts`."""
        self._pool()
        queries: list[tuple[str, TaskState, str]] = []
        for name, levels in self._levels.items():
            for shard in range(self._shards):
                queries += [(name, TaskState.TODO, items.part_of_todo(name, level, shard)) for level in levels]
                queries += [
                    (name, state, items.part(state, name, shard)) for state in TaskState if state is not TaskState.TODO
                ]
        numbers = self._table.at_once(lambda one: self._number_in(one[2], one[1]), queries)
        counts: dict[str, Counter[TaskState]] = defaultdict(Counter)
        for (name, state, _), counted in zip(queries, numbers, strict=True):
            if counted:
                counts[name][state] += counted
        return Counts(by_class={name: dict(states) for name, states in counts.items()})

    def _number_in(self, part: str, state: TaskState, since_ms: int | None = None) -> int:
        index = "ended" if state in items.FINAL else "queue"
        return self._table.count(f"{index}_part", part, index, since_ms)

    def nests(self) -> Iterator[Nest]:
        """See `Statistics.nests`. Reads the whole table."""
        counts: dict[str, Counter[TaskState]] = defaultdict(Counter)
        query = {
            "FilterExpression": "attribute_exists(parent) AND #state <> :gone",
            "ProjectionExpression": "parent, #state",
            "ExpressionAttributeNames": {"#state": "state"},
            "ExpressionAttributeValues": {":gone": text(items.GONE)},
        }
        for page in self._table.pages("scan", **query):
            for item in page["Items"]:
                counts[item["parent"]["S"]][TaskState(item["state"]["S"])] += 1
        return (Nest(parent=parent, counts=counts[parent]) for parent in sorted(counts))

    def ends_since(self, since_ms: int) -> int:
        """See `Statistics.ends_since`."""
        ends = (TaskState.DONE, TaskState.FAILED)
        queries = [(part, state) for state in ends for part in self._all_parts(state)]
        return sum(self._table.at_once(lambda one: self._number_in(one[0], one[1], since_ms), queries))

    def events(self, *, task_id: str, act: str) -> Iterator[TaskEvent]:
        """See `TaskReader.events`."""
        if task_id:
            yield from (event for event in self._history(task_id) if not act or event.act == act)
            return
        for names in pieces(self._ids_of(act), MOST_READ):
            for name in names:
                yield from (event for event in self._history(name) if not act or event.act == act)

    def _ids_of(self, act: str) -> Iterator[str]:
        if act:
            for shard in range(self._shards):
                entries = self._table.query("pk", f"#act#{act}#{shard}", ConsistentRead=True)
                yield from (item["sk"]["S"] for item in entries)
            return
        query = {"FilterExpression": "attribute_exists(moves)", "ProjectionExpression": "pk"}
        for page in self._table.pages("scan", **query):
            yield from (item["pk"]["S"] for item in page["Items"])

    def _history(self, task_id: str) -> list[TaskEvent]:
        events: dict[int, TaskEvent] = {}
        for item in self._table.query("pk", task_id, ConsistentRead=True):
            in_item = [items.event_in(item)] if "event" in item else items.tail_of(item)
            events |= {event.number: event for event in in_item}
        return [events[event_number] for event_number in sorted(events)]

    def close(self) -> None:
        """See `TaskStorage.close`."""
        self._table.close()


def _order(task: Task) -> tuple[int, int, str]:
    """The order of candidates from different parts, whose places are not compared."""
    return -task.spec.priority, task.added_at_ms, task.id


#: Moves after which what was seen of the queue may lack what goes first.
_NEWS = frozenset({Move.ADDED, Move.RETRIED, Move.RESET, Move.UNDONE})


def _filtered(wanted: Filter) -> dict[str, Any]:
    """What of a filter the service can tell; the rest is asked of what it sends."""
    names = {"#state": "state"}
    values: dict[str, Any] = {":gone": text(items.GONE)}
    conditions = ["attribute_exists(moves)", "#state <> :gone"]
    lists = {
        "state": sorted(state.value for state in wanted.states),
        "class": sorted(wanted.classes),
        "parent": [wanted.parent] if wanted.parent else [],
        "owner": [wanted.owner] if wanted.owner else [],
    }
    for name, some in lists.items():
        if some:
            names[f"#{name}"] = name
            values |= {f":{name}{place}": text(value) for place, value in enumerate(some)}
            conditions.append(f"#{name} IN ({', '.join(f':{name}{place}' for place in range(len(some)))})")
    return {
        "FilterExpression": " AND ".join(conditions),
        "ExpressionAttributeNames": names,
        "ExpressionAttributeValues": values,
        "ConsistentRead": True,
    }
