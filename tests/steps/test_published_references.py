"""References as Ensembl, GENCODE, RefSeq and converters publish them: the same fusions as from a straight one."""

from __future__ import annotations

import gzip
import re
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from batch_pipeline import Job
from batch_pipeline.demo.alone import run_alone
from batch_pipeline.demo.real import GOLDEN_FUSIONS, SAMPLE, RealData, Unavailable, cache_folder, fetch_real
from steps.kallisto import Kallisto
from steps.picard import Picard
from steps.published import transcripts
from tests.steps.lab import Lab, build, edited, fusions
from tests.steps.test_gtf import by_place
from tests.steps.test_reference import without

pytestmark = pytest.mark.tools

#: The user's own, before tests get a home of their own.
CACHE = cache_folder()
Edit = Callable[[str], str]
Fusions = Mapping[tuple[str, str], tuple[int, int]]


def same(text: str) -> str:
    return text


def gtf_alone(edit: Edit) -> Edit:
    return lambda text: text if text.startswith(">") else edit(text)


def fasta_alone(edit: Edit) -> Edit:
    return lambda text: edit(text) if text.startswith(">") else text


def as_rna(text: str) -> str:
    return re.sub(r"(?m)^[ACGTN]+$", lambda match: match[0].replace("T", "U"), text)


def refseq(text: str) -> str:
    """Ids with `-`, names in `gene`, no versions of their own, `mRNA` for coding, as in RefSeq's GTFs."""
    text = re.sub(r"SIMT(\d+)(?:\.1)?", r"rna-NM_\1.6", text)
    text = re.sub(r'gene_id "SIMG(\d+)"; gene_version "1"; gene_name', r'gene_id "SIM-\1"; db_xref "G:1"; gene', text)
    return text.replace('transcript_version "1"; transcript_biotype "protein_coding"', 'transcript_biotype "mRNA"')


def no_version(text: str) -> str:
    return re.sub(r'(?m)( transcript_version "1";|(?<=^>SIMT\d{6})\.1\b)', "", text)


def odd(source: tuple[Path, Path], folder: Path, edit: Edit) -> Job:
    fasta, gtf = (edited(path, folder / path.name, edit) for path in source)
    return build(fasta, gtf, folder / "reference")


@pytest.fixture(scope="module")
def straight(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Fusions:
    return fusions(lab.reads, lab.reference, tmp_path_factory.mktemp("straight"))


@pytest.mark.parametrize(
    "edit",
    [
        pytest.param(gtf_alone(by_place), id="sorted by place, exons ascending"),
        pytest.param(gtf_alone(without("gene")), id="no gene lines (StringTie)"),
        pytest.param(gtf_alone(lambda text: without("gene")(without("transcript")(text))), id="exons only"),
        pytest.param(fasta_alone(as_rna), id="U for T"),
        pytest.param(refseq, id="RefSeq"),
        pytest.param(fasta_alone(no_version), id="versions in the GTF alone"),
        pytest.param(gtf_alone(no_version), id="versions in the FASTA alone"),
        pytest.param(lambda text: "\ufeff" + text.replace("\n", "\r\n"), id="byte-order mark, CRLF"),
        pytest.param(gtf_alone(lambda text: text.replace("_id ", "_id  ")), id="two blanks"),
        pytest.param(gtf_alone(lambda text: text.replace('"SIMG0', '"SIM G;0')), id="gene ids with blanks"),
        pytest.param(lambda text: re.sub(r"SIMT(\d)", r"transcript:SIMT-\1", text), id="GFF3 converted"),
    ],
)
def test_the_fusions_are_the_same(
    lab: Lab, sources: tuple[Path, Path], straight: Fusions, tmp_path: Path, edit: Edit
) -> None:
    job = odd(sources, tmp_path, edit)
    assert fusions(lab.reads, job.work, tmp_path) == straight != {}
    assert job.metrics["annotated"] == job.metrics["transcripts"]


def test_sequences_with_u_are_mended_and_counted(sources: tuple[Path, Path], tmp_path: Path) -> None:
    job = odd(sources, tmp_path, fasta_alone(as_rna))
    assert job.metrics["sequences_with_u"] == job.metrics["transcripts"] > 0
    assert "U" not in gzip.decompress(job.output("transcriptome").read_bytes()).decode().replace("SIMT", "")


def test_ids_that_pizzly_cannot_read_are_mapped_and_kept_beside(sources: tuple[Path, Path], tmp_path: Path) -> None:
    """`rna-NM_1.6` and `rna_NM_1.6` must not become one."""

    def clash(text: str) -> str:
        return refseq(text) + (">rna_NM_000011.6\nACGTACGTACGTACGTACGTACGTACGTACGTACGTACGT\n" if text[0] == ">" else "")

    job = odd(sources, tmp_path, clash)
    rows = transcripts(job.output("transcripts"))
    assert rows["rna_NM_000011.6"].published_id == "rna_NM_000011.6"
    mapped = rows["rna_NM_000011.6_2"]
    assert (mapped.published_id, mapped.published_gene_id) == ("rna-NM_000011.6", "SIM-00001")
    assert mapped.biotype == "protein_coding"
    assert job.metrics["ids_mapped"] == job.metrics["annotated"]


def test_spike_ins_of_the_fasta_alone_are_quantified(lab: Lab, sources: tuple[Path, Path], tmp_path: Path) -> None:
    spike = ">ERCC-00002\n" + "ACGGTCATTGACCTGAAGTCCATTGCACGT" * 8 + "\n"
    job = odd(sources, tmp_path, fasta_alone(lambda text: text + spike))
    quantified = run_alone(
        Kallisto(strandedness="none"), tmp_path / "work", "sim04", inputs={"reads": lab.reads}, reference=job.work
    )
    assert quantified.output("abundance").read_text().splitlines()[-1].startswith("ERCC_00002\t240\t")
    assert transcripts(job.output("transcripts"))["ERCC_00002"].published_id == "ERCC-00002"


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> tuple[RealData, tuple[Path, ...]]:
    """SRR1659964 with nine known fusions, and its reads as the pipeline has them."""
    folder = tmp_path_factory.mktemp("real")
    data = fetch_real(folder / "data", cache=CACHE)
    if isinstance(data, Unavailable):
        pytest.skip(data.reason)
    bam = folder / f"{SAMPLE}.bam"
    data.write_bam(bam)
    return data, run_alone(Picard(), folder / "picard", SAMPLE, inputs={"bam": [bam]}).outputs("fastq")


def with_par_copy(text: str) -> str:
    """A copy of EWSR1 on Y, called as GENCODE does: with it pizzly finds seven of the nine."""
    if text.startswith(">"):
        records = re.findall(r">[^>]*gene:ENSG00000182944[^>]*", text)
        return text + "".join(re.sub(r"^>(\S+)", r">\1_PAR_Y", record) for record in records)
    lines = "".join(line for line in text.splitlines(keepends=True) if '"ENSG00000182944"' in line)
    lines = re.sub(r'(gene|transcript)_id "(\w+)"; \w+_version "(\d+)"', r'\1_id "\2.\3_PAR_Y"', lines)
    return text + re.sub("(?m)^22\t", "Y\t", lines)


@pytest.mark.slow
@pytest.mark.parametrize(
    "edit",
    [
        pytest.param(with_par_copy, id="EWSR1 on Y too"),
        pytest.param(gtf_alone(by_place), id="exons ascending"),
        pytest.param(fasta_alone(as_rna), id="U for T"),
    ],
)
def test_the_nine_fusions_of_the_real_sample_are_found(
    real: tuple[RealData, tuple[Path, ...]], tmp_path: Path, edit: Edit
) -> None:
    data, reads = real
    job = odd((data.fasta, data.gtf), tmp_path, edit)
    assert fusions(reads, job.work, tmp_path) == GOLDEN_FUSIONS
