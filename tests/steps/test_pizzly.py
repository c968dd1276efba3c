"""Every way in which pizzly reports fewer fusions with exit code 0, made with real broken inputs."""

from __future__ import annotations

import csv
import gzip
import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from batch_pipeline import InvalidOutput, Job, MissingInput
from batch_pipeline.demo.alone import make_job, run_alone
from batch_pipeline.demo.transcriptome import generate_transcriptome
from batch_pipeline.wire.errors import InvalidConfig
from steps.candidates import FUSION_HEADER
from steps.pizzly import Pizzly, count_unfiltered
from steps.pizzly_json import read_gene_pairs, settle_directions
from steps.reference import BuildReference
from tests.steps.lab import SAMPLE, Lab


def call(
    fusion: Path,
    work: Path,
    reference: Path,
    upstream: Mapping[str, Mapping[str, Any]] | None = None,
    **params: object,
) -> Job:
    inputs = {"fusion": [fusion]}
    return run_alone(Pizzly(**params), work, SAMPLE, inputs=inputs, reference=reference, upstream=upstream)


def table(job: Job) -> list[dict[str, str]]:
    with job.output("table").open() as lines:
        return list(csv.DictReader(lines, delimiter="\t"))


@pytest.mark.tools
def test_the_fusion_is_found_and_the_table_lists_it(lab: Lab, tmp_path: Path) -> None:
    job = call(lab.fusion, tmp_path / "work", lab.reference, {"kallisto": lab.kallisto.metrics})
    assert job.metrics["fusions"] >= 1
    assert job.metrics["candidates"] == lab.kallisto.metrics["fusion_rows"]
    genes = json.loads(job.output("fusions").read_text())["genes"]
    rows = table(job)
    by_support = sorted(genes, key=lambda gene: -gene["paircount"] - gene["splitcount"])
    assert [row["gene_a"] for row in rows] == [gene["geneA"]["name"] for gene in by_support]
    for row, gene in zip(rows, by_support, strict=True):
        assert (row["sample"], row["isoform_pairs"]) == (SAMPLE, str(len(gene["transcripts"])))
        assert row["transcripts.list"] == ";".join(pair["fasta_record"] for pair in gene["transcripts"])
        assert (row["pairs"], row["splits"]) == (row["paircount"], row["splitcount"])
    assert job.metrics["lost_gene_pairs"] == 0
    assert job.versions["pizzly"][0].isdigit()


@pytest.mark.tools
def test_two_runs_leave_the_same_bytes(lab: Lab, tmp_path: Path) -> None:
    jobs = [call(lab.fusion, tmp_path / name, lab.reference) for name in ("one", "two")]
    for port in ("fusions", "sequences", "table", "bedpe", "vcf"):
        assert jobs[0].output(port).read_bytes() == jobs[1].output(port).read_bytes()


@pytest.mark.parametrize("written", ["true", "false"])
def test_what_pizzly_leaves_to_chance_is_settled(written: str) -> None:
    # pizzly never sets the direction of a second read that it splits.
    def read(number: int, split_at: int, direction: str) -> str:
        name = f'"name" : "a\\"direction\\" : \\"true:{number}"'
        kmers = '"kmerpos" : { "start" : 0, "stop" : 9}'
        return f'  "read{number}" : {{ {name}, "splitpos" : {split_at}, "direction" : "{direction}", {kmers}}},\n'

    pairs = [(read(1, 7, "true"), read(2, -1, "false")), (read(1, -1, "true"), read(2, -1, "true"))]
    untouched = ['"type" : "SPLIT",\n', *(line for pair in pairs for line in pair)]
    assert list(settle_directions(untouched)) == untouched
    for first, second in (("true", "false"), ("false", "true")):
        pair = [read(1, -1, first), read(2, 41, written)]
        assert list(settle_directions(pair)) == [pair[0], read(2, 41, second)]


@pytest.mark.tools
def test_the_shared_reference_is_not_touched_nor_the_home(
    lab: Lab, own_reference: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    before = {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in own_reference.iterdir()}
    job = call(lab.fusion, tmp_path / "work", own_reference)
    assert {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in own_reference.iterdir()} == before
    assert list(home.iterdir()) == []
    assert sorted(path.name for path in job.work.iterdir()) == sorted(
        path.name for port in ("fusions", "sequences", "table", "bedpe", "vcf") for path in job.outputs(port)
    )


@pytest.mark.tools
def test_no_candidates_are_a_result(lab: Lab, tmp_path: Path) -> None:
    header = tmp_path / "fusion.txt"
    header.write_text(FUSION_HEADER + "\n")
    job = call(header, tmp_path / "work", lab.reference, {"kallisto": {"fusion_rows": 0}})
    assert job.metrics["fusions"] == 0
    assert len(job.output("table").read_text().splitlines()) == 1


@pytest.mark.tools
def test_candidates_that_kallisto_counted_may_not_be_lost(lab: Lab, tmp_path: Path) -> None:
    header = tmp_path / "fusion.txt"
    header.write_text(FUSION_HEADER + "\n")
    with pytest.raises(MissingInput, match=r"has 0 candidates, kallisto wrote \d+; run kallisto again"):
        call(header, tmp_path / "work", lab.reference, {"kallisto": lab.kallisto.metrics})


@pytest.mark.tools
def test_a_missing_or_empty_list_of_candidates_is_refused(lab: Lab, tmp_path: Path) -> None:
    with pytest.raises(MissingInput, match=r"fusion\.txt of sample sim04 is not there"):
        call(tmp_path / "none.txt", tmp_path / "missing", lab.reference)
    (tmp_path / "empty.txt").touch()
    with pytest.raises(MissingInput, match="does not start with its header"):
        call(tmp_path / "empty.txt", tmp_path / "empty", lab.reference)


@pytest.mark.tools
def test_a_list_of_candidates_that_is_cut_off_is_refused(lab: Lab, tmp_path: Path) -> None:
    cut = tmp_path / "fusion.txt"
    cut.write_bytes(lab.fusion.read_bytes()[:-40])
    with pytest.raises(MissingInput, match="cut off or broken at line"):
        call(cut, tmp_path / "work", lab.reference)


@pytest.mark.tools
def test_candidates_of_another_index_are_refused(lab: Lab, tmp_path: Path) -> None:
    foreign = tmp_path / "fusion.txt"
    foreign.write_text(lab.fusion.read_text().replace("SIMT", "ENST"))
    with pytest.raises(MissingInput, match=r"names \d+ transcripts that the reference does not have \(such as ENST"):
        call(foreign, tmp_path / "work", lab.reference)


@pytest.mark.tools
@pytest.mark.parametrize("file", ["pizzly.cache", "transcripts.fa.gz", "annotation.gtf.gz"])
def test_a_cut_off_file_of_the_reference_is_refused(lab: Lab, own_reference: Path, tmp_path: Path, file: str) -> None:
    path = own_reference / file
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(MissingInput, match=rf"{file} of the reference has \d+ bytes, reference\.json promises"):
        call(lab.fusion, tmp_path / "work", own_reference)


@pytest.mark.tools
def test_a_cache_with_other_content_is_refused(lab: Lab, own_reference: Path, tmp_path: Path) -> None:
    cache = own_reference / "pizzly.cache"
    cache.write_text(cache.read_text().replace("PROTEIN", "NITPROE"))
    with pytest.raises(MissingInput, match=r"pizzly\.cache of the reference is not the one"):
        call(lab.fusion, tmp_path / "work", own_reference)


@pytest.mark.tools
def test_a_cache_that_loads_less_than_promised_is_told(lab: Lab, own_reference: Path, tmp_path: Path) -> None:
    """As if the promise had been written for the cut-off cache: the loaded counts still tell."""
    cache, promise = own_reference / "pizzly.cache", own_reference / "reference.json"
    cache.write_bytes(b"".join(cache.read_bytes().splitlines(keepends=True)[:-5]))
    published = json.loads(promise.read_text())
    data = cache.read_bytes()
    published["files"]["pizzly.cache"] = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    promise.write_text(json.dumps(published))
    with pytest.raises(
        InvalidOutput, match=r"pizzly loaded 30 genes and \d+ transcripts .*with fewer it misses fusions"
    ):
        call(lab.fusion, tmp_path / "work", own_reference)


@pytest.mark.tools
def test_another_k_than_the_indexs_is_refused(lab: Lab, tmp_path: Path) -> None:
    with pytest.raises(MissingInput, match=r"indexed with k=31, pizzly is asked to use k=25"):
        call(lab.fusion, tmp_path / "work", lab.reference, k=25)


def test_a_negative_align_score_is_refused() -> None:
    with pytest.raises(InvalidConfig, match="align_score must be at least 0"):
        Pizzly(align_score=-1)


@pytest.mark.tools
def test_the_align_score_is_always_passed(lab: Lab, tmp_path: Path) -> None:
    """pizzly never sets its default; the counts of many runs without the option differ."""
    kept = {call(lab.fusion, tmp_path / str(run), lab.reference).metrics["kept"] for run in range(4)}
    assert len(kept) == 1


@pytest.mark.tools
@pytest.mark.parametrize(
    ("port", "text", "words"),
    [
        ("fusions", None, r"pizzly left no readable sim04\.json"),
        ("fusions", "{", r"pizzly left no readable sim04\.json"),
        ("table", "header\n", r"has 1 fusions and the table 0 rows"),
        ("sequences", "", r"sim04\.fusions\.fasta lacks the sequences"),
        ("sequences", None, r"sim04\.fusions\.fasta lacks the sequences"),
    ],
)
def test_outputs_that_are_not_there_or_disagree_are_told(
    lab: Lab, tmp_path: Path, port: str, text: str | None, words: str
) -> None:
    job = call(lab.fusion, tmp_path / "work", lab.reference)
    path = job.outputs(port)[0]
    if text is None:
        path.unlink()
    else:
        path.write_text(text)
    with pytest.raises(InvalidOutput, match=words):
        Pizzly().check(job)


@pytest.mark.tools
def test_candidates_that_pizzly_did_not_read_are_told(lab: Lab, tmp_path: Path) -> None:
    job = call(lab.fusion, tmp_path / "work", lab.reference)
    job.note(candidates=job.metrics["candidates"] - 1)
    with pytest.raises(InvalidOutput, match=r"pizzly read \d+ of the \d+ candidates"):
        Pizzly().check(job)


@pytest.mark.tools
def test_pizzly_that_writes_nowhere_is_told(lab: Lab, tmp_path: Path) -> None:
    """It ends with exit code 0 when the folder of its output is not there."""
    job = make_job(Pizzly(), tmp_path / "work", SAMPLE, inputs={"fusion": [lab.fusion]}, reference=lab.reference)
    job.sample = "no_such_folder/sim04"
    with pytest.raises(InvalidOutput, match="pizzly left no readable"):
        Pizzly().run(job)


@pytest.mark.tools
def test_a_reference_of_other_genes_does_not_pass_for_no_fusions(lab: Lab, tmp_path: Path) -> None:
    fasta, gtf = tmp_path / "o.fasta.gz", tmp_path / "o.gtf.gz"
    generate_transcriptome(fasta, gtf, seed=6, genes=3)
    shutil.rmtree(tmp_path / "other", ignore_errors=True)
    run_alone(BuildReference(), tmp_path / "other", "other", inputs={"fasta": [fasta], "gtf": [gtf]})
    with pytest.raises(MissingInput, match="kallisto used another index"):
        call(lab.fusion, tmp_path / "work", tmp_path / "other")


@pytest.mark.tools
def test_the_unfiltered_files_are_kept_on_request_gzipped(lab: Lab, tmp_path: Path) -> None:
    plain, kept = (call(lab.fusion, tmp_path / str(keep), lab.reference, unfiltered=keep) for keep in (False, True))
    assert not any(path.exists() for path in plain.outputs("unfiltered_files"))
    unfiltered, fasta = (gzip.decompress(path.read_bytes()) for path in kept.outputs("unfiltered_files"))
    assert len(json.loads(unfiltered)["genes"]) == kept.metrics["fusions_unfiltered"] >= kept.metrics["fusions"]
    assert fasta.startswith(b">")
    assert plain.metrics == kept.metrics
    again = call(lab.fusion, tmp_path / "again", lab.reference, unfiltered=True)
    for one, other in zip(kept.outputs("unfiltered_files"), again.outputs("unfiltered_files"), strict=True):
        assert one.read_bytes() == other.read_bytes()


def unfiltered_json(*genes: str) -> str:
    """A file as pizzly lays it out, with these genes B."""
    blocks = (
        '    {\n      "geneA" : { "id" : "GA", "name" : "A"},\n      "geneB" : { "id" : "'
        + gene
        + '", "name" : "B"},\n'
        '      "paircount" : 3,\n      "splitcount" : 0,\n      "transcripts" : [\n      ],\n'
        '      "readpairs" : [\n        {\n          "type" : "PAIR",\n        }\n      ]\n    }'
        for gene in genes
    )
    return '{\n  "genes" : [\n' + ",\n".join(blocks) + "\n  ]\n}"


def test_the_json_is_read_gene_pair_by_gene_pair(tmp_path: Path) -> None:
    path = tmp_path / "pizzly.json"
    path.write_text(unfiltered_json("GB", "GC"))
    assert [(pair.id_a, pair.id_b, pair.pairs, pair.isoforms) for pair in read_gene_pairs(path)] == [
        ("GA", "GB", 3, ()),
        ("GA", "GC", 3, ()),
    ]
    path.write_text(unfiltered_json())
    assert list(read_gene_pairs(path)) == []


def test_a_json_cut_off_at_any_line_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "pizzly.json"
    lines = unfiltered_json("GB", "GC").splitlines(keepends=True)
    for number in range(len(lines)):
        path.write_text("".join(lines[:number]))
        with pytest.raises(ValueError, match=r"cut off|begin"):
            list(read_gene_pairs(path))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, r"pizzly left no readable sim04\.unfiltered\.json"),
        ("{", r"pizzly left no readable sim04\.unfiltered\.json"),
        (unfiltered_json("GC"), "contradict each other: 1 of 1 fusions"),
    ],
)
def test_an_unfiltered_file_that_is_broken_or_disagrees_is_refused(
    tmp_path: Path, text: str | None, words: str
) -> None:
    filtered, unfiltered = tmp_path / "sim04.json", tmp_path / "sim04.unfiltered.json"
    filtered.write_text(unfiltered_json("GB"))
    if text is not None:
        unfiltered.write_text(text)
    job = make_job(Pizzly(), tmp_path / "work", SAMPLE, inputs={}, reference=tmp_path)
    with pytest.raises(InvalidOutput, match=words):
        count_unfiltered(job, unfiltered, list(read_gene_pairs(filtered)))
