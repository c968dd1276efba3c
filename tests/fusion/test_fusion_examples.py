"""kallisto's own example, a real BAM without fusions, through the whole pipeline."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from tests.fusion.conftest import build_reference
from tests.fusion.prompt import Bucket, Prompt, cells

pytestmark = [pytest.mark.engine, pytest.mark.tools, pytest.mark.xdist_group("fusion")]

#: Of Debian's package kallisto-examples.
EXAMPLES = Path("/usr/share/doc/kallisto/test")


def test_the_shipped_quantification_comes_out_and_no_fusion(prompt: Prompt) -> None:
    shipped = EXAMPLES / "quant_out"
    if not shipped.is_dir():
        pytest.skip("the package kallisto-examples is not installed")
    bucket = Bucket(prompt=prompt, name="examples")
    bucket.bam("example").write_bytes(gzip.decompress((shipped / "pseudoalignments.bam.gz").read_bytes()))
    build_reference(bucket, "examples", EXAMPLES / "transcripts.fasta.gz", EXAMPLES / "transcripts.gtf.gz")
    bucket.choose("example")

    bucket.run()

    receipts = bucket.receipts()
    assert set(receipts) == cells("example")
    quantified = bucket.result("kallisto", "example", "abundance.tsv")
    assert quantified.read_text() == (shipped / "abundance.tsv").read_text()
    assert receipts["kallisto", "example"].metrics["pseudoaligned_pairs"] == 9413
    fusions = receipts["pizzly", "example"].metrics
    assert (fusions["fusions"], fusions["fusions_unfiltered"]) == (0, 0)
    assert len(bucket.result("pizzly", "example", "example.fusions.tsv").read_text().splitlines()) == 1
