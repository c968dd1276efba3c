"""Two users of one machine run a pipeline at the same time, each with the command alone."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

ROOT = Path(__file__).resolve().parents[2]
USERS = (54_331, 54_332)


@cache
def interpreter() -> str:
    """One that other users can start and that finds our packages; empty: there is none."""
    # Of the same version, for which our packages were built.
    for candidate in (sys.executable, f"/usr/bin/python{sys.version_info.major}.{sys.version_info.minor}"):
        try:
            if not ended(started(USERS[0], [candidate, "-c", "import obstore, luigi"], {})):
                return candidate
        except OSError:
            continue
    return ""


def started(uid: int, command: list[str], environment: dict[str, str]) -> subprocess.Popen[str]:
    packages = [path for path in sys.path if path.endswith("-packages")]
    return subprocess.Popen(
        command,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": os.pathsep.join([str(ROOT), *packages]), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=environment.get("HOME", "/"),
        user=uid,
        group=uid,
        extra_groups=[],
    )


def ended(process: subprocess.Popen[str]) -> str:
    """What a process said that failed; nothing when it did not."""
    said, _ = process.communicate(timeout=120)
    return f"exit code {process.returncode}: {said}" if process.returncode else ""


@pytest.fixture
def shared() -> Iterator[Path]:
    """A temporary folder that both can reach: pytest's own are closed to other users."""
    if os.geteuid() != 0:
        pytest.skip("becomes two other users, which only root may do")
    if not interpreter():
        pytest.skip("no interpreter here can be started by other users")
    with TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o1777)
        for uid in USERS:
            (folder / str(uid)).mkdir(mode=0o700)
            os.chown(folder / str(uid), uid, uid)
        yield folder


@pytest.mark.engine
def test_two_users_run_a_pipeline_at_the_same_time_and_again(shared: Path) -> None:
    environments = {uid: {"HOME": str(shared / str(uid)), "TMPDIR": str(shared)} for uid in USERS}
    command = [interpreter(), str(ROOT / "examples" / "words.py"), "--store", "store"]
    command += [
        "--sample-list-file",
        str(ROOT / "examples" / "texts.txt"),
        "--sources",
        str(ROOT / "examples" / "texts"),
    ]
    stop = [interpreter(), "-m", "batch_pipeline.localbatch", "--stop", "--state"]
    try:
        for _ in range(2):
            runs = [started(uid, command, environments[uid]) for uid in USERS]
            assert [ended(each) for each in runs] == ["", ""]
    finally:
        for uid in USERS:
            state = f"{shared}/{uid}/.local/state/batch_pipeline/localbatch"
            assert ended(started(uid, [*stop, state], environments[uid])) == ""
    for uid in USERS:
        found = [path.stat() for path in (shared / str(uid) / "store" / "cohort").rglob("*")]
        assert found
        assert {each.st_uid for each in found} == {uid}
    assert sorted(path.name for path in shared.glob("batch_pipeline-*")) == [f"batch_pipeline-{uid}" for uid in USERS]
