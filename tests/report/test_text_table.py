"""Tables as text: as wide as they are in a pipe, folded by columns on a terminal, and never within a word."""

from __future__ import annotations

import re

import pytest

from batch_pipeline.report.text_table import pair_lines, table_lines

RUN = "01M7YZ50TRBNKJMFARJXEPR42Y"
SAMPLE = "TCGA-AB-2803-03A-01T-0734-13_lane_1_of_4_resequenced_2026-11-21"
COLUMNS = ["run", "pipeline", "samples", "state", "command"]
ROWS = [
    [RUN, "Fusions", 1198, "done", "main.py --sample-list-file /data/cohort/samples.csv --bucket-name my-data"],
    [RUN[:-1] + "Z", "Words", 3, "failed", "words.py"],
]


def words(lines: list[str]) -> list[str]:
    return sorted(word for line in lines for word in line.split())


def test_in_a_pipe_a_record_is_one_line() -> None:
    lines = list(table_lines(COLUMNS, ROWS, width=None))
    assert lines == [
        "run                         pipeline  samples  state   command",
        f"{RUN}  Fusions     1,198  done    {ROWS[0][4]}",
        f"{RUN[:-1]}Z  Words           3  failed  words.py",
    ]


def test_what_fits_is_not_folded() -> None:
    wide = list(table_lines(COLUMNS, ROWS, width=None))
    assert list(table_lines(COLUMNS, ROWS, width=max(map(len, wide)))) == wide


def test_at_eighty_characters_the_widest_column_moves_below() -> None:
    assert list(table_lines(COLUMNS, ROWS, width=80)) == [
        "run                         pipeline  samples  state",
        f"{RUN}  Fusions     1,198  done",
        "    command: main.py --sample-list-file /data/cohort/samples.csv --bucket-name",
        "    my-data",
        f"{RUN[:-1]}Z  Words           3  failed",
        "    command: words.py",
    ]


@pytest.mark.parametrize("width", [80, 60, 20])
def test_every_word_is_whole_and_no_line_is_wider_than_it_must_be(width: int) -> None:
    rows = [[SAMPLE, "pizzly", RUN, 12, "step failed", f"file:///store/runs/{RUN}/", "a sentence of some words"]]
    columns = ["sample", "step", "run", "attempts", "why", "folder", "message"]
    lines = list(table_lines(columns, rows, width=width))
    for word in (SAMPLE, RUN, "12", f"file:///store/runs/{RUN}/", "sentence"):
        assert sum(word in line.split() for line in lines) >= 1
    for line in lines:
        assert len(line) <= width or len(line.split()) <= 2, line


def test_columns_of_numbers_are_set_right_and_empty_values_left_out_below() -> None:
    lines = list(table_lines(["step", "cells", "x" * 30], [["a", 5, ""], ["b", 12000, "y"]], width=40))
    assert lines == ["step   cells", "a          5", "b     12,000", f"    {'x' * 30}: y"]


def test_a_table_without_rows_is_its_header() -> None:
    assert list(table_lines(["step", "cells"], [], width=80)) == ["step  cells"]


def test_wide_characters_are_two_columns_and_nothing_is_obeyed() -> None:
    lines = list(table_lines(["sample", "n"], [["標本", 1], ["e\u0301", 2], ["a\x1b[2Jb\nc", 3]], width=None))
    assert lines == ["sample    n", "標本      1", "e\u0301         2", "a\ufffd[2Jb c  3"]


def test_a_long_value_goes_on_below_itself() -> None:
    pairs = [("command", "main.py --sample-list-file samples.csv"), ("by", "ada"), ("note", "")]
    assert list(pair_lines(pairs, width=40)) == [
        "  command  main.py --sample-list-file",
        "           samples.csv",
        "  by       ada",
        "  note",
    ]
    assert not [line for line in pair_lines(pairs, width=None) if re.match(r" {10}", line)]


def test_a_value_beside_its_name_is_one_printable_line() -> None:
    """A description is whatever its user wrote, and others of the store read it."""
    (line,) = pair_lines([["description", "evil \x1b]0;title\x07 \u202eabc\nnew"]], width=None)
    assert line == "  description  evil \ufffd]0;title\ufffd \ufffdabc new"
