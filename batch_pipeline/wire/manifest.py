"""The manifest of a submission: what a job's container needs to know, fixed when it is submitted.

Two immutable objects a submission. `manifest.json` is the header: all that its cells share. `rows.txt` has one line a
cell, padded to one width, so that child i of ten thousand reads its own row with one range request instead of the
whole list: a row is `[sample, fingerprint, {source port: [{"url", "etag", "size_bytes"}, …]}, {upstream step:
fingerprint}]` as JSON, and at its end a map with what else it has: `columns` (name: value) where the step declares
columns of the sheet, `from` (port: position) where it has a choice of alternatives, and what only cells of parts and
groups have, and those that read them (`_OF_ROWS`). Index -> sample is fixed here; a list that somebody edits later
changes nothing.

Format 2 has rows of cells whose own receipt was retired: they go on with `[version, must_run]`; or a header that names
the ports of which no file may lack (`required`). Format 3 has a header that names what its image must know (`needs`).
Any other submission is written in format 1, so that images of before go on working.

(A little longer than most modules: header, ports and rows as values, and their one form as bytes.)
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Self

from batch_pipeline.wire.errors import ContractBroken

#: Images that know format 1 alone would take a retired receipt for success, and pass an input without its files.
FORMATS = (1, 2, 3)
#: What a submission may need of its image (`Manifest.needs`): each is what images before it would not obey.
#: `command`: the step's class has a command for bash. `columns`: it reads values of the sheet. `directory`, `many`: a
#: port has one of the two forms. `alternatives`: what a port reads is another thing for other rows. `excluded`:
#: conditions exclude samples of a gather. `references`: a reference port has several files. `rows`: its cells are parts
#: or groups of samples, or read such. `log_excerpt`: not all of the log is printed.
KNOWN_NEEDS = frozenset(
    {"alternatives", "columns", "command", "directory", "excluded", "log_excerpt", "many", "references", "rows"}
)
#: Further fields of a row, at its end under these names.
_OF_ROWS = ("gathered", "member_columns", "at", "part", "part_of")
#: Fields of a header, and of a port in it, that are left out where they are empty.
_LEFT_OUT = frozenset(
    {
        "required",
        "columns",
        "gathered_columns",
        "excluded",
        "needs",
        "form",
        "output",
        "alternatives",
        "chosen",
        "rows",
        "log_excerpt",
    }
)


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceFile:
    """A file that no step made."""

    #: Key relative to the store, or a full URL (`s3://…`, `file:///…`).
    url: str
    etag: str
    size_bytes: int


@dataclass(frozen=True, kw_only=True)
class InputSpec:
    """One input port of a step."""

    port: str
    #: `step`: files of the same sample's upstream cell. `gather`: files of every sample's. `cohort`: files of a gather.
    #: `source`: in the row. `alternatives`: one of them, by the row (`Row.chosen`) or, of a gather, by `chosen`.
    kind: str
    #: The upstream step, for all but `source`.
    step: str = ""
    #: Its files' names, with `{sample}` to fill in; of a `form`, what the output port declares.
    files: tuple[str, ...] = ()
    #: `DIRECTORY` or `MANY`: the upstream cell's receipt names the files of its port `output`. Empty: `files` does.
    form: str = ""
    output: str = ""
    alternatives: tuple[InputSpec, ...] = ()
    #: For alternatives of a gather: sample and position, in the order of the list.
    chosen: tuple[tuple[str, int], ...] = ()
    #: Names of the cells that a gather reads, of a row that names them (`Manifest.of_row`); never in a header.
    rows: tuple[str, ...] | None = None

    def at(self, position: int) -> InputSpec:
        """The alternative at a position. Raises ContractBroken for one that is not there."""
        if not 0 <= position < len(self.alternatives):
            raise ContractBroken(f"Input {self.port!r} has no alternative {position}; submit again.")
        return self.alternatives[position]

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Reads a port of `Manifest.to_json`. Raises TypeError, KeyError."""
        alternatives = tuple(cls.from_json(one) for one in value.get("alternatives", ()))
        chosen = tuple((sample, position) for sample, position in value.get("chosen", ()))
        return cls(**{**value, "files": tuple(value["files"]), "alternatives": alternatives, "chosen": chosen})


@dataclass(frozen=True, kw_only=True)
class ReferenceSpec:
    """One file of a reference port: the same for every sample, cached once a host."""

    port: str
    key: str
    etag: str
    size_bytes: int


@dataclass(frozen=True, kw_only=True)
class OutputSpec:
    """One output port of a step."""

    port: str
    #: Names relative to the scratch folder, with `{sample}` to fill in.
    files: tuple[str, ...]
    #: Whether its absence is no error.
    optional: bool = False
    #: `DIRECTORY`: `files` is one folder, its name ends with a slash. `MANY`: `files` are patterns. Empty: names.
    form: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class RetiredReceipt:
    """The cell's own success receipt, which stands and counts for nothing."""

    #: Tells it from another that may take its place (`Store.version`).
    version: str
    #: Whether the step runs even if all that it reads, and its results, are found unchanged.
    must_run: bool = False


@dataclass(frozen=True, kw_only=True)
class Row:
    """One cell of a submission."""

    sample: str
    fingerprint: str
    sources: Mapping[str, tuple[SourceFile, ...]] = field(default_factory=dict)
    #: Upstream step -> fingerprint of the same sample's cell there; its receipt vouches for the inputs.
    upstream: Mapping[str, str] = field(default_factory=dict)
    #: None: there is none.
    retired: RetiredReceipt | None = None
    #: Column of the sheet that the step declares -> its value.
    columns: Mapping[str, Any] = field(default_factory=dict)
    #: Port with alternatives -> position of the one that the cell reads; none where it reads none of them.
    chosen: Mapping[str, int] = field(default_factory=dict)
    #: Port that reads several cells, of parts or of a group's members -> name and fingerprint of each.
    gathered: Mapping[str, Sequence[Sequence[str]]] = field(default_factory=dict)
    #: Of a group whose step declares columns: member -> their values, in the order of the header's `columns`.
    member_columns: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    #: Upstream step -> name of the cell that is read there, where that is not the row's own.
    at: Mapping[str, str] = field(default_factory=dict)
    #: Of a part: its text as it is written, and its sample.
    part: str = ""
    part_of: str = ""

    def to_line(self) -> bytes:
        """The row as one line of JSON without its end."""
        sources = {port: [asdict(file) for file in files] for port, files in self.sources.items()}
        value: list[Any] = [self.sample, self.fingerprint, sources, dict(self.upstream)]
        if self.retired is not None:
            value.append([self.retired.version, self.retired.must_run])
        further = {"columns": dict(self.columns), "from": dict(self.chosen)}
        further |= {name: item for name in _OF_ROWS if (item := getattr(self, name))}
        if any(further.values()):
            value.append({name: item for name, item in further.items() if item})
        return json.dumps(value, separators=(",", ":"), ensure_ascii=True).encode()

    @classmethod
    def from_line(cls, line: bytes) -> Self:
        """Reads `to_line`, padding included. Raises ContractBroken."""
        try:
            sample, fingerprint, sources, upstream, *rest = json.loads(line)
            files = {port: tuple(SourceFile(**file) for file in entries) for port, entries in sources.items()}
            further = rest.pop() if rest and isinstance(rest[-1], dict) else {}
            retired = RetiredReceipt(version=rest[0][0], must_run=rest[0][1]) if rest else None
            columns, chosen = dict(further.get("columns", {})), dict(further.get("from", {}))
        except (ValueError, TypeError, LookupError) as error:
            raise ContractBroken(f"A row of the manifest cannot be read ({error}); submit again.") from error
        row = cls(sample=sample, fingerprint=fingerprint, sources=files, upstream=upstream, retired=retired)
        others = {name: further[name] for name in _OF_ROWS if name in further}
        return replace(row, columns=columns, chosen=chosen, **others) if further else row


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The header of a submission."""

    run_id: str
    #: Our name of the submission within the run: `kallisto-0-0`.
    job: str
    step: str
    #: `sample`, `cohort` or `reference` (`pipeline.step.Scope`).
    scope: str
    #: `package.module:Class` in the bundle.
    entry: str
    #: File in the bundle that is run instead of the class's `run`; empty for Python steps.
    script: str = ""
    params: Mapping[str, Any] = field(default_factory=dict)
    inputs: tuple[InputSpec, ...] = ()
    references: tuple[ReferenceSpec, ...] = ()
    outputs: tuple[OutputSpec, ...] = ()
    bundle_sha256: str = ""
    cpus: int = 1
    memory_mb: int = 1024
    #: Name of the reference, or empty.
    reference: str = ""
    #: Cells, and bytes a row with its newline.
    count: int = 1
    row_bytes: int = 0
    #: For a gather: samples and upstream fingerprints, `{step: [[sample, fingerprint], …]}`; else empty.
    gathered: Mapping[str, Sequence[Sequence[str]]] = field(default_factory=dict)
    #: Samples that a gather does without (`--min-success`).
    missing: tuple[str, ...] = ()
    #: Samples of which a port of a gather has nothing, for conditions exclude it.
    excluded: tuple[str, ...] = ()
    #: Input ports of which the receipts that vouch for them must name every file. Only told where results of other code
    #: are trusted: else the fingerprints see to it.
    required: tuple[str, ...] = ()
    #: Columns of the sheet that the step declares: name and type.
    columns: tuple[tuple[str, str], ...] = ()
    #: For a gather that declares columns: sample -> their values, in the order of `columns`.
    gathered_columns: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    #: What the image must know, of `KNOWN_NEEDS`.
    needs: tuple[str, ...] = ()
    #: Whether the backend's stream gets only head and tail of a log, which the store has whole (`logs.mode`).
    log_excerpt: bool = False
    #: When it was submitted, ISO-8601 UTC.
    queued_at: str = ""
    format: int = 1

    def to_json(self) -> dict[str, Any]:
        """The header as a JSON value."""
        value = {key: item for key, item in asdict(self).items() if item or key not in _LEFT_OUT}
        return value | {ports: [_used(port) for port in value[ports]] for ports in ("inputs", "outputs")}

    def of_row(self, row: Row) -> Manifest:
        """The header as one cell reads it: of alternatives the one that its row says, or no file.

        What a gather reads of samples stays as it is. Raises ContractBroken.
        """
        if not row.gathered and not any(spec.alternatives for spec in self.inputs):
            return self
        header = replace(self, inputs=tuple(_of_row(spec, row) for spec in self.inputs))
        if not row.gathered:
            return header
        gathered: dict[str, dict[str, str]] = {}
        for spec in header.inputs:
            gathered.setdefault(spec.step, {}).update(
                (name, print_) for name, print_ in row.gathered.get(spec.port, ())
            )
        cells = {step: list(read.items()) for step, read in gathered.items() if read}
        return replace(header, gathered=cells, gathered_columns=row.member_columns)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Reads `to_json`. Raises ContractBroken for another format, an unknown need or a missing field."""
        again = "Build the images again with the version that submits: deploy images."
        if value.get("format") not in FORMATS:
            raise ContractBroken(
                f"The manifest has format {value.get('format')!r}, this image reads up to {max(FORMATS)}. {again}"
            )
        if unknown := sorted(set(value.get("needs", ())) - KNOWN_NEEDS):
            raise ContractBroken(f"The manifest needs {unknown[0]!r}, which this image does not know. {again}")
        data = dict(value)
        try:
            data["inputs"] = tuple(map(InputSpec.from_json, data["inputs"]))
            data["references"] = tuple(ReferenceSpec(**r) for r in data["references"])
            data["outputs"] = tuple(OutputSpec(**{**o, "files": tuple(o["files"])}) for o in data["outputs"])
            data["missing"] = tuple(data["missing"])
            data["excluded"] = tuple(data.get("excluded", ()))
            data["required"] = tuple(data.get("required", ()))
            data["columns"] = tuple((name, kind) for name, kind in data.get("columns", ()))
            data["needs"] = tuple(data.get("needs", ()))
            return cls(**data)
        except (TypeError, KeyError) as error:
            raise ContractBroken(f"The manifest cannot be read ({error}); submit again.") from error


def _of_row(spec: InputSpec, row: Row) -> InputSpec:
    if spec.port in row.gathered:
        return replace(spec, rows=tuple(name for name, _ in row.gathered[spec.port]))
    if spec.kind != "alternatives" or any(one.kind == "gather" for one in spec.alternatives):
        return spec
    # Of a source that the row does not have there is no file.
    return spec.at(row.chosen[spec.port]) if spec.port in row.chosen else InputSpec(port=spec.port, kind="source")


def _used(port: Mapping[str, Any]) -> dict[str, Any]:
    """A port without what it does not use."""
    used = {key: item for key, item in port.items() if item or key not in _LEFT_OUT}
    return used | ({"alternatives": [_used(one) for one in used["alternatives"]]} if "alternatives" in used else {})


def format_of(rows: Iterable[Row], required: Sequence[str], needs: Sequence[str]) -> int:
    """The format of a submission with these rows, required ports and needs."""
    if needs:
        return 3
    return 2 if required or any(row.retired is not None for row in rows) else 1


def write_rows(rows: Iterable[Row]) -> tuple[bytes, int]:
    """All rows padded to one width, and that width in bytes (newline included)."""
    lines = [row.to_line() for row in rows]
    width = max(len(line) for line in lines) + 1
    return b"".join(line.ljust(width - 1) + b"\n" for line in lines), width
