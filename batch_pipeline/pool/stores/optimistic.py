"""A pool by optimistic writes, over any rows that can be written on a condition: what all stores share.

`TaskStorage` is what a database must offer. `OptimisticStore` makes a `PoolStore` of it: it reads tasks, asks `moves`
for the transition, has it written if the task still is what that began with, and sees to it that the move is
propagated to the tasks that it concerns. No lock is held meanwhile: a write that meets another's is refused, and tried
again on what the other left. What is left after a crash between two writes is repaired by `reap`: a held task that
nobody runs, and a move that nobody propagated.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import Final

from batch_pipeline.log import Facts
from batch_pipeline.pool import moves
from batch_pipeline.pool.base import (
    MOST_LISTED,
    AddReport,
    Claim,
    Filter,
    MoveReport,
    Settlement,
    WriteResult,
)
from batch_pipeline.pool.moves import Holder, Transition
from batch_pipeline.pool.stores.propagation import Propagation
from batch_pipeline.pool.stores.storage import CHUNK, CommitResult, TaskStorage, chunks
from batch_pipeline.pool.stores.storage_reader import StorageReader
from batch_pipeline.pool.task import Action, Task, TaskEvent, TaskSpec
from batch_pipeline.wire.errors import IllegalMove

#: How often a claim looks for other candidates when others were faster, and a write reads anew what has changed.
_ROUNDS = 4
_LOG: Final = logging.getLogger(__name__)


class OptimisticStore(StorageReader):
    """A `PoolStore` over a `TaskStorage`."""

    def __init__(self, storage: TaskStorage) -> None:
        super().__init__(storage)
        self._propagation = Propagation(storage)

    # What pilots ask.

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
        """See `TaskSource.claim`."""
        holder = Holder(owner=owner, native_id=native_id, lease_ms=lease_ms, now_ms=now_ms)
        return self._hold(count, classes, holder)

    def _hold(self, count: int, classes: Collection[str] | None, holder: Holder) -> list[Claim]:
        """Claims for `claim`, in optimistic writes: others may be faster with some candidates."""
        # By id: what is claimed in the first round may be over, and claimed anew, in the last.
        held: dict[str, Claim] = {}
        for _ in range(_ROUNDS):
            candidates = self._storage.candidates(count - len(held), classes)
            written = self._write([moves.claimed(task, holder) for task in candidates])
            held |= {change.task_id: Claim(task=change.after) for change in _accepted(written) if change.after}
            if len(held) >= count or not candidates:
                break
            _log_conflicts("claim", written)
        return list(held.values())

    def renew(
        self, claims: Sequence[Claim], *, now_ms: int, progress: Mapping[str, float] | None = None
    ) -> list[WriteResult]:
        """See `Leases.renew`."""
        progress_by_id = progress or {}
        changes = [moves.renewed(claim.task, now_ms=now_ms, progress=progress_by_id.get(claim.id)) for claim in claims]
        return [
            WriteResult.REFUSED if result is CommitResult.REFUSED else WriteResult.ACCEPTED
            for _, result in self._write(changes)
        ]

    def settle(self, settlements: Sequence[Settlement], *, now_ms: int) -> list[WriteResult]:
        """See `Leases.settle`."""
        changes = [moves.settled(one.claim.task, one.outcome, now_ms=now_ms) for one in settlements]
        with self._storage.together():
            return self._ended(changes, now_ms)

    def release(self, claims: Sequence[Claim], *, now_ms: int, why: str, counted: bool = False) -> list[WriteResult]:
        """See `Leases.release`."""
        changes = [moves.released(claim.task, now_ms=now_ms, why=why, counted=counted) for claim in claims]
        with self._storage.together():
            return self._ended(changes, now_ms)

    def reap(self, *, now_ms: int) -> list[str]:
        """See `Backlog.reap`."""
        self._propagation.recover(now_ms)
        expired_ids: list[str] = []
        for some in chunks(self._storage.expired(now_ms)):
            changes = [moves.expired(task, now_ms=now_ms) for task in some]
            with self._storage.together():
                written = self._write(changes)
                self._propagation.follow(written, now_ms)
            expired_ids += [change.task_id for change in _accepted(written)]
        return expired_ids

    def _ended(self, changes: Sequence[Transition], now_ms: int) -> list[WriteResult]:
        written = self._write(changes)
        refused = {change.task_id for change, result in written if result is CommitResult.REFUSED}
        current = self._storage.read(refused) if refused else {}
        answers = [
            moves.answered(change, current.get(change.task_id))
            if result is CommitResult.REFUSED
            else WriteResult.ACCEPTED
            for change, result in written
        ]
        # A repeated write may have been interrupted before what follows from it.
        repeated = [
            (change, CommitResult.NEEDED)
            for change, answer in zip(changes, answers, strict=True)
            if answer is WriteResult.REPEATED
        ]
        self._propagation.follow([*written, *repeated], now_ms)
        return answers

    def _write(self, changes: Sequence[Transition]) -> list[tuple[Transition, CommitResult]]:
        """Writes changes; those of one task one after another, as a pilot may have held it twice."""
        results: dict[int, CommitResult] = {}
        while len(results) < len(changes):
            first = {changes[n].task_id: n for n in reversed(range(len(changes))) if n not in results}
            places = sorted(first.values())
            results |= zip(places, self._storage.write([changes[n] for n in places]), strict=True)
        return [(change, results[n]) for n, change in enumerate(changes)]

    def sweep(self, *, now_ms: int) -> int:
        """See `Backlog.sweep`."""
        return self._propagation.sweep(now_ms)

    # What people do.

    def add(self, specs: Iterable[TaskSpec], *, now_ms: int) -> AddReport:
        """See `TaskWriter.add`."""
        report = AddReport()
        for some in chunks(specs):
            with self._storage.together():
                report = self._add(some, report, now_ms)
        return report

    def _add(self, specs: Sequence[TaskSpec], report: AddReport, now_ms: int) -> AddReport:
        # Deduplicated: the first task of an id counts, in one call as between calls.
        once: dict[str, TaskSpec] = {}
        for spec in specs:
            once.setdefault(spec.id, spec)
        past = self._storage.past(once)
        changes = [moves.added(spec, now_ms=now_ms, past=past.get(spec.id)) for spec in once.values()]
        written = self._write(changes)
        self._propagation.follow(written, now_ms)
        new = {change.task_id for change in _accepted(written)}
        there = self._storage.read([name for name in once if name not in new])
        specs_there = {**{name: once[name] for name in new}, **{name: task.spec for name, task in there.items()}}
        differing = [spec.id for spec in specs if specs_there.get(spec.id, spec) != spec]
        return AddReport(
            added=report.added + len(new),
            unchanged=report.unchanged + len(specs) - len(new) - len(differing),
            differing=report.differing + len(differing),
            differing_ids=(*report.differing_ids, *differing)[:MOST_LISTED],
        )

    def move(
        self,
        wanted: Filter,
        action: Action,
        *,
        now_ms: int,
        act: str,
        who: str = "",
        force: bool = False,
        dry_run: bool = False,
    ) -> MoveReport:
        """See `TaskWriter.move`."""

        def change_of(task: Task) -> Transition:
            return moves.acted(task, action, now_ms=now_ms, act=act, who=who, force=force)

        report = MoveReport()
        for tasks in self._pages(wanted):
            with self._storage.together():
                report = self._act({task.id: task for task in tasks}, change_of, report, now_ms, dry_run)
        return report

    def _pages(self, wanted: Filter) -> Iterator[tuple[Task, ...]]:
        cursor: str | None = None
        while True:
            page = self._storage.find(wanted, limit=CHUNK, cursor=cursor)
            yield page.tasks
            cursor = page.cursor
            if cursor is None:
                return

    def _act(
        self,
        tasks: Mapping[str, Task],
        change_of: Callable[[Task], Transition],
        report: MoveReport,
        now_ms: int,
        dry_run: bool,
    ) -> MoveReport:
        """Makes changes of tasks and writes them; those that changed meanwhile are read and tried again."""
        for _ in range(_ROUNDS):
            changes, refusals = [], {}
            for name, task in tasks.items():
                try:
                    changes.append(change_of(task))
                except IllegalMove as error:
                    refusals[name] = error.message
            written = self._tried(changes, now_ms, dry_run)
            report = _reported(report, [change.task_id for change in _accepted(written)], refusals)
            changed = [change.task_id for change, result in written if result is CommitResult.REFUSED]
            if not changed:
                return report
            _log_conflicts("move", written)
            tasks = self._storage.read(changed)
        return _reported(report, [], dict.fromkeys(tasks, "It keeps changing meanwhile; try again."))

    def _tried(
        self, changes: Sequence[Transition], now_ms: int, dry_run: bool
    ) -> list[tuple[Transition, CommitResult]]:
        """Writes changes, and what follows from them; of a dry run, what would come of it."""
        if dry_run:
            return [(change, CommitResult.ALONE) for change in changes]
        written = self._write(changes)
        self._propagation.follow(written, now_ms)
        return written

    def undo(self, act: str, *, now_ms: int, who: str = "", dry_run: bool = False) -> MoveReport:
        """See `TaskWriter.undo`."""
        report = MoveReport()
        for events in chunks(self._storage.events(task_id="", act=act)):
            events_by_id = {event.task_id: event for event in events}
            with self._storage.together():
                report = self._undo(events_by_id, report, now_ms, f"undo-{act}", who, dry_run)
        return report

    def _undo(
        self, events: Mapping[str, TaskEvent], report: MoveReport, now_ms: int, act: str, who: str, dry_run: bool
    ) -> MoveReport:
        there, past = self._storage.read(events), self._storage.past(events)
        changes, refusals = [], {}
        for name, event in events.items():
            try:
                before = there.get(name)
                changes.append(moves.undone(event, before, past=past.get(name), now_ms=now_ms, act=act, who=who))
            except IllegalMove as error:
                refusals[name] = error.message
        written = self._tried(changes, now_ms, dry_run)
        changed = [change.task_id for change, result in written if result is CommitResult.REFUSED]
        refusals |= dict.fromkeys(changed, "It changed at this moment.")
        return _reported(report, [change.task_id for change in _accepted(written)], refusals)


def _accepted(written: Iterable[tuple[Transition, CommitResult]]) -> list[Transition]:
    return [change for change, result in written if result is not CommitResult.REFUSED]


def _log_conflicts(write: str, written: Iterable[tuple[Transition, CommitResult]]) -> None:
    """Logs the optimistic writes that were refused because another was faster; they are tried again."""
    for change, result in written:
        if result is CommitResult.REFUSED:
            _LOG.info("conflict retried %s", Facts(write=write, task=change.task_id))


def _reported(report: MoveReport, moved_ids: Sequence[str], refusals: Mapping[str, str]) -> MoveReport:
    room = MOST_LISTED - len(report.refusals)
    return replace(
        report,
        moved=report.moved + len(moved_ids),
        moved_ids=(*report.moved_ids, *moved_ids)[:MOST_LISTED],
        refused=report.refused + len(refusals),
        refusals={**report.refusals, **dict(islice(refusals.items(), max(room, 0)))},
    )
