"""The worker's side of a container, with a client of an engine that ends when a test wants it to."""

from __future__ import annotations

from pathlib import Path

import pytest

from batch_pipeline.localbatch.hosts.contained import CannotRun, Contained

#: Notes its calls. The container runs until it is told to end, and then ends with 9.
ENGINE = """#!/bin/sh
echo "$*" >> calls
case "$1" in
kill) touch ended ;;
wait) test -e ended ;;
inspect)
  running=true
  test -e ended && running=false
  test -e new && started=0001-01-01T00:00:00Z running=false || started=2026-11-30T21:33:37Z
  echo "{\\"Running\\": $running, \\"ExitCode\\": 9, \\"OOMKilled\\": false, \\"StartedAt\\": \\"$started\\"}" ;;
esac
"""


@pytest.fixture
def contained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Contained:
    monkeypatch.chdir(tmp_path)
    engine = tmp_path / "engine"
    engine.write_text(ENGINE)
    engine.chmod(0o755)
    (tmp_path / "log").write_text("up\n")
    order = {"engine": str(engine), "name": "job-1", "client": {}, "environment": {}}
    return Contained(order, str(tmp_path), str(tmp_path / "log"))


def calls() -> list[str]:
    file = Path("calls")
    return [line.split()[0] for line in file.read_text().splitlines()] if file.exists() else []


def test_a_container_whose_client_ended_of_a_signal_gets_the_signal_and_is_waited_for(contained: Contained) -> None:
    """The client ends with 0 if the signal comes before it passes signals on."""
    assert contained.ended(0, signalled=True) == {"exit_code": 9}
    assert calls() == ["inspect", "kill", "wait", "inspect"]


def test_a_container_that_ended_of_the_signal_has_its_own_exit_code(contained: Contained) -> None:
    Path("ended").touch()
    assert contained.ended(0, signalled=True) == {"exit_code": 9}
    assert calls() == ["inspect"]


def test_a_container_that_was_not_started_before_the_signal_never_ran(contained: Contained) -> None:
    Path("new").touch()
    with pytest.raises(CannotRun, match="CannotStartContainerError"):
        contained.ended(0, signalled=True)


def test_without_a_signal_0_is_believed(contained: Contained) -> None:
    assert contained.ended(0, signalled=False) == {"exit_code": 0}
    assert calls() == []
