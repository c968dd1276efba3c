"""The pool in a SQLite file: the store for one machine, and the default.

Any number of processes of one host share the file. Its journal is a write-ahead log, so that readers stop nobody;
writers take turns, each for some tens of microseconds a task. That needs the memory of one host: put the file on a
local disk, not on a network's. A transaction that was answered survives the death of every process; with
`synchronous=NORMAL` a loss of power may take the last ones back: their tasks come back when their leases end.

A connection must not be used on both sides of a fork; threads of one process may share a store.

(Longer than most modules: what one connection does, statement by statement; the statements stand in `rows`.)
"""

from __future__ import annotations

import logging
import os
import random
import sqlite3
import time
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import groupby
from pathlib import Path
from threading import RLock

from batch_pipeline.log import Facts
from batch_pipeline.pool.base import Claim, Counts, Filter, Page, Settlement, WriteResult
from batch_pipeline.pool.moves import Holder, Transition
from batch_pipeline.pool.records import record_of_spec
from batch_pipeline.pool.stores.optimistic import OptimisticStore
from batch_pipeline.pool.stores.sqlite.rows import (
    END,
    END_EVENT,
    EVENT,
    EVENTS,
    FIRST_OF_CLASS,
    HOLD,
    INSERT,
    NUMBER,
    OTHER,
    RENEW,
    SCHEMA,
    STANDING_CLAIMS,
    STATES,
    TASKS,
    WRITE,
    Row,
    SettlementRow,
    claim_of_row,
    condition,
    encoded,
    event_row,
    events_of_row,
    marks,
    standing,
    task_of_row,
)
from batch_pipeline.pool.stores.storage import CHUNK, CommitResult, PendingMove
from batch_pipeline.pool.task import Move, Nest, Task, TaskEvent, TaskState
from batch_pipeline.wire.errors import PoolFailed

#: How long a writer waits for its turn.
BUSY_SECONDS = 60.0
#: How long it must have waited for that to be logged.
LOGGED_SECONDS = 1.0
#: Between two looks whether it has come. SQLite's own pauses grow to a tenth of a second, in which others have a
#: thousand turns: https://sqlite.org/src/file?name=src/main.c (sqliteDefaultBusyCallback).
_PAUSE_SECONDS = (0.000_2, 0.002)
_LOG = logging.getLogger(__name__)


class SqliteStore(OptimisticStore):
    """A pool in a file. What pilots do most has a way of its own here; the rest is `OptimisticStore`'s."""

    def __init__(self, path: Path) -> None:
        self._sqlite = SqliteTasks(path)
        super().__init__(self._sqlite)

    def _hold(self, count: int, classes: Collection[str] | None, holder: Holder) -> list[Claim]:
        """Exactly in order, and never fewer than there are: writers take turns."""
        claimed = (holder.owner, holder.native_id, holder.lease_ms, holder.now_ms + holder.lease_ms, holder.now_ms)
        rows = self._sqlite.hold(count, classes, claimed)
        return [claim_of_row(row, claimed) for row in sorted(rows, key=_in_order)]

    def settle(self, settlements: Sequence[Settlement], *, now_ms: int) -> list[WriteResult]:
        """See `Leases.settle`. All at once if all pass and nothing waits for them, else one by one."""
        if self._sqlite.end([SettlementRow.of(one, now_ms) for one in settlements]):
            return [WriteResult.ACCEPTED] * len(settlements)
        return super().settle(settlements, now_ms=now_ms)


class SqliteTasks:
    """See `TaskStorage`."""

    def __init__(self, path: Path) -> None:
        self.name = str(path)
        self._lock = RLock()
        self._depth = 0
        # SQLite itself would give nobody but its owner the right to write, whatever the umask. A file that is there
        # must not be opened: closing it would take this process's locks off (https://www.sqlite.org/howtocorrupt.html).
        with suppress(OSError):
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666))
        with self._translated():
            self._connection = sqlite3.connect(
                path, timeout=0, isolation_level=None, check_same_thread=False, cached_statements=256
            )
            # The pages that are written most stay in memory, and are copied to the file rarely: each time costs a sync.
            settings = (
                "journal_mode = WAL",
                "synchronous = NORMAL",
                "cache_size = -65536",
                "wal_autocheckpoint = 4000",
            )
            for setting in settings:
                self._execute(f"PRAGMA {setting}")
        with self.together():
            for statement in SCHEMA.split(";"):
                self._connection.execute(statement)

    @contextmanager
    def together(self) -> Iterator[None]:
        """See `ConditionalTable.together`. One transaction, which has the right to write from its beginning."""
        with self._lock, self._translated():
            if self._depth:
                yield
                return
            self._execute("BEGIN IMMEDIATE")
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
            remedy = ""
            if getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN):
                remedy = " You need the right to write to it and to its folder."
            raise PoolFailed(f"The pool {self.name} could not be used: {error}.{remedy}") from error

    def _rows(self, query: str, values: Sequence[object] = ()) -> list[Row]:
        with self._lock, self._translated():
            return self._execute(query, values).fetchall()

    def _execute(self, query: str, values: Sequence[object] = ()) -> sqlite3.Cursor:
        """Executes what may find the file locked, and waits for its turn."""
        deadline, pause = 0.0, _PAUSE_SECONDS[0]
        while True:
            try:
                cursor = self._connection.execute(query, values)
                waited = time.monotonic() + BUSY_SECONDS - deadline if deadline else 0.0
                if waited > LOGGED_SECONDS:
                    _LOG.info("database busy, write retried %s", Facts(waited_seconds=round(waited, 1)))
                return cursor
            except sqlite3.OperationalError as error:
                deadline = deadline or time.monotonic() + BUSY_SECONDS
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                    raise
            time.sleep(random.uniform(pause / 2, pause))
            pause = min(1.5 * pause, _PAUSE_SECONDS[1])

    def read(self, ids: Collection[str]) -> Mapping[str, Task]:
        """See `ConditionalTable.read`."""
        rows = self._rows(f"{TASKS} WHERE task.id IN ({marks(ids)}) AND state < 6", list(ids)) if ids else []
        return {task.id: task for task in map(task_of_row, rows)}

    def past(self, ids: Collection[str]) -> Mapping[str, TaskEvent]:
        """See `ConditionalTable.past`."""
        if not self._rows(f"SELECT 1 FROM task WHERE {OTHER} AND state = 6 LIMIT 1"):
            return {}
        gone = self._rows(f"SELECT seq, moves FROM task WHERE id IN ({marks(ids)}) AND state = 6", list(ids))
        rows = (row for place in gone for row in self._rows(f"{EVENTS} event.seq = ? AND number = ?", place))
        return {event.task_id: event for row in rows for event in events_of_row(row)}

    def write(self, changes: Sequence[Transition]) -> list[CommitResult]:
        """See `ConditionalTable.write`."""
        with self.together():
            places = [self._write(change) for change in changes]
            self._count(change for change, seq in zip(changes, places, strict=True) if seq is not None)
            placed = zip(places, changes, strict=True)
            kept = ((seq, change, _event_to_write(change)) for seq, change in placed if seq is not None)
            events = [event_row(seq, event, _held(change)) for seq, change, event in kept if event]
            self._connection.executemany(EVENT, events)
        return [CommitResult.REFUSED if seq is None else CommitResult.NEEDED for seq in places]

    def pending(self) -> Sequence[PendingMove]:
        """See `Outbox.pending`. A move and what follows from it are one transaction."""
        return ()

    def propagated(self, pending: Sequence[PendingMove]) -> bool:
        """See `Outbox.propagated`."""
        return True

    def _write(self, change: Transition) -> int | None:
        """Writes a task and returns its place; None: it is not as it was."""
        before, after = change.before, change.after
        if before is None:
            return self._insert(after) if after else None
        values: Row
        version = (before.id, NUMBER[before.state], before.moves, before.fence)
        if change.event is None and after:
            query, values = RENEW, (after.lease_until_ms, after.progress, after.reason, *version)
        elif after is None:
            # What is gone keeps the number of its last event.
            gone = standing(before)
            query, values = WRITE, (NUMBER[None], before.moves + 1, *gone[2:], *version)
        else:
            query, values = WRITE, (*standing(after), *version)
        if change.lease_counts:
            query, values = query + " AND lease_until_ms = ?", (*values, before.lease_until_ms)
        row = self._connection.execute(query + " RETURNING seq", values).fetchone()
        return row and int(row[0])

    def _insert(self, task: Task) -> int | None:
        spec = task.spec
        values = (spec.id, spec.resource_class, spec.priority, spec.parent or None, *standing(task))
        row = self._connection.execute(INSERT, values).fetchone()
        if row is None:
            return None
        seq = int(row[0])
        self._connection.execute("REPLACE INTO spec VALUES (?, ?)", (seq, encoded(record_of_spec(spec))))
        if spec.after:
            needed = [(name, seq) for name in spec.after]
            self._connection.executemany("INSERT OR IGNORE INTO needed VALUES (?, ?)", needed)
        return seq

    def _count(self, changes: Iterable[Transition]) -> None:
        """Counts the tasks of each class, in all states, along: those that came and those that went."""
        more: Counter[str] = Counter()
        for change in changes:
            if change.before is None and change.after:
                more[change.after.spec.resource_class] += 1
            elif change.before and change.after is None:
                more[change.before.spec.resource_class] -= 1
        query = "INSERT INTO class VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET number = number + excluded.number"
        self._connection.executemany(query, more.items())

    def hold(self, count: int, classes: Collection[str] | None, claimed: Row) -> list[Row]:
        """Claims in one statement; returns rows for `claim_of_row`."""
        with self.together():
            first, values = self._first(count, classes)
            if not first:
                return []
            return self._connection.execute(HOLD.format(first=first), (*claimed, *values)).fetchall()

    def end(self, endings: Sequence[SettlementRow]) -> bool:
        """Ends attempts, if all of them may be ended and no task waits for theirs; else changes nothing."""
        if not all(ending.seq for ending in endings):
            return False
        with self.together():
            if self._are_needed([ending.task_id for ending in endings]):
                return False
            cursor = self._connection.executemany(END, [ending.values for ending in endings])
            if cursor.rowcount != len(endings):
                self._connection.execute("ROLLBACK")
                return False
            self._connection.executemany(END_EVENT, [ending.event for ending in endings])
        return True

    def _are_needed(self, ids: Sequence[str]) -> bool:
        query = f"SELECT 1 FROM needed WHERE id IN ({marks(ids)}) LIMIT 1"
        return self._connection.execute(query, ids).fetchone() is not None

    def _first(self, count: int, classes: Collection[str] | None) -> tuple[str, list[object]]:
        """A query for the places of the tasks to claim first: each class has its part of the index."""
        names = [row[0] for row in self._rows("SELECT name FROM class")] if classes is None else list(classes)
        if len(names) <= 1:
            return (FIRST_OF_CLASS if names else ""), [*names, count]
        each = " UNION ALL ".join([f"SELECT * FROM ({FIRST_OF_CLASS})"] * len(names))
        values = [value for name in names for value in (name, count)]
        return f"SELECT seq FROM ({each}) ORDER BY priority DESC, seq LIMIT ?", [*values, count]

    def candidates(self, count: int, classes: Collection[str] | None) -> Sequence[Task]:
        """See `TaskStorage.candidates`."""
        first, values = self._first(count, classes)
        if not first:
            return []
        query = f"{TASKS} WHERE task.seq IN (SELECT seq FROM ({first})) ORDER BY priority DESC, task.seq"
        return [task_of_row(row) for row in self._rows(query, values)]

    def expired(self, now_ms: int) -> Iterable[Task]:
        """See `TaskStorage.expired`. All callers share the host's clock."""
        return map(task_of_row, self._rows(f"{TASKS} WHERE state = 2 AND lease_until_ms <= ?", (now_ms,)))

    def dependents(self, ids: Collection[str]) -> Iterable[Task]:
        """See `Outbox.dependents`."""
        query = f"{TASKS} WHERE task.seq IN (SELECT seq FROM needed WHERE id IN ({marks(ids)})) AND state IN (0, 1)"
        return map(task_of_row, self._rows(query, list(ids)))

    def waiting(self) -> Iterator[Task]:
        """See `Outbox.waiting`. In pieces, each in a look of its own."""
        place = ("", 0)
        query = f"""{TASKS} WHERE {OTHER} AND state = 0 AND (class, task.seq) > (?, ?)
        ORDER BY class, task.seq LIMIT {CHUNK}"""
        while rows := self._rows(query, place):
            tasks = [task_of_row(row) for row in rows]
            yield from tasks
            place = (tasks[-1].spec.resource_class, rows[-1][0])

    def find(self, wanted: Filter, *, limit: int, cursor: str | None) -> Page:
        """See `TaskReader.find`. The order is that of adding."""
        where, values = condition(wanted)
        query = f"{TASKS} WHERE task.seq > ? AND {where} ORDER BY task.seq LIMIT ?"
        rows = self._rows(query, [int(cursor or 0), *values, limit])
        tasks = tuple(task for task in map(task_of_row, rows) if wanted.accepts(task))
        return Page(tasks=tasks, cursor=str(rows[-1][0]) if len(rows) == limit else None)

    def counts(self) -> Counts:
        """See `Statistics.counts`."""
        query = f"""SELECT name, NULL, number FROM class
        UNION ALL SELECT class, 1, count(*) FROM task WHERE state = 1 GROUP BY class
        UNION ALL SELECT class, 2, count(*) FROM task WHERE state = 2 GROUP BY class
        UNION ALL SELECT class, state, count(*) FROM task WHERE {OTHER} GROUP BY state, class"""
        counts: dict[str, dict[TaskState, int]] = defaultdict(dict)
        for name, state, number in self._rows(query):
            # Deleted tasks are not among those of the class.
            if state == NUMBER[None]:
                continue
            counts[name][TaskState.DONE if state is None else STATES[state]] = number
        for states in counts.values():
            states[TaskState.DONE] -= sum(number for state, number in states.items() if state is not TaskState.DONE)
        kept = (
            (name, {state: number for state, number in states.items() if number}) for name, states in counts.items()
        )
        return Counts(by_class={name: states for name, states in kept if states})

    def nests(self) -> Iterator[Nest]:
        """See `Statistics.nests`."""
        query = """SELECT parent, state, count(*) FROM task WHERE parent IS NOT NULL AND state < 6
        GROUP BY parent, state ORDER BY parent"""
        for parent, rows in groupby(self._rows(query), key=lambda row: row[0]):
            yield Nest(parent=parent, counts={STATES[state]: number for _, state, number in rows})

    def ends_since(self, since_ms: int) -> int:
        """See `Statistics.ends_since`."""
        query = "SELECT count(*) FROM task WHERE state IN (3, 4) AND ended_at_ms >= ?"
        return int(self._rows(query, (since_ms,))[0][0])

    def events(self, *, task_id: str, act: str) -> Iterator[TaskEvent]:
        """See `TaskReader.events`. In pieces, each in a look of its own."""
        place: tuple[object, ...] = (0, 0)
        among, name = ("id = ? AND", [task_id]) if task_id else ("", [])
        if act:
            query, values = f"{EVENTS} {among} act = ? AND (event.seq, number) > (?, ?)", [*name, act]
        else:
            later = f"{EVENTS} {among} (event.seq, number) > (?, ?)"
            query, values = f"{later} UNION ALL {STANDING_CLAIMS} {among} (seq, moves) > (?, ?)", name
        twice = 1 if act else 2
        while rows := self._rows(f"{query} ORDER BY 2, 3 LIMIT {CHUNK}", [*values, *place] * twice):
            events = (event for row in rows for event in events_of_row(row))
            yield from (event for event in events if not act or event.act == act)
            place = rows[-1][1:3]

    def close(self) -> None:
        """See `TaskStorage.close`."""
        with self._lock, self._translated():
            self._connection.close()


def _event_to_write(change: Transition) -> TaskEvent | None:
    """The event to be written. A claim is none: the task tells of it, and then the event that ends it."""
    return None if change.event and change.event.move is Move.CLAIMED else change.event


def _held(change: Transition) -> Task | None:
    return change.before if change.before and change.before.state is TaskState.HELD else None


def _in_order(row: Row) -> tuple[int, int]:
    return -row[-1], row[0]
