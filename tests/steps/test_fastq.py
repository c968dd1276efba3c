"""Whole and torn FASTQ files."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from steps.fastq import disagreement, read_through


def write(path: Path, records: list[tuple[str, str]]) -> Path:
    text = "".join(f"@{name}\n{bases}\n+\n{'I' * len(bases)}\n" for name, bases in records)
    path.write_bytes(gzip.compress(text.encode()))
    return path


def many(mate: int, count: int = 40_000) -> list[tuple[str, str]]:
    return [(f"read{number}/{mate}", "ACGT" * 12) for number in range(count)]


def test_counts_records_beyond_one_chunk_and_names_first_and_last(tmp_path: Path) -> None:
    file = read_through(write(tmp_path / "r.gz", many(1)))
    assert (file.records, file.first_name, file.last_name) == (40_000, "read0", "read39999")
    assert not file.lacks_bases


def test_several_gzip_members_are_one_file(tmp_path: Path) -> None:
    path = write(tmp_path / "r.gz", many(1, 10))
    path.write_bytes(path.read_bytes() * 2)
    assert read_through(path).records == 20


@pytest.mark.parametrize("cut", [10, 200, -1, -8])
def test_a_torn_gzip_is_told(tmp_path: Path, cut: int) -> None:
    path = write(tmp_path / "torn.gz", many(1, 500))
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(ValueError, match=r"torn\.gz is not a whole gzip file"):
        read_through(path)


def test_a_wrong_checksum_is_told(tmp_path: Path) -> None:
    path = write(tmp_path / "r.gz", many(1, 500))
    data = bytearray(path.read_bytes())
    data[-8] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match="not a whole gzip file"):
        read_through(path)


def test_a_record_that_is_cut_is_told(tmp_path: Path) -> None:
    path = tmp_path / "r.gz"
    path.write_bytes(gzip.compress(b"@a\nACGT\n+\nIIII\n@b\nAC"))
    with pytest.raises(ValueError, match="ends inside a FASTQ record"):
        read_through(path)


def test_an_empty_file_has_no_records(tmp_path: Path) -> None:
    assert read_through(write(tmp_path / "r.gz", [])).records == 0


def test_mates_agree_whatever_their_suffix(tmp_path: Path) -> None:
    assert disagreement(*(read_through(write(tmp_path / f"{m}.gz", many(m, 5))) for m in (1, 2))) == ""


@pytest.mark.parametrize(
    ("second", "reason"),
    [
        (many(2, 4), "has 5 records and 2.gz has 4"),
        (many(2, 5)[::-1], "not in the same order: 'read0' stands beside 'read4'"),
        ([*many(2, 4), ("read4/2", "*")], "reads without bases"),
    ],
)
def test_why_files_are_no_mates(tmp_path: Path, second: list[tuple[str, str]], reason: str) -> None:
    one, other = read_through(write(tmp_path / "1.gz", many(1, 5))), read_through(write(tmp_path / "2.gz", second))
    assert reason in disagreement(one, other)


def test_no_reads_at_all_is_a_disagreement(tmp_path: Path) -> None:
    files = [read_through(write(tmp_path / f"{m}.gz", [])) for m in (1, 2)]
    assert "have no reads" in disagreement(*files)


def test_a_quality_of_one_star_is_not_taken_for_missing_bases(tmp_path: Path) -> None:
    path = tmp_path / "r.gz"
    path.write_bytes(gzip.compress(b"@a\nA\n+\n*\n@b\nC\n+\n*\n"))
    assert not read_through(path).lacks_bases
