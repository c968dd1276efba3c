"""The verbs on the real embedded Batch: what a person sees from the first run to the last."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from batch_pipeline.localbatch.client import stop
from batch_pipeline.wire.contract import CommandExit
from tests.cli.prompt import ROOT, all_said, lay_out, started

pytestmark = pytest.mark.engine


class Shell:
    """A person at a prompt in a folder with the pipeline."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "BATCH_PIPELINE__EMBEDDED__STATE": str(folder / "state"),
            "BATCH_PIPELINE__EMBEDDED__IDLE_SECONDS": "20",
            "BATCH_PIPELINE__EMBEDDED__VCPUS": "2",
            "BATCH_PIPELINE__SAMPLES__FILE": "list.txt",
        }

    def start(self, *args: str) -> subprocess.Popen[str]:
        return started([sys.executable, "main.py", *args], self.folder, self.environment)

    def __call__(self, *args: str, code: int = CommandExit.DONE) -> str:
        return all_said(self.start(*args), code)


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    lay_out(tmp_path, tmp_path / "store" / "default" / "SR")
    yield Shell(tmp_path)
    stop(tmp_path / "state")


def run_of(shell: Shell) -> str:
    """The newest run's id."""
    return str(json.loads(shell("runs", "--json"))[0]["run_id"])


def said_until(process: subprocess.Popen[str], start: str) -> str:
    """What a command has said to stderr up to the line that begins so; fails when it ends without."""
    assert process.stderr is not None
    seen = ""
    for line in iter(process.stderr.readline, ""):
        seen += line
        if line.startswith(start):
            return seen
    pytest.fail(f"It ended without {start!r}:\n{seen}")


def test_a_run_that_never_began_is_closed_and_leads_no_later_command_anywhere(shell: Shell) -> None:
    nowhere = shell.folder / "nowhere"
    nowhere.mkdir()
    shell.environment["PATH"] = str(nowhere)
    assert "podman is not on the PATH" in shell("--container", "podman", code=CommandExit.UNREACHABLE)
    (run,) = json.loads(shell("runs", "--json"))
    assert (run["status"], run["jobs"]) == ("failed", 2)
    assert "podman is not on the PATH" in run["problem"]
    assert "Nothing to cancel: no run is live." in shell("cancel")

    # As an earlier version left it, or a driver that was killed before its first job.
    store = shell.folder / "store" / "default"
    (store / "runs" / run["run_id"] / "end.json").unlink()
    live = store / "live" / f"{run['run_id']}.json"
    live.parent.mkdir(exist_ok=True)
    live.write_text(json.dumps({"run_id": run["run_id"], "started_at": run["started_at"], "format": 1}))
    assert "upper" in shell("status")
    assert f"Closed run {run['run_id']}: it had sent no job." in shell("cancel", "--yes")
    assert not live.exists()

    (store / "runs" / run["run_id"] / "end.json").unlink()
    live.write_text(json.dumps({"run_id": run["run_id"], "started_at": run["started_at"], "format": 1}))
    assert "upper: 3/3 done\ncount: 3/3 done\n" in shell()
    assert not live.exists()
    assert {each["status"] for each in json.loads(shell("runs", "--json"))} == {"done", "failed"}


def test_from_the_first_run_to_nothing_to_do(shell: Shell) -> None:
    told = shell()
    assert "upper: 3/3 done\ncount: 3/3 done\n" in told
    assert "Submitted upper-0-0: 3 cells of upper" in told
    assert "\x1b" not in told
    results = shell.folder / "store" / "default" / "results"
    assert (results / "upper" / "S2" / "upper.txt").read_text() == "LETTERS OF S2\n"
    assert shell() == "Nothing to do: 6 of 6 cells are done.\n"
    assert shell("plan") == "Nothing to do: 6 of 6 cells are done.\n"
    assert "upper: done by run" in shell("status", "--explain", "S1")
    assert "shouting letters of S1" in shell("logs", "S1", "upper")
    assert shell("logs", "S1", "upper", "--grep", "shout.*S1") == "shouting letters of S1\n"
    line = json.loads(shell("logs", "S1", "upper", "--grep", "shouting", "--json"))
    assert (line["step"], line["sample"], line["attempt"]) == ("upper", "S1", 1)
    (run,) = json.loads(shell("runs", "--json"))
    assert (run["ended"], run["ok"], run["samples"], run["jobs"], run["done"]) == (True, True, 3, 2, 6)
    assert "6 done" in shell("runs")


def test_where_talk_and_data_go_to_one_place_the_last_word_is_told_once(shell: Shell) -> None:
    command = [sys.executable, "main.py"]
    with (shell.folder / "told").open("w") as told:
        subprocess.run(command, cwd=shell.folder, env=shell.environment, stdout=told, stderr=told, check=True)
    lines = (shell.folder / "told").read_text().splitlines()
    assert [lines.count(line) for line in ("upper: 3/3 done", "count: 3/3 done")] == [1, 1]


def test_a_failure_is_told_folded_and_mended(shell: Shell) -> None:
    source = shell.folder / "store" / "default" / "SR" / "S2.txt"
    source.write_text("a bad word\n")
    told = shell(code=CommandExit.FAILED)
    assert "Sample S2 has a bad word. Fix it." in told
    assert "count: 1 not run: 1 because upper failed (1 step failed)" in told
    assert (shell.folder / "store" / "default" / "results" / "count" / "S3" / "count.txt").exists()
    told = shell("status", code=CommandExit.FAILED)
    assert "upper, step failed: S2\n    Sample S2 has a bad word. Fix it." in told
    assert "2 done, 2 failed" not in told
    assert "upper-0-0     1  at once" in shell("plan", "--failed")
    source.write_text("a good word\n")
    assert "upper: 3/3 done" in shell("run", "--failed")
    shell("status")


def test_a_detached_run_is_watched_to_its_end(shell: Shell) -> None:
    hold = ("--hold", str(shell.folder / "go"))
    assert "The jobs go on by themselves" in shell("--detach", *hold)
    run = run_of(shell)
    assert "live" in shell("runs")
    assert run in shell("status", *hold)
    process = shell.start("status", "--watch", *hold)
    seen = said_until(process, "count: 0/3")
    (shell.folder / "go").touch()
    out, err = process.communicate(timeout=60)
    assert process.returncode == CommandExit.DONE, seen + err
    assert out == "upper: 3/3 done\ncount: 3/3 done\n"
    assert shell("status", "--watch", *hold) == "Nothing to watch: no run is live.\n"


def test_a_run_is_cancelled(shell: Shell) -> None:
    shell("--detach", "--hold", "never")
    run = run_of(shell)
    assert "Give --yes" in shell("cancel", code=CommandExit.USAGE)
    told = shell("cancel", run, "--yes")
    assert "Cancelled 6 cells of 2 jobs." in told
    assert f"upper-0-0 of run {run} (3 cells)" in told
    assert "There is no live run" not in shell("cancel", "--yes")


@pytest.mark.parametrize("wanted", ["leave", "cancel"])
def test_ctrl_c_leaves_or_cancels_the_jobs(shell: Shell, wanted: str) -> None:
    process = shell.start("--hold", str(shell.folder / "go"), "--on-interrupt", wanted)
    seen = said_until(process, "count: 0/3")
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == CommandExit.INTERRUPTED, seen + out + err
    if wanted == "cancel":
        assert "Cancelled upper: job upper-0-0" in err
    else:
        assert "go on. See them with `status`" in err
        again = shell.start("--hold", str(shell.folder / "go"))
        said_until(again, "count: 0/3")
        (shell.folder / "go").touch()
        out, err = again.communicate(timeout=60)
        assert (again.returncode, out) == (CommandExit.DONE, "upper: 3/3 done\ncount: 3/3 done\n"), err
        assert len(json.loads(shell("runs", "--json"))) == 1


def test_a_job_that_waits_for_another_stores_jobs_says_so(shell: Shell) -> None:
    shell.environment["BATCH_PIPELINE__EMBEDDED__VCPUS"] = "1"
    shell.environment["BATCH_PIPELINE__WATCH__DWELL_SECONDS"] = "0.1"
    gate = shell.folder / "gate"
    shell("run", "--samples", "S1", "--hold", str(gate), "--detach")
    sources = str(shell.folder / "store" / "default" / "SR")
    shell("run", "--samples", "S2", "--store", "other", "--sources", sources, "--detach")

    told = shell("status", "--store", "other", "--sources", sources)
    assert "upper waits: Jobs of other stores take the vCPUs or memory of this machine." in told
    assert f"taken by jobs of file://{shell.folder}/store/default" in told
    watching = shell.start("watch", "--store", "other", "--sources", sources)
    assert watching.stderr is not None
    assert any("upper waits: Jobs of other stores" in line for line in iter(watching.stderr.readline, ""))
    gate.touch()
    out, err = watching.communicate(timeout=60)
    assert watching.returncode == 0, out + err


def test_a_step_gets_what_the_settings_say_and_other_resources_run_nothing_again(shell: Shell) -> None:
    (shell.folder / "batch_pipeline.toml").write_text(
        "[steps.upper]\nmemory_mb = 300\n[preset.small.steps.upper]\nmemory_mb = 200\ncpus = 2\n"
    )
    shell("--preset", "small")

    (receipt, *_) = (shell.folder / "store" / "default" / "receipts" / "upper").glob("*/*.json")
    assert {key: json.loads(receipt.read_text())[key] for key in ("memory_mb", "cpus")} == {"memory_mb": 200, "cpus": 2}
    (config,) = (shell.folder / "store" / "default" / "runs").glob("*/config.json")
    assert json.loads(config.read_text())["settings"]["steps"] == {"upper": {"memory_mb": 200, "cpus": 2.0}}
    assert "Nothing to do" in shell()
    assert "changed since it was done" in shell("plan", "--set", "steps.upper.image=upper:2")
