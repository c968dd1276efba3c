"""What the driver stands on breaks: the server dies, the store refuses, a disk is full. The same command goes on."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from batch_pipeline.localbatch.client import find, stop
from tests.flow.conftest import gate as gate
from tests.flow.lab import ALL, PATIENCE, Lab, Ran, made_by, until

pytestmark = [pytest.mark.faults, pytest.mark.slow]


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Lab]:
    """A lab with a server of its own, for it will be killed."""
    made = Lab(folder=tmp_path, state=tmp_path / "state", capture=capsys)
    made.set_up()
    made_by(made, monkeypatch)
    yield made
    stop(made.state)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m,mode=0700", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip("only root may mount a small file system")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def fill(folder: Path) -> Path:
    """Takes all the space that is left."""
    path = folder / "ballast"
    with path.open("wb", buffering=0) as file:
        try:
            for size in (1 << 16, 1 << 12, 1 << 8, 1):
                with_space = True
                while with_space:
                    try:
                        with_space = file.write(b"x" * size) == size
                    except OSError:
                        with_space = False
        finally:
            os.fsync(file.fileno())
    return path


def told(ran: Ran) -> str:
    """What a command said, on one line; never a traceback."""
    said = " ".join((ran.out + ran.err).split())
    for word in ("Traceback", "Logging error", "This is a defect"):
        assert word not in said, ran.out + ran.err
    return said


def kill_server(lab: Lab) -> int:
    endpoint = find(lab.state)
    assert endpoint is not None
    os.kill(endpoint.pid, signal.SIGKILL)
    return endpoint.pid


def running(lab: Lab) -> int:
    return sum(step["running"] for step in lab.json("status")["steps"])


def test_a_command_survives_the_death_of_its_server(lab: Lab, gate: Path) -> None:
    process = lab.start()
    until(lambda: lab.live() and running(lab) == 3, "the first step runs")
    dead = kill_server(lab)
    until(lambda: (server := find(lab.state)) and server.pid != dead, "the command starts another server")
    gate.touch()

    out, err = process.communicate(timeout=PATIENCE)

    assert process.returncode == 0, out + err
    assert set(lab.receipts()) == ALL
    assert len(lab.runs()) == 1


def test_server_and_driver_die_and_the_same_command_goes_on(lab: Lab, gate: Path) -> None:
    process = lab.start()
    until(lambda: len(list(lab.store.glob("runs/*/submissions/*/sent.json"))) == 3, "all jobs were sent")
    until(lambda: running(lab) == 3, "the first step runs")
    kill_server(lab)
    process.kill()
    process.communicate()
    gate.touch()

    ran = lab.run()

    assert ran.calls["SubmitJob"] == 0
    assert set(lab.receipts()) == ALL
    assert {receipt["run_id"] for receipt in lab.receipts().values()} == set(lab.runs())


def test_a_server_whose_memory_is_lost_is_told_as_lost_and_the_next_command_goes_on(lab: Lab, gate: Path) -> None:
    """Somebody removed the state folder: nobody knows the jobs any more."""
    lab.run("--detach")
    until(lambda: running(lab) == 3, "the first step runs")
    lab.run("cancel", "--yes")
    until(lambda: not lab.json("status", code=None)["live_runs"], "the jobs have ended")
    stop(lab.state)
    (lab.state / "batch.sqlite").unlink()
    gate.touch()

    lab.run()

    assert set(lab.receipts()) == ALL


@pytest.mark.parametrize("place", ["receipts", "results/words", "runs", "driver", "live", "code", "logs"])
def test_a_file_in_the_way_of_the_stores_folders_is_told_and_its_removal_mends_it(lab: Lab, place: str) -> None:
    """Rights are nothing to root; a file where a folder should be stops anybody."""
    path = lab.store / place
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("in the way")

    ran = lab.run(code=None)

    said = told(ran)
    assert ran.code in (1, 4), said
    assert place.split("/")[0] in said
    path.unlink()
    lab.run()
    assert set(lab.receipts()) == ALL
    assert lab.live() == []


def test_a_full_store_is_told_in_a_sentence_and_the_rerun_finishes(lab: Lab, small_disk: Path) -> None:
    store = small_disk / "store"
    store.mkdir()
    ballast = fill(small_disk)

    ran = lab.run("--store", str(store), code=None)

    said = told(ran)
    assert ran.code in (1, 4), said
    assert "No space is left for" in said
    assert "Free some and run the same command again." in said
    ballast.unlink()
    lab.run("--store", str(store))
    assert len(list(store.glob("receipts/*/*/*.json"))) == len(ALL)
    assert not list(store.glob("live/*.json"))


def test_a_store_that_fills_up_on_the_way_fails_its_cells_and_the_rerun_finishes(
    lab: Lab, small_disk: Path, gate: Path
) -> None:
    store = small_disk / "store"
    store.mkdir()
    lab.run("--store", str(store), "--detach")
    ballast = fill(small_disk)
    gate.touch()

    ran = lab.run("--store", str(store), code=None)

    said = told(ran)
    assert ran.code in (1, 4), said
    assert "space" in said or "disk full" in said
    ballast.unlink()
    lab.run("--store", str(store))
    assert len(list(store.glob("receipts/*/*/*.json"))) == len(ALL)
    assert not list(store.glob("live/*.json"))


def test_a_full_scratch_disk_is_told_for_its_cells_and_the_rerun_finishes(
    lab: Lab, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scratch lies in the temporary folder of the server's environment."""
    monkeypatch.setenv("TMPDIR", str(small_disk))
    lab.edit(
        "parts/words.py",
        "words = sorted(",
        'job.work.joinpath("big").write_bytes(b"x" * 40_000)\n        words = sorted(',
    )
    ballast = fill(small_disk)

    ran = lab.run(code=1)

    said = told(ran)
    assert "disk full: ann, bob, cid" in said
    assert "space" in said
    ballast.unlink()
    lab.run()
    assert set(lab.receipts()) == ALL


@pytest.mark.parametrize("when", ["before the server starts", "while it is at work"])
def test_a_full_state_folder_is_told_and_the_rerun_finishes(small_disk: Path, lab: Lab, when: str) -> None:
    lab.state.symlink_to(small_disk)
    if when == "while it is at work":
        lab.run("--samples", "ann", "--only-step", "lower")
    ballast = fill(small_disk)

    ran = lab.run(code=4)

    said = told(ran)
    assert "AWS Batch did not answer" not in said
    if when == "while it is at work":
        assert f"{small_disk} cannot be written: database or disk is full). Free some space there and run" in said
    else:
        assert f"cannot keep its state in {lab.state}: No space left on device. Choose another folder" in said
    ballast.unlink()
    lab.run()
    assert set(lab.receipts()) == ALL
