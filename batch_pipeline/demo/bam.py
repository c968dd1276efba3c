"""Writes reads as an unaligned BAM, through samtools; the same reads make the same bytes."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from batch_pipeline.wire.errors import InvalidConfig, StepFailed

#: R1, its qualities, R2, its qualities.
Pair = tuple[str, str, str, str]


def write_bam(path: Path, sample: str, pairs: Sequence[Pair]) -> None:
    """Writes pairs that are called `{sample}:1`, `{sample}:2`, …"""
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        fastqs = [Path(folder) / f"{mate}.fastq" for mate in (1, 2)]
        for fastq, at in zip(fastqs, (0, 2), strict=True):
            with fastq.open("w", encoding="ascii") as out:
                out.writelines(
                    f"@{sample}:{number}\n{pair[at]}\n+\n{pair[at + 1]}\n" for number, pair in enumerate(pairs, 1)
                )
        import_fastqs(fastqs[0], fastqs[1], path, sample=sample, library="simulated")


def import_fastqs(first: Path, second: Path, path: Path, *, sample: str, library: str) -> None:
    """Makes a BAM with a read group of two FASTQ files whose names are equal. It is whole or not there.

    Raises InvalidConfig when samtools is not installed, StepFailed when it fails.
    """
    part = path.with_name(f".{path.name}.part")
    group = " ".join(f"-r {word}" for word in (f"ID:{sample}", f"SM:{sample}", f"LB:{library}", "PL:ILLUMINA"))
    # Without -O, samtools writes a SAM unless the name ends in .bam; nothing downstream would mind.
    options = f"import --no-PG -O BAM {group}".split()
    try:
        subprocess.run(["samtools", *options, "-1", first, "-2", second, "-o", part], check=True, capture_output=True)
    except FileNotFoundError as error:
        raise InvalidConfig("samtools is not on the PATH; it writes the demonstration's BAMs. Install it.") from error
    except subprocess.CalledProcessError as error:
        lines = error.stderr.decode("utf-8", "replace").strip().splitlines()
        raise StepFailed(f"samtools could not write {path.name}: {lines[-1] if lines else error}.") from error
    part.replace(path)
