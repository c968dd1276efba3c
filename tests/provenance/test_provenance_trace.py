"""From a file back to the sources; and whether files are what their receipts say."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from batch_pipeline.provenance.trace import key_of, trace
from batch_pipeline.provenance.verify import all_promises, promises_below, promises_of_run, repair, verify
from batch_pipeline.records import results
from batch_pipeline.records.receipts import LEAST_BYTES, absent_reference, all_standing_receipts, read_retirements
from batch_pipeline.records.record import read_record
from batch_pipeline.records.results import all_receipts, maker_of, receipt_of, results_of
from batch_pipeline.report.trace_pages import Branch, trace_record, tree_of
from batch_pipeline.wire import layout
from batch_pipeline.wire.errors import InvalidUse, StoreFailed
from batch_pipeline.wire.receipt import FileRecord, Receipt
from batch_pipeline.wire.store import Store, open_store
from tests.provenance.made import REFERENCE, Maker
from tests.run.small import SAMPLES, drive, request_of

TOTAL = "cohort/total/total.txt"


@pytest.fixture
def made(store: Store) -> Maker:
    """A store with a whole run in it."""
    maker = Maker(store)
    assert drive(request_of(store, argv=("run", "--samples", "all")), maker).ok
    return maker


def words(branch: Branch) -> list[str]:
    """All lines of a tree."""
    return [*branch.lines, *(line for child in branch.children for line in words(child))]


def run_of(store: Store) -> str:
    (run_id,) = store.folders(layout.RUNS)
    return run_id


# Tracing.


def test_a_gathers_file_goes_back_to_every_sample_and_its_source(store: Store, made: Maker) -> None:
    found = trace(store, TOTAL)

    assert set(found.makers) == {("total", "_cohort"), *((step, s) for step in ("upper", "count") for s in SAMPLES)}
    assert {file.key for file in found.sources} == {REFERENCE, *(f"SR/{sample}.txt" for sample in SAMPLES)}
    assert found.problems == []
    assert found.file.sha256 == made.output("total", "_cohort").sha256
    (source,) = [file for file in found.sources if file.key == "SR/ann.txt"]
    assert source.etag == store.head("SR/ann.txt").etag


def test_each_cell_is_read_once(store: Store, made: Maker) -> None:
    store.calls.clear()
    trace(store, TOTAL)
    # 7 receipts, the record, its end and plan, and the checksums of a reference that no step built.
    assert store.calls["get"] == 7 + 3 + 1


def test_one_sample_of_a_gather_is_followed_alone(store: Store, made: Maker) -> None:
    found = trace(store, TOTAL, samples=frozenset({"bob"}))
    assert set(found.makers) == {("total", "_cohort"), ("count", "bob"), ("upper", "bob")}


def test_the_tree_tells_code_command_image_tools_and_reference(store: Store, made: Maker) -> None:
    run_id = run_of(store)
    record = store.get_json(layout.run_record(run_id))
    plan = store.get_json(layout.plan(run_id))
    plan["parts"]["upper"]["image"] = "reg/upper@sha256:abc"
    store.put_json(layout.plan(run_id), plan)
    store.put("references/hg/SHA256SUMS", b"feedbeef  index.idx\n")

    told = "\n".join(words(tree_of(trace(store, "results/upper/ann/ann.txt"))))

    assert f"run: {run_id} by {record['user']}" in told
    assert record["commit"] in told
    assert "command: run --samples all" in told
    assert "image: reg/upper@sha256:abc" in told
    assert "tools: counter 1.2" in told
    assert f"index: {REFERENCE} (5 bytes, sha256 feedbeef, ETag r1, a source)" in told
    assert f"ETag {store.head('SR/ann.txt').etag}, a source" in told


def test_a_cell_that_two_read_from_is_told_once(store: Store, made: Maker) -> None:
    lines = words(tree_of(trace(store, TOTAL)))
    assert sum(line.startswith("upper of ann, done") for line in lines) == 1


def test_the_json_has_every_cell_with_its_code(store: Store, made: Maker) -> None:
    told = trace_record(trace(store, "results/count/ann/count.txt"))
    record = store.get_json(layout.run_record(run_of(store)))
    assert [(cell["step"], cell["sample"]) for cell in told["cells"]] == [("count", "ann"), ("upper", "ann")]
    assert {cell["commit"] for cell in told["cells"]} == {record["commit"]}
    assert told["cells"][0]["params"] == {"depth": 1}
    assert told["file"]["made_by"] == {"step": "count", "sample": "ann"}


def test_a_file_that_was_made_again_after_it_was_read_is_told(store: Store, made: Maker) -> None:
    receipt = receipt_of(store, "upper", "ann")
    assert receipt is not None
    key = layout.receipt("upper", "ann", receipt.fingerprint)
    later = replace(receipt, started_at="2027-01-01T00:00:00.000Z")
    others = replace(later, outputs=tuple(replace(one, sha256="0" * 64) for one in receipt.outputs))
    store.put_json(key, others.to_json())

    found = trace(store, "results/count/ann/count.txt")

    assert found.problems == ["results/upper/ann/ann.txt: upper of ann was done again after it was read."]
    assert set(found.makers) == {("count", "ann")}
    # The same bytes are what was read, whenever they were made; where nobody noted the bytes, times tell.
    store.put_json(key, later.to_json())
    assert trace(store, "results/count/ann/count.txt").problems
    reader = receipt_of(store, "count", "ann")
    assert reader is not None
    digests = {one.key: one.sha256 for one in receipt.outputs}
    inputs = tuple(replace(one, sha256=digests.get(one.key, one.sha256)) for one in reader.inputs)
    store.put_json(layout.receipt("count", "ann", reader.fingerprint), replace(reader, inputs=inputs).to_json())
    assert not trace(store, "results/count/ann/count.txt").problems


def test_a_receipt_that_is_gone_is_told(store: Store, made: Maker) -> None:
    store.delete(list(store.keys(layout.receipts("upper", "ann"))))
    found = trace(store, "results/count/ann/count.txt")
    assert found.problems == ["results/upper/ann/ann.txt: The receipt of upper of ann is gone."]


def test_a_run_whose_record_is_gone_is_told_by_its_id(store: Store, made: Maker) -> None:
    run_id = run_of(store)
    store.delete([layout.run_record(run_id), layout.plan(run_id)])
    assert f"run: {run_id}, whose record is gone" in words(tree_of(trace(store, "results/upper/ann/ann.txt")))


def test_a_reference_that_a_step_built_goes_back_to_what_it_was_built_from(store: Store, made: Maker) -> None:
    built = Receipt(
        run_id="R0",
        step="reference",
        sample="hg",
        fingerprint="f0",
        attempt=1,
        started_at="2025-01-01T00:00:00.000Z",
        stopped_at="2025-01-01T00:00:01.000Z",
        inputs=(FileRecord(port="fasta", key="file:///data/hg.fa", size_bytes=9, etag="e"),),
        outputs=(FileRecord(port="index", key=REFERENCE, size_bytes=5, sha256="ab" * 32),),
    )
    store.put_json(layout.receipt("reference", "hg", "f0"), built.to_json())

    found = trace(store, "results/upper/ann/ann.txt")

    assert ("reference", "hg") in found.makers
    assert {file.key for file in found.sources} == {"SR/ann.txt", "file:///data/hg.fa"}
    (index,) = [file for file in found.inputs["upper", "ann"] if file.key == REFERENCE]
    assert index.sha256 == "ab" * 32


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("results/upper/ann/other.txt", "is no output of upper"),
        ("results/upper/nobody/nobody.txt", "No receipt in"),
        ("SR/ann.txt", "No receipt in"),
        ("s3://elsewhere/results/x", "is not in the store"),
        ("/somewhere/else.txt", "is not in the store"),
        ("", "No receipt in"),
    ],
)
def test_what_cannot_be_traced_is_refused(store: Store, made: Maker, path: str, told: str) -> None:
    with pytest.raises(InvalidUse, match=told):
        trace(store, path)


def test_a_damaged_receipt_is_named(store: Store, made: Maker) -> None:
    (key,) = store.keys(layout.receipts("upper", "ann"))
    store.put(key, b"[]")
    with pytest.raises(StoreFailed, match=key):
        trace(store, "results/upper/ann/ann.txt")


def test_a_file_is_named_by_key_path_or_url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "store here"
    folder.mkdir()
    (tmp_path / "link").symlink_to(folder)
    store = open_store(str(folder))
    key = "results/upper/ann/ann.txt"
    monkeypatch.chdir(tmp_path)
    for text in (
        key,
        f"{folder}/{key}",
        f"store here/{key}",
        f"link/{key}",
        store.url_of(key),
        f"file://{folder}/{key}",
    ):
        assert key_of(store, text) == key
    monkeypatch.chdir(folder / ".")
    assert key_of(store, "./results/upper/ann/ann.txt") == key


def test_keys_tell_who_makes_them(store: Store) -> None:
    assert maker_of(store, "results/upper/ann/a/b.txt") == ("upper", "ann")
    assert maker_of(store, TOTAL) == ("total", "_cohort")
    for key in ("results/upper", "results/upper/ann", "cohort/total", "SR/ann.bam", "references/hg/index.idx", ""):
        assert maker_of(store, key) is None


# Verifying.


def problems(store: Store, promises: object) -> dict[str, str]:
    return {one.promise.key: one.problem for one in verify(store, promises) if one.problem}  # type: ignore[arg-type]


def test_a_whole_run_is_as_its_receipts_say(store: Store, made: Maker) -> None:
    promises = promises_of_run(store, read_record(store, run_of(store)))
    checked = list(verify(store, promises))
    assert len(checked) == 7
    assert not any(one.problem for one in checked)
    assert sum(one.size_bytes for one in checked) == sum(promise.size_bytes or 0 for promise in promises)


def test_of_all_receipts_no_more_are_read_than_are_being_verified(
    store: Store, made: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(results, "READ_AHEAD", 1)
    before = store.calls["get"]
    next(iter(all_promises(store)))
    assert store.calls["get"] - before <= 2
    assert len(list(verify(store, all_promises(store)))) == 7


@pytest.mark.parametrize("at", [0, 3, -1])
def test_one_changed_byte_is_found_and_named(store: Store, made: Maker, at: int) -> None:
    key = "results/count/bob/count.txt"
    data = bytearray(store.get(key))
    data[at] ^= 1
    store.put(key, bytes(data))

    found = problems(store, all_promises(store))

    assert list(found) == [key]
    assert "Its SHA-256 is" in found[key]
    assert "receipts/count/bob/" in found[key]


def test_a_shorter_and_an_absent_file_are_told_as_such(store: Store, made: Maker) -> None:
    store.put("results/upper/ann/ann.txt", b"x")
    store.delete(["cohort/total/total.txt"])
    found = problems(store, all_promises(store))
    assert found["results/upper/ann/ann.txt"].startswith("It has 1 bytes;")
    assert found[TOTAL].startswith("It is not there, but receipts/total/")
    assert len(found) == 2


@pytest.mark.parametrize(
    ("path", "files"),
    [
        ("results", 6),
        ("results/upper", 3),
        ("results/upper/", 3),
        ("results/upper/ann", 1),
        ("results/upper/ann/ann.txt", 1),
        ("cohort", 1),
        ("cohort/total", 1),
        (TOTAL, 1),
    ],
)
def test_files_and_folders_choose_what_is_read(store: Store, made: Maker, path: str, files: int) -> None:
    assert len(promises_below(store, path)) == files


@pytest.mark.parametrize("path", ["results/upper/nobody", "results/upper/ann/x", "SR", "cohort/none/x", "release/a/b"])
def test_what_nobody_vouches_for_is_refused(store: Store, made: Maker, path: str) -> None:
    with pytest.raises(InvalidUse):
        promises_below(store, path)


def test_a_run_answers_for_cells_that_were_done_before_it(store: Store, made: Maker) -> None:
    made.store.delete(list(store.keys(layout.receipts("count", "bob"))))
    outcome = drive(request_of(store), made)
    found = results_of(store, read_record(store, outcome.run_ids[0]))
    assert len(found.receipts) == 7
    assert found.missing == []
    store.delete(list(store.keys(layout.receipts("count", "cid"))))
    assert results_of(store, read_record(store, outcome.run_ids[0])).missing == [("count", "cid")]


def test_of_two_receipts_the_newer_counts(store: Store, made: Maker) -> None:
    receipt = receipt_of(store, "upper", "ann")
    assert receipt is not None
    older = replace(receipt, fingerprint="older", stopped_at="2020-01-01T00:00:00.000Z")
    store.put_json(layout.receipt("upper", "ann", "older"), older.to_json())
    assert receipt_of(store, "upper", "ann") == receipt
    assert [one for one in all_receipts(store) if (one.step, one.sample) == ("upper", "ann")] == [receipt]
    assert sum(1 for _ in all_receipts(store)) == 7


def test_receipts_of_a_whole_store_are_read_as_they_are_asked_for(
    store: Store, made: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(results, "READ_AHEAD", 2)
    receipts = all_receipts(store)
    store.calls.clear()
    assert next(receipts).step == "count"
    assert store.calls["get"] == 2
    assert sum(1 for _ in receipts) == 6


def test_a_run_without_cells_has_no_results(store: Store) -> None:
    store.put_json(layout.run_record("R"), {"run_id": "R", "started_at": "", "kind": "driver"})
    with pytest.raises(InvalidUse, match="no steps of its own"):
        promises_of_run(store, read_record(store, "R"))


def counting(store: Store) -> set[tuple[str, str]]:
    standing = all_standing_receipts(store, read_retirements(store)).counting
    return {(step, sample) for step, samples in standing.items() for sample in samples}


def test_what_is_repaired_is_not_done_any_more(store: Store, made: Maker) -> None:
    before = counting(store)
    store.put("results/count/bob/count.txt", b"other")
    store.delete(["results/upper/cid/cid.txt"])
    found = list(verify(store, all_promises(store)))

    retired = repair(store, found)

    assert {layout.cell_of_receipt(key) for key in retired} == {
        ("count", "bob", print_of(store, "count", "bob")),
        ("upper", "cid", print_of(store, "upper", "cid")),
    }
    assert before - counting(store) == {("count", "bob"), ("upper", "cid")}
    # What is not done vouches for nothing.
    assert not problems(store, all_promises(store))
    assert repair(store, list(verify(store, all_promises(store)))) == []


def test_a_receipt_that_cannot_be_read_is_named_and_repaired(store: Store, made: Maker) -> None:
    before = counting(store)
    key = layout.receipt("count", "bob", print_of(store, "count", "bob"))
    store.put(key, store.get(key)[:-10])

    (bad,) = [checked for checked in verify(store, all_promises(store)) if checked.problem]

    assert bad.promise.key == key
    assert bad.problem == "It cannot be read, and vouches for nothing."
    assert [checked.problem for checked in verify(store, promises_below(store, "results/upper"))] == [""] * 3
    assert bad in list(verify(store, promises_below(store, "results")))
    assert repair(store, [bad]) == [key]
    assert before - counting(store) == {("count", "bob")}
    assert not problems(store, all_promises(store))


@pytest.mark.parametrize("end", [LEAST_BYTES - 1, 40, 0])
def test_a_receipt_that_is_cut_off_is_named(store: Store, made: Maker, end: int) -> None:
    key = layout.receipt("count", "bob", print_of(store, "count", "bob"))
    store.put(key, store.get(key)[:end])
    assert [checked.promise.key for checked in verify(store, all_promises(store)) if checked.problem] == [key]


def test_who_read_bytes_that_nothing_but_reading_tells_apart_must_run(tmp_path: Path) -> None:
    """A disk that rots: the file has its size and time, and other bytes, and its reader's receipt cannot know."""
    store = open_store(str(tmp_path / "store"), create=True)
    for sample in SAMPLES:
        store.put(f"SR/{sample}.txt", b"text")
    assert drive(request_of(store), Maker(store)).ok
    path = tmp_path / "store" / "results/upper/bob/bob.txt"
    path.write_bytes(bytes(byte ^ 1 for byte in path.read_bytes()))

    retired = repair(store, list(verify(store, all_promises(store))))

    cells = (("upper", "bob"), ("count", "bob"))
    assert set(retired) == {layout.receipt(*cell, print_of(store, *cell)) for cell in cells}
    found = all_standing_receipts(store, read_retirements(store)).retired
    assert [one.must_run for one in found["upper"]["bob"].values()] == [False]
    assert [one.must_run for one in found["count"]["bob"].values()] == [True]


def test_a_receipt_that_was_replaced_since_is_not_retired(store: Store, made: Maker) -> None:
    key = "results/count/bob/count.txt"
    data = store.get(key)
    store.put(key, b"other")
    found = list(verify(store, all_promises(store)))
    store.put(key, data)
    assert repair(store, found) == []


def test_a_reference_that_is_repaired_is_absent_until_it_is_built(store: Store, made: Maker) -> None:
    receipt = receipt_of(store, "upper", "ann")
    assert receipt is not None
    output = FileRecord(port="index", key=REFERENCE, size_bytes=1, sha256="0" * 64)
    built = replace(receipt, step="reference", sample="hg", outputs=(output,))
    store.put_json(layout.receipt("reference", "hg", receipt.fingerprint), built.to_json())
    repair(store, list(verify(store, promises_below(store, REFERENCE))))
    assert absent_reference(store, read_retirements(store), "hg")


def print_of(store: Store, step: str, sample: str) -> str:
    receipt = receipt_of(store, step, sample)
    assert receipt is not None
    return receipt.fingerprint
