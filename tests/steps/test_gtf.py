"""GTFs in other orders, of other publishers and with lines left out: what is mended, and what is refused by name."""

from __future__ import annotations

import gzip
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from batch_pipeline import MissingInput
from steps.annotation import Annotation, write_gtf
from steps.gtf import read_gtf
from tests.steps.lab import edited
from tests.steps.test_reference import without

Sources = tuple[Path, Path]


def written(annotation: Annotation, target: Path) -> list[str]:
    genes, transcripts = ({name: name for name in ids} for ids in (annotation.genes, annotation.transcripts))
    write_gtf(target, annotation.genes.values(), transcripts, genes)
    return gzip.decompress(target.read_bytes()).decode().splitlines()


def read(folder: Path, text: str) -> Annotation:
    path = folder / "genes.gtf"
    path.write_text(text)
    return read_gtf(path)


def line(kind: str, start: int, end: int, attributes: str, place: str = "1+", frame: str = ".") -> str:
    return f"{place[:-1]}\tprotein_coding\t{kind}\t{start}\t{end}\t.\t{place[-1]}\t{frame}\t{attributes}\n"


def by_place(text: str) -> str:
    """As `sort -k1,1 -k4,4n`: lines of genes that overlap lie between each other, exons ascend on both strands."""
    lines = [line for line in text.splitlines(keepends=True) if not line.startswith("#")]
    return "".join(sorted(lines, key=lambda line: (line.split("\t")[0], int(line.split("\t")[3]))))


def by_kind(text: str) -> str:
    """As in files that list all genes first, then all transcripts, then all exons."""
    order = ("gene", "transcript", "exon", "CDS")
    return "".join(sorted(text.splitlines(keepends=True), key=lambda row: order.index(row.split("\t")[2])))


def backwards(text: str) -> str:
    return "".join(reversed(text.splitlines(keepends=True)))


@pytest.mark.parametrize("order", [by_place, by_kind, backwards])
def test_lines_may_stand_in_any_order(sources: Sources, tmp_path: Path, order: Callable[[str], str]) -> None:
    straight = written(read_gtf(sources[1]), tmp_path / "straight.gz")
    annotation = read_gtf(edited(sources[1], tmp_path / "g.gtf.gz", order))
    assert sorted(written(annotation, tmp_path / "other.gz")) == sorted(straight)
    exons = {name: item.ordered_exons() for name, item in annotation.transcripts.items()}
    assert exons == {name: item.ordered_exons() for name, item in read_gtf(sources[1]).transcripts.items()}


def test_ascending_exons_of_the_minus_strand_are_turned_and_counted(sources: Sources, tmp_path: Path) -> None:
    annotation = read_gtf(edited(sources[1], tmp_path / "g.gtf.gz", by_place))
    minus = [item for item in annotation.transcripts.values() if item.strand == "-"]
    assert annotation.reordered == len(minus) > 0
    assert read_gtf(sources[1]).reordered == 0
    for item in minus:
        assert item.ordered_exons() == sorted(item.ordered_exons(), reverse=True)


def test_the_coding_sequence_stands_behind_the_exons_with_its_frame(tmp_path: Path) -> None:
    ids = 'gene_id "G"; transcript_id "T"; gene_biotype "protein_coding";'
    parts = [("gene", 1, 90), ("transcript", 1, 90), ("CDS", 5, 30), ("exon", 1, 30), ("CDS", 61, 80), ("exon", 61, 90)]
    frames = {5: "1", 61: "0"}
    text = "".join(line(kind, a, b, ids, "1-", frames[a] if kind == "CDS" else ".") for kind, a, b in parts)
    rows = [row.split("\t") for row in written(read(tmp_path, text), tmp_path / "out.gz")]
    assert [(row[2], row[3], row[7]) for row in rows[2:]] == [
        ("exon", "61", "."),
        ("exon", "1", "."),
        ("CDS", "61", "0"),
        ("CDS", "5", "1"),
    ]


@pytest.mark.parametrize("kinds", [("gene",), ("transcript",), ("gene", "transcript")])
def test_lines_of_genes_and_transcripts_are_made_from_what_is_below(
    sources: Sources, tmp_path: Path, kinds: tuple[str, ...]
) -> None:
    """As in StringTie's files, which have no genes, and Ensembl's up to release 74, which have exons only."""

    def fewer(text: str) -> str:
        for kind in kinds:
            text = without(kind)(text)
        return text

    straight = written(read_gtf(sources[1]), tmp_path / "straight.gz")
    assert written(read_gtf(edited(sources[1], tmp_path / "g.gtf.gz", fewer)), tmp_path / "out.gz") == straight


@pytest.mark.parametrize("place", ["2+", "1-"])
@pytest.mark.parametrize(
    ("transcripts", "words"),
    [
        (("T", "T"), "transcript T, which has no line of its own, has exons on two chromosomes or strands"),
        (("T", "U"), "gene G, which has no line of its own, has transcripts on two chromosomes or strands"),
    ],
)
def test_what_lies_on_two_places_is_refused_by_name(
    tmp_path: Path, transcripts: tuple[str, str], words: str, place: str
) -> None:
    one, other = (f'gene_id "G"; transcript_id "{name}";' for name in transcripts)
    with pytest.raises(MissingInput, match=words):
        read(tmp_path, line("exon", 1, 30, one) + line("exon", 61, 90, other, place))


def test_a_gene_line_after_its_transcripts_must_lie_where_they_do(tmp_path: Path) -> None:
    ids = 'gene_id "G"; transcript_id "T";'
    with pytest.raises(MissingInput, match="gene G has transcripts on two chromosomes or strands"):
        read(tmp_path, line("exon", 1, 30, ids) + line("gene", 1, 30, ids, "2+"))


@pytest.mark.parametrize("at", [0, 1, 2])
def test_the_exons_of_a_trans_spliced_transcript_keep_their_order(tmp_path: Path, at: int) -> None:
    """Wherever the transcript's own line stands, which says the strand."""
    ids = 'gene_id "G"; transcript_id "T";'
    lines = [line("exon", 61, 90, ids, "1-"), line("exon", 1, 30, ids)]
    lines.insert(at, line("transcript", 1, 90, ids))
    transcript = read(tmp_path, line("gene", 1, 90, ids) + "".join(lines)).transcripts["T"]
    assert transcript.ordered_exons() == [(61, 90), (1, 30)]
    assert transcript.strand == "+"


def test_an_exon_of_no_transcript_is_left_out_and_counted(sources: Sources, tmp_path: Path) -> None:
    """RefSeq lists exons of genes without transcripts, with an empty transcript_id."""
    stray = line("exon", 1, 30, 'gene_id "SIMG00001"; gene_version "1"; transcript_id "";')
    annotation = read_gtf(edited(sources[1], tmp_path / "g.gtf.gz", lambda text: text + stray))
    assert annotation.strays == 1
    assert annotation.transcripts.keys() == read_gtf(sources[1]).transcripts.keys()


def test_gencodes_types_count_as_biotypes(sources: Sources, tmp_path: Path) -> None:
    gtf = edited(sources[1], tmp_path / "g.gtf.gz", lambda text: text.replace("_biotype", "_type"))
    assert all(item.coding for item in read_gtf(gtf).transcripts.values())


def test_refseqs_words_for_coding_and_for_a_genes_name_are_known(tmp_path: Path) -> None:
    gene = 'gene_id "HLA-A"; transcript_id ""; db_xref "GeneID:3105"; gene "HLA-A"; gene_biotype "protein_coding"; '
    ids = 'gene_id "HLA-A"; transcript_id "NM_002116.8"; gene "HLA-A"; note "a; b"; transcript_biotype "mRNA"; '
    text = line("gene", 1, 30, gene) + line("transcript", 1, 30, ids) + line("exon", 1, 30, ids)
    transcript = read(tmp_path, text).transcripts["NM_002116.8"]
    assert transcript.coding
    assert (transcript.gene.id, transcript.gene.name) == ("HLA-A", "HLA-A")


@pytest.mark.parametrize(
    "edit",
    [
        lambda text: "\ufeff" + text,
        lambda text: text.replace("\n", "\r\n"),
        lambda text: text.replace("gene_id ", "gene_id  ").replace("transcript_id ", "transcript_id  "),
        lambda text: re.sub(r'(\w+_(?:id|version)) "(\w+)"', r"\1 \2", text),
        lambda text: text + "\n\n",
        lambda text: text.rstrip("\n"),
    ],
    ids=["byte-order mark", "CRLF", "two blanks", "no quotes", "empty lines", "no final newline"],
)
def test_odd_but_whole_files_are_read_alike(sources: Sources, tmp_path: Path, edit: Callable[[str], str]) -> None:
    straight = written(read_gtf(sources[1]), tmp_path / "straight.gz")
    assert written(read_gtf(edited(sources[1], tmp_path / "g.gtf.gz", edit)), tmp_path / "out.gz") == straight


@pytest.mark.parametrize(
    "text",
    [
        "##gff-version 3\n1\tx\tgene\t1\t9\t.\t+\t.\tID=gene:G\n",
        "1\tx\tgene\t1\t9\t.\t+\t.\tID=gene:G\n",
        "##gff-version  3.2.1\n",
        "##gff-version3\n",
    ],
)
def test_gff3_is_called_by_its_name(tmp_path: Path, text: str) -> None:
    with pytest.raises(MissingInput, match=r"genes\.gtf is a GFF3, a GTF is needed\. .*: gffread -T -F "):
        read(tmp_path, text)


@pytest.mark.parametrize(
    ("gene", "transcript", "attributes"),
    [
        (
            "gene:ENSG00000000001",
            "transcript:ENST00000000001",
            'Name "A-201"; biotype "protein_coding"; version "2";',
        ),
        ("gene-HLA-A", "rna-NM_1.2", 'gene_name "HLA-A"; Name "NM_1.2"; gbkey "mRNA"; gene "HLA-A";'),
    ],
    ids=["Ensembl", "RefSeq"],
)
def test_what_gffread_makes_of_a_gff3_is_read(tmp_path: Path, gene: str, transcript: str, attributes: str) -> None:
    """It leaves the gene lines out, and calls biotypes as GFF3 does."""
    ids = f'transcript_id "{transcript}"; gene_id "{gene}";'
    parts = [("transcript", 100, 900, attributes), ("exon", 100, 300, ""), ("exon", 500, 900, "")]
    text = "".join(line(kind, start, end, f"{ids} {more}", "1-") for kind, start, end, more in parts)
    item = read(tmp_path, text.replace("protein_coding\t", "havana\t")).transcripts[transcript]
    assert item.coding
    assert item.ordered_exons() == [(500, 900), (100, 300)]
    assert (item.gene.start, item.gene.end) == (100, 900)


def test_a_file_that_is_cut_off_within_a_line_is_refused_or_lacks_nothing(tmp_path: Path) -> None:
    ids = 'gene_id "G"; gene_version "1"; transcript_id "T"; transcript_version "1"; gene_biotype "protein_coding";'
    text = "".join(
        line(kind, start, 90, ids) for kind, start in (("gene", 1), ("transcript", 1), ("exon", 1), ("exon", 61))
    )
    whole = written(read(tmp_path, text), tmp_path / "whole.gz")
    for size in range(text.rindex("\n", 0, -1) + 2, len(text)):
        try:
            annotation = read(tmp_path, text[:size])
        except MissingInput:
            continue
        assert written(annotation, tmp_path / "cut.gz") == whole, text[:size]


def test_names_of_genes_lose_what_pizzlys_json_would_break_of(tmp_path: Path) -> None:
    text = line("exon", 1, 9, 'gene_id "G1"; transcript_id "T1"; gene_name "a\\b\x01; c";')
    annotation = read(tmp_path, text)
    assert annotation.genes["G1"].name == "a_b_c"
    assert annotation.renamed == 1
