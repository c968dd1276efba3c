"""A sample's fusions as a table, as BEDPE and as VCF, each with the breakpoint that most reads fit.

Positions are those of the annotation, and so are the chromosomes' names. In BEDPE and VCF stand only fusions whose both
breakpoints the annotation has, which is all of them where the reference was built from one release.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import quote

from steps.breakpoints import Breakpoint, GenomePosition, TranscriptStructure, best_breakpoint
from steps.pizzly_json import GenePair
from steps.published import TranscriptRow

#: As upstream's own flattening script names them.
PIZZLY_COLUMNS: Final = (
    "geneA.name",
    "geneA.id",
    "geneB.name",
    "geneB.id",
    "paircount",
    "splitcount",
    "transcripts.list",
)
TABLE_COLUMNS: Final = (
    "sample",
    "gene_a",
    "gene_b",
    "gene_a_id",
    "gene_b_id",
    "breakpoint_a",
    "breakpoint_b",
    "distance",
    "pairs",
    "splits",
    "isoform_pairs",
    "best_isoform_pair",
    "frame",
    "read_through",
    *PIZZLY_COLUMNS,
)
_BEDPE_COLUMNS: Final = (
    *("#chrom1", "start1", "end1", "chrom2", "start2", "end2", "name", "score", "strand1", "strand2"),
    *("pairs", "splits", "frame", "read_through"),
)
_VCF_HEADER: Final = """\
##fileformat=VCFv4.3
##source=pizzly
##INFO=<ID=SVTYPE,Number=1,Type=String,Description="Type of structural variant">
##INFO=<ID=MATEID,Number=1,Type=String,Description="ID of the other breakend of the fusion">
##INFO=<ID=EVENT,Number=1,Type=String,Description="Both breakends of a fusion have the same">
##INFO=<ID=GENES,Number=2,Type=String,Description="Names of the 5' and the 3' partner">
##INFO=<ID=PAIRS,Number=1,Type=Integer,Description="Read pairs with the junction between their reads">
##INFO=<ID=SPLITS,Number=1,Type=Integer,Description="Read pairs with a read over the junction">
##INFO=<ID=FRAME,Number=1,Type=String,Description="Reading frame behind the junction: in, out, utr or unknown">
##INFO=<ID=READ_THROUGH,Number=0,Type=Flag,Description="The 3' partner follows on the same strand within 400 kb">
"""
_VCF_COLUMNS: Final = ("#CHROM", "POS", "ID", "REF", "ALT", "QUAL", "FILTER", "INFO")


@dataclass(frozen=True, kw_only=True, slots=True)
class LocatedFusion:
    """A gene pair with the breakpoint that most reads fit."""

    genes: GenePair
    breakpoint: Breakpoint

    @property
    def positions(self) -> tuple[GenomePosition, GenomePosition] | None:
        """Both sides of the breakpoint, where the annotation has them."""
        a, b = self.breakpoint.position_a, self.breakpoint.position_b
        return (a, b) if a and b else None


def locate(genes: Iterable[GenePair], structures: Mapping[str, TranscriptStructure]) -> list[LocatedFusion]:
    """Puts gene pairs on the genome and orders them: most reads first, then by the genes' names and ids."""
    located = [LocatedFusion(genes=pair, breakpoint=best_breakpoint(pair.isoforms, structures)) for pair in genes]
    return sorted(located, key=lambda one: (-_reads(one.genes), *_names(one.genes), one.genes.id_a, one.genes.id_b))


def table_lines(
    sample: str, fusions: Iterable[LocatedFusion], transcripts: Mapping[str, TranscriptRow]
) -> Iterable[str]:
    """Lines of the fusion table, header first. Ids are as published, but in pizzly's own columns at the end."""
    yield _line(TABLE_COLUMNS)
    for one in fusions:
        genes, best = one.genes, one.breakpoint
        isoforms = best.isoforms
        row_a, row_b = transcripts.get(isoforms.transcript_a), transcripts.get(isoforms.transcript_b)
        yield _line(
            (
                *(sample, *_names(genes)),
                *(row_a.published_gene_id if row_a else genes.id_a, row_b.published_gene_id if row_b else genes.id_b),
                *(best.position_a or ".", best.position_b or ".", "." if best.distance is None else best.distance),
                *(genes.pairs, genes.splits, len(genes.isoforms)),
                f"{row_a.published_id}--{row_b.published_id}" if row_a and row_b else ".",
                *(best.frame, "yes" if best.read_through else "no"),
                *(genes.name_a, genes.id_a, genes.name_b, genes.id_b, genes.pairs, genes.splits),
                ";".join(pair.record for pair in genes.isoforms),
            )
        )


def bedpe_lines(fusions: Iterable[LocatedFusion]) -> Iterable[str]:
    """Lines of the BEDPE, header first: the base on each side of the junction, half-open and from 0."""
    yield _line(_BEDPE_COLUMNS)
    for one in fusions:
        if positions := one.positions:
            yield _line(
                (
                    *(cell for at in positions for cell in (at.chromosome, at.position - 1, at.position)),
                    *("--".join(_names(one.genes)), _reads(one.genes)),
                    *(at.strand for at in positions),
                    *(one.genes.pairs, one.genes.splits),
                    *(one.breakpoint.frame, "yes" if one.breakpoint.read_through else "no"),
                )
            )


def vcf_lines(fusions: Iterable[LocatedFusion], chromosomes: Sequence[str]) -> Iterable[str]:
    """Lines of the VCF, header first, sorted by chromosome and position: two breakends a fusion (VCF 4.3, 5.4).

    Parameters
    ----------
    chromosomes: all of the reference, in order; the same for all samples, so that files can be put together.
    """
    yield _VCF_HEADER
    yield from (f"##contig=<ID={name}>\n" for name in chromosomes)
    yield _line(_VCF_COLUMNS)
    order = {name: number for number, name in enumerate(chromosomes)}
    records: list[tuple[int, int, str]] = []
    for number, one in enumerate(fusions, 1):
        if positions := one.positions:
            for at, line in zip(positions, _breakends(number, one, *positions), strict=True):
                records.append((order[at.chromosome], at.position, line))
    yield from (line for _, _, line in sorted(records))


def _breakends(number: int, one: LocatedFusion, a: GenomePosition, b: GenomePosition) -> tuple[str, str]:
    """The two records of a fusion. Of A the bases up to the junction are kept, of B those from there on."""
    a_is_left, b_is_left = a.strand != "-", b.strand == "-"
    info = [
        f"EVENT=fusion{number}",
        "GENES=" + ",".join(quote(name, safe="/-._+:()[]") for name in _names(one.genes)),
        *(f"PAIRS={one.genes.pairs}", f"SPLITS={one.genes.splits}", f"FRAME={one.breakpoint.frame}"),
        *(["READ_THROUGH"] if one.breakpoint.read_through else []),
    ]
    lines = []
    for here, there, here_is_left, there_is_left, own, mate in (
        (a, b, a_is_left, b_is_left, "a", "b"),
        (b, a, b_is_left, a_is_left, "b", "a"),
    ):
        bracket = "]" if there_is_left else "["
        joined = f"{bracket}{there.chromosome}:{there.position}{bracket}"
        alternative = f"N{joined}" if here_is_left else f"{joined}N"
        fields = ";".join(["SVTYPE=BND", f"MATEID=fusion{number}{mate}", *info])
        lines.append(
            _line((here.chromosome, here.position, f"fusion{number}{own}", "N", alternative, ".", "PASS", fields))
        )
    return lines[0], lines[1]


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """Writes a text, line by line."""
    with path.open("w", encoding="utf-8", newline="\n") as out:
        out.writelines(lines)


def _names(genes: GenePair) -> tuple[str, str]:
    return genes.name_a, genes.name_b


def _reads(genes: GenePair) -> int:
    return genes.pairs + genes.splits


def _line(cells: Iterable[object]) -> str:
    return "\t".join(map(str, cells)) + "\n"
