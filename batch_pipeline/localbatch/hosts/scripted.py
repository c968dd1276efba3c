"""Runs nothing: attempts end as a script says, on a clock that moves when told.

A test of hours of a pipeline's life takes milliseconds and always goes the same way.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import count

from batch_pipeline.localbatch.api.logs import LogMemory
from batch_pipeline.localbatch.engine.job import AttemptOutcome
from batch_pipeline.localbatch.engine.state_machine import Run
from batch_pipeline.localbatch.hosts.execution import AttemptListener, environment_of, task_of
from batch_pipeline.wire.toolchain import Toolchain

#: Says how an attempt goes that starts now: gets its environment and command.
Play = Callable[[Mapping[str, str], Sequence[str]], "Script"]
#: Plays an attempt: gets its environment and command, returns its exit code.
Action = Callable[[Mapping[str, str], Sequence[str]], int]


class VirtualClock:
    """A clock that stands still until `advance`. See `execution.Clock`."""

    def __init__(self, now_ms: int = 1_700_000_000_000) -> None:
        self._now_ms = now_ms
        self._calls: list[tuple[int, int, Callable[[], None]]] = []
        self._numbers = count()

    def now_ms(self) -> int:
        """See `Clock.now_ms`."""
        return self._now_ms

    def call_at(self, time_ms: int, call: Callable[[], None]) -> None:
        """See `Clock.call_at`; calls for the same moment are made in the order in which they were asked for."""
        heappush(self._calls, (time_ms, next(self._numbers), call))

    def next_ms(self) -> int | None:
        """When the next call is due."""
        return self._calls[0][0] if self._calls else None

    def advance_to(self, time_ms: int) -> None:
        """Lets the time pass, making the calls that fall due."""
        while self._calls and self._calls[0][0] <= time_ms:
            due, _, call = heappop(self._calls)
            self._now_ms = max(self._now_ms, due)
            call()
        self._now_ms = max(self._now_ms, time_ms)


@dataclass(frozen=True, kw_only=True, slots=True)
class Script:
    """How an attempt goes."""

    #: From RUNNING to its end; None never ends by itself.
    seconds: float | None = 1.0
    exit_code: int | None = 0
    #: AWS's sentence, such as `Host EC2 (instance i-0) terminated.`; None for an ordinary end.
    status_reason: str | None = None
    #: The container's reason, such as `OutOfMemoryError: …`.
    reason: str | None = None
    #: What it has written.
    log: str = ""
    #: In STARTING, for the image.
    starting_seconds: float = 0.0
    #: From SIGTERM to its end, and how it ends then; beyond the grace period it is killed with 137.
    stopping_seconds: float = 0.0
    stopped_exit_code: int = 143
    #: Called at its end; what it returns replaces the exit code.
    action: Action | None = None


class ScriptedExecutor:
    """Plays scripts. See `execution.Executor`.

    The script of an attempt is the one that was given last for its job's name (or `*`), index and attempt.
    """

    def __init__(
        self, clock: VirtualClock, listener: AttemptListener, logs: LogMemory, grace_seconds: float = 30.0
    ) -> None:
        self._clock = clock
        self._listener = listener
        self._logs = logs
        self._grace_seconds = grace_seconds
        self._scripts: list[tuple[str, int | None, int | None, Script]] = []
        self._live: dict[Run, Script] = {}
        #: Asked instead of the scripts when it is there.
        self.play: Play | None = None

    def add(self, job_name: str, index: int | None, attempt: int | None, script: Script) -> None:
        """Says how attempts go; None for an index or attempt stands for any."""
        self._scripts.append((job_name, index, attempt, script))

    def expect(self, toolchain: Toolchain) -> None:
        """See `Executor.expect`."""

    def start(self, run: Run) -> None:
        """See `Executor.start`."""
        script = self._script(run)
        self._live[run] = script
        if script.starting_seconds:
            self._after(script.starting_seconds, lambda: self._begin(run, script))
        else:
            self._begin(run, script)

    def stop(self, run: Run) -> None:
        """See `Executor.stop`."""
        script = self._live[run]
        killed = script.stopping_seconds > self._grace_seconds
        code = 137 if killed else script.stopped_exit_code
        outcome = AttemptOutcome(exit_code=code)
        self._after(min(script.stopping_seconds, self._grace_seconds), lambda: self._end(run, outcome))

    def _script(self, run: Run) -> Script:
        if self.play is not None:
            return self.play(environment_of(run, {}), run.job.spec.command)
        wanted = (run.job.spec.name, run.index, run.attempt)
        for name, index, attempt, script in reversed(self._scripts):
            if name in ("*", wanted[0]) and index in (None, wanted[1]) and attempt in (None, wanted[2]):
                return script
        return Script()

    def _begin(self, run: Run, script: Script) -> None:
        if run not in self._live:
            return
        self._listener.began(run)
        self._logs.text[task_of(run)] = script.log.encode()
        if script.seconds is not None:
            self._after(script.seconds, lambda: self._play(run, script))

    def _play(self, run: Run, script: Script) -> None:
        if run not in self._live:
            return
        code = script.exit_code
        if script.action:
            code = script.action(environment_of(run, {}), run.job.spec.command)
        self._end(run, AttemptOutcome(exit_code=code, status_reason=script.status_reason, reason=script.reason))

    def _end(self, run: Run, outcome: AttemptOutcome) -> None:
        if self._live.pop(run, None):
            self._listener.ended(run, outcome)

    def _after(self, seconds: float, call: Callable[[], None]) -> None:
        self._clock.call_at(self._clock.now_ms() + round(1000 * seconds), call)
