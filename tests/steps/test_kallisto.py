"""Every way in which kallisto leaves less than it should, made with real broken reads and references."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from batch_pipeline import InvalidOutput, Job, MissingInput, StepFailed
from batch_pipeline.demo.alone import make_job, run_alone
from batch_pipeline.demo.transcriptome import generate_transcriptome
from steps.candidates import FUSION_HEADER, count_candidates
from steps.kallisto import Kallisto
from steps.reference import BuildReference
from tests.steps.lab import SAMPLE, Lab


def quantify(
    reads: Sequence[Path],
    work: Path,
    reference: Path,
    upstream: Mapping[str, Mapping[str, Any]] | None = None,
    **params: object,
) -> Job:
    step = Kallisto(**{"strandedness": "none", **params})
    return run_alone(step, work, SAMPLE, inputs={"reads": reads}, reference=reference, upstream=upstream)


def copied(source: Path, target: Path, size: int | None = None) -> Path:
    target.write_bytes(source.read_bytes()[:size])
    return target


@pytest.mark.tools
def test_all_pairs_are_processed_and_all_numbers_noted(lab: Lab) -> None:
    metrics = lab.kallisto.metrics
    assert metrics["processed_pairs"] == lab.picard.metrics["read_pairs"]
    assert 0 < metrics["pseudoaligned_pairs"] < metrics["processed_pairs"]
    assert metrics["fusion_rows"] == metrics["fusion_rows_pair"] + metrics["fusion_rows_split"] > 0
    assert 240 < metrics["mean_fragment_length"] < 260
    assert lab.kallisto.versions["kallisto"][0].isdigit()


@pytest.mark.tools
def test_the_log_that_multiqc_reads_carries_the_samples_name(lab: Lab) -> None:
    text = lab.kallisto.output("log").read_text()
    assert lab.kallisto.output("log").name == f"{SAMPLE}.kallisto.log"
    assert f"{SAMPLE}_1.fastq.gz" in text
    assert "[quant] processed" in text


@pytest.mark.tools
def test_two_runs_leave_the_same_bytes(lab: Lab, tmp_path: Path) -> None:
    again = quantify(lab.reads, tmp_path / "work", lab.reference, {"picard": lab.picard.metrics})
    for port in ("abundance", "fusion"):
        assert again.output(port).read_bytes() == lab.kallisto.output(port).read_bytes()


@pytest.mark.tools
def test_strandedness_changes_the_quantification_and_not_the_candidates(lab: Lab, tmp_path: Path) -> None:
    stranded = quantify(lab.reads, tmp_path / "work", lab.reference, strandedness="rf")
    assert stranded.metrics["pseudoaligned_pairs"] < lab.kallisto.metrics["pseudoaligned_pairs"]
    assert stranded.metrics["fusion_rows"] == lab.kallisto.metrics["fusion_rows"]


@pytest.mark.tools
def test_lanes_are_taken_together(lab: Lab, tmp_path: Path) -> None:
    lanes = [
        part for half in (slice(800), slice(800, None)) for part in written(lab, tmp_path / f"{half}", bytes, half)
    ]
    job = quantify(lanes, tmp_path / "work", lab.reference)
    assert job.metrics["processed_pairs"] == lab.picard.metrics["read_pairs"]
    assert job.output("abundance").read_bytes() == lab.kallisto.output("abundance").read_bytes()


@pytest.mark.tools
def test_a_lane_given_twice_is_refused_though_kallisto_takes_it(lab: Lab, tmp_path: Path) -> None:
    with pytest.raises(
        MissingInput, match=r"reads of sample sim04 cannot be used: .*sim04_1\.fastq\.gz has reads that were"
    ):
        quantify([*lab.reads, *lab.reads], tmp_path / "work", lab.reference)


@pytest.mark.tools
def test_one_file_for_both_mates_is_refused_though_kallisto_takes_it(lab: Lab, tmp_path: Path) -> None:
    with pytest.raises(MissingInput, match=r"sim04_1\.fastq\.gz and sim04_1\.fastq\.gz hold the same reads"):
        quantify([lab.reads[0]] * 2, tmp_path / "work", lab.reference)


def written(lab: Lab, folder: Path, form: Callable[[bytes], bytes], records: slice = slice(None)) -> list[Path]:
    """The lab's reads, or some of them, in another form."""
    folder.mkdir()
    paths = []
    for mate, source in enumerate(lab.reads, 1):
        lines = gzip.decompress(source.read_bytes()).splitlines(keepends=True)
        parts = [b"".join(lines[at : at + 4]) for at in range(0, len(lines), 4)][records]
        paths.append(folder / f"{SAMPLE}_{mate}.fastq")
        paths[-1].write_bytes(form(b"".join(parts)))
    return paths


def renamed(name: bytes) -> Callable[[bytes], bytes]:
    """Other first lines of the records: `#` stands for the read's number, `%` for the mate's."""
    return lambda data: re.sub(
        rb"(?m)^@sim04:(\d+)/([12])$", lambda match: name.replace(b"#", match[1]).replace(b"%", match[2]), data
    )


@pytest.mark.tools
@pytest.mark.parametrize(
    "form",
    [
        renamed(b"@SRR1659964.#.%"),
        renamed(b"@SRR1659964.# # length=100"),
        renamed(b"@A01:9:HX:1:1101:7:# %:N:0:ACGT"),
        lambda data: data[:-1],
        lambda data: data.replace(b"\n", b"\r\n"),
        lambda data: gzip.compress(data[:5000]) + gzip.compress(data[5000:]),
    ],
    ids=[".1 and .2", "SRA", "Illumina", "no newline", "CRLF", "gzip of several members"],
)
def test_fastq_as_labs_have_it_gives_the_same_numbers(lab: Lab, tmp_path: Path, form: Callable[[bytes], bytes]) -> None:
    """Each form passes the check of the reads, and real kallisto reads it as it reads picard's."""
    reads = written(lab, tmp_path / "reads", form)
    assert reads[0].read_bytes() != gzip.decompress(lab.reads[0].read_bytes())
    job = quantify(reads, tmp_path / "work", lab.reference)
    assert job.metrics["read_pairs"] == job.metrics["processed_pairs"] == lab.picard.metrics["read_pairs"]
    assert job.output("abundance").read_bytes() == lab.kallisto.output("abundance").read_bytes()
    assert job.metrics["fusion_rows"] == lab.kallisto.metrics["fusion_rows"]


@pytest.mark.tools
def test_one_pair_in_a_file_is_enough(lab: Lab, tmp_path: Path) -> None:
    job = quantify(written(lab, tmp_path / "reads", bytes, slice(1)), tmp_path / "work", lab.reference)
    assert job.metrics["processed_pairs"] == 1


@pytest.mark.tools
def test_a_record_without_qualities_is_refused_where_kallisto_would_stop(lab: Lab, tmp_path: Path) -> None:
    def starred(data: bytes) -> bytes:
        lines = data.split(b"\n")
        lines[43] = b"*"
        return b"\n".join(lines)

    reads = written(lab, tmp_path / "reads", starred)
    with pytest.raises(MissingInput, match=r"sim04_1\.fastq, record 11, '.*', has 100 bases and 1 qualities"):
        quantify(reads, tmp_path / "work", lab.reference)
    with pytest.raises(InvalidOutput, match=r"kallisto processed 10 of the \d+ read pairs"):
        quantify(reads, tmp_path / "counted", lab.reference, {"picard": lab.picard.metrics})


@pytest.mark.tools
def test_one_file_of_reads_is_refused(lab: Lab, tmp_path: Path) -> None:
    with pytest.raises(MissingInput, match=r"1 FASTQ file\(s\).*in pairs of files only"):
        quantify(lab.reads[:1], tmp_path / "work", lab.reference)


@pytest.mark.tools
def test_a_torn_gzip_from_a_source_is_refused(lab: Lab, tmp_path: Path) -> None:
    torn = copied(lab.reads[1], tmp_path / "torn_2.fastq.gz", 20_000)
    with pytest.raises(MissingInput, match=r"torn_2\.fastq\.gz is not a whole gzip file"):
        quantify([lab.reads[0], torn], tmp_path / "work", lab.reference)


@pytest.mark.tools
def test_reads_torn_after_picard_counted_them_are_missed_in_what_kallisto_processed(lab: Lab, tmp_path: Path) -> None:
    torn = [copied(path, tmp_path / path.name, 20_000) for path in lab.reads]
    with pytest.raises(InvalidOutput, match=r"kallisto processed \d+ of the \d+ read pairs"):
        quantify(torn, tmp_path / "work", lab.reference, {"picard": lab.picard.metrics})


def shorter(source: Path, target: Path, records: int) -> Path:
    lines = gzip.decompress(source.read_bytes()).splitlines(keepends=True)[: 4 * records]
    target.write_bytes(gzip.compress(b"".join(lines)))
    return target


@pytest.mark.tools
def test_a_shorter_second_file_is_refused(lab: Lab, tmp_path: Path) -> None:
    short = shorter(lab.reads[1], tmp_path / "short_2.fastq.gz", 100)
    with pytest.raises(MissingInput, match=r"short_2\.fastq\.gz has 100"):
        quantify([lab.reads[0], short], tmp_path / "work", lab.reference)
    with pytest.raises(InvalidOutput, match="kallisto processed 100 of the"):
        quantify([lab.reads[0], short], tmp_path / "counted", lab.reference, {"picard": lab.picard.metrics})


@pytest.mark.tools
def test_no_reads_are_an_error_and_no_result(lab: Lab, tmp_path: Path) -> None:
    empty = [shorter(path, tmp_path / path.name, 0) for path in lab.reads]
    with pytest.raises(MissingInput, match="have no reads"):
        quantify(empty, tmp_path / "work", lab.reference)
    with pytest.raises(MissingInput, match="is not there or empty"):
        quantify([tmp_path / "none_1.fq.gz", tmp_path / "none_2.fq.gz"], tmp_path / "none", lab.reference)


@pytest.mark.tools
def test_reads_of_another_species_are_an_error_and_no_result(lab: Lab, tmp_path: Path) -> None:
    foreign = []
    for mate in (1, 2):
        path = tmp_path / f"foreign_{mate}.fastq.gz"
        path.write_bytes(
            gzip.compress(
                "".join(f"@r{n}\n{('AC', 'CA')[mate - 1] * 50}\n+\n{'I' * 100}\n" for n in range(50)).encode()
            )
        )
        foreign.append(path)
    with pytest.raises(StepFailed, match=r"kallisto quant ended with exit code 1: .*zero reads pseudoaligned"):
        quantify(foreign, tmp_path / "work", lab.reference)


@pytest.mark.tools
@pytest.mark.parametrize("size", [0, 100_000])
def test_a_cut_off_index_is_refused_before_kallisto_crashes(
    lab: Lab, own_reference: Path, tmp_path: Path, size: int
) -> None:
    index = own_reference / "kallisto.idx"
    index.write_bytes(index.read_bytes()[:size])
    with pytest.raises(
        MissingInput, match=rf"kallisto\.idx of the reference has {size} bytes.*Build the reference again"
    ):
        quantify(lab.reads, tmp_path / "work", own_reference)


@pytest.mark.tools
def test_a_missing_index_is_refused(lab: Lab, own_reference: Path, tmp_path: Path) -> None:
    (own_reference / "kallisto.idx").unlink()
    with pytest.raises(MissingInput, match=r"kallisto\.idx of the reference is not there"):
        quantify(lab.reads, tmp_path / "work", own_reference)


@pytest.mark.tools
def test_a_crash_is_told_with_its_signal(lab: Lab, own_reference: Path, tmp_path: Path) -> None:
    """An index that is broken inside, at the promised size, makes kallisto crash or complain."""
    index = own_reference / "kallisto.idx"
    data = index.read_bytes()
    index.write_bytes(data[: len(data) // 2] + bytes(len(data) - len(data) // 2))
    with pytest.raises((StepFailed, InvalidOutput)) as raised:
        quantify(lab.reads, tmp_path / "work", own_reference)
    assert "kallisto" in raised.value.message


@pytest.mark.tools
def test_an_index_of_other_transcripts_is_told(lab: Lab, own_reference: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    fasta, gtf = tmp_path / "o.fasta.gz", tmp_path / "o.gtf.gz"
    generate_transcriptome(fasta, gtf, seed=5, genes=29)
    run_alone(BuildReference(), other, "other", inputs={"fasta": [fasta], "gtf": [gtf]})
    (own_reference / "kallisto.idx").write_bytes((other / "kallisto.idx").read_bytes())
    published = json.loads((own_reference / "reference.json").read_text())
    published["files"]["kallisto.idx"] = json.loads((other / "reference.json").read_text())["files"]["kallisto.idx"]
    (own_reference / "reference.json").write_text(json.dumps(published))
    with pytest.raises(InvalidOutput, match=r"kallisto\.idx was built from another FASTA"):
        quantify(lab.reads, tmp_path / "work", own_reference)


@pytest.mark.tools
def test_a_reference_without_a_promise_is_refused(lab: Lab, own_reference: Path, tmp_path: Path) -> None:
    (own_reference / "reference.json").write_text("{}")
    with pytest.raises(
        MissingInput, match=r"reference\.json of the reference is not what the `reference` command writes"
    ):
        quantify(lab.reads, tmp_path / "work", own_reference)


@pytest.mark.tools
@pytest.mark.parametrize(
    ("port", "text", "words"),
    [
        ("run_info", "{", r"run_info\.json of sample sim04 cannot be read"),
        ("abundance", "", r"abundance\.tsv of sample sim04 does not start with its header"),
        ("fusion", "", r"fusion\.txt of sample sim04 does not start with its header"),
    ],
)
def test_broken_tables_are_told(lab: Lab, tmp_path: Path, port: str, text: str, words: str) -> None:
    job = finished(lab, tmp_path)
    job.output(port).write_text(text)
    with pytest.raises(InvalidOutput, match=words):
        Kallisto().check(job)


@pytest.mark.tools
@pytest.mark.parametrize("number", ["-nan", "nan", "inf", ""])
def test_a_table_without_numbers_is_told(lab: Lab, tmp_path: Path, number: str) -> None:
    job = finished(lab, tmp_path)
    lines = job.output("abundance").read_text().splitlines()
    lines[3] = "\t".join([*lines[3].split("\t")[:4], number])
    job.output("abundance").write_text("\n".join(lines) + "\n")
    with pytest.raises(InvalidOutput, match=r"abundance\.tsv of sample sim04 has no number for SIMT"):
        Kallisto().check(job)


def finished(lab: Lab, tmp_path: Path) -> Job:
    """A job whose outputs are copies of the good run's."""
    job = make_job(
        Kallisto(), tmp_path / "work", SAMPLE, inputs={"reads": lab.reads}, reference=lab.reference, upstream={}
    )
    for port in ("abundance", "run_info", "fusion", "log"):
        copied(lab.kallisto.output(port), job.output(port))
    job.note(read_pairs=lab.kallisto.metrics["read_pairs"])
    return job


PAIR = "PAIR\ta/1\tAC\t0,1\ta/2\tGT\t0,1\t\tNA\t(T1,1,FW)\t(T2,1,RC)\n"
SPLIT = "SPLIT\ta/1\tAC\t0,1\ta/2\tGT\t0,1\tsplitat=(1,5)\t(T1,1,FW)\t(T2,1,RC)\n"


def test_candidates_are_counted_by_kind(tmp_path: Path) -> None:
    path = tmp_path / "fusion.txt"
    path.write_text(f"{FUSION_HEADER}\n{PAIR}{SPLIT}{PAIR}")
    assert count_candidates(path, "a") == (2, 1)


@pytest.mark.parametrize("rest", [PAIR[:-1], SPLIT[:-10], PAIR + SPLIT[:20], "PAIR\n", "\n"])
def test_candidates_that_are_cut_off_are_told_by_line(tmp_path: Path, rest: str) -> None:
    path = tmp_path / "fusion.txt"
    path.write_text(f"{FUSION_HEADER}\n{SPLIT}{rest}")
    with pytest.raises(InvalidOutput, match=r"fusion\.txt of sample a is cut off or broken at line [34]"):
        count_candidates(path, "a")
