"""Reads the list of samples: whom a run is about, in which order, and what else is known of each.

    # a list: one name a line                    sample,bam,sex            # a sheet: comma or tab,
    SRR1659964.bam                               S1,s3://b/x/S1.bam,f      # a header with a column `sample`
    S1                                           S2,s3://b/x/S2.bam,m

Blank lines and lines that begin with `#` are skipped; a byte-order mark, Windows line ends and blanks around a name do
no harm; `.bam` is dropped at the end of a name and nowhere else. A name becomes part of object keys, file names and
job variables as it stands, so what could harm there is refused: every problem of the list is told at once.

A sample has one row. A pipeline that reads lanes (`WorkflowTask.lanes`) takes a sheet with several rows of a sample.

(A little long for a module: a third of it is the sentences for what people have in their lists.)
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Final

from batch_pipeline.wire.errors import InvalidSampleList, StoreFailed
from batch_pipeline.wire.s3 import S3Access
from batch_pipeline.wire.store import NotInStore, Store, open_store

#: Column of a sheet that names the sample.
SAMPLE_COLUMN: Final = "sample"
MAX_NAME: Final = 128
#: Problems that one message shows; a list of another kind altogether would fill the screen otherwise.
MAX_SHOWN: Final = 100

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+=@-]{0,127}\Z")
_FOREIGN: Final = re.compile(r"[^A-Za-z0-9._+=@-]")
_NO_COLUMNS: Final[Mapping[str, str]] = {}
_WORDS: Final = {"/": "a slash", "\\": "a backslash", ",": "a comma", " ": "a space", "\t": "a tab", ";": "a semicolon"}
_MAGIC: Final = (
    (b"\x1f\x8b", "compressed (gzip or BAM)"),
    (b"PK\x03\x04", "a zip archive or an Excel workbook"),
    (b"CRAM", "a CRAM file"),
    (b"\xff\xfe", "UTF-16 text"),
    (b"\xfe\xff", "UTF-16 text"),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """One sample of the list."""

    name: str
    #: Line of the list that names it, from 1.
    line: int
    #: The other columns of the sheet; empty for a list.
    columns: Mapping[str, str] = field(default_factory=dict)
    #: Its rows after the first, where the pipeline reads lanes.
    further_rows: tuple[Sample, ...] = ()

    @property
    def rows(self) -> tuple[Sample, ...]:
        """All of its rows, in the order of the sheet."""
        return (self, *self.further_rows)


@dataclass(frozen=True, kw_only=True)
class SampleList:
    """The samples in the order of the list. Names are valid and unique; there is at least one."""

    samples: tuple[Sample, ...]
    #: Where it was read from, as the user wrote it.
    origin: str
    #: Folder that it lies in: an absolute path, a URL or a prefix of the store; None: unknown.
    folder: str | None = None

    def __len__(self) -> int:
        return len(self.samples)

    def __iter__(self) -> Iterator[Sample]:
        return iter(self.samples)

    def __getitem__(self, name: str) -> Sample:
        return self.by_name[name]

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The names in order."""
        return tuple(sample.name for sample in self.samples)

    @cached_property
    def by_name(self) -> Mapping[str, Sample]:
        """Name -> sample."""
        return {sample.name: sample for sample in self.samples}

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """The other columns of the sheet, in order."""
        return tuple(self.samples[0].columns)

    def to_tsv(self) -> bytes:
        """The list as a sheet that `read_samples` reads again to the same names and columns."""
        text = io.StringIO()
        writer = csv.writer(text, delimiter="\t", lineterminator="\n")
        writer.writerow((SAMPLE_COLUMN, *self.columns))
        for row in (row for sample in self.samples for row in sample.rows):
            # A row is one line, for those who read it without this module.
            writer.writerow((row.name, *(value.replace("\n", "") for value in row.columns.values())))
        return text.getvalue().encode()

    @classmethod
    def of(cls, names: Sequence[str], origin: str = "the given names") -> SampleList:
        """A list of bare names. Raises as `parse_samples`."""
        return parse_samples("\n".join(names).encode(), origin)


def read_samples(
    location: str | Path,
    store: Store | None = None,
    reach: Callable[[], S3Access] = S3Access.from_environment,
    *,
    lanes: bool = False,
) -> SampleList:
    """Reads a list or sheet: a file, an `s3://` or `file://` URL, or a key of the store when there is no such file.

    `reach` is as in `open_store`, `lanes` as in `parse_samples`. Raises InvalidSampleList with every problem;
    StoreFailed when the store that holds it cannot be read.
    """
    origin = str(location)
    if not origin:
        raise InvalidSampleList("No sample list was given. Name one: --sample-list-file FILE.")
    data, folder = _read(origin, store, reach)
    return replace(parse_samples(data, origin, lanes=lanes), folder=folder)


def parse_samples(data: bytes, origin: str, *, lanes: bool = False) -> SampleList:
    """The samples in the bytes of a list or sheet; `origin` is its name for messages. Raises InvalidSampleList.

    `lanes`: whether a sample may have several rows of a sheet.
    """
    text = _decoded(data, origin)
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    header = next((line for line in lines if line.strip() and not line.startswith("#")), "")
    delimiter = _delimiter(header, origin)
    problems: list[str] = []
    samples = _sheet(lines, delimiter, origin, problems, lanes=lanes) if delimiter else _list(lines, origin, problems)
    if problems:
        raise InvalidSampleList(sample_problems(problems, origin))
    if not samples:
        raise InvalidSampleList(f"The sample list {origin} names no sample. Write one name a line.")
    return SampleList(samples=tuple(samples), origin=origin)


def _read(origin: str, store: Store | None, reach: Callable[[], S3Access]) -> tuple[bytes, str]:
    """The bytes of a list and the folder that it lies in."""
    if "://" in origin and not origin.startswith("file://"):
        return _read_url(origin, reach), origin.rpartition("/")[0]
    path = Path(origin.removeprefix("file://")).expanduser()
    try:
        return path.read_bytes(), str(path.absolute().parent)
    except FileNotFoundError as error:
        if store is not None and not path.is_absolute():
            return _read_key(origin, store), origin.removeprefix("./").rpartition("/")[0]
        raise InvalidSampleList(f"The sample list {origin} is not there. Check the path.") from error
    except IsADirectoryError as error:
        raise InvalidSampleList(f"The sample list {origin} is a folder. Name a file in it.") from error
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise InvalidSampleList(f"The sample list {origin} cannot be read: {reason}. Check its rights.") from error


def _read_url(url: str, reach: Callable[[], S3Access]) -> bytes:
    folder, _, name = url.rpartition("/")
    try:
        return open_store(folder, reach=reach).get(name)
    except NotInStore as error:
        raise InvalidSampleList(f"The sample list {url} is not there. Check the bucket and the key.") from error


def _read_key(key: str, store: Store) -> bytes:
    try:
        return store.get(key.removeprefix("./"))
    except NotInStore as error:
        raise InvalidSampleList(
            f"The sample list {key} is neither a file here nor in the store {store.url}. Check the path."
        ) from error
    except StoreFailed as error:
        raise InvalidSampleList(f"The sample list {key} is not a file here, and the store failed: {error}") from error


def _decoded(data: bytes, origin: str) -> str:
    for magic, kind in _MAGIC:
        if data.startswith(magic):
            raise InvalidSampleList(
                f"The sample list {origin} is {kind}, not plain text. Save it as UTF-8 text: names, one a line, or a"
                " sheet as CSV."
            )
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InvalidSampleList(
            f"The sample list {origin} is not UTF-8 text (line {line}). Save it as UTF-8; names are plain ASCII."
        ) from error
    if "\0" in text:
        raise InvalidSampleList(
            f"The sample list {origin} holds binary data (line {text.count(chr(10), 0, text.index(chr(0))) + 1})."
            " Name a text file with one sample a line."
        )
    return text


def _delimiter(first_line: str, origin: str) -> str:
    """The sheet's delimiter, or empty for a list: told by a header with the column, else by the file's name."""
    for delimiter in ("\t", ","):
        cells = [cell.strip().strip('"').lower() for cell in first_line.split(delimiter)]
        if len(cells) > 1 and SAMPLE_COLUMN in cells:
            return delimiter
    return {".csv": ",", ".tsv": "\t"}.get(Path(origin).suffix.lower(), "")


def _list(lines: Sequence[str], origin: str, problems: list[str]) -> list[Sample]:
    samples: list[Sample] = []
    seen: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        written = line.strip(" \t")
        if not written or written.startswith("#"):
            continue
        name = _without_suffix(written)
        if _admitted(name, number, origin, seen, problems):
            samples.append(Sample(name=name, line=number, columns=_NO_COLUMNS))
    return samples


def _sheet(lines: Sequence[str], delimiter: str, origin: str, problems: list[str], *, lanes: bool) -> list[Sample]:
    text = ("\n" if line.startswith("#") else f"{line}\n" for line in lines)
    rows = csv.reader(text, delimiter=delimiter, strict=True)
    samples: list[Sample] = []
    seen: dict[str, int] = {}
    header: list[str] = []
    try:
        for row in rows:
            cells = [cell.strip() for cell in row]
            if not any(cells):
                continue
            if not header:
                header = _header(cells, rows.line_num, origin)
            elif (sample := _row(cells, header, rows.line_num, origin, {} if lanes else seen, problems)) is not None:
                samples.append(sample)
    except csv.Error as error:
        problems.append(f"Line {rows.line_num} of {origin} is not valid CSV ({error}). Fix its quotes.")
    return _with_lanes(samples, origin, problems) if lanes else samples


def _with_lanes(rows: Sequence[Sample], origin: str, problems: list[str]) -> list[Sample]:
    """The samples of a sheet of lanes, each with all of its rows. Notes a row that is there twice."""
    rows_by_name: dict[str, list[Sample]] = {}
    lines: dict[tuple[str, ...], int] = {}
    for row in rows:
        rows_by_name.setdefault(row.name, []).append(row)
        line = lines.setdefault((row.name, *row.columns.values()), row.line)
        if line != row.line:
            problems.append(
                f"Sample {row.name!r} has the same row on the lines {line} and {row.line} of {origin}; its files would"
                " be read twice. Remove one of the lines."
            )
    return [replace(first, further_rows=tuple(further)) for first, *further in rows_by_name.values()]


def _header(cells: list[str], line: int, origin: str) -> list[str]:
    cells = [cell.replace("\n", "") for cell in cells]
    names = [SAMPLE_COLUMN if cell.lower() == SAMPLE_COLUMN else cell for cell in cells]
    where = f"The header of {origin} (line {line})"
    if SAMPLE_COLUMN not in names:
        remedy = "Name one column so."
        if len(names) == 1 and ";" in names[0]:
            remedy = "Its columns are separated by semicolons: save it with commas or tabs."
        raise InvalidSampleList(f"{where} has no column 'sample'; it has: {', '.join(names)}. {remedy}")
    twice = [name for name in dict.fromkeys(names) if names.count(name) > 1]
    if twice:
        raise InvalidSampleList(f"{where} has the column {twice[0]!r} twice. Rename one.")
    if "" in names:
        raise InvalidSampleList(f"{where} has no name for column {names.index('') + 1}. Name it, or remove the column.")
    return names


def _row(
    cells: list[str], header: list[str], line: int, origin: str, seen: dict[str, int], problems: list[str]
) -> Sample | None:
    if len(cells) > len(header) and not any(cells[len(header) :]):
        cells = cells[: len(header)]
    if len(cells) != len(header):
        problems.append(
            f"Line {line} of {origin} has {len(cells)} columns, the header has {len(header)}. Give each its value."
        )
        return None
    columns = dict(zip(header, cells, strict=True))
    name = _without_suffix(columns.pop(SAMPLE_COLUMN))
    if not _admitted(name, line, origin, seen, problems):
        return None
    return Sample(name=name, line=line, columns=columns)


def is_name(text: str) -> bool:
    """Whether a text can name a sample, or a group of samples: names become object keys."""
    return _NAME.match(text) is not None


def _without_suffix(written: str) -> str:
    return written[:-4] if written[-4:].lower() == ".bam" else written


def _admitted(name: str, line: int, origin: str, seen: dict[str, int], problems: list[str]) -> bool:
    """Whether the name is valid and new; notes the problem otherwise."""
    if not _NAME.match(name):
        problems.append(_broken_rule(name, line, origin))
        return False
    first = seen.setdefault(name, line)
    if first != line:
        problems.append(
            f"Sample {name!r} (line {line} of {origin}) is already on line {first}; a sample is listed once."
            " Remove one of the lines; if they are lanes, the pipeline needs a sheet and lanes = True in its class."
        )
        return False
    return True


def _broken_rule(name: str, line: int, origin: str) -> str:
    if not name:
        return f"Line {line} of {origin} has no sample name. Write one, or remove the line."
    shown = repr(name if len(name) <= 40 else name[:37] + "…")
    start = f"Sample {shown} (line {line} of {origin})"
    foreign = _FOREIGN.search(name)
    if foreign:
        return f"{start} has {_word(foreign.group())}; names become object keys. {_remedy(foreign.group())}"
    if len(name) > MAX_NAME:
        return f"{start} has {len(name)} characters; a name has at most {MAX_NAME}. Shorten it."
    return f"{start} begins with {name[0]!r}; a name begins with a letter or digit. Rename it."


def _word(character: str) -> str:
    if character in _WORDS:
        return _WORDS[character]
    if not character.isprintable():
        return f"a control character (U+{ord(character):04X})"
    return f"the character {character!r}"


def _remedy(character: str) -> str:
    if character in ",\t;":
        return "Write one name a line, or a sheet with a header that has a column 'sample'."
    return "Rename it with letters, digits and . _ + = @ - only."


def sample_problems(problems: Sequence[str], origin: str) -> str:
    """One message of all problems of a list, as far as a screen holds them."""
    if len(problems) == 1:
        return problems[0]
    shown = list(problems[:MAX_SHOWN])
    if len(problems) > MAX_SHOWN:
        shown.append(f"and {len(problems) - MAX_SHOWN:,} more problems.")
    return "\n".join((f"The sample list {origin} has {len(problems):,} problems; nothing was done.", *shown))
