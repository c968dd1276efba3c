"""Reads pizzly's JSON as a stream, gene pair by gene pair, so that memory does not grow with the reads in it.

pizzly writes one value a line with fixed indentation, and most lines are reads, of which nothing here is needed: they
are passed over. A JSON parser for streams would need another package in the image, and is slower.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from sys import intern
from typing import Any, Final

#: A read of a pair in pizzly's JSON, one a line: what stands before its split position, that, its direction, the rest.
_READ = re.compile(
    r'(\s*"(read[12])" : .*"splitpos" : (-?\d+), "direction" : ")(true|false)(", "kmerpos" : .*)', re.DOTALL
)
_OPPOSITE: Final = {"true": "false", "false": "true"}
#: First lines of every file, and those between which a gene pair stands.
_START: Final = ["{\n", '  "genes" : [\n']
_GENE_PAIR: Final = "    {\n"
_READS: Final = '      "readpairs" :'


@dataclass(frozen=True, kw_only=True, slots=True)
class IsoformPair:
    """A transcript of each gene and where the two are joined."""

    #: Name in fusions.fasta.
    record: str
    transcript_a: str
    #: Bases of A before the junction.
    end_a: int
    transcript_b: str
    #: Bases of B that are left out before the junction.
    start_b: int
    #: Read pairs that fit this pair of isoforms.
    support: int


@dataclass(frozen=True, kw_only=True, slots=True)
class GenePair:
    """A fusion of two genes, the 5' partner first."""

    name_a: str
    id_a: str
    name_b: str
    id_b: str
    #: Read pairs with the junction between their reads, and with a read over it.
    pairs: int
    splits: int
    isoforms: tuple[IsoformPair, ...]

    @classmethod
    def of(cls, gene: dict[str, Any]) -> GenePair:
        """From an element of the JSON's list. Raises KeyError and TypeError when it is none."""
        return cls(
            name_a=gene["geneA"]["name"],
            id_a=gene["geneA"]["id"],
            name_b=gene["geneB"]["name"],
            id_b=gene["geneB"]["id"],
            pairs=gene["paircount"],
            splits=gene["splitcount"],
            isoforms=tuple(
                IsoformPair(
                    record=isoforms["fasta_record"],
                    transcript_a=intern(isoforms["transcriptA"]["id"]),
                    end_a=isoforms["transcriptA"]["endPos"],
                    transcript_b=intern(isoforms["transcriptB"]["id"]),
                    start_b=isoforms["transcriptB"]["startPos"],
                    support=isoforms["support"],
                )
                for isoforms in gene["transcripts"]
            ),
        )


def read_gene_pairs(path: Path) -> Iterator[GenePair]:
    """The gene pairs of pizzly's JSON in its order.

    Raises OSError, and ValueError, KeyError or TypeError when the file is cut off or not what pizzly writes.
    """
    with path.open(encoding="utf-8") as lines:
        line = ""
        if [next(lines, ""), next(lines, "")] != _START:
            raise ValueError("it does not begin with a list of genes")
        head: list[str] | None = None
        for line in lines:
            if line == _GENE_PAIR:
                head = []
            elif head is not None and line.startswith(_READS):
                yield GenePair.of(json.loads("{" + "".join(head) + '"readpairs": []}'))
                head = None
            elif head is not None:
                head.append(line)
    if line.rstrip() != "}" or line.startswith(" ") or head is not None:
        raise ValueError("it is cut off")


def settle_directions(lines: Iterable[str]) -> Iterator[str]:
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


def settle_file(path: Path) -> None:
    """Applies `settle_directions` to a file in place, line by line."""
    settled = path.with_name(f".{path.name}.settled")
    with path.open(encoding="utf-8", newline="") as lines, settled.open("w", encoding="utf-8", newline="") as out:
        out.writelines(settle_directions(lines))
    os.replace(settled, path)
