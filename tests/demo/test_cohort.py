"""The demonstration's cohort, and the three steps on it without any orchestration: exactly the truth, nothing else."""

from __future__ import annotations

import csv
import gzip
import io
import tarfile
from collections.abc import Iterable
from pathlib import Path

import pytest

from batch_pipeline import Job
from batch_pipeline.demo import real as real_module
from batch_pipeline.demo.alone import run_alone
from batch_pipeline.demo.cohort import Cohort, prepare, score
from batch_pipeline.demo.real import GOLDEN_FUSIONS, GOLDEN_METRICS, SAMPLE, Unavailable, cache_folder, fetch_real
from batch_pipeline.wire.errors import InvalidConfig
from steps.kallisto import Kallisto
from steps.picard import Picard
from steps.pizzly import Pizzly
from steps.reference import BuildReference

#: The user's own, before the tests get a home of their own: the archive is fetched once a machine.
CACHE = cache_folder()
EXAMPLES = Path("/usr/share/doc/kallisto/test")


def build(fasta: Path, gtf: Path, work: Path) -> Path:
    run_alone(BuildReference(), work, "reference", inputs={"fasta": [fasta], "gtf": [gtf]})
    return work


def straight_through(bam: Path, sample: str, reference: Path, work: Path) -> dict[str, Job]:
    picard = run_alone(Picard(), work / "picard" / sample, sample, inputs={"bam": [bam]})
    kallisto = run_alone(
        Kallisto(strandedness="none"),
        work / "kallisto" / sample,
        sample,
        inputs={"reads": picard.outputs("fastq")},
        reference=reference,
        upstream={"picard": picard.metrics},
    )
    pizzly = run_alone(
        Pizzly(),
        work / "pizzly" / sample,
        sample,
        inputs={"fusion": [kallisto.output("fusion")]},
        reference=reference,
        upstream={"kallisto": kallisto.metrics},
    )
    return {"picard": picard, "kallisto": kallisto, "pizzly": pizzly}


def run_all(cohort: Cohort, samples: Iterable[str], work: Path) -> dict[str, dict[str, Job]]:
    reference = build(cohort.fasta, cohort.gtf, work / "reference")
    return {sample: straight_through(cohort.bam(sample), sample, reference, work) for sample in samples}


@pytest.mark.tools
@pytest.mark.slow
def test_the_made_up_cohort_is_found_exactly(tmp_path: Path) -> None:
    cohort = prepare(tmp_path / "demo", real=False)
    jobs = run_all(cohort, cohort.samples, tmp_path / "work")
    result = score(cohort, {sample: steps["pizzly"].output("fusions") for sample, steps in jobs.items()})
    assert result.perfect, result.table()
    assert result.expected == len(cohort.truth) >= 6
    assert sum(not sample.expected for sample in result.samples) == 2
    assert sum(sample.judged for sample in result.samples) == result.expected
    for sample, steps in jobs.items():
        pairs = steps["kallisto"].metrics["processed_pairs"]
        assert pairs == steps["picard"].metrics["read_pairs_in_bam"] >= 10_000, sample


@pytest.fixture(scope="module")
def real_cohort(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    cohort = prepare(tmp_path_factory.mktemp("demo") / "cohort", samples=4, cache=CACHE)
    if not cohort.real:
        pytest.skip(cohort.notes[0])
    return cohort


@pytest.mark.tools
@pytest.mark.slow
def test_the_nine_known_fusions_of_real_reads_are_found_with_their_golden_counts(
    real_cohort: Cohort, tmp_path: Path
) -> None:
    jobs = run_all(real_cohort, real_cohort.samples, tmp_path)
    result = score(real_cohort, {sample: steps["pizzly"].output("fusions") for sample, steps in jobs.items()})
    assert result.perfect, result.table()
    real = jobs[SAMPLE]
    noted = {**real["picard"].metrics, **real["kallisto"].metrics, **real["pizzly"].metrics}
    assert {name: noted[name] for name in GOLDEN_METRICS} == GOLDEN_METRICS
    with real["pizzly"].output("table").open() as lines:
        rows = list(csv.DictReader(lines, delimiter="\t"))
    assert {(row["gene_a"], row["gene_b"]): (int(row["pairs"]), int(row["splits"])) for row in rows} == GOLDEN_FUSIONS


@pytest.mark.tools
def test_kallistos_own_example_gives_its_shipped_quantification_and_no_fusion(tmp_path: Path) -> None:
    shipped = EXAMPLES / "quant_out"
    if not shipped.is_dir():
        pytest.skip("the package kallisto-examples is not installed")
    bam = tmp_path / "example.bam"
    bam.write_bytes(gzip.decompress((shipped / "pseudoalignments.bam.gz").read_bytes()))
    reference = build(EXAMPLES / "transcripts.fasta.gz", EXAMPLES / "transcripts.gtf.gz", tmp_path / "reference")
    jobs = straight_through(bam, "example", reference, tmp_path)
    assert jobs["kallisto"].output("abundance").read_text() == (shipped / "abundance.tsv").read_text()
    assert jobs["kallisto"].metrics["pseudoaligned_pairs"] == 9413
    assert jobs["pizzly"].metrics["fusions"] == jobs["pizzly"].metrics["fusions_unfiltered"] == 0


@pytest.mark.tools
def test_a_cohort_is_made_once(tmp_path: Path) -> None:
    first = prepare(tmp_path, samples=3, real=False)
    times = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert prepare(tmp_path, samples=3, real=False) == first
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == times
    assert first.sample_list.read_text() == "sim01\nsim02\nsim03\n"


@pytest.mark.tools
def test_another_request_or_a_lost_file_makes_it_anew(tmp_path: Path) -> None:
    first = prepare(tmp_path, samples=3, real=False)
    content = first.bam("sim03").read_bytes()
    first.bam("sim03").unlink()
    assert prepare(tmp_path, samples=3, real=False) == first
    assert first.bam("sim03").read_bytes() == content
    other = prepare(tmp_path, samples=3, real=False, seed=2)
    assert other.bam("sim03").read_bytes() != content


@pytest.fixture
def no_apt(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A PATH with samtools alone."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "samtools").symlink_to("/usr/bin/samtools")
    monkeypatch.setenv("PATH", str(folder))
    return folder


@pytest.mark.tools
def test_without_apt_the_cohort_is_made_up_and_says_why(no_apt: Path, tmp_path: Path) -> None:
    cohort = prepare(tmp_path / "demo", samples=3, cache=tmp_path / "cache")
    assert not cohort.real
    assert cohort.reference == "simulated"
    assert cohort.notes == (
        f"This machine has no apt-get, through which the reads come. The real sample {SAMPLE} is left out.",
    )
    before = cohort.bam("sim01").stat().st_mtime_ns
    assert prepare(tmp_path / "demo", samples=3, cache=tmp_path / "cache") == cohort
    assert cohort.bam("sim01").stat().st_mtime_ns == before


def test_an_apt_that_fails_is_told_with_its_words(no_apt: Path, tmp_path: Path) -> None:
    apt = no_apt / "apt-get"
    apt.write_text("#!/bin/sh\necho 'E: Unable to lock' >&2\nexit 100\n")
    apt.chmod(0o755)
    fetched = fetch_real(tmp_path / "real", cache=tmp_path / "cache")
    assert isinstance(fetched, Unavailable)
    assert "(Unable to lock)" in fetched.reason


def test_another_archive_than_the_known_one_is_not_used(
    no_apt: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the cache or apt holds, only the bytes with the known checksum are unpacked."""
    cache = tmp_path / "cache"
    cache.mkdir()
    with tarfile.open(cache / real_module.ARCHIVE, "w:xz") as tar:
        tar.addfile(tarfile.TarInfo("pizzly-0.37.3/test/reads_1.fastq.gz"), io.BytesIO())
    fetched = fetch_real(tmp_path / "real", cache=cache)
    assert isinstance(fetched, Unavailable)
    assert not (tmp_path / "real").exists()


def test_without_samtools_the_remedy_is_told(no_apt: Path, tmp_path: Path) -> None:
    (no_apt / "samtools").unlink()
    with pytest.raises(InvalidConfig, match=r"samtools is not on the PATH.*Install it"):
        prepare(tmp_path / "demo", samples=1, real=False)
