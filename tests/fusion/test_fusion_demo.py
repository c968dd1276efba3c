"""The demonstration as its user gives it: exactly the known fusions, and a non-zero exit when they are not."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from batch_pipeline.demo.real import GOLDEN_FUSIONS, SAMPLE
from batch_pipeline.demo.truth import Fusion, read_truth, write_truth
from tests.fusion.prompt import Prompt, Said
from tests.luigi.test_luigi_page import artefacts

pytestmark = [pytest.mark.engine, pytest.mark.tools, pytest.mark.xdist_group("fusion")]

SIMULATED = ("sim01", "sim02", "sim03", "sim04")


@dataclass(frozen=True, kw_only=True)
class Demo:
    """A demonstration in its folder, and what its first run said."""

    prompt: Prompt
    folder: Path
    first: Said

    def again(self, *words: str, code: int = 0) -> Said:
        return give(self.prompt, self.folder, *words, code=code)

    @property
    def truth(self) -> list[Fusion]:
        return read_truth(self.folder / "cohort" / "truth.tsv")

    def result(self, sample: str, ending: str = "json") -> Path:
        return self.folder / "store" / "results" / "pizzly" / sample / f"{sample}.{ending}"

    @contextmanager
    def changed(self, path: Path, change: Callable[[str], str | None]) -> Iterator[None]:
        """A file is another one for a while, or, for None, not there."""
        text = path.read_text()
        other = change(text)
        assert other != text
        path.unlink()
        if other is not None:
            path.write_text(other)
        try:
            yield
        finally:
            path.write_text(text)

    @contextmanager
    def believing(self, truth: list[Fusion]) -> Iterator[None]:
        """The demonstration takes this for the truth for a while."""
        path = self.folder / "cohort" / "truth.tsv"
        text = path.read_text()
        write_truth(path, truth)
        try:
            yield
        finally:
            path.write_text(text)


def give(prompt: Prompt, folder: Path, *words: str, code: int) -> Said:
    return prompt("demo", "--folder", str(folder), "--simulated", str(len(SIMULATED)), *words, code=code)


@pytest.fixture(scope="module")
def demo(prompt: Prompt) -> Demo:
    folder = prompt.folder / "demo"
    return Demo(prompt=prompt, folder=folder, first=give(prompt, folder, "--verbose", code=0))


@pytest.fixture
def real(demo: Demo) -> Demo:
    """The demonstration with the real sample. Skips when the source package that holds it is out of reach."""
    made = json.loads((demo.folder / "cohort" / "cohort.json").read_text())
    if SAMPLE not in made["sizes"]:
        pytest.skip(made["notes"][0])
    return demo


def test_its_report_shows_every_step_and_is_kept_as_an_artefact(demo: Demo) -> None:
    file = (artefacts() / "report-demo.html").resolve()
    demo.prompt("report", "--store", str(demo.folder / "store"), "-o", str(file), code=0)
    page = file.read_text()
    assert all(f'<th scope="row">{step}</th>' in page for step in ("picard", "kallisto", "pizzly", "cohort"))
    assert 'id="heat"' in page


def test_every_known_fusion_is_found_and_no_other_at_its_exact_breakpoint(demo: Demo) -> None:
    told = demo.again("--json").json

    assert told["perfect"] is True
    by_sample = {sample["sample"]: sample for sample in told["samples"]}
    assert set(SIMULATED) <= set(by_sample)
    for sample, score in by_sample.items():
        known = [fusion for fusion in demo.truth if fusion.sample == sample]
        assert sorted(score["found"]) == sorted(fusion.name for fusion in known)
        assert (score["missed"], score["extra"], score["problem"]) == ([], [], "")
        assert score["exact"] == score["judged"] == sum(bool(fusion.transcript_a) for fusion in known)
    assert [by_sample[negative]["found"] for negative in SIMULATED[:2]] == [[], []]
    assert sum(by_sample[sample]["exact"] for sample in SIMULATED[2:]) >= 2


def test_negatives_leave_an_empty_table_with_its_header(demo: Demo) -> None:
    for negative in SIMULATED[:2]:
        [header] = demo.result(negative, "fusions.tsv").read_text().splitlines()
        assert header.startswith("sample\tgene_a\tgene_b\t")


def test_the_nine_known_fusions_of_the_real_sample_are_found_with_their_counts(real: Demo) -> None:
    with real.result(SAMPLE, "fusions.tsv").open() as lines:
        rows = list(csv.DictReader(lines, delimiter="\t"))
    assert {(row["gene_a"], row["gene_b"]): (int(row["pairs"]), int(row["splits"])) for row in rows} == GOLDEN_FUSIONS
    assert len(rows) == 9


def test_the_cohort_has_tables_a_page_and_a_report_that_name_every_sample(demo: Demo) -> None:
    folder = demo.folder / "store" / "cohort"
    header, *rows = [line.split("\t") for line in (folder / "cohort" / "fusions.tsv").read_text().splitlines()]
    samples = list(dict.fromkeys(row[0] for row in rows))
    assert samples[-len(SIMULATED) :] == list(SIMULATED)
    assert set(samples) == {sample["sample"] for sample in demo.again("--json").json["samples"]}
    place = header.index("breakpoint_a")
    assert {row[0] for row in rows if row[place] == "."} == set(SIMULATED[:2])
    assert len(rows) - 2 == len(demo.truth)
    matrix = (folder / "cohort" / "fusion_matrix.tsv").read_text().splitlines()[0].split("\t")
    assert matrix[-len(samples) :] == samples
    quality = [line.split("\t") for line in (folder / "multiqc" / "qc.tsv").read_text().splitlines()]
    assert [row[:2] for row in quality[1:]] == [[sample, "done"] for sample in samples]
    for file in ("cohort/fusions.html", "cohort/gene_counts.tsv.gz", "multiqc/multiqc_report.html"):
        assert (folder / file).stat().st_size > 0
        assert str(folder / file) in demo.first.out
    report = (folder / "multiqc" / "multiqc_report.html").read_text()
    assert all(f'<span class="th-sample-name" data-original-sn="{sample}">' in report for sample in samples)


def test_what_it_says_at_its_end(demo: Demo) -> None:
    fusions = len(demo.truth)
    assert f"{fusions} of {fusions} fusions found, 0 not true" in demo.first.out
    assert "2 of 2 samples without fusions empty." in demo.first.out
    for sample in SIMULATED:
        assert f"{sample}: {demo.result(sample, 'fusions.tsv')}" in demo.first.out
        assert demo.result(sample, "fusions.tsv").is_file()
    for place in ("results", "logs"):
        assert str(demo.folder / "store" / place) in demo.first.out


def test_it_prints_where_on_the_genome_each_fusion_lies(demo: Demo) -> None:
    printed = [line.split() for line in demo.first.out.splitlines()]
    assert ["sample", "gene_a", "gene_b", "breakpoint_a", "breakpoint_b", "pairs", "splits", "frame"] in printed
    with (demo.folder / "store" / "cohort" / "cohort" / "fusions.tsv").open() as lines:
        rows = [row for row in csv.DictReader(lines, delimiter="\t") if row["breakpoint_a"] != "."]
    assert len(rows) == len(demo.truth)
    for row in rows:
        names = ("sample", "gene_a", "gene_b", "breakpoint_a", "breakpoint_b", "pairs", "splits", "frame")
        assert [row[name] for name in names] in printed


def test_one_job_a_step_and_nothing_the_second_time(demo: Demo) -> None:
    submitted = [line for line in demo.first.err.splitlines() if line.startswith("Submitted ")]
    assert [line.split()[1] for line in submitted] == [
        *("reference-0-0:", "picard-0-0:", "kallisto-0-0:", "pizzly-0-0:"),
        *("cohort:", "multiqc:"),
    ]
    runs = sorted((demo.folder / "store" / "runs").iterdir())

    again = demo.again("--verbose")

    assert "Submitted" not in again.err
    assert again.store_calls <= 12
    assert sorted((demo.folder / "store" / "runs").iterdir()) == runs


def test_a_fusion_that_is_missed_ends_it_with_1(demo: Demo) -> None:
    one = demo.truth[0]
    unheard = Fusion(sample="sim01", gene_a="NOTHERE", gene_a_id="G1.1", gene_b=one.gene_b, gene_b_id=one.gene_b_id)

    with demo.believing([*demo.truth, unheard]):
        said = demo.again(code=1)

    assert f"NOTHERE-{one.gene_b}" in said.words
    assert f"{len(demo.truth)} of {len(demo.truth) + 1} fusions found" in said.words


def test_a_fusion_that_is_not_true_ends_it_with_1(demo: Demo) -> None:
    with demo.believing(demo.truth[1:]):
        said = demo.again("--json", code=1).json

    assert [sample["extra"] for sample in said["samples"] if sample["extra"]] == [[demo.truth[0].name]]
    assert said["perfect"] is False


def test_a_breakpoint_that_is_off_by_one_ends_it_with_1(demo: Demo) -> None:
    first, *others = demo.truth
    assert first.position_a
    moved = Fusion(**{**vars(first), "position_a": first.position_a + 1})

    with demo.believing([moved, *others]):
        said = demo.again(code=1)

    assert "0 of 1" in said.words or "1 of 2" in said.words


@pytest.mark.parametrize(
    ("change", "problem"), [(lambda text: None, "no result"), (lambda text: text[:-40], "unreadable result")]
)
def test_a_result_that_is_gone_or_torn_ends_it_with_1(
    demo: Demo, change: Callable[[str], str | None], problem: str
) -> None:
    with demo.changed(demo.result("sim01"), change):
        assert problem in demo.again(code=1).words


def test_other_verbs_find_what_it_made_by_its_settings_file(demo: Demo) -> None:
    config = ("--config", str(demo.folder / "demo.toml"))
    assert "done by run" in demo.prompt("status", *config, "--explain", "sim03").out
    assert "Number of kept records" in demo.prompt("logs", "sim03", "pizzly", *config).out
    assert f"main.py status --config {demo.folder / 'demo.toml'}" in demo.first.out
