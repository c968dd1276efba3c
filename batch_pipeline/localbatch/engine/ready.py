"""The queue of children that could start: first in, first out by the moment at which each became RUNNABLE.

Neighbours of one array are one entry, so a fresh array of 10,000 children is one entry. Entries of children that were
cancelled meanwhile are skipped when they reach the head.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from batch_pipeline.localbatch.engine.job import RUNNABLE, BatchJob


class Ready:
    """The RUNNABLE children of one job queue. Times are milliseconds since 1970."""

    def __init__(self) -> None:
        #: A job, neighbours of its children, and since when they are RUNNABLE.
        self._spans: deque[tuple[BatchJob, range, int]] = deque()
        #: When all positions changed last, for a child was taken away from the head or put before it.
        self._moved_ms = 0

    def append(self, job: BatchJob, index: int, now: int) -> None:
        """Puts a child at the end."""
        if self._spans:
            last, span, since = self._spans[-1]
            if last is job and span.stop == index and since == now:
                self._spans[-1] = (job, range(span.start, index + 1), now)
                return
        self._spans.append((job, range(index, index + 1), now))

    def append_all(self, job: BatchJob, now: int) -> None:
        """Puts all children of a job at the end."""
        self._spans.append((job, range(job.spec.count), now))

    def prepend(self, job: BatchJob, index: int, now: int) -> None:
        """Puts a child that is tried again before all others, as AWS does."""
        self._moved_ms = now
        self._spans.appendleft((job, range(index, index + 1), now))

    def head(self) -> tuple[BatchJob, int] | None:
        """The child whose turn it is."""
        while self._spans:
            job, span, since = self._spans[0]
            for index in span:
                if job.states[index] == RUNNABLE:
                    if index != span.start:
                        self._spans[0] = (job, range(index, span.stop), since)
                    return job, index
            self._spans.popleft()
        return None

    def pop(self, now: int) -> None:
        """Takes the head away; `head` was called just before."""
        self._moved_ms = now
        job, span, since = self._spans[0]
        if len(span) == 1:
            self._spans.popleft()
        else:
            self._spans[0] = (job, span[1:], since)

    def in_order(self) -> Iterator[tuple[BatchJob, int, int]]:
        """The children from the head on, each with since when it is at its place, as far as the head tells."""
        for job, span, since in self._spans:
            for index in span:
                if job.states[index] == RUNNABLE:
                    yield job, index, max(since, self._moved_ms)
