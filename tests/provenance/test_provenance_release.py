"""Releases and subsets: whole, true to their receipts, finished after a kill, and never changed."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from batch_pipeline.provenance import transfer
from batch_pipeline.provenance.release import release
from batch_pipeline.provenance.subset import subset
from batch_pipeline.provenance.trace import trace
from batch_pipeline.provenance.transfer import FileToCopy, Transfer
from batch_pipeline.provenance.verify import promises_below, verify
from batch_pipeline.records.history import read_events
from batch_pipeline.records.record import RunRecord, read_record
from batch_pipeline.records.registry import Query, find_runs
from batch_pipeline.records.results import read_checksums
from batch_pipeline.wire import layout
from batch_pipeline.wire.errors import InvalidUse, RunConflict, StoreFailed
from batch_pipeline.wire.store import Store, open_store
from tests.provenance.made import Maker
from tests.run.small import drive, request_of


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "main"), create=True)


@pytest.fixture
def other(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "other"), create=True)


@pytest.fixture
def maker(store: Store) -> Maker:
    return Maker(store)


@pytest.fixture
def run(store: Store, maker: Maker) -> RunRecord:
    return read_record(store, drive(request_of(store), maker).run_ids[0])


def stopping_after(files: int) -> Callable[[FileToCopy], None]:
    """A listener in whose hands the command is killed."""
    seen: list[FileToCopy] = []

    def told(file: FileToCopy) -> None:
        seen.append(file)
        if len(seen) == files:
            raise KeyboardInterrupt

    return told


def keys(store: Store) -> list[str]:
    return [entry.key for entry in store.list("")]


def events(store: Store, run: RunRecord) -> list[str]:
    return [event.event for event in read_events(store, run.run_id)]


# Releases.


def test_a_release_has_results_receipts_records_and_checksums(store: Store, run: RunRecord, other: Store) -> None:
    told = release(store, run, other)

    assert told.prefix.startswith("release/20")
    assert told.prefix.endswith(f"/{run.run_id}/")
    folder = other.path_of(told.prefix)
    assert folder is not None
    sums = read_checksums((folder / "SHA256SUMS").read_text())
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert files == {*sums, "SHA256SUMS"}
    assert {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in sums} == sums
    kinds = {name.split("/")[0] for name in sums}
    assert kinds == {"results", "cohort", "receipts", "runs", "code", "release.json"}
    assert len([name for name in sums if name.startswith(("results/", "cohort/"))]) == 7
    assert events(store, run) == ["ended", "release begun", "released"]


def test_a_release_is_verified_and_traced_like_a_store(store: Store, run: RunRecord, other: Store) -> None:
    told = release(store, run, other)
    assert not [one for one in verify(other, promises_below(other, told.prefix)) if one.problem]
    found = trace(other, f"{told.prefix}cohort/total/total.txt")
    assert len(found.makers) == 7
    assert found.problems == []
    assert all(maker.run is not None for maker in found.makers.values())
    inside = other.beside(told.url)
    assert [one.run_id for one in find_runs(inside, Query())] == [run.run_id]


def test_a_flipped_byte_of_a_release_is_found(store: Store, run: RunRecord, other: Store) -> None:
    told = release(store, run, other)
    path = other.path_of(f"{told.prefix}results/upper/ann/ann.txt")
    assert path is not None
    path.chmod(0o644)
    data = bytearray(path.read_bytes())
    data[0] ^= 1
    path.write_bytes(data)
    bad = [one.promise.key for one in verify(other, promises_below(other, told.prefix)) if one.problem]
    assert bad == [f"{told.prefix}results/upper/ann/ann.txt"]


def test_a_release_is_never_made_twice(store: Store, run: RunRecord, other: Store) -> None:
    release(store, run, other)
    with pytest.raises(RunConflict, match="a release is never changed"):
        release(store, run, other)
    release(store, run, store)


def test_files_of_a_release_can_be_read_only(store: Store, run: RunRecord) -> None:
    told = release(store, run, store)
    folder = store.path_of(told.prefix)
    assert folder is not None
    assert {oct(path.stat().st_mode & 0o777) for path in folder.rglob("*") if path.is_file()} == {"0o444"}
    source = store.path_of("results/upper/ann/ann.txt")
    assert source is not None
    assert os.stat(source).st_ino != os.stat(folder / "results/upper/ann/ann.txt").st_ino
    assert os.access(source, os.W_OK)
    assert source.stat().st_mode & 0o200


@pytest.mark.parametrize("files", [1, 5, 20])
def test_a_killed_release_is_finished_by_the_same_command(
    store: Store, run: RunRecord, other: Store, files: int
) -> None:
    with pytest.raises(KeyboardInterrupt):
        release(store, run, other, on_copied=stopping_after(files))
    (prefix,) = {key.rsplit(f"/{run.run_id}/")[0] for key in other.keys("release")}
    assert not any(key.endswith("SHA256SUMS") for key in other.keys("release"))
    copied: list[FileToCopy] = []

    told = release(store, run, other, on_copied=copied.append)

    assert told.prefix == f"{prefix}/{run.run_id}/"
    assert len(copied) < told.files
    assert not [one for one in verify(other, promises_below(other, told.prefix)) if one.problem]
    assert events(store, run).count("release begun") == 1


def test_a_release_that_was_begun_another_day_keeps_its_date(store: Store, run: RunRecord, other: Store) -> None:
    from batch_pipeline.records.history import Happened, append

    prefix = layout.release("2020-02-29", run.run_id)
    append(store, run.run_id, Happened.RELEASE_BEGUN, to=other.url, prefix=prefix)
    assert release(store, run, other).prefix == prefix


def test_a_run_that_is_not_whole_is_refused_unless_asked_for(store: Store, run: RunRecord, other: Store) -> None:
    store.delete(list(store.keys(layout.receipts("count", "bob"))))
    with pytest.raises(InvalidUse, match="1 cells that are not done, count of bob first"):
        release(store, run, other)
    assert list(other.keys("release")) == []
    assert release(store, run, other, partial=True).missing == 1


def test_a_result_that_is_not_what_its_receipt_says_is_not_released(store: Store, run: RunRecord, other: Store) -> None:
    data = bytearray(store.get("results/count/bob/count.txt"))
    data[-1] ^= 1
    store.put("results/count/bob/count.txt", bytes(data))
    with pytest.raises(StoreFailed, match=r"bob/count\.txt is not what it must be"):
        release(store, run, other)
    assert not any(key.endswith(("SHA256SUMS", "bob/count.txt")) for key in other.keys("release"))


# Copying.


@pytest.fixture
def streamed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything goes in pieces."""
    monkeypatch.setattr(transfer, "SMALL", 0)


def file_of(data: bytes, **changes: Any) -> FileToCopy:
    told = {"key": "big", "size_bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    return FileToCopy(**{**told, **changes})


def test_large_files_go_in_pieces(store: Store, other: Store, streamed: None) -> None:
    data = os.urandom(20 << 20)
    store.put("big", data)
    (copied,) = Transfer(store, other, [file_of(data, sha256="")], "at/").copy_all(lambda file: None)
    assert other.get("at/big") == data
    assert copied.sha256 == hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize("changes", [{"sha256": "0" * 64}, {"size_bytes": 7}])
@pytest.mark.parametrize("small", [0, 1 << 30])
def test_what_is_not_as_it_must_be_never_is_in_the_target(
    store: Store, other: Store, changes: dict[str, Any], small: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "SMALL", small)
    store.put("big", b"0123456789")
    with pytest.raises(StoreFailed, match="big is not what it must be: 10 bytes"):
        Transfer(store, other, [file_of(b"0123456789", **changes)]).copy_all(lambda file: None)
    assert list(keys(other)) == []


@pytest.mark.parametrize("small", [0, 1 << 30])
def test_a_file_that_is_gone_is_named(store: Store, other: Store, small: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "SMALL", small)
    with pytest.raises(StoreFailed, match=r"main/big is gone\."):
        Transfer(store, other, [file_of(b"x")]).copy_all(lambda file: None)


# Subsets.


def sources(store: Store, *names: str) -> None:
    for name in names:
        store.put(f"SR/{name}", f"reads in {name}".encode())


BAMS = ("{sample}.bam", "{sample}.bam.bai")


def test_chosen_samples_are_copied_and_recorded_on_both_sides(store: Store, other: Store) -> None:
    sources(store, "S1.bam", "S1.bam.bai", "S2.bam", "S10.bam", "S1.2.bam", "S1.bam.old")

    told = subset(store, other, ["S1", "S2"], prefix="SR/", patterns=BAMS)

    assert sorted(other.keys("SR")) == ["SR/S1.bam", "SR/S1.bam.bai", "SR/S2.bam"]
    assert other.get("SR/S2.bam") == b"reads in S2.bam"
    record = other.get_json(layout.subset(told.subset_id))
    assert record == store.get_json(layout.subset(told.subset_id))
    assert (record["from"], record["to"], record["samples"]) == (store.url, other.url, ["S1", "S2"])
    end = store.get_json(layout.subset_end(told.subset_id))
    assert {file["key"]: file["sha256"] for file in end["files"]} == {
        key: hashlib.sha256(other.get(key)).hexdigest() for key in other.keys("SR")
    }


def test_results_go_along_when_asked_for(store: Store, run: RunRecord, other: Store) -> None:
    subset(store, other, ["ann"], prefix="SR", patterns=["{sample}.txt"], results=True)
    there = sorted(key for key in keys(other) if not key.startswith("subsets/"))
    assert [key for key in there if key.startswith("results/")] == [
        "results/count/ann/count.txt",
        "results/upper/ann/ann.txt",
    ]
    assert {key.split("/")[2] for key in there if key.startswith("receipts/")} == {"ann"}
    assert not [one for one in verify(other, promises_below(other, "results")) if one.problem]


def test_doing_it_again_copies_nothing(store: Store, other: Store) -> None:
    sources(store, "S1.bam", "S2.bam")
    subset(store, other, ["S1"], prefix="SR", patterns=BAMS)
    copied: list[FileToCopy] = []
    told = subset(store, other, ["S1", "S2"], prefix="SR", patterns=BAMS, on_copied=copied.append)
    assert [file.key for file in copied] == ["SR/S2.bam"]
    assert (told.files, told.there) == (2, 1)


def test_another_file_of_the_same_name_is_not_replaced(store: Store, other: Store) -> None:
    sources(store, "S1.bam", "S2.bam")
    other.put("SR/S2.bam", b"mine")
    with pytest.raises(RunConflict, match=r"SR/S2\.bam is there with another size"):
        subset(store, other, ["S1", "S2"], prefix="SR", patterns=BAMS)
    assert sorted(keys(other)) == ["SR/S2.bam"]


@pytest.mark.parametrize(
    ("samples", "prefix", "patterns", "told"),
    [
        (["S1", "S9"], "SR", BAMS, "1 samples have no file"),
        (["S1"], "SR", ["reads.bam"], "has no {sample}"),
        (["S1"], "s3://x/y", BAMS, "a prefix of both stores"),
        (["S1"], "/data", BAMS, "a prefix of both stores"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    store: Store, other: Store, samples: list[str], prefix: str, patterns: list[str], told: str
) -> None:
    sources(store, "S1.bam")
    with pytest.raises(InvalidUse, match=told):
        subset(store, other, samples, prefix=prefix, patterns=patterns)
    assert list(keys(other)) == []
    with pytest.raises(InvalidUse, match="Name two stores"):
        subset(store, store, ["S1"], prefix="SR", patterns=BAMS)


def test_a_killed_copy_left_its_record_on_both_sides(store: Store, other: Store) -> None:
    sources(store, *(f"S{number}.bam" for number in range(30)))
    names = [f"S{number}" for number in range(30)]
    with pytest.raises(KeyboardInterrupt):
        subset(store, other, names, prefix="SR", patterns=BAMS, on_copied=stopping_after(3))
    (record,) = (key for key in other.keys("subsets"))
    assert len(json.loads(store.get(record))["files"]) == 30
