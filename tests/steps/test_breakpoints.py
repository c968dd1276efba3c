"""Breakpoints on the genome, reading frames and read-through, on transcripts drawn by hand."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from steps.breakpoints import (
    READ_THROUGH,
    Breakpoint,
    GenomePosition,
    TranscriptStructure,
    best_breakpoint,
    load_structures,
)
from steps.pizzly_json import IsoformPair

#: Three exons of 10, 20 and 30 bases on either strand, in the order of transcription.
FORWARD = TranscriptStructure(
    chromosome="1", strand="+", exons=[(101, 110), (201, 220), (301, 330)], coding=[(105, 110, 0), (201, 220, 0)]
)
REVERSE = TranscriptStructure(
    chromosome="2", strand="-", exons=[(901, 910), (701, 720), (501, 530)], coding=[(701, 719, 1), (511, 530, 0)]
)


def pair(end_a: int, start_b: int, *, support: int = 5, a: str = "A", b: str = "B") -> IsoformPair:
    return IsoformPair(record="r", transcript_a=a, end_a=end_a, transcript_b=b, start_b=start_b, support=support)


def place(end_a: int, start_b: int) -> Breakpoint:
    return best_breakpoint([pair(end_a, start_b)], {"A": FORWARD, "B": REVERSE})


@pytest.mark.parametrize(
    ("end_a", "start_b", "positions"),
    [
        (10, 10, ("1:110:+", "2:720:-")),
        (11, 9, ("1:201:+", "2:901:-")),
        (30, 30, ("1:220:+", "2:530:-")),
        (60, 59, ("1:330:+", "2:501:-")),
    ],
)
def test_the_last_base_of_a_and_the_first_of_b_are_placed(end_a: int, start_b: int, positions: tuple[str, str]) -> None:
    found = place(end_a, start_b)
    assert (str(found.position_a), str(found.position_b)) == positions


def test_a_position_that_the_annotation_has_not_is_none() -> None:
    assert place(61, 10).position_a is None
    assert place(10, 60).position_b is None
    lost = best_breakpoint([pair(10, 10)], {"A": FORWARD})
    assert (lost.position_b, lost.frame, lost.distance, lost.read_through) == (None, "unknown", None, False)
    assert best_breakpoint([], {}).position_a is None


@pytest.mark.parametrize(
    ("end_a", "start_b", "frame"),
    [
        # 6 coding bases of A are two codons; B's CDS starts with the last base of a codon, at its second exon's base 2.
        (10, 12, "in"),
        (10, 11, "out"),
        (10, 13, "out"),
        (10, 15, "in"),
        # One and two bases of a codon of A: B goes on with its second and third.
        (11, 16, "in"),
        (12, 17, "in"),
        (11, 15, "out"),
        # Over an intron of B: 19 coding bases less 1 are 6 codons.
        (10, 30, "in"),
        (12, 32, "in"),
        # A's first four bases and its last exon, B's first exon and its last ten bases are not translated.
        (4, 15, "utr"),
        (31, 15, "utr"),
        (10, 10, "utr"),
        (10, 50, "utr"),
    ],
)
def test_the_frame_follows_from_the_codons_on_both_sides(end_a: int, start_b: int, frame: str) -> None:
    assert place(end_a, start_b).frame == frame


def test_without_cds_the_frame_is_unknown() -> None:
    bare = TranscriptStructure(chromosome="1", strand="+", exons=[(1, 100)])
    assert best_breakpoint([pair(10, 12)], {"A": bare, "B": REVERSE}).frame == "unknown"


def test_the_isoforms_that_most_reads_fit_are_taken_then_the_frame_then_the_first_by_name() -> None:
    structures = {"A": FORWARD, "A2": FORWARD, "B": REVERSE}
    out, inside, weak = pair(10, 13), pair(10, 12), pair(10, 12, support=4)
    assert best_breakpoint([weak, out], structures).isoforms is out
    assert best_breakpoint([out, inside], structures).isoforms is inside
    other = pair(10, 12, a="A2")
    assert best_breakpoint([other, inside], structures).isoforms is inside
    assert best_breakpoint([inside, other], structures).isoforms is inside


@pytest.mark.parametrize(
    ("strand_a", "a", "strand_b", "b", "read_through"),
    [
        ("+", 1_000, "+", 1_000 + READ_THROUGH - 1, True),
        ("+", 1_000, "+", 1_000 + READ_THROUGH, False),
        ("+", 1_000, "+", 900, False),
        ("-", 900_000, "-", 800_000, True),
        ("-", 800_000, "-", 900_000, False),
        ("+", 1_000, "-", 2_000, False),
    ],
)
def test_a_near_partner_downstream_on_the_strand_is_read_through(
    strand_a: str, a: int, strand_b: str, b: int, read_through: bool
) -> None:
    sides = (GenomePosition(chromosome="7", position=at, strand=s) for at, s in ((a, strand_a), (b, strand_b)))
    position_a, position_b = sides
    found = Breakpoint(isoforms=pair(1, 1), position_a=position_a, position_b=position_b, frame="unknown")
    assert found.read_through is read_through
    assert found.distance == abs(a - b)
    elsewhere = GenomePosition(chromosome="8", position=b, strand=strand_b)
    other = Breakpoint(isoforms=pair(1, 1), position_a=position_a, position_b=elsewhere, frame="unknown")
    assert (other.read_through, other.distance) == (False, None)


def test_only_the_named_transcripts_are_loaded_their_exons_in_the_order_of_transcription(tmp_path: Path) -> None:
    """An earlier reference has minus-strand exons as its GTF had them, here from left to right."""
    rows = [
        ("gene", 500, 910, ".", 'gene_id "G";'),
        ("transcript", 500, 910, ".", 'gene_id "G"; transcript_id "B";'),
        *(("exon", *exon, ".", 'gene_id "G"; transcript_id "B";') for exon in sorted(REVERSE.exons)),
        *(("CDS", first, last, phase, 'gene_id "G"; transcript_id "B";') for first, last, phase in REVERSE.coding),
        ("exon", 1, 2, ".", 'gene_id "G"; transcript_id "B2";'),
    ]
    gtf = tmp_path / "annotation.gtf.gz"
    text = "".join(f"2\tx\t{kind}\t{a}\t{b}\t.\t-\t{phase}\t{more}\n" for kind, a, b, phase, more in rows)
    gtf.write_bytes(gzip.compress(text.encode()))
    assert load_structures(gtf, {"B"}) == {"B": REVERSE}
    assert load_structures(tmp_path / "not read", ()) == {}
