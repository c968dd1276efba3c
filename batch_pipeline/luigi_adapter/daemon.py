"""Starts Luigi's central scheduler, `luigid`, and opens its page.

It listens on loopback unless remote access is allowed: luigid knows no passwords, and whoever reaches it may mark tasks
as done or pause everybody's work. Process id, log and state lie in one folder, which is the user's alone, because
luigid unpickles its state when it starts; a `luigi.cfg` in that folder, and no other, sets luigid up. It outlives the
command that started it; `stop` ends it.
"""

from __future__ import annotations

import ipaddress
import os
import signal
import subprocess
import sys
import time
import webbrowser
from pathlib import Path
from typing import Final

from batch_pipeline.luigi_adapter.scheduler import call, scheduler_url
from batch_pipeline.wire.errors import BackendFailed, InvalidConfig
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
    host: str = "127.0.0.1",
    port: int = 8082,
    *,
    open_browser: bool = True,
    state_folder: Path,
    foreground: bool = False,
    allow_remote: bool = False,
) -> str:
    """Starts luigid unless it runs, and returns the URL of its page; in the foreground, when it has ended.

    Raises InvalidConfig when the host is not this machine's loopback and `allow_remote` is not given, UnsafeFolder when
    others may write to the state folder, and BackendFailed when something else listens or luigid does not come up.
    """
    if not (allow_remote or is_loopback(host)):
        raise InvalidConfig(
            f"{host} is not this machine's loopback, and luigid has no passwords. "
            "Leave the host away, or allow remote access explicitly."
        )
    url = scheduler_url(host, port)
    process = None if _is_running(url) else _launch(host, port, state_folder, foreground)
    try:
        if process:
            _await(process, url, state_folder)
        where = f"runs at {url} (process {process.pid}, log {state_folder / 'luigid.log'})" if process else ""
        print(f"luigid {where or f'already runs at {url}'}", file=sys.stderr)
        # Without a display webbrowser would fall back on one that takes the terminal.
        if open_browser and {"DISPLAY", "WAYLAND_DISPLAY"} & os.environ.keys():
            webbrowser.open(url)
        if process and foreground:
            process.wait()
    except KeyboardInterrupt:
        if not (process and foreground):
            raise
        process.terminate()
        process.wait()
    if process and foreground:
        (state_folder / "luigid.pid").unlink(missing_ok=True)
    elif process:
        process.returncode = 0  # It outlives this process: no ResourceWarning.
    return url


def stop(state_folder: Path) -> bool:
    """Ends the luigid of a state folder and says whether there was one; it keeps its state. Raises UnsafeFolder."""
    if state_folder.exists():
        require_private(state_folder.resolve(), _REMEDY)
    pid_file = state_folder / "luigid.pid"
    try:
        pid, birth = pid_file.read_text().split()
        pid_file.unlink()
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


def is_loopback(host: str) -> bool:
    """Whether nobody but this machine can reach the address."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _is_running(url: str) -> bool:
    try:
        call(url, "is_paused")
    except ConnectionRefusedError:
        return False
    except OSError as error:
        raise BackendFailed(f"At {url} luigid cannot listen: {error}. Choose another port with --port.") from error
    return True


def _launch(host: str, port: int, state_folder: Path, foreground: bool) -> subprocess.Popen[bytes]:
    private_folder(state_folder.resolve(), _REMEDY)
    with (state_folder / "luigid.log").open("ab") as log:
        process = subprocess.Popen(
            [*_COMMAND, "--address", host, "--port", str(port)],
            cwd=state_folder,
            env={name: value for name, value in os.environ.items() if not name.startswith("LUIGI_CONFIG")},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            # In the foreground Ctrl-C reaches it, and it saves its state.
            start_new_session=not foreground,
        )
    (state_folder / "luigid.pid").write_text(f"{process.pid} {birth_of(process.pid) or 0}\n")
    return process


def _await(process: subprocess.Popen[bytes], url: str, state_folder: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        try:
            call(url, "is_paused")
            return
        except OSError:
            time.sleep(_POLL_SECONDS)
    process.kill()
    process.wait()
    (state_folder / "luigid.pid").unlink(missing_ok=True)
    log = state_folder / "luigid.log"
    last = (log.read_text(errors="replace").strip().splitlines() or ["nothing"])[-1]
    raise BackendFailed(f"luigid did not come up at {url}; its last words: {last} (all of them: {log}).")
