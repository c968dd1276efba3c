"""The embedded Batch as a test double: in the test's process, on a virtual clock, with scripted outcomes.

batch = VirtualBatch(vcpus=2)
batch.outcome("align", index=3, exit_code=1)
client = batch.client("batch")          # a boto3 client; no socket is opened
client.submit_job(...)
batch.advance(60)
[call.operation for call in batch.calls]
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from io import BytesIO
from typing import TYPE_CHECKING, Any, Literal, overload
from urllib.parse import urlsplit

from botocore.awsrequest import AWSPreparedRequest, AWSResponse
from botocore.compat import HTTPHeaders
from botocore.exceptions import ReadTimeoutError

from batch_pipeline.localbatch.api.definitions import MINIMUM_TIMEOUT_SECONDS
from batch_pipeline.localbatch.api.logs import LogMemory
from batch_pipeline.localbatch.api.middleware import AnswerLost, ApiCall, Faults
from batch_pipeline.localbatch.api.registry import COMPUTE_ENVIRONMENT, REGION
from batch_pipeline.localbatch.engine.state import MemoryStorage
from batch_pipeline.localbatch.hosts.scripted import Action, Play, Script, ScriptedExecutor, VirtualClock
from batch_pipeline.localbatch.service import Batch

if TYPE_CHECKING:
    import boto3
    from botocore.client import BaseClient
    from botocore.config import Config
    from mypy_boto3_batch import BatchClient
    from mypy_boto3_logs import CloudWatchLogsClient

    from batch_pipeline.localbatch.endpoint import Endpoint

#: `run_until_idle` gives up after so much simulated time: something never ends.
IDLE_LIMIT_SECONDS = 30 * 24 * 3600.0


#: What AWS says when no Spot machine can be had.
NO_CAPACITY = (
    "CAPACITY:INSUFFICIENT_INSTANCE_CAPACITY - The job cannot run because there are not enough instances in the "
    "availability zones of the compute environment."
)


class VirtualBatch:
    """An AWS Batch whose time passes when told.

    It has the compute environment `embedded` and the given queues. `client` and `attach` wire boto3 clients to it
    without sockets; `serving` puts it on loopback for other processes.
    """

    def __init__(
        self,
        *,
        vcpus: int = 2,
        memory_mib: int = 65_536,
        queues: Sequence[str] = ("default",),
        minimum_timeout: int = MINIMUM_TIMEOUT_SECONDS,
        grace_seconds: float = 30.0,
    ) -> None:
        self.clock = VirtualClock()
        logs = LogMemory()
        self.batch = Batch(
            clock=self.clock,
            storage=MemoryStorage(),
            logs=logs,
            vcpus=vcpus,
            memory_mib=memory_mib,
            minimum_timeout=minimum_timeout,
        )
        self._executor = ScriptedExecutor(self.clock, self.batch, logs, grace_seconds)
        self.batch.resume(self._executor)
        self._lock = threading.RLock()
        for name in queues:
            self.queue(name)

    # Setting up.

    def queue(self, name: str, priority: int = 1) -> None:
        """Makes a job queue."""
        order = [{"order": 1, "computeEnvironment": COMPUTE_ENVIRONMENT}]
        request = {"jobQueueName": name, "priority": priority, "computeEnvironmentOrder": order}
        self.batch.registry.add_queue(request)
        self.batch.engine.set_queue(name, priority)

    def starve(self, queue: str = "default", reason: str = NO_CAPACITY) -> None:
        """Starts nothing of a queue any more, and says why at its head, until `feed`."""
        self.batch.engine.set_queue(queue, self.batch.registry.queues[queue]["priority"], serves=False)
        self.batch.engine.annotate(queue, reason)

    def feed(self, queue: str = "default") -> None:
        """Ends `starve`."""
        self.batch.engine.annotate(queue, None)
        self.batch.engine.set_queue(queue, self.batch.registry.queues[queue]["priority"])
        self.batch.pump()

    def outcome(
        self,
        job_name: str = "*",
        index: int | None = None,
        attempt: int | None = None,
        *,
        seconds: float | None = 1.0,
        exit_code: int | None = 0,
        status_reason: str | None = None,
        reason: str | None = None,
        log: str = "",
        starting_seconds: float = 0.0,
        stopping_seconds: float = 0.0,
        stopped_exit_code: int = 143,
        action: Action | None = None,
    ) -> None:
        """Says how attempts go that start from now on; see `Script`. The last word on an attempt counts."""
        script = Script(
            seconds=seconds,
            exit_code=exit_code,
            status_reason=status_reason,
            reason=reason,
            log=log,
            starting_seconds=starting_seconds,
            stopping_seconds=stopping_seconds,
            stopped_exit_code=stopped_exit_code,
            action=action,
        )
        self._executor.add(job_name, index, attempt, script)

    def plays(self, play: Play) -> None:
        """Lets a function say how each attempt goes, from its environment and command, instead of `outcome`."""
        self._executor.play = play

    @property
    def calls(self) -> deque[ApiCall]:
        """The API calls that were made, oldest first."""
        return self.batch.middleware.calls

    @property
    def faults(self) -> Faults | None:
        """What goes wrong on purpose; may be set."""
        return self.batch.middleware.faults

    @faults.setter
    def faults(self, faults: Faults | None) -> None:
        self.batch.middleware.faults = faults

    # Time.

    def now_ms(self) -> int:
        """The simulated time."""
        return self.clock.now_ms()

    def advance(self, seconds: float) -> None:
        """Lets time pass; what falls due happens in its order."""
        with self._lock:
            self.clock.advance_to(self.clock.now_ms() + round(1000 * seconds))

    def run_until_idle(self, limit_seconds: float = IDLE_LIMIT_SECONDS) -> None:
        """Lets time pass until nothing is left that will happen by itself, or the limit is reached."""
        with self._lock:
            end = self.clock.now_ms() + round(1000 * limit_seconds)
            while (due := self.clock.next_ms()) is not None and due <= end:
                self.clock.advance_to(due)

    # Clients.

    @overload
    def client(self, service: Literal["batch"] = "batch", config: Config | None = None) -> BatchClient: ...
    @overload
    def client(self, service: Literal["logs"], config: Config | None = None) -> CloudWatchLogsClient: ...
    def client(
        self, service: Literal["batch", "logs"] = "batch", config: Config | None = None
    ) -> BatchClient | CloudWatchLogsClient:
        """A boto3 client of this Batch."""
        session = _session()
        made: BatchClient | CloudWatchLogsClient
        made = session.client("batch", config=config) if service == "batch" else session.client("logs", config=config)
        self.attach(made)
        return made

    def attach(self, client: BaseClient) -> None:
        """Connects an existing client to this Batch."""
        client.meta.events.register("before-send", self._send)  # type: ignore[arg-type]  # the stubs forget the answer

    def _send(self, request: AWSPreparedRequest, **_: object) -> AWSResponse:
        body = request.body if isinstance(request.body, bytes) else str(request.body or "").encode()
        headers = {str(name): _text(value) for name, value in request.headers.items()}
        path = request.url.removeprefix("{0.scheme}://{0.netloc}".format(urlsplit(request.url)))
        try:
            with self._lock:
                answer = self.batch.answer(str(request.method), path, headers, body)
        except AnswerLost as error:
            raise ReadTimeoutError(endpoint_url=request.url) from error
        return AWSResponse(request.url, answer.status, HTTPHeaders.from_dict(answer.headers), _Raw(answer.body))

    @contextmanager
    def serving(self) -> Iterator[Endpoint]:
        """While it lasts, the Batch also answers on loopback, in a thread; its clock still moves by `advance` only."""
        ready: deque[tuple[Endpoint, Callable[[], object]]] = deque()
        started = threading.Event()

        async def serve() -> None:
            from batch_pipeline.localbatch.frontend import HttpFrontend

            loop, end = asyncio.get_running_loop(), asyncio.Event()
            front = HttpFrontend(self.batch, lock=self._lock)
            front.open()
            ready.append((front.endpoint, lambda: loop.call_soon_threadsafe(end.set)))
            started.set()
            await end.wait()
            await front.close()

        thread = threading.Thread(target=lambda: asyncio.run(serve()), daemon=True)
        thread.start()
        started.wait()
        endpoint, end = ready.popleft()
        try:
            yield endpoint
        finally:
            end()
            thread.join()


class _Raw(BytesIO):
    """A body as urllib3 would hand it over."""

    def stream(self, *_: Any, **__: Any) -> Iterator[bytes]:
        """The whole body at once."""
        yield self.read()


def _text(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


@cache
def _session() -> boto3.session.Session:
    """One session: what takes time in making clients is reading botocore's models."""
    import boto3

    return boto3.session.Session(aws_access_key_id="virtual", aws_secret_access_key="virtual", region_name=REGION)
