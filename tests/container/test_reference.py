"""References: once a host, whichever container comes first."""

from __future__ import annotations

import fcntl
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from batch_pipeline.container import reference
from batch_pipeline.container.files import ObjectFiles
from batch_pipeline.container.parallel import Stop, in_parallel
from batch_pipeline.container.reference import stage_references
from batch_pipeline.wire.errors import MissingInput, StepInterrupted, StoreFailed

if TYPE_CHECKING:
    from tests.container.conftest import Workshop


def test_of_many_at_once_one_downloads(memory_workshop: Workshop, tmp_path: Path) -> None:
    spec = memory_workshop.reference("index", "references/g/k.idx", b"x" * 100_000)
    files = ObjectFiles(memory_workshop.store)
    before = memory_workshop.store.calls["get"]
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(lambda _: stage_references((spec,), files, str(tmp_path))["index"], range(6)))
    assert len(set(found)) == 1
    assert found[0].name == "k.idx"
    assert found[0].stat().st_mode & 0o222 == 0
    assert memory_workshop.store.calls["get"] == before + 1


def test_who_waits_for_the_lock_can_be_stopped(
    memory_workshop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = memory_workshop.reference("index", "references/g/k.idx", b"x")
    files = ObjectFiles(memory_workshop.store)
    path = stage_references((spec,), files, str(tmp_path))["index"]
    path.unlink()
    waiting = threading.Event()
    monkeypatch.setattr(time, "sleep", lambda _: waiting.set())
    stop = Stop()
    holder = os.open(path.parent / ".lock", os.O_RDWR)
    fcntl.flock(holder, fcntl.LOCK_EX)
    try:
        with ThreadPoolExecutor(1) as pool:
            future = pool.submit(reference._reference, spec, files, str(tmp_path), stop)
            assert waiting.wait(30)
            stop.requested = True
            with pytest.raises(StepInterrupted):
                future.result()
    finally:
        os.close(holder)


def test_a_part_of_a_killed_download_is_no_reference(memory_workshop: Workshop, tmp_path: Path) -> None:
    spec = memory_workshop.reference("index", "references/g/k.idx", b"whole")
    path = stage_references((spec,), ObjectFiles(memory_workshop.store), str(tmp_path))["index"]
    path.unlink()
    path.write_bytes(b"who")
    path.with_name(".k.idx.part").write_bytes(b"wh")
    assert (
        stage_references((spec,), ObjectFiles(memory_workshop.store), str(tmp_path))["index"].read_bytes() == b"whole"
    )
    assert sorted(os.listdir(path.parent)) == [".k.idx.json", ".lock", "k.idx"]


def test_a_new_version_never_meets_the_old(memory_workshop: Workshop, tmp_path: Path) -> None:
    files = ObjectFiles(memory_workshop.store)
    first = stage_references((memory_workshop.reference("i", "references/g/k", b"1"),), files, str(tmp_path))["i"]
    second = stage_references((memory_workshop.reference("i", "references/g/k", b"2"),), files, str(tmp_path))["i"]
    assert (first.read_bytes(), second.read_bytes()) == (b"1", b"2")


def test_a_folders_references_are_used_in_place(folder_workshop: Workshop, tmp_path: Path) -> None:
    from batch_pipeline.container.files import FolderFiles

    spec = folder_workshop.reference("i", "references/g/k", b"1")
    store = folder_workshop.store
    assert store.folder
    files = FolderFiles(store, store.folder)
    assert stage_references((spec,), files, str(tmp_path / "cache")) == {"i": store.folder / "references/g/k"}
    assert not (tmp_path / "cache").exists()
    store.put("references/g/k", b"2")
    with pytest.raises(MissingInput, match="changed since it was planned"):
        stage_references((spec,), files, str(tmp_path / "cache"))


def test_the_first_error_of_many_is_raised_and_the_others_are_told_to_stop() -> None:
    stop = Stop()
    started, stopped = threading.Event(), threading.Event()

    def fail() -> None:
        assert started.wait(30)
        raise StoreFailed("broken")

    def go_on() -> None:
        started.set()
        try:
            while True:
                stop.check()
        except StepInterrupted:
            stopped.set()
            raise

    with pytest.raises(StoreFailed, match="broken"):
        in_parallel([fail, go_on], at_once=True, stop=stop)
    assert stopped.is_set()
