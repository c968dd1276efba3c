"""Every way in which pizzly reports fewer fusions with exit code 0, made with real broken inputs."""

from __future__ import annotations

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
from steps.kallisto import FUSION_HEADER
from steps.pizzly import Pizzly, flatten, settle_directions
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


@pytest.mark.tools
def test_the_fusion_is_found_and_the_table_lists_it(lab: Lab, tmp_path: Path) -> None:
    job = call(lab.fusion, tmp_path / "work", lab.reference, {"kallisto": lab.kallisto.metrics})
    assert job.metrics["fusions"] >= 1
    assert job.metrics["candidates"] == lab.kallisto.metrics["fusion_rows"]
    header, *rows = job.output("table").read_text().splitlines()
    genes = json.loads(job.output("fusions").read_text())["genes"]
    assert header.split("\t")[:6] == ["geneA.name", "geneA.id", "geneB.name", "geneB.id", "paircount", "splitcount"]
    assert [row.split("\t")[0] for row in rows] == [gene["geneA"]["name"] for gene in genes]
    assert job.versions["pizzly"][0].isdigit()


@pytest.mark.tools
def test_two_runs_leave_the_same_bytes(lab: Lab, tmp_path: Path) -> None:
    jobs = [call(lab.fusion, tmp_path / name, lab.reference) for name in ("one", "two")]
    for port in ("fusions", "sequences", "table"):
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
        path.name for port in ("fusions", "sequences", "unfiltered", "table") for path in job.outputs(port)
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
        ("unfiltered", None, r"pizzly left no readable sim04\.unfiltered\.json"),
        ("unfiltered", '{"genes": []}', "contradict each other"),
        ("table", "header\n", "contradict each other"),
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


def test_the_table_has_one_line_a_gene_pair() -> None:
    gene = {
        "geneA": {"name": "A", "id": "GA"},
        "geneB": {"name": "B", "id": "GB"},
        "paircount": 3,
        "splitcount": 0,
        "transcripts": [{"fasta_record": "one"}, {"fasta_record": "two"}],
    }
    assert list(flatten([gene]))[1] == "A\tGA\tB\tGB\t3\t0\tone;two\n"
