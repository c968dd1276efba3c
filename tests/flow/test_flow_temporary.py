"""Temporary outputs on the real engine: removed, not missed, made again; and drivers killed while they remove."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.flow.lab import REPOSITORY, SAMPLES, Lab

pytestmark = pytest.mark.engine

#: Runs a pipeline, and kills itself before the n-th call to the store from the first list of removals on.
DYING = """
import os, runpy, signal, sys
from batch_pipeline.wire.store import Store

deadly, call, seen = int(os.environ["DIE_AT"]), Store._call, 0


def dying(store, kind, key, count=1):
    global seen
    seen += bool(seen or (kind == "put" and key.startswith("removing/")))
    if seen == deadly:
        os.kill(os.getpid(), signal.SIGKILL)
    return call(store, kind, key, count)


Store._call = dying
sys.argv = sys.argv[1:]
sys.path.insert(0, os.path.dirname(sys.argv[0]))
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def temporary(lab: Lab) -> None:
    """Makes the output of the first step temporary."""
    lab.edit("parts/lower.py", 'Output("{sample}.lower.txt")', 'Output("{sample}.lower.txt", temporary=True)')


def lowered(lab: Lab) -> list[Path]:
    return sorted(lab.store.glob("results/lower/*/*"))


def test_an_output_becomes_temporary_without_a_job_and_is_made_again_for_a_reader_that_changed(lab: Lab) -> None:
    lab.run()
    temporary(lab)
    ran = lab.run()
    assert "Removed 3 temporary files after use" in ran.out
    assert not ran.calls
    assert not lowered(lab)
    assert not lab.run("--check-results").calls
    assert lab.run("verify", "--all").out.splitlines()[-1].startswith("3 files removed after use")

    plan = lab.json("plan", "--shortest", "4")
    assert {step["step"]: step["to_run"] for step in plan["steps"]} == {"lower": 3, "words": 3, "count": 1}
    lab.run("--shortest", "4")
    assert lab.sent() >= {("lower", sample) for sample in SAMPLES}
    assert (lab.store / "results/words/ann/ann.words.txt").read_text() == "words\n"
    assert not lowered(lab)
    assert not lab.run("--shortest", "4").calls


def test_keep_temporary_and_tidy(lab: Lab) -> None:
    temporary(lab)
    lab.run("--keep-temporary")
    assert len(lowered(lab)) == 3
    listed = ("--sample-list-file", str(lab.sample_list), "--sources", str(lab.sources))
    assert lab.run("store", "tidy", *listed).out.startswith("Removed 3 temporary files after use")
    assert lab.run("store", "tidy", *listed).out == "Nothing to remove.\n"
    assert not lowered(lab)


@pytest.mark.parametrize("deadly", range(1, 8))
def test_a_driver_killed_in_the_middle_of_removing_loses_nothing(lab: Lab, deadly: int) -> None:
    temporary(lab)
    lab.run("--keep-temporary")
    ended = subprocess.run(
        [sys.executable, "-c", DYING, str(lab.pipeline / lab.file), *lab.arguments()],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "DIE_AT": str(deadly)},
        cwd=lab.folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == -9, ended.stderr
    recorded = {path.parent.name for path in lab.store.glob("receipts/lower/*/*.removed.json")}
    there = {path.parent.name for path in lowered(lab)}
    assert recorded | there == set(SAMPLES), "what is not there is recorded"
    assert not lab.run().calls
    assert not lowered(lab)
    assert not list(lab.store.glob("removing/*"))
