"""Rows of a sample sheet, as labs and nf-core write them."""

from __future__ import annotations

import re

import pytest

from steps.sheet import library_strand, reads_format


@pytest.mark.parametrize(
    ("row", "kind"),
    [
        (("s1.bam", "", ""), "bam"),
        (("s3://archive/S1.CRAM", "", ""), "cram"),
        (("S1.ubam", "", ""), "bam"),
        (("", "a_1.fastq.gz", "a_2.fastq.gz"), "fastq"),
        (("", "odd name", "odd name 2"), "fastq"),
        (("", 'the "old" ones/a_1.fq', 'the "old" ones/a_2.fq'), "fastq"),
    ],
)
def test_a_row_has_one_form(row: tuple[str, str, str], kind: str) -> None:
    assert reads_format(*row) == kind


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (("s1_R1.FQ.gz", "", ""), "s1_R1.FQ.gz is a FASTQ, not a BAM. Put it in fastq_1, and its mate in fastq_2."),
        (("s1.fastq", "", ""), "s1.fastq is a FASTQ"),
        (("s1.bam", "a_1.fq", "a_2.fq"), "it names s1.bam and a_1.fq; a sample has one of them"),
        (("s1.bam", "", "a_2.fq"), "it names s1.bam and a_2.fq"),
        (("", "s1.bam", "s2.bam"), "s1.bam is no FASTQ. Put it in the column bam."),
        (("", "a_1.fq", "s1.cram"), "s1.cram is no FASTQ"),
        (("", "a_1.fq", 'a"_2.fq'), 'a"_2.fq has a quote or backslash, which kallisto writes into run_info.json'),
        (("", "a_1.fq", ""), "a_1.fq has no mate in fastq_2; fusions are found from read pairs only"),
    ],
)
def test_a_row_that_contradicts_itself_is_refused(row: tuple[str, str, str], words: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(words)}"):
        reads_format(*row)


def test_strandedness_is_written_as_nf_core_or_kallisto_does() -> None:
    words = ("forward", "reverse", "unstranded", "auto", "Reverse", "fr", "rf", "none")
    assert [library_strand(word) for word in words] == ["fr", "rf", "none", "auto", "rf", "fr", "rf", "none"]
    with pytest.raises(ValueError, match="one of auto, forward, reverse, unstranded, not 'yes'"):
        library_strand("yes")
