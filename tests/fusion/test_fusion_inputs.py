"""Reads as labs have them: BAM, CRAM and FASTQ, in lanes, in one sheet; each finds the fusions that the others find."""

from __future__ import annotations

import gzip
import json
import re
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from batch_pipeline.demo.bam import Pair, write_bam
from tests.fusion.conftest import Cohort
from tests.fusion.prompt import Bucket, cells

pytestmark = [pytest.mark.engine, pytest.mark.tools, pytest.mark.xdist_group("fusion")]

SOURCE = "sim03"
HEADER = "sample,bam,fastq_1,fastq_2,strandedness,note"


def write_fastqs(folder: Path, name: str, pairs: Sequence[Pair], read_name: str) -> tuple[Path, Path]:
    """The pairs as two FASTQ files, with the names that `write_bam` gives them."""
    paths = folder / f"{name}_R1.fastq.gz", folder / f"{name}_R2.fastq.gz"
    for path, at in zip(paths, (0, 2), strict=True):
        text = "".join(f"@{read_name}:{i}\n{pair[at]}\n+\n{pair[at + 1]}\n" for i, pair in enumerate(pairs, 1))
        path.write_bytes(gzip.compress(text.encode()))
    return paths


def write_cram(path: Path, genome: Path, reads: Sequence[Path]) -> None:
    """The pairs, aligned to the genome and sorted, as a CRAM that does not say where its genome is."""
    subprocess.run(["bwa", "index", genome], check=True, capture_output=True)
    sam = subprocess.run(["bwa", "mem", genome, *reads], check=True, capture_output=True).stdout
    bam, cram = path.with_suffix(".sorted.bam"), path.with_suffix(".full.cram")
    subprocess.run(["samtools", "sort", "-o", bam, "-"], input=sam, check=True, capture_output=True)
    subprocess.run(["samtools", "view", "-C", "-T", genome, "-o", cram, bam], check=True)
    header = subprocess.run(["samtools", "view", "-H", cram], check=True, capture_output=True, text=True).stdout
    bare = "".join(line.partition("\tUR:")[0] + "\n" for line in header.splitlines())
    with path.open("wb") as out:
        subprocess.run(["samtools", "reheader", "-", cram], input=bare.encode(), check=True, stdout=out)
    bam.unlink()
    cram.unlink()


@pytest.fixture(scope="module")
def mixed(new_bucket: Callable[[str], Bucket], cohort: Cohort, tmp_path_factory: pytest.TempPathFactory) -> Bucket:
    """One run of a cohort in which one sample's reads come in every form."""
    bucket = new_bucket("mixed")
    sources, elsewhere = bucket.bam("x").parent, tmp_path_factory.mktemp("elsewhere")
    pairs, half = cohort.pairs[SOURCE], len(cohort.pairs[SOURCE]) // 2
    write_bam(sources / "listed.bam", SOURCE, pairs)
    for number, lane in enumerate((pairs[:half], pairs[half:]), 1):
        write_bam(sources / f"lane{number}.bam", f"{SOURCE}.{number}", lane)
        write_fastqs(sources, f"lane{number}", lane, f"{SOURCE}.{number}")
    reads = write_fastqs(elsewhere, "elsewhere", pairs, SOURCE)
    genome = elsewhere / "genome.fa"
    genome.write_bytes(gzip.decompress(cohort.fasta.read_bytes()))
    write_cram(sources / "packed.cram", genome, reads)
    for index in elsewhere.glob("genome.fa.*"):
        index.unlink()
    rows = (
        "listed,,,,,a BAM found by the sample's name",
        f"fastq,,{reads[0]},{reads[1]},unstranded,FASTQ elsewhere",
        "bams,lane1.bam,,,,first lane",
        "bams,lane2.bam,,,,second lane",
        "fastqs,,lane1_R1.fastq.gz,lane1_R2.fastq.gz,auto,first lane",
        "fastqs,,lane2_R1.fastq.gz,lane2_R2.fastq.gz,auto,second lane",
        "packed,packed.cram,,,,CRAM",
    )
    bucket.sample_list.write_text("\n".join((HEADER, *rows)) + "\n")
    bucket = replace(bucket, options=(*bucket.options, "--cram-reference", str(genome)))
    bucket.run()
    return bucket


def fusions(bucket: Bucket, sample: str) -> list[tuple[Any, ...]]:
    """The fusions of a sample with their counts, from pizzly's JSON."""
    genes = json.loads(bucket.result("pizzly", sample, f"{sample}.json").read_text())["genes"]
    return sorted((gene["geneA"]["id"], gene["geneB"]["id"], gene["paircount"], gene["splitcount"]) for gene in genes)


def test_each_form_of_the_reads_gives_the_same_fusions(mixed: Bucket, cohort: Cohort) -> None:
    expected = fusions(mixed, "listed")
    assert {frozenset(gene[:2]) for gene in expected} == {frozenset(pair) for pair in cohort.fusions[SOURCE]}
    for sample in ("fastq", "bams", "fastqs", "packed"):
        assert fusions(mixed, sample) == expected, sample


def test_each_sample_has_the_steps_that_it_needs_and_all_of_its_pairs(mixed: Bucket, cohort: Cohort) -> None:
    receipts = mixed.receipts()
    every = "listed fastq bams fastqs packed"
    assert set(receipts) == cells(every, "kallisto", "pizzly") | cells("listed bams packed", "picard")
    pairs = len(cohort.pairs[SOURCE])
    assert {receipts["kallisto", sample].metrics["processed_pairs"] for sample in every.split()} == {pairs}
    assert [path.parent.name for path in (mixed.folder / "receipts/cram").glob("*/*.json")] == ["packed"]
    flagstat = mixed.result("picard", "bams", "bams.flagstat.txt").read_text()
    assert f"{2 * pairs} + 0 paired in sequencing" in flagstat
    strands = {sample: receipts["kallisto", sample].metrics["strandedness"] for sample in every.split()}
    assert set(strands.values()) == {"none"}
    assert receipts["kallisto", "fastqs"].metrics["forward_pairs"] > 0


def test_a_step_is_one_array_job_for_each_way_to_its_reads(mixed: Bucket) -> None:
    [run] = mixed.runs()[-1:]
    jobs = sorted(map(sorted, mixed.jobs(run).values()))
    assert jobs.count(["fastq", "fastqs"]) >= 1
    assert re.match(r"Nothing to do: (\d+) of \1 cells are done, 6 are excluded\.$", mixed.run().out)


def test_another_genome_runs_crams_again_and_nothing_else(mixed: Bucket, tmp_path: Path) -> None:
    other = tmp_path / "genome.fa"
    other.write_text("".join(f">{name}\nACGT\n" for name in ("one", "two")))
    steps = mixed.give("plan", "--cram-reference", str(other), "--json").json["steps"]
    to_run = {step["step"]: step["to_run"] for step in steps}
    assert [to_run[step] for step in ("cram", "picard", "kallisto", "pizzly")] == [1, 1, 1, 1]


#: Rows of a sheet -> what is said of them before anything is sent.
WRONG_ROWS = {
    "a_R1.fastq.gz,,,": "a_R1.fastq.gz is a FASTQ, not a BAM. Put it in fastq_1, and its mate in fastq_2.",
    "a.bam,a_1.fq,a_2.fq,": "it names a.bam and a_1.fq; a sample has one of them. Empty the other field.",
    ",a.bam,b.bam,": "a.bam is no FASTQ. Put it in the column bam.",
    ",a_1.fq.gz,,": "a_1.fq.gz has no mate in fastq_2; fusions are found from read pairs only.",
    ",b_1.fq,b_2.fq,sense": "it must be one of auto, forward, reverse, unstranded, not 'sense'. Correct it.",
}


def test_each_mistake_in_a_sheet_is_named_before_anything_is_sent(mixed: Bucket, tmp_path: Path) -> None:
    sheet = tmp_path / "wrong.csv"

    def refused(*rows: str) -> str:
        sheet.write_text("\n".join(("sample,bam,fastq_1,fastq_2,strandedness", *rows)) + "\n")
        return mixed.give("plan", "--sample-list-file", str(sheet), code=2).words

    shown = refused(*(f"s{number},{row}" for number, row in enumerate(WRONG_ROWS)))
    for line, sentence in enumerate(WRONG_ROWS.values(), 2):
        assert re.search(rf"\(line {line} of {sheet}\), column '[a-z_12, ]+': {re.escape(sentence)}", shown), shown
    assert "(line 3 of" in (lanes := refused("a,a.bam,,,", "a,,a_1.fq,a_2.fq,"))
    assert "has another number of files than line 2; rows of a sample must be alike." in lanes
    assert "names the file 'a_1.fq' twice for kallisto.in_reads" in refused("a,,a_1.fq,a_1.fq,")
