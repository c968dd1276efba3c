"""Failures end with the commands that look closer and go on."""

from __future__ import annotations

import pytest

from batch_pipeline.cli.failures import print_failures
from batch_pipeline.records.events import FailedCell
from batch_pipeline.wire.contract import EndReason
from batch_pipeline.wire.plain_text import MOST_CHARACTERS


def failed(*cells: tuple[str, str, EndReason]) -> list[FailedCell]:
    return [FailedCell(step=step, sample=sample, reason=reason, message="") for step, sample, reason in cells]


def test_one_failure_names_its_log_and_how_to_go_on(capsys: pytest.CaptureFixture[str]) -> None:
    print_failures(
        failed(("align", "ann", EndReason.STEP_FAILED), ("call", "ann", EndReason.DEPENDENCY)), has_pipeline=True
    )
    assert capsys.readouterr().err == (
        "Next: `logs ann align` prints its log, `run --failed` runs what failed again.\n"
    )


def test_several_name_the_search_and_memory(capsys: pytest.CaptureFixture[str]) -> None:
    cells = failed(("align", "ann", EndReason.OUT_OF_MEMORY), ("align", "bob", EndReason.OUT_OF_MEMORY))
    print_failures(cells, has_pipeline=False)
    assert capsys.readouterr().err == (
        "Next: `logs ann align` prints its log, `logs --step align --failed` those of all that failed there,"
        " `rightsize` proposes memory.\n"
    )


def test_a_hostile_message_is_one_printable_line(capsys: pytest.CaptureFixture[str]) -> None:
    """Terminals obey escape sequences: a step's message, or a record that someone else wrote, may bring some."""
    message = "bad \x1b]0;title\x07 \u202egnp.exe\nsecond line \ud800" + "y" * 200_000
    print_failures([FailedCell(step="align", sample="ann", reason=EndReason.STEP_FAILED, message=message)])
    *_, line = capsys.readouterr().out.splitlines()
    assert line.startswith("    bad \ufffd]0;title\ufffd \ufffdgnp.exe second line \ufffdyyy")
    assert line.endswith("yyy")
    assert len(line) <= MOST_CHARACTERS + 4


def test_what_was_cancelled_needs_no_remedy(capsys: pytest.CaptureFixture[str]) -> None:
    print_failures(failed(("align", "ann", EndReason.CANCELLED)))
    print_failures([])
    assert capsys.readouterr().err == ""
