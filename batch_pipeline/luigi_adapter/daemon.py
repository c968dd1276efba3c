"""Starts Luigi's central scheduler, `luigid`, and opens its page.

It listens on loopback unless told otherwise: luigid knows no passwords, and whoever reaches it may mark tasks as done
or pause everybody's work. Process id, log and state lie in one folder, which is the user's alone, because luigid
unpickles its state when it starts; a `luigi.cfg` in that folder, and no other, sets luigid up. It outlives the command
that started it; `stop` ends it.
"""

from __future__ import annotations

import ipaddress
import os
import signal
import subprocess
import sys
import time
import webbrowser
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Final
from urllib.error import HTTPError

from batch_pipeline.luigi_adapter.submit import answers, scheduler_url
from batch_pipeline.wire.errors import BackendFailed, InvalidConfig
from batch_pipeline.wire.processes import birth_of
from batch_pipeline.wire.scratch import private_folder, require_private

#: How long luigid may take to answer; a second is usual.
START_SECONDS: Final = 30.0
STOP_SECONDS: Final = 10.0
_POLL_SECONDS: Final = 0.05
_REMEDY: Final = "Name another state folder (embedded.state)"

# Not bin/luigid: a virtual environment that was moved has broken scripts, its interpreter still works.
_COMMAND: Final = (sys.executable, "-c", "from luigi.cmdline import luigid; luigid()")


def start(
    host: str = "127.0.0.1",
    port: int = 8082,
    *,
    open_browser: bool = True,
    state_folder: Path,
    foreground: bool = False,
    allow_remote: bool = False,
) -> str:
    """Starts luigid, or finds it running, and gives the URL of its page; in the foreground, when it has ended.

    Raises
    ------
    InvalidConfig
        The host is not this machine's loopback and `allow_remote` is not given.
    UnsafeFolder
        The state folder is somebody else's, or others may write to it.
    BackendFailed
        Something else listens there, or luigid does not come up; its own words are in the message.
    """
    if not (allow_remote or is_loopback(host)):
        raise InvalidConfig(
            f"{host} is not this machine's loopback, and luigid has no passwords. "
            "Leave the host away, or allow remote access explicitly."
        )
    url = scheduler_url(host, port)
    if _runs(url):
        _say(f"luigid already runs at {url}")
        _open(url, open_browser)
        return url
    process = _launch(host, port, state_folder, foreground)
    with _ended_with_us(process, state_folder) if foreground else nullcontext():
        _await(process, url, state_folder)
        _say(f"luigid runs at {url} (process {process.pid}, log {state_folder / 'luigid.log'})")
        _open(url, open_browser)
        if foreground:
            process.wait()
    process.returncode = process.returncode or 0  # it may be meant to outlive us: no ResourceWarning
    return url


def stop(state_folder: Path) -> bool:
    """Ends the luigid of a state folder and says whether there was one; it keeps its state. Raises UnsafeFolder."""
    if state_folder.exists():
        require_private(state_folder.resolve(), _REMEDY)
    pid_file = state_folder / "luigid.pid"
    try:
        pid, birth = map(int, (pid_file.read_text() + " 0").split()[:2])
    except (FileNotFoundError, ValueError):
        return False
    pid_file.unlink()
    if not _is_luigid(pid, birth):
        return False
    os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + STOP_SECONDS
    while _is_luigid(pid, birth) and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)
    return True


def is_loopback(host: str) -> bool:
    """Whether nobody but this machine can reach the address."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _runs(url: str) -> bool:
    try:
        if answers(url):
            return True
        found = "a program that is no Luigi scheduler"
    except HTTPError as error:
        found = f"a program that says {error.code} {error.reason}"
    except OSError as error:
        if isinstance(getattr(error, "reason", error), ConnectionRefusedError):
            return False
        found = f"something that does not answer as one ({getattr(error, 'reason', error)})"
    raise BackendFailed(f"At {url} there is {found}. Choose another port with --port.")


def _launch(host: str, port: int, state_folder: Path, foreground: bool) -> subprocess.Popen[bytes]:
    private_folder(state_folder.resolve(), _REMEDY)
    state = state_folder.resolve() / "luigid.state"
    arguments = ("--address", host, "--port", str(port), "--state-path", str(state))
    environment = {name: value for name, value in os.environ.items() if not name.startswith("LUIGI_CONFIG")}
    with (state_folder / "luigid.log").open("ab") as log:
        process = subprocess.Popen(
            [*_COMMAND, *arguments],
            cwd=state_folder,
            env=environment,
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
            if answers(url):
                return
        except OSError:
            time.sleep(_POLL_SECONDS)
    process.kill()
    process.wait()
    (state_folder / "luigid.pid").unlink(missing_ok=True)
    log = state_folder / "luigid.log"
    last = log.read_text(errors="replace").strip().splitlines()[-1:] or ["nothing"]
    raise BackendFailed(f"luigid did not come up at {url}; its last words: {last[0]} (all of them: {log}).")


@contextmanager
def _ended_with_us(process: subprocess.Popen[bytes], state_folder: Path) -> Iterator[None]:
    """Takes Ctrl-C, whenever it comes, for the wish that it ends."""
    try:
        yield
    except KeyboardInterrupt:
        process.terminate()
        process.wait()
    finally:
        (state_folder / "luigid.pid").unlink(missing_ok=True)


def _open(url: str, wanted: bool) -> None:
    # Without a display webbrowser would fall back on one that takes the terminal.
    display = sys.platform in ("darwin", "win32") or "DISPLAY" in os.environ or "WAYLAND_DISPLAY" in os.environ
    if wanted and display:
        webbrowser.open(url)


def _is_luigid(pid: int, birth: int) -> bool:
    """Whether a process is the one that was started; the number may be another's by now."""
    if birth:
        return birth_of(pid) == str(birth)
    # Where no birth was written down its command tells; a zombie has none.
    listing = subprocess.run(["ps", "-o", "command=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return "luigid" in listing.stdout


def _say(sentence: str) -> None:
    print(sentence, file=sys.stderr)
