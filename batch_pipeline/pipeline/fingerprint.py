"""What a cell's result depends on, as one short digest: the step's part and the inputs' part.

The step's part is the same for all its cells: code, parameters, image, reference files, wiring. The inputs' part is, a
port, the upstream cell's fingerprint or the source files' ETags and sizes; so a change anywhere upstream changes
everything below it, and one listing of receipts and one of sources tell every cell's state. `StepParts` keeps the parts
by name, which the run record holds: comparing two of them says what changed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from batch_pipeline.pipeline.code import code_digest
from batch_pipeline.pipeline.workflow import Node, Port, Source
from batch_pipeline.wire.digest import FINGERPRINT_DIGITS, fingerprint_of
from batch_pipeline.wire.errors import InvalidUse
from batch_pipeline.wire.manifest import SourceFile
from batch_pipeline.wire.store import StoreEntry

#: Raised when the meaning of a fingerprint changes: every cell is then run again.
FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class StepParts:
    """What all cells of a step have in common."""

    code: str
    params: Mapping[str, Any]
    image: str
    #: File of the reference -> "etag size".
    references: Mapping[str, str]
    #: Input port -> the output port that feeds it (`picard.fastq`), or `source`.
    inputs: Mapping[str, str] = field(default_factory=dict)

    def digest(self) -> str:
        """Short digest of all parts."""
        return fingerprint_of([FORMAT, asdict(self)])


def step_parts(node: Node, root: Path, reference: str, references: Mapping[str, StoreEntry]) -> StepParts:
    """The parts of a step. Raises InvalidUse when a file of the reference is not there."""
    reference_parts = {}
    for port in node.references.values():
        entry = references.get(port.file)
        if entry is None:
            raise InvalidUse(_no_reference(node.name, port.file, reference, references))
        reference_parts[port.file] = f"{entry.etag} {entry.size_bytes}"
    step = node.step
    return StepParts(
        code=code_digest(type(step), root),
        params=dict(step.params),
        image=node.image,
        references=reference_parts,
        inputs={port: _wire(source) for port, source in node.inputs.items()},
    )


def cell_fingerprint(part: str, inputs: Sequence[str]) -> str:
    """Fingerprint of a cell from its step's part and what its input ports have (in the order of declaration)."""
    return hashlib.sha256("\n".join((part, *inputs)).encode()).hexdigest()[:FINGERPRINT_DIGITS]


def _wire(source: Port | Source) -> str:
    return f"{source.task.name}.{source.name}" if isinstance(source, Port) else "source"


def source_part(files: Sequence[SourceFile]) -> str:
    """What a source port contributes: ETags and sizes, not places, so that a moved file is the same file."""
    return " ".join(f"{file.etag}:{file.size_bytes}" for file in files)


def gather_part(cells: Sequence[tuple[str, str]]) -> str:
    """What a gather port contributes: every sample with its cell's fingerprint, in the order of the list."""
    digest = hashlib.sha256()
    for sample, fingerprint in cells:
        digest.update(f"{sample} {fingerprint}\n".encode())
    return digest.hexdigest()[:FINGERPRINT_DIGITS]


def missing_part(samples: Sequence[str]) -> str:
    """What a gather has beside its ports that does without samples: their names, which its step can see."""
    return fingerprint_of(["missing", list(samples)])


def _no_reference(step: str, file: str, reference: str, references: Mapping[str, StoreEntry]) -> str:
    if not reference:
        return (
            f"Step {step} needs the reference file {file!r}, but the store holds no reference. Build one (reference"
            " NAME, with its files as options), or give --store or --bucket-name of the store that has it."
        )
    if not references:
        return (
            f"There is no reference {reference!r} in the store (step {step} needs its {file}). Build it (reference"
            f" {reference}, with its files as options), or check the name."
        )
    return f"Reference {reference!r} has no file {file!r}, which step {step} needs; it has: {', '.join(references)}."
