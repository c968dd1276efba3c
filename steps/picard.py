"""BAM to FASTQ with picard's SamToFastq, and every read accounted for.

picard ends with exit code 0 on an empty BAM, on one cut at a record's border, on single-end reads, and, with lenient
validation, on reads none of which find their mate. So the BAM is looked at before, and what came out is counted after.
"""

from __future__ import annotations

import gzip
import os
import re
import shutil
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from batch_pipeline import Column, Input, InvalidOutput, Job, MissingInput, Output, Param, Step, StepFailed, ToolOutput
from steps.bam_defects import explained, require_unclipped
from steps.fastq import count_pairs, is_empty
from steps.gzipped import GZIP_MAGIC
from steps.sheet import READS_COLUMNS, reads_format

#: Debian's; its wrapper PicardCommandLine breaks on paths with a space, so the jar is preferred.
_DEBIAN_JAR: Final = Path("/usr/share/java/picard.jar")
_VALIDATIONS: Final = ("STRICT", "LENIENT", "SILENT")
_BAM_MAGIC: Final = b"BAM\1"
#: What the JVM takes besides its heap: at least this, or a quarter of the job's memory.
_JVM_OVERHEAD_MB: Final = 384


class Picard(Step):
    """Turns a BAM into a pair of FASTQ files (picard SamToFastq)."""

    tools = ("java", "samtools")
    memory_mb = 2048

    bam = Input("Paired-end reads, aligned or not, in any order; several of a sample are its lanes.")
    fastq = Output("{sample}_1.fastq.gz", "{sample}_2.fastq.gz")
    flagstat = Output("{sample}.flagstat.txt", help="samtools flagstat of the BAM; MultiQC reads it.")

    validation: str = Param(
        "STRICT",
        choices=_VALIDATIONS,
        help="How picard takes broken records. The softer ones drop reads without a word; the counts tell. The sheet's"
        " column validation goes before it.",
    )
    sample_validation: str = Column("validation", default="", choices=("", *_VALIDATIONS))
    include_non_pf: bool = Param(True, help="Keep reads that failed the vendor's quality check (flag 0x200).")
    hard_clipped: str = Param(
        "refuse",
        choices=("refuse", "keep"),
        help="What becomes of a BAM whose reads lost bases by hard clipping: fusions are missed in it.",
    )

    reads_format: str = Column(*READS_COLUMNS, default="bam", convert=reads_format)

    def run(self, job: Job) -> None:
        """Refuses what is no whole paired-end BAM, then converts it; those of several lanes one after the other."""
        bams = job.inputs("bam")
        counts = [_counted(job, bam) for bam in bams]
        for bam in (bam for bam, (_, of) in zip(bams, counts, strict=True) if of["mapped"]):
            require_unclipped(job, bam, keep=self.hard_clipped == "keep")
        job.output("flagstat").write_text(summed_flagstat([text for text, _ in counts]), encoding="utf-8")
        job.note(
            read_pairs_in_bam=sum(of["pairs"] for _, of in counts),
            qc_failed_pairs=sum(of["failed_pairs"] for _, of in counts),
        )
        self._convert(job, bams[0], job.outputs("fastq"))
        for bam in bams[1:]:
            lane = tuple(path.with_name(f".lane_{path.name}") for path in job.outputs("fastq"))
            self._convert(job, bam, lane)
            for whole, part in zip(job.outputs("fastq"), lane, strict=True):
                with whole.open("ab") as end, part.open("rb") as stream:
                    shutil.copyfileobj(stream, end)
                part.unlink()

    def _convert(self, job: Job, bam: Path, fastq: Sequence[Path]) -> None:
        first, second = fastq
        output = _sam_to_fastq(
            job,
            *("-I", bam, "-F", first, "-F2", second),
            *("-VALIDATION_STRINGENCY", self.sample_validation or self.validation),
            *("-INCLUDE_NON_PF_READS", str(self.include_non_pf).lower()),
            *("-TMP_DIR", job.work),
        )
        if version := output.find(r"Picard version: (?:Version:)?(\S+)"):
            job.version("picard", version[1])
            job.note(picard_version=version[1])

    def check(self, job: Job) -> None:
        """Holds the FASTQ files against each other and against the BAM's pairs."""
        pairs, failed = job.metrics["read_pairs_in_bam"], job.metrics["qc_failed_pairs"]
        expected = pairs if self.include_non_pf else pairs - failed
        paths = job.outputs("fastq")
        try:
            # Of no reads, picard makes a second file that is no whole gzip: look at the first one alone.
            count = 0 if is_empty(paths[0]) else count_pairs([(paths[0], paths[1])])
        except ValueError as error:
            reason = explained(job, str(error)) or f"picard's output for sample {job.sample} is wrong: {error}"
            raise InvalidOutput(reason) from error
        if count != expected:
            raise _lost(job, count, expected)
        job.note(read_pairs=count, dropped_pairs=pairs - count)


def _lost(job: Job, count: int, expected: int) -> InvalidOutput:
    loss = f"picard wrote {count} of the {expected} read pairs in the BAM of sample {job.sample}"
    remedy = explained(job, loss) or (
        "Look at the reads' names and flags, and keep validation at STRICT to have picard name them."
    )
    return InvalidOutput(f"{loss}; none may be lost. {remedy}")


def _counted(job: Job, bam: Path) -> tuple[str, dict[str, int]]:
    """The text and the counts of samtools flagstat. Raises MissingInput for what is no whole paired-end BAM."""
    _require_whole(job, bam)
    text, counts = _flagstat(job, bam)
    _require_pairs(job, bam, counts)
    return text, counts


def _require_whole(job: Job, bam: Path) -> None:
    if not bam.is_file():
        raise MissingInput(f"{bam.name}, the BAM of sample {job.sample}, is not there; check list and prefix.")
    if bam.stat().st_size == 0:
        raise MissingInput(f"{bam.name} of sample {job.sample} is empty (0 bytes); upload the BAM again.")
    # quickcheck passes SAM, a text that may end at any line.
    if (kind := _format_of(bam)) != "BAM":
        remedy = _REMEDIES.get(kind, "convert it")
        raise MissingInput(f"{bam.name} of sample {job.sample} is not a BAM but {kind}; {remedy}.")
    try:
        # -u: unaligned BAMs have no @SQ lines and are good.
        job.run("samtools", "quickcheck", "-u", bam)
    except StepFailed as error:
        raise MissingInput(
            f"{bam.name} of sample {job.sample} is no whole BAM: samtools quickcheck misses its header or its "
            "end-of-file block, as after an interrupted copy. Upload it again."
        ) from error


_REMEDIES: Final = {
    "a FASTQ": "put it in the column fastq_1 of the sheet, and its mate in fastq_2",
    "a CRAM": "let its name end in .cram",
}


def _format_of(path: Path) -> str:
    """The format of a file by its first bytes: `BAM`, `a CRAM`, `a FASTQ`, or `another format`."""
    with path.open("rb") as stream:
        start = stream.read(4)
    if start.startswith(GZIP_MAGIC):
        try:
            with gzip.open(path) as stream:
                start = stream.read(4)
        except (OSError, EOFError, zlib.error):
            # A torn BAM, which quickcheck knows.
            return "BAM"
    if start == b"CRAM":
        return "a CRAM"
    if start.startswith(b"@"):
        # A SAM has tags of two letters.
        return "another format" if re.match(rb"@[A-Z]{2}\t", start) else "a FASTQ"
    return "BAM" if start == _BAM_MAGIC else "another format"


def _flagstat(job: Job, bam: Path) -> tuple[str, dict[str, int]]:
    """Text and counts of primary records, by one pass over the BAM."""
    text = job.run("samtools", "flagstat", bam).out
    rows = {label.strip(): (int(good), int(bad)) for good, bad, label in _FLAGSTAT.findall(text)}
    try:
        paired, first, second = rows["paired in sequencing"], rows["read1"], rows["read2"]
        primary, mapped = rows["primary"], rows["primary mapped"]
    except KeyError as error:
        raise StepFailed(
            f"samtools flagstat did not tell {error} for {bam.name}; samtools 1.13 or newer does."
        ) from error
    return text, {
        "primary": sum(primary),
        "mapped": sum(mapped),
        "paired": sum(paired),
        "pairs": sum(first),
        "second": sum(second),
        "failed_pairs": first[1],
    }


_FLAGSTAT = re.compile(r"^(\d+) \+ (\d+) ([a-z0-9 ]+)", re.MULTILINE)


def summed_flagstat(texts: Sequence[str]) -> str:
    """One flagstat of several: counts are summed, shares computed of the sums."""
    if len(texts) == 1:
        return texts[0]
    counts: dict[str, tuple[int, int]] = {}
    for text in texts:
        for good, bad, label in re.findall(r"^(\d+) \+ (\d+) (.+)$", text, re.MULTILINE):
            name = _SHARES.sub("", label)
            before = counts.get(name, (0, 0))
            counts[name] = (before[0] + int(good), before[1] + int(bad))
    lines = []
    for name, both in counts.items():
        line = f"{both[0]} + {both[1]} {name}"
        if name in _WHOLES:
            of = counts[_WHOLES[name]]
            shares = (f"{part / whole:.2%}" if whole else "N/A" for part, whole in zip(both, of, strict=True))
            line += f" ({' : '.join(shares)})"
        lines.append(f"{line}\n")
    return "".join(lines)


#: The shares at the end of a line of flagstat, of reads that passed and failed quality control.
_SHARES = re.compile(r" \(\S+ : \S+\)$")
#: Which lines have shares, and of which count.
_WHOLES: Final = {
    "mapped": "in total (QC-passed reads + QC-failed reads)",
    "primary mapped": "primary",
    "properly paired": "paired in sequencing",
    "singletons": "paired in sequencing",
}


def _require_pairs(job: Job, bam: Path, counts: dict[str, int]) -> None:
    where = f"{bam.name} of sample {job.sample}"
    if counts["primary"] == 0:
        raise MissingInput(f"{where} has no reads, only a header; no reads is not the same as no fusions. Fix the BAM.")
    if counts["paired"] == 0:
        raise MissingInput(f"{where} is single-end; fusions are found from read pairs only. Leave the sample out.")
    if counts["paired"] != counts["primary"]:
        alone = counts["primary"] - counts["paired"]
        raise MissingInput(f"{where} has {alone} single reads among the pairs; filter them out (samtools view -f 1).")
    if not counts["pairs"] == counts["second"] == counts["paired"] / 2:
        reason = f"{where} has {counts['pairs']} first and {counts['second']} second mates; each read needs its mate."
        raise MissingInput(
            explained(job, reason)
            or f"{reason} Filter the orphans out, or take the BAM from before it was cut to a region."
        )


def _sam_to_fastq(job: Job, *arguments: object) -> ToolOutput:
    try:
        return _run_picard(job, "SamToFastq", *arguments)
    except StepFailed as error:
        if reason := explained(job, error.message):
            raise MissingInput(reason) from error
        raise


def _run_picard(job: Job, *arguments: object) -> ToolOutput:
    heap = max(256, min(job.memory_mb - _JVM_OVERHEAD_MB, job.memory_mb * 3 // 4))
    # One core a job: the serial collector and the first compiler halve the cost of a small sample and cost a large one,
    # whose time is compression, nothing.
    tuning = (f"-Xmx{heap}m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")
    jar = os.environ.get("PICARD_JAR") or (str(_DEBIAN_JAR) if _DEBIAN_JAR.exists() else "")
    if jar:
        return job.run("java", *tuning, "-jar", jar, *arguments, name="picard SamToFastq")
    for wrapper in ("PicardCommandLine", "picard"):
        if shutil.which(wrapper):
            return job.run(wrapper, f"-Xmx{heap}m", *arguments, name="picard SamToFastq")
    raise StepFailed("picard is not here; install picard-tools, or set PICARD_JAR to the path of picard.jar.")
