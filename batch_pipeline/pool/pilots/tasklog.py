"""The log of one attempt at a task: a file that its command writes, read for what it says to the pool.

A line `::result key=value` becomes a field of the task, the last one of a key counts. A line `::progress 0.4` tells how
far it is. What fits in the tail stands in the task itself; of a longer log the task has the tail and the key.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final

#: Bytes of a log that are kept in the task.
TAIL_BYTES: Final = 4000
#: What a task may say of its results: a document store keeps all of it in one row.
MOST_FIELDS: Final = 200
MOST_FIELD_BYTES: Final = 2000
_PIECE: Final = 1 << 20
_SAID: Final = re.compile(rb"^::(?:result[ \t]+([^\s=]+)=([^\r\n]*)|progress[ \t]+([0-9.]+)[ \t]*)\r?$", re.MULTILINE)


class TaskLog:
    """A log file, and what was read of it so far."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
        self._read = 0
        self.fields: dict[str, str] = {}
        self.progress: float | None = None

    @property
    def size(self) -> int:
        """Bytes written so far."""
        return os.fstat(self.descriptor).st_size

    def look(self, *, ended: bool = False) -> None:
        """Reads the lines that were written since; the last one only when it is whole, or nothing follows it."""
        while piece := os.pread(self.descriptor, _PIECE, self._read):
            end = piece.rfind(b"\n") + 1
            if not end:
                # A line longer than a piece says nothing to us.
                end = len(piece) if ended or len(piece) == _PIECE else 0
            elif ended and len(piece) < _PIECE:
                end = len(piece)
            if not end:
                return
            self._read += end
            for key, value, progress in _SAID.findall(piece[:end]):
                self._note(key, value, progress)

    def _note(self, key: bytes, value: bytes, progress: bytes) -> None:
        if progress:
            try:
                self.progress = min(1.0, max(0.0, float(progress)))
            except ValueError:
                return
        elif len(self.fields) < MOST_FIELDS:
            self.fields[key.decode(errors="replace")] = value[:MOST_FIELD_BYTES].decode(errors="replace").strip()

    def tail(self, most: int = TAIL_BYTES) -> str:
        """The last lines, as text."""
        size = self.size
        data = os.pread(self.descriptor, most, max(0, size - most))
        if size > most:
            data = data[data.find(b"\n") + 1 :]
        return data.decode(errors="replace").replace("\0", "\ufffd")

    def close(self) -> None:
        """Removes the file."""
        os.close(self.descriptor)
        self.path.unlink(missing_ok=True)
