"""One job of a run, as the store keeps what was sent."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Submission:
    """One job of a run as the store knows it."""

    run_id: str
    #: Our name of the job within the run.
    job: str
    step: str
    native_id: str
    queue: str
    #: The name by which the backend knows it.
    native_name: str
    join: bool = False
    #: Children; 0 in records of before this was written.
    size: int = 0
    #: MiB that each has; 0 likewise.
    memory_mb: int = 0
    #: When the intent was written; empty likewise.
    sent_at: str = ""
