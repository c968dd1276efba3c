"""Starts a daemon, waits until it answers, and finds it again by its pid file.

A daemon outlives who starts it. Its pid file holds when it began beside its number, which may be another's by then.
"""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

from batch_pipeline.wire.errors import BackendFailed
from batch_pipeline.wire.processes import ProcessIdentity, birth_of, identity_of

_POLL_SECONDS = 0.01
#: What an error repeats of the log.
_LOG_CHARACTERS = 2000
_Answer = TypeVar("_Answer")


def start_daemon(
    command: Sequence[str],
    *,
    name: str,
    folder: str | Path,
    log: Path,
    environment: Mapping[str, str],
    answer: Callable[[subprocess.Popen[bytes]], _Answer | None],
    seconds: float,
    pid_file: Path | None = None,
    stdin: int = subprocess.DEVNULL,
    is_detached: bool = True,
) -> _Answer:
    """Starts a command in a folder, and returns what `answer` returns as soon as that is not None.

    Raises BackendFailed, with what the command wrote into its log, when it ends or so many seconds pass before.
    """
    with open(log, "ab", opener=partial(os.open, mode=0o600)) as stream:
        earlier_bytes = stream.tell()
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            stdin=stdin,
            stdout=stream,
            stderr=stream,
            start_new_session=is_detached,
        )
    if pid_file:
        write_pid_file(pid_file, process.pid)
    deadline = time.monotonic() + seconds
    try:
        while (result := answer(process)) is None and process.poll() is None and time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)
    finally:
        if is_detached:
            process.returncode = 0  # It outlives this process, which does not wait for its exit code.
    if result is not None:
        return result
    tail = log.read_bytes()[earlier_bytes:].decode(errors="replace")[-_LOG_CHARACTERS:].strip()
    raise BackendFailed(
        f"{name} did not start: {tail or 'it wrote nothing'}. Its log is {log}; correct the cause and try again."
    )


def wait_until(condition: Callable[[], bool], seconds: float) -> bool:
    """Polls until a condition holds; False when it does not within so many seconds."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_SECONDS)
    return True


def write_pid_file(file: Path, pid: int) -> None:
    """Writes the number of a process, and when it began in the kernel's ticks."""
    file.write_text(f"{pid} {birth_of(pid) or 0}\n")


def process_of(file: Path) -> ProcessIdentity | None:
    """The live process of a pid file; the file of one that has ended is removed."""
    try:
        # Earlier versions wrote JSON for pilots.
        pid, birth = map(int, re.findall(r"\d+", file.read_text()))
    except (OSError, ValueError):
        return None  # There is none, or it is being written.
    identity = identity_of(pid)
    if identity and identity.start_ticks == birth:
        return identity
    file.unlink(missing_ok=True)
    return None
