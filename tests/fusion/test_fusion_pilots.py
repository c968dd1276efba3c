"""The fusion pipeline through pilots on a pool: the same fusions and receipts, and nothing to do the second time."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from batch_pipeline.pool.stores.sqlite.store import SqliteStore
from batch_pipeline.pool.task import TaskState
from tests.fusion.conftest import Cohort
from tests.fusion.prompt import Bucket, cells

pytestmark = [pytest.mark.engine, pytest.mark.tools, pytest.mark.xdist_group("fusion")]

KNOWN = {"ann": "sim01", "bob": "sim03"}


def test_two_pilots_find_the_fusions_and_a_rerun_finds_nothing_to_do(
    new_bucket: Callable[[str], Bucket], cohort: Cohort
) -> None:
    bucket = new_bucket("pilots")
    for name, simulated in KNOWN.items():
        cohort.write(bucket.bam(name), simulated)
    bucket.choose(*KNOWN)

    bucket.run("--pilots", "2")

    assert bucket.receipts().keys() == cells("ann bob")
    for name, simulated in KNOWN.items():
        genes = json.loads(bucket.result("pizzly", name, f"{name}.json").read_text())["genes"]
        assert {(gene["geneA"]["id"], gene["geneB"]["id"]) for gene in genes} == cohort.fusions[simulated]
    assert cohort.fusions["sim03"]
    counts = SqliteStore(bucket.folder / "pool" / "pool.sqlite").counts()
    # Three steps of two samples, and two gathers.
    assert (counts.total, counts.of(TaskState.DONE)) == (8, 8)
    before = bucket.runs()
    for again in (("--pilots", "2"), ()):
        # Array jobs take them for done too: the receipts are the same.
        assert bucket.run(*again).out == "Nothing to do: 8 of 8 cells are done.\n"
    assert bucket.runs() == before
