"""Genes that stand in a reference twice: pizzly drops their reads with exit code 0 and finds none of their fusions."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from batch_pipeline import Job
from tests.steps.lab import Lab, build, edited, fusions

pytestmark = pytest.mark.tools

#: Upstream gene of the sample's only fusion, on chromosome 1.
GENE, NAME = "SIMG00010", "SIM10"


def copied(suffix: str, chromosome: str, name: str = NAME, biotype: str = "protein_coding") -> Callable[[str], str]:
    """Adds a copy of the gene's FASTA records or GTF lines, with other ids."""

    def edit(text: str) -> str:
        if text.startswith(">"):
            records = re.findall(r">SIMT00010[^>]*", text)
            return text + "".join(re.sub(r"^>(\S+)", rf">\1{suffix}", record) for record in records)
        lines = "".join(line for line in text.splitlines(keepends=True) if f'"{GENE}"' in line)
        lines = re.sub(r'_id "(SIM[GT]\w+)"; \w+_version "1"', rf'_id "\1.1{suffix}"', lines)
        lines = re.sub(r"(?m)^\S+", chromosome, lines).replace(f'"{NAME}"', f'"{name}"')
        return text + lines.replace('"protein_coding"', f'"{biotype}"')

    return edit


def on_x(text: str) -> str:
    return re.sub(rf'(?m)^1(?=\t.*"{GENE}")', "X", text)


def built(lab: Lab, folder: Path, edit: Callable[[str], str]) -> Job:
    fasta, gtf = (edited(path, folder / path.name, edit) for path in (lab.fasta, lab.gtf))
    return build(fasta, gtf, folder / "reference")


def content(job: Job) -> dict[str, list[dict[str, str]]]:
    reference: dict[str, list[dict[str, str]]] = json.loads(job.output("published").read_text())
    return reference


@pytest.mark.parametrize("suffix", ["_PAR_Y", "_other"])
def test_pseudoautosomal_copies_are_left_out(lab: Lab, tmp_path: Path, suffix: str) -> None:
    """By GENCODE's suffix, and by their sequence on Y where the gene is on X: Ensembl's, and GENCODE's since 44."""
    add = copied(suffix, "Y")
    job = built(lab, tmp_path, lambda text: add(on_x(text)))
    assert content(job)["left_out"] == [{"gene": f"{GENE}.1{suffix}", "name": NAME, "other": f"{GENE}.1"}]
    assert content(job)["hidden_genes"] == []
    for port in ("transcriptome", "annotation"):
        assert suffix not in gzip.decompress(job.output(port).read_bytes()).decode()
    assert suffix not in job.output("transcripts").read_text()
    assert fusions(lab.reads, job.work, tmp_path).keys() == {(NAME, "SIM13")}


def test_a_gene_on_y_with_other_sequences_stays(lab: Lab, tmp_path: Path) -> None:
    def named(text: str) -> str:
        text = re.sub(r'(?m)^4(?=\t.*"SIMG00013")', "Y", on_x(text))
        return text.replace('"SIM13"', f'"{NAME}"')

    job = built(lab, tmp_path, named)
    assert content(job)["left_out"] == []
    assert job.metrics["genes"] == 30


@pytest.mark.parametrize(
    ("chromosome", "biotype"), [("7", "protein_coding"), ("MT", "Mt_rRNA")], ids=["coding", "mitochondrial"]
)
def test_genes_that_a_copy_hides_are_told(
    lab: Lab, tmp_path: Path, capfd: pytest.CaptureFixture[str], chromosome: str, biotype: str
) -> None:
    job = built(lab, tmp_path, copied("_c", chromosome, "COPY", biotype))
    assert fusions(lab.reads, job.work, tmp_path) == {}
    hidden = {(item["name"], item["other"]) for item in content(job)["hidden_genes"]}
    assert (NAME, f"{GENE}.1_c") in hidden
    sentence = rf"Fusions of {len(hidden)} protein-coding genes? cannot be seen \(such as SIM10, SIMG00010\.1\)"
    assert re.search(sentence, capfd.readouterr().out)
    assert re.match(sentence, job.metrics["warning"])


@pytest.mark.parametrize(
    ("chromosome", "biotype"), [("7", "lncRNA"), ("1", "protein_coding")], ids=["not coding", "same chromosome"]
)
def test_copies_that_pizzly_sees_past_are_not_told(lab: Lab, tmp_path: Path, chromosome: str, biotype: str) -> None:
    job = built(lab, tmp_path, copied("_c", chromosome, "COPY", biotype))
    assert content(job)["hidden_genes"] == []
    assert "warning" not in job.metrics
    assert (NAME, "SIM13") in fusions(lab.reads, job.work, tmp_path)


def test_a_copy_in_the_fasta_alone_hides_nothing(lab: Lab, tmp_path: Path) -> None:
    """As Ensembl's cDNA has of alternative haplotypes."""
    add = copied("_alt", "")
    job = built(lab, tmp_path, lambda text: add(text) if text.startswith(">") else text)
    assert content(job)["hidden_genes"] == []
    assert fusions(lab.reads, job.work, tmp_path).keys() == {(NAME, "SIM13")}
