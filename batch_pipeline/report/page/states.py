"""States of cells as the page shows them, from the columns of a cell table."""

from __future__ import annotations

from enum import Enum
from typing import Final

from batch_pipeline.records.cell_table import REASONS, STATES, CellColumns, CellEnd
from batch_pipeline.wire.contract import EndReason


class ShownState(Enum):
    """How a cell stands, in ascending severity: of the cells behind a pixel the last one here wins."""

    EXCLUDED = "excluded"  #: The step's condition is false for it.
    REUSED = "done before"  #: An earlier run made it.
    KEPT = "found unchanged"  #: Sent, and found to be right as it was.
    DONE = "done"  #: This run made it.
    RUNNING = "sent"  #: A job that has not ended has it; it waits or runs.
    TO_RUN = "to run"  #: Missing, and no job is to make it.
    LEFT_OUT = "left out"  #: Not chosen, or blocked.
    UNKNOWN = "not known"  #: Nothing that is left says so.
    CANCELLED = "cancelled"  #: A user cancelled it.
    NOT_RUN = "not run"  #: Something that it needs failed.
    FAILED = "failed"  #: It failed; its reason says why.


#: State -> its number in the page, which is its severity.
SEVERITY: Final = {state: number for number, state in enumerate(ShownState)}
_SHOWN: Final = {
    CellEnd.UNKNOWN: ShownState.UNKNOWN,
    CellEnd.DONE: ShownState.DONE,
    CellEnd.KEPT: ShownState.KEPT,
    CellEnd.REUSED: ShownState.REUSED,
    CellEnd.FAILED: ShownState.FAILED,
    CellEnd.LEFT_OUT: ShownState.LEFT_OUT,
    CellEnd.EXCLUDED: ShownState.EXCLUDED,
}
_NUMBERS: Final = bytes(SEVERITY[_SHOWN[end]] for end in STATES).ljust(256, bytes([SEVERITY[ShownState.UNKNOWN]]))
_FAILED: Final = STATES.index(CellEnd.FAILED)
_BY_REASON: Final = {
    REASONS.index(EndReason.DEPENDENCY.value): SEVERITY[ShownState.NOT_RUN],
    REASONS.index(EndReason.CANCELLED.value): SEVERITY[ShownState.CANCELLED],
}


def shown_states(cells: CellColumns) -> bytearray:
    """The severity of the state of each cell of a step, one byte each."""
    ends = cells.columns["state"].tobytes()
    shown = bytearray(ends.translate(_NUMBERS))
    reasons = cells.columns["reason"]
    position = ends.find(_FAILED)
    while position >= 0:
        shown[position] = _BY_REASON.get(reasons[position], shown[position])
        position = ends.find(_FAILED, position + 1)
    return shown
