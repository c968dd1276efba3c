"""CRAMs that need a genome, and each way in which they cannot be decoded."""

from __future__ import annotations

import gzip
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from batch_pipeline import Job, MissingInput
from batch_pipeline.demo.alone import run_alone
from steps.cram import Cram
from tests.steps.bams import as_sam, bgzf
from tests.steps.lab import SAMPLE, Lab

pytestmark = pytest.mark.tools


def sam_tool(*words: str | Path, text: str | None = None) -> str:
    return subprocess.run(["samtools", *words], input=text, capture_output=True, text=True, check=True).stdout


@pytest.fixture(scope="module")
def genome(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("genome") / "genome.fa"
    path.write_bytes(gzip.decompress(lab.fasta.read_bytes()))
    return path


@pytest.fixture(scope="module")
def cram(lab: Lab, genome: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The lab's reads, all laid on the first base of one sequence of the genome."""
    folder = tmp_path_factory.mktemp("cram")
    path, target = folder / f"{SAMPLE}.cram", folder / "genome.fa"
    target.write_bytes(genome.read_bytes())
    header, rows = as_sam(lab.bam)
    name = target.read_text().split()[0].removeprefix(">")
    laid = [[row[0], {"77": "65", "141": "129"}[row[1]], name, "1", "60", "100M", "=", "1", *row[8:]] for row in rows]
    lines = "\n".join([*header, f"@SQ\tSN:{name}\tLN:5000", *("\t".join(row) for row in laid)]) + "\n"
    sequence = "".join(target.read_text().split(">")[1].splitlines()[1:])
    lines = lines.replace("LN:5000", f"LN:{len(sequence)}")
    sam_tool("view", "-C", "-T", str(target), "-o", str(path), "-", text=lines)
    for made in folder.glob("genome.fa*"):
        made.unlink()
    return path


def decode(crams: Sequence[Path], work: Path, genome: Path | None, name: str = "") -> Job:
    step = Cram(cram_reference=name or (str(genome) if genome else ""))
    return run_alone(step, work, SAMPLE, inputs={"cram": crams, "genome": [genome] if genome else []})


def test_lanes_are_decoded_in_their_order_and_no_read_is_lost(
    lab: Lab, cram: Path, genome: Path, tmp_path: Path
) -> None:
    job = decode([cram] * 11, tmp_path / "work", genome)
    bams = job.outputs("bam")
    assert [bam.name for bam in bams] == [f"{SAMPLE}.{number:04}.bam" for number in range(1, 12)]
    _, rows = as_sam(bams[10])
    assert sorted((row[0], row[9], row[10]) for row in rows) == sorted(
        (row[0], row[9], row[10]) for row in as_sam(lab.bam)[1]
    )
    assert not list(genome.parent.glob("*.fai")), "the genome may lie where nobody may write"


def test_a_cram_of_unaligned_reads_needs_no_genome(lab: Lab, tmp_path: Path) -> None:
    cram = tmp_path / f"{SAMPLE}.cram"
    sam_tool("view", "-C", "-o", str(cram), str(lab.bam))
    (bam,) = decode([cram], tmp_path / "work", None).outputs("bam")
    assert as_sam(bam)[1] == as_sam(lab.bam)[1]


def test_a_genome_by_bgzip_is_read_and_one_by_gzip_is_told(cram: Path, genome: Path, tmp_path: Path) -> None:
    packed, zipped = tmp_path / "packed.fa.gz", tmp_path / "zipped.fa.gz"
    packed.write_bytes(bgzf(genome.read_bytes()))
    zipped.write_bytes(gzip.compress(genome.read_bytes()))
    assert decode([cram], tmp_path / "packed", packed).outputs("bam")
    with pytest.raises(
        MissingInput, match=r"zipped\.fa\.gz cannot be indexed; it must be a FASTA, plain or compressed by"
    ):
        decode([cram], tmp_path / "zipped", zipped)


def test_no_genome_and_another_one_are_told(cram: Path, genome: Path, tmp_path: Path) -> None:
    with pytest.raises(MissingInput, match=r"cannot be decoded without its genome .* Name that: --cram-reference"):
        decode([cram], tmp_path / "none", None)
    with pytest.raises(MissingInput, match=r"The genome hg38\.fa is not there"):
        decode([cram], tmp_path / "absent", None, name="hg38.fa")
    other = tmp_path / "other.fa"
    other.write_text(genome.read_text().replace("A", "C"))
    with pytest.raises(MissingInput, match=r"sim04\.cram of sample sim04 cannot be decoded with other\.fa"):
        decode([cram], tmp_path / "other", other)


def test_a_cram_that_is_cut_off_is_told(cram: Path, genome: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.cram"
    cut.write_bytes(cram.read_bytes()[:-30])
    with pytest.raises(MissingInput, match=r"cut\.cram of sample sim04 is no whole CRAM"):
        decode([cut], tmp_path / "work", genome)
