"""A pipeline as real sciluigi tasks: one a step, wired by the pipeline's own `workflow()`.

`coated()` makes a class that is both the user's pipeline and a `sciluigi.WorkflowTask`. Its `new_task()` gives sciluigi
tasks instead of our light ones, so that the user's `workflow()`, run as it stands, wires sciluigi's ports. What a port
carries is the step's *submission*: a target that exists when the step's jobs are on the queue. Files travel on the
other side, between the containers and the store.

Only the coat imports this module: it needs Luigi, which takes a fifth of a second to import.
"""

# luigi calls itself typed and half of it is not.
# mypy: allow-untyped-calls

from __future__ import annotations

import os
import types
import warnings
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar, Protocol

import luigi
import sciluigi
from luigi.parameter import ParameterVisibility
from luigi.rpc import RemoteScheduler
from luigi.scheduler import Scheduler
from luigi.worker import Worker

from batch_pipeline.pipeline.step import Output, Parameter, Step
from batch_pipeline.pipeline.workflow import WorkflowTask
from batch_pipeline.wire.durable import make_folder

# sciluigi's own two parameters would fill the scheduler's page with each other's repr.
_HIDDEN: dict[str, Any] = {"significant": False, "visibility": ParameterVisibility.PRIVATE}


class Orders(Protocol):
    """What a task asks and does; the coat is behind it."""

    def submitted(self, step: str) -> bool:
        """Whether nothing of the step is left to submit."""

    def submit(self, step: str) -> None:
        """Puts the step's jobs on the queue."""

    def priority(self, step: str) -> int:
        """Which of several ready steps comes first: the higher."""


class Submission(luigi.Target):
    """The record that a step's jobs are on the queue."""

    def __init__(self, orders: Orders, step: str) -> None:
        self._orders = orders
        self._step = step

    def __repr__(self) -> str:
        return f"submission of {self._step}"

    def exists(self) -> bool:
        """See `luigi.Target.exists`."""
        return self._orders.submitted(self._step)


class SubmissionInfo(sciluigi.TargetInfo):  # type: ignore[misc]  # sciluigi ships no types
    """What a port carries: the task and its submission."""

    def __init__(self, task: StepTask) -> None:
        # Not super().__init__(): that makes a LocalTarget of a path.
        self.task = task
        self.target = Submission(task.orders, task.step)
        self.path = repr(self.target)


class StepTask(sciluigi.Task):  # type: ignore[misc]
    """One step; to run it is to submit it. Parameters are for people, but for `run_id` and `driver`: its identity."""

    workflow_task = luigi.Parameter(**_HIDDEN)
    instance_name = luigi.Parameter(**_HIDDEN)
    run_id = luigi.Parameter()
    driver = luigi.Parameter()
    settings = luigi.Parameter(significant=False)

    orders: ClassVar[Orders]
    step: ClassVar[str]

    @property
    def priority(self) -> int:
        """See `luigi.Task.priority`."""
        return self.orders.priority(self.step)

    def out_submission(self) -> SubmissionInfo:
        """A port that every step has, also one without outputs."""
        return SubmissionInfo(self)

    def run(self) -> None:
        """See `luigi.Task.run`."""
        self.orders.submit(self.step)


class CoatedWorkflow(sciluigi.WorkflowTask):  # type: ignore[misc]
    """A pipeline's workflow, mixed with the user's class by `coated`."""

    instance_name = luigi.Parameter(default="", **_HIDDEN)
    run_id = luigi.Parameter()
    driver = luigi.Parameter()
    settings = luigi.Parameter(significant=False)

    pipeline: ClassVar[type[WorkflowTask]]
    orders: ClassVar[Orders]
    params: ClassVar[Mapping[str, str]]
    folder: ClassVar[Path]

    #: sciluigi would add a handler for a log in the working directory; the loggers are taken care of.
    _hasaddedhandler = True
    _ran = False

    def __init__(self, **params: str) -> None:
        super().__init__(**params)
        # Luigi's __init__ does not pass on; the user's may make what their workflow() reads.
        self.pipeline.__init__(self)

    def new_task(self, instance_name: str, cls: type[Step]) -> StepTask:
        """The step as a sciluigi task, the same at every call."""
        made = self._tasks.get(instance_name)
        if made is None:
            identity = {"run_id": self.run_id, "driver": self.driver}
            settings = settings_of(instance_name, cls, self.params)
            made = super().new_task(instance_name, self._class_of(instance_name, cls), settings=settings, **identity)
        task: StepTask = made
        return task

    def _class_of(self, name: str, cls: type[Step]) -> type[StepTask]:
        # One class a step, of its name: that is what the scheduler's page groups by and its graph shows.
        body: dict[str, Any] = {f"out_{port}": StepTask.out_submission for port in cls.declared(Output)}
        body |= {"__module__": cls.__module__, "__doc__": cls.__doc__, "orders": self.orders, "step": name}
        return types.new_class(name, (StepTask,), {}, lambda namespace: namespace.update(body))

    def source(self, *files: str, column: str = "") -> list[StepTask]:
        """Files that no task makes: no edge."""
        return []

    def workflow(self) -> list[StepTask]:
        """Wires the tasks as the pipeline says; gives those that no other reads from, and those with jobs to submit.

        Luigi looks at nothing above a task that is complete, and a last step may have nothing to submit now.
        """
        self.pipeline.workflow(self)
        tasks = list(self._tasks.values())
        still_open = {task.task_id for task in tasks if not task.complete()}
        read = {upstream.task_id for task in tasks for upstream in task.requires()}
        reached = {upstream.task_id for task in tasks if task.task_id in still_open for upstream in task.requires()}
        return [task for task in tasks if task.task_id not in (reached if task.task_id in still_open else read)]

    @property
    def step_tasks(self) -> Mapping[str, StepTask]:
        """The tasks by step, wired."""
        if not self._tasks:
            self.workflow()
        return dict(self._tasks)

    def complete(self) -> bool:
        """False until it ran: Luigi looks at the steps of an incomplete task only."""
        return self._ran

    def run(self) -> None:
        """Writes sciluigi's audit file."""
        super().run()
        self._ran = True

    def get_wflogpath(self) -> str:
        """See `sciluigi.WorkflowTask.get_wflogpath`."""
        return str(self.folder / "luigi.log")

    def get_auditdirpath(self) -> str:
        """See `sciluigi.WorkflowTask.get_auditdirpath`."""
        folder = self.folder / f".audit_{self._wfstart}"
        make_folder(os.fspath(folder), synced=True)  # sciluigi sleeps up to a second when it is not there
        return str(folder)

    def get_auditlogpath(self) -> str:
        """See `sciluigi.WorkflowTask.get_auditlogpath`."""
        return str(self.folder / f"workflow_{self._wfstart}.audit")


def coated(
    pipeline: type[WorkflowTask], *, orders: Orders, run_id: str, driver: str, params: Mapping[str, str], folder: Path
) -> CoatedWorkflow:
    """The pipeline as a sciluigi workflow task; run id and driver are its and its steps' identity."""
    body = {
        "__module__": pipeline.__module__,
        "__doc__": pipeline.__doc__,
        "pipeline": pipeline,
        "orders": orders,
        "params": params,
        "folder": folder,
        # sciluigi shares one dictionary among all workflows, and asks utcnow(), which Python deprecates.
        "_tasks": {},
        "_wfstart": datetime.now(UTC).strftime("%Y%m%dT%H%M%S_%f"),
    }
    made = types.new_class(pipeline.__name__, (CoatedWorkflow, pipeline), {}, lambda namespace: namespace.update(body))
    workflow: CoatedWorkflow = made(run_id=run_id, driver=driver, settings=_words(params, sorted(params)))
    return workflow


def settings_of(name: str, step: type[Step], params: Mapping[str, str]) -> str:
    """The step's parameters that were given, in words: `bootstraps=30 k=31`."""
    declared = step.declared(Parameter)
    own = {param: params[param] for param in declared if param in params}
    own |= {param: params[f"{name}.{param}"] for param in declared if f"{name}.{param}" in params}
    return _words(own, list(own))


def _words(params: Mapping[str, str], names: Sequence[str]) -> str:
    return " ".join(f"{name}={params[name]}" for name in names) or "defaults"


class _Factory:
    """Makes luigi's scheduler and worker with what matters said here, not in a configuration file."""

    def __init__(self, worker_id: str) -> None:
        self._worker_id = worker_id

    def create_local_scheduler(self) -> Scheduler:
        return Scheduler(prune_on_get_work=True, record_task_history=False)

    def create_remote_scheduler(self, url: str) -> RemoteScheduler:
        return RemoteScheduler(url)

    def create_worker(self, scheduler: Scheduler, worker_processes: int, assistant: bool) -> Worker:
        # One process: a submission in a fork could not hand its exception back. No signal handler:
        # the process is not Luigi's.
        quiet = {"no_install_shutdown_handler": True, "send_failure_email": False}
        return Worker(scheduler=scheduler, worker_id=self._worker_id, worker_processes=1, **quiet)


def build(workflow: CoatedWorkflow, *, url: str | None, worker_id: str) -> None:
    """Runs the workflow through Luigi, under its own scheduler or the one at the URL; what ran, the orders know.

    Raises RPCError when the scheduler does not answer.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        luigi.build(
            [workflow],
            worker_scheduler_factory=_Factory(worker_id),
            local_scheduler=url is None,
            scheduler_url=url or "",
        )
