"""References: once a host, whichever container comes first."""

from __future__ import annotations

import fcntl
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
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
        found = list(pool.map(lambda _: stage_references((spec,), files, str(tmp_path))["index"][0], range(6)))
    assert len(set(found)) == 1
    assert found[0].name == "k.idx"
    assert found[0].stat().st_mode & 0o222 == 0
    assert memory_workshop.store.calls["get"] == before + 1


def test_who_waits_for_the_lock_can_be_stopped(
    memory_workshop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = memory_workshop.reference("index", "references/g/k.idx", b"x")
    files = ObjectFiles(memory_workshop.store)
    path = stage_references((spec,), files, str(tmp_path))["index"][0]
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
    path = stage_references((spec,), ObjectFiles(memory_workshop.store), str(tmp_path))["index"][0]
    path.unlink()
    path.write_bytes(b"who")
    path.with_name(".k.idx.part").write_bytes(b"wh")
    again = stage_references((spec,), ObjectFiles(memory_workshop.store), str(tmp_path))["index"][0]
    assert again.read_bytes() == b"whole"
    assert sorted(os.listdir(path.parent)) == [".k.idx.json", ".lock", "k.idx"]


def test_a_new_version_never_meets_the_old(memory_workshop: Workshop, tmp_path: Path) -> None:
    files = ObjectFiles(memory_workshop.store)
    first = stage_references((memory_workshop.reference("i", "references/g/k", b"1"),), files, str(tmp_path))["i"][0]
    second = stage_references((memory_workshop.reference("i", "references/g/k", b"2"),), files, str(tmp_path))["i"][0]
    assert (first.read_bytes(), second.read_bytes()) == (b"1", b"2")


def test_a_folders_references_are_used_in_place(folder_workshop: Workshop, tmp_path: Path) -> None:
    from batch_pipeline.container.files import FolderFiles

    spec = folder_workshop.reference("i", "references/g/k", b"1")
    store = folder_workshop.store
    assert store.folder
    files = FolderFiles(store, store.folder)
    assert stage_references((spec,), files, str(tmp_path / "cache")) == {"i": (store.folder / "references/g/k",)}
    assert not (tmp_path / "cache").exists()
    store.put("references/g/k", b"2")
    with pytest.raises(MissingInput, match="changed since it was planned"):
        stage_references((spec,), files, str(tmp_path / "cache"))


def test_files_of_one_port_lie_in_one_folder_and_are_fetched_once(memory_workshop: Workshop, tmp_path: Path) -> None:
    """Two ports that share a file: it is fetched once, whole in both folders."""
    genome, index, annotation = (
        memory_workshop.reference("genome", f"references/g/{name}", name.encode())
        for name in ("fa/genome.fa", "fa/genome.fa.fai", "fa/sub/genes.gtf")
    )
    files = ObjectFiles(memory_workshop.store)
    specs = (genome, index, replace(genome, port="annotated"), replace(annotation, port="annotated"))
    before = memory_workshop.store.calls["get"]
    for _ in range(2):
        paths = stage_references(specs, files, str(tmp_path))
        assert memory_workshop.store.calls["get"] == before + 3
    folder = paths["genome"][0].parent
    assert paths["genome"] == (folder / "genome.fa", folder / "genome.fa.fai")
    assert [name for name in sorted(os.listdir(folder)) if not name.startswith(".")] == ["genome.fa", "genome.fa.fai"]
    assert paths["annotated"][0].read_bytes() == b"fa/genome.fa"
    assert paths["annotated"][1] == paths["annotated"][0].parent / "sub" / "genes.gtf"
    assert paths["annotated"][0].samefile(paths["genome"][0])
    assert all(path.stat().st_mode & 0o222 == 0 for port in paths.values() for path in port)


def test_who_comes_at_once_finds_all_files_of_a_port(memory_workshop: Workshop, tmp_path: Path) -> None:
    specs = tuple(memory_workshop.reference("g", f"references/g/k.{n}", b"x" * 1000) for n in range(5))
    files = ObjectFiles(memory_workshop.store)
    with ThreadPoolExecutor(6) as pool:
        all_paths = list(pool.map(lambda _: stage_references(specs, files, str(tmp_path))["g"], range(6)))
    assert len(set(all_paths)) == 1
    assert [path.name for path in all_paths[0]] == [f"k.{n}" for n in range(5)]
    assert all(path.stat().st_size == 1000 for path in all_paths[0])


def test_a_file_of_a_port_that_was_changed_is_fetched_and_linked_again(
    memory_workshop: Workshop, tmp_path: Path
) -> None:
    specs = tuple(memory_workshop.reference("g", f"references/g/{name}", b"whole") for name in "ab")
    files = ObjectFiles(memory_workshop.store)
    paths = stage_references(specs, files, str(tmp_path))["g"]
    paths[1].with_name(".b.part").write_bytes(b"of a killed process")
    paths[1].chmod(0o644)
    paths[1].write_bytes(b"harm!")
    assert stage_references(specs, files, str(tmp_path))["g"] == paths
    assert [path.read_bytes() for path in paths] == [b"whole", b"whole"]
    assert sorted(os.listdir(paths[1].parent)) == [".lock", "a", "b"]


def test_a_new_version_of_one_file_is_another_folder(memory_workshop: Workshop, tmp_path: Path) -> None:
    files = ObjectFiles(memory_workshop.store)
    one = memory_workshop.reference("g", "references/g/a", b"1")
    first = stage_references((one, memory_workshop.reference("g", "references/g/b", b"1")), files, str(tmp_path))["g"]
    second = stage_references((one, memory_workshop.reference("g", "references/g/b", b"2")), files, str(tmp_path))["g"]
    assert [path.read_bytes() for path in (*first, *second)] == [b"1", b"1", b"1", b"2"]
    assert first[0].samefile(second[0])


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
