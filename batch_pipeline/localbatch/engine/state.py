"""What survives a crash: jobs, what became of their children, and the documents, in one SQLite file.

SubmitJob and its like are committed before they are answered. What becomes of children is committed in batches: an end
that is not in the file yet is in the journal of the worker that ran it, and a child that had not ended starts over or
is adopted. Which children are PENDING or RUNNABLE follows from the rest and is not stored.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from batch_pipeline.localbatch.engine.job import (
    BatchJob,
    Cancellation,
    Dependency,
    Document,
    JobAttempt,
    JobSpec,
    Rule,
    StoredChild,
)
from batch_pipeline.wire.toolchain import Toolchain, toolchain_of

#: AWS keeps ended jobs for "at least 7 days": https://docs.aws.amazon.com/batch/latest/userguide/job_states.html
RETENTION_MS = 7 * 24 * 3600 * 1000

_SCHEMA = """
PRAGMA journal_mode = WAL;
PRAGMA synchronous = NORMAL;
CREATE TABLE IF NOT EXISTS document (kind TEXT, name TEXT, body TEXT NOT NULL, PRIMARY KEY (kind, name));
CREATE TABLE IF NOT EXISTS job (
  number INTEGER PRIMARY KEY, id TEXT UNIQUE NOT NULL, body TEXT NOT NULL, ending TEXT, status_reason TEXT,
  ended_ms INTEGER);
CREATE TABLE IF NOT EXISTS child (
  job_id TEXT, place INTEGER, state INTEGER, tries INTEGER, started_ms INTEGER, stopped_ms INTEGER,
  exit_code INTEGER, status_reason TEXT, reason TEXT, earlier TEXT, ending TEXT,
  PRIMARY KEY (job_id, place)) WITHOUT ROWID;
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredJob:
    """A job as it was stored."""

    spec: JobSpec
    cancellation: Cancellation | None
    status_reason: str | None
    children: list[StoredChild]


class NotStored(Exception):
    """Nothing was written: no space is left, or the disk fails."""


class Storage(Protocol):
    """Keeps what the server must not forget. Every verb raises NotStored."""

    def save_document(self, kind: str, name: str, body: Document | None) -> None:
        """Stores a document, or removes it (None); returns when it is safe."""

    def save_job(self, spec: JobSpec) -> None:
        """Stores a new job; returns when it is safe."""

    def save(self, jobs: Iterable[BatchJob], children: Iterable[tuple[BatchJob, int]]) -> None:
        """Stores what became of jobs and children; returns when it is safe."""


class MemoryStorage:
    """Forgets: for servers that live as long as a test."""

    def save_document(self, kind: str, name: str, body: Document | None) -> None:
        """See `Storage.save_document`."""

    def save_job(self, spec: JobSpec) -> None:
        """See `Storage.save_job`."""

    def save(self, jobs: Iterable[BatchJob], children: Iterable[tuple[BatchJob, int]]) -> None:
        """See `Storage.save`."""


class SqliteStorage:
    """Keeps everything in a SQLite file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection = sqlite3.connect(path, isolation_level=None)
        self._connection.executescript(_SCHEMA)

    def close(self) -> None:
        """Closes the file."""
        self._connection.close()

    def save_document(self, kind: str, name: str, body: Document | None) -> None:
        """See `Storage.save_document`."""
        with self._writing():
            if body is None:
                self._connection.execute("DELETE FROM document WHERE kind = ? AND name = ?", (kind, name))
            else:
                self._connection.execute("REPLACE INTO document VALUES (?, ?, ?)", (kind, name, json.dumps(body)))

    def save_job(self, spec: JobSpec) -> None:
        """See `Storage.save_job`."""
        with self._writing():
            self._connection.execute("INSERT INTO job (id, body) VALUES (?, ?)", (spec.id, json.dumps(_body(spec))))

    def save(self, jobs: Iterable[BatchJob], children: Iterable[tuple[BatchJob, int]]) -> None:
        """See `Storage.save`."""
        with self._writing(), self._connection:
            self._connection.execute("BEGIN")
            self._connection.executemany(
                "UPDATE job SET ending = ?, status_reason = ?, ended_ms = ? WHERE id = ?",
                ((_json(job.cancellation), job.status_reason, job.stopped_ms, job.spec.id) for job in jobs),
            )
            self._connection.executemany(
                "REPLACE INTO child VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", map(_row, children)
            )

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            raise NotStored(f"{self._path.parent} cannot be written: {error}") from error

    def documents(self) -> Iterator[tuple[str, str, Document]]:
        """Kind, name and body of each document."""
        for kind, name, body in self._connection.execute("SELECT kind, name, body FROM document ORDER BY rowid"):
            yield kind, name, json.loads(body)

    def jobs(self) -> Iterator[StoredJob]:
        """The jobs in the order of their submission."""
        query = "SELECT id, body, ending, status_reason FROM job ORDER BY number"
        for job_id, body, cancellation, status_reason in self._connection.execute(query).fetchall():
            rows = self._connection.execute("SELECT * FROM child WHERE job_id = ?", (job_id,))
            yield StoredJob(
                spec=_spec(json.loads(body)),
                cancellation=_cancellation(cancellation),
                status_reason=status_reason,
                children=[_child(row) for row in rows],
            )

    def forget(self, before_ms: int) -> list[str]:
        """Removes jobs that ended before a time and that no kept job waits for; returns their ids."""
        rows = self._connection.execute("SELECT id, body, ended_ms FROM job ORDER BY number DESC").fetchall()
        needed: set[str] = set()
        gone = []
        for job_id, body, ended_ms in rows:
            if ended_ms is not None and 0 <= ended_ms < before_ms and job_id not in needed:
                gone.append(job_id)
            else:
                needed.update(entry["job_id"] for entry in json.loads(body)["dependencies"])
        with self._connection:
            self._connection.execute("BEGIN")
            for table, column in (("job", "id"), ("child", "job_id")):
                self._connection.executemany(f"DELETE FROM {table} WHERE {column} = ?", ((each,) for each in gone))
        return gone


def _row(child: tuple[BatchJob, int]) -> tuple[object, ...]:
    job, index = child
    status_reason, reason = job.reasons[job.reason_ids[index]]
    earlier = job.earlier.get(index)
    return (
        job.spec.id,
        index,
        job.states[index],
        job.tries[index],
        job.started[index],
        job.stopped[index],
        job.exits[index],
        status_reason,
        reason,
        json.dumps([asdict(each) for each in earlier]) if earlier else None,
        _json(job.cancellations.get(index)),
    )


def _child(row: tuple[Any, ...]) -> StoredChild:
    _, index, state, tries, started_ms, stopped_ms, exit_code, status_reason, reason, earlier, cancellation = row
    return StoredChild(
        index=index,
        state=state,
        tries=tries,
        started_ms=started_ms,
        stopped_ms=stopped_ms,
        exit_code=exit_code,
        status_reason=status_reason,
        reason=reason,
        earlier=tuple(JobAttempt(**each) for each in json.loads(earlier or "[]")),
        cancellation=_cancellation(cancellation),
    )


def _body(spec: JobSpec) -> Document:
    """A job as JSON; under `doomed`, the earlier name, servers of every version find why it fails.

    Earlier versions know no consumable resources; jobs without any they read too.
    """
    body = asdict(spec)
    body["doomed"] = body.pop("fails_on_submit")
    if not spec.consumes:
        del body["consumes"]
    return body


def _spec(body: Document) -> JobSpec:
    return JobSpec(
        **{
            **{key: value for key, value in body.items() if key != "doomed"},
            "fails_on_submit": body.get("doomed"),
            "dependencies": tuple(Dependency(**each) for each in body["dependencies"]),
            "rules": tuple(Rule(**each) for each in body["rules"]),
            "command": tuple(body["command"]),
            "consumes": tuple((name, quantity) for name, quantity in body.get("consumes", ())),
            "toolchain": _toolchain(body.get("toolchain")),
        }
    )


def _toolchain(value: Document | None) -> Toolchain | None:
    """Equal ones are one object, as those of requests are."""
    return toolchain_of(Toolchain(**value).to_header()) if value else None


def _json(cancellation: Cancellation | None) -> str | None:
    return json.dumps(asdict(cancellation)) if cancellation else None


def _cancellation(text: str | None) -> Cancellation | None:
    return Cancellation(**json.loads(text)) if text else None
