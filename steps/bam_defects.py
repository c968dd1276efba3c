"""Defects of BAMs, counted by samtools, each with the sentence that says what to type.

Looked for where picard or the check of its FASTQ complains, so that a good BAM pays nothing. Hard-clipped reads are the
exception: nothing complains of them, and what is cut off are the bases of the reads that cross a breakpoint.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from batch_pipeline import Job, MissingInput

#: Secondary and supplementary alignments, which picard leaves out.
_NO_READS: Final = "0x900"


@dataclass(frozen=True, kw_only=True)
class _Defect:
    """What may be wrong with the reads of a BAM."""

    #: Pattern of what picard, or the check of its output, says then.
    complaint: str
    #: Filter expression of samtools for the reads that have it; empty: none can tell.
    reads: str = ""
    #: Whether it is one only where more than half of the reads have it.
    of_most: bool = False
    #: What the BAM has, and the remedy; `{count}`, `{bam}` and `{mended}` are filled in.
    sentence: str


_DEFECTS: Final = (
    _Defect(
        complaint=r"unpaired mates|picard wrote 0 of",
        reads='(flag.read1 && qname =~ "[/.]1$") || (flag.read2 && qname =~ "[/.]2$")',
        of_most=True,
        sentence="has {count} reads whose names end in the mate's number (/1, /2, .1, .2), so that mates differ in"
        " name. Take it off: samtools view -h {bam} | sed -E '/^@/!s,[/.][12]\\t,\\t,' | samtools view -b -o {mended}",
    ),
    _Defect(
        complaint=r"INVALID_MAPPING_QUALITY",
        reads="flag.unmap && mapq > 0",
        sentence="has {count} unmapped reads with a mapping quality, as some aligners write them; they are good. Run"
        " it with --validation SILENT, or write SILENT in a column validation of the sheet: none is dropped unseen.",
    ),
    _Defect(
        complaint=r"first and \d+ second mates",
        reads="flag.paired && !flag.read1 == !flag.read2",
        sentence="has {count} paired reads marked neither as first nor as second of their pair, or as both (flags 0x40"
        " and 0x80). Take the BAM that the aligner wrote, or give the FASTQ files that it was made of.",
    ),
    _Defect(
        complaint=r"bases and \d+ qualities",
        reads="avg(qual) > 200",
        sentence="has {count} reads without qualities ('*'), at which kallisto would stop. It does not use them: write"
        " any. samtools view -h {bam} | awk -F '\\t' -v OFS='\\t' '!/^@/ && $11 == \"*\" "
        '{{$11 = $10; gsub(/./, "I", $11)}} 1\' | samtools view -b -o {mended}',
    ),
    _Defect(
        complaint=r"reads without bases",
        reads="length(seq) == 0",
        sentence="has {count} reads without bases ('*'). Leave them out with their mates: samtools view -F 0x900 -e"
        " 'length(seq) == 0' {bam} | cut -f 1 > names.txt && samtools view -h {bam} | awk -F '\\t'"
        " 'NR == FNR {{gone[$1]; next}} !($1 in gone)' names.txt - | samtools view -b -o {mended}",
    ),
    _Defect(
        complaint=r"Illegal mate state|were there before",
        sentence="has reads twice: the same name as the same mate again. Merge the BAMs of the lanes again, each once.",
    ),
)


def explained(job: Job, complaint: str) -> str:
    """The defect of the sample's BAMs that a complaint comes from, as sentences with the remedy; empty: none known."""
    defect = next((one for one in _DEFECTS if re.search(one.complaint, complaint)), None)
    if defect is None:
        return ""
    bams = job.inputs("bam")
    counts = [_count(job, bam, defect.reads) if defect.reads else 1 for bam in bams]
    if sum(counts) <= (job.metrics["read_pairs_in_bam"] if defect.of_most else 0):
        return ""
    bam, count = next((bam, count) for bam, count in zip(bams, counts, strict=True) if count)
    names = {"bam": shlex.quote(bam.name), "mended": shlex.quote(f"mended.{bam.name}")}
    return f"{bam.name} of sample {job.sample} {defect.sentence.format(count=count, **names)}"


def require_unclipped(job: Job, bam: Path, *, keep: bool) -> None:
    """Notes how many reads of a BAM are hard-clipped. Raises MissingInput when there are any, unless they are kept."""
    clipped = _count(job, bam, 'cigar =~ "H"')
    job.note(hard_clipped_reads=job.metrics.get("hard_clipped_reads", 0) + clipped)
    if clipped and not keep:
        raise MissingInput(
            f"{bam.name} of sample {job.sample} has {clipped} hard-clipped reads (H in CIGAR): bases that did not align"
            " are gone from it, and with them the reads that cross the breakpoint of a fusion. Give the FASTQ files, or"
            " align with soft clipping; to look for fusions in what is left, run it with --hard-clipped keep."
        )


def _count(job: Job, bam: Path, reads: str) -> int:
    return int(job.run("samtools", "view", "-c", "-F", _NO_READS, "-e", reads, bam).out)
