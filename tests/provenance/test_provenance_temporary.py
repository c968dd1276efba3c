"""What `verify`, `trace`, `release`, `runs export` and `subset` say of files that were removed after use."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from batch_pipeline.provenance.crate import export
from batch_pipeline.provenance.release import release
from batch_pipeline.provenance.subset import subset
from batch_pipeline.provenance.trace import trace
from batch_pipeline.provenance.verify import all_promises, repair, verify
from batch_pipeline.records.record import RunRecord, read_record
from batch_pipeline.records.results import all_receipts
from batch_pipeline.report.trace_pages import trace_record
from batch_pipeline.wire import layout
from batch_pipeline.wire.store import Store, open_store
from tests.run.small import SAMPLES
from tests.run.test_run_temporary import ran

BAM = "results/align/ann/ann.bam"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "store"), create=True)


@pytest.fixture
def run(store: Store) -> RunRecord:
    [run_id] = ran(store).run_ids
    return read_record(store, run_id)


def test_verify_misses_nothing_that_was_removed_after_use(store: Store, run: RunRecord) -> None:
    checked = list(verify(store, all_promises(store)))
    removed = {one.promise.key: one.removed for one in checked if one.removed}
    assert removed == {f"results/align/{s}/{s}.bam": f"removed after use by run {run.run_id}" for s in SAMPLES}
    assert not repair(store, checked)


def test_verify_misses_a_temporary_file_that_nobody_recorded(store: Store, run: RunRecord) -> None:
    store.delete([key for key in store.keys(layout.RECEIPTS) if layout.port_of_removal(key)])
    problems = [one.problem for one in verify(store, all_promises(store)) if one.problem]
    assert len(problems) == 3


def test_a_trace_says_that_what_was_read_is_not_there(store: Store, run: RunRecord) -> None:
    words = f"removed after use by run {run.run_id}"
    history = trace(store, "results/call/ann/calls.vcf")
    assert not history.problems
    assert [file.removed for file in history.inputs["call", "ann"]] == [words]
    assert trace_record(trace(store, BAM))["file"]["removed"] == words


def test_a_release_has_the_record_and_can_be_verified_and_traced(store: Store, run: RunRecord) -> None:
    released = release(store, run, store)
    assert released.removed == 3
    record = store.get_json(f"{released.prefix}release.json")
    assert {"key": BAM, "run_id": run.run_id} in record["removed"]
    history = trace(store, f"{released.prefix}results/call/ann/calls.vcf")
    assert [bool(file.removed) for file in history.inputs["call", "ann"]] == [True]
    there = store.beside(store.url_of(released.prefix))
    assert not any(one.problem for one in verify(there, all_promises(there)))


def test_an_export_has_the_record(store: Store, run: RunRecord, tmp_path: Path) -> None:
    exported = export(store, run, str(tmp_path / "crate"))
    assert (exported.removed, exported.left_out) == (3, 0)
    files = {path.relative_to(tmp_path / "crate").as_posix() for path in (tmp_path / "crate").rglob("*")}
    assert BAM not in files
    document = json.loads((tmp_path / "crate/ro-crate-metadata.json").read_text())
    described = [one.get("description", "") for one in document["@graph"]]
    assert f"{BAM}: removed after use by run {run.run_id}" in described


def test_a_subset_has_the_record(store: Store, run: RunRecord, tmp_path: Path) -> None:
    target = open_store(str(tmp_path / "target"), create=True)
    copied = subset(store, target, ["ann"], prefix="SR", patterns=["{sample}.txt"], results=True)
    assert copied.removed == 1
    assert not any(one.problem for one in verify(target, all_promises(target)))
    assert {receipt.step for receipt in all_receipts(target)} == {"align", "call"}
