"""What stands where in a pool's SQLite file: schema, statements, and tasks and events as their rows.

One row a task, narrow, for it is written at each move; what was asked of it lies in a table of its own that is only
read. Every index but that of ids is partial: what is done is in none, so that a pool does not grow slower as it is
drained. Numbers are not counted along, which would have all writers meet in one row: what is done is what was added
less what the small indexes hold. A deleted task keeps its row, marked, and so its numbers and its history. A claim is
no row of the events: while it stands, the task tells of it, afterwards the event that ended it (`claimed_ms`).

(A little longer than most modules: a third of it is the schema and the statements, beside what reads their columns.)
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from batch_pipeline.pool import moves
from batch_pipeline.pool.base import Claim, Filter, Settlement
from batch_pipeline.pool.records import (
    outcome_of,
    record_of_outcome,
    record_of_task,
    spec_of,
    task_of,
)
from batch_pipeline.pool.task import Move, Task, TaskEvent, TaskOutcome, TaskState
from batch_pipeline.wire.contract import EndReason

STATES = (
    TaskState.WAITING,
    TaskState.TODO,
    TaskState.HELD,
    TaskState.DONE,
    TaskState.FAILED,
    TaskState.CANCELLED,
)
NUMBER: Mapping[TaskState | None, int] = {**{state: number for number, state in enumerate(STATES)}, None: 6}
NUMBER_OF_MOVE = {move: number for number, move in enumerate(Move)}
_MOVES = tuple(Move)

#: The condition of an index on what is neither to be done nor held nor done. SQLite uses a partial index only for a
#: query that repeats its condition word for word; with IN each write of a row would take twice as long.
OTHER = "(state < 1 OR state > 3)"
#: The states' numbers are written out: SQLite uses a partial index only if it can see that its condition holds.
SCHEMA = f"""
CREATE TABLE IF NOT EXISTS task (
  seq INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, class TEXT NOT NULL, priority INTEGER NOT NULL, parent TEXT,
  state INTEGER NOT NULL, moves INTEGER NOT NULL, fence INTEGER NOT NULL, attempts INTEGER NOT NULL,
  returns INTEGER NOT NULL, owner TEXT NOT NULL, native_id TEXT NOT NULL, lease_ms INTEGER NOT NULL,
  lease_until_ms INTEGER NOT NULL, progress REAL, reason TEXT NOT NULL, outcome, added_at_ms INTEGER NOT NULL,
  claimed_at_ms INTEGER NOT NULL, ended_at_ms INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS spec (seq INTEGER PRIMARY KEY, body TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS event (
  seq INTEGER, number INTEGER, at_ms INTEGER, move INTEGER, source INTEGER, target INTEGER, owner TEXT, fence INTEGER,
  why TEXT, outcome, act TEXT, before TEXT, claimed_ms INTEGER, PRIMARY KEY (seq, number)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS needed (id TEXT, seq INTEGER, PRIMARY KEY (id, seq)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS class (name TEXT PRIMARY KEY, number INTEGER NOT NULL) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS todo ON task (class, priority DESC, seq, state) WHERE state = 1;
CREATE INDEX IF NOT EXISTS held ON task (lease_until_ms) WHERE state = 2;
CREATE INDEX IF NOT EXISTS other ON task (state, class) WHERE {OTHER};
CREATE INDEX IF NOT EXISTS nested ON task (parent) WHERE parent IS NOT NULL;
CREATE INDEX IF NOT EXISTS acted ON event (act) WHERE act IS NOT NULL;
"""
#: What a task's row says of how it stands, in the order of `standing`.
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
TASKS = f"SELECT task.seq, spec.body, {_COLUMNS} FROM task JOIN spec USING (seq)"
WRITE = (
    f"UPDATE task SET {', '.join(f'{name} = ?' for name in _STANDING)} "
    "WHERE id = ? AND state = ? AND moves = ? AND fence = ?"
)
INSERT = f"""INSERT INTO task (id, class, priority, parent, {", ".join(_STANDING)})
VALUES ({", ".join("?" * (4 + len(_STANDING)))})
ON CONFLICT (id) DO UPDATE SET class = excluded.class, priority = excluded.priority, parent = excluded.parent,
{", ".join(f"{name} = excluded.{name}" for name in _STANDING)} WHERE state = 6 RETURNING seq"""
RENEW = (
    "UPDATE task SET lease_until_ms = ?, progress = coalesce(?, progress), reason = ? "
    "WHERE id = ? AND state = ? AND moves = ? AND fence = ?"
)
EVENT = "INSERT INTO event VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
FIRST_OF_CLASS = "SELECT seq, priority FROM task WHERE state = 1 AND class = ? ORDER BY priority DESC, seq LIMIT ?"
HOLD = """UPDATE task SET state = 2, moves = moves + 1, fence = fence + 1, owner = ?, native_id = ?, lease_ms = ?,
lease_until_ms = ?, progress = NULL, reason = '', claimed_at_ms = ? WHERE seq IN (SELECT seq FROM ({first}))
RETURNING seq, (SELECT body FROM spec WHERE spec.seq = task.seq), moves, fence, attempts, returns, outcome, added_at_ms,
ended_at_ms, priority"""
END = """UPDATE task SET state = ?, moves = ?, attempts = ?, returns = ?, outcome = ?, ended_at_ms = ?,
progress = coalesce(?, progress), lease_ms = 0, lease_until_ms = 0
WHERE seq = ? AND state = 2 AND moves = ? AND fence = ? AND owner = ?"""
END_EVENT = """INSERT INTO event (seq, number, at_ms, move, source, target, owner, fence, why, outcome, claimed_ms)
VALUES (?, ?, ?, ?, 2, ?, ?, ?, ?, ?, ?)"""
#: The events, with the task's id before them; a claim that stands is one too.
EVENTS = "SELECT id, event.* FROM event JOIN task USING (seq) WHERE"
STANDING_CLAIMS = f"""SELECT id, seq, moves AS number, claimed_at_ms, {NUMBER_OF_MOVE[Move.CLAIMED]}, 1, 2,
owner, fence, '', NULL, NULL, NULL, NULL FROM task WHERE state = 2 AND"""
Row = tuple[Any, ...]
#: JSON as the file has it. Made once, for `json.dumps` makes an encoder each time.
encoded = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
_decoded = json.JSONDecoder().raw_decode
#: The end of most attempts, which the file has as a 1: SQLite needs no byte for that.
_FINE = TaskOutcome(end_reason=EndReason.FINISHED, exit_code=0)
#: Move that ends an attempt -> its number, and that of the state that it leads to.
_END_OF = {move: (NUMBER_OF_MOVE[move], NUMBER[state]) for move, state in moves.STATE_AFTER.items()}


@dataclass(frozen=True, kw_only=True, slots=True)
class SqliteClaim(Claim):
    """A claim that knows its row."""

    seq: int


class SettlementRow(NamedTuple):
    """What `moves.settled` says, as the values of `END` and `END_EVENT`. Made for every task: a tuple costs least."""

    task_id: str
    #: 0: the claim is not one of ours.
    seq: int
    values: Row
    event: Row

    @staticmethod
    def of(settlement: Settlement, now_ms: int) -> SettlementRow:
        """The end of an attempt."""
        claim, outcome = settlement.claim, settlement.outcome
        task = claim.task
        move, attempts, returns = moves.judged(task, outcome.end_reason)
        move_number, state = _END_OF[move]
        seq = claim.seq if isinstance(claim, SqliteClaim) else 0
        number, fence, owner = task.moves + 1, task.fence, task.owner
        text = _outcome_value(outcome)
        briefly = text if not outcome.log_tail else _outcome_value(moves.briefly(outcome))
        progress = 1.0 if state == 3 else None
        values = (state, number, attempts, returns, text, now_ms, progress, seq, task.moves, fence, owner)
        end = (owner, fence, outcome.error, briefly, task.claimed_at_ms)
        event = (seq, number, now_ms, move_number, state, *end)
        return SettlementRow(task_id=task.spec.id, seq=seq, values=values, event=event)


def marks(values: Collection[object]) -> str:
    """As many question marks as there are values."""
    return ", ".join("?" * len(values))


def condition(wanted: Filter) -> tuple[str, list[object]]:
    """What of a filter the database can tell; the rest is asked of what it finds."""
    parts, values = ["state < 6"], []
    lists: list[tuple[str, list[object]]] = [
        ("state", [NUMBER[state] for state in wanted.states]),
        ("class", list(wanted.classes)),
        ("task.id", list(wanted.ids)),
        ("parent", [wanted.parent] if wanted.parent else []),
        ("owner", [wanted.owner] if wanted.owner else []),
    ]
    for name, some in lists:
        if some:
            parts.append(f"{name} IN ({marks(some)})")
            values += some
    if wanted.id_pattern:
        parts.append("task.id GLOB ?")
        values.append(wanted.id_pattern.replace("[!", "[^"))
    return " AND ".join(parts), values


def standing(task: Task) -> Row:
    """How a task stands, in the order of its columns."""
    return (
        NUMBER[task.state],
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
        _outcome_value(task.outcome),
        task.added_at_ms,
        task.claimed_at_ms,
        task.ended_at_ms,
    )


def task_of_row(row: Row) -> Task:
    """Reads a row of `TASKS`."""
    return Task(
        spec=spec_of(_decoded(row[1])[0]),
        state=STATES[row[2]],
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


def claim_of_row(row: Row, claimed: Row) -> SqliteClaim:
    """Reads what `HOLD` returns of a task that was claimed with these values."""
    owner, native_id, lease_ms, lease_until_ms, now_ms = claimed
    task = Task(
        spec=spec_of(_decoded(row[1])[0]),
        state=TaskState.HELD,
        moves=row[2],
        fence=row[3],
        attempts=row[4],
        returns=row[5],
        owner=owner,
        native_id=native_id,
        lease_ms=lease_ms,
        lease_until_ms=lease_until_ms,
        outcome=_outcome(row[6]),
        added_at_ms=row[7],
        claimed_at_ms=now_ms,
        ended_at_ms=row[8],
    )
    return SqliteClaim(task=task, seq=row[0])


def event_row(seq: int, event: TaskEvent, held: Task | None) -> Row:
    """The values of `EVENT`. `held`: the task as it was before, if it was held."""
    before = encoded(record_of_task(event.before)) if event.before else None
    return (
        seq,
        event.number,
        event.at_ms,
        NUMBER_OF_MOVE[event.move],
        NUMBER[event.source],
        NUMBER[event.target],
        event.owner,
        event.fence,
        event.why,
        _outcome_value(event.outcome),
        event.act or None,
        before,
        held.claimed_at_ms if held else None,
    )


def events_of_row(row: Row) -> Iterator[TaskEvent]:
    """Reads a row of `EVENTS`: the claim that an event ended, then the event."""
    event = _event(row)
    if row[13] is not None:
        # A move of a person's has their name on it, and raised the fencing number.
        held = event.before or event
        yield TaskEvent(
            task_id=event.task_id,
            number=event.number - 1,
            at_ms=row[13],
            move=Move.CLAIMED,
            source=TaskState.TODO,
            target=TaskState.HELD,
            owner=held.owner,
            fence=held.fence,
        )
    yield event


def _event(row: Row) -> TaskEvent:
    return TaskEvent(
        task_id=row[0],
        number=row[2],
        at_ms=row[3],
        move=_MOVES[row[4]],
        source=STATES[row[5]] if row[5] < 6 else None,
        target=STATES[row[6]] if row[6] < 6 else None,
        owner=row[7],
        fence=row[8],
        why=row[9],
        outcome=_outcome(row[10]),
        act=row[11] or "",
        before=task_of(json.loads(row[12])) if row[12] else None,
    )


def _outcome_value(outcome: TaskOutcome | None) -> str | int | None:
    if outcome is None:
        return None
    return 1 if outcome == _FINE else encoded(record_of_outcome(outcome))


def _outcome(value: str | int | None) -> TaskOutcome | None:
    if value is None:
        return None
    return outcome_of(json.loads(value)) if isinstance(value, str) else _FINE
