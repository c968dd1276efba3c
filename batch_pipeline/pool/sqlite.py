"""The pool in a SQLite file: the store for one machine, and the default.

Any number of processes of one host share the file. Its journal is a write-ahead log, so that readers stop nobody;
writers take turns, each for some tens of microseconds a task. That needs the memory of one host: put the file on a
local disk, not on a network's. A transaction that was answered survives the death of every process; with
`synchronous=NORMAL` a loss of power may take the last ones back: their tasks come back when their leases end.

One row a task, narrow, for it is written at each move; what was asked of it lies in a table of its own that is only
read. Every index but that of ids is partial: what is done is in none, so that a pool does not grow slower as it is
drained. Numbers are not counted along, which would have all writers meet in one row: what is done is what was added
less what the small indexes hold. A deleted task keeps its row, marked, and so its numbers and its history.

A connection must not be used on both sides of a fork; threads of one process may share a store.
"""

from __future__ import annotations

import json
import sqlite3
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from threading import RLock
from typing import Any

from batch_pipeline.pool import moves
from batch_pipeline.pool.base import Answer, Claim, Counts, Filter, Page, Settlement
from batch_pipeline.pool.moves import Step
from batch_pipeline.pool.records import (
    outcome_of,
    record_of_outcome,
    record_of_spec,
    record_of_task,
    spec_of,
    task_of,
)
from batch_pipeline.pool.stepped import SteppedStore
from batch_pipeline.pool.task import Event, Move, Nest, Outcome, Task, TaskState
from batch_pipeline.wire.errors import PoolFailed

#: How long a writer waits for its turn.
BUSY_SECONDS = 60.0
_STATES = (
    TaskState.WAITING,
    TaskState.TODO,
    TaskState.HELD,
    TaskState.DONE,
    TaskState.FAILED,
    TaskState.CANCELLED,
)
_NUMBER: Mapping[TaskState | None, int] = {**{state: number for number, state in enumerate(_STATES)}, None: 6}
_NUMBER_OF_MOVE = {move: number for number, move in enumerate(Move)}
_MOVES = tuple(Move)

#: The states' numbers are written out: SQLite uses a partial index only if it can see that its condition holds.
_SCHEMA = """
CREATE TABLE IF NOT EXISTS task (
  seq INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, class TEXT NOT NULL, priority INTEGER NOT NULL, parent TEXT,
  state INTEGER NOT NULL, moves INTEGER NOT NULL, fence INTEGER NOT NULL, attempts INTEGER NOT NULL,
  returns INTEGER NOT NULL, owner TEXT NOT NULL, native_id TEXT NOT NULL, lease_ms INTEGER NOT NULL,
  lease_until_ms INTEGER NOT NULL, progress REAL, reason TEXT NOT NULL, outcome TEXT, added_at_ms INTEGER NOT NULL,
  claimed_at_ms INTEGER NOT NULL, ended_at_ms INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS spec (seq INTEGER PRIMARY KEY, body TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS event (
  seq INTEGER, number INTEGER, at_ms INTEGER, move INTEGER, source INTEGER, target INTEGER, owner TEXT, fence INTEGER,
  why TEXT, outcome TEXT, act TEXT, before TEXT, PRIMARY KEY (seq, number)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS needed (id TEXT, seq INTEGER, PRIMARY KEY (id, seq)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS class (name TEXT PRIMARY KEY, number INTEGER NOT NULL) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS todo ON task (class, priority DESC, seq) WHERE state = 1;
CREATE INDEX IF NOT EXISTS held ON task (lease_until_ms, class) WHERE state = 2;
CREATE INDEX IF NOT EXISTS other ON task (state, class) WHERE state IN (0, 4, 5, 6);
CREATE INDEX IF NOT EXISTS nested ON task (parent) WHERE parent IS NOT NULL;
CREATE INDEX IF NOT EXISTS acted ON event (act) WHERE act IS NOT NULL;
"""
#: What a task's row says of how it stands, in the order of `_standing`.
_STANDING = (
    "state",
    "moves",
    "fence",
    "attempts",
    "returns",
    "owner",
    "native_id",
    "lease_ms",
    "lease_until_ms",
    "progress",
    "reason",
    "outcome",
    "added_at_ms",
    "claimed_at_ms",
    "ended_at_ms",
)
_COLUMNS = ", ".join(f"task.{name}" for name in _STANDING)
_TASK = f"SELECT task.seq, spec.body, {_COLUMNS} FROM task JOIN spec USING (seq)"
_WRITE = (
    f"UPDATE task SET {', '.join(f'{name} = ?' for name in _STANDING)} "
    "WHERE id = ? AND state = ? AND moves = ? AND fence = ?"
)
_INSERT = f"""INSERT INTO task (id, class, priority, parent, {", ".join(_STANDING)})
VALUES ({", ".join("?" * (4 + len(_STANDING)))})
ON CONFLICT (id) DO UPDATE SET class = excluded.class, priority = excluded.priority, parent = excluded.parent,
{", ".join(f"{name} = excluded.{name}" for name in _STANDING)} WHERE state = 6 RETURNING seq"""
_RENEW = (
    "UPDATE task SET lease_until_ms = ?, progress = coalesce(?, progress), reason = ? "
    "WHERE id = ? AND state = ? AND moves = ? AND fence = ?"
)
_EVENT = "INSERT INTO event VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_FIRST_OF_CLASS = "SELECT seq, priority FROM task WHERE state = 1 AND class = ? ORDER BY priority DESC, seq LIMIT ?"
_HOLD = f"""UPDATE task SET state = 2, moves = moves + 1, fence = fence + 1, owner = ?, native_id = ?, lease_ms = ?,
lease_until_ms = ?, progress = NULL, reason = '', claimed_at_ms = ? WHERE seq IN (SELECT seq FROM ({{first}}))
RETURNING seq, (SELECT body FROM spec WHERE spec.seq = task.seq), {", ".join(_STANDING)}, priority"""
_HELD_EVENT = f"""INSERT INTO event (seq, number, at_ms, move, source, target, owner, fence, why)
VALUES (?, ?, ?, {_NUMBER_OF_MOVE[Move.CLAIMED]}, 1, 2, ?, ?, '')"""
_END = """UPDATE task SET state = ?, moves = ?, attempts = ?, returns = ?, outcome = ?, ended_at_ms = ?,
progress = coalesce(?, progress), lease_ms = 0, lease_until_ms = 0
WHERE seq = ? AND state = 2 AND moves = ? AND fence = ? AND owner = ?"""
_END_EVENT = """INSERT INTO event (seq, number, at_ms, move, source, target, owner, fence, why, outcome)
VALUES (?, ?, ?, ?, 2, ?, ?, ?, ?, ?)"""
_Row = tuple[Any, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class SqliteClaim(Claim):
    """A claim that knows its row."""

    seq: int


class SqliteStore(SteppedStore):
    """A pool in a file. What pilots do most has a way of its own here; the rest is `SteppedStore`'s."""

    def __init__(self, path: Path) -> None:
        self._sqlite = SqliteRows(path)
        super().__init__(self._sqlite)

    def claim(
        self,
        owner: str,
        count: int,
        *,
        lease_ms: int,
        now_ms: int,
        classes: Collection[str] | None = None,
        native_id: str = "",
    ) -> list[Claim]:
        """See `TaskSource.claim`. Exactly in order, and never fewer than there are: writers take turns."""
        rows = self._sqlite.hold(count, classes, (owner, native_id, lease_ms, now_ms + lease_ms, now_ms))
        return [SqliteClaim(task=_task(row), seq=row[0]) for row in sorted(rows, key=_in_order)]

    def settle(self, settlements: Sequence[Settlement], *, now_ms: int) -> list[Answer]:
        """See `TaskSource.settle`. All at once if all pass and nothing waits for them, else one by one."""
        if self._sqlite.end([_Ending.of(one, now_ms) for one in settlements]):
            return [Answer.ACCEPTED] * len(settlements)
        return super().settle(settlements, now_ms=now_ms)


class SqliteRows:
    """See `Rows`."""

    def __init__(self, path: Path) -> None:
        self.name = str(path)
        self._lock = RLock()
        self._depth = 0
        with self._translated():
            self._connection = sqlite3.connect(
                path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False, cached_statements=256
            )
            # The pages that are written most stay in memory, and are copied to the file rarely: each time costs a sync.
            settings = (
                "journal_mode = WAL",
                "synchronous = NORMAL",
                "cache_size = -65536",
                "wal_autocheckpoint = 4000",
            )
            for setting in settings:
                self._connection.execute(f"PRAGMA {setting}")
            self._connection.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} COMMIT")

    @contextmanager
    def together(self) -> Iterator[None]:
        """See `Rows.together`. One transaction, which has the right to write from its beginning."""
        with self._lock, self._translated():
            if self._depth:
                yield
                return
            self._connection.execute("BEGIN IMMEDIATE")
            self._depth = 1
            try:
                yield
                if self._connection.in_transaction:
                    self._connection.execute("COMMIT")
            finally:
                self._depth = 0
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise PoolFailed(f"The pool {self.name} could not be used: {error}.") from error

    def _rows(self, query: str, values: Sequence[object] = ()) -> list[_Row]:
        with self._lock, self._translated():
            return self._connection.execute(query, values).fetchall()

    def read(self, ids: Collection[str]) -> Mapping[str, Task]:
        """See `Rows.read`."""
        rows = self._rows(f"{_TASK} WHERE task.id IN ({_marks(ids)}) AND state < 6", list(ids)) if ids else []
        return {task.id: task for task in map(_task, rows)}

    def past(self, ids: Collection[str]) -> Mapping[str, Event]:
        """See `Rows.past`."""
        if not self._rows("SELECT 1 FROM task WHERE state = 6 LIMIT 1"):
            return {}
        gone = self._rows(f"SELECT seq, moves FROM task WHERE id IN ({_marks(ids)}) AND state = 6", list(ids))
        found = (self._events("WHERE event.seq = ? AND number = ?", row) for row in gone)
        return {event.task_id: event for events in found for event in events}

    def write(self, steps: Sequence[Step]) -> list[bool]:
        """See `Rows.write`."""
        with self.together():
            places = [self._write(step) for step in steps]
            told = zip(places, steps, strict=True)
            events = (_event_row(seq, step.event) for seq, step in told if seq is not None and step.event)
            self._connection.executemany(_EVENT, events)
        return [seq is not None for seq in places]

    def _write(self, step: Step) -> int | None:
        """Writes a task and returns its place; None: it is not as it was."""
        before, after = step.before, step.after
        if before is None:
            return self._insert(after) if after else None
        values: _Row
        version = (before.id, _NUMBER[before.state], before.moves, before.fence)
        if step.event is None and after:
            query, values = _RENEW, (after.lease_until_ms, after.progress, after.reason, *version)
        elif after is None:
            # What is gone keeps the number of its last event.
            gone = _standing(before)
            query, values = _WRITE, (_NUMBER[None], before.moves + 1, *gone[2:], *version)
        else:
            query, values = _WRITE, (*_standing(after), *version)
        if step.lease_counts:
            query, values = query + " AND lease_until_ms = ?", (*values, before.lease_until_ms)
        row = self._connection.execute(query + " RETURNING seq", values).fetchone()
        if row and after is None:
            self._count(before.spec.resource_class, -1)
        return row and int(row[0])

    def _insert(self, task: Task) -> int | None:
        spec = task.spec
        values = (spec.id, spec.resource_class, spec.priority, spec.parent or None, *_standing(task))
        row = self._connection.execute(_INSERT, values).fetchone()
        if row is None:
            return None
        seq = int(row[0])
        body = json.dumps(record_of_spec(spec), ensure_ascii=False, separators=(",", ":"))
        self._connection.execute("REPLACE INTO spec VALUES (?, ?)", (seq, body))
        self._connection.executemany("INSERT OR IGNORE INTO needed VALUES (?, ?)", ((name, seq) for name in spec.after))
        self._count(spec.resource_class, 1)
        return seq

    def _count(self, resource_class: str, more: int) -> None:
        query = "INSERT INTO class VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET number = number + excluded.number"
        self._connection.execute(query, (resource_class, more))

    def hold(self, count: int, classes: Collection[str] | None, claimed: _Row) -> list[_Row]:
        """Claims in one statement; returns the rows of `_TASK`, with the priority behind."""
        with self.together():
            first, values = self._first(count, classes)
            if not first:
                return []
            rows = self._connection.execute(_HOLD.format(first=first), (*claimed, *values)).fetchall()
            told = [(row[0], row[3], claimed[4], claimed[0], row[4]) for row in rows]
            self._connection.executemany(_HELD_EVENT, told)
        return rows

    def end(self, endings: Sequence[_Ending]) -> bool:
        """Ends attempts, if all of them may be ended and no task waits for theirs; else changes nothing."""
        if not all(ending.seq for ending in endings):
            return False
        with self.together():
            if self._are_needed([ending.task_id for ending in endings]):
                return False
            cursor = self._connection.executemany(_END, [ending.values for ending in endings])
            if cursor.rowcount != len(endings):
                self._connection.execute("ROLLBACK")
                return False
            self._connection.executemany(_END_EVENT, [ending.event for ending in endings])
        return True

    def _are_needed(self, ids: Sequence[str]) -> bool:
        query = f"SELECT 1 FROM needed WHERE id IN ({_marks(ids)}) LIMIT 1"
        return self._connection.execute(query, ids).fetchone() is not None

    def _first(self, count: int, classes: Collection[str] | None) -> tuple[str, list[object]]:
        """A query for the places of the tasks to claim first: each class has its part of the index."""
        names = [row[0] for row in self._rows("SELECT name FROM class")] if classes is None else list(classes)
        if len(names) <= 1:
            return (_FIRST_OF_CLASS if names else ""), [*names, count]
        each = " UNION ALL ".join([f"SELECT * FROM ({_FIRST_OF_CLASS})"] * len(names))
        values = [value for name in names for value in (name, count)]
        return f"SELECT seq FROM ({each}) ORDER BY priority DESC, seq LIMIT ?", [*values, count]

    def candidates(self, count: int, classes: Collection[str] | None) -> Sequence[Task]:
        """See `Rows.candidates`."""
        first, values = self._first(count, classes)
        if not first:
            return []
        query = f"{_TASK} WHERE task.seq IN (SELECT seq FROM ({first})) ORDER BY priority DESC, task.seq"
        return [_task(row) for row in self._rows(query, values)]

    def over(self, now_ms: int) -> Iterable[Task]:
        """See `Rows.over`. All callers share the host's clock."""
        return map(_task, self._rows(f"{_TASK} WHERE state = 2 AND lease_until_ms <= ?", (now_ms,)))

    def dependents(self, ids: Collection[str]) -> Iterable[Task]:
        """See `Rows.dependents`."""
        query = f"{_TASK} WHERE task.seq IN (SELECT seq FROM needed WHERE id IN ({_marks(ids)})) AND state IN (0, 1)"
        return map(_task, self._rows(query, list(ids)))

    def waiting(self) -> Iterable[Task]:
        """See `Rows.waiting`."""
        return map(_task, self._rows(f"{_TASK} WHERE state = 0"))

    def find(self, wanted: Filter, limit: int, cursor: str | None) -> Page:
        """See `Rows.find`. The order is that of adding."""
        where, values = _condition(wanted)
        query = f"{_TASK} WHERE task.seq > ? AND {where} ORDER BY task.seq LIMIT ?"
        rows = self._rows(query, [int(cursor or 0), *values, limit])
        found = tuple(task for task in map(_task, rows) if wanted.accepts(task))
        return Page(tasks=found, cursor=str(rows[-1][0]) if len(rows) == limit else None)

    def counts(self) -> Counts:
        """See `Rows.counts`."""
        query = """SELECT name, NULL, number FROM class
        UNION ALL SELECT class, 1, count(*) FROM task WHERE state = 1 GROUP BY class
        UNION ALL SELECT class, 2, count(*) FROM task WHERE state = 2 GROUP BY class
        UNION ALL SELECT class, state, count(*) FROM task WHERE state IN (0, 4, 5) GROUP BY state, class"""
        counts: dict[str, dict[TaskState, int]] = defaultdict(dict)
        for name, state, number in self._rows(query):
            counts[name][TaskState.DONE if state is None else _STATES[state]] = number
        for states in counts.values():
            states[TaskState.DONE] -= sum(number for state, number in states.items() if state is not TaskState.DONE)
        kept = (
            (name, {state: number for state, number in states.items() if number}) for name, states in counts.items()
        )
        return Counts(by_class={name: states for name, states in kept if states})

    def nests(self) -> Iterator[Nest]:
        """See `Rows.nests`."""
        query = """SELECT parent, state, count(*) FROM task WHERE parent IS NOT NULL AND state < 6
        GROUP BY parent, state ORDER BY parent"""
        for parent, rows in groupby(self._rows(query), key=lambda row: row[0]):
            yield Nest(parent=parent, counts={_STATES[state]: number for _, state, number in rows})

    def ends_since(self, since_ms: int) -> int:
        """See `Rows.ends_since`."""
        query = "SELECT count(*) FROM task WHERE state IN (3, 4) AND ended_at_ms >= ?"
        return int(self._rows(query, (since_ms,))[0][0])

    def events(self, *, task_id: str, act: str) -> Iterator[Event]:
        """See `Rows.events`."""
        conditions = {"task.id = ?": task_id, "event.act = ?": act}
        where = " AND ".join(name for name, value in conditions.items() if value) or "TRUE"
        values = [value for value in conditions.values() if value]
        return iter(self._events(f"WHERE {where} ORDER BY event.seq, number", values))

    def _events(self, where: str, values: Sequence[object]) -> list[Event]:
        return [
            _event(row) for row in self._rows(f"SELECT id, event.* FROM event JOIN task USING (seq) {where}", values)
        ]

    def close(self) -> None:
        """See `Rows.close`."""
        with self._lock, self._translated():
            self._connection.close()


@dataclass(frozen=True, kw_only=True, slots=True)
class _Ending:
    """What `moves.settled` says, as the values of `_END` and `_END_EVENT`."""

    task_id: str
    #: 0: the claim is not one of ours.
    seq: int
    values: _Row
    event: _Row

    @staticmethod
    def of(settlement: Settlement, now_ms: int) -> _Ending:
        claim, outcome = settlement.claim, settlement.outcome
        task = claim.task
        move, attempts, returns = moves.judged(task, outcome.end_reason)
        state = _NUMBER[moves.STATE_AFTER[move]]
        seq = claim.seq if isinstance(claim, SqliteClaim) else 0
        number, fence, owner = task.moves + 1, task.fence, task.owner
        text = _outcome_text(outcome)
        briefly = text if not outcome.log_tail else _outcome_text(moves.briefly(outcome))
        progress = 1.0 if state == 3 else None
        values = (state, number, attempts, returns, text, now_ms, progress, seq, task.moves, fence, owner)
        event = (seq, number, now_ms, _NUMBER_OF_MOVE[move], state, owner, fence, outcome.error, briefly)
        return _Ending(task_id=task.spec.id, seq=seq, values=values, event=event)


def _in_order(row: _Row) -> tuple[int, int]:
    return -row[-1], row[0]


def _marks(values: Collection[object]) -> str:
    return ", ".join("?" * len(values))


def _condition(wanted: Filter) -> tuple[str, list[object]]:
    """What of a filter the database can tell; the rest is asked of what it finds."""
    parts, values = ["state < 6"], []
    lists: list[tuple[str, list[object]]] = [
        ("state", [_NUMBER[state] for state in wanted.states]),
        ("class", list(wanted.classes)),
        ("task.id", list(wanted.ids)),
        ("parent", [wanted.parent] if wanted.parent else []),
        ("owner", [wanted.owner] if wanted.owner else []),
    ]
    for name, some in lists:
        if some:
            parts.append(f"{name} IN ({_marks(some)})")
            values += some
    if wanted.id_pattern:
        parts.append("task.id GLOB ?")
        values.append(wanted.id_pattern.replace("[!", "[^"))
    return " AND ".join(parts), values


def _standing(task: Task) -> _Row:
    return (
        _NUMBER[task.state],
        task.moves,
        task.fence,
        task.attempts,
        task.returns,
        task.owner,
        task.native_id,
        task.lease_ms,
        task.lease_until_ms,
        task.progress,
        task.reason,
        _outcome_text(task.outcome),
        task.added_at_ms,
        task.claimed_at_ms,
        task.ended_at_ms,
    )


def _task(row: _Row) -> Task:
    return Task(
        spec=spec_of(json.loads(row[1])),
        state=_STATES[row[2]],
        moves=row[3],
        fence=row[4],
        attempts=row[5],
        returns=row[6],
        owner=row[7],
        native_id=row[8],
        lease_ms=row[9],
        lease_until_ms=row[10],
        progress=row[11],
        reason=row[12],
        outcome=_outcome(row[13]),
        added_at_ms=row[14],
        claimed_at_ms=row[15],
        ended_at_ms=row[16],
    )


def _event_row(seq: int, event: Event) -> _Row:
    before = json.dumps(record_of_task(event.before), ensure_ascii=False) if event.before else None
    return (
        seq,
        event.number,
        event.at_ms,
        _NUMBER_OF_MOVE[event.move],
        _NUMBER[event.source],
        _NUMBER[event.target],
        event.owner,
        event.fence,
        event.why,
        _outcome_text(event.outcome),
        event.act or None,
        before,
    )


def _event(row: _Row) -> Event:
    return Event(
        task_id=row[0],
        number=row[2],
        at_ms=row[3],
        move=_MOVES[row[4]],
        source=_STATES[row[5]] if row[5] < 6 else None,
        target=_STATES[row[6]] if row[6] < 6 else None,
        owner=row[7],
        fence=row[8],
        why=row[9],
        outcome=_outcome(row[10]),
        act=row[11] or "",
        before=task_of(json.loads(row[12])) if row[12] else None,
    )


def _outcome_text(outcome: Outcome | None) -> str | None:
    if outcome is None:
        return None
    if not (outcome.error or outcome.log_key or outcome.log_tail or outcome.fields or outcome.exit_code is None):
        return f'{{"end_reason":"{outcome.end_reason.value}","exit_code":{outcome.exit_code}}}'
    return json.dumps(record_of_outcome(outcome), ensure_ascii=False, separators=(",", ":"))


def _outcome(text: str | None) -> Outcome | None:
    return outcome_of(json.loads(text)) if text else None
