"""The example of a cohort's variants, on real tools and the real engine, beside a shell loop over the same commands."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from examples.variants_data import SAMPLES, positions, simulate
from tests.flow.lab import REPOSITORY, Lab

PIPELINE = REPOSITORY / "examples" / "variants.py"
#: What a person would write without a workflow manager; in the folder of the data.
LOOP = r"""
set -euo pipefail
genome=store/references/toy/genome.fa
mkdir loop
for sample in ann bob cid dan; do
  bwa mem -R "@RG\tID:$sample\tSM:$sample" $genome ${sample}_1.fastq ${sample}_2.fastq |
    samtools sort -o loop/$sample.bam
  samtools index loop/$sample.bam
  bcftools mpileup -f $genome loop/$sample.bam | bcftools call -mv -Oz -o loop/$sample.vcf.gz
  bcftools index loop/$sample.vcf.gz
done
bcftools merge -o loop/variants.vcf loop/ann.vcf.gz loop/bob.vcf.gz loop/cid.vcf.gz loop/dan.vcf.gz
"""


def records(vcf: Path) -> list[str]:
    """The lines of a VCF without those that hold dates and commands."""
    return [line for line in vcf.read_text().splitlines() if not line.startswith("##")]


def run(folder: Path, *options: str) -> str:
    command = [sys.executable, str(PIPELINE), "--sample-list-file", "toy/samples.csv", "--store", "toy/store", *options]
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout


@pytest.mark.engine
@pytest.mark.tools
def test_the_variants_are_those_of_a_shell_loop_and_those_that_were_planted(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    toy = lab.folder / "toy"
    simulate(toy)

    assert "merge: 1/1 done" in run(lab.folder)
    subprocess.run(["bash", "-c", LOOP], cwd=toy, check=True, capture_output=True)

    header, *variants = records(toy / "store" / "cohort" / "merge" / "variants.vcf")
    assert [header, *variants] == records(toy / "loop" / "variants.vcf")
    assert tuple(header.split("\t")[9:]) == SAMPLES
    rows = [line.split("\t") for line in variants]
    for number in range(1, len(SAMPLES) + 1):
        assert [int(row[1]) for row in rows if not row[8 + number].startswith("./.")] == [*positions(number)]
    plot = ElementTree.parse(toy / "store" / "cohort" / "merge" / "variants.svg").getroot()
    texts = [element.text for element in plot if element.tag.endswith("text")]
    assert texts == [f"{sample} {len(positions(number))}" for number, sample in enumerate(SAMPLES, 1)]
    assert run(lab.folder).splitlines() == ["Nothing to do: 9 of 9 cells are done."]


def test_it_has_at_most_forty_lines() -> None:
    """Lines of code with the gather: neither blank, nor of a docstring or a comment."""
    text = PIPELINE.read_text()
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef)
    docstrings = [node.body[0] for node in ast.walk(ast.parse(text)) if isinstance(node, documented) and node.body]
    prose = {line for node in docstrings if _is_text(node) for line in range(node.lineno, (node.end_lineno or 0) + 1)}
    lines = [line.strip() for number, line in enumerate(text.splitlines(), 1) if number not in prose]
    code = [line for line in lines if line and not line.startswith("#")]
    assert len(code) <= 40


def _is_text(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
