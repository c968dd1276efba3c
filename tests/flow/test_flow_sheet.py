"""A sheet in the shape of nf-core's: files beside it, lanes, columns; what a changed value runs again."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.flow.lab import Lab, made_by

pytestmark = pytest.mark.engine

#: The samples of nf-core/rnaseq's test profile: two lanes, two ends, one end, two lanes of one end.
ROWS = (
    "sample,fastq_1,fastq_2,strandedness",
    "WT_REP1,fastq/SRR6357070_1.fastq,fastq/SRR6357070_2.fastq,auto",
    "WT_REP1,fastq/SRR6357071_1.fastq,fastq/SRR6357071_2.fastq,auto",
    "WT_REP2,fastq/SRR6357072_1.fastq,fastq/SRR6357072_2.fastq,reverse",
    "RAP1_UNINDUCED_REP1,fastq/'odd' $(x) #1?/SRR6357073_1.fastq,,reverse",
    "RAP1_UNINDUCED_REP2,fastq/SRR6357074_1.fastq,,reverse",
    "RAP1_UNINDUCED_REP2,fastq/SRR6357075_1.fastq,,reverse",
)


class SheetLab(Lab):
    """A lab whose commands name the sheet and no sources."""

    def arguments(self, *words: str) -> list[str]:
        verb = [words[0]] if words and not words[0].startswith("-") else []
        options = ["--store", str(self.store), "--sample-list-file", str(self.sheet)]
        return [*verb, *options, *words[len(verb) :]]

    @property
    def sheet(self) -> Path:
        return self.folder / "sheets" / "samplesheet.csv"

    def write(self, *rows: str) -> None:
        self.sheet.write_text("\n".join(rows) + "\n")


@pytest.fixture
def lab(engine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> SheetLab:
    made = SheetLab(folder=tmp_path, state=engine, capture=capsys, file="strands.py")
    made.set_up()
    made_by(made, monkeypatch)
    (made.sheet.parent / "fastq").mkdir(parents=True)
    for row in ROWS[1:]:
        for name in filter(None, row.split(",")[1:3]):
            (made.sheet.parent / name).parent.mkdir(exist_ok=True)
            (made.sheet.parent / name).write_text(f"{Path(name).stem}\n")
    made.write(*ROWS)
    return made


def counts(lab: Lab, sample: str) -> list[str]:
    return (lab.store / f"results/quantify/{sample}/{sample}.txt").read_text().split()


def test_a_sheet_of_nf_core_is_read_as_it_is_and_a_changed_value_runs_again_what_reads_it(lab: SheetLab) -> None:
    lab.run()

    ends = ["SRR6357070_1", "SRR6357070_2", "SRR6357071_1", "SRR6357071_2"]
    assert counts(lab, "WT_REP1") == ["auto", "11", *ends]
    assert counts(lab, "RAP1_UNINDUCED_REP1") == ["reverse", "11", "SRR6357073_1"]
    assert counts(lab, "RAP1_UNINDUCED_REP2") == ["reverse", "11", "SRR6357074_1", "SRR6357075_1"]
    names = ["WT_REP1", "WT_REP2", "RAP1_UNINDUCED_REP1", "RAP1_UNINDUCED_REP2"]
    table = (lab.store / "cohort/table/table.txt").read_text()
    assert table.split()[:8] == [*names, "auto", "reverse", "reverse", "reverse"]

    lab.write(ROWS[0], *ROWS[1:3], ROWS[3].replace("reverse", "forward"), *ROWS[4:])
    explained = lab.run("status", "--explain", "WT_REP2").out
    assert "column strand: reverse -> forward" in explained
    assert "column strand of WT_REP2: reverse -> forward" in explained
    lab.run()

    assert lab.sent() == {("quantify", "WT_REP2"), ("table", "_cohort")}
    assert counts(lab, "WT_REP2")[0] == "forward"


def test_a_file_is_the_same_however_its_path_is_written(lab: SheetLab) -> None:
    lab.run()
    runs = lab.runs()

    lab.write(*(row.replace("fastq/", "../sheets/./fastq/") for row in ROWS[:4]), *ROWS[4:])
    lab.run()
    assert lab.runs() == runs

    lab.write(ROWS[0], ROWS[3].replace("fastq/", "./nowhere/"))
    assert "nor in the folder of the sheet (column 'fastq_1', line 2 of" in lab.run("plan", code=1).out


def test_what_no_step_declares_changes_nothing_and_a_lane_more_runs_its_sample_again(lab: SheetLab) -> None:
    lab.run()
    runs = lab.runs()

    lab.write(f"{ROWS[0]},note", *(f"{row},note {number}" for number, row in enumerate(ROWS[1:])))
    lab.run()
    assert lab.runs() == runs

    lab.write(*ROWS, "RAP1_UNINDUCED_REP1,fastq/SRR6357070_1.fastq,,reverse")
    assert "files of reads: 1 -> 2" in lab.run("status", "--explain", "RAP1_UNINDUCED_REP1").out
    lab.run()
    rerun = {("join", "RAP1_UNINDUCED_REP1"), ("quantify", "RAP1_UNINDUCED_REP1"), ("table", "_cohort")}
    assert lab.sent() == rerun


def test_problems_of_a_sheet_are_shown_before_anything_is_sent(lab: SheetLab) -> None:
    lab.write(ROWS[0], ROWS[1].replace("auto", "sense"), ROWS[3], ROWS[4].replace("reverse", ""))
    shown = lab.run(code=2).err
    assert (
        f"Sample 'WT_REP1' (line 2 of {lab.sheet}), column 'strandedness': strand must be one of auto, forward" in shown
    )
    assert f"Sample 'RAP1_UNINDUCED_REP1' (line 4 of {lab.sheet}), column 'strandedness': it is empty" in shown
    assert lab.runs() == []
