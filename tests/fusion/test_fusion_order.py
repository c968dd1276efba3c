"""Samples do not wait for each other, and the command line that has always been."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest

from tests.fusion.conftest import REFERENCE, Cohort, build_reference
from tests.fusion.prompt import PATIENCE, STEPS, Bucket, cells, moment

pytestmark = [pytest.mark.engine, pytest.mark.tools, pytest.mark.xdist_group("fusion")]


@pytest.fixture(scope="module")
def small_and_large(new_bucket: Callable[[str], Bucket], cohort: Cohort) -> Bucket:
    """Two samples, one with fifty times the reads, run by the command of old."""
    bucket = new_bucket("B")
    cohort.write(bucket.bam("small"), "sim03")
    cohort.write(bucket.bam("large"), "sim02", times=50)
    (bucket.prompt.folder / "sample_list.txt").write_text("large.bam\nsmall.bam\n")
    command = "python3 main.py --queue=mixed --bucket-name=B --pipeline-name=first-test-pipeline"
    of_old(bucket, f"{command} --sample-list-file=./sample_list.txt")
    return bucket


def of_old(bucket: Bucket, command: str) -> str:
    """Gives a command line as it stands to a shell, in which `python3` is the one that has the packages."""
    path = f"{Path(sys.executable).parent}:{bucket.prompt.environment['PATH']}"
    ended = subprocess.run(
        command,
        shell=True,
        cwd=bucket.prompt.folder,
        env={**bucket.prompt.environment, "PATH": path},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def test_the_command_of_old_runs_all_steps_of_all_samples(small_and_large: Bucket) -> None:
    assert set(small_and_large.receipts()) == cells("small large")
    [*_, run] = [run for run in small_and_large.runs() if set(small_and_large.jobs(run)) == {f"{s}-0-0" for s in STEPS}]
    runs = small_and_large.prompt("runs", "--json", "--bucket-name", "B").json
    assert {one["pipeline"] for one in runs if one["run_id"] == run} == {"first-test-pipeline"}


def test_kallisto_of_one_sample_starts_while_picard_of_another_still_runs(small_and_large: Bucket) -> None:
    receipts = small_and_large.receipts()
    picard, kallisto = receipts["picard", "large"], receipts["kallisto", "small"]
    assert moment(picard.started_at) < moment(kallisto.started_at) < moment(picard.stopped_at)
    assert moment(receipts["picard", "small"].stopped_at) <= moment(kallisto.started_at)


def test_each_cell_starts_after_the_one_it_reads_from(small_and_large: Bucket) -> None:
    receipts = small_and_large.receipts()
    for sample in ("small", "large"):
        times = [(receipts[step, sample].started_at, receipts[step, sample].stopped_at) for step in STEPS]
        assert sorted(times) == times
        for (_, stopped), (started, _) in pairwise(times):
            assert moment(stopped) <= moment(started)


def test_a_reference_is_chosen_by_name_when_there_are_several(small_and_large: Bucket, cohort: Cohort) -> None:
    bucket = small_and_large
    build_reference(bucket, "GRCh38.91", cohort.fasta, cohort.gtf)
    picard = {cell: receipt for cell, receipt in bucket.receipts().items() if cell[0] == "picard"}
    command = "--queue=mixed --bucket-name=B --pipeline-name=first-test-pipeline --sample-list-file=./sample_list.txt"
    unsaid = bucket.prompt(*command.split(), code=2)
    assert "GRCh38.91" in unsaid.err
    assert REFERENCE in unsaid.err
    assert "--reference" in unsaid.err

    of_old(bucket, f"python3 main.py {command} --reference=GRCh38.91")

    now = bucket.receipts()
    assert {cell: now[cell] for cell in picard} == picard
    assert now["kallisto", "small"].run_id == now["pizzly", "large"].run_id == bucket.runs()[-1]
    record = json.loads((bucket.folder / "runs" / bucket.runs()[-1] / "run.json").read_text())
    assert record["reference"] == "GRCh38.91"
