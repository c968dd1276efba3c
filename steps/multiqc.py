"""Quality of a cohort: a table out of the receipts' metrics, and a MultiQC report.

MultiQC names samples by what it finds in files: kallisto's by the first FASTQ, samtools' by the file, and it cuts both
at dozens of endings, so that samples fall together where all FASTQ files have one name, and one sample has two rows
where they are called `S_1`. So it is given copies that name the sample, with a mark that no name of a sample can have,
and cuts that alone.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, Final

from batch_pipeline import Input, Job, Output, Scope, Step
from steps.cohort_fusions import NOTHING, CohortFusions, fusion_rows

#: Metrics in the order of the steps, read pairs and shares of them in percent; others stand behind, by name.
QC_METRICS: Final = (
    "read_pairs_in_bam",
    "qc_failed_pairs",
    "dropped_pairs",
    "read_pairs",
    "processed_pairs",
    "pseudoaligned_pairs",
    "unique_pairs",
    "p_pseudoaligned",
    "p_unique",
    "mean_fragment_length",
    "strandedness",
    "fusion_rows_pair",
    "fusion_rows_split",
    "candidates",
    "kept",
    "fusions",
    "fusions_unfiltered",
    "picard_version",
    "kallisto_version",
    "pizzly_version",
    "reference_sha256",
)
#: Behind the name of a sample in what MultiQC reads.
_MARK: Final = "~sample"
_FIRST_READS: Final = re.compile(r"(\[quant\] will process (?:pair|file) 1:).*")
#: Fusions in the report's table; fusion_matrix.tsv has all.
_MOST_FUSIONS: Final = 200
CONFIG_FILE: Final = ".multiqc_config.json"
OPTIONS: Final = ("--no-data-dir", "--no-ai", "--no-ansi", "--force")
#: Samples that a sentence names.
_MOST_NAMED: Final = 5
_CONFIG: Final = {
    "title": "Gene fusions",
    "fn_clean_exts": [{"type": "regex", "pattern": f"{_MARK}$"}],
    "fn_clean_trim": [],
    "no_version_check": True,
    "intro_text": False,
    "show_analysis_paths": False,
    # Others would look into every file.
    "run_modules": ["custom_content", "kallisto", "samtools"],
    "module_order": ["custom_content", "kallisto", "samtools"],
    "custom_content": {"order": ["gene_fusions", "cohort_qc"]},
}
#: MultiQC counts reads in millions, which of a small cohort are all 0.0.
_MILLION: Final = 1_000_000
_THOUSANDS: Final = {"read_count_multiplier": 0.001, "read_count_prefix": "K", "read_count_desc": "thousands"}
#: Samples of a fusion that the report names; fusion_matrix.tsv has all.
_MOST_NAMES: Final = 5


class MultiQC(Step):
    """Reports the quality of all samples (MultiQC)."""

    scope = Scope.COHORT
    tolerant = True
    memory_mb = 2048

    tables = Input("Each sample's fusions.tsv.")
    logs = Input("Each sample's log of kallisto.")
    flagstats = Input("Each sample's samtools flagstat.")
    qc = Output("qc.tsv", help="One row a sample: reads, shares and fusions, as its steps counted them.")
    report = Output("multiqc_report.html")

    def run(self, job: Job) -> None:
        """Writes the table, then MultiQC's inputs and configuration, then its report."""
        samples = list(job.gathered("tables"))
        metrics = {sample: _metrics(job, sample) for sample in samples}
        columns = _columns(metrics.values())
        with job.output("qc").open("w", encoding="utf-8") as table:
            table.writelines(_qc_lines(metrics, columns, job.missing_samples))
        folder = job.work / ".multiqc"
        folder.mkdir()
        _write_logs(job, folder)
        _write_sections(job, folder, metrics, columns)
        config = job.work / CONFIG_FILE
        warning = strandedness_warning(metrics)
        if warning:
            print(warning)
            job.note(warning=warning)
        config.write_text(json.dumps(_config(metrics, job.missing_samples, warning)), encoding="utf-8")
        report = job.output("report")
        output = job.run(
            *(sys.executable, "-m", "multiqc", folder, "--config", config, "--filename", report.name),
            *OPTIONS,
            name="multiqc",
            environment={"HOME": str(job.work)},
        )
        if version := output.find(r"MultiQC\W+v(\d\S*)"):
            job.version("multiqc", version[1])
        job.note(samples=len(samples), missing_samples=len(job.missing_samples))


def _metrics(job: Job, sample: str) -> dict[str, Any]:
    """What the steps of a sample noted; of a metric of two steps the later one's, of warnings all."""
    notes = [of_step.get(sample, {}) for of_step in job.gathered_metrics.values()]
    metrics = {name: value for note in notes for name, value in note.items() if isinstance(value, (str, int, float))}
    if warnings := [note["warning"] for note in notes if "warning" in note]:
        metrics["warning"] = " ".join(warnings)
    return metrics


def strandedness_warning(metrics: Mapping[str, Mapping[str, Any]]) -> str:
    """A sentence where samples whose strandedness was decided by their reads (auto) differ in it; else empty."""
    samples: dict[str, list[str]] = {}
    for sample, values in metrics.items():
        if "forward_pairs" in values and "strandedness" in values:
            samples.setdefault(values["strandedness"], []).append(sample)
    if len(samples) < 2:
        return ""
    ranked = sorted(samples.items(), key=lambda item: (len(item[1]), item[0]))
    counts = ", ".join(f"{strand} {len(names):,} ({_named(names)})" for strand, names in ranked)
    return (
        f"Strandedness auto decided differently within the cohort: {counts}. Libraries of one protocol have one, and"
        " counts of different ones cannot be compared; look at forward_pairs and reverse_pairs in qc.tsv, and say which"
        " it is, as --strandedness or in the sheet's column strandedness."
    )


def _named(samples: Sequence[str]) -> str:
    more = len(samples) - _MOST_NAMED
    return ", ".join(samples[:_MOST_NAMED]) + (f" and {more:,} more" if more > 0 else "")


def _columns(metrics: Iterable[Mapping[str, Any]]) -> list[str]:
    names = {name for of_sample in metrics for name in of_sample}
    return [*QC_METRICS, *sorted(names - set(QC_METRICS))]


def _qc_lines(
    metrics: Mapping[str, Mapping[str, Any]], columns: Sequence[str], missing: Sequence[str]
) -> Iterator[str]:
    yield "\t".join(["sample", "status", *columns]) + "\n"
    for sample, values in metrics.items():
        yield "\t".join([sample, "done", *(str(values.get(name, NOTHING)) for name in columns)]) + "\n"
    for sample in missing:
        yield "\t".join([sample, "missing", *(NOTHING for _ in columns)]) + "\n"


def _config(metrics: Mapping[str, Mapping[str, Any]], missing: Sequence[str], warning: str) -> dict[str, Any]:
    """MultiQC's configuration: the unit of the counts by the largest sample, and a comment on the cohort's samples."""
    comment = f"{len(metrics)} samples."
    if missing:
        comment += f" Without results, and left out: {', '.join(missing)}."
    if warning:
        comment += f" {warning}"
    most = max((values.get("processed_pairs", 0) for values in metrics.values()), default=0)
    return _CONFIG | {"report_comment": escape(comment)} | (_THOUSANDS if most < _MILLION else {})


def _write_logs(job: Job, folder: Path) -> None:
    """Copies of the tools' texts that name the sample where MultiQC looks for it."""
    for port, name in (("logs", "kallisto"), ("flagstats", "flagstat")):
        (folder / name).mkdir()
        for sample, files in job.gathered(port).items():
            text = files[0].read_text(encoding="utf-8", errors="replace")
            text = _FIRST_READS.sub(rf"\1 {sample}{_MARK}", text)
            (folder / name / f"{sample}{_MARK}").write_text(text, encoding="utf-8")


def _write_sections(job: Job, folder: Path, metrics: Mapping[str, Mapping[str, Any]], columns: Sequence[str]) -> None:
    """Sections of our own: fusions a sample beside the tools' numbers, fusions of the cohort, and the table of QC."""
    cohort = CohortFusions()
    for sample, files in job.gathered("tables").items():
        cohort.add(sample, fusion_rows(files[0], sample)[1])
    counts = dict.fromkeys(cohort.samples, 0)
    for support in cohort.support.values():
        for sample in support:
            counts[sample] += 1
    fusions: dict[str, dict[str, Any]] = {}
    for pair in cohort.ranked()[:_MOST_FUSIONS]:
        support = cohort.support[pair]
        name = pair.name if escape(pair.name) not in fusions else f"{pair.name} ({pair.gene_a_id}, {pair.gene_b_id})"
        named = ", ".join(list(support)[:_MOST_NAMES]) + (", …" if len(support) > _MOST_NAMES else "")
        # MultiQC writes names into its page as they are.
        fusions[escape(name)] = {"samples": len(support), "most_reads": max(support.values()), "in": named}
    headers = {
        "fusions": {"title": "Fusions", "description": "Gene fusions (pizzly)", "format": "{:,.0f}", "scale": "Blues"}
    }
    sections = {
        "fusions_by_sample": {
            "id": "fusions_by_sample",
            "plot_type": "generalstats",
            "headers": headers,
            "data": {sample: {"fusions": count} for sample, count in counts.items()},
        },
        "gene_fusions": _table("gene_fusions", "Gene fusions", "Those of most samples first.", "Fusion", fusions),
        "cohort_qc": _table("cohort_qc", "Read counts", "What each step counted.", "Sample", _rows(metrics, columns)),
    }
    for name, section in sections.items():
        if section["data"]:
            (folder / f"{name}_mqc.json").write_text(json.dumps(section), encoding="utf-8")


def _rows(metrics: Mapping[str, Mapping[str, Any]], columns: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The metrics of each sample in the order of the columns."""
    return {sample: {name: of[name] for name in columns if name in of} for sample, of in metrics.items()}


def _table(
    name: str, title: str, description: str, first: str, data: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """A section with a table: rows and columns in their order, whole numbers with their thousands."""
    values = {column: value for row in data.values() for column, value in row.items()}
    whole = {"format": "{:,.0f}"}
    return {
        "id": name,
        "section_name": title,
        "description": description,
        "plot_type": "table",
        "pconfig": {"id": f"{name}_table", "title": f"Cohort: {title}", "col1_header": first, "sort_rows": False},
        "headers": {column: whole if isinstance(value, int) else {} for column, value in values.items()},
        "data": data,
    }
