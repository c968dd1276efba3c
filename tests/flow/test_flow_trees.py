"""Directories and any number of files from step to step on the real engine, and what a rerun with fewer leaves."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.flow.lab import Lab

pytestmark = pytest.mark.engine


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_a_directory_and_a_pattern_are_read_by_what_the_receipt_lists(lab: Lab) -> None:
    lab.file = "trees.py"
    lab.samples("ann", "bob")
    lab.run()
    results, table = lab.store / "results", lab.store / "cohort/join/table.txt"
    made = ["3.length", "5.length", "ann_words/T/The", "ann_words/a/ann", "ann_words/o/of", "ann_words/w/words"]
    assert names(results / "split/ann") == ["2.length", *made]
    assert (results / "tally/ann/count.txt").read_text() == "ann_words\n./T/The\n./a/ann\n./o/of\n./w/words\n"
    lengths = "2.length 3.length 5.length"
    assert table.read_text() == f"ann: {lengths}: The ann of words\nbob: {lengths}: The bob of words\n"

    headers = [json.loads(path.read_text()) for path in lab.store.glob("runs/*/submissions/*/manifest.json")]
    assert {(one["step"], *one["needs"]) for one in headers} == {
        ("split", "directory", "many"),
        ("tally", "command", "directory"),
        ("join", "directory", "many"),
    }

    lab.text("ann", "The words\n")
    lab.run()
    assert names(results / "split/ann") == ["3.length", "5.length", "ann_words/T/The", "ann_words/w/words"]
    assert (results / "tally/ann/count.txt").read_text() == "ann_words\n./T/The\n./w/words\n"
    assert table.read_text() == f"ann: 3.length 5.length: The words\nbob: {lengths}: The bob of words\n"
    (lab.receipt_of("split", "ann")).unlink()
    lab.run()
    assert {cell for cell, receipt in lab.receipts().items() if receipt["kept"]} == {
        ("tally", "ann"),
        ("join", "_cohort"),
    }

    verified = lab.run("verify", "--all").out
    assert "14 files" in verified
    (results / "split/ann/ann_words/w/words").write_text("other")
    lab.run("verify", "results/split/ann/ann_words", code=None)
    traced = lab.run("trace", "cohort/join/table.txt").out
    assert "results/split/bob/bob_words/T/The" in traced
