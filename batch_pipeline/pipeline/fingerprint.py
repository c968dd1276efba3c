"""What a cell's result depends on, as one short digest: the step's part and the inputs' part.

The step's part is the same for all its cells: code, parameters, image, reference files, wiring. The inputs' part is, a
port, the upstream cell's fingerprint or the source files' ETags and sizes, and the values of the sheet that the step
declares; so a change anywhere upstream changes
everything below it, and one listing of receipts and one of sources tell every cell's state. `StepParts` keeps the parts
by name, which the run record holds: comparing two of them says what changed.

Earlier versions counted every byte of a step's files as its code. A fingerprint of theirs still counts while these
bytes are the same (`StepParts.former_digest`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from batch_pipeline.pipeline.code import code_digests
from batch_pipeline.pipeline.wiring import options_of
from batch_pipeline.pipeline.workflow import Connection, Node, Port, Source
from batch_pipeline.wire.digest import FINGERPRINT_DIGITS, fingerprint_of
from batch_pipeline.wire.errors import InvalidUse
from batch_pipeline.wire.manifest import SourceFile
from batch_pipeline.wire.store import StoreEntry

#: Stands in a fingerprint for the files that an optional port does not have.
ABSENT: Final = "absent"
#: Raised when the meaning of a fingerprint changes: every cell is then run again.
FORMAT = 1
#: Names of changed code that are named one by one.
NAMES_SHOWN = 8


@dataclass(frozen=True, kw_only=True)
class StepParts:
    """What all cells of a step have in common."""

    #: Digest of what the step may use of its code.
    code: str
    params: Mapping[str, Any]
    image: str
    #: File of the reference -> "etag size".
    references: Mapping[str, str]
    #: Input port -> the output port that feeds it (`picard.fastq`), or `source`; alternatives with ` | ` between.
    inputs: Mapping[str, str] = field(default_factory=dict)
    #: What `code` is made of: names of the step's code, and files that count whole -> short digest.
    names: Mapping[str, str] = field(default_factory=dict)
    #: Digest of the bytes of all of its files; empty where it is not known.
    files: str = ""

    def digest(self) -> str:
        """Short digest of all parts."""
        return fingerprint_of([FORMAT, self.as_json()])

    def former_digest(self) -> str:
        """The same as earlier versions made it: every byte of the step's files counts."""
        return replace(self, code=self.files).digest()

    def as_json(self) -> dict[str, Any]:
        """The parts that are in the digest."""
        named = ("code", "params", "image", "references", "inputs")
        return {name: dict(item) if isinstance(item := getattr(self, name), Mapping) else item for name in named}

    @classmethod
    def recorded(cls, plan: Mapping[str, Any], step: str) -> StepParts:
        """The parts of a step as a run's plan has them; one of an earlier version knows no names. Raises KeyError."""
        code = plan.get("code", {}).get(step, {})
        return cls(**plan["parts"][step], names=code.get("names", {}), files=code.get("files", ""))


def step_parts(node: Node, root: Path, reference: str, references: Mapping[str, StoreEntry]) -> StepParts:
    """The parts of a step. Raises InvalidUse when a file of the reference is not there."""
    reference_parts = {}
    for file in (file for port in node.references.values() for file in port.files):
        entry = references.get(file)
        if entry is None:
            raise InvalidUse(_no_reference(node.name, file, reference, references))
        reference_parts[file] = f"{entry.etag} {entry.size_bytes}"
    step, code = node.step, code_digests(type(node.step), root)
    return StepParts(
        code=fingerprint_of(dict(code.names)),
        params=dict(step.params),
        image=node.image,
        references=reference_parts,
        inputs={port: _wires(connection) for port, connection in node.inputs.items()},
        names=code.names,
        files=code.files,
    )


def cell_fingerprint(part: str, inputs: Sequence[str]) -> str:
    """Fingerprint of a cell from its step's part and what its input ports have (in the order of declaration)."""
    return hashlib.sha256("\n".join((part, *inputs)).encode()).hexdigest()[:FINGERPRINT_DIGITS]


def _wires(connection: Connection) -> str:
    return " | ".join(map(wire_of, options_of(connection)))


def wire_of(source: Port | Source) -> str:
    """What feeds a port, in words: `picard.fastq` or `source`."""
    return f"{source.task.name}.{source.name}" if isinstance(source, Port) else "source"


def steps_in(wires: str) -> Iterator[tuple[str, str]]:
    """Step and output port of each alternative in `StepParts.inputs`; of a source, empty ones."""
    for wire in wires.split(" | "):
        step, dot, port = wire.partition(".")
        yield (step, port) if dot else ("", "")


def source_part(files: Sequence[SourceFile]) -> str:
    """What a source port contributes: ETags and sizes, not places, so that a moved file is the same file."""
    return " ".join(f"{file.etag}:{file.size_bytes}" for file in files)


def gather_part(cells: Sequence[tuple[str, str]]) -> str:
    """What a gather port contributes: every sample with its cell's fingerprint, in the order of the list."""
    digest = hashlib.sha256()
    for sample, fingerprint in cells:
        digest.update(f"{sample} {fingerprint}\n".encode())
    return digest.hexdigest()[:FINGERPRINT_DIGITS]


def columns_part(values: Mapping[str, Any]) -> str:
    """What the columns of the sheet that a step declares contribute: their names and typed values."""
    return fingerprint_of(["columns", values])


def part_part(part: str) -> str:
    """What a part contributes to the fingerprint of its cell: its text as it is written."""
    return fingerprint_of(["part", part])


def excluded_part(samples: Sequence[str]) -> str:
    """What a gather has beside its ports of which conditions exclude samples: their names, which its step can see."""
    return fingerprint_of(["excluded", list(samples)])


def missing_part(samples: Sequence[str]) -> str:
    """What a gather has beside its ports that does without samples: their names, which its step can see."""
    return fingerprint_of(["missing", list(samples)])


def _no_reference(step: str, file: str, reference: str, references: Mapping[str, StoreEntry]) -> str:
    if not reference:
        return (
            f"Step {step} needs the reference file {file!r}, but the store holds no reference. Put the step's reference"
            " files under references/NAME/ in the store, build them (reference NAME, with its files as options), or"
            " give --store or --bucket-name of the store that has them."
        )
    if not references:
        return (
            f"There is no reference {reference!r} in the store (step {step} needs its {file}). Build it (reference"
            f" {reference}, with its files as options), or check the name."
        )
    return f"Reference {reference!r} has no file {file!r}, which step {step} needs; it has: {', '.join(references)}."


def part_changes(before: StepParts, after: StepParts) -> list[str]:
    """What differs between the parts of a step, a phrase each: `parameter bootstraps: 30 -> 100`."""
    changed = []
    if changed_names := _code_changes(before, after):
        changed.append(changed_names)
    if before.image != after.image:
        changed.append(f"the image: {before.image or 'none'} -> {after.image or 'none'}")
    changed += [f"parameter {name}: {old} -> {new}" for name, old, new in _differences(before.params, after.params)]
    changed += [f"reference file {name}" for name, _, _ in _differences(before.references, after.references)]
    changed += [f"input {name}: {old} -> {new}" for name, old, new in _differences(before.inputs, after.inputs)]
    return changed


def _code_changes(before: StepParts, after: StepParts) -> str:
    """The names of code that changed; only that it changed where the run before recorded no names."""
    if not before.names:
        return "the step's code" if before.code not in (after.code, after.files) else ""
    names = [name for name, _, _ in _differences(before.names, after.names)]
    more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
    return f"the step's code: {', '.join(names[:NAMES_SHOWN])}{more}" if names else ""


def _differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    names = sorted({*before, *after})
    return [(name, before.get(name), after.get(name)) for name in names if before.get(name) != after.get(name)]
