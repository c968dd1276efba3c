"""The rows of a step: its cells by name, and which samples each is of. Pure.

A step of the samples has a row a sample, one of parts a row a sample and part, one of groups a row a group, and a
gather one row of the whole cohort. Steps of equal rows share one `Rows`, so that their array jobs depend on each other
index by index. Between other steps a row reads those rows that share a sample with it: a step of the samples gathers
all parts of its sample, a part reads the one row of its sample, a group reads those of its members.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from batch_pipeline.pipeline.step import Scope
from batch_pipeline.pipeline.workflow import Graph
from batch_pipeline.wire.errors import InvalidPipeline
from batch_pipeline.wire.layout import COHORT


@dataclass(frozen=True, kw_only=True, eq=False)
class Rows:
    """The cells of a step. Two are the same only if they are one object."""

    #: Names as keys have them: of samples, of groups, `{sample}@{part}`, or COHORT.
    names: tuple[str, ...]
    #: Positions of the samples that each row is of; None: row i is of sample i.
    members: Sequence[Sequence[int]] | None = None
    #: Of rows of parts, the part of each as it is written.
    parts: tuple[str, ...] = ()

    @property
    def is_cohort(self) -> bool:
        """Whether it is the one row of a gather."""
        return self.names == (COHORT,)

    @cached_property
    def positions(self) -> Mapping[str, int]:
        """Name -> position."""
        return {name: i for i, name in enumerate(self.names)}

    @cached_property
    def _by_sample(self) -> Mapping[int, Sequence[int]]:
        """Position of a sample -> those of its rows."""
        rows: dict[int, list[int]] = {}
        for row in range(len(self.names)):
            for sample in self.samples_of(row):
                rows.setdefault(sample, []).append(row)
        return rows

    def of_sample(self, position: int) -> Sequence[int]:
        """Positions of the rows of a sample."""
        return (position,) if self.members is None else self._by_sample.get(position, ())

    def samples_of(self, position: int) -> Sequence[int]:
        """Positions of the samples that a row is of."""
        return (position,) if self.members is None else self.members[position]

    def read_in(self, other: Rows, position: int) -> Sequence[int]:
        """Positions of the rows of another step that a row reads there, in order."""
        if other is self:
            return (position,)
        if other.is_cohort:
            return (0,)
        if self.is_cohort:
            return range(len(other.names))
        samples = self.samples_of(position)
        return sorted({row for sample in samples for row in other.of_sample(sample)})

    def any_read(self, other: Rows, column: Sequence[bool]) -> Sequence[bool]:
        """For each row whether one of the rows that it reads of another step is true in a column of that."""
        if other is self:
            return column
        return [any(column[at] for at in self.read_in(other, i)) for i in range(len(self.names))]


def rows_by_step(graph: Graph, samples: Sequence[str], given: Mapping[str, Rows]) -> dict[str, Rows]:
    """Step -> its rows, one object for all steps of equal rows; `given` are those of steps of groups and parts.

    Raises InvalidPipeline for a gather that reads steps of different rows.
    """
    of_samples = Rows(names=tuple(samples))
    cohort = Rows(names=(COHORT,), members=(range(len(samples)),))
    rows = {node.name: cohort if node.scope is Scope.COHORT else given.get(node.name, of_samples) for node in graph}
    for node in graph:
        read = [step for step in node.upstream if node.scope is Scope.COHORT and not rows[step].is_cohort]
        if other := next((step for step in read if rows[step] is not rows[read[0]]), ""):
            raise InvalidPipeline(
                f"The gather {node.name} reads {read[0]} and {other}, which have different cells (samples, groups or"
                " parts). Give it one of them, or gather each by a step of its own."
            )
    return rows


def reads_many(reader: Scope, upstream: Scope, *, equal: bool) -> bool:
    """Whether a cell of one step reads several cells of another; `equal`: whether both have the same rows."""
    if equal or upstream is Scope.COHORT:
        return False
    if reader is Scope.COHORT:
        return True
    return reader is Scope.GROUP or upstream is Scope.PART
