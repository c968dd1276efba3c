"""Calls a central Luigi scheduler over HTTP, without Luigi: its import takes a fifth of a second."""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
import time
from collections.abc import Mapping
from typing import Any, Final

from batch_pipeline.luigi_adapter.states import LuigiTaskStatus
from batch_pipeline.wire.errors import BackendFailed

_log = logging.getLogger("luigi-interface")

#: How long a scheduler may take to answer.
ANSWER_SECONDS: Final = 3.0
#: Between heartbeats; well under `worker_disconnect_delay`, 60 s.
BEAT_SECONDS: Final = 5.0
#: Until everything is sent again; well under `retry_delay`, 900 s.
REPEAT_SECONDS: Final = 300.0
#: How long the driver waits at its end until the last statuses are sent.
FAREWELL_SECONDS: Final = 10.0
_RETRY_SECONDS: Final = 1.0


def central_scheduler(host: str, port: int) -> str | None:
    """URL of the central scheduler that the settings name; None: they name no host."""
    return scheduler_url(host, port) if host else None


def scheduler_url(host: str, port: int) -> str:
    """Where a central scheduler answers."""
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def call(url: str, method: str, **arguments: Any) -> Any:
    """The response of an RPC method of the scheduler.

    Raises ConnectionRefusedError when nothing listens there, and OSError with the reason when no scheduler answers.
    """
    # Tens of milliseconds that a run without a scheduler need not pay.
    from http.client import HTTPException
    from urllib.error import HTTPError, URLError
    from urllib.parse import urlencode
    from urllib.request import urlopen

    body = urlencode({"data": json.dumps(arguments)}).encode() if arguments else None
    try:
        with urlopen(f"{url}/api/{method}", data=body, timeout=ANSWER_SECONDS) as response:
            return json.load(response)["response"]
    except (HTTPError, HTTPException, ValueError, LookupError, TypeError) as error:
        if isinstance(error, HTTPError):
            error.close()
        raise ConnectionError(f"something else answers there, which is no Luigi scheduler ({error!r})") from error
    except URLError as error:
        raise (error.reason if isinstance(error.reason, OSError) else ConnectionError(error.reason)) from error


def connection_error(url: str) -> OSError | None:
    """Why no scheduler answers at the URL; None: one does."""
    try:
        call(url, "is_paused")
    except OSError as error:
        return error
    return None


def require_scheduler(url: str | None) -> None:
    """Raises BackendFailed when a URL is given and no scheduler answers there."""
    if url and (error := connection_error(url)):
        remedy = "Start it with `main.py ui`, or leave --scheduler-host away; nothing was submitted."
        raise BackendFailed(f"No Luigi scheduler at {url}: {error}. {remedy}") from error


def driver_id() -> str:
    """A new id of this driver: one that adopts a run must not meet the tasks of a dead worker, RUNNING for ever."""
    return f"{socket.gethostname()}-{os.getpid()}-{os.urandom(3).hex()}"


class Reporter(threading.Thread):
    """Reports the newest status of each task, until it is finished; the driver never waits for the scheduler.

    `tasks` has by step what `add_task` has to know of each (`tasks.described`); the last is the whole pipeline.

    What the scheduler accepts, from luigi's `scheduler.py`: `add_task` may set a DONE or FAILED task RUNNING again, and
    from RUNNING only the worker that runs it may set DONE or FAILED; it keeps the edges when `deps` are sent along; the
    status line and the percentage are accepted at any time. A worker that is silent for a minute is forgotten and its
    RUNNING tasks turn FAILED; a FAILED task would turn PENDING after a quarter of an hour; and a scheduler that was
    restarted may know nothing. So everything is sent again now and then, and at once when our status line is lost.
    """

    def __init__(self, *, url: str, worker_id: str, tasks: Mapping[str, Mapping[str, Any]]) -> None:
        super().__init__(name="luigi-reporter", daemon=True)
        self._url, self._worker_id, self._tasks = url, worker_id, tasks
        #: The newest statuses by step, and those that the scheduler has.
        self.statuses: dict[str, LuigiTaskStatus] = {}
        self._sent: dict[str, LuigiTaskStatus] = {}
        self._news = threading.Event()
        self._is_ending = False

    def report(self, statuses: Mapping[str, LuigiTaskStatus], *, is_last: bool = False) -> None:
        """Has the statuses sent soon; those of other steps stay. The last are waited for, `FAREWELL_SECONDS`."""
        self.statuses = {**self.statuses, **statuses}
        self._is_ending = is_last
        self._news.set()
        if is_last:
            self.join(FAREWELL_SECONDS)

    def run(self) -> None:
        """See `threading.Thread.run`."""
        is_ending, repeat_at = False, 0.0
        while not is_ending:
            self._news.wait(BEAT_SECONDS)
            self._news.clear()
            is_ending = self._is_ending
            if time.monotonic() >= repeat_at:
                self._sent, repeat_at = {}, time.monotonic() + REPEAT_SECONDS
            for pause in (_RETRY_SECONDS, 0.0):
                try:
                    self._send()
                    break
                except (OSError, LookupError, TypeError) as error:
                    _log.warning("The scheduler could not be updated: %s", error)
                    self._sent = {}
                    time.sleep(pause)

    def _send(self) -> None:
        call(self._url, "ping", worker=self._worker_id)
        for name, status in list(self._sent.items())[-1:]:
            response = call(self._url, "get_task_status_message", task_id=self._tasks[name]["task_id"])
            if response["statusMessage"] != status.line:
                self._sent = {}
        if not self._sent:
            info = {"workers": 1, "first_task": [*self._tasks.values()][-1]["task_id"]}
            call(self._url, "add_worker", worker=self._worker_id, info=info)
        for name, status in self.statuses.items():
            if status != self._sent.get(name):
                task = self._tasks[name]
                of_task = {"url": self._url, "task_id": task["task_id"]}
                expl = json.dumps(status.explanation)
                call(self._url, "add_task", worker=self._worker_id, status=status.status, expl=expl, **task)
                call(method="set_task_status_message", status_message=status.line, **of_task)
                call(method="set_task_progress_percentage", progress_percentage=status.percent, **of_task)
                self._sent[name] = status
