"""Every way in which picard loses reads with exit code 0, made with a real broken BAM."""

from __future__ import annotations

import gzip
import os
import shutil
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from batch_pipeline import InvalidOutput, Job, MissingInput, StepFailed
from batch_pipeline.demo.alone import run_alone
from steps.picard import Picard, summed_flagstat
from tests.steps.bams import END_OF_FILE, as_sam, block_borders, records_in, rewritten
from tests.steps.lab import SAMPLE, Lab

pytestmark = pytest.mark.tools

Edit = Callable[[list[list[str]]], list[list[str]]]


def convert(bam: Path, work: Path, **params: object) -> Job:
    return run_alone(Picard(**params), work, SAMPLE, inputs={"bam": [bam]})


def test_all_pairs_come_out_under_the_samples_name(lab: Lab) -> None:
    job = lab.picard
    header, rows = as_sam(lab.bam)
    assert header
    assert [path.name for path in job.outputs("fastq")] == [f"{SAMPLE}_1.fastq.gz", f"{SAMPLE}_2.fastq.gz"]
    assert job.metrics["read_pairs"] * 2 == len(rows)
    assert job.metrics["dropped_pairs"] == 0
    assert job.versions["picard"][0].isdigit()
    with gzip.open(lab.reads[0], "rt") as lines:
        assert sum(1 for _ in lines) == 2 * len(rows)


def test_a_path_with_spaces_is_no_trouble(lab: Lab, tmp_path: Path) -> None:
    bam = tmp_path / "of my own" / f"{SAMPLE}.bam"
    bam.parent.mkdir()
    shutil.copyfile(lab.bam, bam)
    job = convert(bam, tmp_path / "my work")
    assert job.metrics["read_pairs"] == lab.picard.metrics["read_pairs"]


def test_a_bam_cut_between_two_records_is_refused_though_picard_takes_it(lab: Lab, tmp_path: Path) -> None:
    cut, fastqs = tmp_path / f"{SAMPLE}.bam", [tmp_path / f"{mate}.fastq" for mate in (1, 2)]
    for border in block_borders(lab.bam)[1:]:
        cut.write_bytes(lab.bam.read_bytes()[:border])
        if records_in(cut) % 2 == 0:
            break
    picard = ["java", "-Xmx256m", "-jar", "/usr/share/java/picard.jar", "SamToFastq", "-I", os.fspath(cut)]
    subprocess.run([*picard, "-F", fastqs[0], "-F2", fastqs[1]], capture_output=True, check=True)
    assert 0 < fastqs[0].read_text().count("\n") < 4 * lab.picard.metrics["read_pairs"]
    with pytest.raises(MissingInput, match=r"sim04\.bam of sample sim04 is no whole BAM.*Upload it again"):
        convert(cut, tmp_path / "work")


def test_a_bam_without_its_last_block_is_refused(lab: Lab, tmp_path: Path) -> None:
    cut = tmp_path / "no_end.bam"
    data = lab.bam.read_bytes()
    assert data.endswith(END_OF_FILE)
    cut.write_bytes(data.removesuffix(END_OF_FILE))
    with pytest.raises(MissingInput, match="no whole BAM"):
        convert(cut, tmp_path / "work")


def test_a_bam_cut_inside_a_block_is_refused(lab: Lab, tmp_path: Path) -> None:
    cut = tmp_path / "cut.bam"
    cut.write_bytes(lab.bam.read_bytes()[:50_000])
    with pytest.raises(MissingInput, match="no whole BAM"):
        convert(cut, tmp_path / "work")


def test_a_whole_frame_around_damaged_content_fails(lab: Lab, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.bam"
    data = bytearray(lab.bam.read_bytes())
    data[60_000:60_200] = bytes(200)
    damaged.write_bytes(data)
    with pytest.raises((MissingInput, StepFailed)):
        convert(damaged, tmp_path / "work")


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    empty = tmp_path / "empty.bam"
    empty.touch()
    with pytest.raises(MissingInput, match=r"empty \(0 bytes\)"):
        convert(empty, tmp_path / "work")


def test_a_missing_file_is_told_by_sample(tmp_path: Path) -> None:
    with pytest.raises(MissingInput, match="the BAM of sample sim04, is not there"):
        convert(tmp_path / "none.bam", tmp_path / "work")


def test_a_header_without_reads_is_an_error_and_no_result(lab: Lab, tmp_path: Path) -> None:
    bare = rewritten(lab.bam, tmp_path / "bare.bam", lambda rows: [])
    with pytest.raises(MissingInput, match="no reads, only a header"):
        convert(bare, tmp_path / "work")


@pytest.mark.parametrize("text", [b"not a BAM at all\n", b"@HD\tVN:1.6\n"])
def test_a_text_is_refused(tmp_path: Path, text: bytes) -> None:
    other = tmp_path / "text.bam"
    other.write_bytes(text)
    with pytest.raises(MissingInput, match="not a BAM but another format"):
        convert(other, tmp_path / "work")


def test_sam_called_bam_is_refused_though_every_tool_takes_it(lab: Lab, tmp_path: Path) -> None:
    sam = tmp_path / "sam.bam"
    subprocess.run(["samtools", "view", "-h", "-O", "SAM", "-o", sam, lab.bam], check=True)
    subprocess.run(["samtools", "quickcheck", "-u", sam], check=True)
    with pytest.raises(MissingInput, match="not a BAM but another format"):
        convert(sam, tmp_path / "work")


def test_single_end_reads_are_refused(lab: Lab, tmp_path: Path) -> None:
    def single(rows: list[list[str]]) -> list[list[str]]:
        return [[row[0], "4", *row[2:]] for row in rows[::2]]

    with pytest.raises(MissingInput, match="single-end"):
        convert(rewritten(lab.bam, tmp_path / "single.bam", single), tmp_path / "work")


def test_single_reads_among_pairs_are_refused_with_their_number(lab: Lab, tmp_path: Path) -> None:
    def mixed(rows: list[list[str]]) -> list[list[str]]:
        return [*rows, *([f"alone{n}", "4", *row[2:]] for n, row in enumerate(rows[:3]))]

    with pytest.raises(MissingInput, match="3 single reads among the pairs"):
        convert(rewritten(lab.bam, tmp_path / "mixed.bam", mixed), tmp_path / "work")


def test_orphans_are_refused_before_picard_runs(lab: Lab, tmp_path: Path) -> None:
    bam = rewritten(lab.bam, tmp_path / "orphans.bam", lambda rows: rows[1:])
    with pytest.raises(MissingInput, match="each read needs its mate"):
        convert(bam, tmp_path / "work")


def orphans_of_both_kinds(rows: list[list[str]]) -> list[list[str]]:
    """As many first as second mates, and yet two pairs are torn."""
    return [*rows[1:2], *rows[2:3], *rows[4:]]


def test_balanced_orphans_are_named_by_strict_validation(lab: Lab, tmp_path: Path) -> None:
    bam = rewritten(lab.bam, tmp_path / "balanced.bam", orphans_of_both_kinds)
    with pytest.raises(StepFailed, match=r"picard SamToFastq ended with exit code 1: .*unpaired mates"):
        convert(bam, tmp_path / "work")


def test_balanced_orphans_are_missed_in_the_counts_when_validation_is_silent(lab: Lab, tmp_path: Path) -> None:
    bam = rewritten(lab.bam, tmp_path / "balanced.bam", orphans_of_both_kinds)
    with pytest.raises(InvalidOutput, match=r"picard wrote \d+ of the \d+ read pairs"):
        convert(bam, tmp_path / "work", validation="SILENT")


def numbered(separator: str) -> Edit:
    def edit(rows: list[list[str]]) -> list[list[str]]:
        return [[f"{row[0]}{separator}{1 + n % 2}", *row[1:]] for n, row in enumerate(rows)]

    return edit


def at(numbers: Iterable[int], **fields: str) -> Edit:
    """Other fields of some records: `flag="77"`."""

    def edit(rows: list[list[str]]) -> list[list[str]]:
        for number in numbers:
            for field, value in fields.items():
                rows[number][_FIELDS.index(field)] = value
        return rows

    return edit


_FIELDS = (
    "name",
    "flag",
    "chromosome",
    "position",
    "mapq",
    "cigar",
    "mate",
    "mate_position",
    "length",
    "bases",
    "quality",
)


def mended(message: str, bam: Path) -> Path:
    """The BAM that the command in a message makes of a broken one."""
    command = message[message.index("samtools view ") :]
    subprocess.run(["bash", "-ec", f"set -o pipefail; {command}"], cwd=bam.parent, check=True)
    return bam.with_name(f"mended.{bam.name}")


@pytest.mark.parametrize("validation", ["SILENT", "LENIENT"])
def test_losing_every_read_is_an_error_whatever_the_validation(lab: Lab, tmp_path: Path, validation: str) -> None:
    bam = rewritten(lab.bam, tmp_path / "numbered.bam", numbered("/"))
    with pytest.raises(
        InvalidOutput, match=r"picard wrote 0 of the (\d+) read pairs.* has \d+ reads whose names end in"
    ):
        convert(bam, tmp_path / validation, validation=validation)


@pytest.mark.parametrize("separator", ["/", "."])
def test_names_with_the_mates_number_have_a_remedy_that_works(lab: Lab, tmp_path: Path, separator: str) -> None:
    bam = rewritten(lab.bam, tmp_path / "of my own.bam", numbered(separator))
    with pytest.raises(
        MissingInput, match=r"of my own\.bam of sample sim04 has \d+ reads whose names end in"
    ) as raised:
        convert(bam, tmp_path / "work")
    again = convert(mended(raised.value.message, bam), tmp_path / "again")
    assert again.metrics["read_pairs"] == lab.picard.metrics["read_pairs"]


def test_orphans_with_one_name_that_ends_in_a_number_are_not_taken_for_numbered_mates(lab: Lab, tmp_path: Path) -> None:
    def edit(rows: list[list[str]]) -> list[list[str]]:
        rows = orphans_of_both_kinds(rows)
        return [[f"SRR9.{row[0].split(':')[1]}", *row[1:]] for row in rows]

    with pytest.raises(StepFailed, match="unpaired mates"):
        convert(rewritten(lab.bam, tmp_path / "orphans.bam", edit), tmp_path / "work")


def test_mapping_qualities_of_unmapped_reads_name_the_option_and_the_column(lab: Lab, tmp_path: Path) -> None:
    bam = rewritten(lab.bam, tmp_path / "mapq.bam", at([4, 7], mapq="30"))
    with pytest.raises(
        MissingInput,
        match=r"mapq\.bam of sample sim04 has 2 unmapped reads with a mapping quality.*--validation SILENT, or write"
        " SILENT in a column validation of the sheet",
    ):
        convert(bam, tmp_path / "work")
    silent = convert(bam, tmp_path / "silent", validation="SILENT")
    column = run_alone(
        Picard(), tmp_path / "column", SAMPLE, inputs={"bam": [bam]}, columns={"sample_validation": "SILENT"}
    )
    for job in (silent, column):
        assert job.metrics["read_pairs"] == lab.picard.metrics["read_pairs"]


@pytest.mark.parametrize(
    ("edit", "count"),
    [
        (lambda rows: [[row[0], str(int(row[1]) & ~0xC0), *row[2:]] for row in rows], r"\d{4}"),
        (at([5], flag=str(0x1 | 0x4 | 0x8)), "1"),
        (at([5], flag=str(0x1 | 0x4 | 0x8 | 0xC0)), "1"),
        (at([4, 5], flag=str(0x1 | 0x4 | 0x8)), "2"),
    ],
)
def test_reads_that_are_neither_first_nor_second_are_counted(lab: Lab, tmp_path: Path, edit: Edit, count: str) -> None:
    bam = rewritten(lab.bam, tmp_path / "flags.bam", edit)
    with pytest.raises(MissingInput, match=rf"flags\.bam of sample sim04 has {count} paired reads marked neither"):
        convert(bam, tmp_path / "work")


@pytest.mark.parametrize("numbers", [[5], [0, 1, 9]])
def test_reads_without_qualities_have_a_remedy_that_works(lab: Lab, tmp_path: Path, numbers: list[int]) -> None:
    bam = rewritten(lab.bam, tmp_path / "o'hara.bam", at(numbers, quality="*"))
    with pytest.raises(
        InvalidOutput, match=rf"has {len(numbers)} reads without qualities \('\*'\), at which"
    ) as raised:
        convert(bam, tmp_path / "work")
    again = convert(mended(raised.value.message, bam), tmp_path / "again")
    assert again.metrics["read_pairs"] == lab.picard.metrics["read_pairs"]


def test_reads_without_bases_have_a_remedy_that_works(lab: Lab, tmp_path: Path) -> None:
    bam = rewritten(lab.bam, tmp_path / "starred.bam", at([8], bases="*", quality="*"))
    with pytest.raises(InvalidOutput, match=r"starred\.bam of sample sim04 has 1 reads without bases") as raised:
        convert(bam, tmp_path / "work")
    again = convert(mended(raised.value.message, bam), tmp_path / "again")
    assert again.metrics["read_pairs"] == lab.picard.metrics["read_pairs"] - 1


@pytest.mark.parametrize(
    "edit",
    [
        lambda rows: rows + rows,
        lambda rows: [row for n in range(0, len(rows), 2) for row in (*rows[n : n + 2], *rows[n : n + 2])],
        lambda rows: [row for row in rows for _ in range(2)],
    ],
    ids=["one behind the other", "by name", "by position"],
)
def test_a_bam_that_was_merged_with_itself_is_refused(lab: Lab, tmp_path: Path, edit: Edit) -> None:
    bam = rewritten(lab.bam, tmp_path / "doubled.bam", edit)
    with pytest.raises((MissingInput, InvalidOutput), match=r"doubled\.bam of sample sim04 has reads twice.*each once"):
        convert(bam, tmp_path / "work")


def hard_clipped(rows: list[list[str]]) -> list[list[str]]:
    """Three reads aligned and cut, a pair soft-clipped, and a supplementary alignment, which may be hard-clipped."""
    for number, clip in ((0, "20H"), (2, "20H"), (5, "20H"), (6, "20S"), (7, "20S")):
        row = rows[number]
        row[1], row[2:6] = str(int(row[1]) & ~0x4), ["1", "1", "60", f"{clip}{len(row[9]) - 20}M"]
        if clip == "20H":
            row[9:11] = [row[9][20:], row[10][20:]]
    for row in rows:
        mate = rows[rows.index(row) ^ 1]
        row[1] = str(int(row[1]) & ~0x8 | (0 if int(mate[1]) & 0x4 else 0x8) ^ 0x8)
    first = rows[6]
    return [*rows, [first[0], str(0x841), "1", "500", "60", "80H20M", "*", "0", "0", first[9][:20], first[10][:20]]]


def test_hard_clipped_reads_are_refused_with_their_number_or_kept_when_told(lab: Lab, tmp_path: Path) -> None:
    bam = rewritten(lab.bam, tmp_path / "clipped.bam", hard_clipped, ["@SQ\tSN:1\tLN:1000"])
    with pytest.raises(
        MissingInput, match=r"clipped\.bam of sample sim04 has 3 hard-clipped reads.*--hard-clipped keep"
    ):
        convert(bam, tmp_path / "work")
    job = convert(bam, tmp_path / "kept", hard_clipped="keep", validation="SILENT")
    assert job.metrics["hard_clipped_reads"] == 3
    assert job.metrics["read_pairs"] == lab.picard.metrics["read_pairs"]


def with_quality_failures(rows: list[list[str]]) -> list[list[str]]:
    return [[row[0], str(int(row[1]) | (0x200 if n < 14 else 0)), *row[2:]] for n, row in enumerate(rows)]


def test_quality_failed_reads_are_kept_and_counted(lab: Lab, tmp_path: Path) -> None:
    job = convert(rewritten(lab.bam, tmp_path / "failed.bam", with_quality_failures), tmp_path / "work")
    assert job.metrics["qc_failed_pairs"] == 7
    assert job.metrics["read_pairs"] == lab.picard.metrics["read_pairs"]


def test_leaving_quality_failed_reads_out_is_told(lab: Lab, tmp_path: Path) -> None:
    bam = rewritten(lab.bam, tmp_path / "failed.bam", with_quality_failures)
    job = convert(bam, tmp_path / "work", include_non_pf=False)
    assert job.metrics["dropped_pairs"] == 7
    assert job.metrics["read_pairs"] == lab.picard.metrics["read_pairs"] - 7


def test_secondary_alignments_do_not_count_as_reads(lab: Lab, tmp_path: Path) -> None:
    def doubled(rows: list[list[str]]) -> list[list[str]]:
        alignment = ["1", "1", "0", "100M", "*", "0", "0"]
        return [*rows, *([row[0], str(0x909 | 0x40 << n), *alignment, *row[9:11]] for n, row in enumerate(rows[:2]))]

    header = ["@SQ\tSN:1\tLN:1000"]
    bam = rewritten(lab.bam, tmp_path / "secondary.bam", doubled, header)
    job = convert(bam, tmp_path / "work")
    assert job.metrics["read_pairs"] == lab.picard.metrics["read_pairs"]


def test_a_wrong_jar_is_named(lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PICARD_JAR", os.fspath(tmp_path / "none.jar"))
    with pytest.raises(StepFailed, match=r"none\.jar"):
        convert(lab.bam, tmp_path / "work")


def test_bams_of_lanes_are_one_pair_of_files(lab: Lab, tmp_path: Path) -> None:
    second = rewritten(lab.bam, tmp_path / "lane2.bam", lambda rows: [[f"x{row[0]}", *row[1:]] for row in rows[:200]])
    job = run_alone(Picard(), tmp_path / "work", SAMPLE, inputs={"bam": [lab.bam, second]})
    pairs = lab.picard.metrics["read_pairs"] + 100
    assert job.metrics["read_pairs"] == job.metrics["read_pairs_in_bam"] == pairs
    for whole, lane in zip(job.outputs("fastq"), lab.picard.outputs("fastq"), strict=True):
        lanes, first = gzip.decompress(whole.read_bytes()), gzip.decompress(lane.read_bytes())
        assert lanes.startswith(first)
        assert lanes.count(f"@x{SAMPLE}:".encode()) == 100
    assert f"{2 * pairs} + 0 paired in sequencing" in job.output("flagstat").read_text()
    assert not list(job.work.glob(".lane_*"))


def test_counts_of_several_flagstats_are_summed_and_shares_made_anew(tmp_path: Path) -> None:
    header, nowhere, mapped = "@SQ\tSN:chr1\tLN:100", "*\t0\t0\t*\t*\t0", "chr1\t1\t60\t1M\t=\t1"
    places = {99: mapped, 147: mapped, 77: nowhere, 141: nowhere, 512 + 73: mapped, 512 + 133: nowhere}
    rows = [f"r\t{flag}\t{place}\t0\tA\tI" for flag, place in places.items()]
    paths = [tmp_path / name for name in ("all.sam", "first.sam", "second.sam")]
    for path, chosen in zip(paths, (rows, rows[:2], rows[2:]), strict=True):
        path.write_text("\n".join((header, *chosen)) + "\n")
    whole, *parts = (
        subprocess.run(["samtools", "flagstat", path], capture_output=True, text=True, check=True).stdout
        for path in paths
    )
    assert summed_flagstat(parts) == whole
    assert summed_flagstat([whole]) == whole


def test_a_fastq_and_a_cram_named_as_a_bam_are_told_as_what_they_are(lab: Lab, tmp_path: Path) -> None:
    fastq = tmp_path / "reads.bam"
    fastq.write_bytes(lab.reads[0].read_bytes())
    with pytest.raises(
        MissingInput, match=r"reads\.bam of sample sim04 is not a BAM but a FASTQ; put it in the column"
    ):
        run_alone(Picard(), tmp_path / "fastq", SAMPLE, inputs={"bam": [fastq]})
    fastq.write_bytes(gzip.decompress(lab.reads[0].read_bytes()))
    with pytest.raises(MissingInput, match="but a FASTQ"):
        run_alone(Picard(), tmp_path / "plain", SAMPLE, inputs={"bam": [fastq]})
    cram = tmp_path / "cram.bam"
    subprocess.run(["samtools", "view", "-C", "-o", cram, lab.bam], check=True)
    with pytest.raises(MissingInput, match=r"is not a BAM but a CRAM; let its name end in \.cram"):
        run_alone(Picard(), tmp_path / "cram", SAMPLE, inputs={"bam": [cram]})
