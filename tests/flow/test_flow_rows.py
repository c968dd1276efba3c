"""Steps of parts and groups on the real engine: `letters/members.py`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.flow.lab import Lab, made_by

pytestmark = pytest.mark.engine

SHEET = (
    "sample,patient,status,age,lanes",
    "a1,ada,tumour,5,L1 L2",
    "a2,ada,normal,5,L1",
    "b1,ben,tumour,7,L3",
)


@pytest.fixture
def lab(engine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Lab:
    made = Lab(folder=tmp_path, state=engine, capture=capsys, file="members.py")
    made.set_up()
    made.samples("a1", "a2", "b1")
    made_by(made, monkeypatch)
    made.sample_list.write_text("\n".join(SHEET) + "\n")
    return made


def text(lab: Lab, key: str) -> str:
    return (lab.store / key).read_text()


@pytest.mark.parametrize("most_calls", ["200", "1"])
def test_parts_groups_and_what_reads_them_run_as_declared(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, most_calls: str
) -> None:
    monkeypatch.setenv("BATCH_PIPELINE__BACKEND__MOST_CALLS", most_calls)
    lab.run()
    assert text(lab, "results/part/a1@b_1/a1@b_1.part") == "a1 b:1\n"
    assert text(lab, "results/join/a1/a1.txt").splitlines() == ["a1 a", "a1 b:1", "a1 L1", "a1 L2"]
    assert text(lab, "results/pair/ada/ada.txt") == "ada: a1 - a2 5 5\n"
    assert text(lab, "results/pair/ben/ben.txt") == "ben: b1 - 7\n"
    assert text(lab, "results/share/a2/a2.txt") == "a2\nada: a1 - a2 5 5\n"
    assert text(lab, "cohort/all/all.txt") == "ada: a1 - a2 5 5\nben: b1 - 7\n"
    assert "Nothing to do: 22 of 22 cells are done." in lab.run().out
    assert "as the receipts say" in lab.run("verify", "--all").out


def test_a_failed_part_stops_its_own_patient_and_the_gather_alone(lab: Lab) -> None:
    lab.text("a1", "fail b:1\n")
    lab.run(code=1)
    assert (lab.store / "results/share/b1/b1.txt").exists()
    assert (lab.store / "results/join/a2/a2.txt").exists()
    assert (lab.store / "results/part/a1@a").exists()
    assert not (lab.store / "results/join/a1").exists()
    assert "as it was told" in lab.run("logs", "a1@b_1", "part").out
    told = lab.run("status", "--explain", "a1", code=None).out
    assert "part of a1@a: done by run" in told
    assert "part of a1@b_1: to run: never done; it failed in run" in told
    lab.text("a1", "better\n")
    lab.run()
    assert text(lab, "cohort/all/all.txt") == "ada: a1 - a2 5 5\nben: b1 - 7\n"


def test_a_changed_list_of_parts_or_value_runs_again_what_it_changes_and_no_more(lab: Lab) -> None:
    lab.run()
    lab.edit("members.py", 'part_names = ("a", "b:1")', 'part_names = ("a", "b:1", "c")')
    plan = lab.json("plan", "--json")
    parts = {name for job in plan["jobs"] if job["step"] == "part" for name in job["samples"]}
    assert parts == {"a1@c", "a2@c", "b1@c"}
    lab.edit("members.py", 'part_names = ("a", "b:1", "c")', 'part_names = ("a", "b:1")')
    lab.sample_list.write_text("\n".join(SHEET).replace("ben,tumour,7", "ben,tumour,8") + "\n")
    plan = lab.json("plan", "--json")
    cells = {(job["step"], *job["samples"]) for job in plan["jobs"]}
    assert cells == {("pair", "ben"), ("share", "b1"), ("all", "_cohort")}


def test_a_sheet_that_lacks_a_role_or_group_is_refused(lab: Lab) -> None:
    lab.sample_list.write_text("\n".join(SHEET).replace("ben,tumour", "ben,normal") + "\n")
    assert "Group 'ben' of" in lab.run("plan", code=None).err
    lab.sample_list.write_text("\n".join(SHEET).replace("b1,ben", "b1,") + "\n")
    assert "has nothing in the column 'patient'" in lab.run("plan", code=None).err
