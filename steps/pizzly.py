"""Fusions out of kallisto's candidates with pizzly.

pizzly ends with exit code 0 and "no fusions" on a missing or cut-off input, on a cut-off cache and on a reference that
does not fit the index. So all it loads is held against the reference's promise before, and its counts after.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from batch_pipeline import Input, InvalidOutput, Job, MissingInput, Output, Param, Reference, Step, ToolOutput
from steps.kallisto import count_candidates
from steps.published import Published, transcript_ids

#: As upstream's own flattening script names them.
TABLE_COLUMNS: Final = (
    "geneA.name",
    "geneA.id",
    "geneB.name",
    "geneB.id",
    "paircount",
    "splitcount",
    "transcripts.list",
)
_TRANSCRIPT = re.compile(r"\(([^,()]+),\d+,[A-Z]+\)")
#: A read of a pair in pizzly's JSON, one a line: what stands before its split position, that, its direction, the rest.
_READ = re.compile(
    r'(\s*"(read[12])" : .*"splitpos" : (-?\d+), "direction" : ")(true|false)(", "kmerpos" : .*)', re.DOTALL
)
_OPPOSITE: Final = {"true": "false", "false": "true"}


class Pizzly(Step):
    """Lists gene fusions from kallisto's candidates (pizzly)."""

    files = ("fastq.py", "kallisto.py", "published.py")
    tools = ("pizzly",)
    memory_mb = 2048

    fusion = Input("kallisto's fusion.txt.")
    fasta = Reference("transcripts.fa.gz")
    gtf = Reference("annotation.gtf.gz")
    cache = Reference("pizzly.cache")
    transcripts = Reference("transcripts.tsv")
    published = Reference("reference.json")
    fusions = Output("{sample}.json")
    sequences = Output("{sample}.fusions.fasta")
    unfiltered = Output("{sample}.unfiltered.json", "{sample}.unfiltered.fusions.fasta")
    table = Output("{sample}.fusions.tsv", help="One gene pair a line; geneA is the 5' partner.")

    align_score: int = Param(
        2, minimum=0, help="Mismatches allowed in a read. Always passed: pizzly itself has no default."
    )
    insert_size: int = Param(400, minimum=1, help="Longest fragment of the library.")
    k: int = Param(31, minimum=3, maximum=31, help="k-mer size of kallisto's index; held against the reference's.")

    def run(self, job: Job) -> None:
        """Checks candidates and reference, runs pizzly on a copy of the cache, flattens its result."""
        published = Published.read(job.reference("published"))
        self._require_fit(job, published)
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
        for made in (job.output("fusions"), job.outputs("unfiltered")[0]):
            _settle(made)
        job.output("table").write_text("".join(flatten(_read(job, job.output("fusions")))), encoding="utf-8")
        job.version("pizzly", _version(job))

    def check(self, job: Job) -> None:
        """Reconciles the candidates, the filtered and unfiltered fusions and the table."""
        if job.metrics["candidates"] != job.metrics["fusion_rows"]:
            raise InvalidOutput(
                f"pizzly read {job.metrics['candidates']} of the {job.metrics['fusion_rows']} candidates of sample "
                f"{job.sample}; all must be read. Run kallisto and pizzly again."
            )
        genes = _read(job, job.output("fusions"))
        unfiltered = _read(job, job.outputs("unfiltered")[0])
        strangers = {_pair(gene) for gene in genes} - {_pair(gene) for gene in unfiltered}
        rows = job.output("table").read_text(encoding="utf-8").splitlines()[1:]
        if strangers or len(rows) != len(genes):
            raise InvalidOutput(
                f"pizzly's tables of sample {job.sample} contradict each other ({len(genes)} fusions, {len(rows)} "
                f"rows, {len(strangers)} not among the unfiltered); run pizzly again."
            )
        _require_sequences(job, genes)
        job.note(fusions=len(genes), fusions_unfiltered=len(unfiltered))

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
        if strangers := _named(fusion) - known:
            raise MissingInput(
                f"fusion.txt of sample {job.sample} names {len(strangers)} transcripts that the reference does not "
                f"have (such as {min(strangers)}): kallisto used another index. Run kallisto again with this reference."
            )


def flatten(genes: Iterable[dict[str, Any]]) -> Iterable[str]:
    """Lines of the fusion table, header first."""
    yield "\t".join(TABLE_COLUMNS) + "\n"
    for gene in genes:
        cells = (
            *(gene["geneA"]["name"], gene["geneA"]["id"], gene["geneB"]["name"], gene["geneB"]["id"]),
            *(str(gene["paircount"]), str(gene["splitcount"])),
            ";".join(isoforms["fasta_record"] for isoforms in gene["transcripts"]),
        )
        yield "\t".join(cells) + "\n"


def settle_directions(lines: Iterable[str]) -> Iterable[str]:
    """The lines of pizzly's JSON, with the direction of each split second read opposite to its mate's.

    pizzly 0.37.3 writes what happened to be in memory there (valgrind names it; about one run in a hundred differs from
    the others). Wherever else a pair stands its reads have opposite directions. No fusion and no count depends on it.
    """
    first = "false"
    for line in lines:
        read = _READ.fullmatch(line)
        if read is None:
            yield line
            continue
        head, name, split_at, direction, rest = read.groups()
        if name == "read1":
            first = direction
        elif int(split_at) >= 0:
            direction = _OPPOSITE[first]
        yield f"{head}{direction}{rest}"


def _settle(path: Path) -> None:
    if path.is_file():
        with path.open(encoding="utf-8", newline="") as lines:
            settled = "".join(settle_directions(lines))
        path.write_text(settled, encoding="utf-8", newline="")


def _named(fusion: Path) -> set[str]:
    """The transcripts in the last two columns of a fusion.txt."""
    named: set[str] = set()
    with fusion.open(encoding="utf-8") as lines:
        next(lines)
        for line in lines:
            named.update(_TRANSCRIPT.findall("\t".join(line.split("\t")[-2:])))
    return named


def _pair(gene: dict[str, Any]) -> tuple[str, str]:
    return gene["geneA"]["id"], gene["geneB"]["id"]


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


def _read(job: Job, path: Path) -> list[dict[str, Any]]:
    try:
        genes: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["genes"]
        for gene in genes:
            _pair(gene), gene["paircount"], gene["splitcount"], gene["transcripts"]
        return genes
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InvalidOutput(
            f"pizzly left no readable {path.name} for sample {job.sample} ({error!r}), though it ended well; run it "
            "again."
        ) from error


def _require_sequences(job: Job, genes: list[dict[str, Any]]) -> None:
    """Every pair of isoforms in the JSON has its sequence in the FASTA."""
    path = job.output("sequences")
    records = {isoforms["fasta_record"] for gene in genes for isoforms in gene["transcripts"]}
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    lost = records - {line[1:].split()[0] for line in lines if line.startswith(">")}
    if lost:
        raise InvalidOutput(
            f"{path.name} lacks the sequences of {len(lost)} fusions (such as {min(lost)}) that {job.sample}.json "
            "lists; run pizzly again."
        )


def _version(job: Job) -> str:
    version = job.run("pizzly", "--version-check", 0, "--version").find(r"pizzly version: (\S+)")
    return version[1] if version else "unknown"
