"""Tells a central Luigi scheduler how far each step is, from a thread of its own.

What the scheduler accepts, from luigi's `scheduler.py`: `add_task` may set a DONE or FAILED task RUNNING again, and
from RUNNING only the worker that runs it may set DONE or FAILED; it keeps the edges when `deps` are sent along; the
status line and the percentage are accepted at any time. A worker that is silent for a minute is forgotten and its
RUNNING tasks turn FAILED, so a beat is sent every few seconds, and a driver that was killed is told by the scheduler
itself. A FAILED task would turn PENDING after a quarter of an hour (`retry_delay`), and a scheduler that was restarted
may know nothing: so everything is said again now and then, and at once when the scheduler no longer repeats our words.

The driver never waits for the scheduler here: the newest states win, a call that fails is logged and made up for later.
"""

# luigi calls itself typed and half of it is not; its scheduler's methods are made at import.
# mypy: allow-untyped-calls

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import luigi
from luigi.rpc import RemoteScheduler, RPCError

from batch_pipeline.luigi_adapter.states import TaskState

_log = logging.getLogger("luigi-interface")

#: Well under `worker_disconnect_delay`, 60 s.
BEAT_SECONDS: Final = 5.0
#: Well under `retry_delay`, 900 s.
REPEAT_SECONDS: Final = 300.0
CONNECT_SECONDS: Final = 3.0

#: A scheduler may be set to disable what fails often; saying FAILED again is not failing again.
_NEVER_DISABLE: Final = {"retry_count": 999_999_999}


@dataclass(frozen=True, kw_only=True)
class Described:
    """A task as the scheduler is told of it; enough to make it known anew."""

    task_id: str
    about: Mapping[str, Any]

    @classmethod
    def of(cls, task: luigi.Task) -> Described:
        """The description that luigi's own worker would send."""
        about = {
            "family": task.task_family,
            "module": task.task_module,
            "params": task.to_str_params(only_public=True),
            "param_visibilities": task._get_param_visibilities(),
            "deps": [upstream.task_id for upstream in task.deps()],
            "priority": task.priority,
            "retry_policy_dict": _NEVER_DISABLE,
        }
        return cls(task_id=task.task_id, about=about)


class Reporter(threading.Thread):
    """Says the newest states until it is finished. Tasks are named by step; the last is the workflow itself."""

    def __init__(
        self,
        *,
        url: str,
        worker_id: str,
        worker_info: Mapping[str, Any],
        tasks: Mapping[str, Described],
        tracking_url: str,
    ) -> None:
        super().__init__(name="luigi-reporter", daemon=True)
        self._scheduler: Any = RemoteScheduler(url, connect_timeout=CONNECT_SECONDS)
        self._worker_id = worker_id
        self._worker_info = dict(worker_info)
        self._tasks = dict(tasks)
        self._tracking_url = tracking_url or None
        self._states: dict[str, TaskState] = {}
        self._said: dict[str, TaskState] = {}
        self._said_since = time.monotonic()
        self._news = threading.Event()
        self._ending = False

    def say(self, states: Mapping[str, TaskState]) -> None:
        """Has the states told soon; those of other steps stay."""
        self._states = {**self._states, **states}
        self._news.set()

    def finish(self, timeout_seconds: float) -> None:
        """Tells what is left and ends; gives up after the time."""
        self._ending = True
        self._news.set()
        self.join(timeout_seconds)

    def run(self) -> None:
        """See `threading.Thread.run`."""
        while True:
            self._news.wait(BEAT_SECONDS)
            self._news.clear()
            ending = self._ending
            try:
                self._beat()
            except (RPCError, OSError, ValueError, LookupError) as error:
                _log.warning("The scheduler was not told: %s", error)
                self._said = {}
            if ending:
                self._scheduler.close()
                return

    def _beat(self) -> None:
        self._scheduler.ping(worker=self._worker_id)
        if self._forgotten():
            self._said, self._said_since = {}, time.monotonic()
            self._scheduler.add_worker(self._worker_id, self._worker_info)
        states = self._states
        for name, described in self._tasks.items():
            state = states.get(name)
            if state is not None and self._said.get(name) != state:
                self._tell(described, state)
                self._said[name] = state

    def _forgotten(self) -> bool:
        if not self._said or time.monotonic() - self._said_since > REPEAT_SECONDS:
            return True
        name, last = list(self._said.items())[-1]
        known = self._scheduler.get_task_status_message(self._tasks[name].task_id)
        return bool(known["statusMessage"] != last.line)

    def _tell(self, described: Described, state: TaskState) -> None:
        self._scheduler.add_task(
            worker=self._worker_id,
            task_id=described.task_id,
            status=state.status,
            tracking_url=self._tracking_url,
            expl=json.dumps(state.explanation),
            **described.about,
        )
        self._scheduler.set_task_status_message(described.task_id, state.line)
        self._scheduler.set_task_progress_percentage(described.task_id, state.percent)


def held_as(url: str, task_ids: Sequence[str]) -> dict[str, str]:
    """The status in which the scheduler holds each task that it knows."""
    scheduler: Any = RemoteScheduler(url, connect_timeout=CONNECT_SECONDS)
    try:
        found = {task_id: scheduler.dep_graph(task_id).get(task_id, {}) for task_id in task_ids}
    finally:
        scheduler.close()
    return {task_id: str(about["status"]) for task_id, about in found.items() if about}


def is_paused(url: str) -> bool:
    """Whether somebody pressed Pause on the scheduler's page."""
    scheduler: Any = RemoteScheduler(url, connect_timeout=CONNECT_SECONDS)
    try:
        return bool(scheduler.is_paused()["paused"])
    finally:
        scheduler.close()
