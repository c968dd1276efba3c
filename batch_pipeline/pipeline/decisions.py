"""Values of the first pass of the planner (`cells.py`): decision on a cell, input of a gather, cells of a step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from batch_pipeline.pipeline.plan import CellState, Why


@dataclass(frozen=True, kw_only=True, slots=True)
class Decision:
    """What becomes of a cell."""

    state: CellState
    #: Why it is blocked.
    sentence: str = ""
    #: Not chosen because it depends on a gather of samples of which some were not chosen.
    is_beyond: bool = False


DONE: Final = Decision(state=CellState.DONE)
LIVE: Final = Decision(state=CellState.LIVE)
DEFERRED: Final = Decision(state=CellState.DEFERRED)
SKIPPED: Final = Decision(state=CellState.SKIPPED)
BEYOND: Final = Decision(state=CellState.SKIPPED, is_beyond=True)
TO_RUN: Final = Decision(state=CellState.TO_RUN)


@dataclass(frozen=True, kw_only=True, slots=True)
class GatherInput:
    """The samples that a gather reads."""

    #: Their positions; None while they cannot be known.
    positions: Sequence[int] | None
    #: Samples without a result, which the gather does without.
    missing: tuple[str, ...] = ()
    #: What becomes of a gather that cannot run now.
    held: Decision | None = None
    #: Samples of which one of its ports has nothing, for conditions exclude it.
    excluded: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class StepCells:
    """The cells of a step: one a sample, or the only one of a gather."""

    states: Sequence[CellState]
    #: Why each cell runs, where it does.
    why: Sequence[Why | None]
    fingerprints: Sequence[str]
    #: What their readers' fingerprints are made of: the same, but for cells that keep a former one (`former.py`).
    chain: Sequence[str]
    #: Whether each cell, or anything that it reads, is on its way or is to be made again.
    moving: Sequence[bool]
    #: Sample -> the sentence of a blocked cell.
    blocked: Mapping[str, str]
    #: Whether a cell is `Decision.is_beyond`.
    is_beyond: bool
