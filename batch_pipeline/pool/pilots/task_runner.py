"""A running task and the sandbox that its command runs in: files, log, process, hooks, publication.

What may take long (`prepare`, `publish`, `stored`) is called by threads of the pilot, the rest by its loop.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Final

from batch_pipeline.pool.base import Claim
from batch_pipeline.pool.pilots import staging
from batch_pipeline.pool.pilots.hooks import Hooks, guarded, variables_of
from batch_pipeline.pool.pilots.process import Commands, Process
from batch_pipeline.pool.pilots.tasklog import TAIL_BYTES, TaskLog
from batch_pipeline.pool.pilots.verdict import outcome_of_error, outcome_of_exit
from batch_pipeline.pool.task import Task, TaskOutcome, TaskSpec
from batch_pipeline.wire import layout
from batch_pipeline.wire.contract import EndReason, Variable
from batch_pipeline.wire.errors import BatchPipelineError, StoreFailed
from batch_pipeline.wire.scratch import Scratch, sweep
from batch_pipeline.wire.store import Store

#: Bytes of a log up to which it is stored while its command runs; a longer one is stored at its end.
STREAMED_BYTES: Final = 64 << 20
_OF_A_JOB: Final = ("AWS_BATCH_", "BATCH_FILE_", "BATCH_PIPELINE_")


@dataclass(kw_only=True, eq=False)
class RunningTask:
    """A task that this pilot is at."""

    claim: Claim
    log: TaskLog
    began: float
    folder: Path | None = None
    process: Process | None = None
    #: Why it was told to end, and when it is killed; None: it was not told.
    end_reason: EndReason | None = None
    why: str = ""
    kill_at: float | None = None
    limit_at: float | None = None
    #: Somebody else has the task.
    lost: bool = False
    #: Bytes of its log that are in the store.
    stored: int = 0

    @property
    def task(self) -> Task:
        """The task as it was claimed."""
        return self.claim.task

    @property
    def spec(self) -> TaskSpec:
        """What is asked of it."""
        return self.claim.task.spec

    def end(self, reason: EndReason, why: str, kill_at: float) -> None:
        """Tells its command to end, once."""
        if self.end_reason is None:
            self.end_reason, self.why, self.limit_at = reason, why, None
            if self.process is not None:
                self.process.signal(signal.SIGTERM)
                self.kill_at = kill_at

    def kill(self) -> None:
        """Ends its command and all that this started."""
        self.kill_at = None
        if self.process is not None:
            self.process.kill()


def item_of(spec: TaskSpec) -> str:
    """The item that a task counts for: a sub-task for its parent. A cell of a pipeline is an item of its own."""
    return spec.id if Variable.MANIFEST in spec.environment else spec.parent or spec.id


class TaskRunner:
    """Where a pilot's commands run. `open_store` None: there is none; logs keep their tails only."""

    def __init__(
        self,
        commands: Commands,
        scratch: str,
        environment: Mapping[str, str],
        open_store: Callable[[], Store] | None,
        hooks: Hooks,
        tell: Callable[[str], None],
    ) -> None:
        """Makes its folder, and removes those of pilots that were killed. Raises UnsafeFolder, OSError."""
        root = scratch or tempfile.gettempdir()
        sweep(root)
        self._scratch = Scratch(root)
        self._folder = Path(self._scratch.path)
        self._environment = dict(environment)
        # What Batch and `run` told the pilot of itself is not meant for a cell, but where on this host it may work is.
        self._for_cells = {
            name: value
            for name, value in environment.items()
            if not name.startswith(_OF_A_JOB) or name in (Variable.SCRATCH, Variable.CACHE)
        }
        self._open_store = open_store
        self._store: Store | None = None
        self._hooks = hooks
        self._tell = tell
        self._commands = commands
        self._spare: list[TaskLog] = []
        self._numbers = count()

    def new(self, claim: Claim, now: float) -> RunningTask:
        """A task that was claimed."""
        log = self._spare.pop() if self._spare else TaskLog(self._folder / f"{next(self._numbers)}.log")
        return RunningTask(claim=claim, log=log, began=now)

    def needs_preparation(self, running: RunningTask) -> bool:
        """Whether something must be done before its command, that may take long."""
        return staging.needs_folder(running.spec) or self._hooks.prepare_run is not None

    def prepare(self, running: RunningTask) -> Mapping[str, str]:
        """Brings its files and calls the hook; the variables that follow. Raises StepError, StoreFailed, OSError."""
        variables: dict[str, str] = {}
        if staging.needs_folder(running.spec):
            running.folder = self._folder / f"{next(self._numbers)}.files"
            staging.stage_in(running.spec, running.folder, self._files())
            variables |= staging.made_for(running.spec, running.folder)
        if self._hooks.prepare_run:
            variables |= guarded(self._hooks.prepare_run, running.task) or {}
        return variables

    def start(self, running: RunningTask, variables: Mapping[str, str], now: float) -> Process:
        """Starts its command. Raises OSError."""
        spec = running.spec
        is_cell = Variable.MANIFEST in spec.environment
        environment = {
            **(self._for_cells if is_cell else self._environment),
            **variables_of(running.task),
            **variables,
        }
        command = spec.command or ("bash", "-c", spec.shell)
        if is_cell:
            # A cell of a pipeline: the container's side, in the interpreter that has it for sure.
            command = (sys.executable, *command[1:])
            environment[Variable.ATTEMPT] = environment["TASK_ATTEMPT"]
        running.began = now
        folder = str(running.folder) if running.folder else ""
        running.process = self._commands.start(command, environment, log=running.log.descriptor, folder=folder)
        if spec.time_limit_seconds is not None:
            running.limit_at = now + spec.time_limit_seconds
        return running.process

    def reaped(self, running: RunningTask) -> TaskOutcome:
        """How its command, which has ended, did."""
        assert running.process is not None
        code = running.process.reap()
        running.process = running.limit_at = running.kill_at = None
        if not running.log.size:
            return outcome_of_exit(running.task, code, end_reason=running.end_reason, tail="")
        running.log.look(ended=True)
        outcome = outcome_of_exit(running.task, code, end_reason=running.end_reason, tail=running.log.tail())
        return replace(outcome, fields=running.log.fields)

    def has_outputs(self, running: RunningTask, outcome: TaskOutcome) -> bool:
        """Whether there are files to publish."""
        return outcome.end_reason is EndReason.FINISHED and bool(running.spec.outputs)

    def needs_publication(self, running: RunningTask, outcome: TaskOutcome) -> bool:
        """Whether something must be done after its command, that may take long."""
        long_log = running.log.size > TAIL_BYTES and self._open_store is not None
        return long_log or self._hooks.cleanup_run is not None or self.has_outputs(running, outcome)

    def is_over_at_once(self, running: RunningTask) -> bool:
        """Whether nothing that may take long follows the end of its command, however that was."""
        return not running.spec.outputs and self._hooks.cleanup_run is None and running.log.size <= TAIL_BYTES

    def publish(self, running: RunningTask, outcome: TaskOutcome) -> TaskOutcome:
        """Stores the outputs, then the log, then calls the hook; how it ended, with all that."""
        if running.folder and self.has_outputs(running, outcome):
            try:
                staging.stage_out(running.spec, running.folder, self._files())
            except (BatchPipelineError, OSError) as error:
                failed = outcome_of_error(error, running.spec)
                outcome = replace(failed, fields=outcome.fields, log_tail=outcome.log_tail)
        if running.log.size > TAIL_BYTES and self._open_store is not None:
            key = log_key(running.task)
            if self.or_tell(lambda: self._files().put_file(key, running.log.path)):
                outcome = replace(outcome, log_key=key)
        if cleanup := self._hooks.cleanup_run:
            self.or_tell(lambda: guarded(cleanup, running.task, outcome))
        return outcome

    def streamed(self, running: RunningTask) -> Callable[[], object] | None:
        """What stores the log so far, if it has doubled since."""
        size = running.log.size
        if self._open_store is None or not TAIL_BYTES < size <= STREAMED_BYTES or size < 2 * running.stored:
            return None
        running.stored = size
        key, data = log_key(running.task), os.pread(running.log.descriptor, size, 0)
        return lambda: self.or_tell(lambda: self._files().put(key, data))

    def or_tell(self, act: Callable[[], object]) -> bool:
        """Does what may go wrong without consequences; whether it went well."""
        try:
            act()
        except (BatchPipelineError, OSError) as error:
            self._tell(str(error))
            return False
        return True

    def clear(self, running: RunningTask) -> Path | None:
        """Puts its log away; returns the folder that is to be removed, if any."""
        if running.log.size:
            running.log.close()
        else:
            self._spare.append(running.log)
        return running.folder

    def close(self) -> None:
        """Removes everything."""
        self._scratch.close()

    def _files(self) -> Store:
        if self._store is None:
            if self._open_store is None:
                raise StoreFailed("The pilot has no store for files. Give --store.")
            self._store = self._open_store()
        return self._store


def log_key(task: Task) -> str:
    """Key of the log of an attempt; no two claims of a task have the same."""
    return layout.pool_log(task.id, task.fence)
