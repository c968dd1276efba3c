"""Makes up the data of `variants.py`: four samples with known variants, `python examples/variants_data.py FOLDER`.

A random genome with its index is the reference `toy` of the store FOLDER/store; wgsim makes pairs of reads. Sample n
differs from the genome at every 500 n-th base, so that some variants are shared. All follows from the seed.
"""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path
from typing import Final

SAMPLES: Final = ("ann", "bob", "cid", "dan")
BASES: Final = 20_000
#: Bases between two variants of the first sample.
APART: Final = 500
#: Base of the genome -> base of a sample that differs there.
OTHER: Final = {"A": "G", "C": "T", "G": "A", "T": "C"}


def positions(number: int) -> range:
    """Where a sample differs, from 1: at every 500th base for the first, at every 1,000th for the second, and so on."""
    return range(APART * number, BASES, APART * number)


def simulate(folder: Path, *, seed: int = 7) -> None:
    """Writes the reference, the reads and the sheet `samples.csv`. Raises CalledProcessError when a tool fails."""
    reference = folder / "store" / "references" / "toy"
    reference.mkdir(parents=True)
    genome = "".join(random.Random(seed).choices("ACGT", k=BASES))
    write_fasta(reference / "genome.fa", genome)
    subprocess.run(["bwa", "index", reference / "genome.fa"], check=True, capture_output=True)
    subprocess.run(["samtools", "faidx", reference / "genome.fa"], check=True)
    lines = ["sample,fastq_1,fastq_2\n"]
    for number, sample in enumerate(SAMPLES, 1):
        bases = list(genome)
        for position in positions(number):
            bases[position - 1] = OTHER[bases[position - 1]]
        write_fasta(folder / f"{sample}.fa", "".join(bases))
        reads = [f"{sample}_1.fastq", f"{sample}_2.fastq"]
        options = ["-S", str(seed + number), "-N", "4000", "-1", "100", "-2", "100", "-e", "0.002", "-r", "0"]
        subprocess.run(["wgsim", *options, f"{sample}.fa", *reads], cwd=folder, check=True, capture_output=True)
        lines.append(f"{sample},{','.join(reads)}\n")
    (folder / "samples.csv").write_text("".join(lines))


def write_fasta(path: Path, bases: str) -> None:
    """Writes one sequence, `chr1`."""
    path.write_text(f">chr1\n{bases}\n")


if __name__ == "__main__":
    simulate(Path(sys.argv[1]))
