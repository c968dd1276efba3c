"""Conditions and optional inputs from the sample sheet to the manifests, without an engine."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from batch_pipeline import Input, Output, Param, Scope, WorkflowTask
from batch_pipeline.backends.memory import MemoryBackend
from batch_pipeline.config import Settings
from batch_pipeline.pipeline.plan import CellState, Selection
from batch_pipeline.pipeline.samples import parse_samples
from batch_pipeline.pipeline.workflow import Graph
from batch_pipeline.records.record import read_record
from batch_pipeline.records.request import Request
from batch_pipeline.records.results import results_of
from batch_pipeline.run.recorded import recorded_status
from batch_pipeline.wire.errors import InvalidSampleList
from batch_pipeline.wire.store import Store
from tests.run.small import Count, Sketch, Stage, drive, look, request_of

SHEET = b"sample,kind,extra\nann,rich,\nbob,plain,notes.txt\ncid,rich,none.txt\n"


class Trim(Sketch):
    """Cuts."""

    text = Input()
    cut = Output("{sample}.cut.txt")
    trims: bool = Param(True)


class Read(Sketch):
    """Reads a text, and notes where there are any."""

    text = Input()
    notes = Input(optional=True)
    cut = Input(optional=True)
    unused = Input(optional=True)
    count = Output("count.txt")


class Table(Sketch):
    """One table."""

    scope = Scope.COHORT
    counts = Input()
    cuts = Input()
    total = Output("total.txt")


class Texts(WorkflowTask):
    """A step with a condition, its readers, and a gather of both."""

    def workflow(self) -> None:
        trim = self.new_task("trim", Trim, when="kind != 'plain' and trims")
        read = self.new_task("read", Read)
        count = self.new_task("count", Count)
        table = self.new_task("table", Table)
        trim.in_text = self.source("{sample}.txt")
        count.in_text = trim.out_cut | self.source("{sample}.raw")
        read.in_text = self.source("{sample}.txt")
        read.in_notes = self.source(column="extra")
        read.in_cut = trim.out_cut
        table.in_counts = count.out_count
        table.in_cuts = trim.out_cut


@pytest.fixture(autouse=True)
def files(store: Store) -> None:
    store.put("SR/bob.raw", b"raw")
    store.put("SR/notes.txt", b"notes")


def texts(store: Store, sheet: bytes = SHEET, **params: Any) -> Request:
    samples = parse_samples(sheet, "sheet.csv")
    return request_of(store, workflow=Texts, graph=Graph.of(Texts, params), samples=samples)


def rows_of(store: Store, step: str) -> dict[str, Any]:
    """Sample -> its row, and `manifest` -> the header, of the newest jobs of a step."""
    rows: dict[str, Any] = {}
    for key in store.keys("runs"):
        if key.endswith("/rows.txt") and f"/{step}" in key:
            rows |= {json.loads(line)[0]: json.loads(line)[2:] for line in store.get(key).splitlines()}
            rows["manifest"] = store.get_json(key.replace("rows.txt", "manifest.json"))
    return rows


def test_a_source_that_an_alternative_replaces_and_an_optional_one_may_be_missing(store: Store) -> None:
    plan = look(texts(store), MemoryBackend()).plan
    assert plan.states["trim"] == [CellState.TO_RUN, CellState.EXCLUDED, CellState.TO_RUN]
    assert plan.states["count"] == [CellState.TO_RUN] * 3
    assert plan.states["read"] == [CellState.TO_RUN] * 3
    store.delete(["SR/bob.raw"])
    plan = look(texts(store), MemoryBackend()).plan
    assert plan.states["count"] == [CellState.TO_RUN, CellState.BLOCKED, CellState.TO_RUN]
    assert "bob.raw is not there" in plan.blocked["count", "bob"]


def test_manifests_say_what_each_cell_reads(store: Store) -> None:
    outcome = drive(texts(store), Stage(store))
    assert not outcome.failed
    count, read, table = (rows_of(store, step) for step in ("count", "read", "table"))
    assert count["manifest"]["format"] == 3
    assert count["ann"][0] == {}
    assert list(count["ann"][1]) == ["trim"]
    assert count["ann"][2] == {"from": {"text": 0}}
    assert [file["url"] for file in count["bob"][0]["text"]] == ["SR/bob.raw"]
    assert count["bob"][1:] == [{}, {"from": {"text": 1}}]
    assert read["ann"][0]["notes"] == []
    assert [file["url"] for file in read["bob"][0]["notes"]] == ["SR/notes.txt"]
    assert len(read["bob"]) == 2, "it chose nothing"
    assert [spec["kind"] for spec in read["manifest"]["inputs"]] == ["source", "source", "alternatives", "source"]
    header = table["manifest"]
    assert header["excluded"] == ["bob"]
    assert header["missing"] == []
    assert {step: [cell[0] for cell in cells] for step, cells in header["gathered"].items()} == {
        "count": ["ann", "bob", "cid"],
        "trim": ["ann", "cid"],
    }


def test_an_optional_file_that_comes_or_goes_is_another_input(store: Store) -> None:
    drive(texts(store), Stage(store))
    store.put("SR/none.txt", b"some after all")
    plan = look(texts(store), MemoryBackend()).plan
    assert plan.states["read"] == [CellState.DONE, CellState.DONE, CellState.TO_RUN]
    store.delete(["SR/none.txt", "SR/notes.txt"])
    plan = look(texts(store), MemoryBackend()).plan
    assert plan.states["read"] == [CellState.DONE, CellState.TO_RUN, CellState.DONE]


def test_excluded_cells_are_told_apart_from_what_is_missing(store: Store, settings: Settings) -> None:
    outcome = drive(texts(store), Stage(store))
    assert outcome.progress["trim"].line == "2/2 done, 1 excluded"
    assert outcome.progress["count"].line == "3/3 done"
    recorded = recorded_status(store, settings)
    assert recorded.plan.states["trim"] == [CellState.DONE, CellState.EXCLUDED, CellState.DONE]
    assert recorded.progress["trim"].line == "2/2 done, 1 excluded"
    results = results_of(store, read_record(store, outcome.run_ids[0]))
    assert results.missing == []


def test_a_parameter_excludes_every_cell_and_back_again(store: Store) -> None:
    drive(texts(store), Stage(store))
    sheet = SHEET.replace(b"rich", b"plain")
    store.put("SR/ann.raw", b"raw")
    store.put("SR/cid.raw", b"raw")
    outcome = drive(texts(store, sheet), Stage(store))
    assert outcome.progress["trim"].line == "0/0 done, 3 excluded"
    assert outcome.progress["table"].line == "1/1 done"
    assert rows_of(store, "table")["manifest"]["gathered"]["trim"] == []


def test_min_success_counts_the_samples_that_a_gather_can_have(store: Store) -> None:
    play = Stage(store, lambda step, sample, attempt: int((step, sample) == ("trim", "ann")))
    request = texts(store)
    drive(request, play)
    held = look(request_of_share(request, 0.9), MemoryBackend()).plan
    assert held.states["table"] == [CellState.DEFERRED]
    drive(request_of_share(request, 0.6), play)
    header = rows_of(store, "table")["manifest"]
    assert (header["missing"], header["excluded"]) == (["ann"], ["bob"])


def request_of_share(request: Request, share: float) -> Request:
    return replace(request, selection=Selection(min_success=share))


@pytest.fixture
def settings(store: Store) -> Settings:
    return request_of(store).settings


def test_a_source_of_an_excluded_step_is_not_what_a_sample_lacks(store: Store) -> None:
    """bob's trim is excluded, so his text is not missing; the sheet of the alternative is."""
    store.delete(["SR/bob.raw", "SR/bob.txt"])
    plan = look(texts(store), MemoryBackend()).plan
    assert "bob.raw is not there" in plan.blocked["count", "bob"]


def test_a_sheet_needs_the_columns_of_an_alternative_only_where_a_sample_takes_it(store: Store) -> None:
    class Sheets(WorkflowTask):
        """Counts what is cut, or what the sheet names."""

        def workflow(self) -> None:
            trim = self.new_task("trim", Trim, when="kind != 'plain'")
            count = self.new_task("count", Count)
            trim.in_text = self.source("{sample}.txt")
            count.in_text = trim.out_cut | self.source(columns=("first", "second"))

    request = replace(texts(store), workflow=Sheets, graph=Graph.of(Sheets))
    with pytest.raises(
        InvalidSampleList, match=r"count\.in_text reads the column 'first', which sheet.csv does not have"
    ):
        look(request, MemoryBackend())
    others = texts(store, SHEET.replace(b"plain", b"poor"))
    plan = look(replace(others, workflow=Sheets, graph=request.graph), MemoryBackend()).plan
    assert plan.states["count"] == [CellState.TO_RUN] * 3
