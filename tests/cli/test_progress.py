from __future__ import annotations

import io

import pytest

from batch_pipeline.cli import progress as module
from batch_pipeline.cli.progress import PAUSE_SECONDS, BarProgress, PlainProgress, listening
from batch_pipeline.records.events import Outcome, StepProgress
from batch_pipeline.wire.contract import EndReason


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def steps(done: int) -> dict[str, StepProgress]:
    return {"a": StepProgress(step="a", done=done, waiting=9 - done), "b": StepProgress(step="b", waiting=9)}


def test_plain_lines_come_on_change_and_not_too_often() -> None:
    clock, stream = Clock(), io.StringIO()
    plain = PlainProgress(stream, clock)
    plain.progressed(steps(1))
    assert stream.getvalue().splitlines() == ["a: 1/9 done, 8 waiting", "b: 0/9 done, 9 waiting"]
    plain.progressed(steps(2))
    clock.now += PAUSE_SECONDS
    plain.progressed(steps(3))
    plain.progressed(steps(4))
    clock.now += PAUSE_SECONDS
    plain.progressed(steps(4))
    plain.progressed(steps(4))
    assert stream.getvalue().splitlines()[2:] == ["a: 3/9 done, 6 waiting", "a: 4/9 done, 5 waiting"]


def test_the_last_word_is_always_told() -> None:
    clock, stream = Clock(), io.StringIO()
    plain = PlainProgress(stream, clock)
    plain.progressed(steps(1))
    last = {"a": StepProgress(step="a", done=8, failed={EndReason.TIMEOUT: 1})}
    plain.ended(Outcome(run_ids=["R"], progress=last, failed=[]))
    assert stream.getvalue().splitlines()[-1] == "a: 8/9 done, 1 failed: timeout"


def test_nothing_to_do_has_no_progress() -> None:
    stream = io.StringIO()
    PlainProgress(stream).ended(Outcome(run_ids=[], progress=steps(0), failed=[]))
    assert stream.getvalue() == ""


def test_without_a_terminal_lines_are_plain(capsys: pytest.CaptureFixture[str]) -> None:
    with listening() as listener:
        listener.run_began("R1", "file:///store/runs/R1/")
        listener.submitted("R1", "a", "a-0-0", "id", 9)
        listener.progressed(steps(1))
    told = capsys.readouterr()
    assert told.out == ""
    assert "Run R1: file:///store/runs/R1/\nSubmitted a-0-0: 9 cells of a (id)\na: 1/9 done" in told.err
    assert "\x1b" not in told.err


def test_bars_show_every_step_and_give_the_terminal_back(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    with pytest.raises(KeyboardInterrupt), listening(plain=False) as listener:  # noqa: PT012
        assert isinstance(listener, BarProgress)
        listener.run_began("R1", "file:///x/")
        listener.progressed(steps(4))
        raise KeyboardInterrupt
    told = capsys.readouterr()
    assert told.out == ""
    assert "a " in told.err
    assert "4/9 done, 5 waiting" in told.err


def test_bars_with_nothing_to_do_never_import_rich(monkeypatch: pytest.MonkeyPatch) -> None:
    def imported() -> None:
        raise AssertionError("bars were made")

    monkeypatch.setattr(module, "_bars", imported)
    with listening(plain=False) as listener:
        listener.ended(Outcome(run_ids=[], progress=steps(0), failed=[]))


def test_the_time_left_is_told_once_cells_have_ended() -> None:
    clock, stream = Clock(), io.StringIO()
    plain = PlainProgress(stream, clock)
    for done in range(0, 9, 3):
        plain.progressed({"a": StepProgress(step="a", done=done, running=min(3, 9 - done), waiting=max(0, 6 - done))})
        clock.now += 60
    assert stream.getvalue().splitlines() == [
        "a: 0/9 done, 3 running, 6 waiting",
        "a: 3/9 done, 3 running, 3 waiting, about 60 s left",
        "a: 6/9 done, 3 running, about 24 s left",
    ]
