"""One partition of the samples into at most four groups by the memory that their cells ask for. Pure.

All steps have the same groups, so that each array of a group follows the group's array of the step before index by
index. Each group has one number a step, the most that a cell of it asks for: no cell has less than it asked for.

The partition wastes the least GiB-hours, over cells and steps, among those that cut the samples by their sum over the
steps; time is taken to grow with the bytes of the sources, for it is not known before. It is found by exact dynamic
programming over the sorted samples, equal ones taken together. Of more than `MOST_UNITS` different samples, neighbours
whose sums differ by little are one, so that time grows with the samples as sorting does. A group that saves next to
nothing is not made, since each makes more calls and shorter arrays. Equal input has equal groups.

Samples that wait for one live array stay together, because only the very same samples can follow it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from operator import itemgetter
from typing import Final

from batch_pipeline.pipeline.plan import AS_DEFINED, CellNeed, RetryOverrides

#: Groups that one plan has at most.
MOST_GROUPS: Final = 4
#: Different samples that the dynamic programming tells apart.
MOST_UNITS: Final = 200
#: Share of what is asked that fewer groups may waste beyond the best partition.
NEGLIGIBLE: Final = 0.02

Vector = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Unit:
    """Rows that stay together."""

    #: The most that one of them asks for, by column.
    most: Vector
    rows: tuple[int, ...]
    #: Sum of those of the rows.
    weight: int


def partition(
    vectors: Sequence[Vector],
    *,
    together: Sequence[object] = (),
    weights: Sequence[int] = (),
    most_groups: int = MOST_GROUPS,
) -> list[int]:
    """The group of each row, numbered from 0 by what the rows ask for.

    Parameters
    ----------
    vectors
        A row a sample, a column a step: what its cell asks for, 0 where it does not run.
    together
        A key a row, or none: rows of one key stay in one group; None is no key.
    weights
        How long the cells of each row take beside those of others, or none: equally long.
    most_groups
        Groups that there may be.
    """
    units = _units(vectors, together or [None] * len(vectors), weights or [1] * len(vectors))
    ends = _ends(units, most_groups)
    groups = [0] * len(vectors)
    for number, (start, end) in enumerate(zip((0, *ends), ends, strict=False)):
        for unit in units[start:end]:
            for row in unit.rows:
                groups[row] = number
    return groups


def sized(
    needs: Mapping[str, Mapping[int, CellNeed]],
    overrides: Mapping[str, Mapping[int, RetryOverrides]],
    live_keys: Mapping[int, object],
) -> dict[str, dict[int, RetryOverrides]]:
    """Step -> position of each cell that asks for something -> with what it is sent: its group's, or more.

    Parameters
    ----------
    needs
        Step -> position of each cell that is to run -> what it asks for.
    overrides
        Step -> position -> with what a cell goes again: its queue holds, and its memory where that is more.
    live_keys
        Position -> key of samples that must stay in one group.
    """
    rows = sorted({position for cells in needs.values() for position in cells})
    asked = {
        step: {i: max(need.memory_mb or 0, _retried(overrides, step, i)) for i, need in cells.items()}
        for step, cells in needs.items()
    }
    limits = {step: {i: need.timeout_seconds or 0 for i, need in cells.items()} for step, cells in needs.items()}
    # Where no memory is asked for, nothing is wasted: then the time limits tell samples apart.
    by_memory = any(any(cells.values()) for cells in asked.values())
    columns = list((asked if by_memory else limits).values())
    weights = {i: need.weight for cells in needs.values() for i, need in cells.items()}
    groups = partition(
        [tuple(column.get(i, 0) for column in columns) for i in rows],
        together=[live_keys.get(i) for i in rows],
        weights=[weights[i] for i in rows],
    )
    group_of = dict(zip(rows, groups, strict=True))
    sent: dict[str, dict[int, RetryOverrides]] = {}
    for step, cells in needs.items():
        memory, limit = _most(asked[step], group_of), _most(limits[step], group_of)
        for i in cells:
            before = overrides.get(step, {}).get(i, AS_DEFINED)
            group = group_of[i]
            sent.setdefault(step, {})[i] = replace(
                before, memory_mb=memory[group] or None, timeout_seconds=limit[group] or None
            )
    return sent


def _retried(overrides: Mapping[str, Mapping[int, RetryOverrides]], step: str, position: int) -> int:
    return overrides.get(step, {}).get(position, AS_DEFINED).memory_mb or 0


def _most(column: Mapping[int, int], group_of: Mapping[int, int]) -> dict[int, int]:
    """Group -> the most that one of its cells asks for."""
    most: dict[int, int] = {}
    for i, value in column.items():
        most[group_of[i]] = max(most.get(group_of[i], 0), value)
    return most


def _units(vectors: Sequence[Vector], together: Sequence[object], weights: Sequence[int]) -> list[_Unit]:
    """The rows by what they ask for, the least first."""
    equal: dict[Vector, list[int]] = {}
    bound: dict[object, list[_Unit]] = {}
    for row, (vector, key) in enumerate(zip(vectors, together, strict=True)):
        if key is None:
            equal.setdefault(vector, []).append(row)
        else:
            bound.setdefault(key, []).append(_Unit(vector, (row,), weights[row]))
    units = [_Unit(vector, tuple(rows), sum(weights[row] for row in rows)) for vector, rows in equal.items()]
    units += map(_merged, bound.values())
    units.sort(key=lambda unit: (sum(unit.most), unit.most, unit.rows))
    if len(units) <= MOST_UNITS:
        return units
    # By the logarithm of their sums: the tail of a heavy-tailed cohort has few samples and most of the memory.
    least, most = (math.log(max(1, sum(unit.most))) for unit in (units[0], units[-1]))
    step = (most - least) / MOST_UNITS or 1.0
    near: dict[int, list[_Unit]] = {}
    for unit in units:
        near.setdefault(int((math.log(max(1, sum(unit.most))) - least) / step), []).append(unit)
    return [_merged(some) for some in near.values()]


def _merged(units: Sequence[_Unit]) -> _Unit:
    most = tuple(max(column) for column in zip(*(unit.most for unit in units), strict=True))
    return _Unit(most, tuple(row for unit in units for row in unit.rows), sum(unit.weight for unit in units))


def _ends(units: Sequence[_Unit], most_groups: int) -> tuple[int, ...]:
    """Where each group of the sorted units ends: as few groups as waste hardly more than the best partition."""
    cost = _costs(units)
    #: For so many of the first units: the least that they cost in so many groups, and where these end.
    best = [(0, ())] + [(cost[0][end], (end,)) for end in range(1, len(units) + 1)]
    given: list[tuple[int, tuple[int, ...]]] = [best[-1]]
    for _ in range(1, min(most_groups, len(units))):
        best = [
            min(
                ((best[cut][0] + cost[cut][end], (*best[cut][1], end)) for cut in range(end)),
                key=itemgetter(0),
                default=(0, ()),
            )
            for end in range(len(units) + 1)
        ]
        given.append(best[-1])
    least = min(memory for memory, _ in given)
    return next(ends for memory, ends in given if memory <= least * (1 + NEGLIGIBLE))


def _costs(units: Sequence[_Unit]) -> list[list[int]]:
    """`[start][end]`: memory times weight of the units from start to before end as one group, over all columns."""
    weights = list(accumulate((unit.weight for unit in units), initial=0))
    table = []
    for start in range(len(units)):
        row, most = [0] * (start + 1), units[start].most
        for end in range(start + 1, len(units) + 1):
            most = tuple(map(max, most, units[end - 1].most))
            row.append((weights[end] - weights[start]) * sum(most))
        table.append(row)
    return table
