"""What a step left in a directory, under any name that it may have, is verified, traced, copied and exported."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote

import pytest

from batch_pipeline.provenance.crate import export
from batch_pipeline.provenance.release import release
from batch_pipeline.provenance.subset import subset
from batch_pipeline.provenance.trace import key_of, trace
from batch_pipeline.provenance.verify import all_promises, promises_below, repair, verify
from batch_pipeline.records.record import RunRecord, read_record
from batch_pipeline.records.results import read_checksums, receipt_of
from batch_pipeline.wire import layout
from batch_pipeline.wire.receipt import FileRecord
from batch_pipeline.wire.store import Store, open_store
from tests.provenance.made import Maker
from tests.run.small import drive, request_of

FOLDER = "results/upper/ann/qc"
#: A shell, a URL, a checksum file or a page could read each of them as something else.
NAMES = (".hidden", "a b%20c", "b\\n", "c?d", "d#e", "e*", "f'\"", "g/deep/er.txt", "h&<b>", "i;$(x)", "ü", "～")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "main"), create=True)


@pytest.fixture
def other(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "other"), create=True)


@pytest.fixture
def run(store: Store) -> RunRecord:
    """A run in which `upper` of ann left a directory that `count` of ann read."""
    run_id = drive(request_of(store), Maker(store)).run_ids[0]
    files = []
    for name in NAMES:
        store.put(f"{FOLDER}/{name}", name.encode())
        sha256 = hashlib.sha256(name.encode()).hexdigest()
        files.append(FileRecord(port="qc", key=f"{FOLDER}/{name}", size_bytes=len(name.encode()), sha256=sha256))
    for step, port in (("upper", "outputs"), ("count", "inputs")):
        receipt = receipt_of(store, step, "ann")
        assert receipt is not None
        changed = {port: (*getattr(receipt, port), *files)}
        key = layout.receipt(step, "ann", receipt.fingerprint)
        store.put_json(key, replace(receipt, **changed).to_json())  # type: ignore[arg-type]
    return read_record(store, run_id)


def test_the_folder_and_each_file_are_verified(store: Store, run: RunRecord) -> None:
    checked = list(verify(store, promises_below(store, FOLDER)))
    assert sorted(one.promise.key for one in checked) == sorted(f"{FOLDER}/{name}" for name in NAMES)
    assert not [one for one in checked if one.problem]
    assert all(len(promises_below(store, f"{FOLDER}/{name}")) == 1 for name in NAMES)
    store.delete([f"{FOLDER}/d#e"])
    bad = [one for one in verify(store, all_promises(store)) if one.problem]
    assert [one.promise.key for one in bad] == [f"{FOLDER}/d#e"]
    assert [layout.cell_of_receipt(key)[:2] for key in repair(store, bad)] == [("upper", "ann")]  # type: ignore[index]


def test_each_file_is_traced(store: Store, run: RunRecord) -> None:
    history = trace(store, "cohort/total/total.txt")
    assert {file.key for file in history.inputs["count", "ann"]} >= {f"{FOLDER}/{name}" for name in NAMES}
    assert history.problems == []
    for name in NAMES:
        assert trace(store, key_of(store, store.url_of(f"{FOLDER}/{name}"))).file.key == f"{FOLDER}/{name}"


def test_a_release_of_it_is_as_its_checksums_say(store: Store, run: RunRecord, other: Store) -> None:
    released = release(store, run, other)
    sums = read_checksums(other.get(f"{released.prefix}SHA256SUMS").decode())
    assert {name for name in sums if "/qc/" in name} == {f"{FOLDER}/{name}" for name in NAMES}
    assert not [one for one in verify(other, promises_below(other, released.prefix)) if one.problem]


def test_a_subset_has_it(store: Store, run: RunRecord, other: Store) -> None:
    subset(store, other, ["ann"], prefix="SR", patterns=["{sample}.txt"], results=True)
    assert sorted(other.keys(FOLDER)) == sorted(f"{FOLDER}/{name}" for name in NAMES)
    assert not [one for one in verify(other, all_promises(other)) if one.problem]


def test_a_crate_describes_each_file(store: Store, run: RunRecord, tmp_path: Path) -> None:
    export(store, run, str(tmp_path / "crate"))
    document = json.loads((tmp_path / "crate/ro-crate-metadata.json").read_text())
    described = {unquote(entity["@id"]) for entity in document["@graph"]}
    for name in NAMES:
        assert f"{FOLDER}/{name}" in described
        assert (tmp_path / "crate" / FOLDER / name).read_bytes() == name.encode()
