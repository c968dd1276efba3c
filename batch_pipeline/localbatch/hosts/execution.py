"""What runs attempts, and what time it is: the two things that the embedded Batch takes from outside.

`executor` and the real clock run processes; `scripted` plays outcomes on a virtual clock.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Protocol

from batch_pipeline.localbatch.api.describe import task_id
from batch_pipeline.localbatch.api.registry import COMPUTE_ENVIRONMENT
from batch_pipeline.localbatch.engine.job import AttemptOutcome
from batch_pipeline.localbatch.engine.state_machine import Run
from batch_pipeline.wire.contract import Variable
from batch_pipeline.wire.toolchain import Toolchain


class Clock(Protocol):
    """Tells the time and wakes up."""

    def now_ms(self) -> int:
        """Unix milliseconds."""

    def call_at(self, time_ms: int, call: Callable[[], None]) -> None:
        """Makes a call at a time, or as soon as possible after it."""


class AttemptListener(Protocol):
    """Hears what becomes of attempts."""

    def began(self, run: Run) -> None:
        """The attempt's process runs."""

    def left(self, run: Run) -> None:
        """Nothing of the attempt runs any more; it ends when what it made is on the disk."""

    def ended(self, run: Run, outcome: AttemptOutcome) -> None:
        """The attempt has ended, and nothing of it runs any more."""

    def given_back(self, run: Run) -> None:
        """The attempt never began and never will."""


class Executor(Protocol):
    """Runs attempts; what becomes of each is told to the listener, once, later."""

    def expect(self, toolchain: Toolchain) -> None:
        """Hears that jobs of a toolchain are about to come; what they need may begin to start."""

    def start(self, run: Run) -> None:
        """Starts an attempt."""

    def stop(self, run: Run) -> None:
        """Stops an attempt: politely first, by force after the grace period."""


class SystemClock:
    """The real time; wakes up through an event loop's `call_later`."""

    def __init__(self, call_later: Callable[[float, Callable[[], None]], object]) -> None:
        self._call_later = call_later

    def now_ms(self) -> int:
        """See `Clock.now_ms`."""
        return time.time_ns() // 1_000_000

    def call_at(self, time_ms: int, call: Callable[[], None]) -> None:
        """See `Clock.call_at`."""
        self._call_later(max(0, time_ms - self.now_ms()) / 1000, call)


def environment_of(run: Run, ambient: Mapping[str, str]) -> dict[str, str]:
    """The variables that an attempt gets: those of its job, Batch's own, and of the ambient ones what is unset.

    Ambient are those of its toolchain, and what the server passes on.
    """
    return {**shared_environment(run, ambient), **own_environment(run)}


def shared_environment(run: Run, ambient: Mapping[str, str]) -> dict[str, str]:
    """Those that all attempts of a job have in common; an attempt's own go before them."""
    spec = run.job.spec
    environment = {
        **ambient,
        **spec.environment,
        Variable.QUEUE: spec.queue,
        Variable.COMPUTE_ENVIRONMENT: COMPUTE_ENVIRONMENT,
    }
    if spec.size:
        environment[Variable.ARRAY_SIZE] = str(spec.size)
    return environment


def own_environment(run: Run) -> dict[str, str]:
    """Those that tell one attempt from the others of its job."""
    spec = run.job.spec
    own: dict[str, str] = {Variable.JOB_ID: spec.child_id(run.index), Variable.ATTEMPT: str(run.attempt)}
    if spec.size:
        own[Variable.ARRAY_INDEX] = str(run.index)
    return own


def task_of(run: Run) -> str:
    """The task id of an attempt, which names its log."""
    return task_id(run.job, run.index, run.attempt)
