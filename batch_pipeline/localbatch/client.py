"""Finds the embedded Batch of a state folder, or starts it. Imports neither boto3 nor tornado.

The server is detached: it outlives who started it, and several callers at once start one. Who starts it holds the lock
`starting` in the state folder and lends it to the server, as its standard input until it answers: a starter that is
killed leaves a server on its way, and the next caller waits for that one.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from batch_pipeline.localbatch.endpoint import Endpoint, Record, code_version, proof, read_record
from batch_pipeline.wire.daemon import start_daemon, wait_until
from batch_pipeline.wire.errors import BackendFailed
from batch_pipeline.wire.processes import identity_of, is_alive
from batch_pipeline.wire.scratch import private_folder, require_private
from batch_pipeline.wire.toolchain import Toolchain

#: How long a server may take to answer after it was started; recovery of a large state included.
START_SECONDS = 60.0
_PING_SECONDS = 5.0
#: What a new server writes at the least, roughly.
_PROBE_BYTES = 1 << 17
#: A log longer than this is put aside when the next server starts: some 30,000 attempts.
_LOG_BYTES = 1 << 23
#: How a state folder that others may write to is avoided.
STATE_REMEDY = "Name another state folder (embedded.state, --state)"
_FLAGS = {
    "vcpus": "--vcpus",
    "memory_mib": "--memory",
    "port": "--port",
    "idle_seconds": "--idle-seconds",
    "grace_seconds": "--grace-seconds",
    "minimum_timeout": "--minimum-timeout",
    "scratch": "--scratch",
    "cache": "--cache",
    "container": "--container",
}
#: What may run attempts in containers.
ENGINES = ("podman", "docker")


def ensure(
    state: Path,
    vcpus: int | None = None,
    memory_mib: int | None = None,
    *,
    port: int | None = None,
    idle_seconds: float | None = None,
    grace_seconds: float | None = None,
    minimum_timeout: int | None = None,
    scratch: str | None = None,
    cache: str | None = None,
    container: str | None = None,
) -> Endpoint:
    """Returns where the server of a state folder answers; starts it when none does.

    A server that is at work keeps its options. One that is not, and has other options than those given or is of another
    version of this package, is replaced; port and key stay the same where they can.

    Raises
    ------
    BackendFailed
        No server could be started; the end of its log is in the message.
    UnsafeFolder
        The state folder belongs to another user, or others may write to it.
    """
    options = {
        "vcpus": vcpus,
        "memory_mib": memory_mib,
        "port": port,
        "idle_seconds": idle_seconds,
        "grace_seconds": grace_seconds,
        "minimum_timeout": minimum_timeout,
        "scratch": scratch,
        "cache": cache,
        "container": container,
    }
    wanted = {name: value for name, value in options.items() if value is not None}
    running = _find(state)
    if running and _suits(*running, wanted):
        return running[0].endpoint
    with _using(state):
        private_folder(state.resolve(), STATE_REMEDY)
        with _only_one_starts(state) as starting:
            running = _find(state)
            if running and _suits(*running, wanted):
                return running[0].endpoint
            if running:
                stop(state)
            return _start(state.resolve(), wanted, starting)


def find(state: Path) -> Endpoint | None:
    """Returns the server of a state folder if it answers; it has then shown that it knows its secret.

    Raises BackendFailed for a folder that cannot be read.
    """
    running = _find(state)
    return running[0].endpoint if running else None


def lend(endpoint: Endpoint, variables: Mapping[str, str]) -> None:
    """Tells a server who its attempts are on AWS: the variables from which botocore's chain starts, kept in memory.

    A server that does not answer is met again, and told of, by the next call.
    """
    body = json.dumps(dict(variables)).encode()
    nonce = secrets.token_hex(16)
    sign = proof(endpoint.secret_key, f"{nonce} {hashlib.sha256(body).hexdigest()}", "lend")
    head = (
        "POST /_identity HTTP/1.0\r\nHost: 127.0.0.1\r\nConnection: close\r\n"
        f"X-Nonce: {nonce}\r\nX-Proof: {sign}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    try:
        with socket.create_connection(("127.0.0.1", endpoint.port), timeout=_PING_SECONDS) as connection:
            connection.sendall(head.encode() + body)
            connection.recv(64)
    except OSError:
        pass


def _find(state: Path) -> tuple[Record, bool] | None:
    """The server that answers, and whether it is at work. Raises UnsafeFolder."""
    with _using(state):
        if state.exists():
            # Where others write they say who is asked, and who is lent our identity.
            require_private(state.resolve(), STATE_REMEDY)
        record = read_record(state)
    if record is None:
        return None
    answer = _ping(record.endpoint)
    return None if answer is None else (record, answer == "busy")


def _suits(record: Record, busy: bool, wanted: Mapping[str, object]) -> bool:
    """Whether a server may go on: one at work may, any other must be of this version and as wanted.

    Raises BackendFailed when one at work runs its jobs otherwise: in containers, or not.
    """
    if busy and record.options.get("container", "") != wanted.get("container", record.options.get("container", "")):
        how = record.options.get("container") or "processes of this machine"
        raise BackendFailed(
            f"The embedded Batch (pid {record.endpoint.pid}) is at work and runs its jobs with {how}. Say --container "
            "as it does, wait until it has finished, or name another folder as embedded.state."
        )
    return busy or (record.code == code_version() and all(record.options.get(k) == v for k, v in wanted.items()))


def stop(state: Path, *, wait_seconds: float = 10.0) -> bool:
    """Stops the server of a state folder; False when none answers. Attempts that run finish by themselves."""
    endpoint = find(state)
    if endpoint is None:
        return False
    server = identity_of(endpoint.pid)
    os.kill(endpoint.pid, signal.SIGTERM)
    # It gives its lock back a moment before it has ended.
    if not wait_until(lambda: not (_is_locked(state) or (server and is_alive(server))), wait_seconds):
        raise BackendFailed(f"The embedded Batch of {state} (pid {endpoint.pid}) does not stop. Kill it by its pid.")
    return True


def _ping(endpoint: Endpoint) -> str | None:
    """`busy` or `idle` from the server that was meant, None from any other."""
    nonce = secrets.token_hex(16)
    request = f"GET /_ping?nonce={nonce} HTTP/1.0\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"
    try:
        with socket.create_connection(("127.0.0.1", endpoint.port), timeout=_PING_SECONDS) as connection:
            connection.sendall(request.encode())
            with connection.makefile("rb") as stream:
                answer = stream.read(4096)
    except OSError:
        return None
    for word in ("busy", "idle"):
        if answer.endswith(proof(endpoint.secret_key, nonce, word).encode()):
            return word
    return None


@contextmanager
def _using(state: Path) -> Iterator[None]:
    """Raises BackendFailed where the system refuses to read or write the state folder."""
    try:
        yield
    except OSError as error:
        raise BackendFailed(
            f"The embedded Batch cannot keep its state in {state}: {error.strerror}. Choose another folder:"
            " embedded.state (BATCH_PIPELINE__EMBEDDED__STATE)."
        ) from error


@contextmanager
def _only_one_starts(state: Path) -> Iterator[int]:
    """Waits for the lock, and for a server that still has it; yields its descriptor. Raises BackendFailed."""
    descriptor = os.open(state / "starting", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        if not wait_until(lambda: _take(descriptor), START_SECONDS):
            raise BackendFailed(
                f"The embedded Batch of {state} has not answered for {START_SECONDS:.0f} s since it was started. "
                f"Its log is {state / 'server.log'}; try again when it answers, or end it."
            )
        yield descriptor
    finally:
        os.close(descriptor)


def _is_locked(state: Path) -> bool:
    descriptor = os.open(state / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        return not _take(descriptor)
    finally:
        os.close(descriptor)


def _take(descriptor: int) -> bool:
    """Locks a file until its last descriptor is closed; False when another process has locked it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _start(state: Path, options: Mapping[str, object], starting: int) -> Endpoint:
    arguments = [str(part) for name, value in options.items() for part in (_FLAGS[name], value)]
    log = state / "server.log"
    # For jobs that bring no toolchain of their own, and no secrets.
    toolchain = Toolchain.of_this_process()
    if log.exists() and log.stat().st_size > _LOG_BYTES:
        log.replace(state / "server.log.1")

    def endpoint_of(process: subprocess.Popen[bytes]) -> Endpoint | None:
        record = read_record(state)
        is_up = record and record.endpoint.pid == process.pid and _ping(record.endpoint)
        return record.endpoint if record and is_up else None

    try:
        return start_daemon(
            [sys.executable, "-m", "batch_pipeline.localbatch", "--state", str(state), "--foreground", *arguments],
            name=f"The embedded Batch of {state}",
            folder="/",
            log=log,
            environment=toolchain.environment(),
            answer=endpoint_of,
            seconds=START_SECONDS,
            stdin=starting,
        )
    except BackendFailed:
        _require_space(state)
        raise


def _require_space(state: Path) -> None:
    """Raises OSError where a small file does not fit: a server that cannot write cannot say so in its log either."""
    probe = state / f"probe.{os.getpid()}"
    try:
        probe.write_bytes(bytes(_PROBE_BYTES))
    finally:
        probe.unlink(missing_ok=True)
