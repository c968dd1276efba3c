"""The log of one life: what the tools and we print, to where Batch collects it and, for the store, kept.

Descriptors 1 and 2 are the log. On the embedded Batch they are one regular file: the tools write to it themselves and
the log is read back from the offset where this life began; there is nothing in between. Elsewhere (a pipe to the
container's runtime) a thread passes on what the tools print, or an excerpt of it (`log_excerpt`), and keeps all of it
in a file of the scratch root.
"""

from __future__ import annotations

import os
import select
import stat
import sys
import threading
import time
from functools import lru_cache
from typing import TYPE_CHECKING, Protocol, Self

from batch_pipeline.container.disk import PRIVATE
from batch_pipeline.wire.durable import make_folder, write_all

if TYPE_CHECKING:
    from batch_pipeline.container.log_excerpt import LogExcerpt

#: Bytes of a log that the store gets: its end.
KEPT_BYTES = 64 << 20
_PIECE = 1 << 16
#: The most a pipe holds unless root enlarges it, https://man7.org/linux/man-pages/man7/pipe.7.html
_PIPE_BYTES = 1 << 20
#: What wakes the thread: somebody reads what was kept; what was held back is to be printed.
_KEEP, _PRINT = b"k", b"p"


class CellLog(Protocol):
    """What was printed since this life began. A context: afterwards descriptors 1 and 2 are as they were."""

    def __enter__(self) -> Self:
        """Begins to listen."""

    def __exit__(self, *_: object) -> None:
        """Puts the descriptors back."""

    def tail(self, most_bytes: int = KEPT_BYTES) -> bytes:
        """The end of all that was printed so far."""

    def print_rest(self) -> None:
        """Prints what an excerpt held back, and from then on all: the process may be killed. For signal handlers."""


class FileLog:
    """See `CellLog`. For descriptors that are one regular file, which this life finds `start` bytes long."""

    def __init__(self, start: int) -> None:
        self._start = start

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def tail(self, most_bytes: int = KEPT_BYTES) -> bytes:
        """See `CellLog.tail`."""
        end = os.fstat(1).st_size
        if end <= self._start:
            return b""
        # The worker holds the file for writing only.
        return _end_of("/proc/self/fd/1", self._start, end, most_bytes)

    def print_rest(self) -> None:
        """See `CellLog.print_rest`. Holds nothing back."""


class TeeLog:
    """See `CellLog`. For any other descriptors."""

    def __init__(self, folder: str, excerpt: LogExcerpt | None) -> None:
        self._folder = folder
        self._excerpt = excerpt

    def __enter__(self) -> Self:
        _flush()
        self._kept = _new_file(self._folder)
        self._outer = (os.dup(1), os.dup(2))
        source, sink = os.pipe()
        self._wake_reader, self._wake_writer = os.pipe()
        os.dup2(sink, 1)
        os.dup2(sink, 2)
        os.close(sink)
        self._kept_all = threading.Event()
        self._reader = threading.Thread(target=self._pass_on, args=(source,), name="log", daemon=True)
        self._reader.start()
        return self

    def __exit__(self, *_: object) -> None:
        _flush()
        for descriptor, outer in zip((1, 2), self._outer, strict=True):
            os.dup2(outer, descriptor)
        # A signal handler may call `print_rest` at any time, and the number will be another file's.
        writer, self._wake_writer = self._wake_writer, -1
        os.close(writer)
        self._reader.join()
        for ours in (self._wake_reader, self._kept, *self._outer):
            os.close(ours)

    def tail(self, most_bytes: int = KEPT_BYTES) -> bytes:
        """See `CellLog.tail`."""
        _flush()
        self._kept_all.clear()
        os.write(self._wake_writer, _KEEP)
        self._kept_all.wait()
        end = os.fstat(self._kept).st_size
        return _end_of(f"/proc/self/fd/{self._kept}", 0, end, most_bytes)

    def print_rest(self) -> None:
        """See `CellLog.print_rest`."""
        if self._excerpt is not None and self._wake_writer >= 0:
            os.write(self._wake_writer, _PRINT)

    def _pass_on(self, source: int) -> None:
        """Passes pieces on until the waking pipe is closed; what comes there says what is to be done in between."""
        os.set_blocking(source, False)
        poll = select.poll()
        for descriptor in (source, self._wake_reader):
            poll.register(descriptor, select.POLLIN)
        targets = [self._outer[0], self._kept]
        order = _KEEP
        while order:
            if any(descriptor == self._wake_reader for descriptor, _ in poll.poll()):
                order = os.read(self._wake_reader, 1)
                # No more than a pipe holds: a process that outlived its step may print for ever.
                for _ in range(_PIPE_BYTES // _PIECE):
                    if not self._pass_piece(source, targets):
                        break
                if order == _KEEP:
                    self._kept_all.set()
                elif self._excerpt is not None and self._outer[0] in targets:
                    _written(self._outer[0], self._excerpt.end())
            else:
                self._pass_piece(source, targets)
        os.close(source)

    def _pass_piece(self, source: int, targets: list[int]) -> bool:
        """Whether there was one. A target that takes no more is given up, the other goes on."""
        try:
            piece = os.read(source, _PIECE)
        except BlockingIOError:
            return False
        for target in list(targets):
            excerpt = self._excerpt if target == self._outer[0] else None
            if not _written(target, piece if excerpt is None else excerpt.printed_of(piece)):
                targets.remove(target)
        return bool(piece)


def log_of(folder: str, excerpt: LogExcerpt | None = None) -> CellLog:
    """The log that fits descriptors 1 and 2; `folder` is for what must be kept beside them.

    `excerpt` chooses what is passed on; where the log is a file of this machine, all of it stays there.
    """
    first, second = os.fstat(1), os.fstat(2)
    one_file = stat.S_ISREG(first.st_mode) and (first.st_dev, first.st_ino) == (second.st_dev, second.st_ino)
    return FileLog(first.st_size) if one_file else TeeLog(folder, excerpt)


def say(text: str) -> None:
    """Prints a line to the log; a log that cannot be written stops nothing."""
    _written(2, f"{text}\n".encode(errors="backslashreplace"))


def timestamp() -> str:
    """Now as ISO-8601 UTC with milliseconds."""
    milliseconds = time.time_ns() // 1_000_000
    return f"{_second(milliseconds // 1000)}.{milliseconds % 1000:03d}Z"


@lru_cache(maxsize=1)
def _second(seconds: int) -> str:
    """Small cells begin and end within one."""
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))


def _new_file(folder: str) -> int:
    """A file without a name; in memory when the folder cannot have one, so that the log tells that its disk is full."""
    try:
        make_folder(folder, PRIVATE)
        return os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError:
        return os.memfd_create("log")


def _written(descriptor: int, piece: bytes) -> bool:
    try:
        write_all(descriptor, piece)
    except OSError:
        return False
    return True


def _end_of(path: str, start: int, end: int, most_bytes: int) -> bytes:
    with open(path, "rb", buffering=0) as file:
        start = max(start, end - most_bytes)
        file.seek(start)
        pieces = []
        while start < end:
            piece = file.read(end - start)
            if not piece:
                break
            pieces.append(piece)
            start += len(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
