"""Samples without a fusion through the whole pipeline, which must list none: how often it reports what is not there.

Reads of whole transcripts with sequencing errors, 20,000 pairs a sample, on the demonstration's reference: real genes
with their isoforms where it can be had. Chimeras of the library preparation are not simulated.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from batch_pipeline.demo.bam import write_bam
from batch_pipeline.demo.cohort import Cohort, score
from batch_pipeline.demo.simulate import Library, SimulatedSample, simulate_sample
from batch_pipeline.demo.transcriptome import read_transcriptome
from benchmarks import fusion, table
from benchmarks.measure import BenchmarkFailed
from benchmarks.peers import cache_folder

PAIRS = 20_000


def main(*, samples: int, real: bool, results_folder: Path) -> None:
    """Simulates the samples, runs them, and prints and keeps what fusions they have; without the tools it says so.

    See `fusion.prepared_cohort` for `real`. Raises BenchmarkFailed when a sample has no result.
    """
    if missing := fusion.missing_tools():
        table.say(f"negatives is left out: {missing}")
        return
    demonstration, reference = fusion.prepared_cohort(cache_folder(), real=real)
    with tempfile.TemporaryDirectory(prefix="negatives-", ignore_cleanup_errors=True) as name:
        cohort = _cohort(Path(name), demonstration, samples)
        run = Path(name) / "run"
        run.mkdir()
        cost = fusion.run_pipeline(run, cohort, reference)
        results = run / "store" / "results" / "pizzly"
        judged = score(cohort, {sample: results / sample / f"{sample}.json" for sample in cohort.samples})
    if unread := [one for one in judged.samples if one.problem]:
        raise BenchmarkFailed(f"{len(unread)} samples have no result, such as {unread[0].sample}: {unread[0].problem}.")
    fusions = {one.sample: one.extra for one in judged.samples if one.extra}
    row = (str(samples), str(sum(map(len, fusions.values()))), f"{cost.seconds:.1f}", f"{cost.cpu_seconds:.1f}")
    notes = [table.verdict(len(fusions), 0, "samples with a fusion: 0")]
    notes += [f"{sample}: {', '.join(pairs)}" for sample, pairs in fusions.items()]
    header = ("samples", "fusions", "s", "CPU s")
    table.show(f"negatives: {PAIRS:,} pairs each, {cohort.reference}", header, [row], notes=notes)
    values = {"machine": table.machine(), "reference": cohort.reference, "samples": samples, "pairs": PAIRS}
    table.keep("negatives", {**values, "fusions": fusions, "cost": cost}, results_folder)


def _cohort(folder: Path, demonstration: Cohort, samples: int) -> Cohort:
    """Samples without a fusion on the demonstration's reference."""
    names = tuple(f"negative{number:03}" for number in range(1, samples + 1))
    cohort = Cohort(folder=folder, samples=names, truth=(), reference=demonstration.reference)
    cohort.bams.mkdir()
    cohort.sample_list.write_text("".join(f"{name}\n" for name in names))
    transcripts = read_transcriptome(demonstration.fasta, demonstration.gtf)
    for name in names:
        sample = SimulatedSample(name=name, events=())
        reads = simulate_sample(sample, transcripts, seed=1, library=Library(pairs=PAIRS))
        write_bam(cohort.bam(name), name, reads.pairs)
    return cohort
