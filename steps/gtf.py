"""Reads a GTF, in any order of its lines, into an `Annotation`.

pizzly wants each gene before its transcripts and each transcript before its exons; it takes a transcript without exons,
or a GTF that is cut off, in silence. Lines that are not there are made from those that are, where that leaves no doubt;
the rest is refused by line and name.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from batch_pipeline import MissingInput
from steps.annotation import UNSPEAKABLE, Annotation, Gene, Transcript
from steps.published import CODING
from steps.sequences import reading

_ATTRIBUTE = re.compile(r'(\w+)\s+(?:"([^"]*)"|([^\s;]+))')
_GENE_ID = re.compile(r'\bgene_id\s+(?:"([^"]*)"|([^\s;]+))')
_TRANSCRIPT_ID = re.compile(r'\btranscript_id\s+(?:"([^"]*)"|([^\s;]+))')
_GFF3_VERSION = re.compile(r"##gff-version\s*3")
_GFF3_ATTRIBUTE = re.compile(r"(ID|Parent)=")
#: RefSeq's word for the transcripts of coding genes.
_REFSEQ_CODING: Final = "mRNA"


def read_gtf(source: Path) -> Annotation:
    """Reads the gene, transcript, exon and CDS lines of a GTF.

    Genes without a line are made from their transcripts, transcripts without one from their exons. Raises MissingInput,
    by line and name, for what pizzly would take in silence.
    """
    reader = _GtfReader(source=source)
    with reading(source) as lines:
        for number, line in enumerate(lines, 1):
            if not line.startswith("#"):
                if line.strip():
                    reader.take(number, line.rstrip("\n"))
            elif _GFF3_VERSION.match(line):
                raise _is_gff3(source)
    return reader.finish()


@dataclass(kw_only=True)
class _GtfReader:
    """Collects the lines of a GTF."""

    source: Path
    annotation: Annotation = field(default_factory=Annotation)
    #: Transcript, by its id without version and its gene's, as the attributes have them.
    by_attributes: dict[tuple[str, str], Transcript] = field(default_factory=dict)
    #: One copy of each text that stands on many lines.
    texts: dict[str, str] = field(default_factory=dict)

    def take(self, number: int, line: str) -> None:
        columns = line.split("\t")
        if len(columns) != 9:
            raise self._refusal(number, f"has {len(columns)} columns, not 9; is the file a whole GTF?")
        kind, attributes = columns[2], columns[8]
        if kind not in ("gene", "transcript", "exon", "CDS"):
            return
        if _GFF3_ATTRIBUTE.match(attributes):
            raise _is_gff3(self.source)
        if attributes.count('"') % 2:
            raise self._refusal(number, "ends within an attribute; is the file a whole GTF?")
        try:
            start, end = int(columns[3]), int(columns[4])
        except ValueError as error:
            raise self._refusal(number, f"has {columns[3]}..{columns[4]} for the place of its {kind}.") from error
        if not 0 < start <= end:
            raise self._refusal(number, f"has {start}..{end} for the place of its {kind}; a GTF counts from 1.")
        if kind == "gene":
            self._take_gene(number, columns, start, end)
        elif kind == "transcript":
            self._take_transcript(number, columns, start, end)
        else:
            self._take_part(number, columns, start, end)

    def finish(self) -> Annotation:
        """Makes the lines that the file does not have, and leaves out genes without transcripts."""
        result = self.annotation
        for transcript in result.transcripts.values():
            if not transcript.exons:
                raise MissingInput(
                    f"{self.source.name}: transcript {transcript.id} has no exon lines; without them pizzly misses "
                    "fusions. Give the whole GTF."
                )
            if transcript.scattered and not transcript.listed:
                raise self._two_places(f"transcript {transcript.id}, which has no line of its own, has exons")
            gene = transcript.gene
            gene.transcripts.append(transcript)
            if not gene.listed:
                if (gene.chromosome, gene.strand) != (transcript.chromosome, transcript.strand):
                    raise self._two_places(f"gene {gene.id}, which has no line of its own, has transcripts")
                gene.start, gene.end = min(gene.start, transcript.start), max(gene.end, transcript.end)
                if not gene.biotype and transcript.biotype == CODING:
                    gene.biotype = CODING
            exons = [tuple(transcript.exons[at : at + 2]) for at in range(0, len(transcript.exons), 2)]
            result.reordered += exons != transcript.ordered_exons()
        filled = {name: gene for name, gene in result.genes.items() if gene.transcripts}
        result.dropped_genes = len(result.genes) - len(filled)
        result.genes = filled
        return result

    def _take_gene(self, number: int, columns: list[str], start: int, end: int) -> None:
        attributes = _attributes(columns)
        name = _versioned(attributes, "gene")
        gene = self.annotation.genes.get(name)
        if gene is None:
            gene = self._new_gene(number, name, columns, attributes, start, end)
        elif gene.listed:
            raise self._refusal(number, f"has gene {name} a second time; remove one of the two.")
        elif (gene.chromosome, gene.strand) != (columns[0], columns[6]):
            raise self._two_places(f"gene {name} has transcripts")
        else:
            gene.biotype = self._text(_biotype(attributes, "gene")) or gene.biotype
            gene.start, gene.end = start, end
        gene.listed = True

    def _take_transcript(self, number: int, columns: list[str], start: int, end: int) -> None:
        attributes = _attributes(columns)
        key = (attributes.get("gene_id", ""), attributes.get("transcript_id", ""))
        transcript = self.by_attributes.get(key)
        if transcript is None:
            transcript = self._new_transcript(number, columns, attributes, start, end)
            self.by_attributes[key] = transcript
        elif transcript.listed:
            raise self._refusal(number, f"has transcript {transcript.id} a second time; remove one of the two.")
        else:
            place = self._text(columns[0]), self._text(columns[6])
            transcript.scattered |= place != (transcript.chromosome, transcript.strand)
            transcript.chromosome, transcript.strand = place
            transcript.biotype, transcript.start, transcript.end = self._kind_of(columns, attributes), start, end
        transcript.listed = True

    def _take_part(self, number: int, columns: list[str], start: int, end: int) -> None:
        """An exon or CDS line. Most lines are such, so of their attributes the ids alone are read."""
        gene_id, transcript_id = (_value(pattern, columns[8]) for pattern in (_GENE_ID, _TRANSCRIPT_ID))
        if transcript_id == "":
            self.annotation.strays += columns[2] == "exon"
            return
        key = (gene_id or "", transcript_id or "")
        transcript = self.by_attributes.get(key)
        if transcript is None:
            transcript = self._new_transcript(number, columns, _attributes(columns), start, end)
            self.by_attributes[key] = transcript
        if columns[2] == "CDS":
            transcript.cds.extend((start, end, int(columns[7]) if columns[7] in ("0", "1", "2") else -1))
            return
        transcript.exons.extend((start, end))
        if (transcript.chromosome, transcript.strand) != (columns[0], columns[6]):
            transcript.scattered = True
        elif not transcript.listed:
            transcript.start, transcript.end = min(transcript.start, start), max(transcript.end, end)

    def _new_gene(
        self, number: int, name: str, columns: list[str], attributes: dict[str, str], start: int, end: int
    ) -> Gene:
        if not name:
            raise self._refusal(number, f"is a line of kind {columns[2]} without a gene_id; each needs one.")
        # RefSeq has the name in `gene`, StringTie in `ref_gene_name`.
        names = (attributes.get(key) for key in ("gene_name", "gene", "ref_gene_name"))
        given = next(filter(None, names), name)
        spoken = UNSPEAKABLE.sub("_", given)
        self.annotation.renamed += spoken != given
        gene = Gene(
            id=name,
            name=spoken,
            biotype=self._text(_biotype(attributes, "gene")),
            chromosome=self._text(columns[0]),
            strand=self._text(columns[6]),
            source=self._text(columns[1]),
            start=start,
            end=end,
            listed=False,
        )
        self.annotation.genes[name] = gene
        return gene

    def _new_transcript(
        self, number: int, columns: list[str], attributes: dict[str, str], start: int, end: int
    ) -> Transcript:
        name, gene_id = _versioned(attributes, "transcript"), _versioned(attributes, "gene")
        if not name:
            raise self._refusal(number, f"is a line of kind {columns[2]} without a transcript_id; each needs one.")
        gene = self.annotation.genes.get(gene_id)
        if gene is None:
            gene = self._new_gene(number, gene_id, columns, attributes, start, end)
        if name in self.annotation.transcripts:
            other = self.annotation.transcripts[name].gene.id
            raise self._refusal(
                number,
                f"has transcript {name} in gene {gene_id}, and before in {other}; it must be in one gene. Remove one.",
            )
        transcript = Transcript(
            id=name,
            gene=gene,
            biotype=self._kind_of(columns, attributes),
            chromosome=self._text(columns[0]),
            strand=self._text(columns[6]),
            source=self._text(columns[1]),
            start=start,
            end=end,
            listed=False,
        )
        self.annotation.transcripts[name] = transcript
        return transcript

    def _kind_of(self, columns: list[str], attributes: dict[str, str]) -> str:
        # After gffread `biotype` (Ensembl) or `gbkey` (RefSeq); up to Ensembl 76 it stands in the source column.
        kinds = (_biotype(attributes, "transcript"), attributes.get("biotype"), attributes.get("gbkey"), columns[1])
        biotype = next(filter(None, kinds))
        return self._text(CODING if biotype == _REFSEQ_CODING else biotype)

    def _text(self, text: str) -> str:
        return self.texts.setdefault(text, text)

    def _refusal(self, number: int, reason: str) -> MissingInput:
        return MissingInput(f"{self.source.name}, line {number}, {reason}")

    def _two_places(self, what: str) -> MissingInput:
        return MissingInput(
            f"{self.source.name}: {what} on two chromosomes or strands, so where it lies cannot be known. Give each "
            "place an id of its own, or a GTF with gene and transcript lines."
        )


def _is_gff3(source: Path) -> MissingInput:
    return MissingInput(
        f"{source.name} is a GFF3, a GTF is needed. Get the GTF of the same release, or convert the unpacked file: "
        "gffread -T -F FILE.gff3 -o FILE.gtf"
    )


def _attributes(columns: list[str]) -> dict[str, str]:
    return {key: quoted or bare for key, quoted, bare in _ATTRIBUTE.findall(columns[8])}


def _value(pattern: re.Pattern[str], attributes: str) -> str | None:
    """The value of an attribute; None where it is not there."""
    match = pattern.search(attributes)
    return (match[1] or match[2] or "") if match else None


def _biotype(attributes: dict[str, str], kind: str) -> str:
    return attributes.get(f"{kind}_biotype") or attributes.get(f"{kind}_type") or ""


def _versioned(attributes: dict[str, str], kind: str) -> str:
    """An id as pizzly composes it: with its version, unless it has one."""
    name, version = attributes.get(f"{kind}_id", ""), attributes.get(f"{kind}_version", "")
    return f"{name}.{version}" if name and version and "." not in name else name
