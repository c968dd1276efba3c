"""Memory of the pizzly step beside pizzly alone, on 750,000 candidates: users report so many for a large sample.

The candidates are kallisto's own for simulated fusions of a made-up transcriptome, repeated under new read names. One
run has both figures: the step's processes together, and pizzly, its largest child. pizzly itself needs an hour for it.
"""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from batch_pipeline.demo.alone import run_alone
from batch_pipeline.demo.simulate import Library, SimulatedSample, draw_event, simulate_sample
from batch_pipeline.demo.transcriptome import generate_transcriptome, read_transcriptome
from benchmarks import table
from benchmarks.fusion import missing_tools
from benchmarks.measure import run
from steps.reference import BuildReference

_ROOT = Path(__file__).resolve().parent.parent
GENES = 400
FUSIONS = 600
#: MiB that the step may take more than pizzly alone.
GOAL = 200

_STEP = """\
import os, pathlib, resource
from batch_pipeline.demo.alone import run_alone
from steps.pizzly import Pizzly
fusion, reference = (pathlib.Path(os.environ[name]) for name in ("FUSION", "REFERENCE"))
job = run_alone(Pizzly(), pathlib.Path("work").absolute(), "large", inputs={"fusion": [fusion]}, reference=reference)
print("pizzly took", resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, "KiB for", job.metrics)
"""


def main(*, rows: int, results_folder: Path) -> None:
    """Measures, prints and keeps; where the tools are missing it says so."""
    if missing := missing_tools("kallisto", "pizzly"):
        table.say(f"candidates is left out: {missing}")
        return
    with tempfile.TemporaryDirectory(prefix="candidates-") as name:
        folder = Path(name)
        reference, fusion = _candidates(folder, rows)
        environment = {**os.environ, "PYTHONPATH": str(_ROOT), "REFERENCE": str(reference), "FUSION": str(fusion)}
        cost = run([sys.executable, "-c", _STEP], folder=folder, environment=environment, log=folder / "log")
        log = (folder / "log").read_text()
    kibibytes = re.search(r"pizzly took (\d+) KiB", log)
    pizzly = int(kibibytes[1]) / 1024 if kibibytes else 0.0
    extra = cost.together_mib - pizzly
    row = (f"{cost.seconds:.1f}", f"{cost.cpu_seconds:.1f}", f"{pizzly:.0f}", f"{cost.together_mib:.0f}")
    notes = [table.verdict(extra, GOAL, f"the step's MiB <= pizzly's + {GOAL}"), log.splitlines()[-1]]
    table.show(f"candidates: {rows} rows", ("s", "CPU s", "MiB of pizzly", "MiB of the step"), [row], notes=notes)
    values = {"machine": table.machine(), "rows": rows, "pizzly_mib": pizzly, "cost": cost}
    table.keep("candidates", values, results_folder)


def _candidates(folder: Path, rows: int) -> tuple[Path, Path]:
    """A reference and a fusion.txt with that many rows."""
    fasta, gtf = folder / "t.fa.gz", folder / "t.gtf.gz"
    generate_transcriptome(fasta, gtf, seed=1, genes=GENES)
    run_alone(BuildReference(), folder / "reference", "made_up", inputs={"fasta": [fasta], "gtf": [gtf]})
    transcripts = read_transcriptome(fasta, gtf)
    rng, used = random.Random("candidates"), set[frozenset[str]]()
    events = tuple(draw_event(rng, transcripts, used, frozenset()) for _ in range(FUSIONS))
    sample = SimulatedSample(name="large", events=events)
    reads = simulate_sample(sample, transcripts, seed=1, library=Library(pairs=1_000, fusion_pairs=100))
    mates = folder / "large_1.fastq", folder / "large_2.fastq"
    for path, at in zip(mates, (0, 2), strict=True):
        with path.open("w") as out:
            out.writelines(f"@{n}\n{pair[at]}\n+\n{pair[at + 1]}\n" for n, pair in enumerate(reads.pairs, 1))
    command = ["kallisto", "quant", "-i", str(folder / "reference" / "kallisto.idx"), "-o", str(folder / "kallisto")]
    subprocess.run([*command, "--fusion", *map(str, mates)], check=True, stderr=subprocess.DEVNULL)
    return folder / "reference", _repeat(folder / "kallisto" / "fusion.txt", folder / "fusion.txt", rows)


def _repeat(source: Path, target: Path, rows: int) -> Path:
    """Writes a fusion.txt's rows again and again, each time with other names of reads."""
    header, *lines = source.read_text().splitlines(keepends=True)
    with target.open("w") as out:
        out.write(header)
        for number in range(rows):
            cells = lines[number % len(lines)].split("\t")
            cells[1], cells[4] = f"{number}x{cells[1]}", f"{number}x{cells[4]}"
            out.write("\t".join(cells))
    return target
