"""Which gene pairs count as lost: many split reads in fusion.txt, nothing of pizzly, and no reason by design."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from steps.breakpoints import load_structures, without_neighbours
from steps.candidates import (
    FUSION_HEADER,
    WELL_SUPPORTED,
    named_transcripts,
    transcripts_of,
    unlisted_gene_pairs,
)
from steps.published import TranscriptRow

#: Transcript: gene, chromosome, first and last base, biotype. COPY has the transcripts of A, NEAR is 9,999 bases off A.
GENES = {
    "ta": ("A", "1", 1_000, 2_000, "protein_coding"),
    "tcopy": ("COPY", "Y", 1_000, 2_000, "protein_coding"),
    "tb": ("B", "2", 1_000, 2_000, "protein_coding"),
    "tnear": ("NEAR", "1", 11_999, 13_000, "protein_coding"),
    "tfar": ("FAR", "1", 12_000, 13_000, "protein_coding"),
    "tnc": ("LINC", "3", 1_000, 2_000, "lincRNA"),
    "tmt": ("MTGENE", "MT", 1_000, 2_000, "protein_coding"),
}


def row(name: str) -> TranscriptRow:
    gene, chromosome, _, _, biotype = GENES[name]
    return TranscriptRow(
        transcript_id=name,
        length=100,
        gene_id=f"id{gene}",
        gene_name=gene,
        chromosome=chromosome,
        strand="+",
        biotype=biotype,
        published_id=name,
        published_gene_id=f"id{gene}",
    )


def lost(
    folder: Path, first: str, second: str, *, reads: int = WELL_SUPPORTED, kind: str = "SPLIT", listed: str = ""
) -> dict[tuple[str, str], int]:
    """Lost pairs where so many reads fit these transcripts, and pizzly lists this pair of genes."""
    gtf, fusion = folder / "annotation.gtf.gz", folder / "fusion.txt"
    exons = (
        f'{chromosome}\tx\texon\t{a}\t{b}\t.\t+\t.\tgene_id "{gene}"; transcript_id "{name}";\n'
        for name, (gene, chromosome, a, b, _) in GENES.items()
    )
    gtf.write_bytes(gzip.compress("".join(exons).encode()))
    line = f"{kind}\tr/1\tA\t0,1\tr/2\tC\t0,1\tsplitat=(1,5)\t{first}\t{second}\n"
    fusion.write_text(f"{FUSION_HEADER}\n" + line * reads)
    rows = {name: row(name) for name in GENES}
    unlisted = unlisted_gene_pairs(fusion, rows, [frozenset(listed.split("-"))])
    gene_of = transcripts_of(unlisted, rows)
    return without_neighbours(unlisted, gene_of, load_structures(gtf, gene_of.keys()))


def test_many_split_reads_of_a_pair_that_pizzly_does_not_list_are_lost(tmp_path: Path) -> None:
    assert lost(tmp_path, "(tb,5,RC)", "(ta,7,FW)") == {("A", "B"): WELL_SUPPORTED}
    assert lost(tmp_path, "(tb,5,RC)", "(ta,7,FW)", reads=WELL_SUPPORTED - 1) == {}
    assert lost(tmp_path, "(tb,5,RC)", "(ta,7,FW)", kind="PAIR") == {}
    assert lost(tmp_path, "(tb,5,RC)", "(ta,7,FW)", listed="B-A") == {}


def test_of_a_gene_and_its_copy_both_are_lost(tmp_path: Path) -> None:
    both = lost(tmp_path, "(ta,7,FW);(tcopy,7,FW)", "(tb,5,RC)")
    assert both == {("A", "B"): WELL_SUPPORTED, ("B", "COPY"): WELL_SUPPORTED}
    # A paralog that shares the reads of a pair which is listed has lost nothing.
    assert lost(tmp_path, "(ta,7,FW);(tcopy,7,FW)", "(tb,5,RC)", listed="A-B") == {}


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("(ta,7,FW)", "(tb,5,FW)"),
        ("(ta,7,FW)", "(tnc,5,RC)"),
        ("(ta,7,FW)", "(tmt,5,RC)"),
        ("(ta,7,FW)", "(tnear,5,RC)"),
        ("(ta,7,FW)", "(ta,5,RC)"),
    ],
    ids=["antisense", "not coding", "mitochondrial", "neighbours", "one gene"],
)
def test_what_pizzly_leaves_out_by_design_is_not_lost(tmp_path: Path, first: str, second: str) -> None:
    assert lost(tmp_path, first, second) == {}
    assert lost(tmp_path, "(ta,7,FW)", "(tfar,5,RC)") == {("A", "FAR"): WELL_SUPPORTED}


def test_all_transcripts_that_the_candidates_name_are_listed(tmp_path: Path) -> None:
    fusion = tmp_path / "fusion.txt"
    fusion.write_text(f"{FUSION_HEADER}\nPAIR\tr\tA\t0\tr\tC\t0\t\tNA\t(ta,1,FW);(tb,2,RC)\t(tfar,3,RC)\n")
    assert named_transcripts(fusion) == {"ta", "tb", "tfar"}
