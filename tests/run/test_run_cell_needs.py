"""Memory and time limits that steps compute for each cell, from the sheet, the sources and receipts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

import pytest

from batch_pipeline import CellFacts, Learned
from batch_pipeline.backends.definitions import configured_definitions, resources
from batch_pipeline.backends.limits import largest_definitions
from batch_pipeline.backends.payload import request_of as batch_request
from batch_pipeline.backends.payload import submit_json
from batch_pipeline.pipeline.plan import CellState
from batch_pipeline.pipeline.workflow import Graph
from batch_pipeline.records.events import FailedCell
from batch_pipeline.records.request import Request
from batch_pipeline.records.usage import with_room
from batch_pipeline.report.tables import group_rows
from batch_pipeline.run.backend import LazyBackend
from batch_pipeline.run.cell_needs import cell_facts, cell_needs
from batch_pipeline.run.context import context_of
from batch_pipeline.run.recovery import partition_failures
from batch_pipeline.run.retry_policy import retry_policy
from batch_pipeline.run.sizing import explain_sizes
from batch_pipeline.run.snapshot import DriverState, take_snapshot
from batch_pipeline.wire import layout
from batch_pipeline.wire.contract import EndReason
from batch_pipeline.wire.errors import InvalidPipeline
from batch_pipeline.wire.receipt import FileRecord, Receipt, Usage
from tests.run.small import Count, Letters, Stage, Total, Upper, look, new_store, request_of

MIB = 1 << 20


class SizedUpper(Upper):
    """Asks for memory by the bytes of the sample."""

    seen: ClassVar[list[CellFacts]] = []

    def memory_mb(self, cell: CellFacts) -> float:
        """A thousand MiB a byte, and as much again each time."""
        self.seen.append(cell)
        return 1000.5 * cell.source_bytes * cell.attempt

    def timeout_seconds(self, cell: CellFacts) -> int | None:
        """Larger samples take longer."""
        return 600 * cell.source_bytes


class LearningCount(Count):
    """Learns from receipts."""

    memory_mb = Learned(640)


class SizedTotal(Total):
    """A gather that asks for memory by the samples."""

    def memory_mb(self, cell: CellFacts) -> int:
        """A hundred MiB a sample."""
        return 100 * cell.samples


class Sized(Letters):
    """Letters with resources by evidence."""

    def workflow(self) -> None:
        upper, count, total = (
            self.new_task(name, step)
            for name, step in (("upper", SizedUpper), ("count", LearningCount), ("total", SizedTotal))
        )
        upper.in_text = self.source("{sample}.txt", column="file")
        count.in_text = upper.out_upper
        total.in_counts = count.out_count


def sized_request(sources: dict[str, int], **changes: Any) -> Request:
    """A request for samples with sources of so many bytes."""
    store = new_store()
    for name, size_bytes in sources.items():
        store.put(f"SR/{name}.txt", b"x" * size_bytes)
    return replace(request_of(store, *sources), workflow=Sized, graph=Graph.of(Sized), **changes)


def overrides_by_sample(request: Request, step: str, **state: Any) -> dict[str, tuple[int | None, int | None]]:
    """Sample -> MiB and seconds with which its cell is sent."""
    backend = LazyBackend(Stage(request.store))
    plan = take_snapshot(replace(DriverState.of(request), **state), backend).plan
    return {
        sample: (job.overrides.memory_mb, job.overrides.timeout_seconds)
        for job in plan.jobs
        if job.step == step
        for sample, _ in plan.members_of(job)
    }


def test_a_cell_is_sent_with_what_its_group_asks_for() -> None:
    request = sized_request({"ann": 1, "bob": 1, "cid": 9})
    assert overrides_by_sample(request, "upper") == {"ann": (1001, 600), "bob": (1001, 600), "cid": (9005, 5400)}
    assert overrides_by_sample(request, "count") == dict.fromkeys(("ann", "bob", "cid"), (640, None))
    assert overrides_by_sample(request, "total") == {"_cohort": (300, None)}


def test_all_steps_of_a_sample_are_in_one_group_so_that_arrays_depend_index_by_index() -> None:
    plan = look(sized_request({"ann": 1, "bob": 1, "cid": 9}), Stage(new_store())).plan
    jobs = {job.name: job for job in plan.jobs}
    assert [(job.name, job.members) for job in plan.jobs if job.step != "total"] == [
        ("upper-0-0", (0, 1)),
        ("upper-1-0", (2,)),
        ("count-0-0", (0, 1)),
        ("count-1-0", (2,)),
    ]
    assert [edge.index_by_index for edge in jobs["count-0-0"].after] == [True]
    header, rows = group_rows(plan)
    assert header == ["samples", "upper", "count", "total"]
    assert rows == [
        ["gather", "-", "-", "300 MiB"],
        ["2", "1,001 MiB, 600 s", "640 MiB", "-"],
        ["1", "9,005 MiB, 5,400 s", "640 MiB", "-"],
    ]


def test_a_method_sees_bytes_columns_and_what_is_not_made_yet() -> None:
    SizedUpper.seen.clear()
    request = sized_request({"ann": 3})
    sample = replace(request.samples["ann"], columns={"sex": "f"})
    look(replace(request, samples=replace(request.samples, samples=(sample,))), Stage(request.store))
    assert SizedUpper.seen == [
        CellFacts(sample="ann", source_bytes=3, input_bytes={"text": 3}, columns={"sex": "f"}, attempt=1)
    ]


def test_bytes_that_an_upstream_step_made_are_read_from_its_receipt() -> None:
    request = sized_request({"ann": 3})
    stage = Stage(request.store)
    plan = look(request, stage).plan
    receipt = Receipt(
        run_id="r", step="upper", sample="ann", fingerprint=plan.fingerprints["upper"][0], attempt=1,
        started_at="2026-01-01T00:00:00.000Z", stopped_at="2026-01-01T00:00:01.000Z",
        outputs=(FileRecord(port="upper", key="k", size_bytes=70), FileRecord(port="other", key="l", size_bytes=5)),
    )  # fmt: skip
    request.store.put_json(layout.receipt("upper", "ann", receipt.fingerprint), receipt.to_json())
    snapshot = look(request, stage)
    assert snapshot.plan.states["upper"][0] is CellState.DONE
    facts = cell_facts(request, snapshot.plan, snapshot.inventory, request.graph["count"], ["ann"], ())
    assert [one.input_bytes for one in facts] == [{"text": 70}]


def test_a_cell_that_ran_out_of_memory_gets_more_on_top_of_what_it_asks_for() -> None:
    request = sized_request({"ann": 1, "bob": 1})
    again = FailedCell(step="count", sample="ann", reason=EndReason.OUT_OF_MEMORY, message="", memory_mb=640)
    policy = retry_policy(request, LazyBackend(Stage(request.store)), [])
    partition = partition_failures(request.graph, [again], policy)
    # 1,280 MiB, though the definition has 1,024 for any cell: 640 is what the cell had.
    assert partition.overrides["count", "ann"].memory_mb == 1280
    state = DriverState.of(request).after_failures(partition)
    assert overrides_by_sample(request, "count", overrides=state.overrides, hungry=state.hungry)["ann"] == (1280, None)
    hungry = replace(again, step="upper", memory_mb=1001)
    assert overrides_by_sample(request, "upper", hungry=(hungry,))["ann"] == (2001, 600)


def test_what_was_learned_holds_the_percentile_and_cells_out_of_memory() -> None:
    request = sized_request({f"s{n}": 1 for n in range(4)})
    for n, peak in enumerate((100, 200, 300)):
        receipt = Receipt(
            run_id="r", step="count", sample=f"old{n}", fingerprint="f" * 64, attempt=1,
            started_at="2026-01-01T00:00:00.000Z", stopped_at="2026-01-01T00:00:01.000Z",
            usage=Usage(peak_memory_bytes=peak * MIB),
        )  # fmt: skip
        request.store.put_json(layout.receipt("count", f"old{n}", receipt.fingerprint), receipt.to_json())
    snapshot = look(request, Stage(request.store))
    plan, inventory = snapshot.plan, snapshot.inventory
    assert cell_needs(request, plan, inventory, ())["count"]["s0"].memory_mb == with_room(300 * MIB, 0.2)
    hungry = FailedCell(step="count", sample="s1", reason=EndReason.OUT_OF_MEMORY, message="", memory_mb=900)
    assert cell_needs(request, plan, inventory, (hungry,))["count"]["s0"].memory_mb == 1800


def test_settings_go_before_a_method() -> None:
    request = sized_request({"ann": 9})
    node = replace(request.graph["upper"], settings={"memory_mb": 77, "timeout_seconds": 0})
    assert (node.by_evidence, node.memory_mb) == ((), 77)


def test_the_fingerprint_is_that_of_a_step_with_a_number() -> None:
    request = sized_request({"ann": 1})
    numbers, methods = request_of(request.store, "ann"), look(request, Stage(request.store)).plan
    parts = look(numbers, Stage(request.store)).plan.parts["upper"]
    assert parts.params == methods.parts["upper"].params
    assert not any(".memory_mb" in name for part in methods.parts.values() for name in part.code)


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        (0, "must return a number above 0, and returned 0 for sample ann"),
        (None, "must return a number above 0, and returned None"),
        ("8 GB", "returned '8 GB'"),
    ],
)
def test_what_is_no_number_is_refused_with_the_sample(
    value: object, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SizedUpper, "memory_mb", lambda self, cell: value)
    with pytest.raises(InvalidPipeline, match=r"SizedUpper\.memory_mb") as caught:
        look(sized_request({"ann": 1}), Stage(new_store()))
    assert sentence in str(caught.value)


def test_a_method_that_fails_is_named_with_its_facts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SizedUpper, "memory_mb", lambda self, cell: 1 / 0)
    with pytest.raises(InvalidPipeline, match=r"failed for sample ann \(ZeroDivisionError") as caught:
        look(sized_request({"ann": 1}), Stage(new_store()))
    assert "source_bytes=1" in str(caught.value)


def test_the_request_has_memory_and_time_limit_and_the_largest_job_is_checked() -> None:
    request = sized_request({"ann": 1, "cid": 9})
    plan = look(request, Stage(request.store)).plan
    job = next(job for job in plan.jobs if job.step == "upper" and job.overrides.memory_mb == 9005)
    sent = submit_json(batch_request(plan, job, context_of(request, reference="")))
    assert sent["timeout"] == {"attemptDurationSeconds": 5400}
    assert sent["containerOverrides"]["resourceRequirements"] == [{"type": "MEMORY", "value": "9005"}]
    definitions = configured_definitions(request.graph, request.settings)
    assert resources(largest_definitions(definitions, plan)["upper"])[1] == 9005
    assert resources(largest_definitions(definitions, plan)["count"])[1] == 640


def test_explained_for_a_sample() -> None:
    request = sized_request({"ann": 1, "bob": 1, "cid": 9})
    sentences = {one.step: one.sentence for one in explain_sizes(request, "ann")}
    assert sentences == {
        "upper": "asks for 1,001 MiB and 600 s (sources 1 bytes, text 1 bytes, attempt 1); given 1,001 MiB and 600 s,"
        " the most of 2 cells",
        "count": "asks for 640 MiB (sources 1 bytes, text not made yet, attempt 1); given 640 MiB, the most of 2 cells",
    }
