"""Builds what every sample shares: kallisto's index and pizzly's cache from one FASTA and one GTF.

Built once and together: pizzly reports nothing, with exit code 0, when index, FASTA and annotation have other ids, and
several of its processes writing one cache at a time leave a torn one. `reference.json` tells the cells what to expect.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from batch_pipeline import Input, InvalidOutput, Job, MissingInput, Output, Param, Scope, Step
from steps.annotation import UNSPEAKABLE, Annotation, Transcript, write_gtf
from steps.candidates import FUSION_HEADER
from steps.copies import Copy, hidden_genes, pseudoautosomal_copies, remove_genes
from steps.gtf import read_gtf
from steps.identifiers import UNSAFE, bare_id, matching_ids, safe_ids
from steps.published import FORMAT, TRANSCRIPT_COLUMNS, FileOf
from steps.sequences import Sequence, read_fasta, write_fasta

#: Share of the FASTA's transcripts that must be in the GTF. Ensembl's cDNA has those of alternative haplotypes too,
#: which its GTF leaves out, so it is not all of them.
_LEAST_ANNOTATED: Final = 0.5


class BuildReference(Step):
    """Builds kallisto's index and pizzly's cache from a FASTA of transcripts and a GTF."""

    scope = Scope.REFERENCE
    #: Enough for a third of the human transcriptome; all of it needs about 10 GB.
    tools = ("kallisto", "pizzly")
    memory_mb = 6144

    fasta = Input("Transcripts (cDNA), ids as in the GTF.")
    gtf = Input("Genes, transcripts and exons with biotypes, as Ensembl and GENCODE publish them.")
    index = Output("kallisto.idx")
    cache = Output("pizzly.cache")
    transcriptome = Output("transcripts.fa.gz", help="The FASTA with the tools' ids.")
    annotation = Output("annotation.gtf.gz", help="The GTF's gene, transcript, exon and CDS lines.")
    transcripts = Output("transcripts.tsv", help="Each transcript of the FASTA with its gene.")
    published = Output("reference.json", help="Counts and checksums that the cells hold against what they get.")

    k: int = Param(31, choices=tuple(range(3, 32, 2)), help="k-mer size of the index: odd, at most 31.")

    def run(self, job: Job) -> None:
        """Normalises FASTA and GTF, refuses a pair that does not fit, builds index and cache."""
        sources = _Sources(read_fasta(job.input("fasta")), read_gtf(job.input("gtf")))
        _require_usable(job, sources.annotation)
        _require_match(job, sources)
        left_out = sources.leave_out_copies()
        hidden = list(hidden_genes(sources.annotation, sources.sequences, sources.pairs))
        self._write(job, sources)
        kmers = self._build_index(job)
        genes, transcripts = self._build_cache(job)
        _note(job, sources, kmers)
        _warn(job, hidden)
        self._publish(job, {"genes": genes, "transcripts": transcripts}, left_out, hidden)

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

    def _write(self, job: Job, sources: _Sources) -> None:
        """Writes FASTA, GTF and table of transcripts, with ids that pizzly can read."""
        annotation = sources.annotation
        ids = safe_ids([*sources.sequences, *(annotation.transcripts.keys() - sources.pairs.values())], UNSAFE)
        gene_ids = safe_ids(annotation.genes, UNSPEAKABLE)
        write_fasta(job.input("fasta"), job.output("transcriptome"), {name: ids[name] for name in sources.sequences})
        published = {annotated: name for name, annotated in sources.pairs.items()}
        names = {name: ids[published.get(name, name)] for name in annotation.transcripts}
        write_gtf(job.output("annotation"), annotation.genes.values(), names, gene_ids)
        _write_transcripts(job.output("transcripts"), sources, ids, gene_ids)
        job.note(ids_mapped=sum(ids[name] != name for name in sources.sequences))

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

    def _publish(self, job: Job, pizzly: dict[str, int], left_out: list[Copy], hidden: list[Copy]) -> None:
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
            "left_out": [vars(copy) for copy in left_out],
            "hidden_genes": [vars(copy) for copy in hidden],
            "files": {path.name: vars(FileOf.of(path)) for path in built},
            "sources": {
                port: {"name": job.input(port).name, **vars(FileOf.of(job.input(port)))} for port in ("fasta", "gtf")
            },
            "versions": versions,
        }
        job.output("published").write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")


@dataclass
class _Sources:
    """FASTA and GTF as they were read, and what they have in common."""

    sequences: dict[str, Sequence]
    annotation: Annotation
    #: Id in the FASTA -> id in the GTF.
    pairs: dict[str, str] = field(init=False)

    def __post_init__(self) -> None:
        self.pairs = matching_ids(self.sequences, self.annotation.transcripts)

    def leave_out_copies(self) -> list[Copy]:
        """Takes the pseudoautosomal genes of chromosome Y out of both and returns them."""
        copies = pseudoautosomal_copies(self.annotation, self.sequences, self.pairs)
        removed = remove_genes(self.annotation, [copy.gene for copy in copies])
        for name in [name for name, annotated in self.pairs.items() if annotated in removed]:
            del self.pairs[name], self.sequences[name]
        return copies

    def transcript(self, name: str) -> Transcript | None:
        """The GTF's transcript of an id in the FASTA."""
        return self.annotation.transcripts[self.pairs[name]] if name in self.pairs else None


def _require_usable(job: Job, annotation: Annotation) -> None:
    gtf = job.input("gtf").name
    if not annotation.genes:
        raise MissingInput(
            f"{gtf} has no genes with transcripts; it needs gene, transcript and exon lines. Give another GTF."
        )
    if not any(transcript.coding for transcript in annotation.transcripts.values()):
        raise MissingInput(
            f"{gtf} calls nothing protein_coding (gene_biotype or gene_type, and transcript_…); pizzly reports fusions "
            "of coding genes alone. Give a GTF with biotypes."
        )


def _require_match(job: Job, sources: _Sources) -> None:
    """Most of the FASTA must be annotated, and as long as its exons are."""
    fasta, gtf = job.input("fasta").name, job.input("gtf").name
    sequences, pairs = sources.sequences, sources.pairs
    if len(pairs) < _LEAST_ANNOTATED * len(sequences):
        bare = {bare_id(name) for name in sources.annotation.transcripts}
        versions = sum(bare_id(name) in bare for name in sequences) > len(pairs)
        remedy = (
            "they differ in version only: take both from the same release" if versions else "take both from one release"
        )
        raise MissingInput(
            f"{gtf} knows {len(pairs)} of the {len(sequences)} transcripts of {fasta} (such as "
            f"{next(iter(sequences.keys() - pairs.keys()))}); pizzly would find little or nothing. FASTA and GTF must "
            f"belong together: {remedy}."
        )
    # kallisto's positions are on the sequence, pizzly's on the exons. A few may differ, as RefSeq's from the genome.
    other = _of_other_length(sources)
    if len(other) > _LEAST_ANNOTATED * len(pairs):
        name = other[0]
        exons = sources.annotation.transcripts[pairs[name]].length
        raise MissingInput(
            f"{len(other)} of {len(pairs)} transcripts have other lengths in {fasta} and {gtf} ({name}: "
            f"{sequences[name].length} and {exons} bases); breakpoints would be wrong. Take both from one release."
        )


def _of_other_length(sources: _Sources) -> list[str]:
    """Ids in the FASTA of transcripts that are not as long as their exons."""
    transcripts = sources.annotation.transcripts
    return [
        name
        for name, annotated in sources.pairs.items()
        if sources.sequences[name].length != transcripts[annotated].length
    ]


def _write_transcripts(path: Path, sources: _Sources, ids: Mapping[str, str], gene_ids: Mapping[str, str]) -> None:
    with path.open("w", encoding="utf-8") as out:
        out.write("\t".join(TRANSCRIPT_COLUMNS) + "\n")
        for name, sequence in sources.sequences.items():
            cells = [ids[name], str(sequence.length)]
            if transcript := sources.transcript(name):
                gene = transcript.gene
                cells += [gene_ids[gene.id], gene.name, gene.chromosome, gene.strand, transcript.biotype, name, gene.id]
            else:
                cells += ["", "", "", "", "", name, ""]
            out.write("\t".join(cells) + "\n")


def _note(job: Job, sources: _Sources, kmers: int) -> None:
    annotation = sources.annotation
    job.note(
        transcripts=len(sources.sequences),
        annotated=len(sources.pairs),
        genes=len(annotation.genes),
        kmers=kmers,
        genes_without_transcripts=annotation.dropped_genes,
        gene_names_mended=annotation.renamed,
        exon_orders_mended=annotation.reordered,
        exons_without_transcript=annotation.strays,
        sequences_with_u=sum(sequence.rna for sequence in sources.sequences.values()),
        transcripts_of_other_length=len(_of_other_length(sources)),
    )


def _warn(job: Job, hidden: list[Copy]) -> None:
    """Says in the log, and notes for the `reference` command, which genes cannot be seen."""
    if hidden:
        copy, genes = hidden[0], "gene" if len(hidden) == 1 else "genes"
        warning = (
            f"Fusions of {len(hidden)} protein-coding {genes} cannot be seen (such as {copy.name}, {copy.gene}): "
            f"another gene has the same transcripts ({copy.other}), and pizzly drops reads that fit both. "
            "reference.json lists them under hidden_genes; leave one gene of each two out of FASTA and GTF, or take a "
            "GTF without patches and haplotypes."
        )
        print(warning)
        job.note(warning=warning)


def _version(job: Job, program: str, *arguments: object) -> str:
    version = job.run(program, *arguments).find(r"version:? (\d\S*)")
    return version[1] if version else "unknown"
