"""Log lines: their form, whose they are, and what is never in them."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from batch_pipeline import log
from batch_pipeline.log import Facts, RunHandler, also_to, kept_by, line_of, of_run
from batch_pipeline.wire.contract import EndReason
from batch_pipeline.wire.errors import InvalidUse

LOG = logging.getLogger("batch_pipeline.run.submit")


class Kept(RunHandler):
    """A handler that remembers lines."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if log.current() is self:
            self.lines.append(line_of(record, self.run_id))


@pytest.fixture(autouse=True)
def _handlers_as_before() -> Iterator[None]:
    before = list(log.LOGGER.handlers), log.LOGGER.level, log.LOGGER.propagate
    yield
    log.LOGGER.handlers, log.LOGGER.level, log.LOGGER.propagate = before


def test_a_line_has_time_level_run_logger_event_and_facts() -> None:
    kept = Kept()
    with kept_by(kept):
        LOG.info("planned %s", Facts(jobs=1))
        of_run("01RUN")
        LOG.info("submitted %s", Facts(job="upper-0-0", size=3, reason=EndReason.OUT_OF_MEMORY, note="a b", none=""))
    time = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"
    assert re.fullmatch(rf"{time} INFO    - run\.submit: planned jobs=1", kept.lines[0])
    facts = r'job=upper-0-0 size=3 reason=out_of_memory note="a b" none=""'
    assert re.fullmatch(rf"{time} INFO    01RUN run\.submit: submitted {facts}", kept.lines[1])


def test_an_event_is_one_line_whatever_its_facts_hold() -> None:
    kept = Kept()
    with kept_by(kept):
        LOG.info("refused %s\nand more", Facts(error="one\ntwo \x1b[31m\r", long="x" * 5000))
    assert "\n" not in kept.lines[0]
    assert "\x1b" not in kept.lines[0]
    assert len(kept.lines[0]) < 1500


def test_no_secret_is_in_a_line() -> None:
    kept = Kept()
    with kept_by(kept):
        LOG.info(
            "asked %s",
            Facts(token="hunter2 hunter2", url="https://me:hunter2@example.org/", key="AKIAIOSFODNN7EXAMPLE"),
        )
        LOG.info("refused: password=%s", "hunter2")
        try:
            raise ValueError("api_key=hunter2")
        except ValueError:
            LOG.exception("a defect")
    assert not [line for line in kept.lines if "hunter2" in line or "AKIA" in line]


def test_each_thread_has_its_own_keeper() -> None:
    kept, other = Kept(), Kept()

    def drive() -> None:
        with kept_by(other):
            LOG.info("theirs")

    with kept_by(kept):
        thread = threading.Thread(target=drive)
        thread.start()
        thread.join()
        LOG.info("ours")
    assert [line.rpartition(" ")[2] for line in kept.lines] == ["ours"]
    assert [line.rpartition(" ")[2] for line in other.lines] == ["theirs"]


def test_nothing_is_kept_after_the_block() -> None:
    kept = Kept()
    with kept_by(kept):
        pass
    LOG.warning("later")
    of_run("01RUN")
    assert not kept.lines
    assert kept.run_id == ""
    assert kept not in log.LOGGER.handlers


def test_the_terminal_shows_warnings_and_with_verbose_everything(capsys: pytest.CaptureFixture[str]) -> None:
    log.set_up()
    LOG.info("submitted")
    LOG.warning("odd")
    assert capsys.readouterr().err == "odd\n"
    log.set_up(verbose=True)
    LOG.info("submitted %s", Facts(password="hunter2"))
    assert re.fullmatch(r"\S+Z INFO    - run\.submit: submitted password=\*\*\*\n", capsys.readouterr().err)


def test_a_file_has_every_line_and_is_added_to(tmp_path: Path) -> None:
    log.set_up()
    for event in ("first", "second"):
        with also_to(tmp_path / "log.txt"):
            LOG.info(event)
    assert [line.rpartition(" ")[2] for line in (tmp_path / "log.txt").read_text().splitlines()] == ["first", "second"]


def test_a_file_that_cannot_be_opened_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidUse, match="cannot be opened"), also_to(tmp_path / "nowhere" / "log.txt"):
        pass


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a disk that is full")
def test_a_file_on_a_full_disk_is_told_once_and_stops_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    log.set_up()
    with also_to(Path("/dev/full")):
        LOG.info("first")
        LOG.info("second")
    assert capsys.readouterr().err.count("The log file /dev/full cannot be written") == 1
