"""`status`, `watch`, `logs`, `cancel` and `rightsize` without a pipeline, on a store that a run has left."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from batch_pipeline import backends
from batch_pipeline.backends.base import JobSummary
from batch_pipeline.run import live
from batch_pipeline.wire.contract import CommandExit
from batch_pipeline.wire.store import open_store
from tests.cli import letters
from tests.cli.letters import Letters, Run
from tests.run import small
from tests.run.small import Stage, chosen, drive, request_of

ALONE = {"workflow": None}


@pytest.fixture
def stage(world: Path, monkeypatch: pytest.MonkeyPatch) -> Stage:
    made = Stage(open_store(str(world / "store" / "default")))
    monkeypatch.setattr(backends, "create", lambda settings: made)
    monkeypatch.setattr(live, "LOOK_SECONDS", 0.0)
    return made


def test_status_of_a_store_groups_what_failed(stage: Stage, run: Run) -> None:
    stage.play = lambda step, sample, attempt: 3 * (sample in ("ann", "bob"))
    (run_id,) = drive(request_of(stage.store), stage).run_ids

    told = run("status", **ALONE)

    assert told.code == CommandExit.FAILED
    assert "  2 x upper, step failed: ann, bob\n    upper of ann broke." in told.out
    assert f"As run {run_id} of Letters recorded it." in told.err
    assert [line.split()[:4] for line in told.out.splitlines()[:2]] == [
        ["step", "cells", "done", "failed"],
        ["upper", "3", "1", "2"],
    ]
    record = json.loads(run("status", "--run", run_id, "--json", **ALONE).out)
    assert [step["failed"] for step in record["steps"]] == [{"step_failed": 2}, {}, {}]


def test_a_run_that_begins_while_others_are_cancelled_is_cancelled_too(
    stage: Stage, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage.is_open = False
    upper = chosen(steps=frozenset({"upper"}))
    first = drive(request_of(stage.store, "ann", **upper), stage, detach=True).run_ids
    later: list[str] = []
    end = stage.cancel

    def begins_another(native_id: str, reason: str) -> None:
        if not later:
            later.extend(drive(request_of(stage.store, "ann", "bob", **upper), stage, detach=True).run_ids)
        end(native_id, reason)

    monkeypatch.setattr(stage, "cancel", begins_another)
    out = run("cancel", "--yes", **ALONE).out
    assert len(set(later)) == 2
    assert all(run_id in out for run_id in (*first, *later))


def test_what_somebody_cancelled_has_its_column_and_is_no_failure(stage: Stage, run: Run) -> None:
    stage.is_open = False
    drive(request_of(stage.store), stage, detach=True)
    told = run("cancel", "--samples", "bob", "--step", "count", "--yes", **ALONE)
    assert told.out.startswith("Cancelled 1 cell of 1 job.\n  count: job count-0-0 of run ")
    assert run("cancel", "--samples", "bob", "--step", "count", "--yes", **ALONE).out == (
        "Nothing to cancel now: none of these cells is live. What a driver sends of them later is cancelled then.\n"
    )
    stage.drain(stage._act)

    told = run("status", **ALONE)

    assert told.code == CommandExit.DONE
    lines = [line.split() for line in told.out.splitlines()]
    assert lines[0] == ["step", "cells", "done", "failed", "cancelled", "to", "run", "cannot", "run"]
    assert lines[2][:5] == ["count", "3", "2", "0", "1"]
    assert "count: 1 cancelled" in told.out
    watched = run("watch", **ALONE)
    assert watched.code == CommandExit.FAILED, "not every cell is done"
    assert "total: 1 not run: 1 because count was cancelled" in watched.out
    assert run("watch", **ALONE).out == "Nothing to watch: no run is live.\n"


class _CtrlC(Stage):
    """A stage before which somebody presses Ctrl-C as soon as jobs are followed."""

    def summaries(self, native_ids: Sequence[str]) -> Mapping[str, JobSummary]:
        if self.calls["summaries"] == 1:
            self.calls["summaries"] += 1
            raise KeyboardInterrupt
        return super().summaries(native_ids)


@pytest.mark.parametrize("verb", [("watch",), ("status", "--watch")], ids=" ".join)
@pytest.mark.parametrize("with_pipeline", [True, False])
@pytest.mark.parametrize("on_interrupt", ["leave", "cancel"])
def test_ctrl_c_while_watching_does_what_the_option_says(
    world: Path,
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
    verb: tuple[str, ...],
    with_pipeline: bool,
    on_interrupt: str,
) -> None:
    stage = _CtrlC(open_store(str(world / "store" / "default")))
    monkeypatch.setattr(backends, "create", lambda settings: stage)
    stage.is_open = False
    (run_id,) = drive(request_of(stage.store), stage, detach=True).run_ids
    stage.calls.clear()
    (world / "list.txt").write_text("ann\nbob\ncid\n")
    options = ("--sample-list-file", "list.txt", "--sources", "SR") if with_pipeline else ()

    told = run(*verb, *options, "--on-interrupt", on_interrupt, workflow=small.Letters if with_pipeline else None)

    assert told.code == CommandExit.INTERRUPTED
    assert bool(stage.calls["cancel"]) == (on_interrupt == "cancel")
    assert ("Cancelled upper: job" if on_interrupt == "cancel" else f"The jobs of {run_id} go on.") in told.err


def test_a_run_that_is_unknown_cannot_be_cancelled_and_one_that_has_ended_need_not(stage: Stage, run: Run) -> None:
    (run_id,) = drive(request_of(stage.store), stage).run_ids

    unknown, ended = run("cancel", "01UNKNOWN", "--yes", **ALONE), run("cancel", run_id, "--yes", **ALONE)

    assert (unknown.code, unknown.out) == (CommandExit.USAGE, "")
    assert "There is no run '01UNKNOWN'" in unknown.err
    assert run_id in unknown.err
    assert (ended.code, ended.out) == (CommandExit.DONE, f"Nothing to cancel: run {run_id} has ended.\n")


def test_a_gather_is_explained_and_its_log_is_found(world: Path, stage: Stage, run: Run) -> None:
    stage.play = lambda step, sample, attempt: 3 * (step == "total")
    drive(request_of(stage.store), stage)
    (world / "list.txt").write_text("ann\nbob\ncid\n")
    options = ("--sample-list-file", "list.txt", "--sources", "SR")

    for name in ("total", "_cohort"):
        told = run("status", *options, "--explain", name, workflow=small.Letters)
        assert told.code == CommandExit.DONE
        assert told.out.startswith("total: to run: never done; it failed in run ")
        assert "upper" not in told.out

    assert "There are: ann, bob, cid, total." in run("status", *options, "--explain", "x9", workflow=small.Letters).err
    for workflow in (small.Letters, None):
        told = run("logs", "ann", "total", workflow=workflow)
        assert told.code == CommandExit.USAGE
        assert "total is one job over all samples. Its log: logs _cohort total." in told.err
    assert run("logs", "_cohort", "total", **ALONE).out == "total says _cohort\nand goes\n"


def test_every_command_that_a_plan_proposes_is_taken(world: Path, stage: Stage, run: Run) -> None:
    drive(request_of(stage.store), stage)
    (world / "list.txt").write_text("ann\nbob\ncid\n")
    options = ("--sample-list-file", "list.txt", "--sources", "SR")
    (receipt,) = stage.store.list("receipts/total")
    stage.store.put("receipts/total/_cohort/0123456789abcdef.json", stage.store.get(receipt.key))
    stage.store.delete([receipt.key])

    told = run("plan", *options, workflow=small.Letters)

    proposed = told.err.partition("What changed: ")[2].partition(",")[0].split()
    assert proposed == ["status", "--explain", "_cohort"]
    assert run(*proposed, *options, workflow=small.Letters).code == CommandExit.DONE


def test_a_cohorts_logs_are_searched(stage: Stage, run: Run) -> None:
    drive(request_of(stage.store), stage)

    told = run("logs", "--grep", "says", "--step", "count", "--samples", "cid,ann", **ALONE)
    assert (told.out, told.err) == (
        "ann: count says ann\ncid: count says cid\n",
        "2 of 2 logs have a line with 'says'.\n",
    )
    several = run("logs", "--grep", "says", "--all-attempts", **ALONE).out.splitlines()
    assert (several[0], several[-1]) == ("ann upper 1: upper says ann", "the cohort total 1: total says _cohort")
    line = json.loads(run("logs", "--step", "count", "--samples", "ann", "--grep", "goes", "--json", **ALONE).out)
    assert line == {"step": "count", "sample": "ann", "attempt": 1, "running": False, "text": "and goes"}
    assert run("logs", "--failed", **ALONE).out == ""
    assert run("logs", "ann", "count", "--all-attempts", **ALONE).err == "== count, attempt 1\n"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "Name a SAMPLE, or search the cohort's logs"),
        (["ann", "--failed"], "--failed goes without SAMPLE"),
        (["ann", "--step", "count"], "--step goes without SAMPLE"),
        (["--grep", "x", "--follow"], "--follow and --attempt are about one sample"),
        (["ann", "--attempt", "1", "--all-attempts"], "--attempt and --all-attempts exclude each other"),
        (["--grep", "("], "--grep '(' is not a regular expression"),
    ],
)
def test_logs_that_contradict_themselves_are_refused(world: Path, run: Run, words: list[str], sentence: str) -> None:
    told = run("logs", *words, **ALONE)
    assert told.code == CommandExit.USAGE
    assert sentence in told.err


def test_sizes_are_proposed(stage: Stage, run: Run) -> None:
    assert "No receipt in file://" in run("rightsize", **ALONE).err
    drive(request_of(stage.store), stage)
    for path in (Path.cwd() / "store" / "default" / "receipts" / "upper").glob("*/*.json"):
        receipt = json.loads(path.read_text())
        receipt |= {"memory_mb": 1024, "cpus": 1, "usage": {"peak_memory_bytes": 200 << 20, "cpu_seconds": 1.0}}
        path.write_text(json.dumps(receipt))

    told = run("rightsize", "--share", "100", "--headroom", "0.5", **ALONE)
    assert "upper: memory 384 MiB instead of 1,024 (62% less)." in told.out
    (step,) = json.loads(run("rightsize", "upper", "--json", **ALONE).out)["steps"]
    assert (step["memory_mb"], step["memory_mb_for"]["50"], step["out_of_memory"]) == (320, 320, 0)
    assert "There is no step 'uper'. Did you mean 'upper'?" in run("rightsize", "uper", workflow=Letters).err
    assert run("rightsize", "upper", workflow=Letters).code == CommandExit.DONE


def test_sizes_are_written_into_the_settings_file_and_nothing_else_is(
    stage: Stage, run: Run, world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drive(request_of(stage.store), stage)
    for path in (world / "store" / "default" / "receipts").glob("*/*/*.json"):
        receipt = json.loads(path.read_text())
        receipt |= {"memory_mb": 1024, "cpus": 1, "usage": {"peak_memory_bytes": 200 << 20, "cpu_seconds": 1.0}}
        path.write_text(json.dumps(receipt))
    file = world / "batch_pipeline.toml"
    before = "# ours\n[steps.upper]\nmemory_mb = 512 # a guess\n[preset.big.steps.count]\nmemory_mb = 9000\n"
    file.write_text(before)

    assert "--write needs to know the steps." in run("rightsize", "--write", **ALONE).err
    assert file.read_text() == before
    result = run("rightsize", "--write", workflow=Letters)
    assert "Wrote steps.upper.memory_mb = 320 to batch_pipeline.toml.\n" in result.out
    # The store has cells of a step that this pipeline does not have.
    written = before.replace("512 #", "320 #") + "\n[steps.count]\nmemory_mb = 320\n"
    assert file.read_text() == written
    result = run("rightsize", "--write", workflow=Letters)
    assert "Nothing to write: the steps have what is proposed." in result.out

    record = json.loads(run("rightsize", "--write", "--preset", "big", "--json", workflow=Letters).out)
    assert (record["file"], record["written"]) == ("batch_pipeline.toml", {"preset.big.steps.count.memory_mb": 320})
    assert file.read_text() == written.replace("9000", "320")

    monkeypatch.setenv("BATCH_PIPELINE__STEPS__UPPER__MEMORY_MB", "700")
    result = run("rightsize", "upper", "--write", "--config", str(file), workflow=Letters)
    assert (
        "steps.upper.memory_mb was taken from $BATCH_PIPELINE__STEPS__UPPER__MEMORY_MB, which goes before" in result.err
    )
    assert file.read_text() == written.replace("9000", "320")


def test_plan_prints_groups_and_rightsize_explains_a_sample(
    run: Run, world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(letters.Upper, "memory_mb", lambda self, cell: 5000 if cell.sample == "S2" else 500)
    sheet = ("--sample-list-file", str(world / "list.txt"))
    planned = run("plan", *sheet, workflow=Letters)
    assert "Resources by what cells ask for (rightsize --explain SAMPLE):" in planned.out
    assert "1        500 MiB\n1        5,000 MiB\n" in planned.out
    explained = run("rightsize", "upper", "--explain", "S1", *sheet, workflow=Letters)
    assert explained.out.startswith("upper: asks for 500 MiB (sources 14 bytes, ")
    assert explained.out.endswith("; given 500 MiB, the most of 1 cell\n")
    record = json.loads(run("rightsize", "upper", "--explain", "S2", "--json", *sheet, workflow=Letters).out)[0]
    assert (record["asks_memory_mb"], record["memory_mb"], record["cells"]) == (5000, 5000, 1)


def test_explain_needs_the_pipeline(stage: Stage, run: Run) -> None:
    told = run("status", "--explain", "ann", **ALONE)
    assert (told.code, "No such option" in told.err) == (CommandExit.USAGE, True)
    told = run("status", "--sample-list-file", "list.txt", "--explain", "S1", "--watch")
    assert "--explain goes with neither --watch nor --run" in told.err


def test_the_attempts_of_a_run_are_lines_for_scripts(stage: Stage, run: Run) -> None:
    stage.play = lambda step, sample, attempt: 3 * (step == "upper" and sample == "ann")
    (run_id,) = drive(request_of(stage.store), stage).run_ids[:1]

    told = run("runs", "show", "last", "--cells", **ALONE)

    assert (told.code, told.err) == (CommandExit.DONE, "")
    header, *lines = told.out.splitlines()
    records = [dict(zip(header.split("\t"), line.split("\t"), strict=True)) for line in lines]
    assert (records[0]["run_id"], records[0]["sample"], records[0]["exit_code"]) == (run_id, "ann", "3")
    by_line = run("runs", "show", run_id, "--cells", "--format", "jsonl", **ALONE).out.splitlines()
    array = json.loads(run("runs", "show", run_id, "--cells", "--json", **ALONE).out)
    assert [json.loads(line) for line in by_line] == array
    assert [value["state"] for value in array] == [record["state"] for record in records]


@pytest.mark.parametrize(
    "words",
    [["show", "last", "--format", "tsv"], ["--cells"], ["show", "last", "--cells", "--json", "--format", "tsv"]],
)
def test_options_of_attempts_go_with_attempts(run: Run, world: Path, words: list[str]) -> None:
    told = run("runs", *words, **ALONE)
    assert told.code == CommandExit.USAGE
    assert "runs show RUN --cells" in told.err
