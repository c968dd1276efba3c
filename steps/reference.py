"""Builds what every sample shares: kallisto's index and pizzly's cache from one FASTA and one GTF.

Built once and together: pizzly reports nothing, with exit code 0, when index, FASTA and annotation have other ids, and
several of its processes writing one cache at a time leave a torn one. `reference.json` tells the cells what to expect.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from batch_pipeline import Input, InvalidOutput, Job, MissingInput, Output, Param, Scope, Step
from steps.annotation import Annotation, normalise_fasta, normalise_gtf
from steps.kallisto import FUSION_HEADER
from steps.published import FORMAT, TRANSCRIPT_COLUMNS, FileOf

#: Share of the FASTA's transcripts that must be in the GTF. Ensembl's cDNA has those of alternative haplotypes too,
#: which its GTF leaves out, so it is not all of them.
_LEAST_ANNOTATED: Final = 0.5


class BuildReference(Step):
    """Builds kallisto's index and pizzly's cache from a FASTA of transcripts and a GTF."""

    scope = Scope.REFERENCE
    files = ("annotation.py", "fastq.py", "kallisto.py", "published.py")
    #: Enough for a third of the human transcriptome; all of it needs about 10 GB.
    tools = ("kallisto", "pizzly")
    memory_mb = 6144

    fasta = Input("Transcripts (cDNA), ids as in the GTF.")
    gtf = Input("Genes, transcripts and exons with biotypes, as Ensembl and GENCODE publish them.")
    index = Output("kallisto.idx")
    cache = Output("pizzly.cache")
    transcriptome = Output("transcripts.fa.gz", help="The FASTA with bare ids.")
    annotation = Output("annotation.gtf.gz", help="The GTF's gene, transcript and exon lines.")
    transcripts = Output("transcripts.tsv", help="Each transcript of the FASTA with its gene.")
    published = Output("reference.json", help="Counts and checksums that the cells hold against what they get.")

    k: int = Param(31, choices=tuple(range(3, 32, 2)), help="k-mer size of the index: odd, at most 31.")

    def run(self, job: Job) -> None:
        """Normalises FASTA and GTF, refuses a pair that does not fit, builds index and cache."""
        lengths = normalise_fasta(job.input("fasta"), job.output("transcriptome"))
        annotation = normalise_gtf(job.input("gtf"), job.output("annotation"))
        _require_usable(job, annotation)
        _require_match(job, lengths, annotation)
        _write_transcripts(job.output("transcripts"), lengths, annotation)
        kmers = self._build_index(job)
        genes, transcripts = self._build_cache(job)
        job.note(
            transcripts=len(lengths),
            annotated=sum(name in annotation.transcripts for name in lengths),
            genes=annotation.genes,
            kmers=kmers,
            genes_without_transcripts=annotation.dropped_genes,
            gene_names_mended=annotation.renamed,
        )
        self._publish(job, {"genes": genes, "transcripts": transcripts})

    def check(self, job: Job) -> None:
        """Holds what the tools loaded against the FASTA and the GTF."""
        content = json.loads(job.output("published").read_text(encoding="utf-8"))
        if content["kmers"] <= 0:
            raise InvalidOutput(
                f"kallisto's index has no k-mers of length {self.k}; the sequences are shorter. Check the FASTA."
            )
        if content["pizzly"]["genes"] != content["genes"]:
            raise InvalidOutput(
                f"pizzly loads {content['pizzly']['genes']} of the {content['genes']} genes from its cache; names with "
                "odd characters break it. Look at the GTF's gene names."
            )

    def _build_index(self, job: Job) -> int:
        output = job.run(
            *("kallisto", "index", "-k", self.k, "-i", job.output("index"), job.output("transcriptome")),
            name="kallisto index",
        )
        counted = output.find(r"contains (\d+) k-mers")
        return int(counted[1]) if counted else 0

    def _build_cache(self, job: Job) -> tuple[int, int]:
        """Makes the cache with no sample, then loads it as a cell will, and returns what pizzly counted."""
        nothing, discard = job.work / ".no_candidates.txt", job.work / ".discard"
        nothing.write_text(FUSION_HEADER + "\n", encoding="utf-8")
        counts = []
        for pattern in (r"GTF file contains (\d+) genes and (\d+) transcripts", r"loaded (\d+) genes and (\d+) transc"):
            output = job.run(
                "pizzly",
                *(
                    "--version-check",
                    0,
                    "-k",
                    self.k,
                    "--gtf",
                    job.output("annotation"),
                    "--cache",
                    job.output("cache"),
                ),
                *("--fasta", job.output("transcriptome"), "--align-score", 2, "--insert-size", 400),
                *("--output", discard, nothing),
                environment={"HOME": str(job.work)},
            )
            found = output.find(pattern)
            counts.append((int(found[1]), int(found[2])) if found else (0, 0))
        for left in (nothing, *job.work.glob(".discard*")):
            left.unlink()
        if counts[0] != counts[1]:
            raise InvalidOutput(
                f"pizzly wrote {counts[0]} genes and transcripts to its cache and read {counts[1]} back; the GTF has "
                "names that break it. Look for odd characters."
            )
        return counts[0]

    def _publish(self, job: Job, pizzly: dict[str, int]) -> None:
        """Writes reference.json, without a time, so that the same FASTA and GTF give the same bytes."""
        versions = {
            "kallisto": _version(job, "kallisto", "version"),
            "pizzly": _version(job, "pizzly", "--version-check", 0, "--version"),
        }
        for tool, version in versions.items():
            job.version(tool, version)
        built = (job.output(port) for port in ("index", "cache", "transcriptome", "annotation", "transcripts"))
        content: dict[str, Any] = {
            "format": FORMAT,
            "k": self.k,
            **job.metrics,
            "pizzly": pizzly,
            "files": {path.name: vars(FileOf.of(path)) for path in built},
            "sources": {
                port: {"name": job.input(port).name, **vars(FileOf.of(job.input(port)))} for port in ("fasta", "gtf")
            },
            "versions": versions,
        }
        job.output("published").write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _require_usable(job: Job, annotation: Annotation) -> None:
    gtf = job.input("gtf").name
    if not annotation.genes:
        raise MissingInput(
            f"{gtf} has no genes with transcripts; it needs gene, transcript and exon lines. Give another GTF."
        )
    if not annotation.coding_transcripts:
        raise MissingInput(
            f"{gtf} calls nothing protein_coding (gene_biotype or gene_type, and transcript_…); pizzly reports fusions "
            "of coding genes alone. Give a GTF with biotypes."
        )


def _require_match(job: Job, lengths: dict[str, int], annotation: Annotation) -> None:
    """Most of the FASTA must be annotated, and as long as its exons are."""
    fasta, gtf = job.input("fasta").name, job.input("gtf").name
    known = [name for name in lengths if name in annotation.transcripts]
    if len(known) < _LEAST_ANNOTATED * len(lengths):
        bare = {name.split(".")[0] for name in annotation.transcripts}
        versions = sum(name.split(".")[0] in bare for name in lengths) > len(known)
        remedy = (
            "they differ in version only: take both from the same release" if versions else "take both from one release"
        )
        raise MissingInput(
            f"{gtf} knows {len(known)} of the {len(lengths)} transcripts of {fasta} (such as {next(iter(lengths))}); "
            f"pizzly would find little or nothing. FASTA and GTF must belong together: {remedy}."
        )
    # kallisto's positions are on the sequence, pizzly's on the exons. A few may differ, as in pseudoautosomal copies.
    other = [name for name in known if lengths[name] != annotation.transcripts[name].length]
    if len(other) > _LEAST_ANNOTATED * len(known):
        name = other[0]
        raise MissingInput(
            f"{len(other)} of {len(known)} transcripts have other lengths in {fasta} and {gtf} ({name}: "
            f"{lengths[name]} and {annotation.transcripts[name].length} bases); breakpoints would be wrong. Take both "
            "from one release."
        )


def _write_transcripts(path: Path, lengths: dict[str, int], annotation: Annotation) -> None:
    with path.open("w", encoding="utf-8") as out:
        out.write("\t".join(TRANSCRIPT_COLUMNS) + "\n")
        for name, length in lengths.items():
            cells = [name, str(length)]
            if transcript := annotation.transcripts.get(name):
                gene = transcript.gene
                cells += [gene.id, gene.name, gene.chromosome, gene.strand, transcript.biotype, name, gene.id]
            else:
                cells += ["", "", "", "", "", name, ""]
            out.write("\t".join(cells) + "\n")


def _version(job: Job, program: str, *arguments: object) -> str:
    version = job.run(program, *arguments).find(r"version:? (\d\S*)")
    return version[1] if version else "unknown"
