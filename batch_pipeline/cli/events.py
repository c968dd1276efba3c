"""`--events`: what a command does as JSON lines (docs/events.md), for programs; and who is notified when it ends.

The events are those of `records.events.Listener`, their values those of `--json`. A consumer that goes away, or a disk
that is full, does not end the run: a warning says so once, and the events that follow are dropped.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, redirect_stdout
from types import TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO, Final

from batch_pipeline.cli.output import say
from batch_pipeline.records.events import NullListener, Outcome, RetrySummary, StepProgress
from batch_pipeline.records.history import now
from batch_pipeline.wire.errors import BatchPipelineError, InvalidUse
from batch_pipeline.wire.scrub import scrubbed

if TYPE_CHECKING:
    from batch_pipeline.cli.call import CommandCall
    from batch_pipeline.cli.notify import Notifier
    from batch_pipeline.pipeline.plan import Plan

#: Of the lines, whose keys are a promise: keys are added, and none is changed or removed, without another number.
FORMAT: Final = 1
STDOUT: Final = "-"
#: The error of the event `stopped` on Ctrl-C.
INTERRUPTED: Final = "Interrupted"


class CommandEvents(NullListener):
    """The listener that writes a command's events. A context: with events on stdout, all else goes to stderr in it."""

    def __init__(self, call: CommandCall) -> None:
        self._call = call
        self._target: str = call.options.get("events") or ""
        #: Unbuffered, so that nothing is left for the exit to write that could not be written before.
        self._stream: BinaryIO | None = None
        self._notifier: Notifier | None = None
        self._stack = ExitStack()
        self._run_id = ""
        self._waves = 0
        #: Name of the newest event.
        self.latest = ""

    def __enter__(self) -> CommandEvents:
        """Raises InvalidUse for a file that cannot be opened, and for notifications that cannot be sent."""
        settings = self._call.settings
        # A driver that is a job notifies by itself.
        if (settings.notify.url or settings.notify.command) and settings.backend.driver == "here":
            from batch_pipeline.cli.notify import notifier_of

            self._notifier = notifier_of(settings)
        if self._target == STDOUT:
            if self._call.json:
                raise InvalidUse("--json and --events - both print to stdout. Give --events a file.")
            self._stream = getattr(sys.stdout.buffer, "raw", sys.stdout.buffer)
            self._stack.enter_context(redirect_stdout(sys.stderr))
        elif self._target:
            try:
                self._stream = self._stack.enter_context(open(self._target, "ab", buffering=0))
            except OSError as error:
                raise InvalidUse(
                    f"--events: {self._target} cannot be written: {error.strerror}. Name another file."
                ) from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if isinstance(error, Exception):
            self.stop(type(error).__name__, str(getattr(error, "message", error)))
        self._stack.close()

    @property
    def wanted(self) -> bool:
        """Whether events are written."""
        return bool(self._target)

    def planned(self, plan: Plan) -> None:
        """See `Listener.planned`."""
        if self._stream is not None:
            from batch_pipeline.report.records import plan_counts_record

            self._write("planned", plan_counts_record(plan) | {"blocked": len(plan.blocked)})

    def run_began(self, run_id: str, folder: str) -> None:
        """See `Listener.run_began`."""
        self._run_id = run_id
        self._waves += 1
        self._write("wave", {"wave": self._waves, "folder": folder})

    def submitted(self, run_id: str, step: str, job: str, native_id: str, size: int) -> None:
        """See `Listener.submitted`."""
        self._write("submitted", {"step": step, "job": job, "native_id": native_id, "cells": size})

    def progressed(self, progress: Mapping[str, StepProgress]) -> None:
        """See `Listener.progressed`."""
        if self._stream is not None:
            from batch_pipeline.report.records import progress_record

            self._write("progress", {"steps": progress_record(progress)})

    def stuck(self, step: str, sentence: str) -> None:
        """See `Listener.stuck`."""
        self._write("waiting", {"step": step, "message": sentence})

    def again(self, lines: Sequence[RetrySummary]) -> None:
        """See `Listener.again`."""
        if self._stream is not None:
            from batch_pipeline.report.records import plain

            self._write("recovery", {"again": plain(lines)})

    def finished(self, outcome: Outcome) -> None:
        """The command has ended: its last event, and the notifications, unless its jobs go on or there were none."""
        if self._stream is None and self._notifier is None:
            return
        from batch_pipeline.report.records import ended_record, spending_record

        try:
            spending = spending_record(self._call.store, outcome)
        except BatchPipelineError as error:
            spending = {"spent": None, "wall_seconds": None}
            say(f"Warning: what the run took cannot be read: {error.message}")
        self._run_id = next(reversed(outcome.run_ids), self._run_id)
        event = self._write("ended", ended_record(outcome, spending, has_pipeline=self._call.has_pipeline))
        if outcome.run_ids and not outcome.detached and not outcome.interrupted:
            self._notify(event)

    def relay(self, line: str) -> bool:
        """Writes a line that a driver in its job printed, if it is an event; whether it was one."""
        if not line.startswith(f'{{"format": {FORMAT}, "time": '):
            return False
        value = json.loads(line)
        self._run_id, self.latest = value["run_id"], value["event"]
        self._put(line)
        return True

    def stop(self, cause: str, message: str) -> None:
        """Something ended the command before its jobs. Before a run began, the user is there to read it."""
        message = scrubbed(message)
        event = self._write("stopped", {"text": f"Stopped: {message}", "error": cause, "message": message})
        if self._run_id and cause != INTERRUPTED:
            self._notify(event)

    def _notify(self, event: Mapping[str, Any]) -> None:
        for problem in self._notifier.notify(event) if self._notifier else ():
            say(f"Warning: {problem}")

    def _write(self, name: str, values: Mapping[str, Any]) -> dict[str, Any]:
        self.latest = name
        value = {"format": FORMAT, "time": now(), "run_id": self._run_id, "event": name, **values}
        if self._stream is not None:
            self._put(json.dumps(value, ensure_ascii=False))
        return value

    def _put(self, line: str) -> None:
        if self._stream is None:
            return
        rest = memoryview(f"{line}\n".encode())
        try:
            while rest:
                rest = rest[self._stream.write(rest) :]
        except OSError as error:
            self._stream = None
            say(f"Warning: events are not written any more: {error.strerror or error}.")
