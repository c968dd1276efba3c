"""Inputs that a cell may not have, and those of which its row says the alternative."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from batch_pipeline.wire import layout
from batch_pipeline.wire.errors import ContractBroken
from batch_pipeline.wire.manifest import InputSpec, Manifest, OutputSpec, RetiredReceipt, Row
from tests.container.conftest import Workshop

TRIM = InputSpec(port="x", kind="step", step="trim", files=("{sample}.txt",))
SOURCE = InputSpec(port="x", kind="source")
EITHER = InputSpec(port="x", kind="alternatives", alternatives=(TRIM, SOURCE))
SHOW = """#!/bin/sh
echo "[$INPUT_X]" | sed "s|$PWD/||; s|[^[]*/in-x|in-x|" > y
cat $INPUT_X < /dev/null >> y
"""
FACTS: dict[str, Any] = {
    "outputs": (OutputSpec(port="y", files=("y",)),),
    "needs": ("alternatives",),
    "format": 3,
    "script": "run.sh",
}


def submit(workshop: Workshop, row: Row, spec: InputSpec) -> dict[str, str]:
    bundle = workshop.bundle({"run.sh": SHOW})
    return workshop.submit([row], inputs=(spec,), bundle_sha256=bundle, **FACTS)


def test_the_row_says_which_alternative_is_read(workshop: Workshop) -> None:
    fingerprint = workshop.upstream("trim", "s1", {"s1.txt": b"trimmed\n"})
    row = Row(sample="s1", fingerprint="e" * 16, upstream={"trim": fingerprint}, chosen={"x": 0})
    assert workshop.live(submit(workshop, row, EITHER)) == 0, workshop.log
    assert workshop.result() == b"[in-x/s1.txt]\ntrimmed\n"


def test_a_source_is_an_alternative(workshop: Workshop) -> None:
    file = workshop.source("SR/s1.txt", b"whole\n")
    row = Row(sample="s1", fingerprint="e" * 16, sources={"x": (file,)}, chosen={"x": 1})
    assert workshop.live(submit(workshop, row, EITHER)) == 0, workshop.log
    assert workshop.result() == b"[in-x/s1.txt]\nwhole\n"


def test_an_optional_input_that_is_not_there_is_no_file(workshop: Workshop) -> None:
    row = Row(sample="s1", fingerprint="e" * 16)
    alone = replace(EITHER, alternatives=(TRIM,))
    assert workshop.live(submit(workshop, row, alone)) == 0, workshop.log
    assert workshop.result() == b"[]\n"


def test_an_alternative_that_is_none_is_refused(workshop: Workshop) -> None:
    row = Row(sample="s1", fingerprint="e" * 16, chosen={"x": 2})
    assert workshop.live(submit(workshop, row, EITHER)) == 64
    assert b"Input 'x' has no alternative 2; submit again." in workshop.log


def test_a_gather_has_alternatives_a_sample_in_the_order_of_the_list(workshop: Workshop) -> None:
    cells = {
        step: [[sample, workshop.upstream(step, sample, {f"{sample}.txt": step.encode()})] for sample in names]
        for step, names in {"trim": ("c", "a"), "raw": ("b",)}.items()
    }
    gathers = tuple(InputSpec(port="x", kind="gather", step=step, files=("{sample}.txt",)) for step in cells)
    spec = InputSpec(port="x", kind="alternatives", alternatives=gathers, chosen=(("c", 0), ("b", 1), ("a", 0)))
    python = workshop.bundle(
        {
            "m.py": """
from batch_pipeline import Step
class M(Step):
    def run(self, job):
        found = {s: [f.read_text() for f in files] for s, files in job.gathered("x").items()}
        assert job.excluded_samples == ("d",)
        job.output("table").write_text(repr(found))
"""
        }
    )
    facts = {
        **FACTS,
        "script": "",
        "entry": "m:M",
        "step": "merge",
        "scope": "cohort",
        "inputs": (spec,),
        "outputs": (OutputSpec(port="table", files=("table.txt",)),),
        "gathered": cells,
        "excluded": ("d",),
        "needs": ("alternatives", "excluded"),
    }
    row = Row(sample=layout.COHORT, fingerprint="e" * 16)
    assert workshop.live(workshop.submit([row], bundle_sha256=python, **facts)) == 0, workshop.log
    assert workshop.store.get("cohort/merge/table.txt") == b"{'c': ['trim'], 'b': ['raw'], 'a': ['trim']}"


def test_rows_and_headers_without_choices_are_written_as_before() -> None:
    row = Row(sample="s1", fingerprint="f")
    assert row.to_line() == b'["s1","f",{},{}]'
    manifest = Manifest(run_id="R", job="j", step="s", scope="sample", entry="m:M", inputs=(TRIM,))
    value = manifest.to_json()
    assert set(value["inputs"][0]) == {"port", "kind", "step", "files"}
    assert not {"excluded", "needs", "required"} & value.keys()
    assert Manifest.from_json(value) == manifest


@pytest.mark.parametrize("retired", [None, RetiredReceipt(version="7", must_run=True)])
def test_rows_and_headers_with_choices_are_read_again(retired: RetiredReceipt | None) -> None:
    row = Row(sample="s1", fingerprint="f", retired=retired, chosen={"x": 1})
    assert Row.from_line(row.to_line()) == row
    manifest = Manifest(
        run_id="R",
        job="j",
        step="s",
        scope="sample",
        entry="m:M",
        inputs=(replace(EITHER, chosen=(("a", 0),)),),
        excluded=("b",),
        needs=("alternatives", "excluded"),
        format=3,
    )
    assert Manifest.from_json(manifest.to_json()) == manifest
    with pytest.raises(ContractBroken, match="needs 'magic', which this image does not know"):
        Manifest.from_json({**manifest.to_json(), "needs": ["magic"]})
