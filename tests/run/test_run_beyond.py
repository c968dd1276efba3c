"""Steps that a pipeline lacks and its store has: what they made of results that are made again is not done."""

from __future__ import annotations

import pytest

from batch_pipeline import Input, Output, Scope, WorkflowTask
from batch_pipeline.pipeline.plan import CellState, Selection, Why
from batch_pipeline.pipeline.workflow import Graph
from batch_pipeline.records.request import Request
from batch_pipeline.run.status import status
from batch_pipeline.wire import layout
from batch_pipeline.wire.errors import RunConflict
from batch_pipeline.wire.layout import COHORT
from batch_pipeline.wire.store import Store
from tests.run.small import Count, Share, Sketch, Stage, Total, Upper, drive, look, request_of


class Apart(Sketch):
    """Reads nothing that others make."""

    scope = Scope.SAMPLE
    text = Input()
    apart = Output("apart.txt")


class Whole(WorkflowTask):
    """A step, one that reads it, a gather, what fans out below it, and one apart."""

    def workflow(self) -> None:
        upper, count = self.new_task("upper", Upper), self.new_task("count", Count)
        total, share = self.new_task("total", Total), self.new_task("share", Share)
        apart = self.new_task("apart", Apart)
        upper.in_text = self.source("{sample}.txt")
        apart.in_text = self.source("{sample}.txt")
        count.in_text = upper.out_upper
        total.in_counts = count.out_count
        share.in_total = total.out_total


class Shorter(WorkflowTask):
    """Its first step alone."""

    def workflow(self) -> None:
        upper = self.new_task("upper", Upper)
        upper.in_text = self.source("{sample}.txt")


def shorter(store: Store, selection: Selection | None = None, *samples: str) -> Request:
    chosen = selection or Selection()
    return request_of(
        store, *samples, workflow=Shorter, graph=Graph.of(Shorter, {}), selection=chosen, share_steps=True
    )


def whole(store: Store) -> Request:
    return request_of(store, workflow=Whole, graph=Graph.of(Whole, {}), share_steps=True)


def undone(store: Store, stage: Stage) -> set[tuple[str, str]]:
    plan = look(whole(store), stage).plan
    return {(step, name) for step in plan.states for name, state in plan.cells(step) if state is not CellState.DONE}


BELOW = {("count", "ann"), ("total", COHORT), *(("share", name) for name in ("ann", "bob", "cid"))}


@pytest.mark.parametrize("recorded", [True, False], ids=["recorded", "records gone"])
def test_what_reads_a_result_that_a_shorter_pipeline_makes_again_is_not_done(
    store: Store, stage: Stage, recorded: bool
) -> None:
    drive(whole(store), stage)
    if not recorded:
        store.delete(list(store.keys(layout.RUNS)))
    store.delete(list(store.keys(layout.receipts("upper", "ann"))))

    drive(shorter(store), stage)

    # Where nobody knows what a step reads, it may read anything.
    everything = {(step, name) for step in ("count", "share", "apart") for name in ("ann", "bob", "cid")}
    assert undone(store, stage) == (BELOW if recorded else everything | {("total", COHORT)})
    assert look(whole(store), stage).plan.why["total"] != [Why.NEVER_DONE]
    drive(whole(store), stage)
    assert not undone(store, stage)
    assert not list(store.keys(layout.RETIRED))


def test_a_shorter_pipeline_with_nothing_to_do_reads_no_records(store: Store, stage: Stage) -> None:
    drive(whole(store), stage)
    store.calls.clear()
    assert not drive(shorter(store), stage).run_ids
    assert not store.calls["get"]


def test_what_a_live_job_of_another_step_reads_is_not_made_again(store: Store, stage: Stage) -> None:
    stage.play = lambda step, sample, attempt: int(step == "apart")
    drive(whole(store), stage)
    stage.is_open = False
    store.delete(list(store.keys(layout.receipts("count", "ann"))))
    drive(whole(store), stage, detach=True)
    before = len(stage.jobs)

    with pytest.raises(RunConflict, match="still working on count of sample ann, a step that this pipeline lacks"):
        drive(shorter(store, Selection(force=True)), stage)
    assert len(stage.jobs) == before
    # Of another sample it reads nothing, but the gather below does.
    with pytest.raises(RunConflict, match=r"share of sample ann|total of the cohort"):
        drive(shorter(store, Selection(force=True, samples=frozenset({"bob"}))), stage)


def test_a_shorter_pipeline_looks_at_a_live_run_of_a_longer_one_and_closes_it_with_all_failures(
    store: Store, stage: Stage
) -> None:
    stage.play = lambda step, sample, attempt: int((step, sample) == ("count", "bob"))
    stage.is_open = False
    drive(whole(store), stage, detach=True)
    [run_id] = store.folders(layout.RUNS)
    assert drive(shorter(store), stage, detach=True).run_ids == (run_id,)
    stage.is_open = True

    drive(shorter(store), stage)

    end = store.get_json(layout.run_end(run_id))
    assert (end["done"], end["failed"]) == (8, 5)
    failed = {(cell.step, cell.sample) for cell in status(whole(store)).failed}
    assert failed == {("count", "bob")}
