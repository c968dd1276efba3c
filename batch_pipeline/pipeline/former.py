"""Fingerprints as earlier versions made them, so that what they left in a store still counts. Pure.

They counted every byte of a step's files as its code (`StepParts.files`). While these bytes are the same, a former
fingerprint and the present one name the same result: a cell keeps the one that its receipt has, and what reads it is
named by the present ones. As fingerprints chain, a cell's former one needs those of all that it reads; none is computed
for a step before one of its cells has a receipt under another name than its present one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from batch_pipeline.pipeline.fingerprint import StepParts
from batch_pipeline.pipeline.workflow import Node

if TYPE_CHECKING:
    from batch_pipeline.pipeline.cells import Cells


class FormerFingerprints:
    """The former fingerprint of every cell, a column a step, made when it is asked for."""

    def __init__(self, cells: Cells, parts: Mapping[str, StepParts]) -> None:
        self._cells = cells
        self._parts = parts
        self._columns: dict[str, Sequence[str]] = {}

    def counting(self, node: Node, names: Sequence[str], present: Sequence[str]) -> Sequence[str]:
        """The fingerprints that count for a step's cells: the former one where that is what the store or a job has."""
        if not self._parts[node.name].files:
            return present
        known = self._known(node.name, names)
        if all(not prints or fingerprint in prints for prints, fingerprint in zip(known, present, strict=True)):
            return present
        former = self._column(node)
        return [
            old if old and old in prints and fingerprint not in prints else fingerprint
            for old, prints, fingerprint in zip(former, known, present, strict=True)
        ]

    def _known(self, step: str, names: Sequence[str]) -> Sequence[Sequence[str]]:
        """For each cell the fingerprints under which it is made, or was: by a receipt that counts, or a retired one."""
        inventory = self._cells.inventory
        receipts, retired = inventory.receipts.get(step, {}), inventory.retired.get(step, {})
        known = [receipts.get(name) or tuple(retired.get(name, ())) for name in names]
        if step not in self._cells.live.jobs:
            return known
        live = self._cells.live.fingerprints
        cells = [(step, name) for name in names]
        return [(*prints, live[cell]) if cell in live else prints for prints, cell in zip(known, cells, strict=True)]

    def _column(self, node: Node) -> Sequence[str]:
        if node.name not in self._columns:
            for step in node.upstream:
                self._column(self._cells.graph[step])
            digest = self._parts[node.name].former_digest()
            self._columns[node.name] = self._cells.fingerprints(node, digest, self._columns)
        return self._columns[node.name]
