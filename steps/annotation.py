"""Brings a FASTA of transcripts and a GTF into the one form that both kallisto and pizzly read rightly.

pizzly knows transcripts called `[A-Za-z0-9_.]+` alone and finds nothing for others; its cache loses its place at a gene
name with a space, at a gene without transcripts and at a transcript without exons. What can be mended without a doubt
is mended here and counted, the rest is refused by line and name. Files are read as a stream, a gene at a time.
"""

from __future__ import annotations

import gzip
import io
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Final

from batch_pipeline import MissingInput

_IDENTIFIER = re.compile(r"[A-Za-z0-9_.]+\Z")
_ATTRIBUTE = re.compile(r'(\w+) (?:"([^"]*)"|([^\s;]+))')
_UNSPEAKABLE = re.compile(r"[\s;,\"]+")
_GZIP_MAGIC: Final = b"\x1f\x8b"
_CODING: Final = "protein_coding"


@dataclass(frozen=True, kw_only=True)
class Gene:
    """A gene line."""

    id: str
    name: str
    biotype: str
    chromosome: str
    strand: str


@dataclass(kw_only=True)
class Transcript:
    """A transcript line with its exon lines."""

    id: str
    gene: Gene
    biotype: str
    line: str
    exons: list[str] = field(default_factory=list)
    length: int = 0


@dataclass(kw_only=True)
class Annotation:
    """What a GTF holds after it was brought into form."""

    genes: int = 0
    coding_transcripts: int = 0
    #: Genes without transcripts, which were left out.
    dropped_genes: int = 0
    #: Gene names with spaces or the like, in which `_` now stands.
    renamed: int = 0
    #: By id, in the order of the file. Their lines and exons are gone.
    transcripts: dict[str, Transcript] = field(default_factory=dict)


@contextmanager
def reading(path: Path) -> Iterator[IO[str]]:
    """Opens a text, gzipped or not. Raises MissingInput when it is not there, empty, torn or no text."""
    if not path.is_file() or path.stat().st_size == 0:
        raise MissingInput(f"{path.name} is not there or empty; give the reference's file.")
    with path.open("rb") as raw:
        zipped = raw.read(2) == _GZIP_MAGIC
        raw.seek(0)
        stream = gzip.GzipFile(fileobj=raw) if zipped else raw
        try:
            with io.TextIOWrapper(io.BufferedReader(stream), encoding="utf-8") as text:
                yield text
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise MissingInput(f"{path.name} is not a whole gzip file ({error}); get it again.") from error
        except UnicodeDecodeError as error:
            raise MissingInput(f"{path.name} is not a text ({error.reason}); give the reference's file.") from error


@contextmanager
def writing(path: Path) -> Iterator[IO[str]]:
    """Opens a gzipped text for writing; the same content makes the same bytes."""
    with (
        path.open("wb") as raw,
        gzip.GzipFile(filename="", fileobj=raw, mode="wb", compresslevel=6, mtime=0) as zipped,
        io.TextIOWrapper(zipped, encoding="utf-8", newline="\n") as text,
    ):
        yield text


def normalise_fasta(source: Path, target: Path) -> dict[str, int]:
    """Copies a FASTA with bare ids as names and returns each id's length, in order. Raises MissingInput by line."""
    lengths: dict[str, int] = {}
    name = ""
    with reading(source) as lines, writing(target) as out:
        for number, line in enumerate(lines, 1):
            if line.startswith(">"):
                _require_sequence(source, name, lengths)
                name = _fasta_id(source, number, line)
                if name in lengths:
                    raise MissingInput(
                        f"{source.name} has {name} twice (line {number}); ids must be unique. Remove one of the two."
                    )
                lengths[name] = 0
                out.write(f">{name}\n")
            elif name:
                lengths[name] += len(line.strip())
                out.write(line.strip() + "\n")
            elif line.strip():
                raise MissingInput(f"{source.name} is no FASTA: line {number} stands before the first '>'.")
    _require_sequence(source, name, lengths)
    if not lengths:
        raise MissingInput(f"{source.name} has no sequences; give the FASTA of the transcripts (cDNA).")
    return lengths


def _fasta_id(source: Path, number: int, line: str) -> str:
    words = line[1:].split()
    name = words[0].split("|", 1)[0] if words else ""
    if not _IDENTIFIER.match(name):
        raise MissingInput(
            f"{source.name}, line {number}: the id {name!r} has other characters than letters, digits, '_' and '.'; "
            "pizzly would find no fusion for it. Rename it in FASTA and GTF."
        )
    return name


def _require_sequence(source: Path, name: str, lengths: dict[str, int]) -> None:
    if name and lengths[name] == 0:
        raise MissingInput(f"{source.name}: {name} has no sequence; is the file cut off? Get it again.")


def normalise_gtf(source: Path, target: Path) -> Annotation:
    """Copies the gene, transcript and exon lines of a GTF, nested as pizzly wants them, and returns what it holds.

    Raises MissingInput, by line and name, for what pizzly would take in silence.
    """
    with reading(source) as lines, writing(target) as out:
        reader = _GtfReader(source=source, out=out)
        for number, line in enumerate(lines, 1):
            if not line.startswith("#") and line.strip():
                reader.take(number, line.rstrip("\n"))
        reader.close_gene()
    return reader.annotation


@dataclass(kw_only=True)
class _GtfReader:
    """Holds the gene that is being read; writes it when the next one starts."""

    source: Path
    out: IO[str]
    annotation: Annotation = field(default_factory=Annotation)
    seen: set[str] = field(default_factory=set)
    gene: Gene | None = None
    gene_line: str = ""
    held: dict[str, Transcript] = field(default_factory=dict)

    def take(self, number: int, line: str) -> None:
        columns = line.split("\t")
        if len(columns) != 9:
            raise self._refusal(number, f"has {len(columns)} columns, not 9; is the file a whole GTF?")
        kind = columns[2]
        if kind not in ("gene", "transcript", "exon"):
            return
        attributes = {key: quoted or bare for key, quoted, bare in _ATTRIBUTE.findall(columns[8])}
        gene_id = _versioned(attributes, "gene")
        if kind == "gene":
            self._start_gene(number, gene_id, columns, attributes)
            return
        if self.gene is None or gene_id != self.gene.id:
            raise self._refusal(
                number,
                f"is a {kind} of {gene_id or 'no gene'} outside that gene's block; sort genes, transcripts and exons.",
            )
        transcript_id = _versioned(attributes, "transcript")
        if kind == "transcript":
            self._add_transcript(number, transcript_id, columns, attributes)
        else:
            self._add_exon(number, transcript_id, columns)

    def close_gene(self) -> None:
        if self.gene is None:
            return
        if not self.held:
            self.annotation.dropped_genes += 1
            return
        self.annotation.genes += 1
        self.out.write(self.gene_line)
        for transcript in self.held.values():
            if not transcript.exons:
                raise MissingInput(
                    f"{self.source.name}: transcript {transcript.id} has no exon lines; without them pizzly misses "
                    "fusions. Give the whole GTF."
                )
            self.out.write(transcript.line)
            self.out.writelines(transcript.exons)
            transcript.line, transcript.exons = "", []
            self.annotation.transcripts[transcript.id] = transcript
            self.annotation.coding_transcripts += transcript.biotype == transcript.gene.biotype == _CODING

    def _start_gene(self, number: int, gene_id: str, columns: list[str], attributes: dict[str, str]) -> None:
        self.close_gene()
        self._require_id(number, gene_id, "gene_id")
        if gene_id in self.seen:
            raise self._refusal(number, f"has gene {gene_id} a second time; remove one of the two.")
        self.seen.add(gene_id)
        given = attributes.get("gene_name") or gene_id
        name = _UNSPEAKABLE.sub("_", given)
        self.annotation.renamed += name != given
        biotype = attributes.get("gene_biotype") or attributes.get("gene_type") or ""
        self.gene = Gene(id=gene_id, name=name, biotype=biotype, chromosome=columns[0], strand=columns[6])
        self.gene_line = _line(columns, {"gene_id": gene_id, "gene_name": name, "gene_biotype": biotype})
        self.held = {}

    def _add_transcript(self, number: int, name: str, columns: list[str], attributes: dict[str, str]) -> None:
        assert self.gene is not None
        self._require_id(number, name, "transcript_id")
        if name in self.held or name in self.annotation.transcripts:
            raise self._refusal(number, f"has transcript {name} a second time; remove one of the two.")
        # Up to Ensembl 76 a transcript's biotype stands in the source column.
        biotype = attributes.get("transcript_biotype") or attributes.get("transcript_type") or columns[1]
        line = _line(columns, {"gene_id": self.gene.id, "transcript_id": name, "transcript_biotype": biotype})
        self.held[name] = Transcript(id=name, gene=self.gene, biotype=biotype, line=line)

    def _add_exon(self, number: int, name: str, columns: list[str]) -> None:
        assert self.gene is not None
        transcript = self.held.get(name)
        if transcript is None:
            raise self._refusal(number, f"is an exon of transcript {name!r}, which has no line before it.")
        try:
            transcript.length += int(columns[4]) - int(columns[3]) + 1
        except ValueError as error:
            raise self._refusal(number, f"has {columns[3]}..{columns[4]} for an exon's place.") from error
        transcript.exons.append(_line(columns, {"gene_id": self.gene.id, "transcript_id": name}))

    def _require_id(self, number: int, name: str, what: str) -> None:
        if not _IDENTIFIER.match(name):
            raise self._refusal(number, f"has the {what} {name!r}; letters, digits, '_' and '.' only. Rename it.")

    def _refusal(self, number: int, reason: str) -> MissingInput:
        return MissingInput(f"{self.source.name}, line {number}, {reason}")


def _versioned(attributes: dict[str, str], kind: str) -> str:
    """An id as pizzly composes it: with its version, unless it has one."""
    name, version = attributes.get(f"{kind}_id", ""), attributes.get(f"{kind}_version", "")
    return f"{name}.{version}" if name and version and "." not in name else name


def _line(columns: list[str], attributes: dict[str, str]) -> str:
    text = " ".join(f'{key} "{value}";' for key, value in attributes.items() if value)
    return "\t".join([*columns[:8], text]) + "\n"
