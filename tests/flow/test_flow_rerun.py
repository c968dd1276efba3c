"""What a second run does: exactly the cells that are missing, on the real engine."""

from __future__ import annotations

import json

import pytest

from tests.flow.lab import ALL, SAMPLES, Lab

pytestmark = pytest.mark.engine


def test_a_fresh_run_makes_every_cell_with_one_submission_a_step_and_no_call_a_sample(lab: Lab) -> None:
    ran = lab.run("--queue", "fresh")

    assert set(lab.receipts()) == ALL
    assert ran.calls["SubmitJob"] == 3
    assert ran.calls["RegisterJobDefinition"] <= 3
    assert set(ran.calls) <= {
        "SubmitJob",
        "DescribeJobs",
        "DescribeJobDefinitions",
        "RegisterJobDefinition",
        "DescribeJobQueues",
        "CreateJobQueue",
    }
    assert (lab.store / "cohort/count/words.tsv").read_text() == "ann\t4\nbob\t4\ncid\t4\ntotal\t12\n"


def test_run_again_submits_nothing_and_plans_in_at_most_twelve_store_calls(lab: Lab) -> None:
    lab.run()

    ran = lab.run("--verbose")

    assert ran.store_calls <= 12
    assert not ran.calls
    assert len(lab.runs()) == 1
    assert "Nothing to do: 7 of 7 cells are done." in ran.out


def test_a_deleted_receipt_runs_that_step_of_that_sample_and_what_depends_on_it(lab: Lab) -> None:
    lab.run()
    lab.receipt_of("words", "bob").unlink()

    lab.run()

    assert lab.sent() == {("words", "bob"), ("count", "_cohort")}
    assert set(lab.receipts()) == ALL


def test_a_changed_parameter_runs_its_step_and_what_depends_on_it(lab: Lab) -> None:
    lab.run()

    lab.run("--shortest", "4")

    assert lab.sent() == {*(("words", s) for s in SAMPLES), ("count", "_cohort")}
    assert (lab.store / "results/words/ann/ann.words.txt").read_text() == "words\n"


def test_an_edited_step_runs_and_what_depends_on_it(lab: Lab) -> None:
    lab.run()
    lab.edit("parts/count.py", "total\\t", "sum\\t")

    lab.run()

    assert lab.sent() == {("count", "_cohort")}
    assert (lab.store / "cohort/count/words.tsv").read_text().endswith("sum\t12\n")


def test_an_edited_script_runs_its_step_and_what_depends_on_it(lab: Lab) -> None:
    lab.run()
    lab.edit("parts/lower.sh", "tr '[:upper:]' '[:lower:]'", "tr '[:upper:]e' '[:lower:]3'")

    lab.run()

    assert lab.sent() == ALL
    assert (lab.store / "results/lower/ann/ann.lower.txt").read_text() == "th3 words of ann\n"


def test_a_replaced_source_runs_all_steps_of_its_sample_alone(lab: Lab) -> None:
    lab.run()
    lab.text("cid", "Other words\n")

    lab.run()

    assert lab.sent() == {("lower", "cid"), ("words", "cid"), ("count", "_cohort")}
    assert (lab.store / "results/words/cid/cid.words.txt").read_text() == "other\nwords\n"


def test_samples_added_to_the_list_run_alone(lab: Lab) -> None:
    lab.run()
    lab.samples("ann", "zoe", "bob", "cid", "eve")

    lab.run()

    assert lab.sent() == {*((step, s) for step in ("lower", "words") for s in ("zoe", "eve")), ("count", "_cohort")}


def test_a_shorter_list_runs_the_gather_alone(lab: Lab) -> None:
    lab.run()
    lab.samples("ann", "cid")

    lab.run()

    assert lab.sent() == {("count", "_cohort")}


def test_an_upstream_result_made_again_is_read_again_though_nothing_changed(lab: Lab) -> None:
    lab.run()
    lab.receipt_of("lower", "ann").unlink()

    lab.run()

    assert lab.sent() == {("lower", "ann"), ("words", "ann"), ("count", "_cohort")}


def test_removed_result_files_count_when_asked_to(lab: Lab) -> None:
    lab.run()
    (lab.store / "results/words/ann/ann.words.txt").unlink()

    assert "Nothing to do" in lab.run().out
    told = "words of ann: results/words/ann/ann.words.txt was removed."
    assert told in lab.run("plan", "--check-results").out
    assert told in lab.run("--check-results").err

    assert lab.sent() == {("words", "ann"), ("count", "_cohort")}


@pytest.mark.parametrize("text", [None, "no\n", "the\nword\nof\nann\n"], ids=["removed", "shorter", "the same size"])
def test_a_result_that_was_touched_is_made_again_by_the_command_after(lab: Lab, text: str | None) -> None:
    lab.run()
    result = lab.store / "results/words/ann/ann.words.txt"
    before = result.read_text()
    result.unlink()
    if text is not None:
        result.write_text(text)
    lab.receipt_of("count", "_cohort").unlink()

    ran = lab.run(code=1)

    assert "results/words/ann/ann.words.txt is not what its receipt says" in " ".join((ran.out + ran.err).split())
    assert f"1 cell is not done: in run {lab.runs()[-1]} a result was found" in lab.run("status", code=1).err
    lab.run()
    assert lab.sent() == {("words", "ann"), ("count", "_cohort")}
    assert result.read_text() == before
    assert not list((lab.store / "retired").rglob("*.json"))


def test_code_changes_may_be_accepted(lab: Lab) -> None:
    lab.run()
    lab.edit("parts/words.py", ".split())", ".split(None))")

    ran = lab.run("--accept-code-changes", "--verbose")

    assert "Nothing to do" in ran.out
    assert not ran.calls


def test_a_gather_of_other_samples_is_not_accepted(lab: Lab) -> None:
    lab.run()
    lab.samples("ann", "bob")
    lab.run()
    assert lab.sent() == {("count", "_cohort")}
    lab.samples(*SAMPLES)

    lab.run("--accept-code-changes")

    assert lab.sent() == {("count", "_cohort")}
    assert (lab.store / "cohort/count/words.tsv").read_text() == "ann\t4\nbob\t4\ncid\t4\ntotal\t12\n"


def test_a_renamed_output_is_never_passed_on_empty(lab: Lab) -> None:
    lab.run()
    lab.edit("parts/words.py", "{sample}.words.txt", "{sample}.terms.txt")
    lab.receipt_of("count", "_cohort").unlink()

    ran = lab.run("--accept-code-changes", code=1)

    assert "words of ann has no 'ann.terms.txt', which input 'words' needs" in " ".join((ran.out + ran.err).split())
    assert not list((lab.store / "receipts/count").glob("*/*.json"))
    lab.run()
    assert lab.sent() == {*(("words", s) for s in SAMPLES), ("count", "_cohort")}


def test_from_step_runs_a_step_and_its_downstream_again_when_forced(lab: Lab) -> None:
    lab.run()

    lab.run("--from-step", "words", "--force")

    assert lab.sent() == {*(("words", s) for s in SAMPLES), ("count", "_cohort")}


def test_only_step_runs_that_step_and_blocks_nothing_else(lab: Lab) -> None:
    lab.run("--only-step", "lower")

    assert lab.sent() == {("lower", s) for s in SAMPLES}
    assert set(lab.receipts()) == {("lower", s) for s in SAMPLES}


def test_from_step_says_what_is_missing_before_it(lab: Lab) -> None:
    ran = lab.run("--from-step", "words", code=1)

    assert "needs lower" in ran.out
    assert lab.runs() == []


def test_samples_chooses_samples_and_leaves_the_gather(lab: Lab) -> None:
    lab.run("--samples", "ann,cid")

    assert lab.sent() == {(step, s) for step in ("lower", "words") for s in ("ann", "cid")}


def test_force_runs_chosen_cells_once_more(lab: Lab) -> None:
    lab.run()

    lab.run("--samples", "bob", "--force")

    assert lab.sent() == {("lower", "bob"), ("words", "bob"), ("count", "_cohort")}
    assert len(lab.runs()) == 2


def test_force_with_a_gather_that_waits_for_the_driver_ends(lab: Lab) -> None:
    """With --min-success the gather is a second wave, which must not force the first one's cells again."""
    lab.run("--force", "--min-success", "0.5")

    assert [lab.sent(run) for run in lab.runs()] == [ALL - {("count", "_cohort")}, {("count", "_cohort")}]


def test_explain_names_the_part_that_changed(lab: Lab) -> None:
    lab.run()
    assert all(part["state"] == "done" for part in lab.json("status", "--explain", "ann"))
    lab.edit("parts/words.py", ".split())", ".split(None))")
    lab.text("ann", "New words\n")

    told = {
        part["step"]: " ".join(part["changed"]) for part in lab.json("status", "--explain", "ann", "--shortest", "2")
    }

    assert "ann.txt was replaced" in told["lower"]
    assert "the step's code: parts.words.Words.run" in told["words"]
    assert "parameter shortest: 1 -> 2" in told["words"]
    assert "step lower runs again" in told["words"]


def test_an_edited_list_changes_nothing_of_what_is_submitted(lab: Lab) -> None:
    lab.run("--detach")
    lab.sample_list.write_text("zoe\n")
    lab.run("status", "--watch", code=None)

    made = json.loads((lab.store / "runs" / lab.runs()[0] / "run.json").read_text())

    assert made["samples"] == 3
    assert {cell for cell in lab.receipts() if cell[0] == "lower"} == {("lower", s) for s in SAMPLES}
