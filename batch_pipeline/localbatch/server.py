"""The HTTP server of the embedded Batch: 127.0.0.1 only, signed requests only, one server a state folder.

In the state folder: `server.json` (where and with which key), `lock` (held for life), `starting` (held until the
first answer), `batch.sqlite`, `logs/`, `workers/` (journals), `server.log`. It ends by itself after
a while without work and requests.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import shutil
import signal
import threading
from dataclasses import asdict, dataclass, field
from pathlib import Path

from batch_pipeline.localbatch.api.definitions import MINIMUM_TIMEOUT_SECONDS
from batch_pipeline.localbatch.api.identity import AwsIdentity
from batch_pipeline.localbatch.api.logs import LogFiles
from batch_pipeline.localbatch.client import STATE_REMEDY
from batch_pipeline.localbatch.endpoint import Record, code_version, read_record, write_record
from batch_pipeline.localbatch.engine.state import RETENTION_MS, SqliteStorage
from batch_pipeline.localbatch.frontend import HttpFrontend
from batch_pipeline.localbatch.hosts.containers import Containers
from batch_pipeline.localbatch.hosts.execution import SystemClock
from batch_pipeline.localbatch.hosts.executor import GRACE_SECONDS, ProcessExecutor
from batch_pipeline.localbatch.hosts.recovery import recover
from batch_pipeline.localbatch.server_log import LOGGER, log_to_stderr
from batch_pipeline.localbatch.service import Batch
from batch_pipeline.wire.contract import Variable
from batch_pipeline.wire.errors import BatchPipelineError, RunConflict
from batch_pipeline.wire.log_line import Facts
from batch_pipeline.wire.scratch import private_folder, scratch_root, sweep
from batch_pipeline.wire.toolchain import Toolchain

_MIB = 1 << 20
_LOG = LOGGER.getChild("server")


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
    #: `podman` or `docker`, to run attempts in their images; empty: as processes.
    container: str = ""


class Server:
    """One running server."""

    def __init__(self, options: Options, loop: asyncio.AbstractEventLoop) -> None:
        self._options = options
        self._loop = loop
        self._code = code_version()
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
        self._toolchain = Toolchain.of_this_process()
        self._containers = self._make_containers()
        self._last_request = loop.time()
        self._stopped = loop.create_future()
        before = read_record(options.state)
        self._identity = AwsIdentity(options.state)
        self._front = HttpFrontend(
            self.batch,
            port=options.port,
            before=before.endpoint if before else None,
            on_request=self._note_request,
            identity=self._identity,
        )
        self._executor = self._make_executor()

    def _make_containers(self) -> Containers | None:
        options = self._options
        return Containers(options.container, options.state, self._toolchain) if options.container else None

    def _make_executor(self) -> ProcessExecutor:
        options = self._options
        passed = {Variable.SCRATCH: options.scratch, Variable.CACHE: options.cache}
        passed |= self._identity.variables(self._front.endpoint.url)
        return ProcessExecutor(
            loop=self._loop,
            folder=self._workers,
            logs=self._logs,
            listener=self.batch,
            toolchain=self._toolchain,
            passed={name: value for name, value in passed.items() if value},
            idle_workers=max(2, options.vcpus),
            grace_seconds=options.grace_seconds,
            containers=self._containers,
            sweep=self._sweep,
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
        self._sweep()
        self._front.open()
        write_record(self._options.state, self._record())
        self._log_start()
        _close_input()
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self._stop, number.name)
        self._look_whether_idle()
        await self._stopped
        await self._front.close()
        batch.flush()
        batch.executor = None
        self._executor.close()
        self._storage.close()

    def _log_start(self) -> None:
        options, engine = self._options, self.batch.engine
        where = Facts(
            url=self._front.endpoint.url, pid=os.getpid(), state_folder=str(options.state), code=self._code[:8]
        )
        _LOG.info("started %s", where)
        _LOG.info(
            "recovered %s",
            Facts(
                jobs=len(engine.jobs),
                live=sum(1 for _ in engine.live()),
                adopted=len(engine.running),
                vcpus=options.vcpus,
                memory_mib=options.memory_mib,
                container=options.container,
            ),
        )

    def _sweep(self) -> None:
        """Has the scratch of killed processes removed; they may have left much, so it is not waited for."""
        threading.Thread(target=self._swept, name="sweep", daemon=True).start()

    def _swept(self) -> None:
        """Removes the scratch of killed processes of this user, whichever server had started them."""
        try:
            sweep(self._options.scratch or scratch_root(os.environ))
        except (BatchPipelineError, OSError) as error:
            # The attempts fail with the same message.
            _LOG.warning("scratch not removed %s", Facts(error=str(error)))

    def _record(self) -> Record:
        options = {name: value for name, value in asdict(self._options).items() if name != "state"}
        return Record(endpoint=self._front.endpoint, code=self._code, options=options)

    def _note_request(self) -> None:
        self._last_request = self._loop.time()

    def _stop(self, reason: str) -> None:
        if not self._stopped.done():
            _LOG.info("stopping %s", Facts(reason=reason, running=len(self.batch.engine.running)))
            self._stopped.set_result(None)

    def _look_whether_idle(self) -> None:
        if self.batch.engine.running:
            self._last_request = self._loop.time()
        left = self._last_request + self._options.idle_seconds - self._loop.time()
        if left <= 0:
            self._stop("idle")
        else:
            self._loop.call_later(max(0.05, min(left, 10)), self._look_whether_idle)


def _close_input() -> None:
    """Gives back the lock `starting`, if this server was started by `client.ensure`."""
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)


def serve(options: Options) -> None:
    """Runs a server until it stops.

    Raises
    ------
    RunConflict
        Another server holds the state folder.
    UnsafeFolder
        The state folder belongs to another user, or others may write to it.
    """
    private_folder(options.state.resolve(), STATE_REMEDY)
    descriptor = os.open(options.state / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise RunConflict(
            f"Another embedded Batch already serves {options.state}; a state folder has one server. Use that one."
        ) from error
    log_to_stderr()
    asyncio.run(_serve(options))
    os.close(descriptor)


async def _serve(options: Options) -> None:
    await Server(options, asyncio.get_running_loop()).run()
