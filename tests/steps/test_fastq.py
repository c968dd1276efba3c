"""FASTQ as labs have it is counted; what kallisto would read wrongly without a word is refused."""

from __future__ import annotations

import gzip
import random
import tracemalloc
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from steps.fastq import count_pairs
from tests.steps.bams import bgzf

Record = tuple[str, str]


def text(records: Sequence[Record]) -> bytes:
    return "".join(f"@{name}\n{bases}\n+\n{'I' * len(bases)}\n" for name, bases in records).encode()


def write(path: Path, records: Sequence[Record]) -> Path:
    path.write_bytes(gzip.compress(text(records), 1))
    return path


def many(mate: int, count: int = 3_000, name: str = "read{number}/{mate}", seed: int = 1) -> list[Record]:
    bases = random.Random(f"{mate}:{seed}")
    return [
        (name.format(number=number, mate=mate), "".join(bases.choices("ACGT", k=20))) for number in range(1, count + 1)
    ]


def counted(folder: Path, first: Sequence[Record], second: Sequence[Record]) -> int:
    return count_pairs([(write(folder / "1.gz", first), write(folder / "2.gz", second))])


@pytest.mark.parametrize(
    "name",
    [
        "read{number}",
        "read{number}/{mate}",
        "SRR1659964.{number}.{mate}",
        "SRR1659964.{number} {number} length=20",
        "SRR1659964.{number}.{mate} {number} length=20",
        "A01:9:HX:1:1101:7:{number} {mate}:N:0:ACGT+TTGC",
        "read{number} of mate {mate} and {mate}",
        "read{number}\t{mate}:Y:0",
    ],
)
@pytest.mark.parametrize("count", [1, 2, 3_000])
def test_names_as_sequencers_and_archives_write_them_are_taken(tmp_path: Path, name: str, count: int) -> None:
    assert counted(tmp_path, many(1, count, name), many(2, count, name)) == count


@pytest.mark.parametrize(
    "form",
    [
        gzip.compress,
        bgzf,
        bytes,
        lambda data: gzip.compress(data[:-1]),
        lambda data: data[:-1],
        lambda data: gzip.compress(data.replace(b"\n", b"\r\n")),
        lambda data: gzip.compress(data + b"\n\n"),
        lambda data: gzip.compress(data[:1000]) + gzip.compress(data[1000:]),
        lambda data: gzip.compress(data) + gzip.compress(b""),
    ],
    ids=["gzip", "bgzip", "plain", "no newline", "plain, no newline", "CRLF", "blank lines", "members", "empty member"],
)
@pytest.mark.parametrize("count", [1, 3_000])
def test_files_as_tools_write_them_are_taken(tmp_path: Path, form: Callable[[bytes], bytes], count: int) -> None:
    paths = []
    for mate in (1, 2):
        paths.append(tmp_path / f"{mate}.fastq")
        paths[-1].write_bytes(form(text(many(mate, count))))
    assert count_pairs([(paths[0], paths[1])]) == count


def test_trimmed_reads_may_differ_in_length_and_be_empty(tmp_path: Path) -> None:
    second = [(name, bases[: number % 20]) for number, (name, bases) in enumerate(many(2))]
    assert counted(tmp_path, many(1), second) == 3_000
    assert counted(tmp_path, many(1, 1), [("read1/2", "")]) == 1


def test_names_again_behind_the_plus_are_taken(tmp_path: Path) -> None:
    paths = [tmp_path / "1.fastq", tmp_path / "2.fastq"]
    for mate, path in enumerate(paths, 1):
        path.write_bytes(b"".join(text([one]).replace(b"+\n", b"+" + one[0].encode() + b"\n") for one in many(mate)))
    assert count_pairs([(paths[0], paths[1])]) == 3_000


@pytest.mark.parametrize("cut", [10, 200, -1, -8])
@pytest.mark.parametrize("mate", [1, 2])
def test_a_torn_gzip_is_refused(tmp_path: Path, cut: int, mate: int) -> None:
    paths = [write(tmp_path / f"{m}.gz", many(m)) for m in (1, 2)]
    paths[mate - 1].write_bytes(paths[mate - 1].read_bytes()[:cut])
    with pytest.raises(ValueError, match=rf"{mate}\.gz is not a whole gzip file"):
        count_pairs([(paths[0], paths[1])])


def test_a_wrong_checksum_is_refused(tmp_path: Path) -> None:
    paths = [write(tmp_path / f"{mate}.gz", many(mate, 500)) for mate in (1, 2)]
    data = bytearray(paths[0].read_bytes())
    data[-8] ^= 1
    paths[0].write_bytes(data)
    with pytest.raises(ValueError, match=r"1\.gz is not a whole gzip file"):
        count_pairs([(paths[0], paths[1])])


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        (b"@a\nACGT\n+\nIIII\n@b\nAC", r"2\.gz ends inside a FASTQ record, number 2;"),
        (b"@a\nACGT\n+\nIIII\n@b\nACGT\n+\n", r"2\.gz ends inside a FASTQ record"),
        (b"@a\nACGT\n+\nIIII\n@b\nACGT\n+\nII\n", r"2\.gz, record 2, 'b', has 4 bases and 2 qualities; kallisto would"),
        (b"@a\nACGT\n+\nIIII\n@b\nACGT\n+\n*\n", r"record 2, 'b', has 4 bases and 1 qualities"),
        (b"@a\nACGT\n+\nIIII\n@b\n*\n+\n*\n", r"2\.gz has reads without bases \('\*'\): record 2, 'b'"),
        (b"@a\nACGT\n+\nIIII\n\n@b\nACGT\n+\nIIII\n", r"2\.gz, record 2 is not four lines of FASTQ: it begins ''"),
        (b"@a\nAC\nGT\n+\nII\nII\n@b\nA\n", r"2\.gz, record 1 is not four lines of FASTQ"),
        (b">a\nACGT\n>b\nACGT\n", r"2\.gz, record 1 is not four lines of FASTQ: it begins '>a'"),
        (b"BAM\1\0\0", r"2\.gz, record 1 is not four lines of FASTQ"),
    ],
)
def test_what_is_no_record_is_refused_by_its_number(tmp_path: Path, broken: bytes, reason: str) -> None:
    first = write(tmp_path / "1.gz", [("a", "TTTT"), ("b", "CCCC")])
    second = tmp_path / "2.gz"
    second.write_bytes(gzip.compress(broken))
    with pytest.raises(ValueError, match=reason):
        count_pairs([(first, second)])


def test_a_quality_of_one_star_is_not_taken_for_missing_bases(tmp_path: Path) -> None:
    paths = [tmp_path / "1.fastq", tmp_path / "2.fastq"]
    paths[0].write_bytes(b"@a\nA\n+\n*\n@b\nC\n+\n*\n")
    paths[1].write_bytes(b"@a\nG\n+\n*\n@b\nT\n+\n*\n")
    assert count_pairs([(paths[0], paths[1])]) == 2


@pytest.mark.parametrize(("first", "second"), [(3_000, 2_999), (2_000, 3_000), (3_000, 0), (512, 513), (1, 2)])
def test_files_of_unequal_length_are_refused_with_their_numbers(tmp_path: Path, first: int, second: int) -> None:
    with pytest.raises(ValueError, match=rf"1\.gz has {first} records and 2\.gz has {second}; R1 and R2 must be mates"):
        counted(tmp_path, many(1, first), many(2, second))


@pytest.mark.parametrize(
    "name", ["read{number}/{mate}", "SRR9.{number}", "A:{number} {mate}:N:0:ACGT", "SRR9.{number}.{mate}"]
)
def test_mates_out_of_step_in_the_middle_are_refused_where_they_part(tmp_path: Path, name: str) -> None:
    """A read lost from R1 and a later one from R2: first and last names, and the numbers of records, are equal."""
    first, second = many(1, name=name), many(2, name=name)
    del first[1_500], second[1_800]
    with pytest.raises(ValueError, match=r"not in the same order: their record 1501 is '.*1502.*' and '.*1501.*'"):
        counted(tmp_path, first, second)


def test_a_shuffled_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not in the same order: their record 1 is 'read1/1' and 'read5/2'"):
        counted(tmp_path, many(1, 5), many(2, 5)[::-1])


@pytest.mark.parametrize("name", ["read{number}/{mate}", "A:{number} {mate}:N:0:ACGT"])
def test_r1_in_the_place_of_r2_is_refused_since_strands_would_be_swapped(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match=r"record 1 is .* R1 comes first"):
        counted(tmp_path, many(2, name=name), many(1, name=name))


def test_no_reads_at_all_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="have no reads"):
        counted(tmp_path, [], [])


def test_one_file_for_both_mates_is_refused_whatever_its_name(tmp_path: Path) -> None:
    one = write(tmp_path / "1.gz", many(1))
    with pytest.raises(ValueError, match=r"1\.gz and 1\.gz hold the same reads, one file given twice"):
        count_pairs([(one, one)])
    renamed = [(name.replace("/1", "/2"), bases) for name, bases in many(1)]
    with pytest.raises(ValueError, match=r"1\.gz and 2\.gz hold the same reads"):
        counted(tmp_path, many(1), renamed)


@pytest.mark.parametrize("count", [1, 2, 700, 10_000])
def test_a_file_that_holds_its_reads_twice_is_refused(tmp_path: Path, count: int) -> None:
    with pytest.raises(ValueError, match=rf"1\.gz has reads that were there before: record {count + 1}, 'read1/1'"):
        counted(tmp_path, many(1, count) * 2, many(2, count) * 2)


def test_a_lane_in_the_middle_that_comes_again_is_refused(tmp_path: Path) -> None:
    lanes = [[many(mate, 9_000, f"L{lane}:{{number}}", seed=lane) for lane in range(3)] for mate in (1, 2)]
    first, second = ([*a, *b, *c, *b] for a, b, c in lanes)
    with pytest.raises(ValueError, match="has reads that were there before"):
        counted(tmp_path, first, second)


def test_a_lane_given_twice_is_refused_under_any_name(tmp_path: Path) -> None:
    lane = (write(tmp_path / "L1_1.gz", many(1)), write(tmp_path / "L1_2.gz", many(2)))
    copy = (write(tmp_path / "L2_1.gz", many(1)), write(tmp_path / "L2_2.gz", many(2)))
    with pytest.raises(ValueError, match=r"L2_1\.gz has reads that were there before"):
        count_pairs([lane, copy])


def test_lanes_whose_reads_bear_the_same_names_are_counted(tmp_path: Path) -> None:
    lanes = [tuple(write(tmp_path / f"{lane}_{mate}.gz", many(mate, seed=lane)) for mate in (1, 2)) for lane in (1, 2)]
    assert count_pairs([(lane[0], lane[1]) for lane in lanes]) == 6_000


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    records = [many(mate, 512) for mate in (1, 2)]
    peaks = []
    for times in (8, 40):
        paths = []
        for mate in (1, 2):
            paths.append(tmp_path / f"{mate}.fastq")
            parts = (text([(f"{n}:{name}", bases) for name, bases in records[mate - 1]]) for n in range(times))
            paths[-1].write_bytes(b"".join(parts))
        tracemalloc.start()
        assert count_pairs([(paths[0], paths[1])]) == 512 * times
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0]
