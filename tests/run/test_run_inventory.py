"""What planning reads: listings only, whatever the size."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import FrameType

import pytest

from batch_pipeline import Output, Reference, WorkflowTask
from batch_pipeline.backends.memory import MemoryBackend
from batch_pipeline.pipeline.plan import CellState, Why
from batch_pipeline.pipeline.samples import SampleList, parse_samples
from batch_pipeline.pipeline.workflow import Graph
from batch_pipeline.records.receipts import LEAST_BYTES, Retirements
from batch_pipeline.run.inventory import _beside, choose_reference, read_inventory
from batch_pipeline.wire import layout
from batch_pipeline.wire.errors import InvalidUse, StoreFailed
from batch_pipeline.wire.layout import COHORT
from batch_pipeline.wire.store import Store, open_store
from tests.run.small import Sketch, Stage, Upper, drive, look, new_store, request_of

BIG = 2500


class Align(Sketch):
    """Aligns."""

    genome = Reference("genome.fa", "genome.fa.fai")
    masks = Reference("masks.bed")
    bam = Output("{sample}.bam")


class Aligned(WorkflowTask):
    """One step with two references."""

    def workflow(self) -> None:
        self.new_task("align", Align)


def test_planning_costs_listings_alone_and_a_page_a_thousand_objects(store: Store) -> None:
    names = [f"s{number}" for number in range(BIG)]
    for name in names:
        store.put(f"SR/{name}.txt", b"x")
        for step in ("upper", "count"):
            store.put(f"receipts/{step}/{name}/0123456789abcdef.json", b" " * LEAST_BYTES)
    request = request_of(store, "s0", samples=SampleList.of(names))
    store.calls.clear()

    found = look(request, MemoryBackend())

    # live/ 1, retired/ 1, receipts 5, sources 3, runs/ 1: what failed before may be sent with more memory.
    assert dict(found.store_calls) == {"list": 11}
    assert len(found.inventory.receipts["count"]) == BIG
    assert len(found.inventory.sources) == BIG


def test_a_missing_source_blocks_its_sample_with_the_place_where_it_should_be(store: Store) -> None:
    request = request_of(store)
    store.delete(["SR/bob.txt"])

    plan = look(request, MemoryBackend()).plan

    sentence = plan.blocked["upper", "bob"]
    assert store.url_of("SR/bob.txt") in sentence
    assert "check the list and --sources" in sentence
    assert plan.states["upper"] == [CellState.TO_RUN, CellState.BLOCKED, CellState.TO_RUN]


def test_a_sheets_column_says_where_a_samples_file_lies(store: Store, tmp_path: Path) -> None:
    """In the store, below the sources' prefix, as a path here, as a URL; an empty column falls back to the name."""
    (tmp_path / "with space.txt").write_text("local")
    store.put("SR/deep/er.txt", b"deep")
    store.put("SR/plain.txt", b"plain")
    sheet = f"sample,file\ndeep,deep/er.txt\nhere,{tmp_path}/with space.txt\nurl,file://{tmp_path}/none.txt\nplain,\n"
    request = request_of(store, "plain", samples=parse_samples(sheet.encode(), "sheet.csv"))

    found = read_inventory(request, {}, Retirements())

    assert {name: [f.url for f in ports["upper.text"]] for name, ports in found.sources.items() if ports} == {
        "deep": ["SR/deep/er.txt"],
        "here": [f"file://{tmp_path}/with space.txt"],
        "plain": ["SR/plain.txt"],
    }
    assert list(found.absent) == ["url"]
    assert f"file://{tmp_path}/none.txt is not there" in found.absent["url"]


def test_a_relative_name_is_looked_for_below_the_sources_and_then_beside_the_sheet(
    store: Store, tmp_path: Path
) -> None:
    """So that a sheet of before goes on naming what it named."""
    for name in ("both.txt", "beside.txt", "deep/er.txt", "lane #1?.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("beside")
    store.put("SR/both.txt", b"sources")
    sheet = "sample,file\nboth,both.txt\nbeside,./beside.txt\ndeep,deep/er.txt\nnone,none.txt\nodd,lane #1?.txt\n"
    samples = parse_samples(sheet.encode(), "sheet.csv")
    request = request_of(store, "plain", samples=samples, sheet_folder=str(tmp_path))

    inventory = read_inventory(request, {}, Retirements())

    assert {name: [f.url for f in ports["upper.text"]] for name, ports in inventory.sources.items() if ports} == {
        "both": ["SR/both.txt"],
        "beside": [f"file://{tmp_path}/beside.txt"],
        "deep": [f"file://{tmp_path}/deep/er.txt"],
        "odd": [f"file://{tmp_path}/lane %231%3F.txt"],
    }
    assert inventory.absent == {
        "none": f"Its source {store.url_of('SR/none.txt')} is not there, nor in the folder of the sheet (column 'file',"
        " line 5 of sheet.csv); check the list and --sources."
    }
    given = read_inventory(replace(request, sheet_folder=None), {}, Retirements())
    assert set(given.absent) == {"beside", "deep", "none", "odd"}
    assert "is not there (column 'file', line 4 of sheet.csv)" in given.absent["deep"]


@pytest.mark.parametrize("name", ["deep//er.txt", "./deep/er.txt", "deep/./er.txt"])
def test_a_name_that_is_no_key_is_looked_for_beside_the_sheet(tmp_path: Path, name: str) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep/er.txt").write_text("beside")
    samples = parse_samples(f"sample,file\na,{name}\n".encode(), "sheet.csv")
    store = open_store(str(tmp_path / "store"), create=True)
    request = request_of(store, "plain", samples=samples, sheet_folder=str(tmp_path))

    (file,) = read_inventory(request, {}, Retirements()).sources["a"]["upper.text"]
    assert file.url == f"file://{tmp_path}/deep/er.txt"


def test_a_sheet_in_the_store_names_files_beside_it(store: Store) -> None:
    store.put("cohort/reads/a.txt", b"a")
    samples = parse_samples(b"sample,file\na,reads/a.txt\n", "cohort/sheet.csv")
    request = request_of(store, "plain", samples=samples, sheet_folder="cohort")

    assert read_inventory(request, {}, Retirements()).sources["a"]["upper.text"][0].url == "cohort/reads/a.txt"


@pytest.mark.parametrize(
    ("name", "folder", "place"),
    [
        ("a.fq", "/here", "file:///here/a.fq"),
        ("../a.fq", "/here/lists", "file:///here/a.fq"),
        ("a#1?.fq", "/here", "file:///here/a%231%3F.fq"),
        ("./r/a.fq", "s3://b/x", "s3://b/x/r/a.fq"),
        ("../a.fq", "s3://b/x", "s3://b/a.fq"),
        ("../../a.fq", "s3://b/x", ""),
        ("../../../a.fq", "s3://b/x", ""),
        ("a.fq", "", "a.fq"),
        ("../a.fq", "", ""),
    ],
)
def test_a_name_beside_the_sheet_is_a_path_a_url_or_a_key(name: str, folder: str, place: str) -> None:
    assert _beside(name, folder) == place


class Lanes(WorkflowTask):
    """Takes two files a row."""

    lanes = True

    def workflow(self) -> None:
        self.new_task("upper", Upper).in_text = self.source(columns=("one", "two"))


def test_lanes_are_one_port_in_the_order_of_the_sheet(store: Store) -> None:
    for name in "abcd":
        store.put(f"SR/{name}", name.encode())
    sheet = b"sample,one,two\nA,a,b\nB,a,\nA,c,d\nC,,\n"
    samples = parse_samples(sheet, "s.csv", lanes=True)
    request = request_of(store, "plain", workflow=Lanes, graph=Graph.of(Lanes, {}), samples=samples)

    inventory = read_inventory(request, {}, Retirements())

    files = {name: [file.url for file in ports["upper.text"]] for name, ports in inventory.sources.items()}
    assert files == {"A": ["SR/a", "SR/b", "SR/c", "SR/d"], "B": ["SR/a"], "C": []}
    assert inventory.absent == {"C": "Its source is not named: line 5 of s.csv has no 'one' or 'two'."}


def test_folders_below_one_another_are_listed_once(store: Store) -> None:
    store.put("SR/a/x.txt", b"x")
    store.put("SR/a/b/y.txt", b"y")
    sheet = b"sample,file\none,a/x.txt\ntwo,a/b/y.txt\n"
    request = request_of(store, "ann", samples=parse_samples(sheet, "sheet.csv"))
    store.calls.clear()

    found = read_inventory(request, {}, Retirements())

    assert not found.absent
    assert dict(store.calls) == {"list": 2}


def test_a_folder_of_sources_that_is_not_there_is_like_missing_files(store: Store) -> None:
    request = request_of(store, sources="/nowhere/at/all")

    assert set(read_inventory(request, {}, Retirements()).absent) == {"ann", "bob", "cid"}


def test_sources_that_cannot_be_read_are_no_missing_files(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else every sample would be called missing while the network is down."""
    request = request_of(store)

    def broken(prefix: str, *, etags: bool = True) -> None:
        raise StoreFailed("The network is down.")

    monkeypatch.setattr(store, "list_pages", broken)
    with pytest.raises(StoreFailed, match="network is down"):
        read_inventory(request, {}, Retirements())


def test_a_local_source_has_the_etag_that_a_listing_of_its_folder_shows(store: Store, tmp_path: Path) -> None:
    """Else a run would hold its own sources for replaced when they are given by another way."""
    (tmp_path / "ann.txt").write_text("text")
    request = request_of(store, "ann", sources=str(tmp_path))

    (file,) = read_inventory(request, {}, Retirements()).sources["ann"]["upper.text"]

    (entry,) = open_store(str(tmp_path)).list("")
    assert (file.etag, file.size_bytes) == (entry.etag, entry.size_bytes)


def test_a_replaced_source_makes_the_cell_new(store: Store, stage: Stage) -> None:
    request = request_of(store)
    drive(request, stage)
    store.put("SR/bob.txt", b"another text")

    plan = look(request, stage).plan

    assert [state is CellState.TO_RUN for state in plan.states["count"]] == [False, True, False]


def test_keys_that_are_no_receipts_are_left_alone(store: Store) -> None:
    request = request_of(store)
    for key in ("receipts/upper/ann/x.json.tmp", "receipts/upper/deep/er/x.json", "receipts/other/ann/x.json"):
        store.put(key, b"?")

    assert read_inventory(request, {}, Retirements()).receipts == {"upper": {}, "count": {}, "total": {}}


def vouch(store: Store, step: str, sample: str, name: str) -> str:
    """Puts a result, has the cell's receipt name it, and returns its key."""
    [key] = store.keys(layout.receipts(step, sample))
    result = layout.result(step, sample, name)
    store.put(result, b"data")
    outputs = [{"port": name, "key": result, "size_bytes": 4}]
    store.put_json(key, store.get_json(key) | {"outputs": outputs})
    return result


def test_results_that_were_touched_count_as_missing_when_asked(store: Store, stage: Stage) -> None:
    request = request_of(store)
    drive(request, stage)
    count, total = vouch(store, "count", "cid", "count.txt"), vouch(store, "total", COHORT, "total.txt")
    assert not look(request_of(store, check_results=True), stage).plan.jobs
    store.delete([count])
    store.put(total, b"other")
    [cut] = store.keys(layout.receipts("upper", "ann"))
    store.put(cut, store.get(cut)[:-9])

    assert not look(request, stage).plan.jobs
    plan = look(request_of(store, check_results=True), stage).plan

    assert plan.problems == {
        ("count", "cid"): f"{count} was removed",
        ("total", COHORT): f"{total} has 5 bytes instead of 4",
        ("upper", "ann"): "its receipt cannot be read",
    }
    assert plan.why["upper"] == [Why.UNTRUE, None, None]
    assert plan.why["count"] == [Why.UPSTREAM, None, Why.UNTRUE]


def test_a_pipeline_without_references_lists_none(store: Store) -> None:
    request = request_of(store)
    store.calls.clear()

    assert choose_reference(request, Retirements()) == ("", {})
    assert not store.calls


def calls_of_plan(samples: int, *, done: bool) -> int:
    """Functions that planning two steps a sample and a gather calls, those of C included."""
    store, backend, count = new_store(), MemoryBackend(), 0
    request = request_of(store, *(f"s{number:04}" for number in range(samples)))
    plan = look(request, backend).plan
    for step in ("upper", "count") if done else ():
        for name, fingerprint in zip(plan.samples, plan.fingerprints[step], strict=True):
            store.put(layout.receipt(step, name, fingerprint), b" " * LEAST_BYTES)

    def note(_frame: FrameType, event: str, _argument: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(note)
    try:
        look(request, backend)
    finally:
        sys.setprofile(None)
    return count


@pytest.mark.parametrize(("done", "most"), [(False, 66), (True, 54)], ids=["new", "done"])
def test_a_cell_costs_a_plan_few_calls_whatever_steps_may_have_that_these_have_not(done: bool, most: int) -> None:
    assert (calls_of_plan(150, done=done) - calls_of_plan(50, done=done)) / 200 <= most


def test_what_a_pipeline_does_not_have_is_not_imported_to_find_out_that_nothing_is_to_do() -> None:
    rare = {f"batch_pipeline.{name}" for name in ("luigi_adapter.submit", "pipeline.conditions", "pipeline.command")}
    script = "import sys; import batch_pipeline.run.driver; print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout
    assert rare.isdisjoint(modules.split())


def test_a_manifest_names_each_file_of_a_reference_and_refuses_images_that_would_read_one(store: Store) -> None:
    for name in ("genome.fa", "genome.fa.fai", "masks.bed"):
        store.put(f"references/hg/{name}", b"x")
    drive(request_of(store, "ann", workflow=Aligned, graph=Graph.of(Aligned)), Stage(store))
    header = store.get_json(next(key for key in store.keys("runs") if key.endswith("/manifest.json")))
    assert [(spec["port"], spec["key"]) for spec in header["references"]] == [
        ("genome", "references/hg/genome.fa"),
        ("genome", "references/hg/genome.fa.fai"),
        ("masks", "references/hg/masks.bed"),
    ]
    assert (header["needs"], header["format"]) == (["references"], 3)
    receipt = store.get_json(next(store.keys("receipts/align")))
    assert receipt["sample"] == "ann"
    store.delete(["references/hg/genome.fa.fai"])
    with pytest.raises(InvalidUse, match=r"has no file 'genome.fa.fai', which step align needs"):
        look(request_of(store, "ann", workflow=Aligned, graph=Graph.of(Aligned)), MemoryBackend())


def test_the_only_reference_is_taken_and_several_are_asked_about(store: Store) -> None:
    from batch_pipeline import Reference, Step, WorkflowTask
    from batch_pipeline.pipeline.workflow import Graph

    class Indexed(Step):
        index = Reference("index.bin")

    class Workflow(WorkflowTask):
        def workflow(self) -> None:
            self.new_task("indexed", Indexed)

    request = request_of(store, graph=Graph.of(Workflow))
    assert choose_reference(request, Retirements()) == ("", {})
    store.put("references/one/index.bin", b"1")
    name, files = choose_reference(request, Retirements())
    assert (name, list(files)) == ("one", ["index.bin"])
    store.put("references/two/index.bin", b"2")
    with pytest.raises(InvalidUse, match=r"one, two.*--reference"):
        choose_reference(request, Retirements())
    assert choose_reference(request_of(store, graph=request.graph, reference="two"), Retirements())[0] == "two"
