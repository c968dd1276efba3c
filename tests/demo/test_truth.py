"""Scoring: what counts as found, exact, missed and not true."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from batch_pipeline.demo.truth import Fusion, Score, read_truth, score_results, write_truth

FUSION = Fusion(
    sample="s1",
    gene_a="A",
    gene_a_id="GA",
    gene_b="B",
    gene_b_id="GB",
    transcript_a="TA",
    transcript_b="TB",
    position_a=400,
    position_b=700,
    spanning=5,
    split=9,
)


def gene(a: str = "A", b: str = "B", end: int = 400, start: int = 700, transcript: str = "TA") -> dict[str, Any]:
    isoforms = {"transcriptA": {"id": transcript, "endPos": end}, "transcriptB": {"id": "TB", "startPos": start}}
    return {"geneA": {"id": f"G{a}", "name": a}, "geneB": {"id": f"G{b}", "name": b}, "transcripts": [isoforms]}


def judged(tmp_path: Path, *genes: dict[str, Any], truth: tuple[Fusion, ...] = (FUSION,)) -> Score:
    path = tmp_path / "s1.json"
    path.write_text(json.dumps({"genes": genes}))
    return score_results(truth, ["s1"], {"s1": path})


def test_the_truth_and_nothing_else_is_perfect(tmp_path: Path) -> None:
    score = judged(tmp_path, gene())
    assert score.perfect
    assert (score.detected, score.expected) == (1, 1)
    assert score.samples[0].found == ("A-B",)


def test_the_partners_order_matters(tmp_path: Path) -> None:
    score = judged(tmp_path, gene("B", "A"))
    assert not score.perfect
    assert (score.samples[0].missed, score.samples[0].extra) == (("A-B",), ("B-A",))


def test_a_fusion_too_many_is_not_true(tmp_path: Path) -> None:
    score = judged(tmp_path, gene(), gene("C", "D"))
    assert not score.perfect
    assert score.samples[0].extra == ("C-D",)


@pytest.mark.parametrize("wrong", [{"end": 399}, {"start": 701}, {"transcript": "TX"}])
def test_a_breakpoint_elsewhere_is_found_and_not_exact(tmp_path: Path, wrong: dict[str, Any]) -> None:
    [sample] = judged(tmp_path, gene(**wrong)).samples
    assert (sample.found, sample.judged, sample.exact, sample.perfect) == (("A-B",), 1, 0, False)


def test_any_pair_of_isoforms_may_have_the_breakpoint(tmp_path: Path) -> None:
    several = gene(end=1)
    several["transcripts"] += gene()["transcripts"]
    assert judged(tmp_path, several).perfect


def test_unknown_breakpoints_are_not_judged(tmp_path: Path) -> None:
    unknown = replace(FUSION, transcript_a="", transcript_b="", position_a=0, position_b=0)
    [sample] = judged(tmp_path, gene(end=1), truth=(unknown,)).samples
    assert (sample.judged, sample.perfect) == (0, True)


def test_a_sample_without_fusions_must_be_empty(tmp_path: Path) -> None:
    assert judged(tmp_path, truth=()).perfect
    assert not judged(tmp_path, gene(), truth=()).perfect


@pytest.mark.parametrize("truth", [(), (FUSION,)])
def test_no_result_is_not_taken_for_no_fusions(tmp_path: Path, truth: tuple[Fusion, ...]) -> None:
    for results in ({}, {"s1": tmp_path / "none.json"}):
        score = score_results(truth, ["s1"], results)
        assert not score.perfect
        assert score.samples[0].problem == "no result"


def test_an_unreadable_result_is_told(tmp_path: Path) -> None:
    (tmp_path / "s1.json").write_text("{")
    score = score_results([FUSION], ["s1"], {"s1": tmp_path / "s1.json"})
    assert "unreadable" in score.samples[0].problem


def test_the_same_pair_in_another_sample_is_judged_there(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    path.write_text(json.dumps({"genes": [gene()]}))
    score = score_results([replace(FUSION, sample="s2")], ["s1", "s2"], {"s1": path, "s2": path})
    assert [sample.perfect for sample in score.samples] == [False, True]


def test_the_table_and_the_sentence_say_it_all(tmp_path: Path) -> None:
    score = judged(tmp_path, gene("C", "D"))
    header, row = score.table()
    assert len(header) == len(row)
    assert row == ("s1", "1", "-", "A-B", "C-D", "-", "differs")
    assert score.sentence.startswith("0 of 1 fusions found, 1 not true, 0 of 0 known breakpoints exact")


def test_a_truth_table_reads_back(tmp_path: Path) -> None:
    truth = [FUSION, replace(FUSION, sample="s2", transcript_a="", transcript_b="", position_a=0, position_b=0)]
    write_truth(tmp_path / "truth.tsv", truth)
    assert read_truth(tmp_path / "truth.tsv") == truth


def test_an_empty_truth_table_reads_back(tmp_path: Path) -> None:
    write_truth(tmp_path / "truth.tsv", [])
    assert read_truth(tmp_path / "truth.tsv") == []
