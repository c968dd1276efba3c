"""Quantification and fusion candidates with kallisto.

kallisto ends with exit code 0 when a file of reads is cut off or single-end, and leaves NaN when no read fits at all.
One thread: with two, the lines of fusion.txt come in another order at each run. Samples are what runs side by side.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from batch_pipeline import Column, Input, InvalidOutput, Job, MissingInput, Output, Param, Reference, Step, ToolOutput
from steps.candidates import count_candidates
from steps.fastq import count_pairs
from steps.published import FileOf, Published, transcript_ids
from steps.sheet import library_strand
from steps.strandedness import STRANDS, pseudoaligned, strand_of

_ABUNDANCE_HEADER: Final = "target_id\tlength\teff_length\test_counts\ttpm"
#: Percent of the pairs below which a stranded quantification is compared with one without strand.
_FEW_PERCENT: Final = 70.0
#: How many times as many pairs must fit without strand for the strandedness to be in doubt.
_DOUBTFUL: Final = 1.3


class Kallisto(Step):
    """Quantifies transcripts and lists fusion candidates (kallisto quant --fusion)."""

    tools = ("kallisto",)
    memory_mb = 6144

    reads = Input("R1 and R2, or several such pairs (lanes), one after the other.")
    index = Reference("kallisto.idx")
    transcripts = Reference("transcripts.tsv")
    published = Reference("reference.json")
    abundance = Output("abundance.tsv")
    run_info = Output("run_info.json", help="Reads that kallisto counted, and its version.")
    fusion = Output("fusion.txt", help="Read pairs that fit no single transcript; pizzly's input.")
    log = Output("{sample}.kallisto.log", help="kallisto's talk; MultiQC reads it.")
    bootstraps_h5 = Output("abundance.h5", optional=True, help="Only from a kallisto that was built with HDF5.")

    bootstraps: int = Param(30, minimum=0, help="Bootstrap samples; a kallisto without HDF5 makes none and says so.")
    strandedness: str = Param(
        "rf",
        choices=(*STRANDS, "auto"),
        help="The library's: rf (first read antisense), fr, none, or auto: by each sample's first pairs. The sheet's"
        " column strandedness goes before it. Fusions do not depend on it.",
    )
    library: str = Column("strandedness", default="", convert=library_strand)

    def run(self, job: Job) -> None:
        """Checks reads and index, then quantifies into the working directory."""
        published = Published.read(job.reference("published"))
        index = published.require(job.reference("index"), "kallisto.idx")
        published.require(job.reference("transcripts"), "transcripts.tsv", content=True)
        reads = job.inputs("reads")
        job.note(read_pairs=_pairs(job, reads))
        strand = self.library or self.strandedness
        if strand == "auto":
            strand = _first_strand(job, index, reads)
        job.note(strandedness=strand)
        output = job.run(
            "kallisto",
            "quant",
            *("-i", index, "-o", job.work, "--fusion", "-t", 1, "-b", self.bootstraps),
            *STRANDS[strand],
            *reads,
            name="kallisto quant",
            stderr=job.output("log"),
        )
        _note_fragments(job, output)
        if strand != "none":
            _doubt_strand(job, index, reads, strand)

    def check(self, job: Job) -> None:
        """Reconciles what kallisto processed with the reads, and its tables with the reference."""
        info = _run_info(job)
        _require_processed(job, info)
        _require_abundance(job, transcript_ids(job.reference("transcripts")))
        pair, split = count_candidates(job.output("fusion"), job.sample)
        job.version("kallisto", info["kallisto_version"])
        job.note(
            kallisto_version=info["kallisto_version"],
            reference_sha256=FileOf.of(job.reference("published")).sha256,
            processed_pairs=info["n_processed"],
            pseudoaligned_pairs=info["n_pseudoaligned"],
            unique_pairs=info["n_unique"],
            p_pseudoaligned=info["p_pseudoaligned"],
            p_unique=info["p_unique"],
            fusion_rows=pair + split,
            fusion_rows_pair=pair,
            fusion_rows_split=split,
        )


def _pairs(job: Job, reads: Sequence[Path]) -> int:
    """Read pairs that kallisto must process: as the step before counted them, else counted here."""
    if len(reads) < 2 or len(reads) % 2:
        raise MissingInput(
            f"Sample {job.sample} has {len(reads)} FASTQ file(s); kallisto finds fusions in pairs of files only (R1 "
            "and R2). Give both mates."
        )
    for path in reads:
        if not path.is_file() or path.stat().st_size == 0:
            raise MissingInput(f"{path.name}, reads of sample {job.sample}, is not there or empty; make it anew.")
    counted = [metrics["read_pairs"] for metrics in job.upstream_metrics.values() if "read_pairs" in metrics]
    if len(counted) == 1:
        # The container compared the files with the checksums in that step's receipt.
        return int(counted[0])
    try:
        return count_pairs(list(zip(reads[::2], reads[1::2], strict=True)))
    except ValueError as error:
        raise MissingInput(f"The reads of sample {job.sample} cannot be used: {error}") from error


def _note_fragments(job: Job, output: ToolOutput) -> None:
    """kallisto tells the mean fragment length in its talk alone."""
    if found := output.find(r"estimated average fragment length: ([0-9.]+)"):
        job.note(mean_fragment_length=float(found[1]))


def _first_strand(job: Job, index: Path, reads: Sequence[Path]) -> str:
    """The strandedness by the sample's first pairs; notes how many pseudoalign in each direction."""
    counts = pseudoaligned(job, index, reads, ["fr", "rf"])
    forward, reverse = counts["fr"][0], counts["rf"][0]
    job.note(forward_pairs=forward, reverse_pairs=reverse)
    return strand_of(forward, reverse)


def _doubt_strand(job: Job, index: Path, reads: Sequence[Path], strand: str) -> None:
    """Warns where few pairs fit with a strandedness and many more of the first ones would fit without."""
    info = _run_info(job)
    stranded = 100 * info["n_pseudoaligned"] / max(info["n_processed"], 1)
    if stranded >= _FEW_PERCENT:
        return
    fitting, pairs = pseudoaligned(job, index, reads, ["none"])["none"]
    unstranded = 100 * fitting / max(pairs, 1)
    job.note(p_pseudoaligned_unstranded=round(unstranded, 1))
    warning = (
        f"{stranded:.1f} % of the pairs of sample {job.sample} pseudoalign with strandedness {strand}, "
        f"{unstranded:.1f} % of the first {pairs:,} without"
    )
    if unstranded < _DOUBTFUL * stranded:
        print(f"{warning}: few of them are of the reference's transcripts.")
        return
    warning += "; the library has another one. Say auto, as --strandedness or in the sheet's column strandedness."
    print(warning)
    job.note(warning=warning)


def _run_info(job: Job) -> dict[str, Any]:
    path = job.output("run_info")
    try:
        info: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        for key in ("n_processed", "n_pseudoaligned", "n_unique"):
            info[key] = int(info[key])
        return {"p_pseudoaligned": None, "p_unique": None, "kallisto_version": "unknown", **info}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InvalidOutput(
            f"kallisto's run_info.json of sample {job.sample} cannot be read ({error!r}); run the sample again."
        ) from error


def _require_processed(job: Job, info: dict[str, Any]) -> None:
    expected = job.metrics["read_pairs"]
    if info["n_processed"] != expected:
        raise InvalidOutput(
            f"kallisto processed {info['n_processed']} of the {expected} read pairs of sample {job.sample}; it stops "
            "without a word where a file is cut off or shorter than its mate. Make the FASTQ files anew."
        )
    if info["n_pseudoaligned"] <= 0:
        raise InvalidOutput(
            f"None of the {expected} read pairs of sample {job.sample} fits the reference; that is not the same as no "
            "fusions. Check that the reads are RNA of the reference's species."
        )


def _require_abundance(job: Job, ids: list[str]) -> None:
    path = job.output("abundance")
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    if not lines or lines[0] != _ABUNDANCE_HEADER:
        raise InvalidOutput(
            f"abundance.tsv of sample {job.sample} does not start with its header; run the sample again."
        )
    rows = [line.split("\t") for line in lines[1:]]
    if [row[0] for row in rows] != ids:
        raise InvalidOutput(
            f"abundance.tsv of sample {job.sample} does not list the {len(ids)} transcripts of the reference; "
            "kallisto.idx was built from another FASTA. Build the reference again."
        )
    for row in rows:
        if len(row) != 5 or not all(_NUMBER.match(cell) for cell in row[1:]):
            raise InvalidOutput(
                f"abundance.tsv of sample {job.sample} has no number for {row[0]} ({' '.join(row[1:])}); too few reads "
                "fit the reference. Check the library and the strandedness."
            )


_NUMBER = re.compile(r"\d+(\.\d+)?(e[+-]?\d+)?\Z")
