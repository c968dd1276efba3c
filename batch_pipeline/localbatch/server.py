"""The HTTP server of the embedded Batch: 127.0.0.1 only, signed requests only, one server a state folder.

In the state folder: `server.json` (where and with which key), `lock` (held for life), `batch.sqlite`, `logs/`,
`workers/` (journals), `server.log`. It ends by itself when nothing has run and nobody has asked for a while.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import secrets
import shutil
import signal
import socket
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import parse_qs

from tornado.httpserver import HTTPServer
from tornado.httputil import HTTPHeaders, HTTPServerRequest, ResponseStartLine

from batch_pipeline.localbatch.border import AnswerLost
from batch_pipeline.localbatch.definitions import MINIMUM_TIMEOUT_SECONDS
from batch_pipeline.localbatch.endpoint import Endpoint, write_endpoint
from batch_pipeline.localbatch.execution import SystemClock
from batch_pipeline.localbatch.executor import GRACE_SECONDS, ProcessExecutor
from batch_pipeline.localbatch.logs import LogFiles
from batch_pipeline.localbatch.recovery import recover
from batch_pipeline.localbatch.registry import REGION
from batch_pipeline.localbatch.service import Answer, Batch
from batch_pipeline.localbatch.signature import is_signed, proof
from batch_pipeline.localbatch.state import RETENTION_MS, SqliteStorage
from batch_pipeline.wire.contract import Variable
from batch_pipeline.wire.errors import RunConflict

#: What a child sees of the server's own environment.
AMBIENT = ("PATH", "HOME", "LANG", "TMPDIR")
_MIB = 1 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """How to run a server."""

    state: Path
    #: 0 takes a free one.
    port: int = 0
    vcpus: int = field(default_factory=lambda: len(os.sched_getaffinity(0)))
    memory_mib: int = field(default_factory=lambda: os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // _MIB)
    #: Ends after so many seconds without work and requests.
    idle_seconds: float = 600
    grace_seconds: float = GRACE_SECONDS
    #: AWS refuses timeouts below 60 seconds; tests cannot wait that long.
    minimum_timeout: int = MINIMUM_TIMEOUT_SECONDS
    #: Folders for scratch and cached references, when jobs do not say.
    scratch: str | None = None
    cache: str | None = None


class Server:
    """One running server."""

    def __init__(self, options: Options, loop: asyncio.AbstractEventLoop) -> None:
        self._options = options
        self._loop = loop
        self._workers = options.state / "workers"
        self._workers.mkdir(mode=0o700, exist_ok=True)
        self._logs = LogFiles(options.state / "logs")
        self._storage = SqliteStorage(options.state / "batch.sqlite")
        self.batch = Batch(
            clock=SystemClock(loop.call_later),
            storage=self._storage,
            logs=self._logs,
            vcpus=options.vcpus,
            memory_mib=options.memory_mib,
            minimum_timeout=options.minimum_timeout,
        )
        self._executor = self._make_executor()
        self._asked = loop.time()
        self._stopped = loop.create_future()
        self._http = HTTPServer(self._serve)
        self.endpoint = self._listen()

    def _make_executor(self) -> ProcessExecutor:
        options = self._options
        passed = {Variable.SCRATCH: options.scratch, Variable.CACHE: options.cache}
        return ProcessExecutor(
            loop=self._loop,
            folder=self._workers,
            logs=self._logs,
            listener=self.batch,
            ambient={name: os.environ[name] for name in AMBIENT if name in os.environ},
            passed={name: value for name, value in passed.items() if value},
            idle_workers=max(2, options.vcpus),
            grace_seconds=options.grace_seconds,
        )

    def _listen(self) -> Endpoint:
        listener = socket.create_server(("127.0.0.1", self._options.port), backlog=128)
        listener.setblocking(False)
        self._http.add_sockets([listener])
        return Endpoint(
            url=f"http://127.0.0.1:{listener.getsockname()[1]}",
            access_key="EMBEDDED" + secrets.token_hex(6).upper(),
            secret_key=secrets.token_urlsafe(32),
            region=REGION,
            pid=os.getpid(),
        )

    async def run(self) -> None:
        """Recovers, answers, and returns when it is to stop."""
        batch = self.batch
        for job_id in self._storage.forget(batch.clock.now_ms() - RETENTION_MS):
            shutil.rmtree(self._options.state / "logs" / job_id.replace("-", "")[:20], ignore_errors=True)
        batch.load(self._storage.documents(), self._storage.jobs())
        recover(batch.engine, self._executor, self._workers, batch.clock.now_ms())
        batch.after_flush = self._executor.forget_spent
        batch.resume(self._executor)
        write_endpoint(self._options.state, self.endpoint)
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self._stop)
        self._look_whether_idle()
        await self._stopped
        self._http.stop()
        batch.flush()
        batch.executor = None
        self._executor.close()
        self._storage.close()

    def _stop(self) -> None:
        if not self._stopped.done():
            self._stopped.set_result(None)

    def _look_whether_idle(self) -> None:
        if self.batch.engine.running:
            self._asked = self._loop.time()
        left = self._asked + self._options.idle_seconds - self._loop.time()
        if left <= 0:
            self._stop()
        else:
            self._loop.call_later(max(0.05, min(left, 10)), self._look_whether_idle)

    # Requests.

    def _serve(self, request: HTTPServerRequest) -> None:
        self._asked = self._loop.time()
        connection = request.connection
        try:
            answer = self._answer(request)
        except AnswerLost:
            connection.stream.close()  # type: ignore[union-attr]
            return
        headers = HTTPHeaders({**answer.headers, "Content-Length": str(len(answer.body))})
        connection.write_headers(ResponseStartLine("HTTP/1.1", answer.status, "OK"), headers, answer.body)  # type: ignore[union-attr]
        connection.finish()  # type: ignore[union-attr]

    def _answer(self, request: HTTPServerRequest) -> Answer:
        if request.path == "/_ping":
            return self._pong(parse_qs(request.query).get("nonce", [""])[0])
        method, headers = request.method or "", request.headers
        if not self._is_ours(method, request.path, request.query, headers, request.body):
            return _refusal("InvalidSignatureException", "The request is not signed with this server's key.")
        if request.path == "/_calls":
            return Answer(status=200, body=json.dumps([asdict(call) for call in self.batch.border.calls]).encode())
        return self.batch.answer(method, request.path, headers, request.body)

    def _is_ours(self, method: str, path: str, query: str, headers: Mapping[str, str], body: bytes) -> bool:
        return is_signed(
            method=method,
            path=path,
            query=query,
            headers=headers,
            body=body,
            access_key=self.endpoint.access_key,
            secret_key=self.endpoint.secret_key,
            now=datetime.now(UTC),
        )

    def _pong(self, nonce: str) -> Answer:
        return Answer(status=200, body=proof(self.endpoint.secret_key, nonce).encode())


def _refusal(code: str, message: str) -> Answer:
    body = json.dumps({"__type": code, "message": message}).encode()
    return Answer(status=403, body=body, headers={"x-amzn-ErrorType": code})


def serve(options: Options) -> None:
    """Runs a server until it stops.

    Raises
    ------
    RunConflict
        Another server holds the state folder.
    """
    options.state.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(options.state / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise RunConflict(
            f"Another embedded Batch already serves {options.state}; a state folder has one server. Use that one."
        ) from error
    asyncio.run(_serve(options))
    os.close(descriptor)


async def _serve(options: Options) -> None:
    await Server(options, asyncio.get_running_loop()).run()
