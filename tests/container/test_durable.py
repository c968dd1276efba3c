"""What vouches for others gets its name when they are on the disk; many share the wait; no successor is replaced."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from batch_pipeline.wire import durable
from batch_pipeline.wire.durable import Seal, prepared, put_new, seal_all, sync
from batch_pipeline.wire.store import open_store
from tests.container.conftest import Workshop


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the calls that brought something to the disk, with the file's name."""
    calls: list[str] = []

    def note(kind: str, descriptor: int) -> None:
        calls.append(f"{kind} {os.path.basename(os.readlink(f'/proc/self/fd/{descriptor}'))}")

    monkeypatch.setattr(durable, "_sync_file", lambda descriptor: note("file", descriptor))
    monkeypatch.setattr(durable, "_sync_file_system", lambda descriptor: note("all", descriptor))
    return calls


def seals_in(folder: Path, numbers: Iterable[int]) -> list[Seal]:
    seals = []
    for number in numbers:
        (folder / f"r{number}").mkdir()
        result = folder / f"r{number}" / "y"
        result.write_text("result")
        seals.append(prepared(f"{folder}/receipts/{number}", b"receipt", [str(result)], str(folder)))
    return seals


def test_a_receipt_waits_for_its_results_their_folders_and_itself(tmp_path: Path, synced: list[str]) -> None:
    (seal,) = seals_in(tmp_path, [1])
    assert synced == []
    assert not Path(seal.target).exists()
    assert seal_all([seal]) == [None]
    assert Path(seal.target).read_text() == "receipt"
    assert synced == ["file y", "file r1", f"file {tmp_path.name}", f"file {os.path.basename(seal.part)}"]


def test_many_share_one_wait(tmp_path: Path, synced: list[str]) -> None:
    seals = seals_in(tmp_path, range(40))
    assert seal_all(seals) == [None] * 40
    assert len(synced) == 1
    assert synced[0].startswith("all ")
    assert all(Path(seal.target).exists() for seal in seals)


def test_what_ails_one_harms_no_other(tmp_path: Path) -> None:
    seals = seals_in(tmp_path, range(20))
    os.unlink(seals[7].part)
    errors = seal_all(seals)
    assert [number for number, error in enumerate(errors) if error] == [7]
    assert not Path(seals[7].target).exists()


def test_nothing_has_its_name_when_the_disk_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_descriptor: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(durable, "_sync_file", fail)
    (seal,) = seals_in(tmp_path, [1])
    (error,) = seal_all([seal])
    assert error is not None
    assert error.errno == errno.EIO
    assert not Path(seal.target).exists()


def test_sealing_again_changes_nothing(tmp_path: Path) -> None:
    (seal,) = seals_in(tmp_path, [1])
    assert [seal_all([seal]), seal_all([seal])] == [[None], [None]]


def test_the_real_file_system_is_synced(tmp_path: Path) -> None:
    paths = [tmp_path / str(number) for number in range(40)]
    for path in paths:
        path.write_text("x")
    sync(map(str, paths))
    with pytest.raises(OSError, match=os.strerror(errno.EBADF)):
        durable._sync_file_system(-1)


def test_of_many_who_write_a_new_file_one_is_told_so(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as threads:
        told = list(threads.map(lambda number: put_new(f"{tmp_path}/a/b/x", str(number).encode()), range(32)))
    assert told.count(True) == 1
    assert (tmp_path / "a/b/x").read_text() == str(told.index(True))
    assert os.listdir(tmp_path / "a/b") == ["x"]


def test_a_store_that_is_a_folder_syncs_what_it_writes_and_the_folders_it_makes(
    tmp_path: Path, synced: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", durable._sync_file)
    store = open_store(str(tmp_path / "store"), create=True)
    store.put("a/b/x", b"1")
    names = [call.partition("#")[0] for call in synced]
    assert names == [f"file {tmp_path.name}", "file store", "file a", "file x", "file b"]
    synced.clear()
    store.put("a/b/x", b"2")
    (tmp_path / "file").write_text("3")
    store.put_file("a/b/y", tmp_path / "file")
    assert [call.partition("#")[0] for call in synced] == ["file x", "file b", "file y", "file b"]
    assert [store.put_if_absent("a/b/x", b"3"), store.put_if_absent("a/b/z", b"3")] == [False, True]
    assert [store.get(f"a/b/{name}") for name in "xyz"] == [b"2", b"3", b"3"]


def test_a_receipt_that_waits_never_takes_the_place_of_a_successors(folder_workshop: Workshop) -> None:
    environment = folder_workshop.script("#!/bin/sh\ndate +%N >y\n")
    seals: list[Seal] = []
    folder_workshop.warm["seals"] = seals
    assert folder_workshop.live(environment) == 0
    assert folder_workshop.receipt() is None
    assert [os.path.basename(seal.target) for seal in seals] == [f"{'f' * 16}.json"]
    del folder_workshop.warm["seals"]
    assert folder_workshop.live({**environment, "AWS_BATCH_JOB_ATTEMPT": "2"}) == 0
    assert seal_all(seals) == [None]
    receipt = folder_workshop.receipt()
    assert receipt is not None
    assert receipt.attempt == 2


def test_what_planners_read_is_synced_and_a_log_is_not(
    folder_workshop: Workshop, synced: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", durable._sync_file)
    environment = folder_workshop.script("#!/bin/sh\nexit 3\n")
    synced.clear()
    assert folder_workshop.live(environment) == 3
    assert [call.partition("#")[0] for call in synced] == ["file 1.failure.json", "file s1"]


def test_an_older_receipt_is_gone_for_good_before_results_change(
    folder_workshop: Workshop, synced: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert folder_workshop.live(folder_workshop.script()) == 0
    assert folder_workshop.live(folder_workshop.script()) == 0
    synced.clear()
    renamed = []
    replace = os.replace

    def note(source: str, target: str) -> None:
        renamed.append((os.path.basename(target), list(synced)))
        replace(source, target)

    monkeypatch.setattr(os, "replace", note)
    environment = folder_workshop.script()
    synced.clear()
    assert folder_workshop.live(environment) == 0
    assert ("y", ["file s1"]) in renamed


@pytest.mark.parametrize("path", ["/proc/nowhere/at/all", "/proc/nowhere", ""])
def test_a_folder_that_no_folder_can_be_made_in_is_not_tried_for_ever(path: str) -> None:
    with pytest.raises(FileNotFoundError):
        durable.make_folder(path, synced=True)
