"""Luigi as the pipeline's coat: it submits the steps in order, and its scheduler's page shows how far they are.

A Luigi task of ours is *submitted* rather than *computed*: child *i* of a step waits for child *i* of the step before
on the backend itself, so all steps are queued at once and Luigi's part is over within a second. Each step is a real
sciluigi task with real edges (`tasks`); its target is the step's submission, and to run it is to submit it.
With a central scheduler (`luigid`) the tasks then turn from DONE to RUNNING again, all at once, and get their percent,
status line and link while the driver watches; at last each is DONE, or FAILED with an explanation (`report`).
Two other ways were weighed. A Luigi task that runs until its step is over would keep the steps behind it PENDING, so
one bar would move at a time, and a scheduler that died would take the submission with it. A page fed only by us, with
Luigi's local scheduler submitting, would need no verification but would leave the central scheduler without a say.

A detached run's tasks are DONE, which then means submitted; their status line says so. A driver that ends without
saying how leaves its tasks FAILED; one that is killed is found out by luigid within two minutes.

A central luigid takes no task that it holds as DONE since a moment ago, or RUNNING elsewhere, and Luigi then ends with
success and nothing done. Ours carry the run's id and the driver's in their identity, so what luigid remembers of an
earlier run or of a driver that died cannot stand in the way; and whatever was to be submitted and was not is an error.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from batch_pipeline.luigi_adapter.states import (
    DONE,
    TaskState,
    abandoned,
    last_state_of,
    last_state_of_all,
    state_of,
    whole,
)
from batch_pipeline.pipeline.workflow import WorkflowTask
from batch_pipeline.records.events import Outcome, Silence, StepProgress
from batch_pipeline.wire.errors import BackendFailed, RunConflict

if TYPE_CHECKING:
    from batch_pipeline.luigi_adapter.report import Reporter

#: How long a scheduler may take to say that it is there.
ANSWER_SECONDS: Final = 3.0
#: How long `Coat.close` waits for the last words to be told.
FAREWELL_SECONDS: Final = 10.0

NOTHING_TO_SUBMIT: Final = TaskState(status=DONE, percent=100, line="nothing to submit")
AGAIN: Final = "Wait a minute and run the same command again, or leave --scheduler-host away."


class Coat(Silence):
    """Submits a pipeline's steps through Luigi and, with a central scheduler, shows their progress on its page.

    `submit` puts the jobs of one step on the queue; `submitted` says whether nothing of a step is left to submit. Steps
    of the pipeline that `steps` does not name have nothing to submit.

    Raises
    ------
    BackendFailed
        No scheduler answers at the host and port; nothing was submitted.
    """

    def __init__(
        self,
        workflow: type[WorkflowTask],
        *,
        run_id: str,
        steps: Sequence[str],
        submit: Callable[[str], None],
        submitted: Callable[[str], bool],
        params: Mapping[str, str],
        tracking_url: str,
        host: str | None,
        port: int,
        log_folder: Path | None,
    ) -> None:
        self._url = scheduler_url(host, port) if host else None
        if self._url:
            require_scheduler(self._url)
        from batch_pipeline.luigi_adapter import imports

        imports.load()
        from batch_pipeline.luigi_adapter import tasks

        self._name, self._run_id = workflow.__name__, run_id
        self._tracking_url = tracking_url
        self._orders = _Orders(steps, submit, submitted)
        # A driver that adopts a run of one that died must not meet its tasks, RUNNING under a worker that is no more.
        driver = f"{socket.gethostname()}-{os.getpid()}-{os.urandom(3).hex()}"
        with ExitStack() as stack:
            folder = stack.enter_context(imports.taken_over(log_folder))
            self._task = tasks.coated(
                workflow, orders=self._orders, run_id=run_id, driver=driver, params=params, folder=folder
            )
            self._cleanup = stack.pop_all()
        self._worker_id = f"Worker(run={run_id}, driver={driver})"
        self._reporter: Reporter | None = None
        self._states: dict[str, TaskState] = {}
        self._built = self._ended = self._closed = False

    @property
    def task_ids(self) -> Mapping[str, str]:
        """Luigi's id of each step's task; the workflow's is under its class's name."""
        ids = {step: task.task_id for step, task in self._task.step_tasks.items()}
        return {**ids, self._name: self._task.task_id}

    def submit_all(self) -> None:
        """Calls `submit` once for each step that is not submitted, each after those that it reads from.

        A failing `submit` ends it: its exception comes out unchanged, and no other step is submitted. Called again,
        for a further wave, it submits without Luigi: a scheduler would refuse tasks that it holds as DONE or RUNNING.

        Raises
        ------
        RunConflict
            The central scheduler did not let a step be submitted; that step's jobs are not queued.
        BackendFailed
            The central scheduler went away on the way.
        """
        wanted = self._orders.open_steps()
        if self._built:
            for step in wanted:
                self._orders.submit(step)
        elif wanted:
            self._built = True
            self._build(wanted)
            self._say({step: NOTHING_TO_SUBMIT for step in self._task.step_tasks if step not in wanted})

    def _build(self, wanted: Sequence[str]) -> None:
        from luigi.rpc import RPCError

        from batch_pipeline.luigi_adapter.tasks import build

        try:
            build(self._task, url=self._url, worker_id=self._worker_id)
            self._orders.raise_failure()
            self._verify([step for step in wanted if step not in self._orders.ran])
        except RPCError as error:
            self._orders.raise_failure()
            raise BackendFailed(
                f"Luigi's scheduler at {self._url} went away while the steps were submitted ({error}). "
                "Run the same command again: it goes on where this one stopped."
            ) from error

    def _verify(self, refused: Sequence[str]) -> None:
        if not refused:
            return
        if self._url is None:
            raise BackendFailed(f"Luigi did not submit {', '.join(refused)}; its reasons are in luigi.log. {AGAIN}")
        from batch_pipeline.luigi_adapter.report import held_as, is_paused

        if is_paused(self._url):
            raise RunConflict(
                f"Luigi's scheduler at {self._url} is paused and let nobody submit {', '.join(refused)}. "
                "Press Resume on its page, then run the same command again."
            )
        held = held_as(self._url, [self.task_ids[step] for step in refused])
        told = [f"{step} (which it holds as {held.get(self.task_ids[step], 'unknown')})" for step in refused]
        raise RunConflict(
            f"Luigi's scheduler at {self._url} did not let {', '.join(told)} of run {self._run_id} be submitted: "
            f"these steps are not queued. Another driver may be at work. {AGAIN}"
        )

    def progressed(self, progress: Mapping[str, StepProgress]) -> None:
        """See `Listener.progressed`."""
        states = {step: state_of(counts) for step, counts in progress.items()}
        self._say({**states, self._name: state_of(whole(self._name, progress))})

    def ended(self, outcome: Outcome) -> None:
        """See `Listener.ended`."""
        states = {step: last_state_of(counts, outcome) for step, counts in outcome.progress.items()}
        together = whole(self._name, outcome.progress)
        self._say({**states, self._name: last_state_of_all(together, outcome)})
        self._ended = True

    def close(self) -> None:
        """Tells what is left to tell and gives Luigi's loggers back. May be called twice."""
        if self._reporter is not None:
            if not self._ended:
                self._say({step: abandoned(state) for step, state in self._states.items()})
            self._reporter.finish(FAREWELL_SECONDS)
            self._reporter = None
        self._closed = True
        self._cleanup.close()

    def _say(self, states: Mapping[str, TaskState]) -> None:
        if self._url is None or self._closed:
            return
        self._states |= states
        if self._reporter is None:
            self._reporter = self._new_reporter(self._url)
            self._reporter.start()
        self._reporter.say(states)

    def _new_reporter(self, url: str) -> Reporter:
        from batch_pipeline.luigi_adapter.report import Described, Reporter

        steps = {step: Described.of(task) for step, task in self._task.step_tasks.items()}
        return Reporter(
            url=url,
            worker_id=self._worker_id,
            worker_info={"workers": 1, "first_task": self._task.task_id},
            tasks={**steps, self._name: Described.of(self._task)},
            tracking_url=self._tracking_url,
        )


class _Orders:
    """What the coat's tasks ask and do, and what came of it. Implements `tasks.Orders`."""

    def __init__(self, steps: Sequence[str], submit: Callable[[str], None], submitted: Callable[[str], bool]) -> None:
        self._steps = list(steps)
        self._submit = submit
        self._submitted = submitted
        self._failure: BaseException | None = None
        #: Steps whose jobs were put on the queue here.
        self.ran: list[str] = []

    def open_steps(self) -> list[str]:
        """Steps that are not submitted, in order."""
        return [step for step in self._steps if not self._submitted(step)]

    def submitted(self, step: str) -> bool:
        """See `Orders.submitted`."""
        with self._kept():
            return step not in self._steps or self._submitted(step)

    def submit(self, step: str) -> None:
        """See `Orders.submit`."""
        if self._failure is not None:
            raise BackendFailed(f"{step} is not submitted, because another step could not be.")
        with self._kept():
            self._submit(step)
        self.ran.append(step)

    def priority(self, step: str) -> int:
        """See `Orders.priority`."""
        return len(self._steps) - self._steps.index(step) if step in self._steps else 0

    def raise_failure(self) -> None:
        """Raises what a call of the driver's raised, with its own traceback; Luigi has kept it to itself."""
        if self._failure is not None:
            raise self._failure

    @contextmanager
    def _kept(self) -> Iterator[None]:
        try:
            yield
        except BaseException as error:
            self._failure = self._failure or error
            raise


def scheduler_url(host: str, port: int) -> str:
    """Where a central scheduler answers."""
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def answers(url: str) -> bool:
    """Whether it is a Luigi scheduler that answers at the URL. Raises OSError when nothing does within seconds."""
    # Tens of milliseconds that a run without a scheduler need not pay.
    from http.client import HTTPException
    from urllib.request import urlopen

    try:
        with urlopen(f"{url}/api/is_paused", timeout=ANSWER_SECONDS) as response:
            return "paused" in json.load(response)["response"]
    except HTTPException as error:
        raise ConnectionError(f"it speaks no HTTP ({error!r})") from error
    except (ValueError, LookupError, TypeError):
        return False


def require_scheduler(url: str) -> None:
    """Raises BackendFailed unless a Luigi scheduler answers at the URL."""
    try:
        found, why = answers(url), "what answers there is something else"
    except OSError as error:
        found, why = False, str(getattr(error, "reason", error))
    if not found:
        raise BackendFailed(
            f"No Luigi scheduler at {url}: {why}. "
            "Start it with `main.py ui`, or leave --scheduler-host away; nothing was submitted."
        )
