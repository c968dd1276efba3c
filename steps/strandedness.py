"""Which strand a library's first reads come from, by quantifying a sample's first pairs in each direction.

A wrong strandedness costs half of the reads or nearly all, and kallisto says no word of it. A sample decides by itself:
a decision of the whole cohort would make each sample wait for the first ones.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import BinaryIO, Final, cast

from batch_pipeline import Job, StepFailed
from steps.gzipped import GZIP_MAGIC

#: kallisto's options, by strandedness.
STRANDS: Final = {"none": (), "fr": ("--fr-stranded",), "rf": ("--rf-stranded",)}
#: Pairs that are looked at: of a good library they leave no doubt.
PROBE_PAIRS: Final = 100_000
#: Share of the pairs with a direction that must have the same one in a stranded library.
_STRANDED: Final = 0.8


def pseudoaligned(job: Job, index: Path, reads: Sequence[Path], strands: Sequence[str]) -> dict[str, tuple[int, int]]:
    """For each strandedness, how many of the first `PROBE_PAIRS` pairs pseudoalign, and how many pairs these are.

    Of several lanes (R1, R2, R1, R2, …) the first is looked at. Raises StepFailed when kallisto fails.
    """
    with TemporaryDirectory(prefix=".first_pairs_", dir=job.work) as name:
        folder = Path(name)
        files = (folder / "1.fastq", folder / "2.fastq")
        for source, target in zip(reads[:2], files, strict=True):
            with _opened(source) as lines, target.open("wb") as out:
                out.writelines(islice(lines, 4 * PROBE_PAIRS))
        return {strand: _quantified(job, index, files, strand, folder / strand) for strand in strands}


def _quantified(job: Job, index: Path, reads: Sequence[Path], strand: str, folder: Path) -> tuple[int, int]:
    try:
        job.run(
            "kallisto",
            *("quant", "-i", index, "-o", folder, "-t", 1, *STRANDS[strand], *reads),
            name=f"kallisto quant on the first pairs ({strand})",
        )
    except StepFailed:
        # It fails where no pair fits, which is an answer here.
        if _counts(folder)[0] != 0:
            raise
    return _counts(folder)


def _counts(folder: Path) -> tuple[int, int]:
    """Pseudoaligned pairs and all pairs of a run of kallisto. Raises StepFailed when it left no counts."""
    try:
        info = json.loads((folder / "run_info.json").read_text(encoding="utf-8"))
        return int(info["n_pseudoaligned"]), int(info["n_processed"])
    except (OSError, ValueError, KeyError) as error:
        raise StepFailed(f"kallisto quant left no counts of the first pairs ({error!r}); look at the log.") from error


def strand_of(forward: int, reverse: int) -> str:
    """The strandedness of a library by the pairs that pseudoalign in each direction: fr, rf or none."""
    least = _STRANDED * (forward + reverse)
    if forward == reverse or max(forward, reverse) < least:
        return "none"
    return "fr" if forward > reverse else "rf"


def _opened(path: Path) -> BinaryIO:
    with path.open("rb") as stream:
        is_gzip = stream.read(2) == GZIP_MAGIC
    return cast(BinaryIO, gzip.open(path)) if is_gzip else path.open("rb")
