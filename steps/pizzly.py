"""Fusions out of kallisto's candidates with pizzly.

pizzly ends with exit code 0 and "no fusions" on a missing or cut-off input, on a cut-off cache and on a reference that
does not fit the index. So all it loads is held against the reference's promise before, and its counts after.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from batch_pipeline import Input, InvalidOutput, Job, MissingInput, Output, Param, Reference, Step, ToolOutput
from steps.breakpoints import TranscriptStructure, load_structures, without_neighbours
from steps.candidates import (
    WELL_SUPPORTED,
    count_candidates,
    named_transcripts,
    transcripts_of,
    unlisted_gene_pairs,
)
from steps.fusion_tables import bedpe_lines, locate, table_lines, vcf_lines, write_lines
from steps.gzipped import gzip_writer
from steps.pizzly_json import GenePair, read_gene_pairs, settle_file
from steps.published import Published, TranscriptRow, transcript_ids, transcripts


class Pizzly(Step):
    """Lists gene fusions from kallisto's candidates (pizzly)."""

    tools = ("pizzly",)
    memory_mb = 2048

    fusion = Input("kallisto's fusion.txt.")
    fasta = Reference("transcripts.fa.gz")
    gtf = Reference("annotation.gtf.gz")
    cache = Reference("pizzly.cache")
    transcripts = Reference("transcripts.tsv")
    published = Reference("reference.json")
    fusions = Output("{sample}.json", help="pizzly's own, with the reads of each fusion.")
    sequences = Output("{sample}.fusions.fasta", help="The sequence of each pair of isoforms.")
    table = Output(
        "{sample}.fusions.tsv", help="One gene pair a line, with its place on the genome; A is the 5' partner."
    )
    bedpe = Output("{sample}.fusions.bedpe", help="The breakpoints as BEDPE.")
    vcf = Output("{sample}.fusions.vcf", help="The breakpoints as VCF: two breakends (BND) a fusion.")
    unfiltered_files = Output(
        "{sample}.unfiltered.json.gz",
        "{sample}.unfiltered.fusions.fasta.gz",
        optional=True,
        help="What pizzly had before it filtered; only with `--unfiltered`.",
    )

    align_score: int = Param(
        2, minimum=0, help="Mismatches allowed in a read. Always passed: pizzly itself has no default."
    )
    insert_size: int = Param(400, minimum=1, help="Longest fragment of the library.")
    k: int = Param(31, minimum=3, maximum=31, help="k-mer size of kallisto's index; held against the reference's.")

    unfiltered: bool = Param(
        False, help="Keep what pizzly had before it filtered, gzipped: of a large sample, hundreds of megabytes."
    )

    def run(self, job: Job) -> None:
        """Checks candidates and reference, runs pizzly on a copy of the cache, puts its fusions on the genome."""
        published = Published.read(job.reference("published"))
        self._require_fit(job, published)
        self._run_pizzly(job, published)
        genes = list(_read(job, job.output("fusions")))
        self._settle(job, genes)
        rows = transcripts(job.reference("transcripts"))
        listed = {frozenset((pair.name_a, pair.name_b)) for pair in genes}
        unlisted = unlisted_gene_pairs(job.input("fusion"), rows, listed)
        gene_of = transcripts_of(unlisted, rows)
        structures = load_structures(job.reference("gtf"), _named(genes) | gene_of.keys())
        _write_tables(job, genes, rows, structures)
        _warn_of_lost_pairs(job, without_neighbours(unlisted, gene_of, structures))
        version = _version(job)
        job.version("pizzly", version)
        job.note(pizzly_version=version)

    def check(self, job: Job) -> None:
        """Reconciles the candidates, the fusions, their sequences and the table."""
        if job.metrics["candidates"] != job.metrics["fusion_rows"]:
            raise InvalidOutput(
                f"pizzly read {job.metrics['candidates']} of the {job.metrics['fusion_rows']} candidates of sample "
                f"{job.sample}; all must be read. Run kallisto and pizzly again."
            )
        fusions = 0
        records: set[str] = set()
        for genes in _read(job, job.output("fusions")):
            fusions += 1
            records.update(pair.record for pair in genes.isoforms)
        with job.output("table").open(encoding="utf-8") as lines:
            rows = sum(1 for _ in lines) - 1
        if rows != fusions:
            raise InvalidOutput(
                f"pizzly's JSON of sample {job.sample} has {fusions} fusions and the table {rows} rows; run it again."
            )
        _require_sequences(job, records)
        job.note(fusions=fusions)

    def _run_pizzly(self, job: Job, published: Published) -> None:
        # --cache is read and written; the shared one is never handed out.
        cache = job.work / ".pizzly.cache"
        shutil.copyfile(published.require(job.reference("cache"), "pizzly.cache", content=True), cache)
        output = job.run(
            "pizzly",
            *(
                "--version-check",
                0,
                "-k",
                self.k,
                "--gtf",
                published.require(job.reference("gtf"), "annotation.gtf.gz"),
            ),
            *("--cache", cache, "--align-score", self.align_score, "--insert-size", self.insert_size),
            *("--fasta", published.require(job.reference("fasta"), "transcripts.fa.gz")),
            *("--output", job.work / job.sample, job.input("fusion")),
            environment={"HOME": str(job.work)},
        )
        cache.unlink()
        _require_loaded(job, output, published)
        kept, candidates = _kept(job, output)
        job.note(kept=kept, candidates=candidates)

    def _settle(self, job: Job, genes: list[GenePair]) -> None:
        """Makes the JSON the same at each run; holds the unfiltered one against it, and keeps that only on request."""
        settle_file(job.output("fusions"))
        plain = [path.with_suffix("") for path in job.outputs("unfiltered_files")]
        job.note(fusions_unfiltered=count_unfiltered(job, plain[0], genes))
        if self.unfiltered:
            settle_file(plain[0])
            for path, zipped in zip(plain, job.outputs("unfiltered_files"), strict=True):
                with path.open("rb") as source, gzip_writer(zipped) as out:
                    shutil.copyfileobj(source, out, 1 << 20)
        for path in plain:
            path.unlink()

    def _require_fit(self, job: Job, published: Published) -> None:
        if published.k != self.k:
            raise MissingInput(
                f"The reference was indexed with k={published.k}, pizzly is asked to use k={self.k}; they must be "
                f"equal. Say --k {published.k}, or build the reference with k={self.k}."
            )
        fusion = job.input("fusion")
        if not fusion.is_file():
            raise MissingInput(f"fusion.txt of sample {job.sample} is not there; run kallisto again.")
        try:
            rows = sum(count_candidates(fusion, job.sample))
        except InvalidOutput as error:
            raise MissingInput(error.message) from error
        for step, metrics in job.upstream_metrics.items():
            if metrics.get("fusion_rows", rows) != rows:
                raise MissingInput(
                    f"fusion.txt of sample {job.sample} has {rows} candidates, {step} wrote {metrics['fusion_rows']}; "
                    f"run {step} again."
                )
        job.note(fusion_rows=rows)
        known = set(transcript_ids(job.reference("transcripts")))
        if strangers := named_transcripts(fusion) - known:
            raise MissingInput(
                f"fusion.txt of sample {job.sample} names {len(strangers)} transcripts that the reference does not "
                f"have (such as {min(strangers)}): kallisto used another index. Run kallisto again with this reference."
            )


def _named(genes: list[GenePair]) -> set[str]:
    """The transcripts of the fusions' pairs of isoforms."""
    isoforms = (pair for gene_pair in genes for pair in gene_pair.isoforms)
    return {name for pair in isoforms for name in (pair.transcript_a, pair.transcript_b)}


def _write_tables(
    job: Job, genes: list[GenePair], rows: dict[str, TranscriptRow], structures: dict[str, TranscriptStructure]
) -> None:
    fusions = locate(genes, structures)
    chromosomes = list(dict.fromkeys(row.chromosome for row in rows.values() if row.chromosome))
    write_lines(job.output("table"), table_lines(job.sample, fusions, rows))
    write_lines(job.output("bedpe"), bedpe_lines(fusions))
    write_lines(job.output("vcf"), vcf_lines(fusions, chromosomes))


def _warn_of_lost_pairs(job: Job, lost: dict[tuple[str, str], int]) -> None:
    """Counts the gene pairs with many split reads that pizzly does not list; warns in the log and in the receipt."""
    job.note(lost_gene_pairs=len(lost))
    if lost:
        examples = ", ".join(f"{a}-{b} ({count} reads)" for (a, b), count in list(lost.items())[:3])
        warning = (
            f"pizzly lists no fusion for {len(lost)} gene pair(s) of sample {job.sample} that at least "
            f"{WELL_SUPPORTED} split reads each support, such as {examples}. Where another gene has the same "
            "transcripts pizzly drops every read of both: reference.json lists such genes under hidden_genes. Build "
            "the reference without the copies."
        )
        job.note(warning=warning)
        print(f"Warning: {warning}", file=sys.stderr, flush=True)


def count_unfiltered(job: Job, path: Path, genes: list[GenePair]) -> int:
    """Fusions before pizzly filtered. Raises InvalidOutput when the filtered ones are not all among them."""
    strangers = {(pair.id_a, pair.id_b) for pair in genes}
    count = 0
    for pair in _read(job, path):
        count += 1
        strangers.discard((pair.id_a, pair.id_b))
    if strangers:
        raise InvalidOutput(
            f"pizzly's files of sample {job.sample} contradict each other: {len(strangers)} of {len(genes)} fusions "
            f"are not in {path.name}; run pizzly again."
        )
    return count


def _require_loaded(job: Job, output: ToolOutput, published: Published) -> None:
    loaded = output.find(r"loaded (\d+) genes and (\d+) transcripts")
    found = (int(loaded[1]), int(loaded[2])) if loaded else (0, 0)
    promised = (published.pizzly_genes, published.pizzly_transcripts)
    if found != promised:
        raise InvalidOutput(
            f"pizzly loaded {found[0]} genes and {found[1]} transcripts for sample {job.sample}, the reference has "
            f"{promised[0]} and {promised[1]}; with fewer it misses fusions. Build the reference again."
        )


def _kept(job: Job, output: ToolOutput) -> tuple[int, int]:
    counts = output.find(r"Number of kept records (\d+) out of (\d+)")
    if counts is None:
        raise InvalidOutput(f"pizzly did not tell how many candidates of sample {job.sample} it read; run it again.")
    return int(counts[1]), int(counts[2])


def _read(job: Job, path: Path) -> Iterator[GenePair]:
    try:
        yield from read_gene_pairs(path)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InvalidOutput(
            f"pizzly left no readable {path.name} for sample {job.sample} ({error!r}), though it ended well; run it "
            "again."
        ) from error


def _require_sequences(job: Job, records: set[str]) -> None:
    """Every pair of isoforms in the JSON has its sequence in the FASTA."""
    path = job.output("sequences")
    lost = records
    if path.is_file():
        with path.open(encoding="utf-8") as lines:
            lost = records.difference(line[1:].split()[0] for line in lines if line.startswith(">"))
    if lost:
        raise InvalidOutput(
            f"{path.name} lacks the sequences of {len(lost)} fusions (such as {min(lost)}) that {job.sample}.json "
            "lists; run pizzly again."
        )


def _version(job: Job) -> str:
    version = job.run("pizzly", "--version-check", 0, "--version").find(r"pizzly version: (\S+)")
    return version[1] if version else "unknown"
