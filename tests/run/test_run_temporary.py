"""Temporary outputs in a store: removed once every reader is done, recorded first, and never missed afterwards."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from batch_pipeline import Input, Output, Scope, WorkflowTask
from batch_pipeline.backends.base import JobRequest
from batch_pipeline.config import load_settings
from batch_pipeline.pipeline.plan import CellState, Selection, Why
from batch_pipeline.pipeline.workflow import Graph, Port
from batch_pipeline.records.events import Outcome, Removed
from batch_pipeline.records.manifests import cells_of
from batch_pipeline.records.receipts import read_retirements, standing_receipts
from batch_pipeline.records.request import Request
from batch_pipeline.run.backend import LazyBackend
from batch_pipeline.run.lock import DriverLock
from batch_pipeline.run.status import explain
from batch_pipeline.run.temporary import remove_used
from batch_pipeline.wire import layout
from batch_pipeline.wire.contract import Variable
from batch_pipeline.wire.digest import sha256_of_bytes
from batch_pipeline.wire.errors import RunConflict
from batch_pipeline.wire.receipt import FileRecord, Receipt
from batch_pipeline.wire.store import NotInStore, Store, open_store
from tests.run.small import SAMPLES, Sketch, Stage, drive, look, new_store, request_of


class Align(Sketch):
    """Leaves a large file that is read once, and a small one that is a result."""

    reads = Input()
    bam = Output("{sample}.bam", temporary=True)
    log = Output("align.log")


class Call(Sketch):
    """Reads the large file."""

    bam = Input()
    vcf = Output("calls.vcf")


class Merge(Sketch):
    """Gathers."""

    scope = Scope.COHORT
    calls = Input()
    table = Output("table.txt")


class Variants(WorkflowTask):
    """Align, call, merge."""

    def workflow(self) -> None:
        align, call, merge = self.new_task("align", Align), self.new_task("call", Call), self.new_task("merge", Merge)
        align.in_reads = self.source("{sample}.txt")
        call.in_bam = align.out_bam
        merge.in_calls = call.out_vcf


class Logs(WorkflowTask):
    """Another pipeline with the step `align`."""

    def workflow(self) -> None:
        align = self.new_task("align", Align)
        align.in_reads = self.source("{sample}.txt")


class Maker(Stage):
    """Children that leave outputs, and receipts that name these and what was read, as containers do."""

    def _act(self, request: JobRequest, index: int) -> int:
        code = super()._act(request, index)
        if code:
            return code
        _, run_id, _, job, _ = request.environment[Variable.MANIFEST].split("/")
        step = self.store.get_json(layout.submission(run_id, job, "manifest.json"))["step"]
        sample = cells_of(self.store, run_id, job)[index][0]
        node = Graph.of(Variants, {})[step]
        inputs: list[FileRecord] = []
        for port, source in node.inputs.items():
            names = SAMPLES if step == "merge" else (sample,)
            for name in names if isinstance(source, Port) else ():
                assert isinstance(source, Port)
                file = source.task.step_class.declared(Output)[source.name].files[0].replace("{sample}", name)
                inputs.append(self._record(port, layout.result(source.task.name, name, file)))
        outputs = []
        for port, output in node.outputs.items():
            key = layout.result(step, sample, output.files[0].replace("{sample}", sample))
            self.store.put(key, f"{step} of {sample}".encode())
            outputs.append(self._record(port, key))
        [entry] = [one for one in self.store.list(layout.receipts(step, sample)) if layout.cell_of_receipt(one.key)]
        receipt = replace(
            Receipt.from_json(self.store.get_json(entry.key)), inputs=tuple(inputs), outputs=tuple(outputs)
        )
        self.store.put_json(entry.key, receipt.to_json())
        return 0

    def _record(self, port: str, key: str) -> FileRecord:
        data = self.store.get(key)
        return FileRecord(port=port, key=key, size_bytes=len(data), sha256=sha256_of_bytes(data))


@pytest.fixture(params=["memory", "folder"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return new_store() if request.param == "memory" else open_store(str(tmp_path / "store"), create=True)


def asked(store: Store, **changes: Any) -> Request:
    return request_of(store, workflow=Variants, graph=Graph.of(Variants, {}), **changes)


def keeping(request: Request) -> Request:
    settings = load_settings(
        {"watch.poll_seconds": 0.01, "pipeline.keep_temporary": True}, environ={}, folder=Path("/nowhere")
    )
    return replace(request, settings=settings)


def bams(store: Store) -> set[str]:
    return {key.split("/")[2] for key in store.keys(layout.RESULTS) if key.endswith(".bam")}


def ran(store: Store, **changes: Any) -> Outcome:
    return drive(asked(store, **changes), Maker(store))


def test_a_run_removes_what_its_readers_are_done_with_and_a_rerun_has_nothing_to_do(store: Store) -> None:
    outcome = ran(store)
    assert outcome.ok
    assert outcome.removed == Removed(files=3, size_bytes=3 * len("align of ann"))
    assert not bams(store)
    assert len([key for key in store.keys(layout.RESULTS) if key.endswith("align.log")]) == 3
    assert not list(store.keys(layout.REMOVING))
    again = ran(store, check_results=True)
    assert (again.submitted, list(again.run_ids), again.removed) == (0, [], Removed())


def test_the_record_names_the_run_and_the_files_and_status_says_so(store: Store) -> None:
    [run_id] = ran(store).run_ids
    [key] = [key for key in store.keys(layout.receipts("align", "ann")) if layout.port_of_removal(key)]
    record = store.get_json(key)
    data = b"align of ann"
    assert record["run_id"] == run_id
    assert record["files"] == [
        {"key": "results/align/ann/ann.bam", "size_bytes": len(data), "sha256": sha256_of_bytes(data)}
    ]
    sentence = next(one.sentence for one in explain(asked(store), "ann") if one.step == "align")
    assert sentence.endswith(f"; its results/align/ann/ann.bam was removed after use by run {run_id}")


def test_keep_temporary_keeps_and_a_later_run_without_it_removes(store: Store) -> None:
    drive(keeping(asked(store)), Maker(store))
    assert bams(store) == set(SAMPLES)
    assert ran(store).removed.files == 3


def test_a_failed_reader_keeps_its_input(store: Store) -> None:
    stage = Maker(store, lambda step, sample, attempt: int((step, sample) == ("call", "bob")))
    drive(asked(store), stage)
    assert bams(store) == {"bob"}


def test_a_reader_that_must_run_has_its_input_made_again_and_removed_again(store: Store) -> None:
    ran(store)
    [entry] = store.list(layout.receipts("call", "bob"))
    store.delete([entry.key])
    plan = look(asked(store), Maker(store)).plan
    assert plan.why["align"] == [None, Why.REMOVED, None]
    outcome = ran(store)
    assert outcome.ok
    assert outcome.removed.files == 1
    assert not bams(store)
    assert set(look(asked(store), Maker(store)).plan.states["align"]) == {CellState.DONE}


def test_files_of_other_bytes_than_their_readers_name_stay(store: Store) -> None:
    drive(keeping(asked(store)), Maker(store))
    [entry] = store.list(layout.receipts("call", "bob"))
    receipt = Receipt.from_json(store.get_json(entry.key))
    read = replace(receipt.inputs[0], sha256="0" * 64)
    store.put_json(entry.key, replace(receipt, inputs=(read,)).to_json())
    assert ran(store).removed.files == 2
    assert bams(store) == {"bob"}


def test_what_another_pipeline_of_the_store_has_too_stays(store: Store) -> None:
    drive(replace(asked(store), workflow=Logs, graph=Graph.of(Logs, {})), Maker(store))
    assert ran(store, share_steps=True).removed == Removed()
    assert bams(store) == set(SAMPLES)


def test_nothing_is_removed_while_another_driver_submits(store: Store) -> None:
    drive(keeping(asked(store)), Maker(store))
    other = DriverLock(store)
    other.take()
    with pytest.raises(RunConflict):
        remove_used(asked(store), LazyBackend(Maker(store)), DriverLock(store))
    assert ran(store).removed == Removed()
    other.release()
    assert ran(store).removed.files == 3


def test_what_a_live_job_may_read_stays(store: Store) -> None:
    drive(keeping(asked(store)), Maker(store))
    stage = Maker(store)
    stage.is_open = False
    forced = keeping(
        asked(store, selection=Selection(steps=frozenset({"call"}), samples=frozenset({"ann"}), force=True))
    )
    drive(forced, stage, detach=True)
    assert remove_used(asked(store), LazyBackend(stage), DriverLock(store)).files == 2
    assert bams(store) == {"ann"}


class Killed(BaseException):
    """Ends a driver at once."""


class Dying:
    """A store's writing calls, of which the n-th is the last; what it was to do is done, or not."""

    def __init__(self, store: Store, number: int, monkeypatch: pytest.MonkeyPatch, *, done: bool) -> None:
        self.left = number
        for name in ("put", "delete", "put_if_absent"):
            monkeypatch.setattr(store, name, self._dying(getattr(store, name), done=done))

    def _dying(self, call: Any, *, done: bool) -> Any:
        def dying(*args: Any) -> Any:
            self.left -= 1
            if self.left < 0:
                raise Killed
            if self.left == 0:
                if done:
                    call(*args)
                self.left = -1
                raise Killed
            return call(*args)

        return dying


@pytest.mark.parametrize("done", [False, True])
@pytest.mark.parametrize("number", range(1, 12))
def test_a_removal_that_is_killed_at_any_call_is_finished_by_the_next_command(
    number: int, done: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = new_store()
    drive(keeping(asked(store)), Maker(store))
    with monkeypatch.context() as patch:
        Dying(store, number, patch, done=done)
        try:
            remove_used(asked(store), LazyBackend(Maker(store)), DriverLock(store, clock=lambda: 0.0))
        except Killed:
            pass
    standing = standing_receipts(store, read_retirements(store), {"align": SAMPLES})
    assert set(standing.counting["align"]) == set(SAMPLES)
    recorded = {sample for sample, prints in standing.removed.get("align", {}).items() if prints}
    assert set(SAMPLES) - recorded <= bams(store), "what is not recorded as removed is there"
    outcome = ran(store)
    assert (outcome.ok, outcome.submitted) == (True, 0)
    assert not bams(store)
    assert not list(store.keys(layout.REMOVING))


def test_what_was_made_again_since_a_kill_is_not_removed_by_its_old_list(store: Store) -> None:
    ran(store)
    [key] = [key for key in store.keys(layout.receipts("align", "ann")) if layout.port_of_removal(key)]
    store.put(layout.removing("OLD"), json.dumps({"removals": [key], "format": 1}).encode())
    drive(keeping(asked(store, selection=Selection(force=True, samples=frozenset({"ann"})))), Maker(store))
    assert bams(store) == {"ann"}
    stage = Maker(store, lambda step, sample, attempt: int(step == "call"))
    drive(asked(store, selection=Selection(force=True, samples=frozenset({"ann"}))), stage)
    assert bams(store) == {"ann"}, "its reader failed"
    assert not list(store.keys(layout.REMOVING))
    with pytest.raises(NotInStore):
        store.get(key)
