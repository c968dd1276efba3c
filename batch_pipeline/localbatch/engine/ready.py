"""The queue of children that could start: first in, first out by the moment at which each became RUNNABLE.

Neighbours of one array are one entry `[job, next, stop]`, so a fresh array of 10,000 children is one entry.
Entries of children that were cancelled meanwhile are skipped when they reach the head.
"""

from __future__ import annotations

from collections import deque

from batch_pipeline.localbatch.engine.job import RUNNABLE, BatchJob


class Ready:
    """The RUNNABLE children of one job queue."""

    def __init__(self) -> None:
        self._spans: deque[tuple[BatchJob, range]] = deque()

    def append(self, job: BatchJob, index: int) -> None:
        """Puts a child at the end."""
        if self._spans:
            last, span = self._spans[-1]
            if last is job and span.stop == index:
                self._spans[-1] = (job, range(span.start, index + 1))
                return
        self._spans.append((job, range(index, index + 1)))

    def append_all(self, job: BatchJob) -> None:
        """Puts all children of a job at the end."""
        self._spans.append((job, range(job.spec.count)))

    def prepend(self, job: BatchJob, index: int) -> None:
        """Puts a child that is tried again before all others, as AWS does."""
        self._spans.appendleft((job, range(index, index + 1)))

    def head(self) -> tuple[BatchJob, int] | None:
        """The child whose turn it is."""
        while self._spans:
            job, span = self._spans[0]
            for index in span:
                if job.states[index] == RUNNABLE:
                    if index != span.start:
                        self._spans[0] = (job, range(index, span.stop))
                    return job, index
            self._spans.popleft()
        return None

    def pop(self) -> None:
        """Takes the head away; `head` was called just before."""
        job, span = self._spans[0]
        if len(span) == 1:
            self._spans.popleft()
        else:
            self._spans[0] = (job, span[1:])
