"""A pipeline as real sciluigi tasks: one a step, wired by the pipeline's own `workflow()`.

`adapted()` makes a class that is both the user's pipeline and a `sciluigi.WorkflowTask`. Its `new_task()` gives
sciluigi tasks instead of our light ones, so that the user's `workflow()`, run as it stands, wires sciluigi's ports.
What a port carries is the step's *submission*: a target that exists when the step's jobs are on the queue. Files travel
on the other side, between the containers and the store.
"""

# luigi calls itself typed and half of it is not.
# mypy: allow-untyped-calls

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar

import luigi
import sciluigi
from luigi.execution_summary import summary
from luigi.parameter import ParameterVisibility
from luigi.rpc import RemoteScheduler
from luigi.scheduler import Scheduler
from luigi.worker import Worker

from batch_pipeline.pipeline.step import Output, Parameter, Step
from batch_pipeline.pipeline.workflow import WorkflowTask
from batch_pipeline.wire.durable import make_folder
from batch_pipeline.wire.errors import BackendFailed

# sciluigi's own two parameters would fill the scheduler's page with each other's repr.
_HIDDEN: dict[str, Any] = {"significant": False, "visibility": ParameterVisibility.PRIVATE}


class StepSubmissions:
    """Submits steps for Luigi's tasks, and keeps the first exception, which Luigi only logs."""

    def __init__(self, steps: Sequence[str], submit: Callable[[str], None], submitted: Callable[[str], bool]) -> None:
        self._steps, self._submit, self._submitted = list(steps), submit, submitted
        self._failure: BaseException | None = None
        #: Steps whose jobs were put on the queue here.
        self.ran: list[str] = []

    def open_steps(self) -> list[str]:
        """Steps that are not submitted, in order."""
        return [step for step in self._steps if not self._submitted(step)]

    def is_submitted(self, step: str) -> bool:
        """Whether nothing of the step is left to submit."""
        with self._keeping_failure():
            return step not in self._steps or self._submitted(step)

    def submit(self, step: str) -> None:
        """Puts the step's jobs on the queue. Raises BackendFailed after another step could not be submitted."""
        if self._failure is not None:
            raise BackendFailed(f"{step} is not submitted, because another step could not be.")
        with self._keeping_failure():
            self._submit(step)
        self.ran.append(step)

    def priority(self, step: str) -> int:
        """Which of several ready steps comes first: the higher."""
        return len(self._steps) - self._steps.index(step) if step in self._steps else 0

    def raise_failure(self) -> None:
        """Raises what a call of the driver's raised, with its own traceback."""
        if self._failure is not None:
            raise self._failure

    @contextmanager
    def _keeping_failure(self) -> Iterator[None]:
        try:
            yield
        except BaseException as error:
            self._failure = self._failure or error
            raise


class SubmissionTarget(sciluigi.TargetInfo, luigi.Target):  # type: ignore[misc]  # sciluigi ships no types
    """What a port carries: the task and, as its target, whether the step's jobs are on the queue."""

    def __init__(self, task: StepTask) -> None:
        # Not super().__init__(): that makes a LocalTarget of a path.
        self.task, self.target, self.path = task, self, f"submission of {task.instance_name}"

    def __repr__(self) -> str:
        # Luigi counts by it how often a task was missing, and ends a loop.
        return self.path

    def exists(self) -> bool:
        """See `luigi.Target.exists`."""
        return self.task.submissions.is_submitted(self.task.instance_name)


class StepTask(sciluigi.Task):  # type: ignore[misc]
    """One step; to run it is to submit it. Parameters are for people, but for `run_id` and `driver`: its identity."""

    workflow_task = luigi.Parameter(**_HIDDEN)
    instance_name = luigi.Parameter(**_HIDDEN)
    run_id = luigi.Parameter()
    driver = luigi.Parameter()
    settings = luigi.Parameter(significant=False)
    submissions: ClassVar[StepSubmissions]

    @property
    def priority(self) -> int:
        """See `luigi.Task.priority`."""
        return self.submissions.priority(self.instance_name)

    def out_submission(self) -> SubmissionTarget:
        """A port that every step has, also one without outputs."""
        return SubmissionTarget(self)

    def run(self) -> None:
        """See `luigi.Task.run`."""
        self.submissions.submit(self.instance_name)


class AdaptedWorkflow(sciluigi.WorkflowTask):  # type: ignore[misc]
    """A pipeline's workflow, mixed with the user's class by `adapted`."""

    instance_name = luigi.Parameter(default="", **_HIDDEN)
    run_id = luigi.Parameter()
    driver = luigi.Parameter()
    settings = luigi.Parameter(significant=False)
    pipeline: ClassVar[type[WorkflowTask]]
    submissions: ClassVar[StepSubmissions]
    params: ClassVar[Mapping[str, str]]
    step_tasks: ClassVar[Mapping[str, StepTask]]

    #: sciluigi would add a handler for a log in the working directory; the loggers are redirected already.
    _hasaddedhandler = True

    def __init__(self, **params: str) -> None:
        super().__init__(**params)
        # Luigi's __init__ does not pass on; the user's may make what their workflow() reads.
        self.pipeline.__init__(self)
        self.pipeline.workflow(self)

    def new_task(self, instance_name: str, cls: type[Step]) -> StepTask:
        """The step as a sciluigi task."""
        # One class a step, of its name: that is what the scheduler's page groups by and its graph shows.
        body: dict[str, Any] = {f"out_{port}": StepTask.out_submission for port in cls.declared(Output)}
        body |= {"__module__": cls.__module__, "__doc__": cls.__doc__, "submissions": self.submissions}
        values = (
            (name, self.params.get(f"{instance_name}.{name}", self.params.get(name)))
            for name in cls.declared(Parameter)
        )
        identity = {"run_id": self.run_id, "driver": self.driver, "settings": _words(values)}
        task: StepTask = super().new_task(instance_name, type(instance_name, (StepTask,), body), **identity)
        return task

    def source(self, *files: str, column: str = "") -> list[StepTask]:
        """Files that no task makes: no edge."""
        return []

    def workflow(self) -> list[StepTask]:
        """The tasks that no other reads from, and those with jobs to submit.

        Luigi looks at nothing above a task that is complete, and a last step may have nothing to submit now.
        """
        tasks = self.step_tasks.values()
        still_open = {task for task in tasks if not task.complete()}
        read = {upstream for task in tasks for upstream in task.requires()}
        reached = {upstream for task in still_open for upstream in task.requires()}
        return [task for task in tasks if task not in (reached if task in still_open else read)]


def adapted(
    pipeline: type[WorkflowTask],
    *,
    submissions: StepSubmissions,
    run_id: str,
    driver: str,
    params: Mapping[str, str],
    folder: Path,
) -> AdaptedWorkflow:
    """The pipeline as a sciluigi workflow task, wired; run id and driver are its and its steps' identity."""
    began = datetime.now(UTC).strftime("%Y%m%dT%H%M%S_%f")
    audit = folder / f".audit_{began}"
    make_folder(os.fspath(audit), synced=True)  # sciluigi sleeps up to a second when it is not there
    tasks: dict[str, StepTask] = {}
    body = {
        "__module__": pipeline.__module__,
        "__doc__": pipeline.__doc__,
        "pipeline": pipeline,
        "submissions": submissions,
        "params": params,
        # sciluigi shares one dictionary among all workflows, and puts its files into the working directory.
        "step_tasks": tasks,
        "_tasks": tasks,
        "_wflogpath": str(folder / "luigi.log"),
        "get_auditdirpath": lambda _: str(audit),
        "get_auditlogpath": lambda _: str(folder / f"workflow_{began}.audit"),
    }
    workflow_class: Any = type(pipeline.__name__, (AdaptedWorkflow, pipeline), body)
    workflow: AdaptedWorkflow = workflow_class(run_id=run_id, driver=driver, settings=_words(sorted(params.items())))
    return workflow


def _words(params: Iterable[tuple[str, str | None]]) -> str:
    """`bootstraps=30 k=31`, without those that have no value."""
    return " ".join(f"{name}={value}" for name, value in params if value is not None) or "defaults"


def described(task: luigi.Task, tracking_url: str) -> dict[str, Any]:
    """What the scheduler's `add_task` has to know of a task, as luigi's own worker would send it."""
    return {
        "task_id": task.task_id,
        "family": task.task_family,
        "module": task.task_module,
        "params": task.to_str_params(only_public=True),
        "param_visibilities": task._get_param_visibilities(),
        "deps": [upstream.task_id for upstream in task.deps()],
        "priority": task.priority,
        # A scheduler may be set to disable what fails often; reporting FAILED again is not failing again.
        "retry_policy_dict": {"retry_count": 999_999_999},
        "tracking_url": tracking_url or None,
    }


def run_tasks(workflow: AdaptedWorkflow, *, url: str | None, worker_id: str) -> None:
    """Runs the workflow through Luigi, under its own scheduler or the one at the URL; RPCError when none answers."""
    scheduler = RemoteScheduler(url) if url else Scheduler(prune_on_get_work=True, record_task_history=False)
    # Not `luigi.build`, whose worker puts a signal handler into this process. One worker process, which is this one: a
    # submission in a fork could not hand its exception back.
    options = {"worker_processes": 1, "no_install_shutdown_handler": True, "send_failure_email": False}
    with warnings.catch_warnings(action="ignore"):
        with Worker(scheduler=scheduler, worker_id=worker_id, **options) as worker:
            worker.add(workflow)
            worker.run()
        logging.getLogger("luigi-interface").info(summary(worker))
    if isinstance(scheduler, RemoteScheduler):
        scheduler.close()
