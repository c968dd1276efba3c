"""Starts Luigi's central scheduler, `luigid`, and stops it; `ui` is the command.

It listens on loopback unless remote access is allowed: luigid knows no passwords, and whoever reaches it may mark tasks
as done or pause everybody's work. Process id, log and state lie in a folder of the user's alone, because luigid
unpickles its state when it starts; a `luigi.cfg` in there, and no other, sets it up.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Final

from batch_pipeline.luigi_adapter.scheduler import call, scheduler_url
from batch_pipeline.wire.errors import BackendFailed, InvalidConfig
from batch_pipeline.wire.loopback import is_loopback
from batch_pipeline.wire.processes import birth_of, identity_of, is_alive, send
from batch_pipeline.wire.scratch import private_folder, require_private

#: How long luigid may take to answer; a second is usual.
START_SECONDS: Final = 30.0
STOP_SECONDS: Final = 10.0
_POLL_SECONDS: Final = 0.05
_REMEDY: Final = "Name another state folder (embedded.state)"
# Not bin/luigid: a virtual environment that was moved has broken scripts, its interpreter still works.
_COMMAND: Final = (sys.executable, "-c", "from luigi.cmdline import luigid; luigid()", "--state-path", "luigid.state")


def start(
    host: str = "127.0.0.1", *, port: int = 8082, state_folder: Path, foreground: bool = False, remote: bool = False
) -> tuple[str, subprocess.Popen[bytes] | None]:
    """Starts luigid unless it runs; returns the URL of its page, and the process if it was started now.

    It outlives this process, but in the foreground: then it is the caller's, as is its `pid_file`.

    Raises InvalidConfig when the host is not this machine's loopback and `remote` is not given, UnsafeFolder when
    others may write to the state folder, and BackendFailed when something else listens or luigid does not come up.
    """
    if not (remote or is_loopback(host)):
        raise InvalidConfig(
            f"{host} is not this machine's loopback, and luigid has no passwords. "
            "Leave the host away, or allow remote access explicitly."
        )
    url = scheduler_url(host, port)
    try:
        call(url, "is_paused")
        return url, None
    except ConnectionRefusedError:
        process = _launch(url, ["--address", host, "--port", str(port)], state_folder, foreground)
    except OSError as error:
        raise BackendFailed(f"At {url} luigid cannot listen: {error}. Choose another port with --port.") from error
    if not foreground:
        process.returncode = 0  # It outlives this process: no ResourceWarning.
    return url, process


def stop(state_folder: Path) -> bool:
    """Ends the luigid of a state folder and says whether there was one; it keeps its state. Raises UnsafeFolder."""
    if state_folder.exists():
        require_private(state_folder.resolve(), _REMEDY)
    try:
        pid, birth = pid_file(state_folder).read_text().split()
        pid_file(state_folder).unlink()
        luigid = identity_of(int(pid))
    except (FileNotFoundError, ValueError):
        return False
    if luigid is None or str(luigid.start_ticks) != birth:
        return False  # The number is another process's by now.
    send(luigid, signal.SIGTERM)
    deadline = time.monotonic() + STOP_SECONDS
    while is_alive(luigid) and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)
    return True


def pid_file(state_folder: Path) -> Path:
    """Where the process id of a state folder's luigid is."""
    return state_folder / "luigid.pid"


def _launch(url: str, address: Sequence[str], state_folder: Path, foreground: bool) -> subprocess.Popen[bytes]:
    private_folder(state_folder.resolve(), _REMEDY)
    log = state_folder / "luigid.log"
    with log.open("ab") as stream:
        process = subprocess.Popen(
            [*_COMMAND, *address],
            cwd=state_folder,
            env={name: value for name, value in os.environ.items() if not name.startswith("LUIGI_CONFIG")},
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
            # In the foreground Ctrl-C reaches it, and it saves its state.
            start_new_session=not foreground,
        )
    with ExitStack() as undo:
        undo.callback(pid_file(state_folder).unlink)
        undo.callback(process.wait)
        undo.callback(process.kill)
        pid_file(state_folder).write_text(f"{process.pid} {birth_of(process.pid) or 0}\n")
        deadline = time.monotonic() + START_SECONDS
        while process.poll() is None and time.monotonic() < deadline:
            with suppress(OSError):
                call(url, "is_paused")
                undo.pop_all()
                return process
            time.sleep(_POLL_SECONDS)
    last = (log.read_text(errors="replace").strip().splitlines() or ["nothing"])[-1]
    raise BackendFailed(f"luigid did not come up at {url}; its last words: {last} (all of them: {log}).")
