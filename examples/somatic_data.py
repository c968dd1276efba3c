"""Makes up the data of `somatic.py`, a tumour and a normal sample of two patients: `somatic_data.py FOLDER`.

A random genome of three chromosomes with its index is the reference `toy` of the store FOLDER/store; wgsim makes pairs
of reads. Both samples of a patient differ from the genome at `GERMLINE`, the tumour at `SOMATIC` too. All follows from
the seed.
"""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

CHROMOSOMES: Final = ("chr1", "chr2", "chr3")
BASES: Final = 3_000
#: Patient -> chromosome -> where its samples differ, from 1.
GERMLINE: Final = {"ada": {"chr1": [500, 1500], "chr2": [800]}, "ben": {"chr3": [700]}}
#: The same of its tumour alone.
SOMATIC: Final = {"ada": {"chr1": [1000], "chr3": [2000]}, "ben": {"chr2": [1200, 2200]}}
#: Base of the genome -> base of a sample that differs there.
OTHER: Final = {"A": "G", "C": "T", "G": "A", "T": "C"}


def simulate(folder: Path, *, seed: int = 7) -> None:
    """Writes the reference, the reads and the sheet `samples.csv`. Raises CalledProcessError when a tool fails."""
    reference = folder / "store" / "references" / "toy"
    reference.mkdir(parents=True)
    chance = random.Random(seed)
    genome = {name: "".join(chance.choices("ACGT", k=BASES)) for name in CHROMOSOMES}
    _write_fasta(reference / "genome.fa", genome)
    subprocess.run(["bwa", "index", reference / "genome.fa"], check=True, capture_output=True)
    subprocess.run(["samtools", "faidx", reference / "genome.fa"], check=True)
    lines = ["sample,patient,status,fastq_1,fastq_2\n"]
    for number, (patient, germline) in enumerate(GERMLINE.items()):
        normal = _changed(genome, germline)
        for status, bases in (("normal", normal), ("tumour", _changed(normal, SOMATIC[patient]))):
            sample = f"{patient}-{status}"
            _write_fasta(folder / f"{sample}.fa", bases)
            reads = [f"{sample}_1.fastq", f"{sample}_2.fastq"]
            options = ["-S", str(seed + number), "-N", "2000", "-1", "100", "-2", "100", "-e", "0.002", "-r", "0"]
            subprocess.run(["wgsim", *options, f"{sample}.fa", *reads], cwd=folder, check=True, capture_output=True)
            lines.append(f"{sample},{patient},{status},{','.join(reads)}\n")
    (folder / "samples.csv").write_text("".join(lines))


def _changed(genome: Mapping[str, str], positions: Mapping[str, list[int]]) -> dict[str, str]:
    """The genome with another base at these positions, from 1."""
    changed = {}
    for name, text in genome.items():
        bases = list(text)
        for position in positions.get(name, ()):
            bases[position - 1] = OTHER[bases[position - 1]]
        changed[name] = "".join(bases)
    return changed


def _write_fasta(path: Path, bases_by_name: Mapping[str, str]) -> None:
    path.write_text("".join(f">{name}\n{bases}\n" for name, bases in bases_by_name.items()))


if __name__ == "__main__":
    simulate(Path(sys.argv[1]))
