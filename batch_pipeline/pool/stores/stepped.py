"""A pool by optimistic writes, over any rows that can be written on a condition: what all stores share.

`Rows` is what a database must offer. `SteppedStore` makes a `PoolStore` of it: it reads tasks, asks `moves` for the
step, has it written if the task still is what the step began with, and sees to it that the move is propagated to the
tasks that it concerns. What is left after a crash between two writes is found by `reap`: a held task that nobody runs,
and a move that nobody propagated.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice

from batch_pipeline.pool import moves
from batch_pipeline.pool.base import (
    MOST_LISTED,
    AddReport,
    Answer,
    Claim,
    Counts,
    Filter,
    MoveReport,
    Page,
    Settlement,
)
from batch_pipeline.pool.moves import Step
from batch_pipeline.pool.stores.propagation import Propagation
from batch_pipeline.pool.stores.rows import CHUNK, Rows, Written, chunks
from batch_pipeline.pool.task import Action, Event, Nest, Task, TaskSpec
from batch_pipeline.wire.errors import IllegalMove

#: How often a claim looks for other candidates when others were faster, and a write reads anew what has changed.
_ROUNDS = 4


class SteppedStore:
    """A pool made of rows."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows
        self._propagation = Propagation(rows)

    @property
    def name(self) -> str:
        """See `PoolStore.name`."""
        return self._rows.name

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
        # By id: what is claimed in the first round may be over, and claimed anew, in the last.
        held: dict[str, Claim] = {}
        for _ in range(_ROUNDS):
            candidates = self._rows.candidates(count - len(held), classes)
            steps = [
                moves.claimed(task, owner=owner, native_id=native_id, lease_ms=lease_ms, now_ms=now_ms)
                for task in candidates
            ]
            held |= {step.task_id: Claim(task=step.after) for step in _accepted(self._write(steps)) if step.after}
            if len(held) >= count or not candidates:
                break
        return list(held.values())

    def renew(
        self, claims: Sequence[Claim], *, now_ms: int, progress: Mapping[str, float] | None = None
    ) -> list[Answer]:
        """See `TaskSource.renew`."""
        told = progress or {}
        steps = [moves.renewed(claim.task, now_ms=now_ms, progress=told.get(claim.id)) for claim in claims]
        return [Answer.REFUSED if result is Written.REFUSED else Answer.ACCEPTED for _, result in self._write(steps)]

    def settle(self, settlements: Sequence[Settlement], *, now_ms: int) -> list[Answer]:
        """See `TaskSource.settle`."""
        steps = [moves.settled(one.claim.task, one.outcome, now_ms=now_ms) for one in settlements]
        with self._rows.together():
            return self._ended(steps, now_ms)

    def release(self, claims: Sequence[Claim], *, now_ms: int, why: str, counted: bool = False) -> list[Answer]:
        """See `TaskSource.release`."""
        steps = [moves.released(claim.task, now_ms=now_ms, why=why, counted=counted) for claim in claims]
        with self._rows.together():
            return self._ended(steps, now_ms)

    def reap(self, *, now_ms: int) -> list[str]:
        """See `TaskSource.reap`."""
        self._propagation.recover(now_ms)
        taken: list[str] = []
        for some in chunks(self._rows.over(now_ms)):
            steps = [moves.expired(task, now_ms=now_ms) for task in some]
            with self._rows.together():
                written = self._write(steps)
                self._propagation.follow(written, now_ms)
            taken += [step.task_id for step in _accepted(written)]
        return taken

    def _ended(self, steps: Sequence[Step], now_ms: int) -> list[Answer]:
        written = self._write(steps)
        refused = {step.task_id for step, result in written if result is Written.REFUSED}
        current = self._rows.read(refused) if refused else {}
        answers = [
            moves.answered(step, current.get(step.task_id)) if result is Written.REFUSED else Answer.ACCEPTED
            for step, result in written
        ]
        # A repeated write may have been interrupted before what follows from it.
        repeated = [
            (step, Written.NEEDED) for step, answer in zip(steps, answers, strict=True) if answer is Answer.REPEATED
        ]
        self._propagation.follow([*written, *repeated], now_ms)
        return answers

    def _write(self, steps: Sequence[Step]) -> list[tuple[Step, Written]]:
        """Writes steps; those of one task one after another, as a pilot may have held it twice."""
        results: dict[int, Written] = {}
        while len(results) < len(steps):
            first = {steps[n].task_id: n for n in reversed(range(len(steps))) if n not in results}
            places = sorted(first.values())
            results |= zip(places, self._rows.write([steps[n] for n in places]), strict=True)
        return [(step, results[n]) for n, step in enumerate(steps)]

    def sweep(self, *, now_ms: int) -> int:
        """See `PoolStore.sweep`."""
        return self._propagation.sweep(now_ms)

    # What people do.

    def add(self, specs: Iterable[TaskSpec], *, now_ms: int) -> AddReport:
        """See `PoolStore.add`."""
        report = AddReport()
        for some in chunks(specs):
            with self._rows.together():
                report = self._add(some, report, now_ms)
        return report

    def _add(self, specs: Sequence[TaskSpec], report: AddReport, now_ms: int) -> AddReport:
        once: dict[str, TaskSpec] = {}
        for spec in specs:
            once.setdefault(spec.id, spec)
        past = self._rows.past(once)
        steps = [moves.added(spec, now_ms=now_ms, past=past.get(spec.id)) for spec in once.values()]
        written = self._write(steps)
        self._propagation.follow(written, now_ms)
        new = {step.task_id for step in _accepted(written)}
        there = self._rows.read([name for name in once if name not in new])
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
        """See `PoolStore.move`."""

        def step_of(task: Task) -> Step:
            return moves.acted(task, action, now_ms=now_ms, act=act, who=who, force=force)

        report = MoveReport()
        for tasks in self._pages(wanted):
            with self._rows.together():
                report = self._act({task.id: task for task in tasks}, step_of, report, now_ms, dry_run)
        return report

    def _pages(self, wanted: Filter) -> Iterator[tuple[Task, ...]]:
        cursor: str | None = None
        while True:
            page = self._rows.find(wanted, CHUNK, cursor)
            yield page.tasks
            cursor = page.cursor
            if cursor is None:
                return

    def _act(
        self,
        tasks: Mapping[str, Task],
        step_of: Callable[[Task], Step],
        report: MoveReport,
        now_ms: int,
        dry_run: bool,
    ) -> MoveReport:
        """Makes steps of tasks and writes them; those that changed meanwhile are read and tried again."""
        for _ in range(_ROUNDS):
            steps, refusals = [], {}
            for name, task in tasks.items():
                try:
                    steps.append(step_of(task))
                except IllegalMove as error:
                    refusals[name] = error.message
            written = self._tried(steps, now_ms, dry_run)
            report = _reported(report, [step.task_id for step in _accepted(written)], refusals)
            changed = [step.task_id for step, result in written if result is Written.REFUSED]
            if not changed:
                return report
            tasks = self._rows.read(changed)
        return _reported(report, [], dict.fromkeys(tasks, "It keeps changing meanwhile; try again."))

    def _tried(self, steps: Sequence[Step], now_ms: int, dry_run: bool) -> list[tuple[Step, Written]]:
        """Writes steps, and what follows from them; of a dry run, what would come of it."""
        if dry_run:
            return [(step, Written.ALONE) for step in steps]
        written = self._write(steps)
        self._propagation.follow(written, now_ms)
        return written

    def undo(self, act: str, *, now_ms: int, who: str = "", dry_run: bool = False) -> MoveReport:
        """See `PoolStore.undo`."""
        report = MoveReport()
        for events in chunks(self._rows.events(task_id="", act=act)):
            told = {event.task_id: event for event in events}
            with self._rows.together():
                report = self._undo(told, report, now_ms, f"undo-{act}", who, dry_run)
        return report

    def _undo(
        self, events: Mapping[str, Event], report: MoveReport, now_ms: int, act: str, who: str, dry_run: bool
    ) -> MoveReport:
        there, past = self._rows.read(events), self._rows.past(events)
        steps, refusals = [], {}
        for name, event in events.items():
            try:
                before = there.get(name)
                steps.append(moves.undone(event, before, past=past.get(name), now_ms=now_ms, act=act, who=who))
            except IllegalMove as error:
                refusals[name] = error.message
        written = self._tried(steps, now_ms, dry_run)
        changed = [step.task_id for step, result in written if result is Written.REFUSED]
        refusals |= dict.fromkeys(changed, "It changed at this moment.")
        return _reported(report, [step.task_id for step in _accepted(written)], refusals)

    # What is to be seen.

    def get(self, task_id: str) -> Task | None:
        """See `PoolStore.get`."""
        return self._rows.read([task_id]).get(task_id)

    def find(self, wanted: Filter, *, limit: int = 1000, cursor: str | None = None) -> Page:
        """See `PoolStore.find`."""
        return self._rows.find(wanted, limit, cursor)

    def counts(self) -> Counts:
        """See `PoolStore.counts`."""
        return self._rows.counts()

    def nests(self) -> Iterator[Nest]:
        """See `PoolStore.nests`."""
        return self._rows.nests()

    def ends_since(self, since_ms: int) -> int:
        """See `PoolStore.ends_since`."""
        return self._rows.ends_since(since_ms)

    def events(self, *, task_id: str = "", act: str = "") -> Iterator[Event]:
        """See `PoolStore.events`."""
        return self._rows.events(task_id=task_id, act=act)

    def close(self) -> None:
        """See `PoolStore.close`."""
        self._rows.close()


def _accepted(written: Iterable[tuple[Step, Written]]) -> list[Step]:
    return [step for step, result in written if result is not Written.REFUSED]


def _reported(report: MoveReport, moved_ids: Sequence[str], refusals: Mapping[str, str]) -> MoveReport:
    room = MOST_LISTED - len(report.refusals)
    return replace(
        report,
        moved=report.moved + len(moved_ids),
        moved_ids=(*report.moved_ids, *moved_ids)[:MOST_LISTED],
        refused=report.refused + len(refusals),
        refusals={**report.refusals, **dict(islice(refusals.items(), max(room, 0)))},
    )
