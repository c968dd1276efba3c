"""The time that a step still takes, by what its cells took; nothing before there is evidence."""

from __future__ import annotations

import pytest

from batch_pipeline.records.events import StepProgress
from batch_pipeline.report.time_left import LEAST_ENDED, TimeLeft

CELLS, AT_ONCE, SECONDS = 100, 10, 60


def counts(moment: float, *, apart: float = SECONDS / AT_ONCE) -> StepProgress:
    """Ten slots, each with one cell after the other; the slots began `apart` seconds after each other."""
    done = running = 0
    for slot in range(AT_ONCE):
        cells = max(0.0, moment - slot * apart) / SECONDS
        mine = min(int(cells), CELLS // AT_ONCE)
        done += mine
        running += slot * apart <= moment and mine < CELLS // AT_ONCE
    return StepProgress(step="a", done=done, running=running, waiting=CELLS - done - running)


@pytest.mark.parametrize("look", [1, 10, 30])
@pytest.mark.parametrize("apart", [0.0, SECONDS / AT_ONCE])
def test_it_is_near_the_truth_however_often_one_looks(look: int, apart: float) -> None:
    evidence = TimeLeft()
    end = SECONDS * CELLS / AT_ONCE + apart * (AT_ONCE - 1)
    for moment in range(0, int(end), look):
        left = evidence.seconds(counts(moment, apart=apart), moment)
        if left is None:
            assert counts(moment, apart=apart).done < 2 * LEAST_ENDED
        else:
            assert abs(left - (end - moment)) <= SECONDS + 0.4 * (end - moment)


def test_nothing_is_said_before_cells_have_ended_or_while_all_wait() -> None:
    evidence = TimeLeft()
    assert evidence.seconds(StepProgress(step="a", waiting=9), 0) is None
    assert evidence.seconds(StepProgress(step="a", running=9), 60) is None
    assert evidence.seconds(StepProgress(step="a", running=7, done=2), 120) is None
    assert evidence.seconds(StepProgress(step="a", done=5, waiting=4), 180) is None


def test_cells_that_an_earlier_command_saw_end_are_no_evidence() -> None:
    evidence = TimeLeft()
    assert evidence.seconds(StepProgress(step="a", done=50, running=10, waiting=40), 0) is None
    assert evidence.seconds(StepProgress(step="a", done=50, running=10, waiting=40), 10) is None
