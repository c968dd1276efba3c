"""The tables and the page of a cohort: every sample in them, sums as pytximport makes them, the same bytes again."""

from __future__ import annotations

import gzip
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping
from pathlib import Path

import pytest

from batch_pipeline import Job, MissingInput
from batch_pipeline.demo.alone import make_job
from steps import cohort as module
from steps.cohort import Cohort
from steps.fusion_page import fusion_page
from steps.published import TRANSCRIPT_COLUMNS

#: Fusion -> its genes' names and ids.
FUSIONS = {
    "EML4--ALK": ("EML4", "ALK", "G4.1", "G5.2"),
    "A--B": ("A", "B", "G6", "G7"),
    "C--D": ("C", "D", "G8", "G9"),
    "<img src=x>--E&F": ("<img src=x>", "E&F", "G10", "G11"),
}
COLUMNS = ("sample", "gene_a", "gene_b", "gene_a_id", "gene_b_id", "breakpoint_a", "pairs", "splits", "frame")
#: Transcript as kallisto knows it, as it was published, and its gene.
TRANSCRIPTS = (
    ("T1.1", "T1.1", "G1"),
    ("T2.1", "T2.1", "G1"),
    ("T3.1", "T-3.1", "G2"),
    ("T4.1", "T4.1", "G3"),
    ("T5.1", "T5.1", "G1"),
    ("T6.1", "T6.1", "G3"),
)
#: est_counts and tpm as kallisto writes them.
ABUNDANCES = {
    "s1": (
        "0 0",
        "6.83213 2687.17",
        "4.76271e-05 0.0143218",
        "0.000207873 0.161329",
        "0.000578619 0.20713",
        "0.0563309 9",
    ),
    "s2": ("4.0347 4436.17", "0.0784377 31.7497", "30.7235 18228.1", "0 0", "0.000120669 0.0434765", "1.69839 533.665"),
}
#: Of pytximport 0.13.0 for these, by gene: counts_from_abundance=None, ignore_transcript_version=False.
PYTXIMPORT_COUNTS = {
    "G1": (6.832708619, 4.113258369),
    "G2": (4.76271e-05, 30.7235),
    "G3": (0.056538773, 1.69839),
}


def write_fusions(path: Path, sample: str, support: Mapping[str, tuple[int, int]], name: str = "") -> Path:
    """A sample's fusions.tsv, with pairs and splits of each fusion."""
    lines = [COLUMNS, *((name or sample, *FUSIONS[f], "2:1:+", *counts, "in") for f, counts in support.items())]
    path.write_text("".join("\t".join(map(str, line)) + "\n" for line in lines))
    return path


def write_abundance(path: Path, sample: str) -> Path:
    rows = [
        f"{ids[0]}\t1000\t800\t{values.replace(' ', chr(9))}\n"
        for ids, values in zip(TRANSCRIPTS, ABUNDANCES[sample], strict=True)
    ]
    path.write_text("target_id\tlength\teff_length\test_counts\ttpm\n" + "".join(rows))
    return path


class Inputs:
    """What two samples left, and a reference."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        rows = [
            (tool, "1000", gene, f"n{gene}", "1", "+", "protein_coding", own, gene) for tool, own, gene in TRANSCRIPTS
        ]
        self.reference = folder / "transcripts.tsv"
        self.reference.write_text("".join("\t".join(row) + "\n" for row in (TRANSCRIPT_COLUMNS, *rows)))
        self.tables = {
            "s1": write_fusions(folder / "s1.tsv", "s1", {"A--B": (1, 2), "EML4--ALK": (9, 30)}),
            "s2": write_fusions(folder / "s2.tsv", "s2", {}),
        }
        self.abundances = {sample: write_abundance(folder / f"{sample}.abundance.tsv", sample) for sample in ABUNDANCES}

    def run(self, work: Path, missing: tuple[str, ...] = ()) -> Job:
        job = make_job(Cohort(), work, "_cohort", inputs={}, reference=self.reference.parent)
        job.gathered_files = {
            "tables": {sample: (path,) for sample, path in self.tables.items()},
            "abundances": {sample: (path,) for sample, path in self.abundances.items()},
        }
        job.missing_samples = missing
        Cohort().run(job)
        return job


@pytest.fixture
def inputs(tmp_path: Path) -> Inputs:
    return Inputs(tmp_path / "inputs")


def rows_of(path: Path) -> list[list[str]]:
    text = gzip.decompress(path.read_bytes()).decode() if path.suffix == ".gz" else path.read_text()
    return [line.split("\t") for line in text.splitlines()]


def test_all_fusions_of_all_samples_are_in_one_table_and_samples_without_any_too(
    inputs: Inputs, tmp_path: Path
) -> None:
    header, *rows = rows_of(inputs.run(tmp_path / "work").output("fusions"))
    assert tuple(header) == COLUMNS
    assert [row[:3] for row in rows] == [["s1", "A", "B"], ["s1", "EML4", "ALK"], ["s2", ".", "."]]
    assert {len(row) for row in rows} == {len(COLUMNS)}


def test_the_matrix_has_recurrent_fusions_first_then_the_best_supported(inputs: Inputs, tmp_path: Path) -> None:
    write_fusions(inputs.tables["s2"], "s2", {"C--D": (5, 50), "A--B": (0, 4)})
    job = inputs.run(tmp_path / "work")
    header, *rows = rows_of(job.output("matrix"))
    assert header == ["fusion", "gene_a", "gene_b", "gene_a_id", "gene_b_id", "samples", "s1", "s2"]
    assert [(row[0], *row[5:]) for row in rows] == [
        ("A--B", "2", "3", "4"),
        ("C--D", "1", "0", "55"),
        ("EML4--ALK", "1", "39", "0"),
    ]
    assert rows[2][3:5] == ["G4.1", "G5.2"]
    assert job.metrics == {"samples": 2, "missing_samples": 0, "fusions": 3}


def test_sums_by_gene_are_those_of_pytximport(inputs: Inputs, tmp_path: Path) -> None:
    job = inputs.run(tmp_path / "work")
    header, *rows = rows_of(job.output("gene_counts"))
    assert header == ["gene_id", "gene_name", "s1", "s2"]
    assert [row[1] for row in rows] == ["nG1", "nG2", "nG3"]
    for gene, _, *counts in rows:
        assert [float(count) for count in counts] == pytest.approx(PYTXIMPORT_COUNTS[gene], rel=0, abs=1e-9)
    _, first, *_ = rows_of(job.output("gene_tpm"))
    assert first[:2] == ["G1", "nG1"]
    assert float(first[3]) == pytest.approx(4436.17 + 31.7497 + 0.0434765)


def test_transcripts_without_a_gene_are_rows_of_their_own(inputs: Inputs, tmp_path: Path) -> None:
    """Spike-ins are in the FASTA alone: a sum over all of them is the abundance of nothing."""
    text = inputs.reference.read_text()
    inputs.reference.write_text(text.replace("\tG3\tnG3\t", "\t\t\t").replace("\tG3\n", "\t\n"))
    job = inputs.run(tmp_path / "work")
    _, *rows = rows_of(job.output("gene_counts"))
    assert [row[:2] for row in rows] == [["G1", "nG1"], ["G2", "nG2"], ["T4.1", "T4.1"], ["T6.1", "T6.1"]]
    assert [float(row[3]) for row in rows[2:]] == [0, 1.69839]


def test_samples_may_be_called_as_columns_or_arguments(inputs: Inputs, tmp_path: Path) -> None:
    for new, old in (("gene_id", "s1"), ("self", "s2")):
        inputs.tables[new] = write_fusions(inputs.tables.pop(old), new, {})
        inputs.abundances[new] = inputs.abundances.pop(old)
    header, first, *_ = rows_of(inputs.run(tmp_path / "work").output("gene_counts"))
    assert header == ["gene_id", "gene_name", "gene_id", "self"]
    assert first[:2] == ["G1", "nG1"]
    assert [float(count) for count in first[2:]] == pytest.approx(PYTXIMPORT_COUNTS["G1"], rel=0, abs=1e-9)


def test_transcripts_have_their_published_ids_and_kallistos_own_digits(inputs: Inputs, tmp_path: Path) -> None:
    header, *rows = rows_of(inputs.run(tmp_path / "work").output("transcript_table"))
    assert header == ["sample", "transcript_id", "counts", "tpm"]
    assert ["s1", "T-3.1", "4.76271e-05", "0.0143218"] in rows
    assert len(rows) == 10, "two of twelve have no reads"


def test_the_same_inputs_make_the_same_bytes_however_the_genes_are_cut(
    inputs: Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ports = ("fusions", "matrix", "gene_counts", "gene_tpm", "transcript_table", "page")
    first, second = inputs.run(tmp_path / "one"), inputs.run(tmp_path / "two")
    assert [first.output(port).read_bytes() for port in ports] == [second.output(port).read_bytes() for port in ports]
    monkeypatch.setattr(module, "_CHUNK_BYTES", 1)
    small = inputs.run(tmp_path / "three")
    assert [rows_of(first.output(port)) for port in ports] == [rows_of(small.output(port)) for port in ports]
    assert {path.name for path in small.work.iterdir()} == {small.output(port).name for port in ports}


def test_what_is_no_number_is_refused(inputs: Inputs, tmp_path: Path) -> None:
    path = inputs.abundances["s2"]
    path.write_text(path.read_text().replace("30.7235", "-nan"))
    with pytest.raises(MissingInput, match=r"s2\.abundance\.tsv of sample s2 has a value of counts that is no number"):
        inputs.run(tmp_path / "work")


def test_abundances_of_another_reference_are_refused(inputs: Inputs, tmp_path: Path) -> None:
    path = inputs.abundances["s2"]
    path.write_text(path.read_text().replace("T6.1", "T7.1"))
    with pytest.raises(MissingInput, match="of sample s2 does not list the 6 transcripts of the reference"):
        inputs.run(tmp_path / "work")


def test_tables_of_another_version_or_sample_or_cut_off_are_refused(inputs: Inputs, tmp_path: Path) -> None:
    table = inputs.tables["s1"]
    text = table.read_text()
    table.write_text(text.replace("gene_a_id\t", "geneA.id\t"))
    with pytest.raises(MissingInput, match="of sample s1 lacks the columns gene_a_id; run pizzly again"):
        inputs.run(tmp_path / "one")
    table.write_text(text.replace("\tframe", "\tin_frame"))
    with pytest.raises(MissingInput, match=r"s2\.tsv of sample s2 has other columns than others'"):
        inputs.run(tmp_path / "two")
    write_fusions(table, "s1", {"A--B": (1, 2)}, name="s3")
    with pytest.raises(MissingInput, match="of sample s1 is broken at line 2, or of another sample"):
        inputs.run(tmp_path / "three")
    table.write_text(text[:-10])
    with pytest.raises(MissingInput, match="of sample s1 is broken at line 3"):
        inputs.run(tmp_path / "four")


def test_the_page_opens_offline_and_names_who_is_missing(inputs: Inputs, tmp_path: Path) -> None:
    page = inputs.run(tmp_path / "work", missing=("s<3>",)).output("page").read_text()
    for word, number in {
        "Samples": 2,
        "Fusions": 2,
        "In more than one sample": 0,
        "Samples without a fusion": 1,
    }.items():
        assert f"<dt>{word}</dt><dd>{number}</dd>" in page
    assert "Without results, and left out: s&lt;3&gt;." in page
    for word in ("<script", "<link", "src=", "href=", "@import", "url("):
        assert word not in page
    assert "<title>EML4--ALK, s1: 39</title>" in page


def test_a_cohort_without_fusions_has_a_page_and_a_matrix(inputs: Inputs, tmp_path: Path) -> None:
    write_fusions(inputs.tables["s1"], "s1", {})
    job = inputs.run(tmp_path / "work")
    assert "No sample has a fusion." in job.output("page").read_text()
    assert len(rows_of(job.output("matrix"))) == 1
    assert len(rows_of(job.output("fusions"))) == 3


@pytest.mark.parametrize(("samples", "fusions"), [(200, 5_000), (10_000, 500)])
def test_the_page_of_a_large_cohort_is_small_and_says_what_it_shows(samples: int, fusions: int) -> None:
    names = [f"sample_{number:05}" for number in range(samples)]
    cells = [(f"GENE{f}--PARTNER{f}", dict.fromkeys(names[f % 7 :: 2], f + 1)) for f in range(fusions)]
    page = fusion_page(names, cells, ["lost"])
    assert len(page.encode()) < 1_000_000
    columns = min(samples, 1000)
    assert f"The picture shows 60 fusions and {columns} samples; fusion_matrix.tsv has all." in page
    svg = ElementTree.fromstring(page[page.index("<svg") : page.index("</svg>") + 6])
    assert len(svg.findall("{*}g")) == 60
    assert len(svg.findall("{*}rect[@class='bar']")) == columns
    assert float(svg.attrib["width"]) < 1300, "it fits a screen"
    first = svg.findall("{*}g/{*}path")[0].attrib
    assert first["class"] == "s0"
    assert first["d"].count("h1") == columns / 2


def test_the_picture_sorts_samples_by_their_fusions() -> None:
    fusions = [("A--B", {"s4": 2, "s2": 7}), ("C--D", {"s2": 29, "s3": 300}), ("E--F", {"s5": 1})]
    page = fusion_page([f"s{number}" for number in range(1, 6)], fusions)
    svg = ElementTree.fromstring(page[page.index("<svg") : page.index("</svg>") + 6])
    titles = {title.text: rect.attrib for rect in svg.iter() for title in rect.findall("{*}title")}
    places = {title.partition(":")[0]: float(rect["x"]) for title, rect in titles.items() if title and "x" in rect}
    assert sorted(["s1", "s2", "s3", "s4", "s5"], key=places.__getitem__) == ["s2", "s4", "s3", "s5", "s1"]
    shades = {title: titles[title]["class"] for title in titles if title and ", " in title}
    assert shades == {"A--B, s2: 7": "s1", "A--B, s4: 2": "s0", "C--D, s2: 29": "s2", "C--D, s3: 300": "s4",
                      "E--F, s5: 1": "s0"}  # fmt: skip
    assert [text.text for text in svg.findall("{*}text") if "transform" in text.attrib] == [
        "s2",
        "s4",
        "s3",
        "s5",
        "s1",
    ]


def test_long_names_in_the_picture_lose_their_middle() -> None:
    name = "S" * 60 + "_tumour"
    page = fusion_page([name], [("A--B", {name: 3})])
    assert f">{'S' * 17}…{'S' * 11}_tumour</text>" in page
    assert f"<title>A--B, {name}: 3</title>" in page


def test_a_fusion_of_many_samples_names_five_of_them_before_the_fold() -> None:
    page = fusion_page([f"s{n:03}" for n in range(150)], [("A--B", {f"s{n:03}": 3 for n in range(150)})])
    assert "<summary>s000, s001, s002, s003, s004 and 145 more</summary>s005, " in page
    assert "s099; fusion_matrix.tsv has all</details>" in page
