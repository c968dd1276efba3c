"""`runs`, `trace`, `verify`, `release` and `subset` as they are given: what is printed, and exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from batch_pipeline.wire.contract import CommandExit
from batch_pipeline.wire.errors import SubmissionRefused
from batch_pipeline.wire.store import open_store
from tests.cli.letters import Run
from tests.provenance.made import Maker
from tests.run.small import drive, request_of

FILE = "store/default/results/upper/ann/ann.txt"


@pytest.fixture
def run_id(world: Path) -> str:
    """A run in the default store."""
    store = open_store(str(world / "store" / "default"))
    outcome = drive(request_of(store, argv=("run", "--tag", "x=1"), description="first"), Maker(store))
    return outcome.run_ids[0]


def test_runs_lists_and_finds(world: Path, run: Run, run_id: str) -> None:
    told = run("runs", workflow=None)
    assert told.code == CommandExit.DONE
    assert run_id in told.out
    assert "7 done" in told.out
    (value,) = json.loads(run("runs", "--pipeline", "Letters", "--since", "1h", "--json", workflow=None).out)
    assert (value["run_id"], value["status"], value["ok"]) == (run_id, "done", True)
    assert json.loads(run("runs", "--user", "nobody", "--json", workflow=None).out) == []
    assert "No run that fits is recorded" in run("runs", "--until", "2020-01-01", workflow=None).out


def test_runs_show_tells_all_of_one(world: Path, run: Run, run_id: str) -> None:
    told = run("runs", "show", run_id[-6:], workflow=None).out
    for line in ("Run\n", "Code\n", "Steps\n", "Jobs\n", "What happened\n"):
        assert line in told
    assert "command            run --tag x=1" in told
    assert "upper-0-0  upper" in told
    value = json.loads(run("runs", "show", "last", "--json", workflow=None).out)
    assert [job["job"] for job in value["jobs_sent"]] == ["upper-0-0", "count-0-0", "total"]
    assert [event["event"] for event in value["events"]] == ["ended"]


def test_runs_show_sums_up_how_cells_ended(world: Path, run: Run, run_id: str) -> None:
    assert "Cells\n" in run("runs", "show", "last", workflow=None).out
    steps = json.loads(run("runs", "show", "last", "--json", workflow=None).out)["cells_ended"]
    assert {step["step"]: step["ended"] for step in steps} == {
        "upper": {"done": 3},
        "count": {"done": 3},
        "total": {"done": 1},
    }
    table = world / "store" / "default" / "runs" / run_id / "cells"
    table.write_bytes(table.read_bytes()[:-9])
    told = run("runs", "show", "last", workflow=None)
    assert f"`store index {run_id}` writes it again" in told.err
    assert "Cells\n" not in told.out


def test_store_index_writes_the_table_again(world: Path, run: Run, run_id: str) -> None:
    table = world / "store" / "default" / "runs" / run_id / "cells"
    whole = table.read_bytes()
    table.unlink()
    told = run("store", "index", workflow=None)
    assert f"The cell table of run {run_id} has 7 cells" in told.out
    assert table.read_bytes() == whole
    value = json.loads(run("store", "index", run_id[-6:], "--json", workflow=None).out)
    assert (value["run_id"], value["cells"]) == (run_id, 7)
    assert "There is no `store show`" in run("store", "show", workflow=None).err
    assert "takes 1 run, not 2" in run("store", "index", "last", "last", workflow=None).err


def test_runs_show_says_that_a_submission_failed(world: Path, run: Run) -> None:
    store = open_store(str(world / "store" / "default"))
    maker = Maker(store)
    maker.fail_next(SubmissionRefused("The queue 'mixed' is closed. Open it."))
    with pytest.raises(SubmissionRefused):
        drive(request_of(store), maker)
    problem = "submission failed: upper-0-0: The queue 'mixed' is closed. Open it."
    assert f"0 done; {problem}" in run("runs", "show", "last", workflow=None).out
    assert f"0 done; {problem}" in run("runs", workflow=None).out


def test_runs_diff_tells_what_differs(world: Path, run: Run, run_id: str) -> None:
    assert "differ in nothing" in run("runs", "diff", run_id, "last", workflow=None).out
    store = open_store(str(world / "store" / "default"))
    drive(request_of(store, params={"depth": 2}), Maker(store))
    told = run("runs", "diff", run_id, "last", workflow=None).out
    assert "step count" in told
    assert "params.depth" in told
    value = json.loads(run("runs", "diff", run_id, "last", "--json", workflow=None).out)
    assert {"about": "step count", "field": "params.depth", "before": "1", "after": "2"} in value["differences"]


def test_runs_export_writes_a_crate(world: Path, run: Run, run_id: str) -> None:
    told = run("runs", "export", "last", "--to", "crate", workflow=None)
    assert told.out.startswith(f"Run {run_id} is in crate: ")
    assert (world / "crate" / "ro-crate-metadata.json").is_file()
    assert run("runs", "export", "last", "--to", "crate", workflow=None).code == CommandExit.USAGE


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["runs", "shw"], "There is no `runs shw`"),
        (["runs", "show"], "`runs show` takes 1 run, not 0"),
        (["runs", "diff", "last"], "`runs diff` takes 2 runs, not 1"),
        (["runs", "show", "last", "--user", "ada"], "go with the list only"),
        (["runs", "--to", "x"], "--to goes with an export only"),
        (["runs", "export", "last"], "Say where"),
        (["runs", "show", "01NOSUCHRUN"], "There is no run '01NOSUCHRUN'"),
        (["runs", "--since", "yesterday"], "is no time"),
        (["verify"], "Say what to verify"),
        (["verify", "last", "--all"], "Say what to verify"),
        (["trace", "SR/ann.txt"], "No receipt in"),
        (["subset", "--samples", "ann"], "Say which samples, and where to"),
    ],
)
def test_what_cannot_be_meant_is_refused(world: Path, run: Run, run_id: str, words: list[str], told: str) -> None:
    said = run(*words, workflow=None)
    assert said.code == CommandExit.USAGE
    assert told in said.err


def test_trace_prints_a_tree_or_json(world: Path, run: Run, run_id: str) -> None:
    told = run("trace", FILE, workflow=None)
    assert told.code == CommandExit.DONE
    assert told.out.startswith("results/upper/ann/ann.txt (")
    assert f"run: {run_id} by " in told.out
    assert "a source)" in told.out
    value = json.loads(run("trace", FILE, "--json", workflow=None).out)
    assert value["cells"][0]["run_id"] == run_id
    both = json.loads(run("trace", "cohort/total/total.txt", "--samples", "ann,bob", "--json", workflow=None).out)
    assert {cell["sample"] for cell in both["cells"]} == {"_cohort", "ann", "bob"}


def test_trace_of_what_cannot_be_followed_ends_with_1(world: Path, run: Run, run_id: str) -> None:
    for path in (world / "store" / "default" / "receipts" / "upper" / "ann").iterdir():
        path.unlink()
    told = run("trace", "results/count/ann/count.txt", workflow=None)
    assert told.code == CommandExit.FAILED
    assert "The receipt of upper of ann is gone." in told.err


def test_verify_names_the_file_that_changed(world: Path, run: Run, run_id: str) -> None:
    assert run("verify", "last", workflow=None).out.startswith("7 files, ")
    assert run("verify", "--all", workflow=None).code == CommandExit.DONE
    path = world / FILE
    data = bytearray(path.read_bytes())
    data[2] ^= 1
    path.write_bytes(data)
    for what in (run_id, "results/upper", FILE, "--all"):
        told = run("verify", what, workflow=None)
        assert told.code == CommandExit.FAILED
        assert told.out.startswith("results/upper/ann/ann.txt: Its SHA-256 is")
    assert run("verify", "cohort", workflow=None).code == CommandExit.DONE
    value = json.loads(run("verify", "last", "--json", workflow=None).out)
    assert (value["ok"], [one["file"] for one in value["problems"]]) == (False, ["results/upper/ann/ann.txt"])
    repaired = run("verify", "--all", "--repair", workflow=None)
    assert repaired.code == CommandExit.FAILED
    # The receipts do not note when a file was made: who read it may have read these bytes.
    assert "2 cells will be made again by the next run." in repaired.out
    assert run("verify", "--all", workflow=None).code == CommandExit.DONE


def test_release_and_verify_it(world: Path, run: Run, run_id: str) -> None:
    told = run("release", "last", "--to", "released", "--json", workflow=None)
    assert told.code == CommandExit.DONE
    prefix = json.loads(told.out)["prefix"]
    assert run("verify", prefix, "--store", "released", workflow=None).code == CommandExit.DONE
    again = run("release", run_id, "--to", "released", workflow=None)
    assert again.code == CommandExit.CONFLICT
    assert "a release is never changed" in again.err
    assert "released" in run("runs", "show", "last", workflow=None).out
    inner = str(world / "released" / prefix)
    assert run_id in run("runs", "--store", inner, workflow=None).out
    assert run("verify", "--all", "--store", inner, workflow=None).code == CommandExit.DONE


def test_subset_copies_samples(world: Path, run: Run, run_id: str) -> None:
    words = ["subset", "--samples", "ann,bob", "--to", "test", "--files", "{sample}.txt", "--results"]
    told = run(*words, workflow=None)
    assert told.code == CommandExit.DONE
    assert told.out.startswith("10 files of 2 samples, ")
    there = {path.name for path in (world / "test" / "SR").iterdir()}
    assert there == {"ann.txt", "bob.txt"}
    assert "10 of them there already" in run(*words, workflow=None).out
    (world / "test" / "SR" / "ann.txt").write_text("other")
    assert run(*words, workflow=None).code == CommandExit.CONFLICT
