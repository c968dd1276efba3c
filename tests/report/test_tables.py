from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from batch_pipeline.backends.quotas import AWS_BATCH
from batch_pipeline.pipeline.fingerprint import StepParts
from batch_pipeline.pipeline.plan import Inventory, Plan, Selection, Why
from batch_pipeline.pipeline.planner import make_plan
from batch_pipeline.pipeline.workflow import Graph, WorkflowTask
from batch_pipeline.records.events import FailedCell, Outcome, StepProgress
from batch_pipeline.report.records import outcome_record, plain, plan_record
from batch_pipeline.report.tables import (
    blocked_lines,
    counted,
    failure_groups,
    first_few,
    job_rows,
    nothing_to_do,
    plan_rows,
    root_causes,
    with_cells,
)
from batch_pipeline.wire.contract import EndReason
from batch_pipeline.wire.manifest import SourceFile
from tests.run.small import Count, Total, Upper


class Chain(WorkflowTask):
    """Two steps and a gather."""

    def workflow(self) -> None:
        first, second, last = (
            self.new_task(name, step) for name, step in (("first", Upper), ("second", Count), ("last", Total))
        )
        first.in_text = self.source("{sample}.txt")
        second.in_text = first.out_upper
        last.in_counts = second.out_count


def planned(
    samples: Sequence[str],
    *,
    receipts: Mapping[str, Mapping[str, tuple[str, ...]]] | None = None,
    absent: Mapping[str, str] | None = None,
    **chosen: Any,
) -> Plan:
    graph = Graph.of(Chain)
    file = SourceFile(url="SR/x", etag="e", size_bytes=1)
    missing = absent or {}
    inventory = Inventory(
        receipts=receipts or {},
        sources={sample: {} if sample in missing else {"first.text": (file,)} for sample in samples},
        absent=missing,
    )
    parts = {node.name: StepParts(code=node.name, params={}, image="", references={}) for node in graph}
    return make_plan(graph, samples, parts, inventory, Selection(**chosen), AWS_BATCH)


def cell(step: str, sample: str, reason: EndReason, because_of: str = "", message: str = "") -> FailedCell:
    return FailedCell(step=step, sample=sample, reason=reason, message=message, because_of=because_of)


def test_a_fresh_plan_has_a_row_a_step_and_a_job_a_step() -> None:
    plan = planned(["A", "B", "C"])
    rows = plan_rows(plan)
    assert [(row.step, row.total, row.to_run, row.done, row.why) for row in rows] == [
        ("first", 3, 3, 0, "never done"),
        ("second", 3, 3, 0, "never done"),
        ("last", 1, 1, 0, "never done"),
    ]
    assert [(job.job, job.size, job.after) for job in job_rows(plan)] == [
        ("first-0-0", 3, ()),
        ("second-0-0", 3, ("each child after its twin in first-0-0",)),
        ("last", 1, ("after all of second-0-0",)),
    ]


def test_reasons_are_counted_when_there_are_several() -> None:
    fresh = planned(["A", "B", "C"])
    receipts = {
        "first": {"A": (fresh.fingerprints["first"][0],), "B": ("old",)},
        "second": {"A": (fresh.fingerprints["second"][0],)},
    }
    row = plan_rows(planned(["A", "B", "C"], receipts=receipts))[0]
    assert (row.done, row.to_run) == (1, 2)
    assert dict(row.reasons) == {Why.NEVER_DONE: 1, Why.CHANGED: 1}
    assert set(row.why.split(", ")) == {"1 never done", "1 changed since it was done"}


def test_cells_that_were_not_chosen_and_cells_that_cannot_run_have_their_columns() -> None:
    plan = planned(["A", "B"], absent={"B": "It is gone."}, steps=frozenset({"first"}))
    first, second, _ = plan_rows(plan)
    assert (first.to_run, first.blocked, second.to_run, second.skipped + second.blocked) == (1, 1, 0, 2)
    assert "first: B: It is gone." in blocked_lines(plan.blocked)


def test_blocked_cells_are_told_by_sentence_and_cut() -> None:
    words = ["one", "two", "three", "four", "five", "six", "seven"]
    blocked = [("first", f"S{i}", f"The {word} file S{i}.bam is not there.") for i, word in enumerate(words)]
    blocked += [("first", f"T{i}", f"The first file T{i}.bam is not there.") for i in range(17)]
    blocked = [*blocked[-17:], *blocked[:-17]]
    blocked += [("second", f"S{i}", "It needs first, which cannot run.") for i in range(17)]
    lines = blocked_lines(blocked)
    assert lines[0] == "first: T0, T1, T2, T3, T4 and 12 more: The first file T0.bam is not there."
    assert lines[1] == "first: S0: The one file S0.bam is not there."
    assert lines[5] == "first: and 3 more."
    assert lines[6] == "second: S0, S1, S2, S3, S4 and 12 more: It needs first, which cannot run."
    assert len(lines) == 7


def test_what_never_ran_is_folded_onto_its_root_cause() -> None:
    failed = [cell("picard", f"S{i}", EndReason.OUT_OF_MEMORY) for i in range(35)]
    failed += [cell("picard", f"S{i}", EndReason.DISK_FULL) for i in range(35, 38)]
    failed += [cell("kallisto", f"S{i}", EndReason.DEPENDENCY, "picard") for i in range(38)]
    failed += [cell("pizzly", f"S{i}", EndReason.DEPENDENCY, "kallisto") for i in range(38)]
    failed += [cell("pizzly", f"S{i}", EndReason.TIMEOUT) for i in range(38, 41)]
    assert root_causes(failed) == [
        "picard: 38 failed: 35 out of memory, 3 disk full",
        "kallisto: 38 not run: 38 because picard failed (35 out of memory, 3 disk full)",
        "pizzly: 41 not run: 38 because picard failed (35 out of memory, 3 disk full), 3 own (3 timeout)",
    ]


def test_a_root_cause_that_nobody_knows_is_told_without_a_reason() -> None:
    assert root_causes([cell("b", "S", EndReason.DEPENDENCY, "a")]) == ["b: 1 not run: 1 because a failed"]
    assert root_causes([cell("b", "S", EndReason.DEPENDENCY)]) == [
        "b: 1 not run: 1 because something that it needs failed"
    ]


def test_what_was_cancelled_is_not_said_to_have_failed() -> None:
    failed = [cell("a", f"S{i}", EndReason.CANCELLED) for i in range(3)]
    failed += [cell("a", "S3", EndReason.TIMEOUT)]
    assert root_causes(failed) == ["a: 1 failed: 1 timeout, 3 cancelled"]
    assert root_causes(failed[:3]) == ["a: 3 cancelled"]
    failed += [cell("b", f"S{i}", EndReason.DEPENDENCY, "a") for i in range(3)]
    failed += [cell("b", "S9", EndReason.CANCELLED)]
    assert root_causes(failed)[1] == "b: 4 not run: 3 because a was cancelled, 1 cancelled"
    assert StepProgress(step="a", failed={EndReason.CANCELLED: 2, EndReason.TIMEOUT: 1}).line == (
        "0/3 done, 2 cancelled, 1 failed: timeout"
    )


def test_a_circle_of_becauses_ends() -> None:
    failed = [cell("a", "S", EndReason.DEPENDENCY, "b"), cell("b", "S", EndReason.DEPENDENCY, "a")]
    assert len(root_causes(failed)) == 2


def test_failures_are_grouped_by_step_reason_and_what_is_said_of_them() -> None:
    failed = [
        cell("a", "S1", EndReason.STEP_FAILED, message="S1.bam lost 17 of 1,700 reads."),
        cell("a", "S2", EndReason.STEP_FAILED, message="S2.bam lost 4 of 20 reads."),
        cell("a", "S3", EndReason.STEP_FAILED, message="S3.bam is empty."),
        cell("a", "S4", EndReason.TIMEOUT),
        cell("b", "S1", EndReason.DEPENDENCY, "a"),
    ]
    groups = failure_groups(failed)
    assert [(group.step, group.reason, group.samples, group.message) for group in groups] == [
        ("a", EndReason.STEP_FAILED, ("S1", "S2"), "S1.bam lost 17 of 1,700 reads."),
        ("a", EndReason.STEP_FAILED, ("S3",), "S3.bam is empty."),
        ("a", EndReason.TIMEOUT, ("S4",), ""),
    ]


@pytest.mark.parametrize(
    ("count", "told"), [(0, ""), (1, "0"), (6, "0, 1, 2, 3, 4, 5"), (7, "0, 1, 2, 3, 4 and 2 more")]
)
def test_a_long_list_is_cut_only_when_that_shortens_it(count: int, told: str) -> None:
    assert first_few([str(i) for i in range(count)]) == told


def test_words_for_counts() -> None:
    assert (counted(1, "job"), counted(1200, "job")) == ("1 job", "1,200 jobs")
    progress = {"a": StepProgress(step="a", done_before=9), "b": StepProgress(step="b", done_before=18)}
    assert nothing_to_do(progress) == "Nothing to do: 27 of 27 cells are done."


def test_a_plan_as_json_names_every_cell_that_runs() -> None:
    record = json.loads(json.dumps(plan_record(planned(["A", "B"], absent={"B": "It is gone."}))))
    assert record["steps"][0] == {
        "step": "first",
        "to_run": 1,
        "why": {"never done": 1},
        "done": 0,
        "live": 0,
        "deferred": 0,
        "blocked": 1,
        "skipped": 0,
        "excluded": 0,
    }
    assert record["jobs"][0]["samples"] == ["A"]
    assert record["submit_calls"] == len(record["jobs"]) == 2
    assert {"step": "first", "sample": "B", "message": "It is gone."} in record["blocked"]


def test_an_outcome_as_json_has_words_for_reasons() -> None:
    outcome = Outcome(
        run_ids=["R"],
        progress={"a": StepProgress(step="a", done=1, failed={EndReason.TIMEOUT: 2})},
        failed=[cell("a", "S", EndReason.TIMEOUT)],
        blocked=[("a", "T", "It is gone.")],
    )
    record = json.loads(json.dumps(outcome_record(outcome)))
    assert record["ok"] is False
    assert record["steps"][0]["failed"] == {"timeout": 2}
    assert record["failed"][0]["reason"] == "timeout"
    assert record["blocked"] == [{"step": "a", "sample": "T", "message": "It is gone."}]


def test_plain_makes_json_of_nested_values() -> None:
    value = {EndReason.LOST: [cell("a", "S", EndReason.LOST)], "set": frozenset({1})}
    assert json.loads(json.dumps(plain(value)))["lost"][0]["sample"] == "S"


def test_a_step_that_no_sample_has_is_left_out() -> None:
    progress = {
        "cram": StepProgress(step="cram", excluded=3),
        "picard": StepProgress(step="picard", done_before=2, excluded=1),
    }
    assert list(with_cells(progress)) == ["picard"]
    assert nothing_to_do(progress) == "Nothing to do: 2 of 2 cells are done, 1 is excluded."
