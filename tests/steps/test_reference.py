"""References that would make the tools report less, or nothing, without a word."""

from __future__ import annotations

import gzip
import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from batch_pipeline import InvalidOutput, MissingInput
from batch_pipeline.wire.errors import InvalidConfig
from steps.gtf import read_gtf
from steps.reference import BuildReference
from steps.sequences import read_fasta
from tests.steps.lab import Lab, build, edited


def without(kind: str) -> Callable[[str], str]:
    return lambda text: "".join(line for line in text.splitlines(keepends=True) if f"\t{kind}\t" not in line)


@pytest.mark.tools
def test_everything_that_the_cells_need_is_promised(lab: Lab) -> None:
    promise = json.loads((lab.reference / "reference.json").read_text())
    assert set(promise["files"]) == {path.name for path in lab.reference.iterdir()} - {"reference.json"}
    assert all(
        promise["files"][path.name]["size"] == path.stat().st_size
        for path in lab.reference.iterdir()
        if path.name != "reference.json"
    )
    assert promise["k"] == 31
    assert promise["genes"] == promise["pizzly"]["genes"] == 30
    assert promise["transcripts"] == promise["annotated"] == promise["pizzly"]["transcripts"]
    assert promise["kmers"] > 0
    assert promise["versions"]["kallisto"][0].isdigit()
    assert promise["versions"]["pizzly"][0].isdigit()


@pytest.mark.tools
def test_two_builds_leave_the_same_bytes(lab: Lab, tmp_path: Path) -> None:
    build(lab.fasta, lab.gtf, tmp_path / "again")
    for path in lab.reference.iterdir():
        assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes(), path.name


@pytest.mark.tools
def test_names_with_spaces_are_mended_and_the_cache_still_loads(lab: Lab, tmp_path: Path) -> None:
    gtf = edited(lab.gtf, tmp_path / "spaced.gtf.gz", lambda text: text.replace('"SIM7"', '"SIM 7; odd"'))
    job = build(lab.fasta, gtf, tmp_path / "work")
    assert job.metrics["gene_names_mended"] == 1
    assert "SIM_7_odd" in job.output("cache").read_text()


@pytest.mark.tools
def test_a_gene_without_transcripts_is_left_out_and_counted(lab: Lab, tmp_path: Path) -> None:
    """In pizzly's cache its empty list would swallow the gene behind it."""
    bare = '9\tsimulated\tgene\t5\t900\t.\t+\t.\tgene_id "SIMG99999"; gene_biotype "protein_coding";\n'
    gtf = edited(lab.gtf, tmp_path / "bare.gtf.gz", lambda text: bare + text)
    job = build(lab.fasta, gtf, tmp_path / "work")
    assert job.metrics["genes_without_transcripts"] == 1
    assert job.metrics["genes"] == 30


@pytest.mark.tools
def test_gencodes_names_are_cut_at_the_first_pipe(lab: Lab, tmp_path: Path) -> None:
    fasta = edited(
        lab.fasta, tmp_path / "p.fa.gz", lambda text: re.sub(r"^>(\S+).*", r">\1|SIMG|-|x", text, flags=re.M)
    )
    job = build(fasta, lab.gtf, tmp_path / "work")
    assert job.output("transcripts").read_text() == (lab.reference / "transcripts.tsv").read_text()


@pytest.mark.tools
def test_files_that_are_not_gzipped_are_taken_as_well(lab: Lab, tmp_path: Path) -> None:
    plain = [tmp_path / "t.fa", tmp_path / "g.gtf"]
    for source, path in zip((lab.fasta, lab.gtf), plain, strict=True):
        path.write_bytes(gzip.decompress(source.read_bytes()))
    job = build(plain[0], plain[1], tmp_path / "work")
    assert job.output("index").read_bytes() == (lab.reference / "kallisto.idx").read_bytes()


@pytest.mark.tools
def test_an_index_without_kmers_is_an_error(lab: Lab, tmp_path: Path) -> None:
    fasta, gtf = tmp_path / "short.fa", tmp_path / "short.gtf"
    fasta.write_text(">T1\nACGTACGTAC\n")
    attributes = 'gene_id "G1"; transcript_id "T1"; gene_biotype "protein_coding"; transcript_biotype "protein_coding";'
    gtf.write_text("".join(f"1\tx\t{kind}\t1\t10\t.\t+\t.\t{attributes}\n" for kind in ("gene", "transcript", "exon")))
    with pytest.raises(InvalidOutput, match="no k-mers of length 31"):
        build(fasta, gtf, tmp_path / "work")


@pytest.mark.parametrize("k", [30, 33, 1])
def test_a_k_that_kallisto_cannot_use_is_refused(k: int) -> None:
    with pytest.raises(InvalidConfig, match="k must be one of 3, 5"):
        BuildReference(k=k)


def test_an_annotation_of_other_transcripts_is_refused(sources: tuple[Path, Path], tmp_path: Path) -> None:
    gtf = edited(sources[1], tmp_path / "other.gtf.gz", lambda text: text.replace("SIMT", "OTHER"))
    with pytest.raises(
        MissingInput, match=r"other\.gtf\.gz knows 0 of the \d+ transcripts .*take both from one release"
    ):
        build(sources[0], gtf, tmp_path / "work")


def test_ids_that_differ_in_version_are_refused_with_that_word(sources: tuple[Path, Path], tmp_path: Path) -> None:
    fasta = edited(sources[0], tmp_path / "newer.fa.gz", lambda text: text.replace(".1 cdna", ".2 cdna"))
    with pytest.raises(MissingInput, match="they differ in version only"):
        build(fasta, sources[1], tmp_path / "work")


def test_exons_of_another_release_are_refused(sources: tuple[Path, Path], tmp_path: Path) -> None:
    def longer(text: str) -> str:
        return re.sub(r"\texon\t(\d+)\t(\d+)", lambda found: f"\texon\t{found[1]}\t{int(found[2]) + 9}", text)

    gtf = edited(sources[1], tmp_path / "longer.gtf.gz", longer)
    with pytest.raises(MissingInput, match=r"other lengths in .*breakpoints would be wrong"):
        build(sources[0], gtf, tmp_path / "work")


@pytest.mark.parametrize("which", [0, 1])
def test_a_torn_gzip_is_refused(sources: tuple[Path, Path], tmp_path: Path, which: int) -> None:
    files = list(sources)
    torn = tmp_path / "torn.gz"
    torn.write_bytes(files[which].read_bytes()[:2000])
    files[which] = torn
    with pytest.raises(MissingInput, match=r"torn\.gz is not a whole gzip file"):
        build(files[0], files[1], tmp_path / "work")


def test_a_missing_file_is_refused(sources: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(MissingInput, match=r"none\.fa is not there or empty"):
        build(tmp_path / "none.fa", sources[1], tmp_path / "work")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("\n", "has no sequences"),
        (">A\nACGT\n>A\nACGT\n", r"has A twice \(line 3\)"),
        (">\nACGT\n", "line 1: a sequence has no id"),
        (">A\n>B\nACGT\n", "A has no sequence"),
        (">A\nACGT\n>B\n", "B has no sequence"),
        ("ACGT\n", "is no FASTA: line 1"),
    ],
)
def test_a_fasta_that_cannot_be_used_is_refused(tmp_path: Path, text: str, words: str) -> None:
    fasta = tmp_path / "t.fa"
    fasta.write_text(text)
    with pytest.raises(MissingInput, match=words):
        read_fasta(fasta)


def test_something_that_is_no_text_is_refused(tmp_path: Path) -> None:
    other = tmp_path / "t.fa"
    other.write_bytes(b"\xff\xfe\x00" + os.urandom(64))
    with pytest.raises(MissingInput, match=r"t\.fa is not a text"):
        read_fasta(other)


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (without("exon"), r"transcript SIMT000011\.1 has no exon lines; without them pizzly misses fusions"),
        (lambda text: text + text, r"has gene SIMG00001\.1 a second time"),
        (lambda text: text.replace("\t", " "), "has 1 columns, not 9"),
        (lambda text: re.sub(r"\texon\t\d+", "\texon\tend", text), r"has end\.\.\d+ for the place of its exon"),
        (lambda text: re.sub(r"\texon\t\d+", "\texon\t0", text), r"has 0\.\.\d+ for the place of its exon"),
        (lambda text: text.replace('gene_id "SIMG00001";', ""), "is a line of kind gene without a gene_id"),
        (
            lambda text: re.sub(r'(\ttranscript\t.*) transcript_id "\w+";', r"\1", text),
            "of kind transcript without a transcript_id",
        ),
        (lambda text: text.replace('"SIMT000021"', '"SIMT000011"'), r"has transcript SIMT000011\.1 in gene SIMG00002"),
    ],
)
def test_a_gtf_that_pizzly_would_take_in_silence_is_refused(
    sources: tuple[Path, Path], tmp_path: Path, edit: Callable[[str], str], words: str
) -> None:
    with pytest.raises(MissingInput, match=words):
        read_gtf(edited(sources[1], tmp_path / "g.gtf.gz", edit))


def test_a_gtf_without_genes_is_refused(sources: tuple[Path, Path], tmp_path: Path) -> None:
    gtf = edited(sources[1], tmp_path / "g.gtf.gz", lambda text: "#!genome-build none\n")
    with pytest.raises(MissingInput, match="has no genes with transcripts"):
        build(sources[0], gtf, tmp_path / "work")


def test_a_gtf_without_biotypes_is_refused(sources: tuple[Path, Path], tmp_path: Path) -> None:
    gtf = edited(sources[1], tmp_path / "g.gtf.gz", lambda text: re.sub(r' \w+_biotype "\w+";', "", text))
    with pytest.raises(MissingInput, match="calls nothing protein_coding"):
        build(sources[0], gtf, tmp_path / "work")
