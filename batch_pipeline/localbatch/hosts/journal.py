"""The journals of the workers: what each began and how it ended, one line each, written by the worker alone.

A worker writes `began` before it looks whether its server still lives, and runs nothing if not. So a server that finds
the journals of its dead predecessor knows every attempt that ever ran: those without `ended` run still, if their
worker does, or were lost with it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from batch_pipeline.localbatch.engine.job import AttemptOutcome, Document
from batch_pipeline.wire.durable import Seal
from batch_pipeline.wire.processes import ProcessIdentity, identity_of

_ENCODER = json.JSONEncoder(separators=(",", ":"))
#: Child's id and attempt.
Key = tuple[str, int]


def line_of(document: Document) -> bytes:
    """A line of JSON: so workers write their journals, and speak with their server."""
    return _ENCODER.encode(document).encode() + b"\n"


class JournalWriter:
    """Appends to a journal; each line is one write."""

    def __init__(self, path: str, mark: int) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        mine = identity_of(os.getpid())
        if mine is None:
            raise ProcessLookupError("this process is not in /proc")
        self._write({"worker": [mine.pid, mine.start_ticks, mine.boot], "mark": mark})

    def began(self, child: str, attempt: int, time_ms: int) -> None:
        """The attempt is about to run."""
        self._write({"began": [child, attempt], "started_ms": time_ms})

    def ended(self, child: str, attempt: int, done: Document) -> None:
        """The attempt has ended so."""
        self._write({"ended": [child, attempt], **done})

    def left(self, child: str, attempt: int) -> None:
        """The attempt did not run after all."""
        self._write({"left": [child, attempt]})

    def _write(self, line: Document) -> None:
        os.write(self._descriptor, line_of(line))


@dataclass(kw_only=True, slots=True)
class Journal:
    """A journal as read: not frozen, for it is filled line by line."""

    path: Path
    worker: ProcessIdentity | None = None
    #: What all carry that the worker started; 0: nothing, and they are known by their session.
    mark: int = 0
    #: Attempts that began and have not ended, with the time.
    running: dict[Key, int] = field(default_factory=dict)
    ended: dict[Key, AttemptOutcome] = field(default_factory=dict)


def read_journal(path: Path) -> Journal:
    """Reads a journal; a last line that was cut off is ignored."""
    journal = Journal(path=path)
    for line in _lines(path):
        if "worker" in line:
            pid, start_ticks, boot = line["worker"]
            journal.worker = ProcessIdentity(pid=pid, start_ticks=start_ticks, boot=boot)
            journal.mark = line.get("mark", 0)
        elif "began" in line:
            journal.running[_key(line["began"])] = line["started_ms"]
        elif "left" in line:
            journal.running.pop(_key(line["left"]), None)
        else:
            journal.running.pop(_key(line["ended"]), None)
            journal.ended[_key(line["ended"])] = outcome_of(line)
    return journal


def outcome_of(done: Document) -> AttemptOutcome:
    """An outcome out of a worker's words."""
    return AttemptOutcome(
        exit_code=done["exit_code"],
        status_reason=done.get("status_reason"),
        reason=done.get("reason"),
        started_ms=done["started_ms"],
        stopped_ms=done["stopped_ms"],
        seals=tuple(
            Seal(part=part, target=target, others=tuple(others)) for part, target, others in done.get("seals", ())
        ),
    )


def _lines(path: Path) -> Iterator[Document]:
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        return
    whole = text[: text.rfind(b"\n") + 1]
    for line in whole.splitlines():
        yield json.loads(line)


def _key(pair: list[object]) -> Key:
    child, attempt = pair
    return str(child), int(str(attempt))
