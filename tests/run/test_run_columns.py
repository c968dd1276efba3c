"""Columns of the sheet from the plan to the manifest: fingerprints, rows, the header of a gather, what changed."""

from __future__ import annotations

from typing import Any

import pytest

from batch_pipeline import Column, Scope, WorkflowTask
from batch_pipeline.backends.memory import MemoryBackend
from batch_pipeline.pipeline.plan import CellState, Selection
from batch_pipeline.pipeline.samples import parse_samples
from batch_pipeline.pipeline.workflow import Graph
from batch_pipeline.records.request import Request
from batch_pipeline.run.status import explain
from batch_pipeline.wire import layout
from batch_pipeline.wire.errors import InvalidSampleList
from batch_pipeline.wire.manifest import Manifest, Row
from batch_pipeline.wire.store import Store
from tests.run import small
from tests.run.small import Stage, drive, look, request_of

SHEET = "sample,strandedness,depth\nann,auto,1\nbob,reverse,2\ncid,auto,\n"


class Count(small.Count):
    """Counts by strand."""

    strand: str = Column("strandedness", choices=("auto", "forward", "reverse"))
    many: int = Column("depth", default=9)


class Total(small.Total):
    """Knows the strands."""

    scope = Scope.COHORT
    strand: str = Column("strandedness")


class Stranded(WorkflowTask):
    """Two steps a sample, the second with columns, and a gather with one."""

    count: type[small.Count] = Count
    total: type[small.Total] = Total

    def workflow(self) -> None:
        upper = self.new_task("upper", small.Upper)
        count = self.new_task("count", self.count)
        total = self.new_task("total", self.total)
        upper.in_text = self.source("{sample}.txt")
        count.in_text = upper.out_upper
        total.in_counts = count.out_count


class Plain(Stranded):
    """The same without columns."""

    count = small.Count
    total = small.Total


def request(store: Store, sheet: str = SHEET, workflow: type[WorkflowTask] = Stranded, **changes: Any) -> Request:
    samples = parse_samples(sheet.encode(), "sheet.csv")
    return request_of(store, workflow=workflow, graph=Graph.of(workflow, {}), samples=samples, **changes)


def to_run(store: Store, sheet: str, workflow: type[WorkflowTask] = Stranded) -> set[tuple[str, str]]:
    plan = look(request(store, sheet, workflow), MemoryBackend()).plan
    return {(step, name) for step in plan.states for name, state in plan.cells(step) if state is CellState.TO_RUN}


@pytest.fixture
def stage(store: Store) -> Stage:
    return Stage(store)


TOTAL = ("total", layout.COHORT)


@pytest.mark.parametrize(
    ("old", "new", "cells"),
    [
        ("bob,reverse", "bob,forward", {("count", "bob"), TOTAL}),
        ("bob,reverse,2", "bob,reverse,3", {("count", "bob"), TOTAL}),
        ("cid,auto,", "cid,auto,9", set()),
        ("bob,reverse,2", "bob,reverse,02", set()),
        ("depth\n", "depth \n", set()),
    ],
)
def test_a_changed_value_runs_again_its_cell_and_what_reads_it(
    old: str, new: str, cells: set[tuple[str, str]], store: Store, stage: Stage
) -> None:
    drive(request(store), stage)
    assert to_run(store, SHEET.replace(old, new)) == cells


def test_the_order_of_columns_and_what_no_step_declares_are_no_part_of_a_fingerprint(
    store: Store, stage: Stage
) -> None:
    drive(request(store), stage)
    other = "note,depth,sample,strandedness\nx,1,ann,auto\ny,2,bob,reverse\nz,,cid,auto\n"
    assert to_run(store, other) == set()


def test_a_step_without_columns_has_the_fingerprints_of_before(store: Store, stage: Stage) -> None:
    drive(request(store, workflow=Plain), stage)
    sheet = SHEET.replace("reverse", "forward")
    assert to_run(store, sheet, Plain) == set()
    assert not {cell for cell in to_run(store, sheet) if cell[0] == "upper"}


def test_rows_and_header_have_the_values_and_need_an_image_that_knows_them(store: Store, stage: Stage) -> None:
    (run_id,) = drive(request(store), stage).run_ids

    assert rows(store, run_id, "count-0-0") == [
        {"strand": "auto", "many": 1}, {"strand": "reverse", "many": 2}, {"strand": "auto", "many": 9}
    ]  # fmt: skip
    count, total, upper = (header(store, run_id, job) for job in ("count-0-0", "total", "upper-0-0"))
    assert (count.format, count.needs, count.columns) == (3, ("columns",), (("strand", "str"), ("many", "int")))
    assert total.gathered_columns == {"ann": ["auto"], "bob": ["reverse"], "cid": ["auto"]}
    assert (upper.format, upper.needs) == (1, ())
    assert "columns" not in store.get_json(layout.submission(run_id, "upper-0-0", "manifest.json"))


def test_a_row_has_its_retired_receipt_beside_its_values(store: Store, stage: Stage) -> None:
    drive(request(store), stage)
    (run_id,) = drive(request(store, selection=Selection(force=True)), stage).run_ids

    assert rows(store, run_id, "count-0-0")[1] == {"strand": "reverse", "many": 2}
    lines = store.get(layout.submission(run_id, "count-0-0", "rows.txt")).splitlines()
    assert all(Row.from_line(line).retired for line in lines)


def header(store: Store, run_id: str, job: str) -> Manifest:
    return Manifest.from_json(store.get_json(layout.submission(run_id, job, "manifest.json")))


def rows(store: Store, run_id: str, job: str) -> list[dict[str, Any]]:
    lines = store.get(layout.submission(run_id, job, "rows.txt")).splitlines()
    return [dict(Row.from_line(line).columns) for line in lines]


def test_explain_names_the_column_that_changed(store: Store, stage: Stage) -> None:
    drive(request(store), stage)
    changed = SHEET.replace("bob,reverse,2", "bob,forward,2").replace("cid,auto,", "cid,auto,8")

    by_step = {part.step: part.changed for part in explain(request(store, changed), "bob")}

    assert by_step["count"] == ["column strand: reverse -> forward"]
    assert by_step["total"] == ["column strand of bob: reverse -> forward", "step count runs again"]
    assert [part.changed for part in explain(request(store, changed), "cid")][1] == ["column many: 9 -> 8"]


def test_a_sheet_with_problems_costs_no_listing_of_results(store: Store) -> None:
    with pytest.raises(InvalidSampleList, match=r"line 3 of sheet\.csv\), column 'strandedness'"):
        look(request(store, SHEET.replace("reverse", "back")), MemoryBackend())
