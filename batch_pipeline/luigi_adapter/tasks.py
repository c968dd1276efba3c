"""A pipeline as real sciluigi tasks: one a step, wired as the pipeline's graph is; before them those that prepare.

What a port carries is the step's *submission*: a target that exists when the step's jobs are on the queue. Files travel
on the other side, between the containers and the store.
"""

# luigi calls itself typed and half of it is not.
# mypy: allow-untyped-calls

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import luigi
import sciluigi
from luigi.execution_summary import summary
from luigi.parameter import ParameterVisibility
from luigi.rpc import RemoteScheduler
from luigi.scheduler import Scheduler
from luigi.worker import Worker

from batch_pipeline.pipeline.wiring import options_of
from batch_pipeline.pipeline.workflow import Graph, Port
from batch_pipeline.wire.durable import make_folder

if TYPE_CHECKING:
    from batch_pipeline.luigi_adapter.preparer import Preparer
    from batch_pipeline.luigi_adapter.submit import LuigiAdapter

# sciluigi's own two parameters would fill the scheduler's page with each other's repr.
_HIDDEN: dict[str, Any] = {"significant": False, "visibility": ParameterVisibility.PRIVATE}


class SubmissionTarget(sciluigi.TargetInfo, luigi.Target):  # type: ignore[misc]  # sciluigi ships no types
    """What a port carries: the task and, as its target, whether the step's jobs are on the queue."""

    def __init__(self, task: StepTask) -> None:
        # Not super().__init__(): that makes a LocalTarget of a path.
        self.task, self.target = task, self

    def __repr__(self) -> str:
        # Luigi counts by it how often an input was missing, and so ends a loop.
        return f"submission of {self.task.instance_name}"

    def exists(self) -> bool:
        """See `luigi.Target.exists`."""
        return self.task.adapter.is_submitted(self.task.instance_name)


class PreparationTask(luigi.Task):
    """Something that a run needs before its steps are submitted; to run it is to make it."""

    task_namespace = "prepare"
    driver = luigi.Parameter()
    preparation: ClassVar[str]
    preparer: ClassVar[Preparer]
    needs: ClassVar[Sequence[PreparationTask]]

    def requires(self) -> list[PreparationTask]:
        """See `luigi.Task.requires`."""
        return list(self.needs)

    def complete(self) -> bool:
        """See `luigi.Task.complete`."""
        return self.preparer.is_done(self.preparation)

    def run(self) -> None:
        """See `luigi.Task.run`."""
        self.preparer.make(self.preparation)


def preparation_tasks(preparer: Preparer, *, driver: str) -> Mapping[str, PreparationTask]:
    """The tasks by preparation, and last that of all, which needs each of them, under the pipeline's name."""
    tasks: dict[str, PreparationTask] = {}
    needs_by_name = {name: preparation.needs for name, preparation in preparer.preparations.items()}
    for name, needs in {**needs_by_name, preparer.pipeline: tuple(needs_by_name)}.items():
        body = {"preparation": name, "preparer": preparer, "needs": [tasks[need] for need in needs]}
        tasks[name] = type(name, (PreparationTask,), body)(driver=driver)
    return tasks


class _Described:
    """Parameters of both kinds of tasks; all are for people, but for `run_id` and `driver`: their identity."""

    instance_name = luigi.Parameter(default="", **_HIDDEN)
    run_id = luigi.Parameter()
    driver = luigi.Parameter()
    settings = luigi.Parameter(significant=False)


class StepTask(_Described, sciluigi.Task):  # type: ignore[misc]
    """One step; to run it is to submit it."""

    workflow_task = luigi.Parameter(**_HIDDEN)
    adapter: ClassVar[LuigiAdapter]
    #: What its step waits for besides other steps.
    before: ClassVar[Sequence[PreparationTask]]

    def requires(self) -> list[luigi.Task]:
        """See `luigi.Task.requires`."""
        return [*self.before, *super().requires()]

    def out_submission(self) -> SubmissionTarget:
        """The output port."""
        return SubmissionTarget(self)

    def run(self) -> None:
        """See `luigi.Task.run`."""
        self.adapter.submit(self.instance_name)


class PipelineTask(_Described, sciluigi.WorkflowTask):  # type: ignore[misc]
    """A whole pipeline; to run it is to write sciluigi's audit file."""

    def workflow(self) -> list[StepTask]:
        """The tasks that no other reads from, and those with jobs to submit.

        Luigi looks at nothing above a task that is complete, and a last step may have nothing to submit now.
        """
        tasks = self._tasks.values()
        still_open = {task for task in tasks if not task.complete()}
        read = {upstream for task in tasks for upstream in task.requires()}
        reached = {upstream for task in still_open for upstream in task.requires()}
        return [task for task in tasks if task not in (reached if task in still_open else read)]


def tasks_of(
    graph: Graph, adapter: LuigiAdapter, *, run_id: str, driver: str, folder: Path, before: PreparationTask | None
) -> dict[str, Any]:
    """The tasks by step, wired, and the whole pipeline's under its name; run id and driver are their identity.

    The steps that read from no other depend on the task `before`.
    """
    began = datetime.now(UTC).strftime("%Y%m%dT%H%M%S_%f")
    audit = folder / f".audit_{began}"
    make_folder(os.fspath(audit), synced=True)  # sciluigi sleeps up to a second when it is not there
    tasks: dict[str, Any] = {}
    # sciluigi shares one dictionary of tasks among all workflows, and puts its files into the working directory.
    body = {
        "__module__": graph.module,
        "_tasks": tasks,
        "_hasaddedhandler": True,
        "_wflogpath": str(folder / "luigi.log"),
        "get_auditdirpath": lambda _: str(audit),
        "get_auditlogpath": lambda _: str(folder / f"workflow_{began}.audit"),
    }
    identity = {"run_id": run_id, "driver": driver}
    params = {node.name: [f"{name}={value}" for name, value in node.step.params.items()] for node in graph}
    workflow_class: Any = type(graph.name, (PipelineTask,), body)
    of_all = sorted(f"{step}.{param}" for step, of_step in params.items() for param in of_step)
    workflow = workflow_class(settings=" ".join(of_all) or "defaults", **identity)
    for number, node in enumerate(graph):
        # One class a step, of its name: that is what the scheduler's page groups by and its graph shows.
        body = {"__module__": type(node.step).__module__, "adapter": adapter, "priority": len(graph.nodes) - number}
        body["before"] = [before] if before is not None and not node.upstream else []
        step_class = type(node.name, (StepTask,), body)
        settings = " ".join(params[node.name]) or "defaults"
        task = workflow.new_task(node.name, step_class, settings=settings, **identity)
        for port, connection in node.inputs.items():
            sources = [tasks[one.task.name].out_submission for one in options_of(connection) if isinstance(one, Port)]
            # A port of sciluigi takes a list too.
            setattr(task, f"in_{port}", sources)
    return {**tasks, graph.name: workflow}


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


def run_task(task: luigi.Task, *, url: str | None, worker_id: str) -> None:
    """Runs a task through Luigi, under its own scheduler or the one at the URL; RPCError when none answers."""
    scheduler = RemoteScheduler(url) if url else Scheduler(prune_on_get_work=True, record_task_history=False)
    # Not `luigi.build`, whose worker puts a signal handler into this process. One worker process, which is this one: a
    # submission in a fork could not hand its exception back.
    options = {"worker_processes": 1, "no_install_shutdown_handler": True, "send_failure_email": False}
    with warnings.catch_warnings(action="ignore"):
        with Worker(scheduler=scheduler, worker_id=worker_id, **options) as worker:
            worker.add(task)
            worker.run()
        logging.getLogger("luigi-interface").info(summary(worker))
    if isinstance(scheduler, RemoteScheduler):
        scheduler.close()
