"""Daemons: one that answers outlives its starter, one that does not is told in the words of its log."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from batch_pipeline.wire.daemon import process_of, start_daemon, wait_until
from batch_pipeline.wire.errors import BackendFailed
from batch_pipeline.wire.processes import is_alive, send


def start(folder: Path, code: str, *, seconds: float = 30) -> int:
    """The process id of a daemon that answers when it has made the file `up`."""

    def answer(process: subprocess.Popen[bytes]) -> int | None:
        return process.pid if (folder / "up").exists() else None

    return start_daemon(
        [sys.executable, "-c", code],
        name="It",
        folder=folder,
        log=folder / "it.log",
        environment=os.environ,
        answer=answer,
        seconds=seconds,
        pid_file=folder / "it.pid",
    )


def test_a_daemon_is_waited_for_and_found_by_its_pid_file(tmp_path: Path) -> None:
    pid = start(tmp_path, "open('up', 'w').close(); import time; time.sleep(60)")
    daemon = process_of(tmp_path / "it.pid")
    assert daemon is not None
    assert (daemon.pid, os.getsid(pid)) == (pid, pid)
    send(daemon, signal.SIGKILL)
    assert wait_until(lambda: not is_alive(daemon), 30)
    os.waitpid(pid, 0)
    assert process_of(tmp_path / "it.pid") is None
    assert not (tmp_path / "it.pid").exists()


def test_one_that_ends_is_told_in_its_own_words_and_not_those_of_earlier_ones(tmp_path: Path) -> None:
    (tmp_path / "it.log").write_text("an earlier one\n")
    with pytest.raises(BackendFailed, match=r"^It did not start: no room\. Its log is "):
        start(tmp_path, "import sys; sys.exit('no room')")


def test_one_that_never_answers_is_not_waited_for_for_ever(tmp_path: Path) -> None:
    with pytest.raises(BackendFailed, match="did not start: it wrote nothing"):
        start(tmp_path, "import time; time.sleep(60)", seconds=0)
    daemon = process_of(tmp_path / "it.pid")
    assert daemon is not None, "it goes on: who starts it decides"
    send(daemon, signal.SIGKILL)
    os.waitpid(daemon.pid, 0)
