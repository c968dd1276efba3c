"""The check that no test leaves a process behind: it finds what was left in any way, and nobody else's."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.leftovers import PATIENCE_SECONDS, Process, Watch, is_inherited_fork, keep_until_the_end, living

SLEEP = [sys.executable, "-c", "import sys; sys.stdin.read()"]
#: Has a process whose parent is gone, in a session of its own.
ORPHAN = """
import json, subprocess, sys
apart = {"stdin": 0, "stdout": subprocess.DEVNULL, "start_new_session": True}
print(subprocess.Popen(sys.argv[2:], env=json.loads(sys.argv[1]), **apart).pid)
"""


def begun(pid: int) -> int:
    """The process, once its program has begun: for a moment before, it has neither arguments nor an environment."""
    while not Path(f"/proc/{pid}/cmdline").read_bytes():
        time.sleep(0.001)
    return pid


def left_once_alone(watch: Watch, number: int = 1) -> list[Process]:
    """What is left, once it is as many as expected.

    For a moment a fork of the session beside, whose parent has just ended, looks like one of this session.
    """
    deadline = time.monotonic() + PATIENCE_SECONDS
    while len(left := watch.left(at_the_end=False)) != number and time.monotonic() < deadline:
        time.sleep(0.01)
    return left


class Trouble:
    """Starts processes, which end when their standard input does."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.reading, self.writing = os.pipe()
        #: One descriptor a process, readable once that has ended.
        self._started: list[int] = []

    def child(self) -> subprocess.Popen[bytes]:
        child = subprocess.Popen(SLEEP, stdin=self.reading)
        begun(child.pid)
        return child

    def orphan(self, environment: dict[str, str] | None, **more: object) -> int:
        line = [sys.executable, "-c", ORPHAN, json.dumps(environment), *SLEEP]
        starter = subprocess.run(line, stdin=self.reading, stdout=subprocess.PIPE, check=True, **more)  # type: ignore[call-overload]
        return self._remember(begun(int(starter.stdout)))

    def fork(self) -> int:
        """A fork of a fork: it has no parent, and no environment but the session's."""
        reading, writing = os.pipe()
        child = os.fork()
        if not child:
            os.close(self.writing)
            if grandchild := os.fork():
                os.write(writing, str(grandchild).encode())
            else:
                os.close(writing)
                os.read(self.reading, 1)
            os._exit(0)
        os.waitpid(child, 0)
        os.close(writing)
        with open(reading) as pid:
            return self._remember(int(pid.read()))

    def _remember(self, pid: int) -> int:
        self._started.append(os.pidfd_open(pid))
        return pid

    def end(self) -> None:
        """Returns once all have ended: the next test must not find them."""
        os.close(self.writing)
        os.close(self.reading)
        for descriptor in self._started:
            select.select([descriptor], [], [])
            os.close(descriptor)


@pytest.fixture
def trouble(tmp_path: Path) -> Iterator[Trouble]:
    made = Trouble(tmp_path)
    yield made
    made.end()


WAYS: dict[str, Callable[[Trouble], int]] = {
    "orphaned": lambda trouble: trouble.orphan(None),
    "orphaned, with only its home": lambda trouble: trouble.orphan({"HOME": os.environ["HOME"]}),
    "orphaned, without environment, in our folder": lambda trouble: trouble.orphan({}, cwd=trouble.folder),
    "forked and orphaned": lambda trouble: trouble.fork(),
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_a_process_is_found_however_it_was_left(watch: Watch, trouble: Trouble, way: Callable[[Trouble], int]) -> None:
    pid = way(trouble)
    assert [process.pid for process in left_once_alone(watch)] == [pid]


def test_a_child_is_found_and_told_with_its_test(watch: Watch, trouble: Trouble) -> None:
    child = trouble.child()
    try:
        left = left_once_alone(watch)
    finally:
        child.kill()
        child.wait()
    assert [process.pid for process in left] == [child.pid]
    description = watch.told(left[0])
    assert " ".join(SLEEP) in description
    assert "test_leftovers.py::test_a_child_is_found_and_told_with_its_test" in description


def test_a_test_is_known_by_its_home(watch: Watch, trouble: Trouble) -> None:
    trouble.orphan({"HOME": os.environ["HOME"]})
    [process] = left_once_alone(watch)
    assert "::test_a_test_is_known_by_its_home" in watch.told(process)


def test_else_by_its_folder(watch: Watch, trouble: Trouble) -> None:
    trouble.orphan({}, cwd=trouble.folder)
    [process] = left_once_alone(watch)
    assert watch.told(process).endswith(f"started by a test with the folder {trouble.folder.name}")


def test_what_is_kept_is_found_at_the_end_only(watch: Watch, trouble: Trouble) -> None:
    keep_until_the_end(trouble.folder)
    pid = trouble.orphan({}, cwd=trouble.folder)
    assert left_once_alone(watch, 0) == []
    assert [process.pid for process in watch.left(at_the_end=True) if process.pid == pid] == [pid]


def test_forks_of_a_session_beside_are_its_own() -> None:
    """It has the same arguments and environment, and forks whenever it starts a process."""
    session = next(process for process in living() if process.pid == os.getpid())
    child = Process(
        **{**vars(session), "pid": 1 << 22, "parent": (1 << 22) - 1, "start_ticks": session.start_ticks + 2}
    )
    parent = Process(**{**vars(child), "pid": child.parent, "parent": session.parent})
    assert not is_inherited_fork(child, session, {parent.pid: parent})
    assert not is_inherited_fork(parent, session, {parent.pid: parent})
    assert is_inherited_fork(child, session, {})


def test_nobody_elses_processes_are_found(watch: Watch, trouble: Trouble) -> None:
    """What has neither mark nor folder nor parent of ours is another's."""
    trouble.orphan({}, cwd="/")
    assert left_once_alone(watch, 0) == []
