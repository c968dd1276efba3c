"""The queue of children that could start: first in, first out by the moment at which each became RUNNABLE.

Neighbours of one array are one entry, so a fresh array of 10,000 children is one entry; a child's ticket is its place
in the queue. Children that need the same units of consumable resources stand in one lane, and those whose units are all
taken are passed by, in constant time however many they are. Entries of children that were cancelled meanwhile are
skipped when they reach the head of their lane.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Iterator
from typing import NamedTuple

from batch_pipeline.localbatch.engine.job import RUNNABLE, BatchJob
from batch_pipeline.localbatch.engine.units import Needs


class _Entry(NamedTuple):
    """A job, neighbours of its children, the ticket of the first, and since when they are RUNNABLE."""

    ticket: int
    job: BatchJob
    indices: range
    since_ms: int


class Ready:
    """The RUNNABLE children of one job queue. Times are milliseconds since 1970."""

    def __init__(self) -> None:
        self._lanes: dict[Needs, deque[_Entry]] = {}
        self._next = 0
        self._first = 0
        #: When all positions changed last, for a child was taken away from the head or put before it.
        self._moved_ms = 0

    def append(self, job: BatchJob, index: int, now: int) -> None:
        """Puts a child at the end."""
        lane = self._lanes.setdefault(job.spec.consumes, deque())
        if lane:
            ticket, last, span, since = lane[-1]
            if last is job and span.stop == index and since == now and ticket + len(span) == self._next:
                lane[-1] = _Entry(ticket, job, range(span.start, index + 1), now)
                self._next += 1
                return
        lane.append(_Entry(self._next, job, range(index, index + 1), now))
        self._next += 1

    def append_all(self, job: BatchJob, now: int) -> None:
        """Puts all children of a job at the end."""
        self._lanes.setdefault(job.spec.consumes, deque()).append(_Entry(self._next, job, range(job.spec.count), now))
        self._next += job.spec.count

    def prepend(self, job: BatchJob, index: int, now: int) -> None:
        """Puts a child that is tried again before all others, as AWS does."""
        self._moved_ms = now
        self._first -= 1
        entry = _Entry(self._first, job, range(index, index + 1), now)
        self._lanes.setdefault(job.spec.consumes, deque()).appendleft(entry)

    def head(self, may_start: Callable[[Needs], bool] = lambda needs: True) -> tuple[BatchJob, int] | None:
        """The child whose turn it is, of those whose needs may be met now."""
        heads = []
        for needs, lane in list(self._lanes.items()):
            _drop_ended(lane)
            if not lane:
                del self._lanes[needs]
            elif may_start(needs):
                heads.append(lane[0])
        if not heads:
            return None
        first = min(heads, key=lambda entry: entry.ticket)
        return first.job, first.indices.start

    def pop(self, job: BatchJob, now: int) -> None:
        """Takes the head away, a child of this job; `head` was called just before."""
        self._moved_ms = now
        lane = self._lanes[job.spec.consumes]
        ticket, _, span, since = lane[0]
        if len(span) == 1:
            lane.popleft()
        else:
            lane[0] = _Entry(ticket + 1, job, span[1:], since)

    def in_order(self) -> Iterator[tuple[BatchJob, int, int]]:
        """The children from the head on, each with since when it is at its place, as far as the head tells."""
        for _, job, span, since in heapq.merge(*self._lanes.values(), key=lambda entry: entry.ticket):
            for index in span:
                if job.states[index] == RUNNABLE:
                    yield job, index, max(since, self._moved_ms)


def _drop_ended(lane: deque[_Entry]) -> None:
    """Takes away what is not RUNNABLE any more before the first child that is."""
    while lane:
        ticket, job, span, since = lane[0]
        for index in span:
            if job.states[index] == RUNNABLE:
                passed = index - span.start
                if passed:
                    lane[0] = _Entry(ticket + passed, job, span[passed:], since)
                return
        lane.popleft()
