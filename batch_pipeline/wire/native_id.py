"""Parses and prints the ids that a scheduler gives: of a job, or of one child of an array job.

As text they are AWS Batch's, `job` and `job:index`, on every backend; stores and APIs keep the text. Whether an id is a
child's is asked of the value, nowhere of its punctuation.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class NativeId:
    """The scheduler's id of a job, or of the child of an array job at an index."""

    job: str
    #: None: the job itself.
    index: int | None = None

    @classmethod
    def parse(cls, text: str) -> NativeId:
        """The id that a text is; one that does not end in a colon and a number is a job's."""
        job, colon, index = text.rpartition(":")
        if colon and index.isascii() and index.isdigit():
            return cls(job=job, index=int(index))
        return cls(job=text)

    @classmethod
    def of_child(cls, job: str, index: int, *, is_array: bool) -> NativeId:
        """The id of a child; a plain job is its own only child and has the job's id."""
        return cls(job=job, index=index if is_array else None)

    def __str__(self) -> str:
        return self.job if self.index is None else f"{self.job}:{self.index}"
