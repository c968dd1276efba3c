"""The log of one life: what the tools and we print, to where Batch collects it and, for the store, kept.

Descriptors 1 and 2 are the log. On the embedded Batch they are one regular file: the tools write to it themselves and
the log is read back from the offset where this life began; there is nothing in between. Elsewhere (a pipe to the
container's runtime) a thread passes on what the tools print and keeps it in a file of the scratch root.
"""

from __future__ import annotations

import os
import select
import stat
import sys
import threading
import time
from functools import lru_cache
from typing import Protocol, Self

from batch_pipeline.container.disk import PRIVATE
from batch_pipeline.wire.durable import make_folder, write_all

#: Bytes of a log that the store gets: its end.
KEPT_BYTES = 64 << 20
_PIECE = 1 << 16
#: The most a pipe holds unless root enlarges it, https://man7.org/linux/man-pages/man7/pipe.7.html
_PIPE_BYTES = 1 << 20


class CellLog(Protocol):
    """What was printed since this life began. A context: afterwards descriptors 1 and 2 are as they were."""

    def __enter__(self) -> Self:
        """Begins to listen."""

    def __exit__(self, *_: object) -> None:
        """Puts the descriptors back."""

    def tail(self, most_bytes: int = KEPT_BYTES) -> bytes:
        """The end of all that was printed so far."""


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


class TeeLog:
    """See `CellLog`. For any other descriptors."""

    def __init__(self, folder: str) -> None:
        self._folder = folder

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
        os.close(self._wake_writer)
        self._reader.join()
        for ours in (self._wake_reader, self._kept, *self._outer):
            os.close(ours)

    def tail(self, most_bytes: int = KEPT_BYTES) -> bytes:
        """See `CellLog.tail`."""
        _flush()
        self._kept_all.clear()
        os.write(self._wake_writer, b"!")
        self._kept_all.wait()
        end = os.fstat(self._kept).st_size
        return _end_of(f"/proc/self/fd/{self._kept}", 0, end, most_bytes)

    def _pass_on(self, source: int) -> None:
        """Passes pieces on until the rope is let go; at each pull it says when all that was printed is kept."""
        os.set_blocking(source, False)
        poll = select.poll()
        for descriptor in (source, self._wake_reader):
            poll.register(descriptor, select.POLLIN)
        targets = [self._outer[0], self._kept]
        wanted = True
        while wanted:
            if any(descriptor == self._wake_reader for descriptor, _ in poll.poll()):
                wanted = os.read(self._wake_reader, 1) != b""
                # No more than a pipe holds: a process that outlived its step may print for ever.
                for _ in range(_PIPE_BYTES // _PIECE):
                    if not self._pass_piece(source, targets):
                        break
                self._kept_all.set()
            else:
                self._pass_piece(source, targets)
        os.close(source)

    @staticmethod
    def _pass_piece(source: int, targets: list[int]) -> bool:
        """Whether there was one. A target that takes no more is given up, the other goes on."""
        try:
            piece = os.read(source, _PIECE)
        except BlockingIOError:
            return False
        for target in list(targets):
            if not _written(target, piece):
                targets.remove(target)
        return bool(piece)


def log_of(folder: str) -> CellLog:
    """The log that fits descriptors 1 and 2; `folder` is for what must be kept beside them."""
    first, second = os.fstat(1), os.fstat(2)
    one_file = stat.S_ISREG(first.st_mode) and (first.st_dev, first.st_ino) == (second.st_dev, second.st_ino)
    return FileLog(first.st_size) if one_file else TeeLog(folder)


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
