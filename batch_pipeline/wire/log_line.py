"""Formats log lines: time, level, run, logger, event, and its facts as `key=value`, without what looks like a secret.

Shared by the drivers of runs (`batch_pipeline.log`) and the embedded Batch, which writes them to its own file.
"""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from enum import Enum
from typing import Any, Final

from batch_pipeline.wire.scrub import scrubbed, scrubbed_value

#: The logger above all of this package's.
PACKAGE: Final = "batch_pipeline"
#: Characters of a value that are kept.
MOST_CHARACTERS: Final = 1000


class Facts:
    """The facts of a log line as `key=value`, quoted where a value has blanks; rendered no sooner than the line is."""

    def __init__(self, **values: Any) -> None:
        self._values = values

    def __str__(self) -> str:
        return " ".join(f"{key}={_quoted(scrubbed_value(_plain(item), key))}" for key, item in self._values.items())


def line_of(record: logging.LogRecord, run_id: str) -> str:
    """A record as one line without its end, and without what looks like a secret."""
    moment = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    name = record.name.removeprefix(f"{PACKAGE}.")
    message = record.getMessage()
    if record.exc_info and record.exc_info[1] is not None:
        message += f" {Facts(error=repr(record.exc_info[1]))}"
    message = message.replace("\r", "\\r").replace("\n", "\\n")
    return scrubbed(f"{moment} {record.levelname:<7} {run_id or '-'} {name}: {message}")


def _plain(item: Any) -> Any:
    return item.value if isinstance(item, Enum) else item


def _quoted(value: Any) -> str:
    text = value if isinstance(value, str) else str(value)
    if len(text) > MOST_CHARACTERS:
        text = f"{text[:MOST_CHARACTERS]}…"
    return (
        text
        if text.isprintable() and text and not set(text) & {" ", '"', "="}
        else json.dumps(text, ensure_ascii=False)
    )
