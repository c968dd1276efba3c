"""Stranded libraries, made with a known direction: what `auto` decides, and when a strandedness is doubted."""

from __future__ import annotations

import gzip
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from batch_pipeline import Job
from batch_pipeline.demo.alone import run_alone
from batch_pipeline.demo.transcriptome import read_transcriptome, reverse_complement
from steps import strandedness
from steps.kallisto import Kallisto
from steps.strandedness import strand_of
from tests.steps.lab import SAMPLE, Lab

Reads = tuple[Path, Path]
#: Library -> share of pairs whose first read is of the transcript's strand.
FORWARD = {"fr": 1.0, "rf": 0.0, "none": 0.5, "mostly fr": 0.9}


@pytest.fixture(scope="module")
def library(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Reads]:
    """Makes 300 pairs of a library."""
    transcripts = [transcript.sequence for transcript in read_transcriptome(lab.fasta, lab.gtf)]

    def make(name: str) -> Reads:
        rng = random.Random(name)
        records: tuple[list[str], list[str]] = ([], [])
        for number in range(300):
            sequence = rng.choice(transcripts)
            start = rng.randrange(len(sequence) - 250)
            fragment = sequence[start : start + 250]
            mates = [fragment[:100], reverse_complement(fragment)[:100]]
            if rng.random() >= FORWARD[name]:
                mates.reverse()
            for file, bases in zip(records, mates, strict=True):
                file.append(f"@q{number}\n{bases}\n+\n{'I' * 100}\n")
        folder = tmp_path_factory.mktemp("library")
        paths = folder / "q_1.fastq.gz", folder / "q_2.fastq.gz"
        for path, file in zip(paths, records, strict=True):
            path.write_bytes(gzip.compress("".join(file).encode()))
        return paths

    return make


def quantify(lab: Lab, reads: Reads, work: Path, library: str = "", **params: object) -> Job:
    columns = {"library": library} if library else {}
    return run_alone(
        Kallisto(**params), work, SAMPLE, inputs={"reads": reads}, reference=lab.reference, columns=columns
    )


@pytest.mark.tools
@pytest.mark.parametrize(("name", "strand"), [("fr", "fr"), ("rf", "rf"), ("none", "none"), ("mostly fr", "fr")])
def test_auto_finds_the_strandedness(
    lab: Lab, library: Callable[[str], Reads], tmp_path: Path, name: str, strand: str
) -> None:
    job = quantify(lab, library(name), tmp_path / "work", strandedness="auto")
    assert job.metrics["strandedness"] == strand
    assert job.metrics["forward_pairs"] + job.metrics["reverse_pairs"] >= 300
    assert "warning" not in job.metrics
    assert not list(job.work.glob(".first_pairs_*"))


@pytest.mark.tools
def test_the_columns_value_goes_before_the_parameter(lab: Lab, library: Callable[[str], Reads], tmp_path: Path) -> None:
    job = quantify(lab, library("none"), tmp_path / "work", library="none", strandedness="rf")
    assert job.metrics["strandedness"] == "none"
    assert "forward_pairs" not in job.metrics


@pytest.mark.tools
def test_a_strandedness_that_loses_half_of_the_pairs_is_doubted_with_both_numbers(
    lab: Lab, library: Callable[[str], Reads], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = quantify(lab, library("none"), tmp_path / "work", strandedness="rf")
    assert job.metrics["p_pseudoaligned"] < 60
    assert job.metrics["p_pseudoaligned_unstranded"] == 100.0
    assert (
        f"% of the pairs of sample {SAMPLE} pseudoalign with strandedness rf, 100.0 % of the first 300 without; the"
        " library has another one. Say auto, as --strandedness or in the sheet's column strandedness."
    ) in job.metrics["warning"]
    assert job.metrics["warning"] in capsys.readouterr().out


@pytest.mark.tools
def test_few_pairs_that_fit_in_no_direction_are_no_matter_of_strand(
    lab: Lab, library: Callable[[str], Reads], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reads = library("fr")
    for path in reads:
        strangers = "".join(f"@x{n}\n{'AC' * 50}\n+\n{'I' * 100}\n" for n in range(300))
        path.write_bytes(path.read_bytes() + gzip.compress(strangers.encode()))
    job = quantify(lab, reads, tmp_path / "work", strandedness="fr")
    assert job.metrics["p_pseudoaligned"] == job.metrics["p_pseudoaligned_unstranded"] == 50.0
    assert "warning" not in job.metrics
    assert "few of them are of the reference's transcripts" in capsys.readouterr().out


@pytest.mark.tools
def test_the_first_pairs_alone_are_looked_at(
    lab: Lab, library: Callable[[str], Reads], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(strandedness, "PROBE_PAIRS", 40)
    job = quantify(lab, library("rf"), tmp_path / "work", strandedness="auto")
    assert (job.metrics["strandedness"], job.metrics["reverse_pairs"]) == ("rf", 40)
    assert job.metrics["processed_pairs"] == 300


def test_an_undecided_library_counts_as_unstranded() -> None:
    pairs = [(0, 0), (5, 5), (79, 21), (21, 79), (80, 20), (20, 80)]
    assert [strand_of(*both) for both in pairs] == ["none"] * 4 + ["fr", "rf"]
