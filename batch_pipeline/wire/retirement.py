"""A list of success receipts that count for nothing, as the store keeps it.

    retired/{name}.json   {"run_id", "receipts": {step: [[sample, fingerprint, version, must_run], …]},
                           "references": {name: step}, "untrue": true, "format": 1}

A run writes one, named by its id, before it makes cells again. Whoever finds that a result is not what its receipt says
writes one that is `untrue` (a key that others lack): a job that was to read the result, or `verify --repair`. What a
list names counts for nothing until another receipt has taken its place: one with the same key and another version
(`Store.version`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Self

FORMAT: Final = 1


@dataclass(frozen=True, kw_only=True)
class Retirement:
    """One such list."""

    run_id: str
    #: Step -> sample, fingerprint, version, and whether the cell must run even if all that it reads is unchanged.
    receipts: Mapping[str, Sequence[tuple[str, str, str, bool]]] = field(default_factory=dict)
    #: Name of a reference -> the builder's step. Such a reference is absent until a receipt of it counts.
    references: Mapping[str, str] = field(default_factory=dict)
    #: Whether results were found not to be what the receipts say; else their cells were to be made again.
    untrue: bool = False

    def to_bytes(self) -> bytes:
        """As the store keeps it."""
        value = {"run_id": self.run_id, "receipts": self.receipts, "references": self.references, "format": FORMAT}
        if self.untrue:
            value["untrue"] = True
        return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Reads `to_bytes`. Raises ValueError for another format."""
        if value.get("format") != FORMAT:
            raise ValueError(f"has format {value.get('format')!r}, and this version reads {FORMAT}")
        rows = {
            step: [(sample, fingerprint, version, must_run) for sample, fingerprint, version, must_run in rows]
            for step, rows in value["receipts"].items()
        }
        return cls(
            run_id=value["run_id"], receipts=rows, references=value["references"], untrue=value.get("untrue", False)
        )
