"""What a row of the sample sheet names: a BAM, a CRAM or FASTQ files, and the strandedness of the library.

Whatever is wrong with a row is refused before anything runs; these functions convert columns of steps (`Column`).
"""

from __future__ import annotations

import re
from typing import Final

#: Columns that name a sample's reads, in the order in which `reads_format` takes them.
READS_COLUMNS: Final = ("bam", "fastq_1", "fastq_2")
_FASTQ: Final = re.compile(r"\.(fastq|fq)(\.b?gz)?\Z", re.IGNORECASE)
_ALIGNED: Final = re.compile(r"\.(bam|cram|sam)\Z", re.IGNORECASE)
#: What kallisto writes as it is into run_info.json, which is no JSON then.
_QUOTED: Final = re.compile(r'["\\][^/]*\Z')
#: nf-core's words for the strandedness, and ours.
_LIBRARIES: Final = {"auto": "auto", "forward": "fr", "reverse": "rf", "unstranded": "none"}


def reads_format(bam: str, fastq_1: str, fastq_2: str) -> str:
    """How a row gives its reads: `bam`, `cram` or `fastq`. Raises ValueError for names that contradict this."""
    if bam and (fastq_1 or fastq_2):
        raise ValueError(f"it names {bam} and {fastq_1 or fastq_2}; a sample has one of them. Empty the other field.")
    if bam:
        if _FASTQ.search(bam):
            raise ValueError(f"{bam} is a FASTQ, not a BAM. Put it in fastq_1, and its mate in fastq_2.")
        return "cram" if bam.lower().endswith(".cram") else "bam"
    for name in (fastq_1, fastq_2):
        if _ALIGNED.search(name):
            raise ValueError(f"{name} is no FASTQ. Put it in the column bam.")
        if _QUOTED.search(name):
            raise ValueError(f"{name} has a quote or backslash, which kallisto writes into run_info.json. Rename it.")
    if not fastq_2:
        raise ValueError(
            f"{fastq_1} has no mate in fastq_2; fusions are found from read pairs only. Name it, or leave the sample"
            " out."
        )
    return "fastq"


def library_strand(strandedness: str) -> str:
    """kallisto's word for a strandedness (fr, rf, none, auto). Raises ValueError for another word."""
    word = strandedness.lower()
    if word not in {*_LIBRARIES, *_LIBRARIES.values()}:
        raise ValueError(f"it must be one of {', '.join(_LIBRARIES)}, not {strandedness!r}. Correct it.")
    return _LIBRARIES.get(word, word)
