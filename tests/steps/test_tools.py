"""How a tool's end becomes one sentence."""

from __future__ import annotations

from pathlib import Path

import pytest

from batch_pipeline import StepFailed
from batch_pipeline.wire.contract import ContainerExit
from batch_pipeline.wire.errors import DiskFull
from steps.tools import last_word, run_tool


def test_both_streams_are_kept_and_passed_on(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    talk = run_tool("sh", "-c", "echo data; echo talk >&2", keep=tmp_path / "log")
    assert (talk.out, talk.err) == ("data\n", "talk\n")
    assert capfd.readouterr() == ("data\n", "talk\n")
    assert (tmp_path / "log").read_text() == "talk\n"


def test_bytes_that_are_no_text_do_no_harm(capfd: pytest.CaptureFixture[str]) -> None:
    assert "good" in run_tool("sh", "-c", r"printf '\377\376 good'").out


def test_variables_are_added_to_the_cells_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CELL", "own")
    assert run_tool("sh", "-c", "echo $CELL $MORE", environment={"MORE": "more"}).out == "own more\n"


def test_a_failure_is_told_by_the_tools_last_word_on_it(tmp_path: Path) -> None:
    script = "echo 'Error: no index' >&2; echo usage: and so on >&2; exit 3"
    with pytest.raises(StepFailed, match=r"^counting ended with exit code 3: Error: no index\.$") as raised:
        run_tool("sh", "-c", script, name="counting", keep=tmp_path / "log")
    assert raised.value.exit_code == ContainerExit.STEP_FAILED
    assert "no index" in (tmp_path / "log").read_text()


def test_a_killed_tool_hints_at_memory_and_asks_for_more() -> None:
    with pytest.raises(StepFailed, match=r"was ended by signal 9 \(SIGKILL\).*more memory") as raised:
        run_tool("sh", "-c", "kill -9 $$")
    assert raised.value.exit_code == 137


@pytest.mark.parametrize("said", ["java.lang.OutOfMemoryError: Java heap space", "what():  std::bad_alloc"])
def test_a_tool_that_says_it_had_no_memory_asks_for_more(said: str) -> None:
    with pytest.raises(StepFailed, match="more memory") as raised:
        run_tool("sh", "-c", f"echo '{said}' >&2; exit 1")
    assert raised.value.exit_code == 137


def test_a_crash_is_told_by_its_signal() -> None:
    with pytest.raises(StepFailed, match=r"signal 11 \(SIGSEGV\)") as raised:
        run_tool("sh", "-c", "kill -11 $$")
    assert raised.value.exit_code == ContainerExit.STEP_FAILED


def test_a_full_disk_is_told_as_such() -> None:
    with pytest.raises(DiskFull, match="found no space left"):
        run_tool("cp", "/bin/sh", "/dev/full")


def test_a_tool_that_is_not_there_is_named() -> None:
    with pytest.raises(StepFailed, match="no-such-tool is not on the PATH; install it"):
        run_tool("no-such-tool")


@pytest.mark.parametrize(
    ("said", "word"),
    [
        ("Error: file not found a.idx\n\nkallisto 0.48\nUsage: …\n", "Error: file not found a.idx"),
        ("terminate called after throwing\n  what():  Could not open x\n", "what():  Could not open x"),
        (
            'Exception in thread "main" SAMException: bad\n\tat a.b(c.java)\n',
            'Exception in thread "main" SAMException: bad',
        ),
        ("WARN NativeLibraryLoader UnsatisfiedLinkError libgkl\nstopped\n", "stopped"),
        ("", "it said nothing"),
    ],
)
def test_the_telling_line(said: str, word: str) -> None:
    assert last_word(said) == word
