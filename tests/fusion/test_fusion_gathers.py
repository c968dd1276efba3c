"""A cohort with a sample that fails: its gathers are made of the others, vouched for, exported, and made again."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.fusion.conftest import Cohort
from tests.fusion.prompt import Bucket
from tests.provenance.test_provenance_crate import VALIDATOR, judged

pytestmark = [pytest.mark.engine, pytest.mark.tools, pytest.mark.slow, pytest.mark.xdist_group("fusion")]

KNOWN = {"ann": "sim01", "bob": "sim03", "cal": "sim04"}


def statuses(bucket: Bucket) -> dict[str, str]:
    """Sample -> its status in the table of quality."""
    with (bucket.folder / "cohort" / "multiqc" / "qc.tsv").open() as table:
        return {row["sample"]: row["status"] for row in csv.DictReader(table, delimiter="\t")}


def header(bucket: Bucket) -> list[str]:
    return (bucket.folder / "cohort" / "cohort" / "fusion_matrix.tsv").read_text().splitlines()[0].split("\t")


def test_gathers_do_without_a_sample_that_failed_and_are_made_again_with_it(
    new_bucket: Callable[[str], Bucket], cohort: Cohort, tmp_path: Path
) -> None:
    bucket = new_bucket("tolerant")
    for name, simulated in KNOWN.items():
        cohort.write(bucket.bam(name), simulated)
    whole = bucket.bam("cal").read_bytes()
    bucket.bam("cal").write_bytes(whole[: len(whole) // 2])
    bucket.choose(*KNOWN)

    failed = bucket.run(code=1)

    assert "cal.bam" in failed.words
    assert statuses(bucket) == {"ann": "done", "bob": "done", "cal": "missing"}
    assert header(bucket)[-2:] == ["ann", "bob"]
    assert "cal" in (bucket.folder / "cohort" / "cohort" / "fusions.html").read_text()
    _assert_vouched_for(bucket, tmp_path)

    bucket.bam("cal").write_bytes(whole)
    bucket.run()

    assert statuses(bucket) == dict.fromkeys(KNOWN, "done")
    assert header(bucket)[-3:] == list(KNOWN)
    assert bucket.run().out == "Nothing to do: 11 of 11 cells are done.\n"


def _assert_vouched_for(bucket: Bucket, folder: Path) -> None:
    """Verified, traced, released and exported: of what there is, and no more."""
    fixed = ("--bucket-name", bucket.name)
    assert json.loads(bucket.prompt("verify", "last", "--json", *fixed).out)["ok"] is True
    told = bucket.prompt("trace", "cohort/cohort/fusions.tsv", "--json", *fixed).json
    assert {(one["step"], one["sample"]) for one in told["cells"] if one["step"] == "picard"} == {
        ("picard", "ann"),
        ("picard", "bob"),
    }
    assert told["problems"] == []

    refused = bucket.prompt("release", "last", "--to", str(folder / "released"), *fixed, code=2)
    assert "picard of cal first" in refused.words
    bucket.prompt("release", "last", "--partial", "--to", str(folder / "released"), *fixed)
    [sums] = (folder / "released").rglob("SHA256SUMS")
    released = {line.split("  ")[1] for line in sums.read_text().splitlines()}
    assert {"cohort/cohort/gene_tpm.tsv.gz", "cohort/multiqc/multiqc_report.html"} <= released
    assert not [name for name in released if "/cal/" in name]

    bucket.prompt("runs", "export", "last", "--to", str(folder / "crate"), *fixed)
    assert (folder / "crate" / "cohort" / "multiqc" / "multiqc_report.html").is_file()
    if VALIDATOR.exists():
        assert judged(VALIDATOR / "bin" / "rocrate-validator", folder / "crate", folder) == []
