"""In which order cells run, and what a gather is given, on the real engine."""

from __future__ import annotations

import pytest

from tests.flow.lab import Lab

pytestmark = pytest.mark.engine


def test_a_sample_goes_on_while_another_is_still_at_the_step_before(lab: Lab) -> None:
    """Bob's first step ends only when ann's second one has left its result."""
    lab.text("bob", f"WAIT {lab.store}/results/words/ann/ann.words.txt\nmore\n")

    lab.run()

    receipts = lab.receipts()
    assert receipts["words", "ann"]["started_at"] < receipts["lower", "bob"]["stopped_at"]
    # Both are told in milliseconds.
    assert receipts["lower", "bob"]["stopped_at"] <= receipts["words", "bob"]["started_at"]


def test_no_cell_starts_before_what_it_reads_was_done(lab: Lab) -> None:
    lab.file = "diamond.py"

    ran = lab.run()

    assert ran.calls["SubmitJob"] == 6
    receipts = lab.receipts()
    reads = {
        "words": ("lower",),
        "size": ("lower",),
        "both": ("words", "size"),
        "share": ("words", "count"),
    }
    for step, upstream in reads.items():
        for sample in ("ann", "bob", "cid"):
            for before in upstream:
                earlier = receipts[before, "_cohort" if before == "count" else sample]
                assert earlier["stopped_at"] <= receipts[step, sample]["started_at"], (step, sample)
    assert all(receipts["words", s]["stopped_at"] <= receipts["count", "_cohort"]["started_at"] for s in ("ann", "bob"))
    assert (lab.store / "results/share/bob/share.txt").read_text() == "4 of 12\n"
    assert (lab.store / "results/both/bob/both.txt").read_text() == "17\nbob\nof\nthe\nwords\n"


def test_a_change_in_one_branch_of_a_diamond_leaves_the_other(lab: Lab) -> None:
    lab.file = "diamond.py"
    lab.run()
    lab.edit("parts/size.py", "read_text())", "read_text()) * 10")

    lab.run()

    assert {step for step, _ in lab.sent()} == {"size", "both"}
    assert (lab.store / "results/both/ann/both.txt").read_text().startswith("170\n")


def test_ragged_samples_become_groups_with_a_submission_a_step_each(lab: Lab) -> None:
    """Ann needs all, bob the second step alone, cid nothing: arrays of one are plain jobs."""
    lab.run()
    lab.text("ann", "Quite other words\n")
    lab.receipt_of("words", "bob").unlink()

    ran = lab.run()

    assert lab.sent() == {("lower", "ann"), ("words", "ann"), ("words", "bob"), ("count", "_cohort")}
    assert ran.calls["SubmitJob"] == 4
    assert (lab.store / "cohort/count/words.tsv").read_text() == "ann\t3\nbob\t4\ncid\t4\ntotal\t11\n"


def test_a_pipeline_of_one_sample_runs(lab: Lab) -> None:
    lab.samples("solo")

    ran = lab.run()

    assert ran.calls["SubmitJob"] == 3
    assert (lab.store / "cohort/count/words.tsv").read_text() == "solo\t4\ntotal\t4\n"


def test_a_gather_waits_for_every_sample_unless_told_otherwise(lab: Lab) -> None:
    lab.text("bob", "FAIL\n")

    lab.run(code=1)

    assert ("count", "_cohort") not in lab.receipts()


def test_min_success_releases_the_gather_with_the_missing_named(lab: Lab) -> None:
    lab.text("bob", "FAIL\n")

    ran = lab.run("--min-success", "0.6", code=1)

    assert (lab.store / "cohort/count/words.tsv").read_text() == "ann\t4\ncid\t4\nbob\tmissing\ntotal\t8\n"
    assert "bob" in ran.out
    assert ran.calls["SubmitJob"] == 3


def test_min_success_that_is_not_reached_holds_the_gather_and_says_so(lab: Lab) -> None:
    lab.text("bob", "FAIL\n")

    ran = lab.run("--min-success", "0.9", code=1)

    assert ("count", "_cohort") not in lab.receipts()
    assert "1 of 3 samples have no result" in ran.out


def test_a_repaired_sample_joins_the_gather(lab: Lab) -> None:
    lab.text("bob", "FAIL\n")
    lab.run("--min-success", "0.6", code=1)
    lab.text("bob", "Good words\n")

    lab.run("--min-success", "0.6")

    assert (lab.store / "cohort/count/words.tsv").read_text() == "ann\t4\nbob\t2\ncid\t4\ntotal\t10\n"


def test_min_success_runs_in_two_runs_and_says_nothing_to_do_afterwards(lab: Lab) -> None:
    lab.text("bob", "FAIL\n")
    lab.run("--min-success", "0.6", code=1)
    before = lab.runs()
    lab.text("bob", "Good words\n")
    lab.run("--min-success", "0.6")

    assert "Nothing to do" in lab.run("--min-success", "0.6").out
    assert len(lab.runs()) == len(before) + 2
