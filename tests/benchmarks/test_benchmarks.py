"""The benchmarks run, count right and leave nothing running; how long anything takes is no test's business."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import __main__ as command_line
from benchmarks import bound, listing, listing_server, memory
from benchmarks.engines import STEPS, Durable

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.engine
@pytest.mark.slow
def test_every_engine_makes_all_results_and_again_those_that_were_taken_away(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks", "cells", "--samples", "5", "--rounds", "1", "--no-peers"]
    command += ["--folder", str(tmp_path), "--results", str(tmp_path / "results")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    results = json.loads((tmp_path / "results" / "cells.json").read_text())["results"]
    assert {one["engine"] for one in results} == {"batch_pipeline", "durable bound", "xargs -P2", "without syncs"}
    for one in results:
        assert one["wrong_after_build"] == one["wrong_after_rerun"] == 0
        assert one["build"]["cpu_seconds"] > 0
    assert _commands_with(str(tmp_path)) == []


@pytest.mark.parametrize("name", ["absent", "file"])
def test_a_folder_that_is_not_there_is_refused_before_anything_is_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(sys, "argv", ["benchmarks", "large-sample", "--folder", str(tmp_path / name)])
    with pytest.raises(SystemExit) as refused:
        command_line.main()
    assert refused.value.code == 2
    assert f"--folder {tmp_path / name} is no folder" in capsys.readouterr().err


@pytest.mark.tools
@pytest.mark.slow
def test_the_memory_of_pizzlys_step_is_measured_beside_pizzlys_own(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks", "candidates", "--candidates", "500"]
    command += ["--folder", str(tmp_path), "--results", str(tmp_path / "results")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "'candidates': 500" in done.stdout
    kept = json.loads((tmp_path / "results" / "candidates.json").read_text())
    assert (kept["rows"], kept["cost"]["exit_code"]) == (500, 0)
    assert 0 < kept["pizzly_mib"] < kept["cost"]["together_mib"]


@pytest.mark.engine
@pytest.mark.tools
@pytest.mark.slow
def test_a_large_sample_is_measured_beside_the_bare_tools(tmp_path: Path) -> None:
    kept = _measured(tmp_path, "large-sample", "--transcripts", "300", "--pairs", "6000", "--rounds", "1")
    (measured,) = kept["rounds"]
    for what in ("ours", "loop", "checked_loop"):
        assert measured[what]["exit_code"] == 0
        assert measured[what]["cpu_seconds"] > 0
    assert 0 < measured["steps_cpu_seconds"] < measured["ours"]["cpu_seconds"]
    assert kept["cpu_ratio"] == measured["ours"]["cpu_seconds"] / measured["loop"]["cpu_seconds"]
    with gzip.open(tmp_path / "cache" / _CACHED / "large_300" / "reference" / "transcripts.fasta.gz") as lines:
        assert sum(line.startswith(b">") for line in lines) == 300


@pytest.mark.engine
@pytest.mark.tools
@pytest.mark.slow
def test_samples_without_a_fusion_have_none(tmp_path: Path) -> None:
    kept = _measured(tmp_path, "negatives", "--negatives", "5", "--no-real")
    assert (kept["samples"], kept["pairs"], kept["fusions"]) == (5, 20_000, {})


#: Below the user's cache: what the benchmarks keep there.
_CACHED = "batch_pipeline/benchmarks"


def _measured(folder: Path, name: str, *options: str) -> dict[str, Any]:
    """What a benchmark keeps of its run, with a cache of its own."""
    command = [sys.executable, "-m", "benchmarks", name, *options]
    command += ["--folder", str(folder), "--results", str(folder / "results")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": str(folder / "cache")}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "goal" in done.stdout
    assert _commands_with(str(folder)) == []
    kept: dict[str, Any] = json.loads((folder / "results" / f"{name}.json").read_text())
    return kept


@pytest.mark.slow
def test_more_than_ten_thousand_samples_are_two_arrays_a_step_and_a_done_cohort_costs_listings_only() -> None:
    command = [sys.executable, "-m", "benchmarks.planning", "10001"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    figures = json.loads(done.stdout)
    assert figures["new"]["jobs"] == 6
    assert figures["done"]["jobs"] == 0
    # 30,003 receipts, 10,001 sources, no live run, nothing retired.
    assert figures["done"]["lists"] == 31 + 11 + 1 + 1
    assert figures["done"]["other_calls"] == 0


@pytest.mark.slow
def test_listings_are_measured_as_they_are_answered_late_and_of_more_cells(tmp_path: Path) -> None:
    kept = _measured(tmp_path, "listing", "--no-peers", "--objects", "3000", "--simulated", "2000", "--rounds", "1")
    by_kind = kept["results"]
    assert {kind: one["entries"] for kind, one in by_kind.items()} == {
        "all": 3000,
        "all, 100 ms a call": 3000,
        "3 samples, 100 ms a call": 9,
        "200 samples, made up": 600,
        "2,000 samples, made up": 6000,
    }
    assert all(one["calls"] <= one["entries"] / 1000 + 32 for one in by_kind.values())
    assert by_kind["all, 100 ms a call"]["seconds"] >= 0.1


@pytest.mark.slow
def test_a_listing_server_says_what_another_one_does() -> None:
    names = [listing_server.sample(number) for number in range(700)]
    with listing._served(0.0, "--made-up", "700") as made_up, listing._served(0.0, "--copy", str(made_up)) as copy:
        assert listing._listed(made_up, names)["entries"] == listing._listed(copy, names)["entries"] == 2100
        assert listing._listed(copy, names[5:6])["calls"] == 2


@pytest.mark.engine
def test_the_bound_trusts_its_record_only_while_the_output_is_as_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Durable(tmp_path / "here", 3)
    engine.prepare()
    monkeypatch.chdir(tmp_path)
    assert bound.main(str(engine.folder), 3, 2) == 0
    assert engine.wrong() == 0
    before = _times(engine)
    engine.output(1, 2).write_text("torn")
    engine.output(2, 3).unlink()
    assert bound.main(str(engine.folder), 3, 2) == 0
    assert engine.wrong() == 0
    again = {cell for cell, time in _times(engine).items() if time != before[cell]}
    assert again == {(1, 2), (1, 3), (2, 3)}


def _times(engine: Durable) -> dict[tuple[int, int], int]:
    return {
        (sample, step): engine.output(sample, step).stat().st_mtime_ns
        for sample in range(engine.samples)
        for step in STEPS
    }


def _commands_with(text: str) -> list[str]:
    """Command lines of living processes that name something."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if text in command:
            found.append(command)
    return found


def test_groups_by_evidence_save_memory_of_a_heavy_tailed_cohort_and_few_cells_run_out() -> None:
    ways = memory.replays(300, memory.SEED)
    one, groups, known = (ways[name] for name in ("one number a step", "at most 4 groups", "peaks, known before"))
    assert known.gib_hours < groups.gib_hours < 0.8 * one.gib_hours
    assert groups.out_of_memory <= 1
    assert known.out_of_memory == 0
