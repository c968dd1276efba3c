"""Structured logging: the form of a line, and its handlers for the terminal, `--log-file` and the driver's log.

Everything in the package logs through `logging` to `batch_pipeline.…`, loggers named by module, one line an event:

    2026-11-21T16:30:00.123Z INFO    01KA… run.submit: submitted job=kallisto-0-0 native_id=… size=100

that is time (ISO-8601, UTC), level, run id (`-`: none yet), logger, event, and its facts as `key=value`, each cut at
1,000 characters. stderr has the messages of warnings and errors alone; with `--verbose`, and in the file of
`--log-file`, every line stands in this form. A driver's own lines are also kept in its runs' folders by a `RunHandler`
(`records.driver_log`). Other libraries' loggers are left as they are. Lines in this form go through `wire.scrub`.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Final

from batch_pipeline.wire.errors import InvalidUse
from batch_pipeline.wire.log_line import PACKAGE, Facts, line_of

__all__ = [
    "LOGGER",
    "Facts",
    "LineFormatter",
    "RunHandler",
    "also_to",
    "current",
    "kept_by",
    "line_of",
    "of_run",
    "set_up",
]

LOGGER: Final = logging.getLogger(PACKAGE)


class RunHandler(logging.Handler):
    """A handler that keeps the lines of one context, with the id of the run that they are about."""

    #: The run that lines are about now; empty: none is known.
    run_id: str = ""

    def turn_to(self, run_id: str) -> None:
        """Lines are about this run from here on; empty: about none that is known yet."""
        self.run_id = run_id


_CURRENT: ContextVar[RunHandler | None] = ContextVar("batch_pipeline_log", default=None)


def current() -> RunHandler | None:
    """The handler that keeps the lines of this thread and context."""
    return _CURRENT.get()


def of_run(run_id: str) -> None:
    """Says that what is logged from here on is about a run; empty: about one that has no id yet."""
    handler = _CURRENT.get()
    if handler is not None:
        handler.turn_to(run_id)


@contextmanager
def kept_by(handler: RunHandler) -> Iterator[None]:
    """Gives a handler all lines of this context while the block lasts, and closes it."""
    token, level = _CURRENT.set(handler), LOGGER.level
    LOGGER.addHandler(handler)
    if not LOGGER.isEnabledFor(logging.INFO):
        LOGGER.setLevel(logging.INFO)
    try:
        yield
    finally:
        LOGGER.removeHandler(handler)
        LOGGER.setLevel(level)
        _CURRENT.reset(token)
        handler.close()


class LineFormatter(logging.Formatter):
    """See `line_of`; the run is the one that this context is at."""

    def format(self, record: logging.LogRecord) -> str:
        """See `logging.Formatter.format`."""
        handler = _CURRENT.get()
        return line_of(record, handler.run_id if handler is not None else "")


def set_up(*, verbose: bool = False) -> None:
    """Sends our messages to stderr: warnings, or everything. May be called again; the last call holds."""
    for handler in [handler for handler in LOGGER.handlers if isinstance(handler, _Terminal)]:
        LOGGER.removeHandler(handler)
    handler = _Terminal()
    handler.setLevel(logging.DEBUG if verbose else logging.WARNING)
    handler.setFormatter(LineFormatter() if verbose else logging.Formatter("%(message)s"))
    LOGGER.addHandler(handler)
    LOGGER.setLevel(logging.DEBUG)
    # Luigi configures the root logger; our messages would be printed twice.
    LOGGER.propagate = False


@contextmanager
def also_to(path: Path | None) -> Iterator[None]:
    """Appends every line to a file as well, if one is named, while the block lasts.

    Raises InvalidUse for a file that cannot be opened.
    """
    if path is None:
        yield
        return
    try:
        handler = _File(path, encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise InvalidUse(f"The log file {path} cannot be opened: {error.strerror}. Name another one.") from error
    handler.setFormatter(LineFormatter())
    LOGGER.addHandler(handler)
    try:
        yield
    finally:
        LOGGER.removeHandler(handler)
        handler.close()


class _Terminal(logging.StreamHandler):  # type: ignore[type-arg]
    """The handler that `set_up` made: stderr as it is at each line; progress bars replace it while they draw."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> Any:
        """See `logging.StreamHandler`."""
        return sys.stderr


class _File(logging.FileHandler):
    """A file of lines: one that can no longer be written, on a full disk say, is reported once and ends no run."""

    _is_broken = False

    def handleError(self, record: logging.LogRecord) -> None:
        """See `logging.Handler.handleError`."""
        if not self._is_broken:
            self._is_broken = True
            print(f"The log file {self.baseFilename} cannot be written: {sys.exc_info()[1]}.", file=sys.stderr)

    def close(self) -> None:
        """See `logging.Handler.close`."""
        try:
            super().close()
        except OSError:
            pass  # What could not be flushed was reported.
