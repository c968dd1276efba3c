from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batch_pipeline.pipeline.samples import MAX_SHOWN, SampleList, parse_samples, read_samples
from batch_pipeline.wire.errors import InvalidSampleList
from batch_pipeline.wire.store import open_store

NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._+=@-]{0,30}", fullmatch=True).filter(
    lambda name: not name.lower().endswith(".bam")
)


def names_in(text: str | bytes, origin: str = "list.txt") -> tuple[str, ...]:
    data = text.encode() if isinstance(text, str) else text
    return parse_samples(data, origin).names


def problem_of(text: str | bytes, origin: str = "list.txt") -> str:
    with pytest.raises(InvalidSampleList) as caught:
        names_in(text, origin)
    return caught.value.message


def test_one_name_a_line_in_the_order_of_the_list() -> None:
    samples = parse_samples(b"S2\nS1\n# a comment\n\nS3", "list.txt")
    assert samples.names == ("S2", "S1", "S3")
    assert [sample.line for sample in samples] == [1, 2, 5]


def test_the_suffix_is_dropped_at_the_end_only() -> None:
    assert names_in("a.bam\nb.bam.sorted\nc.BAM\nd.bam.bam\n") == ("a", "b.bam.sorted", "c", "d.bam")


@pytest.mark.parametrize(
    "text", ["\ufeffA\r\nB\r\n", "A\rB\r", "  A\t\nB  \n\n\n", "A\n   \n#x\nB", "A.bam\t\r\nB"], ids=repr
)
def test_what_editors_leave_behind_does_no_harm(text: str) -> None:
    assert names_in(text) == ("A", "B")


def test_names_that_differ_in_case_only_are_two_samples() -> None:
    assert names_in("s1\nS1\n") == ("s1", "S1")


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("a b", "has a space"),
        ("a,b", "has a comma"),
        ("a;b", "has a semicolon"),
        ("a/b", "has a slash"),
        ("../etc", "has a slash"),
        ("a\\b", "has a backslash"),
        ("a\tb", "has a tab"),
        ("a\x07b", "has a control character (U+0007)"),
        ("a\x0bb", "has a control character (U+000B)"),
        ("a\u2028b", "has a control character (U+2028)"),
        ("é", "has the character 'é'"),
        ("a\u200bb", "has a control character (U+200B)"),
        ("😀", "has the character '😀'"),
        ("a:b", "has the character ':'"),
        ("a*", "has the character '*'"),
        ("$(id)", "has the character '$'"),
        ("-rf", "begins with '-'"),
        (".hidden", "begins with '.'"),
        ("..", "begins with '.'"),
        ("_cohort", "begins with '_'"),
        ("a" * 129, "has 129 characters; a name has at most 128"),
        (".bam", "has no sample name"),
    ],
)
def test_a_bad_name_is_refused_with_its_place_and_its_rule(name: str, rule: str) -> None:
    message = problem_of(f"good\n{name}\n", "my list.txt")
    assert rule in message
    assert "line 2 of my list.txt" in message or "Line 2 of my list.txt" in message
    assert message.endswith(".")


def test_a_name_of_128_characters_is_fine() -> None:
    assert names_in("a" * 128 + ".bam") == ("a" * 128,)


def test_a_duplicate_is_refused_with_both_lines() -> None:
    message = problem_of("S1\nS2\nS1.bam\n")
    assert "line 3" in message
    assert "already on line 1" in message


def test_all_problems_are_told_at_once() -> None:
    lines = problem_of("a b\nok\nx/y\nok\n").split("\n")
    assert lines[0] == "The sample list list.txt has 3 problems; nothing was done."
    assert [("line 1" in lines[1]), ("line 3" in lines[2]), ("line 4" in lines[3])] == [True] * 3


def test_a_list_of_another_kind_does_not_fill_the_screen() -> None:
    lines = problem_of("\n".join(f"bad name {i}" for i in range(1000))).split("\n")
    assert len(lines) == MAX_SHOWN + 2
    assert lines[-1] == "and 900 more problems."


@pytest.mark.parametrize(
    ("data", "rule"),
    [
        (b"", "names no sample"),
        (b"\n# only a comment\n\n", "names no sample"),
        (b"\xef\xbb\xbf", "names no sample"),
        (b"\x1f\x8b\x08\x04rest", "is compressed (gzip or BAM)"),
        (b"PK\x03\x04rest", "a zip archive or an Excel workbook"),
        ("S1\n".encode("utf-16"), "is UTF-16 text"),
        (b"ok\nS\xe9\n", "is not UTF-8 text (line 2)"),
        (b"ok\nS\x00\n", "holds binary data (line 2)"),
    ],
)
def test_what_is_no_list_is_told_as_such(data: bytes, rule: str) -> None:
    assert rule in problem_of(data)


def test_a_sheet_keeps_its_other_columns() -> None:
    samples = parse_samples(b'sex,Sample,bam\nf,S1.bam,"s3://b/a, b.bam"\n\n# no\nm,S2,\n', "sheet.csv")
    assert samples.names == ("S1", "S2")
    assert samples.columns == ("sex", "bam")
    assert dict(samples["S1"].columns) == {"sex": "f", "bam": "s3://b/a, b.bam"}
    assert samples["S2"].line == 5


def test_a_sheet_is_known_by_its_header_or_its_name() -> None:
    assert names_in("sample\tx\nA\t1\n", "anything") == ("A",)
    assert names_in("sample\nA\n", "x.csv") == ("A",)
    assert names_in("sample\nA\n", "x.txt") == ("sample", "A")


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("name,bam\nA,b\n", "has no column 'sample'; it has: name, bam"),
        ("sample;x\nA;b\n", "has no column 'sample'; it has: sample;x. Its columns are separated by semicolons"),
        ("sample,x,x\nA,b,c\n", "has the column 'x' twice"),
        ("sample,,x\nA,b,c\n", "has no name for column 2"),
        ("sample,x\nA\n", "Line 2 of s.csv has 1 columns, the header has 2"),
        ("sample,x\nA,1,2\n", "Line 2 of s.csv has 3 columns"),
        ("sample,x\n,1\n", "Line 2 of s.csv has no sample name"),
        ('sample,x\nA,"b\n', "is not valid CSV"),
        ("sample,x\nA,1\nA,2\n", "already on line 2"),
        ("sample,x\nA,1\nA,2\n", "if they are lanes, the pipeline needs a sheet and lanes = True in its class"),
        ("sample,x\n", "names no sample"),
    ],
)
def test_a_broken_sheet_is_refused(text: str, rule: str) -> None:
    assert rule in problem_of(text, "s.csv")


def test_empty_columns_at_the_end_of_a_row_are_ignored() -> None:
    assert names_in("sample,x\nA,1,,\n", "s.csv") == ("A",)


def test_a_line_end_in_quotes_stays_in_its_field_and_a_row_of_the_record_is_one_line() -> None:
    samples = parse_samples(b'sample,"a\nnote",x\nA,"1\n2",3\n', "s.csv")
    assert dict(samples["A"].columns) == {"anote": "1\n2", "x": "3"}
    assert samples.to_tsv() == b"sample\tanote\tx\nA\t12\t3\n"


LANES = "sample,fastq\nA,a1.fq\nB,b1.fq\nA,a2.fq\n"


def test_rows_of_one_sample_are_its_lanes_in_the_order_of_the_sheet() -> None:
    samples = parse_samples(LANES.encode(), "s.csv", lanes=True)
    assert samples.names == ("A", "B")
    assert [(row.line, row.columns["fastq"]) for row in samples["A"].rows] == [(2, "a1.fq"), (4, "a2.fq")]
    assert [row.line for row in samples["B"].rows] == [3]


def test_a_pipeline_that_reads_no_lanes_refuses_a_sample_that_is_there_twice() -> None:
    assert "already on line 2" in problem_of(LANES, "s.csv")
    with pytest.raises(InvalidSampleList, match="already on line 1"):
        parse_samples(b"A\nA\n", "list.txt", lanes=True)


def test_the_same_row_twice_is_no_lane() -> None:
    with pytest.raises(
        InvalidSampleList, match=r"same row on the lines 2 and 3 of s\.csv; its files would be read twice"
    ):
        parse_samples(b"sample,x\nA,1\nA,1\n", "s.csv", lanes=True)


def test_lanes_written_as_a_sheet_are_read_again() -> None:
    samples = parse_samples(LANES.encode(), "s.csv", lanes=True)
    again = parse_samples(samples.to_tsv(), "samples.tsv", lanes=True)
    assert [[row.columns for row in sample.rows] for sample in again] == [
        [row.columns for row in sample.rows] for sample in samples
    ]


def test_a_list_knows_the_folder_that_it_lies_in(tmp_path: Path) -> None:
    store = open_store("memory://folders")
    store.put("lists/x.txt", b"A\n")
    (tmp_path / "x.txt").write_text("A\n")
    assert read_samples(tmp_path / "x.txt").folder == str(tmp_path)
    assert read_samples("lists/x.txt", store).folder == "lists"
    assert read_samples(f"file://{tmp_path}/x.txt").folder == str(tmp_path)
    assert parse_samples(b"A\n", "x.txt").folder is None


@given(st.lists(NAMES, min_size=1, max_size=8, unique=True), st.text("abc,\t\" '", max_size=8))
def test_a_list_written_as_a_sheet_is_read_again(names: list[str], value: str) -> None:
    rows = "".join(f"{name}\t{i}\n" for i, name in enumerate(names))
    samples = parse_samples(f"sample\tnumber\n{rows}".encode(), "s.tsv")
    again = parse_samples(samples.to_tsv(), "samples.tsv")
    assert again.names == tuple(names)
    assert [dict(sample.columns) for sample in again] == [dict(sample.columns) for sample in samples]
    plain = SampleList.of(names)
    assert parse_samples(plain.to_tsv(), "samples.tsv").names == plain.names == tuple(names)


def test_a_list_is_read_from_a_file_a_url_or_the_store(tmp_path: Path) -> None:
    (tmp_path / "here.txt").write_text("A\n")
    store = open_store("memory://samples")
    store.put("lists/there.txt", b"B\n")
    assert read_samples(tmp_path / "here.txt", store).names == ("A",)
    assert read_samples(f"file://{tmp_path}/here.txt").names == ("A",)
    assert read_samples("lists/there.txt", store).names == ("B",)
    store_url = open_store("memory://samples/lists")
    store_url.put("x.txt", b"C\n")
    assert read_samples("memory://samples/lists/x.txt").names == ("C",)


@pytest.mark.parametrize(
    ("location", "rule"),
    [
        ("", "No sample list was given"),
        ("nowhere.txt", "is not there"),
        ("/nowhere/list.txt", "is not there"),
        (".", "is a folder"),
        ("memory://empty/none.txt", "is not there"),
        ("a\0b", "cannot be read"),
    ],
)
def test_a_list_that_cannot_be_read_is_told(
    location: str, rule: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidSampleList) as caught:
        read_samples(location)
    assert rule in caught.value.message


def test_a_list_that_is_neither_here_nor_in_the_store_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidSampleList, match="neither a file here nor in the store"):
        read_samples("nowhere.txt", open_store("memory://nothing"))


def test_a_hundred_thousand_names_keep_their_order() -> None:
    samples = parse_samples("\n".join(f"S{i}.bam" for i in range(100_000)).encode(), "long.txt")
    assert len(samples) == 100_000
    assert samples.names[99_999] == "S99999"
