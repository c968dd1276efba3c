"""Bad samples beside good ones, and bad references: each is told with its remedy, and the good samples finish."""

from __future__ import annotations

import gzip
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.fusion.conftest import REFERENCE, Cohort
from tests.fusion.prompt import STEPS, Bucket, Prompt, Said, cells
from tests.steps.bams import as_sam, block_borders, records_in, rewritten

pytestmark = [pytest.mark.engine, pytest.mark.tools, pytest.mark.xdist_group("fusion")]

GOOD = ("good", "fine")


def _empty(bam: Path) -> None:
    bam.write_bytes(b"")


def _mid_block(bam: Path) -> None:
    bam.write_bytes(bam.read_bytes()[:50_000])


def _between_records(bam: Path) -> None:
    """Cut where every tool thinks that the file is whole."""
    data = bam.read_bytes()
    for border in block_borders(bam)[1:]:
        bam.write_bytes(data[:border])
        if records_in(bam) % 2 == 0:
            return
    pytest.fail("no such place")


def _rows(edit: Callable[[list[list[str]]], list[list[str]]]) -> Callable[[Path], None]:
    def harm(bam: Path) -> None:
        made = rewritten(bam, bam.with_name("rewritten"), edit)
        made.replace(bam)

    return harm


def _as_text(bam: Path) -> None:
    header, rows = as_sam(bam)
    bam.write_text("\n".join([*header, *("\t".join(row) for row in rows)]) + "\n")


#: Sample -> how its BAM is harmed, and what is said of it.
BAD: dict[str, tuple[Callable[[Path], None], str]] = {
    "cut": (_mid_block, "cut.bam of sample cut is no whole BAM: samtools quickcheck misses its header or its"),
    "short": (_between_records, "short.bam of sample short is no whole BAM"),
    "zero": (_empty, "zero.bam of sample zero is empty (0 bytes); upload the BAM"),
    "bare": (_rows(lambda rows: []), "bare.bam of sample bare has no reads, only a header; no reads is not the same"),
    "text": (_as_text, "text.bam of sample text is not a BAM but another format; convert it."),
    "single": (
        _rows(lambda rows: [[row[0], "4", *row[2:]] for row in rows[::2]]),
        "single.bam of sample single is single-end; fusions are found from read pairs only. Leave the sample out.",
    ),
    "orphan": (_rows(lambda rows: rows[1:]), "second mates; each read needs its mate. Filter the orphans out"),
}
#: Whose BAM is not there at all.
ABSENT = "absent"


@pytest.fixture(scope="module")
def harmed(new_bucket: Callable[[str], Bucket], cohort: Cohort) -> tuple[Bucket, Said]:
    """One run of all of them, and what it said."""
    bucket = new_bucket("hostile")
    whole = cohort.write(bucket.bam("fine"), "sim01")
    cohort.write(bucket.bam("good"), "sim03")
    for sample, (harm, _) in BAD.items():
        harm(Path(shutil.copyfile(whole, bucket.bam(sample))))
    bucket.choose("good", *BAD, ABSENT, "fine")
    return bucket, bucket.run(code=1)


def test_the_good_samples_finish_and_the_bad_ones_leave_nothing(harmed: tuple[Bucket, Said]) -> None:
    bucket, _ = harmed
    assert set(bucket.receipts()) == cells(" ".join(GOOD))
    assert {path.name for path in (bucket.folder / "results").glob("*/*")} == set(GOOD)


@pytest.mark.parametrize("sample", BAD)
def test_a_bad_bam_is_told_by_file_and_sample_with_its_remedy(harmed: tuple[Bucket, Said], sample: str) -> None:
    """In the cell's record, its log and its explanation; of samples that failed in one way, the command tells one."""
    bucket, said = harmed
    sentence = BAD[sample][1]
    message = bucket.failure("picard", sample).message
    assert sentence in message
    told = message if sample != "short" else message.replace("short", "cut")
    for seen in (said, bucket.give("status", code=1)):
        assert re.search(rf"picard, bad input: [a-z, ]*\b{sample}\b", seen.words)
        assert told in seen.words
        assert "kallisto: 7 not run: 7 because picard failed (7 bad input)" in said.words
    assert message in bucket.give("status", "--explain", sample).out
    assert message in bucket.prompt("logs", sample, "picard", "--bucket-name", bucket.name).out


def test_a_missing_bam_is_told_before_anything_is_sent(harmed: tuple[Bucket, Said]) -> None:
    bucket, said = harmed
    assert (
        f"picard: {ABSENT}: Its source {bucket.bam(ABSENT)} is not there; check the list and --sources." in said.words
    )
    jobs = bucket.jobs(bucket.runs()[-1])
    assert set(jobs) == {f"{step}-0-0" for step in STEPS}
    assert all(samples == {*GOOD, *BAD} for samples in jobs.values())
    explained = bucket.give("status", "--explain", ABSENT).out
    assert f"picard: blocked: Its source {bucket.bam(ABSENT)} is not there" in explained


def test_logs_of_a_step_that_never_ran_say_where_to_look(harmed: tuple[Bucket, Said]) -> None:
    bucket, _ = harmed
    said = bucket.prompt("logs", "zero", "kallisto", "--bucket-name", bucket.name, code=2)
    assert "There is no log of kallisto of sample zero" in said.err
    assert "`status --explain zero` says why" in said.err


def test_all_logs_of_a_sample_come_in_the_order_of_the_steps(harmed: tuple[Bucket, Said]) -> None:
    bucket, _ = harmed
    said = bucket.prompt("logs", "good", "--bucket-name", bucket.name)
    assert [line for line in said.err.splitlines() if line] == [f"== {step}, attempt 1" for step in STEPS]
    assert said.out.index("SamToFastq done") < said.out.index("[quant]") < said.out.index("Number of kept records")


def test_the_sheet_names_the_sample_whose_unmapped_reads_have_mapping_qualities(
    new_bucket: Callable[[str], Bucket], cohort: Cohort
) -> None:
    """The remedy that the message names, a column of the sheet, makes the bad sample alone run again."""
    bucket = new_bucket("mapq")
    cohort.write(bucket.bam("good"), "sim03")
    odd = cohort.write(bucket.bam("odd"), "sim01")
    _rows(lambda rows: [[*row[:4], "30", *row[5:]] for row in rows])(odd)
    bucket.choose("good", "odd")
    said = bucket.run(code=1)
    assert re.search(r"odd.bam of sample odd has \d+ unmapped reads with a mapping quality", said.words)
    assert "--validation SILENT, or write SILENT in a column validation of the sheet" in said.words
    bucket.sample_list.write_text("sample,validation\ngood,\nodd,SILENT\n")
    bucket.run()
    assert bucket.jobs(bucket.runs()[-1]) == {f"{step}-0-0": {"odd"} for step in STEPS}
    metrics = bucket.receipts()["picard", "odd"].metrics
    assert metrics["dropped_pairs"] == 0
    assert metrics["read_pairs"] == len(cohort.pairs["sim01"])


def _reference(prompt: Prompt, fasta: Path, gtf: Path, code: int) -> Said:
    (prompt.folder / "store" / "unfit").mkdir(parents=True, exist_ok=True)
    return prompt("reference", "unfit", "--fasta", str(fasta), "--gtf", str(gtf), "--bucket-name", "unfit", code=code)


def test_an_annotation_that_does_not_match_is_refused_and_leaves_no_reference(
    prompt: Prompt, cohort: Cohort, tmp_path: Path
) -> None:
    other = tmp_path / "others.gtf"
    text = gzip.decompress(cohort.gtf.read_bytes()).decode()
    other.write_text(text.replace('transcript_id "', 'transcript_id "OTHER'))

    said = _reference(prompt, cohort.fasta, other, code=1)

    assert re.search(r"others\.gtf knows 0 of the \d+ transcripts of transcripts\.fasta\.gz", said.words)
    assert "FASTA and GTF must belong together: take both from one release." in said.words
    assert "No reference is in" in prompt("reference", "--bucket-name", "unfit").out


def test_a_reference_of_torn_files_is_refused(prompt: Prompt, cohort: Cohort, tmp_path: Path) -> None:
    torn = tmp_path / "torn.fasta.gz"
    torn.write_bytes(cohort.fasta.read_bytes()[:-500])

    said = _reference(prompt, torn, cohort.gtf, code=1)

    assert "torn.fasta.gz is not a whole gzip file" in said.words
    assert "get it again" in said.words


@pytest.mark.parametrize(
    ("file", "step"), [("kallisto.idx", "kallisto"), ("transcripts.tsv", "kallisto"), ("pizzly.cache", "pizzly")]
)
def test_a_truncated_reference_file_fails_the_step_that_reads_it(
    prompt: Prompt, new_bucket: Callable[[str], Bucket], cohort: Cohort, file: str, step: str
) -> None:
    bucket = new_bucket(f"tampered-{file}")
    cohort.write(bucket.bam("good"), "sim03")
    bucket.choose("good")
    path = bucket.folder / "references" / REFERENCE / file
    path.write_bytes(path.read_bytes()[:-100])

    said = bucket.run(code=1)

    assert {(done, "good") for done in STEPS[: STEPS.index(step)]} == set(bucket.receipts())
    message = bucket.failure(step, "good").message
    assert file in message
    assert "uild the reference again" in message
    assert message in said.words
    assert message in bucket.give("status", code=1).words
