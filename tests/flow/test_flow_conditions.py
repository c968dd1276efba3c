"""Conditions: a step that some samples do not have, on the real engine."""

from __future__ import annotations

import pytest

from tests.flow.lab import Cell, Lab

pytestmark = pytest.mark.engine
SAMPLES = ("ann", "bob", "cid")


@pytest.fixture
def conditions(lab: Lab) -> Lab:
    lab.file = "conditions.py"
    for sample in SAMPLES:
        lab.text(sample, f"Words of {sample}\n")
    sheet(lab, ann="rich", bob="plain", cid="rich")
    return lab


def sheet(lab: Lab, **kinds: str) -> None:
    lab.sample_list.write_text("sample\tkind\n" + "".join(f"{name}\t{kind}\n" for name, kind in kinds.items()))


def table(lab: Lab) -> list[str]:
    return (lab.store / "cohort/kinds/kinds.tsv").read_text().splitlines()


def test_a_sample_without_a_step_reads_the_alternative_and_the_gather_lists_it(conditions: Lab) -> None:
    lab = conditions
    ran = lab.run()

    words: set[Cell] = {("words", name) for name in SAMPLES}
    assert lab.sent() == {("trim", "ann"), ("trim", "cid"), *words, ("kinds", "_cohort")}
    assert ran.calls["SubmitJob"] == 4
    assert table(lab) == [
        "ann\tWrds f nn",
        "bob\tWords bob of",
        "cid\tWrds cd f",
        "trimmed\tann",
        "trimmed\tcid",
        "excluded\tbob",
    ]
    assert "Nothing to do: 6 of 6 cells are done, 1 is excluded." in lab.run().out
    assert len(lab.runs()) == 1
    explained = lab.run("status", "--explain", "bob").out
    assert "trim: excluded by when = \"kind != 'plain' and trims\", with kind = 'plain', trims = True" in explained
    assert [step["excluded"] for step in lab.json("status")["steps"]] == [1, 0, 0]


def test_a_changed_column_runs_exactly_what_depends_on_it_and_back_again(conditions: Lab) -> None:
    lab = conditions
    lab.run()

    sheet(lab, ann="plain", bob="plain", cid="rich")
    assert [(step["to_run"], step["excluded"]) for step in lab.json("plan")["steps"]] == [(0, 2), (1, 0), (1, 0)]
    lab.run()
    assert lab.sent() == {("words", "ann"), ("kinds", "_cohort")}
    assert ("trim", "ann") in lab.receipts(), "its results stay"
    assert table(lab)[0] == "ann\tWords ann of"

    sheet(lab, ann="rich", bob="plain", cid="rich")
    lab.run()
    assert lab.sent() == {("words", "ann"), ("kinds", "_cohort")}, "the old result of trim counts again"
    assert table(lab)[0] == "ann\tWrds f nn"
