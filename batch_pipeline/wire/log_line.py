"""Formats log lines: time, level, run, logger, event, and its facts as `key=value`, without what looks like a secret.

    2026-11-21T16:30:00.123Z INFO    01KA… run.submit: submitted job=kallisto-0-0 native_id=… size=100

Drivers (`batch_pipeline.log`), the embedded Batch and containers all log in this form, so that one search finds what
they did. A container writes its lines without `logging`, which takes 3 ms to import (`container.logger`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from enum import Enum
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import logging

#: The logger above all of this package's.
PACKAGE: Final = "batch_pipeline"
#: Characters of a value that are kept.
MOST_CHARACTERS: Final = 1000


class Facts:
    """The facts of a log line as `key=value`, quoted where a value has blanks; rendered no sooner than the line is."""

    def __init__(self, **values: Any) -> None:
        self._values = values

    def __str__(self) -> str:
        # Imported late, for a container starts in fewer milliseconds without.
        from batch_pipeline.wire.scrub import scrubbed_value

        return format_facts({key: scrubbed_value(plain(item), key) for key, item in self._values.items()})


def line_of(record: logging.LogRecord, run_id: str) -> str:
    """A record as one line without its end, and without what looks like a secret."""
    from datetime import UTC, datetime

    from batch_pipeline.wire.scrub import scrubbed

    moment = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    name = record.name.removeprefix(f"{PACKAGE}.")
    message = record.getMessage()
    if record.exc_info and record.exc_info[1] is not None:
        message += f" {Facts(error=repr(record.exc_info[1]))}"
    return scrubbed(format_line(moment, record.levelname, run_id, name, message))


def format_line(moment: str, level: str, run_id: str, logger: str, message: str) -> str:
    """One line without its end; not scrubbed."""
    message = message.replace("\r", "\\r").replace("\n", "\\n")
    return f"{moment} {level:<7} {run_id or '-'} {logger}: {message}"


def format_facts(facts: Mapping[str, Any]) -> str:
    """Facts as `key=value`, quoted where a value has blanks; not scrubbed."""
    return " ".join(f"{key}={_quoted(plain(value))}" for key, value in facts.items())


def plain(item: Any) -> Any:
    """An enum's value, and anything else as it is."""
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
