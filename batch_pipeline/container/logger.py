"""Logs what the container decides, a line for each decision, between what the tools print.

The lines have the form of the client's (`wire.log_line`), with loggers `container.…`. The standard library's `logging`
is not imported: it takes some 4 ms, of the 60 that a container needs to its first instruction, and nothing else in here
needs it. Sentences for a person (how a cell failed, a traceback, the usage) are not log lines: `log.say`.
"""

from __future__ import annotations

from typing import Any

from batch_pipeline.container.log import say, timestamp
from batch_pipeline.wire.log_line import format_facts, format_line

#: The run that this life is about; empty: none is known yet.
_run_id = ""


def log_run(run_id: str) -> None:
    """Says which run the lines of this process are about from here on; empty: of none that is known yet."""
    global _run_id
    _run_id = run_id


class Logger:
    """Writes lines to the log of this life, by the names of `logging.Logger`. A log that is gone stops nothing."""

    def __init__(self, name: str) -> None:
        """`name` is the module's `__name__`."""
        self._name = name.partition(".")[2]

    def info(self, event: str, **facts: Any) -> None:
        """Logs a decision."""
        self._log("INFO", event, facts)

    def warning(self, event: str, **facts: Any) -> None:
        """Logs what went wrong, or is not as it should be, and was made good."""
        self._log("WARNING", event, facts)

    def error(self, event: str, **facts: Any) -> None:
        """Logs what ends the attempt."""
        self._log("ERROR", event, facts)

    def _log(self, level: str, event: str, facts: dict[str, Any]) -> None:
        line = format_line(timestamp(), level, _run_id, self._name, f"{event} {format_facts(facts)}".rstrip())
        # Only what others wrote, an error or a URL, may hold a secret; the patterns cost a small cell too much.
        if level != "INFO" or "@" in line or "?" in line:
            from batch_pipeline.wire.scrub import scrubbed

            line = scrubbed(line)
        say(line)


def without_log_lines(text: bytes) -> bytes:
    """What the tools printed: the text without our own lines."""
    return b"".join(line for line in text.splitlines(keepends=True) if not _is_log_line(line))


def _is_log_line(line: bytes) -> bool:
    return line[10:11] == b"T" and line[23:25] == b"Z " and b" container." in line[25:80]
