"""Cells as tasks of a pool: a backend whose jobs pilots drain, so that all else of a run stays as it is.

A job's child is a task, its id the job's id and the index, its command the container's side. `N_TO_N` is one task
that waits for one; a job that waits for a whole job waits for all of its tasks, through joins where these are many.
Manifests, receipts, logs and reruns are those of any other backend.

Pilots are launched when a wave is sent and somebody looks, and again when they end while tasks are left. They outlive
the command. A task that waits for one that failed is cancelled, as AWS Batch fails it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import takewhile
from typing import Any, Final

from batch_pipeline.backends import LIMITS
from batch_pipeline.backends.base import After, ArrayChild, JobRequest, JobState, JobSummary
from batch_pipeline.backends.limits import check
from batch_pipeline.config import Settings
from batch_pipeline.pipeline.plan import Limits
from batch_pipeline.pool.base import Filter, PoolStore
from batch_pipeline.pool.files.writing import tasks_of
from batch_pipeline.pool.pilots.autopilot import Launcher
from batch_pipeline.pool.pooled_pilots import Pilots
from batch_pipeline.pool.pooled_tasks import (
    STATES,
    attempts_json,
    attempts_of,
    child_of,
    description_of,
    ids_of,
    joins_of,
    summary_of,
    task_id,
    task_id_of,
    task_of,
)
from batch_pipeline.pool.settings import pool_of
from batch_pipeline.pool.task import Action, Nest, TaskSpec, TaskState
from batch_pipeline.wire.errors import BackendFailed, PoolFailed, SubmissionRefused, SubmissionUnknown
from batch_pipeline.wire.native_id import NativeId

#: A task waits for so many others at the most, and a join too.
MOST_AFTER: Final = 100

_MOVING: Final = frozenset(state for state in TaskState if not state.final)


class PoolBackend:
    """See `Backend`. Nothing is opened or launched before its first call."""

    def __init__(
        self,
        settings: Settings,
        *,
        opened: Callable[[], PoolStore] | None = None,
        launcher: Launcher | None = None,
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self.name = settings.backend.name
        self._settings = settings
        self._open = opened or (lambda: pool_of(settings, create=True))
        self._opened: PoolStore | None = None
        self._pilots = Pilots(settings, launcher)
        self._now_ms = now_ms
        #: Job -> how many of its tasks ended badly when those that wait for them were looked at.
        self._looked_at: dict[str, int] = {}

    @property
    def _pool(self) -> PoolStore:
        if self._opened is None:
            self._opened = self._open()
        return self._opened

    def limits(self) -> Limits:
        """See `Backend.limits`."""
        return replace(LIMITS[self.name], holds_widths=False)

    def wake(self) -> None:
        """See `Backend.wake`. Pilots start when there is something for them."""

    def prepare(self, definitions: Iterable[Mapping[str, Any]]) -> Mapping[str, str]:
        """See `Backend.prepare`. Pilots know no definitions; they take what they need from each task."""
        return {definition["jobDefinitionName"]: f"{definition['jobDefinitionName']}:1" for definition in definitions}

    # Sending.

    def submit(self, request: JobRequest) -> str:
        """See `Backend.submit`. Adding tasks again adds nothing, so a doubt is settled by sending once more."""
        check(request, self.limits())
        with _translated():
            self._refuse_dependencies(request)
            native_id = self._new_id(request.name, request.queue)
            joins = [self._waited_for(f"{joins_of(native_id)}{n}", after) for n, after in enumerate(request.after)]
        specs = [spec for some, _ in joins for spec in some]
        for index in range(request.size):
            specs.append(task_of(native_id, request, index, [waits(index) for _, waits in joins]))
        try:
            self._pool.add(specs, now_ms=self._now_ms())
        except PoolFailed:
            try:
                self._pool.add(specs, now_ms=self._now_ms())
            except PoolFailed as error:
                raise SubmissionUnknown(f"{error.message} Whether {request.name} is in the pool is unknown.") from error
        self._pilots.note(native_id, request)
        return native_id

    def _refuse_dependencies(self, request: JobRequest) -> None:
        sizes = {nest.parent: nest.size for nest in self._pool.nests()} if request.after else {}
        for after in request.after:
            size = sizes.get(after.native_id)
            if size is None:
                raise SubmissionRefused(f"{request.name} is to wait for {after.native_id}, which is not in the pool.")
            if after.index_by_index and (size != request.size or size == 1):
                raise SubmissionRefused(
                    f"{request.name} has {request.size} children and is to wait, index by index, for {after.native_id} "
                    f"with {size}. Both must be arrays of one size."
                )

    def _new_id(self, name: str, queue: str) -> str:
        return next(native_id for native_id in ids_of(name, queue) if not self._is_there(native_id))

    def _is_there(self, native_id: str) -> bool:
        return next(tasks_of(self._pool, Filter(parent=native_id)), None) is not None

    def _waited_for(self, parent: str, after: After) -> tuple[list[TaskSpec], Callable[[int], tuple[str, ...]]]:
        """Joins to add, as sub-tasks of `parent`, and for each index what it waits for of one dependency."""
        if after.index_by_index:
            return [], lambda index: (task_id(after.native_id, index),)
        ids = [task.id for task in tasks_of(self._pool, Filter(parent=after.native_id))]
        joins: list[TaskSpec] = []
        level = 0
        while len(ids) > MOST_AFTER:
            pieces = [tuple(ids[start : start + MOST_AFTER]) for start in range(0, len(ids), MOST_AFTER)]
            made = [
                TaskSpec(id=f"{parent}/{level}/{number}", command=("true",), parent=parent, after=piece)
                for number, piece in enumerate(pieces)
            ]
            joins += made
            ids = [spec.id for spec in made]
            level += 1
        return joins, lambda index: tuple(ids)

    def find(self, name: str, queue: str) -> str | None:
        """See `Backend.find`."""
        with _translated():
            native_ids = list(takewhile(self._is_there, ids_of(name, queue)))
        return native_ids[-1] if native_ids else None

    # Looking.

    def summaries(self, native_ids: Sequence[str]) -> Mapping[str, JobSummary]:
        """See `Backend.summaries`. Looks after the pool meanwhile, as nobody else may be there to do it."""
        with _translated():
            self._pool.reap(now_ms=self._now_ms())
            nests = {nest.parent: nest for nest in self._pool.nests()}
            while self._cancel_hopeless([nests[name] for name in native_ids if name in nests], nests):
                nests = {nest.parent: nest for nest in self._pool.nests()}
            self._pilots.keep(self._pool, self._now_ms())
            return {name: summary_of(name, nests.get(name)) for name in native_ids}

    def _cancel_hopeless(self, ours: Sequence[Nest], nests: Mapping[str, Nest]) -> int:
        """Cancels tasks that wait for what will not come; returns how many."""
        ends = (TaskState.FAILED, TaskState.CANCELLED)
        bad = sum(nest.counts.get(state, 0) for nest in nests.values() for state in ends)
        cancelled = 0
        for nest in ours:
            if not nest.counts.get(TaskState.WAITING) or self._looked_at.get(nest.parent) == bad:
                continue
            self._looked_at[nest.parent] = bad
            joins = [name for name in nests if name.startswith(joins_of(nest.parent))]
            for parent in (*joins, nest.parent):
                wanted = Filter(parent=parent, states=frozenset({TaskState.WAITING}))
                ids = [task.id for task in tasks_of(self._pool, wanted) if task.reason]
                cancelled += self._cancel(Filter(ids=frozenset(ids)), "what it needs failed") if ids else 0
        return cancelled

    def descriptions(self, native_ids: Sequence[str]) -> Mapping[str, Mapping[str, Any]]:
        """See `Backend.descriptions`. Of a child or plain job with its attempts, as AWS has them."""
        with _translated():
            nests = {nest.parent: nest for nest in self._pool.nests()}
            descriptions = {
                name: description_of(name, nests[name], self._pool.name) for name in native_ids if name in nests
            }
            alone = [name for name in native_ids if name not in nests or nests[name].size == 1]
            for name in alone:
                if task := self._pool.get(task_id_of(NativeId.parse(name))):
                    descriptions[name] = {**descriptions.get(name, {}), **attempts_json(task)}
        return descriptions

    def children(self, native_id: str, states: Iterable[JobState]) -> Iterator[ArrayChild]:
        """See `Backend.children`."""
        task_states = frozenset(state for state, job_state in STATES.items() if job_state in frozenset(states))
        if task_states:
            with _translated():
                yield from map(child_of, tasks_of(self._pool, Filter(parent=native_id, states=task_states)))

    def logs(self, native_id: str, index: int, attempt: int | None = None) -> Iterator[str]:
        """See `Backend.logs`. What a pilot kept of the last attempt; the container's own log is in the store."""
        with _translated():
            task = self._pool.get(task_id(native_id, index))
        if task is None or task.outcome is None:
            return
        # The outcome of one that runs is that of the attempt before.
        if attempt in (None, attempts_of(task) - (task.state is TaskState.HELD)):
            yield from task.outcome.log_tail.splitlines()

    # SettlementRow.

    def cancel(self, native_id: str, reason: str) -> None:
        """See `Backend.cancel`. A pilot that is at one of the tasks hears of it when it prolongs its lease."""
        child = NativeId.parse(native_id)
        is_job = child.index is None
        wanted = Filter(parent=native_id) if is_job else Filter(ids=frozenset({task_id_of(child)}))
        with _translated():
            self._cancel(replace(wanted, states=_MOVING), reason)

    def cancel_children(self, native_id: str, indices: Sequence[int], reason: str) -> None:
        """See `Backend.cancel_children`."""
        ids = frozenset(task_id(native_id, index) for index in indices)
        with _translated():
            self._cancel(Filter(ids=ids, states=_MOVING), reason)

    def _cancel(self, wanted: Filter, reason: str) -> int:
        from ulid import ULID

        act = f"cancel-{ULID()}"
        return self._pool.move(wanted, Action.CANCEL, now_ms=self._now_ms(), act=act, who=reason, force=True).moved

    def set_width(self, name: str, most: int) -> None:
        """See `Backend.set_width`. Always raises SubmissionRefused: pilots claim whatever task is next."""
        raise SubmissionRefused(
            f"A pool cannot hold {name} to {most} tasks side by side. Set max_parallel to 0, or drop --pilots."
        )

    def widths(self, prefix: str) -> Mapping[str, int]:
        """See `Backend.widths`."""
        return {}

    def remove_width(self, name: str) -> bool:
        """See `Backend.remove_width`."""
        return True

    def close(self) -> None:
        """See `Backend.close`. What was sent and never looked at is not left without pilots."""
        try:
            if self._pilots.are_due:
                with _translated():
                    self._pilots.keep(self._pool, self._now_ms())
        finally:
            self._pilots.close()
            if self._opened is not None:
                self._opened.close()
                self._opened = None


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except PoolFailed as error:
        raise BackendFailed(error.message) from error
