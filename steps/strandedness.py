"""Which strand a library's first reads come from, by quantifying a sample's first pairs in each direction.

A wrong strandedness costs half of the reads or nearly all, and kallisto says no word of it. A sample decides by itself:
a decision of the whole cohort would make each sample wait for the first ones.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import BinaryIO, Final, cast

from batch_pipeline import Job, StepFailed

#: kallisto's options, by strandedness.
STRANDS: Final = {"none": (), "fr": ("--fr-stranded",), "rf": ("--rf-stranded",)}
#: Pairs that are looked at: of a good library they leave no doubt.
PROBE_PAIRS: Final = 100_000
#: Share of the pairs with a direction that must have the same one in a stranded library.
_STRANDED: Final = 0.8
_GZIP_MAGIC: Final = b"\x1f\x8b"


@dataclass(frozen=True, kw_only=True)
class Probe:
    """The first pairs of a sample as uncompressed files, for kallisto to be run on."""

    job: Job
    index: Path
    reads: tuple[Path, ...]

    @classmethod
    def of(cls, job: Job, index: Path, reads: Sequence[Path]) -> Probe:
        """Writes the first `PROBE_PAIRS` pairs of the first lane into the working directory."""
        files = tuple(job.work / f".probe_{mate}.fastq" for mate in (1, 2))
        for source, target in zip(reads[:2], files, strict=True):
            with _opened(source) as lines, target.open("wb") as out:
                out.writelines(islice(lines, 4 * PROBE_PAIRS))
        return cls(job=job, index=index, reads=files)

    def pseudoaligned(self, strand: str) -> tuple[int, int]:
        """Pairs that pseudoalign with this strandedness, and all pairs. Raises StepFailed when kallisto fails."""
        folder = self.job.work / f".probe_{strand}"
        try:
            self.job.run(
                "kallisto",
                *("quant", "-i", self.index, "-o", folder, "-t", 1, *STRANDS[strand], *self.reads),
                name=f"kallisto quant on the first pairs ({strand})",
            )
        except StepFailed:
            # It fails where no pair fits, which is an answer here.
            if not _fits_none(folder / "run_info.json"):
                raise
        info = json.loads((folder / "run_info.json").read_text(encoding="utf-8"))
        return int(info["n_pseudoaligned"]), int(info["n_processed"])

    def strand(self) -> str:
        """The library's strandedness: fr, rf or none. Notes the pairs that pseudoalign in each direction."""
        forward, _ = self.pseudoaligned("fr")
        reverse, _ = self.pseudoaligned("rf")
        self.job.note(forward_pairs=forward, reverse_pairs=reverse)
        return strand_of(forward, reverse)


def strand_of(forward: int, reverse: int) -> str:
    """The strandedness of a library by the pairs that pseudoalign in each direction: fr, rf or none."""
    least = _STRANDED * (forward + reverse)
    if forward == reverse or max(forward, reverse) < least:
        return "none"
    return "fr" if forward > reverse else "rf"


def _opened(path: Path) -> BinaryIO:
    with path.open("rb") as stream:
        is_gzip = stream.read(2) == _GZIP_MAGIC
    return cast(BinaryIO, gzip.open(path)) if is_gzip else path.open("rb")


def _fits_none(run_info: Path) -> bool:
    try:
        return bool(json.loads(run_info.read_text(encoding="utf-8"))["n_pseudoaligned"] == 0)
    except (OSError, ValueError, KeyError):
        return False
