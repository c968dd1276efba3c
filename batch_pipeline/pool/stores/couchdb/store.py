"""The pool in a CouchDB database: for pilots anywhere that reach one server, and for those who come from PiCaS.

One document a task (`documents`). CouchDB writes a document on the condition of its revision, which is
stronger than what is asked for: a write that is refused reads the document anew, and tries again if the task still is
what the change began with. What this process wrote last it keeps, so that a claim and a settlement are one call each;
those of many tasks at once are one call too. A claim looks at a window of the queue that is kept for the next claims
and begun at a random place where others are (`windows`): pilots seldom want the same task.

Views are brought up to date when they are asked, so they show every write that was answered before (on one server; a
cluster may be a moment late, which costs a refused write or a look more). The database also has the design documents
of PiCaS, `Monitor` and one for each resource class, for its tools.

A store must not be used on both sides of a fork; threads may share one. (A little longer than most modules: what
`TaskStorage` asks for, method by method; documents and calls stand in `documents` and `server`.)
"""

from __future__ import annotations

import logging
import random
from collections import OrderedDict, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import count as counting
from itertools import groupby
from threading import Lock
from typing import Any
from urllib.parse import quote
from uuid import uuid4

from batch_pipeline.log import Facts
from batch_pipeline.pool.base import Counts, Filter, Page
from batch_pipeline.pool.moves import Transition
from batch_pipeline.pool.stores.couchdb import documents
from batch_pipeline.pool.stores.couchdb.documents import Document
from batch_pipeline.pool.stores.couchdb.server import Database
from batch_pipeline.pool.stores.leases import LeaseWatch
from batch_pipeline.pool.stores.optimistic import OptimisticStore
from batch_pipeline.pool.stores.storage import CommitResult, PendingMove
from batch_pipeline.pool.stores.windows import Windows
from batch_pipeline.pool.task import Move, Nest, Task, TaskEvent, TaskState
from batch_pipeline.wire.errors import PoolFailed

#: Candidates that one look at the queue reads.
WINDOW = 50
#: How far back a look begins at random where others are: eight pilots that claim ten at once seldom meet.
SPREAD = 2000
#: Documents whose last revision is kept.
_KEPT = 2000
#: Documents a page of a view that may be long.
_PAGE = 500
#: How often a write is tried anew against others that change the document without moving the task.
_TRIES = 10
_LOG = logging.getLogger(__name__)
#: Moves after which what was seen of the queue may lack what goes first.
_NEWS = frozenset({Move.ADDED, Move.RETRIED, Move.RESET, Move.UNDONE})


class CouchDbStore(OptimisticStore):
    """A pool in a database.

    Raises
    ------
    PoolFailed
        The database is not there and `create` is not said, or could not be reached.
    """

    def __init__(self, url: str, database: str, *, create: bool = False) -> None:
        self.database = Database(url, database)
        super().__init__(CouchDbTasks(self.database, create=create))


class CouchDbTasks:
    """See `TaskStorage`."""

    def __init__(self, database: Database, *, create: bool) -> None:
        self.name = database.name
        self._database = database
        self._places = counting()
        self._windows = Windows(self._look)
        self._watch = LeaseWatch()
        self._lock = Lock()
        #: Documents as this process wrote or saw them last.
        self._kept: OrderedDict[str, Document] = OrderedDict()
        self._classes: set[str] = set()
        if create:
            self._database.call("PUT", accept=(412,))
            self._design("Monitor", documents.picas_views())
            for name, views in documents.VIEWS.items():
                self._design(name, views)
        elif "views" not in self._database.call("GET", "/_design/pool-queue"):
            raise PoolFailed(f"{self.name} holds no pool. Make it one with `batch-pipeline pool init`.")

    def _design(self, name: str, views: Mapping[str, Mapping[str, str]]) -> None:
        path = f"/_design/{quote(name, safe='')}"
        wanted = documents.design(name, views)
        there = self._database.call("GET", path, accept=(404,))
        if there.get("views") != wanted["views"]:
            revision = {"_rev": there["_rev"]} if "_rev" in there else {}
            # Refused: another has just written it.
            self._database.call("PUT", path, {**wanted, **revision}, accept=(409,))

    def _learn(self, changes: Iterable[Transition]) -> None:
        """Gives each new class its views, as PiCaS has them."""
        named = {change.after.spec.resource_class for change in changes if change.after and change.before is None}
        for name in sorted(named - self._classes - {"Monitor", *documents.VIEWS}):
            self._design(name, documents.picas_views(name))
        self._classes |= named

    def together(self) -> AbstractContextManager[object]:
        """See `ConditionalTable.together`. Each write is alone; `reap` finds what a crash leaves between two."""
        return nullcontext()

    def read(self, ids: Collection[str]) -> Mapping[str, Task]:
        """See `ConditionalTable.read`."""
        tasks = ((name, documents.task_of(document)) for name, document in self._read(ids).items())
        return {name: task for name, task in tasks if task}

    def _read(self, ids: Collection[str]) -> dict[str, Document]:
        documents_by_id = self._database.documents(list(ids))
        self._keep(documents_by_id.values())
        return documents_by_id

    def _keep(self, latest: Iterable[Document]) -> None:
        with self._lock:
            for document in latest:
                self._kept[document["_id"]] = document
                self._kept.move_to_end(document["_id"])
            while len(self._kept) > _KEPT:
                self._kept.popitem(last=False)

    def past(self, ids: Collection[str]) -> Mapping[str, TaskEvent]:
        """See `ConditionalTable.past`."""
        documents_by_id = self._read(ids).items()
        return {name: documents.events_of(each)[-1] for name, each in documents_by_id if each.get("type") == "deleted"}

    def write(self, changes: Sequence[Transition]) -> list[CommitResult]:
        """See `ConditionalTable.write`."""
        self._learn(changes)
        self._note_needs(changes)
        nonces = {change.task_id: uuid4().hex[:16] for change in changes}
        places = {change.task_id: next(self._places) for change in changes}
        won: dict[str, CommitResult] = {}
        open_steps = list(changes)
        for _ in range(_TRIES):
            open_steps = self._tried(open_steps, nonces, places, won)
            if not open_steps:
                break
        for change in changes:
            if change.task_id not in won and change.event and change.event.move is Move.CLAIMED and change.before:
                for part in ("", change.before.spec.resource_class):
                    self._windows.missed(part)
        if any(change.event and change.event.move in _NEWS for change in changes):
            self._windows.forget()
        return [won.get(change.task_id, CommitResult.REFUSED) for change in changes]

    def _tried(
        self,
        changes: Sequence[Transition],
        nonces: Mapping[str, str],
        places: Mapping[str, int],
        won: dict[str, CommitResult],
    ) -> list[Transition]:
        """Writes what may be written, once; returns the changes to try again, on documents that were read anew."""
        with self._lock:
            known = {change.task_id: self._kept.get(change.task_id) for change in changes}
        unknown = [name for name, document in known.items() if document is None]
        known |= self._read(unknown)
        ready: dict[str, Document] = {}
        for change in changes:
            document = known[change.task_id]
            if document and document.get("nonce") == nonces[change.task_id]:
                won[change.task_id] = _written(document)
            elif documents.is_as_before(document, change):
                ready[change.task_id] = documents.written(
                    document, change, nonce=nonces[change.task_id], place=places[change.task_id]
                )
        # What was kept may be old: whether the task has moved is for the server to say.
        stale = [change for change in changes if change.task_id not in ready and change.task_id not in won]
        again = [change for change in stale if change.task_id not in unknown]
        revisions = dict(zip(ready, self._database.save(list(ready.values())), strict=True))
        self._keep({**ready[name], "_rev": revision} for name, revision in revisions.items() if revision)
        won |= {name: _written(ready[name]) for name, revision in revisions.items() if revision}
        self._drop([name for name, revision in revisions.items() if not revision])
        self._drop(change.task_id for change in again)
        refused = [change for change in changes if revisions.get(change.task_id, "") is None]
        self._database.conflicts += len(refused)
        for change in refused:
            _LOG.info("conflict retried %s", Facts(task=change.task_id, write="document"))
        return [*refused, *again]

    def _drop(self, ids: Iterable[str]) -> None:
        """Forgets documents that somebody else has written, or is to write."""
        with self._lock:
            for name in ids:
                self._kept.pop(name, None)

    def pending(self) -> Sequence[PendingMove]:
        """See `Outbox.pending`. A database of before there was an outbox has no such view."""
        path = "/_design/pool-outbox/_view/outbox"
        rows = self._database.call("GET", path, accept=(404,), include_docs=True).get("rows", ())
        marked = [row["doc"] for row in rows if row.get("doc")]
        self._keep(marked)
        return [entry for entry in map(documents.pending_of, marked) if entry]

    def propagated(self, pending: Sequence[PendingMove]) -> bool:
        """See `Outbox.propagated`."""
        numbers = {entry.task_id: entry.number for entry in pending}
        stood = 0
        for _ in range(_TRIES):
            with self._lock:
                there = {name: self._kept[name] for name in numbers if name in self._kept}
            there |= self._read([name for name in numbers if name not in there])
            marked = {name: there[name] for name in numbers if there.get(name, {}).get("outbox") == numbers[name]}
            cleared = {name: documents.propagated(document) for name, document in marked.items()}
            revisions = dict(zip(cleared, self._database.save(list(cleared.values())), strict=True))
            self._keep({**cleared[name], "_rev": revision} for name, revision in revisions.items() if revision)
            numbers = {name: numbers[name] for name, revision in revisions.items() if not revision}
            self._drop(numbers)
            stood += len(revisions) - len(numbers)
            if not numbers:
                break
        return stood == len(pending)

    def _note_needs(self, changes: Sequence[Transition]) -> None:
        """Marks what is waited for before the waiting tasks are there, so that nobody who ends one overlooks them."""
        added = (change.after.spec.after for change in changes if change.after and change.before is None)
        needed = {name for names in added for name in names}
        while needed:
            there = self._read(needed)
            marked = {name: there.get(name, {"_id": name, "type": "awaited"}) for name in needed}
            marked = {
                name: {**document, "needed": True} for name, document in marked.items() if "needed" not in document
            }
            revisions = self._database.save(list(marked.values()))
            self._drop(marked)
            needed = {name for name, revision in zip(marked, revisions, strict=True) if revision is None}

    def candidates(self, count: int, classes: Collection[str] | None) -> Sequence[Task]:
        """See `TaskStorage.candidates`."""
        parts = [""] if classes is None else list(classes)
        tasks = [task for part in parts for task in self._windows.take(part, count)]
        if len(parts) == 1:
            return tasks
        return sorted(tasks, key=lambda task: (-task.spec.priority, task.added_at_ms))[:count]

    def _look(self, part: str, crowded: bool) -> list[Task]:
        whole: dict[str, Any] = {"startkey": [part], "endkey": [part, {}]}
        if crowded:
            head = self._database.view("pool-queue", "queue", limit=1, **whole)
            if head.rows:
                foremost = head.rows[0]["key"][:2]
                # Each task is in the view twice.
                skip = random.randrange(max(min(head.total_rows // 2, SPREAD), 1))
                if tasks := self._window(skip=skip, startkey=foremost, endkey=[*foremost, {}]):
                    return tasks
        return self._window(**whole)

    def _window(self, **query: Any) -> list[Task]:
        view = self._database.view("pool-queue", "queue", limit=WINDOW, include_docs=True, **query)
        return self._tasks(view.rows, TaskState.TODO)

    def _tasks(self, rows: Iterable[Mapping[str, Any]], *states: TaskState) -> list[Task]:
        """The tasks of a view that still are in these states: a document may be newer than the row that names it."""
        documents_by_id = {row["id"]: row["doc"] for row in rows if row.get("doc")}
        self._keep(documents_by_id.values())
        tasks = map(documents.task_of, documents_by_id.values())
        return [task for task in tasks if task and task.state in states]

    def expired(self, now_ms: int) -> Iterable[Task]:
        """See `TaskStorage.expired`. Reapers on different hosts have different clocks."""
        return list(self._watch.expired(self._all("pool-held", TaskState.HELD), now_ms=now_ms))

    def _all(self, design: str, state: TaskState) -> list[Task]:
        return self._tasks(self._database.view(design, state.value, include_docs=True).rows, state)

    def dependents(self, ids: Collection[str]) -> Iterable[Task]:
        """See `Outbox.dependents`."""
        view = self._database.view("pool-waiting", "needs", sorted(ids), include_docs=True)
        return self._tasks(view.rows, TaskState.WAITING, TaskState.TODO)

    def waiting(self) -> Iterable[Task]:
        """See `Outbox.waiting`."""
        return self._all("pool-waiting", TaskState.WAITING)

    def find(self, wanted: Filter, *, limit: int, cursor: str | None) -> Page:
        """See `TaskReader.find`. The order is that of ids."""
        if wanted.ids:
            names = sorted(name for name in wanted.ids if name > (cursor or ""))
            there = self.read(names[:limit])
            page = tuple(task for name in names[:limit] if (task := there.get(name)) and wanted.accepts(task))
            return Page(tasks=page, cursor=names[limit - 1] if len(names) > limit else None)
        start: dict[str, Any] = {"startkey": cursor, "skip": 1} if cursor else {}
        rows = self._database.call("GET", "/_all_docs", limit=limit, include_docs=True, **start)["rows"]
        tasks = (documents.task_of(row["doc"]) for row in rows)
        page = tuple(task for task in tasks if task and wanted.accepts(task))
        return Page(tasks=page, cursor=rows[-1]["id"] if len(rows) == limit else None)

    def counts(self) -> Counts:
        """See `Statistics.counts`."""
        counts: dict[str, dict[TaskState, int]] = defaultdict(dict)
        for row in self._database.view("pool-report", "counts", group=True).rows:
            counts[row["key"][0]][TaskState(row["key"][1])] = row["value"]
        return Counts(by_class=dict(counts))

    def nests(self) -> Iterator[Nest]:
        """See `Statistics.nests`."""
        rows = self._database.view("pool-report", "nests", group=True).rows
        for parent, group in groupby(rows, key=lambda row: row["key"][0]):
            yield Nest(parent=parent, counts={TaskState(row["key"][1]): row["value"] for row in group})

    def ends_since(self, since_ms: int) -> int:
        """See `Statistics.ends_since`."""
        return sum(row["value"] for row in self._database.view("pool-report", "ends", startkey=since_ms).rows)

    def events(self, *, task_id: str, act: str) -> Iterator[TaskEvent]:
        """See `TaskReader.events`."""
        for document in self._histories(task_id, act):
            yield from (event for event in documents.events_of(document) if not act or event.act == act)

    def _histories(self, task_id: str, act: str) -> Iterator[Document]:
        if task_id:
            yield from self._database.documents([task_id]).values()
            return
        names = sorted({row["id"] for row in self._database.view("pool-acts", "acts", [act]).rows}) if act else None
        if names is not None:
            for start in range(0, len(names), _PAGE):
                yield from self._database.documents(names[start : start + _PAGE]).values()
            return
        start_: dict[str, Any] = {}
        while True:
            rows = self._database.call("GET", "/_all_docs", limit=_PAGE, include_docs=True, **start_)["rows"]
            yield from (row["doc"] for row in rows)
            if len(rows) < _PAGE:
                return
            start_ = {"startkey": rows[-1]["id"], "skip": 1}

    def close(self) -> None:
        """See `TaskStorage.close`."""
        self._database.close()


def _written(document: Document) -> CommitResult:
    return CommitResult.NEEDED if "needed" in document else CommitResult.ALONE
