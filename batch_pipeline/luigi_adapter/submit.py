"""Submits a pipeline's steps as Luigi tasks, in order, and shows on Luigi's page how far they are.

A Luigi task of ours is *submitted*, not *computed*: the backend itself makes the cells of a step wait for those before,
so Luigi's part is over within a second. (A task that runs until its step is over would keep the steps behind it
PENDING, and a scheduler that dies would take the submission with it.) With a central scheduler (`luigid`) the tasks
then turn RUNNING again while the driver watches, see `states`. luigid takes no task that it holds as DONE or RUNNING,
and Luigi then ends with success and nothing done. So the run's id and the driver's are part of a task's identity, and
whatever was to be submitted and was not is an error.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from batch_pipeline.luigi_adapter import daemon, imports, states
from batch_pipeline.luigi_adapter.first_failure import FirstFailure
from batch_pipeline.luigi_adapter.preparer import Preparer
from batch_pipeline.luigi_adapter.scheduler import Reporter, call, central_scheduler, driver_id, require_scheduler
from batch_pipeline.pipeline.workflow import Graph
from batch_pipeline.records.events import NullListener, Outcome, StepProgress
from batch_pipeline.records.request import Request
from batch_pipeline.wire import layout
from batch_pipeline.wire.errors import BackendFailed, RunConflict

_REMEDY: Final = "Wait a minute and run the same command again, or leave --scheduler-host away."


class LuigiAdapter(NullListener):
    """Submits a pipeline's steps through Luigi and, with a central scheduler, shows their progress on its page.

    Without one it shows them on that of the luigid of `luigid_folder` (`daemon.start`), from when that is there.
    `submit` puts the jobs of one step on the queue; `submitted` says whether nothing of a step is left to submit. The
    steps depend on what a `preparer` made before.
    Raises BackendFailed when no scheduler answers at the URL; nothing was submitted.
    """

    def __init__(
        self,
        graph: Graph,
        *,
        run_id: str,
        submit: Callable[[str], None],
        submitted: Callable[[str], bool],
        tracking_url: str,
        scheduler_url: str | None,
        log_folder: Path | None,
        luigid_folder: Path | None = None,
        preparer: Preparer | None = None,
    ) -> None:
        require_scheduler(scheduler_url)
        imports.load()
        from batch_pipeline.luigi_adapter import tasks

        self._graph, self._run_id, self._url, self._tracking_url = graph, run_id, scheduler_url, tracking_url
        self._submit, self._submitted, self._luigid_folder = submit, submitted, luigid_folder
        #: Why not all could be submitted, which Luigi only logs; and the steps that were submitted here.
        self._failure = FirstFailure()
        self._ran: list[str] = []
        driver = driver_id()
        self._worker_id = f"Worker(run={run_id}, driver={driver})"
        with ExitStack() as stack:
            folder = stack.enter_context(imports.logged(log_folder))
            #: Tasks of the preparations by their names on the page, which no step can have.
            self._prepared = {task.task_family: task for task in preparer.tasks.values()} if preparer else {}
            before = preparer.tasks[preparer.pipeline] if preparer else None
            self._tasks = tasks.tasks_of(graph, self, run_id=run_id, driver=driver, folder=folder, before=before)
            self._cleanup = stack.pop_all()
        self._reporter: Reporter | None = None
        #: The newest statuses, for a luigid that comes up later.
        self._statuses: dict[str, states.LuigiTaskStatus] = {}

    @property
    def task_ids(self) -> Mapping[str, str]:
        """Luigi's id of each step's task; the whole pipeline's is under its name."""
        return {name: task.task_id for name, task in self._tasks.items()}

    def submit_all(self) -> None:
        """Calls `submit` once for each step that is not submitted, each after those that it reads from.

        A failing `submit` ends it: its exception comes out unchanged, and no other step is submitted. A further wave
        needs an adapter of its own.

        Raises RunConflict when the central scheduler did not let a step be submitted, whose jobs are then not queued,
        and BackendFailed when the scheduler went away on the way.
        """
        from luigi.rpc import RPCError

        from batch_pipeline.luigi_adapter.tasks import run_task

        steps = [step for step in self._graph.names if not self.is_submitted(step)]
        if not steps:
            return
        try:
            run_task(self._tasks[self._graph.name], url=self._url, worker_id=self._worker_id)
            refused = [step for step in steps if step not in self._ran]
            if refused and self._failure.error is None:
                self._failure.error = self._refusal(refused)
        except (RPCError, OSError) as error:
            if self._failure.error is None:
                raise BackendFailed(
                    f"Luigi's scheduler at {self._url} went away while the steps were submitted ({error}). "
                    "Run the same command again: it goes on where this one stopped."
                ) from error
        if self._failure.error is not None:
            raise self._failure.error
        done = {step: states.NOTHING_TO_SUBMIT for step in self._graph.names if step not in steps}
        self._report(dict.fromkeys(self._prepared, states.PREPARED) | done)

    def is_submitted(self, step: str) -> bool:
        """Whether nothing of a step is left to submit; for its task."""
        with self._failure.keeping():
            return self._submitted(step)

    def submit(self, step: str) -> None:
        """Submits a step; for its task. Raises BackendFailed after another step could not be submitted."""
        if self._failure.error is not None:
            raise BackendFailed(f"{step} is not submitted, because another step could not be.")
        with self._failure.keeping():
            self._submit(step)
        self._ran.append(step)

    def _refusal(self, refused: Sequence[str]) -> BackendFailed | RunConflict:
        names = ", ".join(refused)
        if self._url is None:
            return BackendFailed(f"Luigi did not submit {names}; its reasons are in luigi.log. {_REMEDY}")
        scheduler = f"Luigi's scheduler at {self._url}"
        if call(self._url, "is_paused")["paused"]:
            remedy = "Press Resume on its page, then run the same command again."
            return RunConflict(f"{scheduler} is paused and did not let {names} be submitted. {remedy}")
        ids = {step: self.task_ids[step] for step in refused}
        held = {step: call(self._url, "dep_graph", task_id=id).get(id) or {} for step, id in ids.items()}
        names = ", ".join(f"{step} (which it holds as {held[step].get('status', 'unknown')})" for step in refused)
        return RunConflict(
            f"{scheduler} did not let {names} of run {self._run_id} be submitted: "
            f"these steps are not queued. Another driver may be at work. {_REMEDY}"
        )

    def progressed(self, progress: Mapping[str, StepProgress]) -> None:
        """See `Listener.progressed`."""
        together = StepProgress.sum_of(self._graph.name, progress.values())
        self._report({counts.step: states.status_of(counts) for counts in (*progress.values(), together)})

    def ended(self, outcome: Outcome) -> None:
        """See `Listener.ended`."""
        self._report(states.last_statuses_of(self._graph.name, outcome))

    def close(self) -> None:
        """Sends the last statuses and gives Luigi's loggers back. May be called twice."""
        if self._reporter is not None:
            last = {step: states.abandoned(status) for step, status in self._reporter.statuses.items()}
            self._reporter.report(last, is_last=True)
        self._url = self._reporter = self._luigid_folder = None
        self._cleanup.close()

    def _report(self, statuses: Mapping[str, states.LuigiTaskStatus]) -> None:
        self._statuses |= statuses
        if self._reporter is None:
            url = self._url or (daemon.running_url(self._luigid_folder) if self._luigid_folder else None)
            if url is None:
                return
            from batch_pipeline.luigi_adapter.tasks import described

            tasks = self._prepared | dict(self._tasks)
            described_tasks = {name: described(task, self._tracking_url) for name, task in tasks.items()}
            self._reporter = Reporter(url=url, worker_id=self._worker_id, tasks=described_tasks)
            self._reporter.start()
        self._reporter.report(self._statuses)


def adapter_of(
    request: Request,
    run_id: str,
    submit: Callable[[str], None],
    submitted: Callable[[str], bool],
    preparer: Preparer | None,
) -> LuigiAdapter:
    """The adapter for one submission of a request. Raises OSError where the run's folder cannot be written."""
    store, luigi = request.store, request.settings.luigi
    folder = store.path_of(layout.run_folder(run_id))
    return LuigiAdapter(
        request.graph,
        run_id=run_id,
        submit=submit,
        submitted=submitted,
        tracking_url=store.url_of(layout.run_folder(run_id)),
        scheduler_url=central_scheduler(luigi.scheduler_host, luigi.scheduler_port),
        log_folder=folder / "luigi" if folder else None,
        luigid_folder=daemon.folder_of(request.settings.embedded.folder),
        preparer=preparer,
    )
