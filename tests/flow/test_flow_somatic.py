"""The example of somatic variants, by chromosome and patient, on real tools and the real engine."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from examples.somatic_data import SOMATIC, simulate
from tests.flow.lab import REPOSITORY, Lab


def run(folder: Path, *options: str) -> str:
    pipeline = str(REPOSITORY / "examples" / "somatic.py")
    command = [sys.executable, pipeline, "--sample-list-file", "toy/samples.csv", "--store", "toy/store", *options]
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout


@pytest.mark.engine
@pytest.mark.tools
def test_the_somatic_variants_are_those_that_were_planted(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    simulate(lab.folder / "toy")

    assert "somatic: 2/2 done" in run(lab.folder)
    results = lab.folder / "toy" / "store" / "results"
    for patient, planted in SOMATIC.items():
        lines = (results / "somatic" / patient / f"{patient}.vcf").read_text().splitlines()
        called = [line.split("\t")[:2] for line in lines if not line.startswith("#")]
        assert called == [[name, str(at)] for name, positions in planted.items() for at in positions]
    assert {path.name for path in (results / "call").iterdir()} == {
        f"{patient}-{status}@{part}"
        for patient in SOMATIC
        for status in ("normal", "tumour")
        for part in ("chr1", "chr2", "chr3_1-3000")
    }
    assert run(lab.folder).splitlines() == ["Nothing to do: 22 of 22 cells are done."]
