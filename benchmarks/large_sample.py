"""A sample of a million read pairs on 60,000 transcripts, beside the command lines of picard, kallisto and pizzly.

`fusion` measures samples so small that starting Java is most of their cost; here the tools' own work is, as in a user's
sample, so that what the steps add by the read shows: counting, hashing, tables. The transcriptome is made up, with
isoforms of one gene alike and genes unlike each other; a human one has longer transcripts.
"""

from __future__ import annotations

import random
import shutil
from pathlib import Path

from batch_pipeline.demo.bam import write_bam
from batch_pipeline.demo.cohort import Cohort
from batch_pipeline.demo.simulate import Library, SimulatedSample, draw_event, simulate_sample
from batch_pipeline.demo.transcriptome import generate_transcriptome, read_transcriptome
from benchmarks import fusion, table
from benchmarks.peers import cache_folder

#: How many times the CPU time and the memory of the bare tools the pipeline may take.
CPU_GOAL = 1.10
MEMORY_GOAL = 1.20
#: Fusions of the sample, of 200 read pairs each.
FUSIONS = 20
#: Transcripts and genes of a made-up transcriptome: every second gene has two isoforms.
_ISOFORMS, _GENES = 3, 2


def main(*, transcripts: int, pairs: int, rounds: int, results_folder: Path) -> None:
    """Measures, prints and keeps; where the tools are missing it says so.

    Parameters
    ----------
    transcripts: how many the reference has.
    pairs: read pairs of the sample.
    """
    if missing := fusion.missing_tools():
        table.say(f"large-sample is left out: {missing}")
        return
    cohort = _cohort(cache_folder() / f"large_{transcripts}", transcripts, pairs)
    reference = fusion.prepared_reference(cohort.folder, cohort)
    measured = fusion.measure_rounds(cohort, reference, rounds)
    steps_cpu = table.median(one.steps_cpu_seconds / one.loop.cpu_seconds for one in measured)
    cpu = table.median(one.ours.cpu_seconds / one.loop.cpu_seconds for one in measured)
    memory = max(one.ours.together_mib for one in measured) / max(one.loop.together_mib for one in measured)
    notes = [
        table.verdict(steps_cpu, CPU_GOAL, f"CPU of the steps <= {CPU_GOAL} x the loop"),
        table.verdict(cpu, CPU_GOAL, f"CPU with server and driver <= {CPU_GOAL} x the loop"),
        table.verdict(memory, MEMORY_GOAL, f"memory <= {MEMORY_GOAL} x the loop"),
        f"load now {table.load()}",
    ]
    fusion.show_rounds(f"large-sample: {pairs:,} pairs, {transcripts:,} transcripts", measured, notes)
    ratios = {"steps_cpu_ratio": steps_cpu, "cpu_ratio": cpu, "memory_ratio": memory}
    values = {"machine": table.machine(), "transcripts": transcripts, "pairs": pairs, **ratios}
    table.keep("large-sample", {**values, "rounds": measured}, results_folder)


def _cohort(folder: Path, transcripts: int, pairs: int) -> Cohort:
    """One sample with fusions on a made-up transcriptome; both made at first use and kept."""
    sample = f"large{pairs}"
    cohort = Cohort(folder=folder, samples=(sample,), truth=(), reference="made_up")
    if not cohort.sample_list.is_file():
        table.say("  making up a transcriptome …")
        shutil.rmtree(folder, ignore_errors=True)
        cohort.bams.mkdir(parents=True)
        generate_transcriptome(cohort.fasta, cohort.gtf, seed=1, genes=transcripts * _GENES // _ISOFORMS)
    if not cohort.bam(sample).is_file():
        table.say("  simulating the sample …")
        usable = read_transcriptome(cohort.fasta, cohort.gtf)
        rng, used = random.Random("large"), set[frozenset[str]]()
        events = tuple(draw_event(rng, usable, used, frozenset()) for _ in range(FUSIONS))
        library = Library(pairs=pairs - FUSIONS * Library.fusion_pairs)
        reads = simulate_sample(SimulatedSample(name=sample, events=events), usable, seed=1, library=library)
        write_bam(cohort.bam(sample), sample, reads.pairs)
    # Written last: where it stands, the transcriptome is whole.
    cohort.sample_list.write_text(f"{sample}\n")
    return cohort
