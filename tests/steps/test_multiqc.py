"""The quality of a cohort: one row a sample in the table and in each part of MultiQC's report, whatever its name."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from batch_pipeline import Job
from batch_pipeline.demo.alone import make_job
from steps.multiqc import CONFIG_FILE, OPTIONS, QC_METRICS, MultiQC, strandedness_warning
from tests.steps.lab import Lab
from tests.steps.test_cohort import write_fusions

#: MultiQC cuts such names at what it takes for endings, falls over files of such names, or takes two for one.
NAMES = ("S", "S_1", "S.fastq", "x_val_1", "B+2@c=d.bam", "C.flagstat.txt", "1.kallisto.log")
#: Fusions of all samples but the first, with a gene's name that would be an element of the page.
FUSIONS = {"A--B": (1, 2), "<img src=x>--E&F": (1, 1)}


@pytest.fixture(scope="module")
def job(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Job:
    """The report of samples with awkward names, all with the logs of a real one."""
    folder = tmp_path_factory.mktemp("multiqc")
    job = make_job(MultiQC(), folder / "work", "_cohort", inputs={})
    tables = {name: write_fusions(folder / f"{name}.tsv", name, FUSIONS if i else {}) for i, name in enumerate(NAMES)}
    job.gathered_files = {
        "tables": {name: (path,) for name, path in tables.items()},
        "logs": dict.fromkeys(NAMES, (lab.kallisto.output("log"),)),
        "flagstats": dict.fromkeys(NAMES, (lab.picard.output("flagstat"),)),
    }
    quantified = {**lab.kallisto.metrics, "lanes": [1, 2], "added_later": "yes"}
    job.gathered_metrics = {
        "picard": dict.fromkeys(NAMES, lab.picard.metrics),
        "kallisto": {
            name: {**quantified, "strandedness": "none" if i else "rf", "forward_pairs": i, "warning": "few pairs fit"}
            for i, name in enumerate(NAMES)
        },
        "pizzly": {
            name: {"fusions": 1} if i else {"fusions": 0, "warning": "few genes"} for i, name in enumerate(NAMES)
        },
    }
    job.missing_samples = ("lost",)
    MultiQC().run(job)
    return job


def names_in(report: str, table: str) -> list[str]:
    """The samples that have a row in one of the report's tables."""
    match = re.search(rf'<table[^>]*id="{table}_table".*?</table>', report, re.DOTALL)
    assert match is not None, table
    return re.findall(r'<span class="th-sample-name"[^>]*>([^<]*)<', match[0])


@pytest.mark.tools
def test_the_qc_table_has_a_row_a_sample_and_those_that_failed(job: Job, lab: Lab) -> None:
    header, *rows = [line.split("\t") for line in job.output("qc").read_text().splitlines()]
    assert tuple(header[: 2 + len(QC_METRICS)]) == ("sample", "status", *QC_METRICS)
    assert "added_later" in header
    assert "lanes" not in header
    assert [row[:2] for row in rows] == [*([name, "done"] for name in NAMES), ["lost", "missing"]]
    first = dict(zip(header, rows[0], strict=True))
    assert first["read_pairs_in_bam"] == str(lab.picard.metrics["read_pairs_in_bam"])
    assert first["p_pseudoaligned"] == str(lab.kallisto.metrics["p_pseudoaligned"])
    assert first["fusions"] == "0"
    assert set(rows[-1][2:]) == {"."}


def test_samples_whose_strandedness_auto_decided_differently_are_warned_of() -> None:
    def decided(strand: str) -> dict[str, object]:
        return {"strandedness": strand, "forward_pairs": 1, "reverse_pairs": 9}

    metrics = {f"S{number}": decided("rf") for number in range(1, 8)}
    # Whoever names a strandedness knows it.
    metrics["given"] = {"strandedness": "fr"}
    assert strandedness_warning(metrics) == ""
    warning = strandedness_warning(metrics | {"odd": decided("none")})
    assert "differently within the cohort: none 1 (odd), rf 7 (S1, S2, S3, S4, S5 and 2 more)." in warning
    assert "--strandedness" in warning


@pytest.mark.tools
def test_strandedness_warnings_versions_and_reference_are_in_the_table_and_the_report(job: Job, lab: Lab) -> None:
    header, first, second, *_ = (line.split("\t") for line in job.output("qc").read_text().splitlines())
    rows = [dict(zip(header, row, strict=True)) for row in (first, second)]
    assert [row["strandedness"] for row in rows] == ["rf", "none"]
    assert [row["warning"] for row in rows] == ["few pairs fit few genes", "few pairs fit"]
    assert first[header.index("kallisto_version")] == lab.kallisto.versions["kallisto"]
    assert first[header.index("picard_version")] == lab.picard.versions["picard"]
    assert len(first[header.index("reference_sha256")]) == 64
    assert "rf 1 (S)" in job.metrics["warning"]
    assert "rf 1 (S)" in job.output("report").read_text()


@pytest.mark.tools
def test_each_sample_has_one_row_in_the_report_whatever_its_name(job: Job) -> None:
    report = job.output("report").read_text()
    for table in ("general_stats_table", "cohort_qc_table", "samtools-flagstat-table"):
        assert sorted(names_in(report, table)) == sorted(NAMES), table
    assert sorted(names_in(report, "gene_fusions_table")) == ["&lt;img src=x&gt;--E&amp;F", "A--B"]
    assert "<img src=x>" not in report


@pytest.mark.tools
def test_the_report_has_rows_and_columns_in_their_order_and_names_who_is_missing(job: Job) -> None:
    report = job.output("report").read_text()
    assert names_in(report, "cohort_qc_table") == list(NAMES), "the order of the list"
    places = [report.index(f'class="{name}"') for name in QC_METRICS[:9]]
    assert places == sorted(places)
    assert f"{len(NAMES)} samples. Without results, and left out: lost." in report
    assert "K Aligned" in report, "a small cohort's reads are not 0.0 millions"
    assert str(job.work) not in report, "no path of a scratch folder"


@pytest.mark.tools
def test_the_report_needs_none_of_the_packages_that_the_lock_leaves_out(job: Job, tmp_path: Path) -> None:
    modules = ("kaleido", "pyarrow", "_polars_runtime_compat", "tiktoken", "regex")
    (tmp_path / "sitecustomize.py").write_text(f"import sys\nsys.modules.update(dict.fromkeys({modules}))\n")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "HOME": str(tmp_path)}
    command = (sys.executable, "-m", "multiqc", str(job.work / ".multiqc"), "--config", str(job.work / CONFIG_FILE))
    done = subprocess.run(
        [*command, "--filename", "report.html", *OPTIONS],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    report = (tmp_path / "report.html").read_text()
    assert sorted(names_in(report, "general_stats_table")) == sorted(NAMES)


@pytest.mark.tools
def test_the_report_loads_no_script_nor_style_from_the_network(job: Job) -> None:
    report = job.output("report").read_text()
    assert not re.search(r'<(script|link)[^>]*(src|href)="https?://', report)
    assert job.versions["multiqc"].startswith("1.")
