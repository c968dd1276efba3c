"""A pool over any rows that can be written on a condition: what all stores share.

`Rows` is what a database must offer. `SteppedStore` makes a `PoolStore` of it: it reads tasks, asks `moves` for the
step, and has it written if the task still is what the step began with. After a crash between two writes what is left
is found by `sweep` (a waiting task that nobody freed) and `reap` (a held task that nobody runs).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from itertools import islice
from typing import Protocol, TypeVar

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
from batch_pipeline.pool.task import Action, Event, Nest, Task, TaskSpec, TaskState
from batch_pipeline.wire.errors import IllegalMove

_Value = TypeVar("_Value")
#: Tasks a write.
CHUNK = 500
#: How often a claim looks for other candidates when others were faster, and a write reads anew what has changed.
_ROUNDS = 4


class Rows(Protocol):
    """What a database must offer. Reads by id see every write that was answered before."""

    @property
    def name(self) -> str:
        """Where it is, for people."""

    def together(self) -> AbstractContextManager[object]:
        """What is read and written inside is written at once or not at all, where the database can do that."""

    def read(self, ids: Collection[str]) -> Mapping[str, Task]:
        """The tasks of these ids, those that are there."""

    def past(self, ids: Collection[str]) -> Mapping[str, Event]:
        """The last events of those ids that are deleted tasks'."""

    def write(self, steps: Sequence[Step]) -> list[bool]:
        """Writes each step, with its event, if its task still is in state, `moves` and fencing number as before.

        And in its lease, if that counts. Of a renewal (no event) only lease and progress are written, of other steps
        without an event only the reason. A step without `before` is written if there is no such task, or a deleted one.
        Each alone: one that does not hold stops no other. No two steps are of one task.
        """

    def candidates(self, count: int, classes: Collection[str] | None) -> Sequence[Task]:
        """Up to `count` tasks that were to be done a moment ago, those to claim first foremost."""

    def over(self, now_ms: int) -> Iterable[Task]:
        """Held tasks whose lease is over."""

    def dependents(self, ids: Collection[str]) -> Iterable[Task]:
        """Tasks, waiting or to be done, that wait for any of these."""

    def waiting(self) -> Iterable[Task]:
        """All tasks that wait."""

    def find(self, wanted: Filter, limit: int, cursor: str | None) -> Page:
        """See `PoolStore.find`."""

    def counts(self) -> Counts:
        """See `PoolStore.counts`."""

    def nests(self) -> Iterator[Nest]:
        """See `PoolStore.nests`."""

    def ends_since(self, since_ms: int) -> int:
        """See `PoolStore.ends_since`."""

    def events(self, *, task_id: str, act: str) -> Iterator[Event]:
        """See `PoolStore.events`."""

    def close(self) -> None:
        """See `PoolStore.close`."""


class SteppedStore:
    """A pool made of rows."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows

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
        held: list[Claim] = []
        for _ in range(_ROUNDS):
            found = self._rows.candidates(count - len(held), classes)
            steps = [
                moves.claimed(task, owner=owner, native_id=native_id, lease_ms=lease_ms, now_ms=now_ms)
                for task in found
            ]
            held += [Claim(task=step.after) for step, won in self._written(steps) if won and step.after]
            if len(held) >= count or not found:
                break
        return held

    def renew(
        self, claims: Sequence[Claim], *, now_ms: int, progress: Mapping[str, float] | None = None
    ) -> list[Answer]:
        """See `TaskSource.renew`."""
        told = progress or {}
        steps = [moves.renewed(claim.task, now_ms=now_ms, progress=told.get(claim.id)) for claim in claims]
        return [Answer.ACCEPTED if won else Answer.REFUSED for _, won in self._written(steps)]

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
        taken: list[str] = []
        for some in chunks(self._rows.over(now_ms)):
            steps = [moves.expired(task, now_ms=now_ms) for task in some]
            with self._rows.together():
                won = [step for step, done in self._written(steps) if done]
                self.refresh(won, now_ms)
            taken += [step.task_id for step in won]
        return taken

    def _ended(self, steps: Sequence[Step], now_ms: int) -> list[Answer]:
        written = list(self._written(steps))
        lost = [step.task_id for step, won in written if not won]
        current = self._rows.read(lost) if lost else {}
        answers = [Answer.ACCEPTED if won else moves.answered(step, current.get(step.task_id)) for step, won in written]
        # A repeated write may have crashed before what follows from it.
        settled = zip(written, answers, strict=True)
        self.refresh([step for (step, _), answer in settled if answer is not Answer.REFUSED], now_ms)
        return answers

    def _written(self, steps: Sequence[Step]) -> Iterator[tuple[Step, bool]]:
        return zip(steps, self._rows.write(steps) if steps else [], strict=True)

    # What waits for what.

    def refresh(self, steps: Iterable[Step], now_ms: int) -> None:
        """Looks again at what these moves concern: at those that wait for the tasks, and at the tasks if they wait."""
        concerned = [step for step in steps if step.event and moves.concerns_others(step.event)]
        if concerned:
            self._reconsider(lambda: self._rows.dependents({step.task_id for step in concerned}), now_ms)
        opened = [step.task_id for step in concerned if step.after and step.after.spec.after]
        if opened:
            self._reconsider(lambda: self._rows.read(opened).values(), now_ms)

    def sweep(self, *, now_ms: int) -> int:
        """See `PoolStore.sweep`."""
        return self._reconsider(self._rows.waiting, now_ms)

    def _reconsider(self, found: Callable[[], Iterable[Task]], now_ms: int) -> int:
        freed = 0
        for _ in range(_ROUNDS):
            refused = 0
            for some in chunks(found()):
                needed = {name for task in some for name in task.spec.after}
                there = self._rows.read(needed)
                steps = []
                for task in some:
                    states = {name: there[name].state if name in there else None for name in task.spec.after}
                    if step := moves.reconsidered(task, moves.needs(states), now_ms=now_ms):
                        steps.append(step)
                for step, won in self._written(steps):
                    refused += not won
                    freed += won and step.after is not None and step.after.state is TaskState.TODO
            if not refused:
                break
        return freed

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
        won = [step for step, done in self._written(steps) if done]
        self.refresh(won, now_ms)
        new = {step.task_id for step in won}
        there = self._rows.read([name for name in once if name not in new])
        specs_there = {**{name: once[name] for name in new}, **{name: task.spec for name, task in there.items()}}
        differing = [spec.id for spec in specs if specs_there.get(spec.id, spec) != spec]
        return AddReport(
            added=report.added + len(won),
            unchanged=report.unchanged + len(specs) - len(won) - len(differing),
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
            written = [(step, True) for step in steps] if dry_run else list(self._written(steps))
            won = [step for step, done in written if done]
            if not dry_run:
                self.refresh(won, now_ms)
            report = _reported(report, [step.task_id for step in won], refusals)
            lost = [step.task_id for step, done in written if not done]
            if not lost:
                return report
            tasks = self._rows.read(lost)
        return _reported(report, [], dict.fromkeys(tasks, "It keeps changing meanwhile; try again."))

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
        written = [(step, True) for step in steps] if dry_run else list(self._written(steps))
        if not dry_run:
            self.refresh([step for step, won in written if won], now_ms)
        refusals |= {step.task_id: "It changed at this moment." for step, won in written if not won}
        return _reported(report, [step.task_id for step, won in written if won], refusals)

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


def chunks(values: Iterable[_Value]) -> Iterator[list[_Value]]:
    """The values in lists of at most `CHUNK`."""
    rest = iter(values)
    while some := list(islice(rest, CHUNK)):
        yield some


def _reported(report: MoveReport, moved_ids: Sequence[str], refusals: Mapping[str, str]) -> MoveReport:
    room = MOST_LISTED - len(report.refusals)
    return replace(
        report,
        moved=report.moved + len(moved_ids),
        moved_ids=(*report.moved_ids, *moved_ids)[:MOST_LISTED],
        refused=report.refused + len(refusals),
        refusals={**report.refusals, **dict(islice(refusals.items(), max(room, 0)))},
    )
