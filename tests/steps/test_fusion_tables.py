"""The nine real fusions of SRR1659964 on the genome, the table, BEDPE and VCF of them, and a reference that loses two.

Positions are worked out here in another way than in the steps: the bases of a transcript are written out one by one.
"""

from __future__ import annotations

import csv
import gzip
import json
import re
import subprocess
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import pytest

from batch_pipeline import Job
from batch_pipeline.demo.alone import run_alone
from batch_pipeline.demo.real import GOLDEN_FUSIONS, SAMPLE, RealData, Unavailable, cache_folder, fetch_real
from steps.breakpoints import TranscriptStructure
from steps.fusion_tables import bedpe_lines, locate, table_lines, vcf_lines
from steps.kallisto import Kallisto
from steps.pizzly import Pizzly
from steps.pizzly_json import GenePair, IsoformPair
from steps.published import TranscriptRow
from steps.reference import BuildReference

#: The user's own, before the tests get a home of their own.
CACHE = cache_folder()
#: Last base of A and first of B on GRCh38, and the reading frame.
GOLDEN = {
    ("BRD4", "NUTM1"): ("19:15254152:-", "15:34347969:+", "in"),
    ("ETV6", "NTRK3"): ("12:11869969:+", "15:87940753:-", "in"),
    ("AKAP9", "BRAF"): ("7:92003235:+", "7:140787584:-", "in"),
    ("EWSR1", "FLI1"): ("22:29287134:+", "11:128807180:+", "in"),
    ("EWSR1", "ATF1"): ("22:29287134:+", "12:50814280:+", "in"),
    ("HOOK3", "RET"): ("8:42968214:+", "10:43116584:+", "in"),
    ("TMPRSS2", "ETV1"): ("21:41494356:-", "7:13935896:-", "out"),
    ("CD74", "ROS1"): ("5:150404680:-", "6:117324415:-", "in"),
    ("EML4", "ALK"): ("2:42301392:+", "2:29223528:-", "out"),
}


@dataclass(frozen=True, kw_only=True)
class Real:
    """The real sample, taken through kallisto and pizzly."""

    data: RealData
    pizzly: Job

    @property
    def rows(self) -> list[dict[str, str]]:
        with self.pizzly.output("table").open() as lines:
            return list(csv.DictReader(lines, delimiter="\t"))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> RealData:
    found = fetch_real(tmp_path_factory.mktemp("set"), cache=CACHE)
    if isinstance(found, Unavailable):
        pytest.skip(found.reason)
    return found


@pytest.fixture(scope="module")
def real(data: RealData, tmp_path_factory: pytest.TempPathFactory) -> Real:
    return Real(data=data, pizzly=fusions_of(data, data.fasta, data.gtf, tmp_path_factory.mktemp("real")))


def fusions_of(data: RealData, fasta: Path, gtf: Path, work: Path) -> Job:
    """The reads against a reference."""
    reference = work / "reference"
    run_alone(BuildReference(), reference, "real", inputs={"fasta": [fasta], "gtf": [gtf]})
    kallisto = run_alone(
        Kallisto(strandedness="none"),
        work / "kallisto",
        SAMPLE,
        inputs={"reads": data.reads},
        reference=reference,
        upstream={"picard": {"read_pairs": 744}},
    )
    inputs = {"fusion": [kallisto.output("fusion")]}
    upstream = {"kallisto": kallisto.metrics}
    return run_alone(Pizzly(), work / "pizzly", SAMPLE, inputs=inputs, reference=reference, upstream=upstream)


@pytest.mark.tools
@pytest.mark.slow
def test_the_nine_real_fusions_have_their_golden_coordinates_and_counts(real: Real) -> None:
    rows = {(row["gene_a"], row["gene_b"]): row for row in real.rows}
    assert {pair: (row["breakpoint_a"], row["breakpoint_b"], row["frame"]) for pair, row in rows.items()} == GOLDEN
    assert {pair: (int(row["pairs"]), int(row["splits"])) for pair, row in rows.items()} == GOLDEN_FUSIONS
    assert {row["distance"] for pair, row in rows.items() if pair == ("EML4", "ALK")} == {str(42301392 - 29223528)}
    assert {row["read_through"] for row in real.rows} == {"no"}
    support = [int(row["pairs"]) + int(row["splits"]) for row in real.rows]
    assert support == sorted(support, reverse=True)
    assert real.pizzly.metrics["lost_gene_pairs"] == 0


@pytest.mark.tools
@pytest.mark.slow
def test_all_isoform_pairs_of_a_real_fusion_share_its_one_place_at_exon_borders(real: Real) -> None:
    bases, ends, starts = written_out(real.data.gtf)
    for gene in json.loads(real.pizzly.output("fusions").read_text())["genes"]:
        places = set()
        for pair in gene["transcripts"]:
            a, b = pair["transcriptA"], pair["transcriptB"]
            places.add((bases[a["id"]][a["endPos"] - 1], bases[b["id"]][b["startPos"]]))
        [(last_of_a, first_of_b)] = places
        assert GOLDEN[gene["geneA"]["name"], gene["geneB"]["name"]][:2] == (last_of_a, first_of_b)
        assert last_of_a in ends[gene["geneA"]["name"]]
        assert first_of_b in starts[gene["geneB"]["name"]]


def written_out(gtf: Path) -> tuple[dict[str, list[str]], dict[str, set[str]], dict[str, set[str]]]:
    """Every base of each transcript of a GTF of Ensembl, and the first and last bases of the exons of each gene."""
    bases: dict[str, list[str]] = defaultdict(list)
    ends: dict[str, set[str]] = defaultdict(set)
    starts: dict[str, set[str]] = defaultdict(set)
    for line in gzip.decompress(gtf.read_bytes()).decode().splitlines():
        cells = line.split("\t")
        if line.startswith("#") or cells[2] != "exon":
            continue
        words = dict(re.findall(r'(\w+) "([^"]*)"', cells[8]))
        first, last, strand = int(cells[3]), int(cells[4]), cells[6]
        # Ensembl lists the exons of a transcript from its 5' end.
        along = range(first, last + 1) if strand == "+" else range(last, first - 1, -1)
        named = [f"{cells[0]}:{base}:{strand}" for base in along]
        bases[f"{words['transcript_id']}.{words['transcript_version']}"] += named
        starts[words["gene_name"]].add(named[0])
        ends[words["gene_name"]].add(named[-1])
    return bases, ends, starts


@pytest.mark.tools
@pytest.mark.slow
def test_the_vcf_of_the_real_sample_is_valid_sorted_and_its_breakends_are_mates(real: Real, tmp_path: Path) -> None:
    zipped = tmp_path / "fusions.vcf.gz"
    vcf = real.pizzly.output("vcf")
    viewed = subprocess.run(["bcftools", "view", "-Oz", "-o", zipped, vcf], capture_output=True, text=True, check=True)
    assert viewed.stderr == ""
    subprocess.run(["bcftools", "index", zipped], check=True)
    query = "%CHROM\t%POS\t%ID\t%ALT\t%INFO/MATEID\t%INFO/GENES\t%INFO/PAIRS\t%INFO/SPLITS\n"
    done = subprocess.run(["bcftools", "query", "-f", query, zipped], capture_output=True, text=True, check=True)
    records = {cells[2]: cells for cells in (line.split("\t") for line in done.stdout.splitlines())}
    assert len(records) == 18
    for cells in records.values():
        mate = records[cells[4]]
        assert mate[4] == cells[2]
        assert f"{mate[0]}:{mate[1]}" in cells[3]
        gene_a, gene_b = cells[5].split(",")
        assert (int(cells[6]), int(cells[7])) == GOLDEN_FUSIONS[gene_a, gene_b]
    done = subprocess.run(
        ["bcftools", "query", "-r", "22", "-f", "%POS ", zipped], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["29287134", "29287134"]


@pytest.mark.tools
@pytest.mark.slow
def test_the_bedpe_has_the_tables_breakpoints(real: Real) -> None:
    header, *lines = real.pizzly.output("bedpe").read_text().splitlines()
    assert header.startswith("#chrom1\tstart1\tend1\t")
    for line, row in zip(lines, real.rows, strict=True):
        chrom_a, start_a, end_a, chrom_b, start_b, end_b, name, score, strand_a, strand_b = line.split("\t")[:10]
        assert f"{chrom_a}:{end_a}:{strand_a}" == row["breakpoint_a"]
        assert f"{chrom_b}:{end_b}:{strand_b}" == row["breakpoint_b"]
        assert (int(end_a) - int(start_a), int(end_b) - int(start_b)) == (1, 1)
        assert (name, score) == (f"{row['gene_a']}--{row['gene_b']}", str(int(row["pairs"]) + int(row["splits"])))


@pytest.mark.tools
@pytest.mark.slow
def test_gene_pairs_that_a_copy_hides_are_warned_of(
    data: RealData, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With EWSR1's transcripts twice in the reference, pizzly drops each read of it: 7 of the 9 fusions are left."""
    fasta, gtf = with_a_copy(data, "EWSR1", tmp_path)
    job = fusions_of(data, fasta, gtf, tmp_path)
    assert job.metrics["fusions"] == 7
    assert job.metrics["lost_gene_pairs"] == 4
    warning = job.metrics["warning"]
    assert warning.startswith(
        f"pizzly lists no fusion for 4 gene pair(s) of sample {SAMPLE} that at least 8 split reads each "
        "support, such as ATF1-COPY (29 reads), ATF1-EWSR1 (29 reads), COPY-FLI1 (27 reads)."
    )
    assert f"Warning: {warning}" in capsys.readouterr().err


def with_a_copy(data: RealData, gene: str, folder: Path) -> tuple[Path, Path]:
    """The set's FASTA and GTF with a gene COPY on Y that has the gene's transcripts under other ids."""
    lines = gzip.decompress(data.gtf.read_bytes()).decode().splitlines(keepends=True)
    own = [line for line in lines if f'gene_name "{gene}"' in line]
    ids = set(re.findall(r'transcript_id "(\w+)"', "".join(own)))
    copied = [re.sub(r'"EN(S[GT])000', r'"EN\g<1>999', line).replace(f'"{gene}"', '"COPY"') for line in own]
    fasta, gtf = folder / "copy.fasta.gz", folder / "copy.gtf.gz"
    gtf.write_bytes(gzip.compress("".join(lines + ["Y\t" + line.split("\t", 1)[1] for line in copied]).encode()))
    records = gzip.decompress(data.fasta.read_bytes()).decode().split(">")[1:]
    more = [record.replace("ENST000", "ENST999", 1) for record in records if record.split(".", 1)[0] in ids]
    fasta.write_bytes(gzip.compress("".join(f">{record}" for record in records + more).encode()))
    return fasta, gtf


def fusion(
    strand_a: str, strand_b: str, *, name: str = "A", chromosome_b: str = "2"
) -> tuple[list[GenePair], dict[str, TranscriptStructure]]:
    """A fusion of single exons: 1:101-200 up to its 50th base, 2:1101-1200 from its 11th."""
    pair = IsoformPair(
        record="ta_0:50_tb_10:100", transcript_a="ta", end_a=50, transcript_b="tb", start_b=10, support=3
    )
    genes = GenePair(name_a=name, id_a="ga", name_b="B", id_b="gb", pairs=2, splits=1, isoforms=(pair,))
    structures = {
        "ta": TranscriptStructure(chromosome="1", strand=strand_a, exons=[(101, 200)]),
        "tb": TranscriptStructure(chromosome=chromosome_b, strand=strand_b, exons=[(1101, 1200)]),
    }
    return [genes], structures


@pytest.mark.parametrize(
    ("strand_a", "strand_b", "a", "b"),
    [
        ("+", "+", ("1\t150", "N[2:1111["), ("2\t1111", "]1:150]N")),
        ("+", "-", ("1\t150", "N]2:1190]"), ("2\t1190", "N]1:150]")),
        ("-", "+", ("1\t151", "[2:1111[N"), ("2\t1111", "[1:151[N")),
        ("-", "-", ("1\t151", "]2:1190]N"), ("2\t1190", "N[1:151[")),
    ],
)
def test_breakends_are_written_for_each_pair_of_strands(
    strand_a: str, strand_b: str, a: tuple[str, str], b: tuple[str, str]
) -> None:
    lines = "".join(vcf_lines(locate(*fusion(strand_a, strand_b)), ["1", "2", "3"])).splitlines()
    assert [line for line in lines if line.startswith("##contig")] == [f"##contig=<ID={name}>" for name in "123"]
    info = "PAIRS=2;SPLITS=1;FRAME=unknown"
    assert lines[-2:] == [
        f"{a[0]}\tfusion1a\tN\t{a[1]}\t.\tPASS\tSVTYPE=BND;MATEID=fusion1b;EVENT=fusion1;GENES=A,B;{info}",
        f"{b[0]}\tfusion1b\tN\t{b[1]}\t.\tPASS\tSVTYPE=BND;MATEID=fusion1a;EVENT=fusion1;GENES=A,B;{info}",
    ]


def test_a_gene_name_cannot_break_the_vcf_and_a_read_through_is_flagged() -> None:
    lines = list(vcf_lines(locate(*fusion("+", "+", name="A;=1%,", chromosome_b="1")), ["1"]))
    assert ";GENES=A%3B%3D1%25%2C,B;" in lines[-1]
    assert lines[-1].endswith(";READ_THROUGH\n")


def test_ids_are_as_published_and_pizzlys_own_columns_are_as_before() -> None:
    def row(name: str, gene: str) -> TranscriptRow:
        return TranscriptRow(
            transcript_id=name,
            length=100,
            gene_id=gene,
            gene_name="x",
            chromosome="1",
            strand="+",
            biotype="protein_coding",
            published_id=f"{name}-1",
            published_gene_id=f"{gene}-1",
        )

    rows = {"ta": row("ta", "ga"), "tb": row("tb", "gb")}
    header, line = table_lines("S1", locate(*fusion("+", "-")), rows)
    cells = dict(zip(header.rstrip("\n").split("\t"), line.rstrip("\n").split("\t"), strict=True))
    assert (cells["gene_a_id"], cells["gene_b_id"], cells["best_isoform_pair"]) == ("ga-1", "gb-1", "ta-1--tb-1")
    assert list(cells.values())[14:] == ["A", "ga", "B", "gb", "2", "1", "ta_0:50_tb_10:100"]
    assert cells["distance"] == "."


def test_a_fusion_that_the_annotation_cannot_place_stands_in_the_table_alone() -> None:
    genes, structures = fusion("+", "+")
    del structures["tb"]
    located = locate(genes, structures)
    _, line = table_lines("S1", located, {})
    assert line.split("\t")[3:8] == ["ga", "gb", "1:150:+", ".", "."]
    assert len(list(bedpe_lines(located))) == 1
    assert not [line for line in vcf_lines(located, ["1"]) if not line.startswith("#")]
