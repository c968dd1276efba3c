"""The container's own lines in its log: a line for each decision, in the client's form, and nothing that is secret."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from batch_pipeline.container.files import ObjectFiles
from batch_pipeline.container.logger import Logger, log_run, without_log_lines
from batch_pipeline.wire.errors import StoreFailed
from batch_pipeline.wire.store import Store
from tests.container.conftest import Workshop

FORM = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z (INFO   |WARNING|ERROR  ) (\S+) container\.(\w+): (.+)")


def lines(log: bytes) -> list[tuple[str, ...]]:
    """Level, run, module and text of each own line."""
    return [found.groups() for line in log.decode().splitlines() if (found := FORM.fullmatch(line))]


def events(log: bytes) -> list[str]:
    """Module and text without the facts."""
    return [f"{module}: {re.split(r' [a-z_]+=', text)[0]}" for _, _, module, text in lines(log)]


def test_a_cell_leaves_a_line_for_each_decision(workshop: Workshop) -> None:
    assert workshop.live(workshop.script()) == 0
    decisions = [
        "cell: read manifest",
        "stage: staged inputs",
        "cell: published outputs",
        "cell: succeeded",
    ]
    assert events(workshop.stored_log()) == decisions
    assert events(workshop.log) == [*decisions, "cell: wrote receipt"]
    assert {run for _, run, _, _ in lines(workshop.log)} == {"R"}
    (staged,) = [text for _, _, module, text in lines(workshop.log) if module == "stage"]
    source = re.escape(workshop.store.url_of(""))
    assert re.fullmatch(rf"staged inputs files=1 linked=\d size_bytes=5 seconds=0\.\d+ source={source}", staged)


def test_a_failure_is_a_line_and_a_sentence(workshop: Workshop) -> None:
    assert workshop.live(workshop.script("#!/bin/sh\nexit 3\n")) == 3
    assert [line for line in lines(workshop.log) if line[0] == "ERROR  "] == [
        ("ERROR  ", "R", "cell", "failed end_reason=step_failed exit_code=3")
    ]
    assert workshop.log.endswith(b"\ncopy of s1 failed: step.sh ended with exit code 3.\n")


def test_a_repeated_request_is_a_line(
    memory_workshop: Workshop, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    calls: list[str] = []

    def get(_: Store, key: str) -> bytes:
        calls.append(key)
        if len(calls) < 3:
            raise StoreFailed("The store is away; token=abc123 of https://ann:pw@host/.")
        return b"here"

    monkeypatch.setattr(Store, "get", get)
    assert ObjectFiles(memory_workshop.store, (0.0, 0.0)).read("key") == b"here"
    err = capfd.readouterr().err
    assert events(err.encode()) == ["files: retrying after a transient store error"] * 2
    assert "abc123" not in err
    assert "pw" not in err


def test_a_line_is_of_the_run_that_this_process_is_at(capfd: pytest.CaptureFixture[str]) -> None:
    logger = Logger("batch_pipeline.container.cell")
    log_run("01RUN")
    logger.info("one", text="a b\nc")
    log_run("")
    logger.warning("two")
    assert lines(capfd.readouterr().err.encode()) == [
        ("INFO   ", "01RUN", "cell", r'one text="a b\nc"'),
        ("WARNING", "-", "cell", "two"),
    ]


def test_what_tools_printed_is_what_is_left(capfd: pytest.CaptureFixture[str]) -> None:
    Logger("batch_pipeline.container.cell").info("one")
    own = capfd.readouterr().err.encode()
    assert without_log_lines(b"a\n" + own + b"2026-11-30T12:00:00.000Z INFO tool: words\n" + own + b"b") == (
        b"a\n2026-11-30T12:00:00.000Z INFO tool: words\nb"
    )


def test_no_container_imports_logging(tmp_path: Path) -> None:
    code = "import sys; import batch_pipeline.container.cell; sys.exit('logging' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], check=False).returncode == 0
