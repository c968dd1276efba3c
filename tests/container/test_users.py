"""Two users of one machine with one temporary folder: neither runs what the other put there, and both can work.

The tests become two users that are not there otherwise, which root alone may do.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from batch_pipeline.wire.errors import UnsafeFolder
from batch_pipeline.wire.scratch import folder_beside, own_folder, sweep
from tests.container.conftest import COPY, REPOSITORY, make_zip
from tests.container.users import become

pytestmark = [
    pytest.mark.engine,
    pytest.mark.skipif(os.geteuid() != 0, reason="becomes two other users, which only root may do"),
]

ALICE, MALLORY = 54_321, 54_322


def as_user(uid: int, act: Callable[[], object]) -> None:
    """Does something as another user, in a fork, where no store works; what it raises fails the test."""
    child = os.fork()
    if not child:
        code = 1
        try:
            become(uid)
            act()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.fixture
def shared() -> Iterator[Path]:
    """A temporary folder of the whole machine; pytest's own are closed to other users."""
    with TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        folder = Path(name, "tmp")
        folder.mkdir()
        folder.chmod(0o1777)
        for uid in (ALICE, MALLORY):
            (folder.parent / str(uid)).mkdir(mode=0o700)
            os.chown(folder.parent / str(uid), uid, uid)
        yield folder


def start(uid: int, shared: Path, *more: str) -> subprocess.Popen[str]:
    """Begins a cell of a user, with a store of their own, whose scratch is in the shared folder."""
    command = [sys.executable, "-m", "tests.container.users", str(uid), str(shared.parent / str(uid)), str(shared)]
    return subprocess.Popen([*command, *more], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)


def ended(process: subprocess.Popen[str]) -> dict[str, Any]:
    """How a user's cell ended."""
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 0
    told: dict[str, Any] = json.loads(out)
    return told


def test_two_users_work_beside_each_other(shared: Path) -> None:
    processes = [start(uid, shared) for uid in (ALICE, MALLORY)]
    for found in [ended(process) for process in processes]:
        assert (found["code"], found["result"], found["vouched"]) == (0, "data\n", True), found["log"]
    names = sorted(os.listdir(shared))
    assert names == [f"batch_pipeline-{uid}" for uid in (ALICE, MALLORY)]
    assert {(shared / name).stat().st_mode & 0o777 for name in names} == {0o700}


def test_code_that_another_user_put_there_first_is_not_run(shared: Path) -> None:
    """Where earlier versions looked for it, and where this one looks."""
    sha256 = hashlib.sha256(make_zip({"step.sh": COPY})).hexdigest()
    evil = make_zip({"step.sh": "#!/bin/sh\necho evil > y\n"})

    def squat() -> None:
        for place in (shared / ".references", shared / f"batch_pipeline-{MALLORY}" / "cache", shared / "cache"):
            (place / "code" / sha256).mkdir(parents=True)
            (place / "code" / sha256 / "step.sh").write_text("#!/bin/sh\necho evil > y\n")
            (place / "code" / sha256 / "step.sh").chmod(0o755)
            (place / "code" / f"{sha256}.zip").write_bytes(evil)

    as_user(MALLORY, squat)
    found = ended(start(ALICE, shared))
    assert (found["code"], found["result"], found["vouched"]) == (0, "data\n", True), found["log"]


@pytest.mark.parametrize("how", ["folder", "link", "link to the victim's"])
def test_a_squatted_folder_is_refused_with_a_sentence_and_leaves_no_receipt(shared: Path, how: str) -> None:
    own = shared / f"batch_pipeline-{ALICE}"

    def squat() -> None:
        trap = {"folder": own, "link": shared / "trap"}.get(how)
        if trap is not None:
            trap.mkdir()
            trap.chmod(0o777)
        if trap != own:
            own.symlink_to(trap or shared.parent / str(ALICE))

    as_user(MALLORY, squat)
    found = ended(start(ALICE, shared))
    assert (found["code"], found["reason"], found["vouched"]) == (64, "contract", False)
    what = f"belongs to uid {MALLORY}" if how == "folder" else "is a link"
    assert f"{own} {what}; it must be a folder of uid {ALICE} that no other user may write to" in found["log"]
    assert "Set BATCH_PIPELINE_SCRATCH or TMPDIR to another folder, or " in found["log"]

    def refused() -> None:
        with pytest.raises(UnsafeFolder):
            sweep(str(shared))

    as_user(ALICE, refused)


def test_a_squatted_cache_of_references_is_refused(shared: Path) -> None:
    cache = shared / "cache"

    def squat() -> None:
        (cache / f"batch_pipeline-{ALICE}" / "cache").mkdir(parents=True)
        cache.chmod(0o1777)

    as_user(MALLORY, squat)
    found = ended(start(ALICE, shared, str(cache)))
    assert (found["code"], found["vouched"]) == (64, False)
    assert "Set BATCH_PIPELINE_CACHE to another folder" in found["log"]


def test_a_user_sweeps_their_own_alone(shared: Path) -> None:
    def leave() -> None:
        from batch_pipeline.wire.scratch import Scratch

        Scratch(str(shared)).forget()

    def sweep_all() -> None:
        assert len(sweep(str(shared))) == 1

    as_user(ALICE, leave)
    as_user(MALLORY, leave)
    as_user(ALICE, sweep_all)
    left = [os.listdir(shared / f"batch_pipeline-{uid}") for uid in (ALICE, MALLORY)]
    assert [len(names) for names in left] == [0, 1]


def test_state_that_another_user_prepared_is_not_believed(shared: Path) -> None:
    """A server of somebody else would be sent the jobs and lent the identity; a pickle of theirs would be run."""
    from batch_pipeline.localbatch.client import ensure, find
    from batch_pipeline.luigi_adapter.daemon import start, stop

    state, luigid = shared / "state", shared / "luigid"

    def squat() -> None:
        for folder in (state, luigid):
            folder.mkdir()
            folder.chmod(0o777)

    as_user(MALLORY, squat)

    def work() -> None:
        acts: list[Callable[[], object]] = [
            lambda: find(state),
            lambda: ensure(state),
            lambda: start(port=1, state_folder=luigid),
            lambda: stop(luigid),
        ]
        for act in acts:
            with pytest.raises(UnsafeFolder, match=rf"belongs to uid {MALLORY}.*Name another state folder"):
                act()

    as_user(ALICE, work)
    assert os.listdir(state) == os.listdir(luigid) == []


def test_other_state_lies_beside_that_of_the_server_or_in_it_where_others_are(shared: Path) -> None:
    def work() -> None:
        state = shared / "alice"
        assert folder_beside(state, "pools") == state / "pools"
        os.mkdir(shared / "luigid")
        assert folder_beside(state, "luigid") == shared / "luigid"
        own = Path(own_folder(str(shared)))
        assert folder_beside(own / "state" / "batch", "pools") == own / "state" / "pools"

    as_user(ALICE, work)
