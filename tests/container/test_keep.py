"""A cell whose success receipt was retired: kept if nothing of it changed, made again otherwise; and attempts that were
taken for dead, and live.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from batch_pipeline.container.keep import metrics_read
from batch_pipeline.container.stage import Staged
from batch_pipeline.wire import layout
from batch_pipeline.wire.contract import ContainerExit
from batch_pipeline.wire.manifest import InputSpec, OutputSpec, RetiredReceipt, Row
from batch_pipeline.wire.receipt import Failure, Receipt
from tests.container.conftest import Workshop

RUN = "01ARZ3NDEKTSV4RRFFQ69G5FAV"
LATER = "01BX5ZZKBKACTAV9WEVGEMMVRZ"
#: Writes other bytes each time.
OTHER = '#!/bin/sh\nset -e\ncat "$INPUT_X" /proc/sys/kernel/random/uuid >"$OUTPUT_DIR/y"\n'
FINGERPRINT = "f" * 16
KEY = layout.receipt("copy", "s1", FINGERPRINT)


def cell(workshop: Workshop, script: str = OTHER, *, run_id: str = RUN, **row: Any) -> dict[str, str]:
    """A cell that reads the output of `above`."""
    entry = next(iter(workshop.store.list(layout.receipts("above", "s1"))), None)
    upstream = entry.key.rsplit("/", 1)[-1].removesuffix(".json") if entry else above(workshop)
    one = Row(sample="s1", fingerprint=FINGERPRINT, upstream={"above": upstream}, **row)
    return workshop.submit(
        [one],
        run_id=run_id,
        script="step.sh",
        bundle_sha256=workshop.bundle({"step.sh": script}),
        inputs=(InputSpec(port="x", kind="step", step="above", files=("x.txt",)),),
        outputs=(OutputSpec(port="y", files=("y",)),),
        format=2 if row else 1,
    )


def above(workshop: Workshop, data: bytes = b"data\n", **metrics: Any) -> str:
    return workshop.upstream("above", "s1", {"x.txt": data}, metrics)


def version(workshop: Workshop) -> str:
    return workshop.store.version(workshop.store.head(KEY))


def retired(workshop: Workshop, *, must_run: bool = False) -> RetiredReceipt:
    return RetiredReceipt(version=version(workshop), must_run=must_run)


def made(workshop: Workshop, script: str = OTHER) -> tuple[Receipt, bytes]:
    """The cell as a first run made it."""
    assert workshop.live(cell(workshop, script)) == 0
    receipt = workshop.receipt()
    assert receipt is not None
    return receipt, workshop.result()


def test_a_cell_that_reads_and_made_the_same_bytes_is_kept(workshop: Workshop) -> None:
    before, result = made(workshop)
    above(workshop)
    assert workshop.live(cell(workshop, run_id=LATER, retired=retired(workshop))) == 0

    after = workshop.receipt()
    assert after is not None
    assert workshop.result() == result
    assert after.written_by == (LATER, 1)
    assert set(after.kept) == {"run_id", "attempt", "at"}
    # All else is of the attempt that made it; the inputs are those that are there now.
    assert replace(after, kept={}, inputs=()) == replace(before, inputs=())
    assert [(one.key, one.sha256) for one in after.inputs] == [(one.key, one.sha256) for one in before.inputs]
    assert b"is kept" in workshop.store.get(layout.log(LATER, "copy", "s1", 1))
    assert workshop.left_in_scratch() == []


def test_the_receipt_of_what_was_kept_names_the_inputs_as_they_are_now(workshop: Workshop) -> None:
    """The same bytes may have another ETag."""
    before, _ = made(workshop)
    above(workshop)
    assert workshop.live(cell(workshop, run_id=LATER, retired=retired(workshop))) == 0
    after = workshop.receipt()
    assert after is not None
    etag = workshop.store.head(layout.result("above", "s1", "x.txt")).etag
    assert [one.etag for one in after.inputs] == [etag] != [one.etag for one in before.inputs]


def pair(workshop: Workshop, *, run_id: str = RUN, **row: Any) -> dict[str, str]:
    """A cell with two inputs of two steps and two outputs."""
    upstream = {step: workshop.upstream(step, "s1", {f"{step}.txt": b"data\n"}) for step in ("one", "two")}
    return workshop.submit(
        [Row(sample="s1", fingerprint=FINGERPRINT, upstream=upstream, **row)],
        run_id=run_id,
        script="step.sh",
        bundle_sha256=workshop.bundle({"step.sh": '#!/bin/sh\ncat "$INPUT_ONE" "$INPUT_TWO" >y; cat y y >z\n'}),
        inputs=tuple(InputSpec(port=step, kind="step", step=step, files=(f"{step}.txt",)) for step in ("one", "two")),
        outputs=(OutputSpec(port="y", files=("y", "z")),),
        format=2 if row else 1,
    )


@pytest.mark.parametrize("key", ["results/copy/s1/y", "results/copy/s1/z", "results/one/s1/one.txt", "two", ""])
def test_one_of_several_files_that_changed_is_enough(key: str, workshop: Workshop) -> None:
    assert workshop.live(pair(workshop)) == 0
    environment = pair(workshop, run_id=LATER, retired=retired(workshop))
    if key in ("two", "results/one/s1/one.txt"):
        step = "one" if key.startswith("results") else "two"
        workshop.upstream(step, "s1", {f"{step}.txt": b"DATA\n"})
    elif key:
        workshop.store.put(key, b"other")
    assert workshop.live(environment) == 0
    after = workshop.receipt()
    assert after is not None
    assert bool(after.kept) == (key == "")


def test_the_metrics_of_steps_above_are_read_though_some_noted_none() -> None:
    none = Staged(upstream_metrics={"a": {}, "b": {}}, gathered_metrics={"c": {"s1": {}, "s2": {}}})
    assert metrics_read(Staged()) == metrics_read(none) == ""
    noted = [
        Staged(upstream_metrics={"a": {}, "b": {"reads": 1}}),
        Staged(upstream_metrics={"a": {"reads": 1}, "b": {}}),
        Staged(gathered_metrics={"c": {"s1": {}, "s2": {"reads": 1}}}),
        Staged(gathered_metrics={"c": {"s1": {"reads": 1}, "s2": {"reads": 1}}}),
        Staged(gathered_metrics={"d": {"s1": {}}, "c": {"s1": {"reads": 1}}}),
    ]
    assert "" not in {metrics_read(staged) for staged in noted}
    assert len({metrics_read(staged) for staged in noted}) == len(noted)
    assert metrics_read(noted[0]) == metrics_read(Staged(upstream_metrics={"b": {"reads": 1}}))


def test_an_attempt_after_the_one_that_kept_it_does_nothing(workshop: Workshop) -> None:
    made(workshop)
    environment = cell(workshop, run_id=LATER, retired=retired(workshop))
    assert workshop.live(environment) == 0
    kept = workshop.store.get(KEY)
    assert workshop.live({**environment, "AWS_BATCH_JOB_ATTEMPT": "2"}) == 0
    assert workshop.store.get(KEY) == kept


def rewritten(workshop: Workshop, **changes: Any) -> None:
    """Changes the receipt that stands."""
    workshop.store.put_json(KEY, {**workshop.store.get_json(KEY), **changes})


def without_digests(workshop: Workshop) -> None:
    """As earlier versions wrote receipts of linked inputs."""
    value = workshop.store.get_json(KEY)
    rewritten(workshop, inputs=[{**one, "sha256": ""} for one in value["inputs"]])


CHANGES: dict[str, Callable[[Workshop], object]] = {
    "other input": lambda workshop: above(workshop, b"DATA\n"),
    "other metrics above": lambda workshop: above(workshop, reads=7),
    "result of the same size": lambda workshop: workshop.store.put(
        layout.result("copy", "s1", "y"), b"x" * len(workshop.result())
    ),
    "result missing": lambda workshop: workshop.store.delete([layout.result("copy", "s1", "y")]),
    "receipt without digests": without_digests,
    "receipt of another input": lambda workshop: rewritten(workshop, inputs=[]),
    "receipt cut off": lambda workshop: workshop.store.put(KEY, workshop.store.get(KEY)[:100]),
    "receipt empty": lambda workshop: workshop.store.put(KEY, b""),
    "receipt is a list": lambda workshop: workshop.store.put(KEY, b"[]"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_cell_of_which_anything_changed_is_made_again(change: str, workshop: Workshop) -> None:
    _, result = made(workshop)
    CHANGES[change](workshop)
    assert workshop.live(cell(workshop, run_id=LATER, retired=retired(workshop))) == 0
    after = workshop.receipt()
    assert after is not None
    assert (after.run_id, after.kept) == (LATER, {})
    assert workshop.result() != result


def test_a_cell_that_must_run_is_made_again_though_nothing_changed(workshop: Workshop) -> None:
    _, result = made(workshop)
    assert workshop.live(cell(workshop, run_id=LATER, retired=retired(workshop, must_run=True))) == 0
    after = workshop.receipt()
    assert after is not None
    assert after.run_id == LATER
    assert workshop.result() != result


def test_a_cell_that_fails_leaves_its_retired_receipt_as_it_was(workshop: Workshop) -> None:
    made(workshop)
    before = version(workshop)
    environment = cell(workshop, "#!/bin/sh\nexit 1\n", run_id=LATER, retired=retired(workshop, must_run=True))
    assert workshop.live(environment) == 1
    assert version(workshop) == before


def test_one_receipt_of_two_is_kept_and_the_other_goes(workshop: Workshop) -> None:
    made(workshop)
    other = layout.receipt("copy", "s1", "0" * 16)
    workshop.store.put(other, workshop.store.get(KEY))
    assert workshop.live(cell(workshop, run_id=LATER, retired=retired(workshop))) == 0
    after = workshop.receipt()
    assert after is not None
    assert after.kept


def test_results_of_the_same_bytes_are_not_replaced_in_a_folder(folder_workshop: Workshop) -> None:
    """Whoever reads them would take them for others, by their times."""
    workshop = folder_workshop
    copy = '#!/bin/sh\ncp "$INPUT_X" "$OUTPUT_DIR/y"\n'
    made(workshop, copy)
    path = workshop.store.path_of(layout.result("copy", "s1", "y"))
    assert path is not None
    before = os.stat(path)
    assert workshop.live(cell(workshop, copy, run_id=LATER, retired=retired(workshop, must_run=True))) == 0
    assert (os.stat(path).st_ino, os.stat(path).st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    path.write_bytes(b"DATA\n")
    assert workshop.live(cell(workshop, copy, run_id=LATER, retired=retired(workshop, must_run=True))) == 0
    assert path.read_bytes() == b"data\n"


# Attempts of which others took one for dead.


def test_a_second_attempt_runs_though_another_runs_receipt_stands(workshop: Workshop) -> None:
    """The first was interrupted; the receipt is the one that was to be replaced."""
    _, result = made(workshop)
    environment = cell(workshop, run_id=LATER, retired=retired(workshop, must_run=True))
    assert workshop.live({**environment, "AWS_BATCH_JOB_ATTEMPT": "2"}) == 0
    after = workshop.receipt()
    assert after is not None
    assert (after.run_id, after.attempt) == (LATER, 2)
    assert workshop.result() != result


def failed_later(workshop: Workshop) -> None:
    failure = Failure(
        run_id=RUN,
        step="copy",
        sample="s1",
        fingerprint=FINGERPRINT,
        attempt=2,
        started_at="",
        stopped_at="",
        end_reason="step_failed",
        exit_code=1,
        message="It failed.",
    )
    workshop.store.put_json(layout.failure(RUN, "copy", "s1", 2), failure.to_json())


def made_later(workshop: Workshop) -> None:
    environment = cell(workshop)
    assert workshop.live({**environment, "AWS_BATCH_JOB_ATTEMPT": "2"}) == 0


def made_by_a_later_run(workshop: Workshop) -> None:
    assert workshop.live(cell(workshop, run_id=LATER)) == 0


def kept_by_a_later_run(workshop: Workshop) -> None:
    made(workshop)
    assert workshop.live(cell(workshop, run_id=LATER, retired=retired(workshop))) == 0


@pytest.mark.parametrize("ended", [failed_later, made_later, made_by_a_later_run, kept_by_a_later_run])
def test_an_attempt_publishes_nothing_once_a_later_one_has_ended(
    ended: Callable[[Workshop], None], workshop: Workshop
) -> None:
    environment = cell(workshop)
    ended(workshop)
    before = {entry.key: workshop.store.get(entry.key) for entry in workshop.store.list("") if "logs/" not in entry.key}

    assert workshop.live(environment) == ContainerExit.INTERRUPTED

    after = {entry.key: workshop.store.get(entry.key) for entry in workshop.store.list("") if "logs/" not in entry.key}
    assert after == before
    failure = json.loads(workshop.store.get(layout.failure(RUN, "copy", "s1", 1)))
    assert failure["end_reason"] == "interrupted"
    assert "publishes nothing" in failure["message"]


def test_an_attempt_publishes_beside_records_of_earlier_ones(workshop: Workshop) -> None:
    failed_later(workshop)
    assert workshop.live({**cell(workshop), "AWS_BATCH_JOB_ATTEMPT": "3"}) == 0


def test_the_last_of_several_later_attempts_is_found(workshop: Workshop) -> None:
    for attempt in (1, 2, 4):
        workshop.store.put_json(layout.failure(RUN, "copy", "s1", attempt), {})
    assert workshop.live({**cell(workshop), "AWS_BATCH_JOB_ATTEMPT": "3"}) == ContainerExit.INTERRUPTED
    assert b"Attempt 4 of run" in workshop.log


def test_a_cell_is_not_kept_once_a_later_attempt_has_ended(workshop: Workshop) -> None:
    made(workshop)
    environment = cell(workshop, run_id=LATER, retired=retired(workshop))
    workshop.store.put_json(layout.failure(LATER, "copy", "s1", 2), {})
    before = version(workshop)
    assert workshop.live(environment) == ContainerExit.INTERRUPTED
    assert version(workshop) == before
