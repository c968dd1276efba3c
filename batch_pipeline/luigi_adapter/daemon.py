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
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from batch_pipeline.luigi_adapter.scheduler import connection_error, scheduler_url
from batch_pipeline.wire.daemon import process_of, start_daemon, wait_until
from batch_pipeline.wire.durable import put
from batch_pipeline.wire.errors import BackendFailed, InvalidConfig, UnsafeFolder
from batch_pipeline.wire.loopback import is_loopback
from batch_pipeline.wire.processes import is_alive, send
from batch_pipeline.wire.scratch import folder_beside, private_folder, require_private

#: How long luigid may take to answer; a second is usual.
START_SECONDS: Final = 30.0
STOP_SECONDS: Final = 10.0
_PID_FILE: Final = "luigid.pid"
#: Where it answers; there while it does.
_URL_FILE: Final = "luigid.url"
_REMEDY: Final = "Name another state folder (embedded.state)"


def start(
    host: str = "127.0.0.1", *, port: int = 8082, state_folder: Path, foreground: bool = False, remote: bool = False
) -> tuple[str, subprocess.Popen[bytes] | None]:
    """Starts luigid unless it runs; returns the URL of its page, and the process if it was started now.

    It outlives this process, but in the foreground: then it is the caller's, who calls `stop` when it has ended.

    Raises InvalidConfig when the host is not this machine's loopback and `remote` is not given, UnsafeFolder when
    others may write to the state folder, and BackendFailed when something else listens or luigid does not come up.
    """
    if not (remote or is_loopback(host)):
        raise InvalidConfig(
            f"{host} is not this machine's loopback, and luigid has no passwords. "
            "Leave the host away, or allow remote access explicitly."
        )
    url = scheduler_url(host, port)
    error = connection_error(url)
    if error is None:
        return url, None
    if not isinstance(error, ConnectionRefusedError):
        raise BackendFailed(f"At {url} luigid cannot listen: {error}. Choose another port with --port.") from error
    private_folder(state_folder.resolve(), _REMEDY)
    (state_folder / _URL_FILE).unlink(missing_ok=True)
    with ExitStack() as undo:
        undo.callback(stop, state_folder)
        process = start_daemon(
            [sys.executable, _script(), "--state-path", "luigid.state", "--address", host, "--port", str(port)],
            name=f"luigid at {url}",
            folder=state_folder,
            log=state_folder / "luigid.log",
            environment={name: value for name, value in os.environ.items() if not name.startswith("LUIGI_CONFIG")},
            answer=lambda process: None if connection_error(url) else process,
            seconds=START_SECONDS,
            pid_file=state_folder / _PID_FILE,
            # In the foreground Ctrl-C reaches it, and it saves its state.
            is_detached=not foreground,
        )
        put(str(state_folder / _URL_FILE), url.encode())
        undo.pop_all()
    return url, process


def folder_of(embedded_state: Path) -> Path:
    """The state folder of this user's luigid on this machine, beside that of the embedded Batch."""
    return folder_beside(embedded_state, "luigid")


def running_url(state_folder: Path) -> str | None:
    """URL of the luigid that `start` started there, while it runs. Reads two small files."""
    try:
        url = (state_folder / _URL_FILE).read_text()
        require_private(state_folder.resolve(), _REMEDY)
    except (OSError, UnsafeFolder):
        return None
    return url if process_of(state_folder / _PID_FILE) else None


def stop(state_folder: Path) -> bool:
    """Ends the luigid of a state folder and says whether there was one; it keeps its state.

    Raises UnsafeFolder, and BackendFailed when it goes on.
    """
    if state_folder.exists():
        require_private(state_folder.resolve(), _REMEDY)
    luigid = process_of(state_folder / _PID_FILE)
    if luigid is None:
        return False
    send(luigid, signal.SIGTERM)
    if not wait_until(lambda: not is_alive(luigid), STOP_SECONDS):
        raise BackendFailed(
            f"luigid (process {luigid.pid}) goes on {STOP_SECONDS:.0f} seconds after SIGTERM. Wait until it has saved"
            " its state, or end the process."
        )
    for name in (_URL_FILE, _PID_FILE):
        (state_folder / name).unlink(missing_ok=True)
    return True


def _script() -> str:
    """Luigi's console script, for this interpreter to run: in a moved virtual environment its first line is wrong.

    Raises BackendFailed when Luigi was installed without it.
    """
    from importlib.metadata import files

    script = next((file for file in files("luigi") or () if file.name == "luigid"), None)
    if script is None:
        raise BackendFailed("Luigi was installed without its script luigid. Install it with pip: pip install luigi.")
    return os.fspath(script.locate())
