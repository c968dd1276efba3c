"""Logs what a server decides, one line an event, to its standard error: `server.log` of the state folder.

Each module logs to its own logger below this one's. Inside another process (`testing.VirtualBatch`) nothing is logged
unless that sets the level of `LOGGER`.
"""

from __future__ import annotations

import logging
from typing import Final

from batch_pipeline.wire.log_line import PACKAGE, line_of

LOGGER: Final = logging.getLogger(f"{PACKAGE}.localbatch")
LOGGER.setLevel(logging.WARNING)


class _Formatter(logging.Formatter):
    """See `line_of`; a server is about no run."""

    def format(self, record: logging.LogRecord) -> str:
        """See `logging.Formatter.format`."""
        return line_of(record, "")


def log_to_stderr() -> None:
    """Writes every event from now on."""
    handler = logging.StreamHandler()
    handler.setFormatter(_Formatter())
    LOGGER.addHandler(handler)
    LOGGER.setLevel(logging.INFO)
    LOGGER.propagate = False
