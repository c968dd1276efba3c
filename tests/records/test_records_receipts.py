"""Which receipts count: not those that are cut off, nor those that were retired; until others take their place."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from batch_pipeline.backends.quotas import AWS_BATCH
from batch_pipeline.pipeline.fingerprint import StepParts
from batch_pipeline.pipeline.plan import Inventory, Retired, Selection
from batch_pipeline.pipeline.planner import make_plan
from batch_pipeline.pipeline.workflow import Graph
from batch_pipeline.records import receipts
from batch_pipeline.records.receipts import (
    LEAST_BYTES,
    Retirements,
    absent_reference,
    all_standing_receipts,
    close_retirements,
    read_retirements,
)
from batch_pipeline.run.driver import Driver
from batch_pipeline.wire import layout
from batch_pipeline.wire.errors import StoreFailed
from batch_pipeline.wire.manifest import RetiredReceipt, Row, SourceFile
from batch_pipeline.wire.store import Store, open_store
from tests.cli.letters import Aligned
from tests.run.small import Stage, chosen, drive, request_of

WHOLE = b"x" * LEAST_BYTES


@pytest.fixture(params=["folder", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "store") if request.param == "folder" else f"memory://{tmp_path}", create=True)


def put(store: Store, step: str, sample: str, fingerprint: str, data: bytes = WHOLE) -> str:
    """A receipt; returns its version."""
    key = layout.receipt(step, sample, fingerprint)
    store.put(key, data)
    return store.version(store.head(key))


def retire(store: Store, run_id: str, *rows: tuple[str, str, str, str, bool], **references: str) -> None:
    receipts: dict[str, list[tuple[str, str, str, bool]]] = {}
    for step, *row in rows:
        receipts.setdefault(step, []).append(tuple(row))  # type: ignore[arg-type]
    value = {"run_id": run_id, "receipts": receipts, "references": references, "format": 1}
    store.put_json(layout.retired(run_id), value)


def test_a_receipt_counts_unless_it_is_cut_off_or_retired(store: Store) -> None:
    put(store, "a", "s1", "f1")
    put(store, "a", "s1", "f2")
    put(store, "a", "s2", "f1", b"x" * (LEAST_BYTES - 1))
    version = put(store, "b", "s1", "f3")
    retire(store, "RUN", ("b", "s1", "f3", version, True))
    for retirements in (Retirements(), read_retirements(store)):
        standing = all_standing_receipts(store, retirements)
        assert {sample: sorted(prints) for sample, prints in standing.counting["a"].items()} == {"s1": ["f1", "f2"]}
        assert standing.damaged == {"a": {"s2": ("f1",)}}
        assert ("b" in standing.retired) == ("b" not in standing.counting) == bool(retirements.receipts)
    assert standing.retired["b"]["s1"]["f3"] == Retired(run_id="RUN", version=version, must_run=True)


def test_what_is_no_receipt_is_left_aside(store: Store) -> None:
    for name in ("receipts/README", "receipts/a/s1/f1.txt", "receipts/a/s1/deep/f1.json"):
        store.put(name, WHOLE)
    assert all_standing_receipts(store, Retirements()) == all_standing_receipts(store, Retirements(), "receipts/b/")


def test_a_list_that_was_closed_since_it_was_listed_is_left_aside(store: Store) -> None:
    version = put(store, "a", "s1", "f1")
    retire(store, "RUN2", ("a", "s1", "f1", version, False))
    keys = list(store.keys(layout.RETIRED))
    store.keys = lambda prefix: iter([layout.retired("RUN1"), *keys])  # type: ignore[method-assign]
    assert len(read_retirements(store).receipts) == 1


def test_a_receipt_that_took_the_place_of_a_retired_one_counts(store: Store) -> None:
    version = put(store, "a", "s1", "f1")
    retire(store, "RUN", ("a", "s1", "f1", version, False))
    put(store, "a", "s1", "f1", WHOLE + b"new")
    assert all_standing_receipts(store, read_retirements(store)).counting == {"a": {"s1": ("f1",)}}


def test_a_cell_that_one_of_two_runs_forced_must_run(store: Store) -> None:
    version = put(store, "a", "s1", "f1")
    for first, second in ((True, False), (False, True)):
        retire(store, "RUN1", ("a", "s1", "f1", version, first))
        retire(store, "RUN2", ("a", "s1", "f1", version, second))
        key = (layout.receipt("a", "s1", "f1"), version)
        assert read_retirements(store).receipts[key] == Retired(run_id="RUN2", version=version, must_run=True)


@pytest.mark.parametrize(("first", "second"), [("RUN1", "RUN2"), ("RUN2", "RUN1")])
def test_of_two_versions_that_were_retired_neither_counts_whatever_the_order_of_the_runs(
    store: Store, first: str, second: str
) -> None:
    """Ids sort by the clocks of the machines that make them."""
    before = put(store, "a", "s1", "f1")
    retire(store, first, ("a", "s1", "f1", before, True))
    after = put(store, "a", "s1", "f1", WHOLE + b"new")
    retire(store, second, ("a", "s1", "f1", after, False))
    standing = all_standing_receipts(store, read_retirements(store))
    assert not standing.counting
    assert not standing.retired["a"]["s1"]["f1"].must_run


def test_a_list_of_a_later_version_is_refused(store: Store) -> None:
    store.put_json(layout.retired("RUN"), {"format": 2})
    with pytest.raises(StoreFailed, match="has format 2, and this version reads 1"):
        read_retirements(store)
    store.put(layout.retired("RUN"), b'{"format": 1, "rec')
    with pytest.raises(StoreFailed, match="Remove it and give your command once with --force"):
        read_retirements(store)


def test_what_no_longer_stands_is_taken_off_the_lists(store: Store) -> None:
    kept, replaced, removed = (put(store, "a", sample, "f1") for sample in ("s1", "s2", "s3"))
    retire(store, "RUN1", ("a", "s1", "f1", kept, False), ("a", "s2", "f1", replaced, True))
    retire(store, "RUN2", ("a", "s3", "f1", removed, False))
    put(store, "a", "s2", "f1", WHOLE + b"new")
    store.delete([layout.receipt("a", "s3", "f1")])

    close_retirements(store)

    assert store.get_json(layout.retired("RUN1"))["receipts"] == {"a": [["s1", "f1", kept, False]]}
    assert list(store.keys(layout.RETIRED)) == [layout.retired("RUN1")]
    store.calls.clear()
    close_retirements(store)
    assert "put" not in store.calls, "nothing changed"


def test_a_reference_is_absent_until_a_receipt_of_it_counts(store: Store) -> None:
    version = put(store, "reference", "hg", "f1")
    retire(store, "RUN", ("reference", "hg", "f1", version, False), hg="reference")
    assert absent_reference(store, read_retirements(store), "hg") == "RUN"
    assert absent_reference(store, read_retirements(store), "other") == ""
    store.delete([layout.receipt("reference", "hg", "f1")])
    close_retirements(store)
    assert absent_reference(store, read_retirements(store), "hg") == "RUN", "publishing broke off"
    put(store, "reference", "hg", "f2")
    assert absent_reference(store, read_retirements(store), "hg") == ""
    close_retirements(store)
    assert not list(store.keys(layout.RETIRED))


def test_a_store_that_is_copied_with_its_times_has_the_same_versions(tmp_path: Path) -> None:
    """Its files have other inodes."""
    store = open_store(str(tmp_path / "store"), create=True)
    version = put(store, "a", "s1", "f1")
    retire(store, "RUN", ("a", "s1", "f1", version, False))
    shutil.copytree(tmp_path / "store", tmp_path / "copy")
    copy = open_store(str(tmp_path / "copy"))
    key = layout.receipt("a", "s1", "f1")
    assert os.stat(tmp_path / "store" / key).st_ino != os.stat(tmp_path / "copy" / key).st_ino
    assert not all_standing_receipts(copy, read_retirements(copy)).counting


def test_a_run_retires_in_one_object_before_its_first_submission(store: Store) -> None:
    stage = Stage(store)
    drive(request_of(store), stage)
    seen: list[list[str]] = []
    submit = stage.submit
    stage.submit = lambda request: seen.append(list(store.keys(layout.RETIRED))) or submit(request)  # type: ignore[method-assign,func-returns-value]
    stage.play = lambda step, sample, attempt: int((step, sample) == ("upper", "ann"))

    outcome = drive(request_of(store, **chosen(force=True, steps=frozenset({"upper"}))), stage)

    assert seen == [[layout.retired(outcome.run_ids[0])]]
    named = store.get_json(layout.retired(outcome.run_ids[0]))["receipts"]
    # What was made again has left the list; what reads it is on it still, though it was not chosen.
    assert {step: sorted(row[0] for row in rows) for step, rows in named.items()} == {
        "upper": ["ann"],
        "count": ["ann", "bob", "cid"],
        "total": ["_cohort"],
    }
    driver = Driver(request_of(store), stage)
    plan = driver.inspect().plan
    driver.close()
    assert [sum(state.value == "to run" for state in plan.states[step]) for step in ("upper", "count", "total")] == [
        1,
        3,
        1,
    ]


def rows_of(store: Store, run_id: str) -> dict[tuple[str, str], RetiredReceipt | None]:
    found = {}
    for key in store.keys(layout.submissions(run_id)):
        if key.endswith("rows.txt"):
            step = store.get_json(key.replace("rows.txt", "manifest.json"))["step"]
            for row in map(Row.from_line, store.get(key).splitlines()):
                found[step, row.sample] = row.retired
    return found


def formats_of(store: Store, run_id: str) -> set[int]:
    keys = [key for key in store.keys(layout.submissions(run_id)) if key.endswith("manifest.json")]
    return {store.get_json(key)["format"] for key in keys}


def test_rows_tell_of_the_receipts_that_were_retired_by_this_run_and_by_earlier_ones(store: Store) -> None:
    stage = Stage(store)
    first = drive(request_of(store), stage)
    assert formats_of(store, first.run_ids[0]) == {1}, "what images of before read"
    assert set(rows_of(store, first.run_ids[0]).values()) == {None}
    stage.play = lambda step, sample, attempt: int((step, sample) == ("upper", "ann"))
    before = {(entry.key): store.version(entry) for entry in store.list(layout.RECEIPTS)}
    forced = drive(request_of(store, **chosen(force=True, steps=frozenset({"upper"}))), stage)
    assert formats_of(store, forced.run_ids[0]) == {2}
    rows = rows_of(store, forced.run_ids[0])
    versions = {cell: version for key, version in before.items() if (cell := (layout.cell_of_receipt(key) or ())[:2])}
    assert rows == {
        ("upper", sample): RetiredReceipt(version=versions["upper", sample], must_run=True)
        for sample in ("ann", "bob", "cid")
    }
    stage.play = lambda step, sample, attempt: 0

    plain = drive(request_of(store), stage)

    rows = rows_of(store, plain.run_ids[0])
    assert rows["upper", "ann"] == RetiredReceipt(version=versions["upper", "ann"], must_run=True)
    assert rows["count", "bob"] == RetiredReceipt(version=versions["count", "bob"])
    assert not list(store.keys(layout.RETIRED))


def test_a_reference_that_is_built_is_named_though_nothing_stands(store: Store) -> None:
    graph = Graph.of_reference(Aligned)
    parts = {"reference": StepParts(code="c", params={}, image="", references={})}
    sources = {
        "hg": {f"reference.{port}": (SourceFile(url=port, etag="e", size_bytes=1),) for port in ("fasta", "gtf")}
    }
    plan = make_plan(graph, ("hg",), parts, Inventory(sources=sources), Selection(), AWS_BATCH)
    assert receipts.retire(store, "RUN", plan, {}) == {}
    assert read_retirements(store).references == {"hg": ("reference", "RUN")}
    assert absent_reference(store, read_retirements(store), "hg") == "RUN"
    fingerprint = plan.fingerprints["reference"][0]
    put(store, "reference", "hg", fingerprint)
    store.delete(list(store.keys(layout.RETIRED)))
    done = Inventory(sources=sources, receipts={"reference": {"hg": (fingerprint,)}})
    receipts.retire(store, "RUN", make_plan(graph, ("hg",), parts, done, Selection(), AWS_BATCH), {})
    assert not list(store.keys(layout.RETIRED)), "nothing is built"


def test_a_first_run_retires_nothing_and_lists_no_more_than_it_needs(store: Store) -> None:
    drive(request_of(store), Stage(store))
    assert not list(store.keys(layout.RETIRED))
