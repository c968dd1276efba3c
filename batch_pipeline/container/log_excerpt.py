"""What of a log goes to the backend's stream where `logs.mode` is `store`: its head at once, its tail at the end.

CloudWatch takes money for each byte, and the store has the log whole. A short log is printed as it is. Memory is flat:
of what is not printed at once, the last `TAIL_BYTES` are kept (for a while twice as many).
"""

from __future__ import annotations

from typing import Final

#: Lines and bytes of head and tail, whichever comes first.
HEAD_LINES: Final = 50
HEAD_BYTES: Final = 16 << 10
TAIL_LINES: Final = 200
TAIL_BYTES: Final = 64 << 10


class LogExcerpt:
    """Chooses of a stream of pieces what is printed. Bytes are bytes: lines need not be text, nor end."""

    def __init__(self, url: str) -> None:
        """`url` is where the whole log will be."""
        self._url = url
        self._head_lines, self._head_bytes = HEAD_LINES, HEAD_BYTES
        self._in_line = False
        self._tail = bytearray()
        #: Bytes and lines since the head.
        self._bytes = self._lines = 0
        self._over = False

    def printed_of(self, piece: bytes) -> bytes:
        """What of the next piece is printed at once."""
        if self._over:
            return piece
        head = piece[: self._head_length(piece)]
        self._in_line = not head.endswith(b"\n") if head else self._in_line
        rest = piece[len(head) :]
        if not rest:
            return head
        if not self._bytes:
            head += self._note(f"the last {TAIL_LINES} lines follow at the end, the whole log will be {self._url}")
        self._bytes += len(rest)
        self._lines += rest.count(b"\n")
        self._tail += rest
        if len(self._tail) > 2 * TAIL_BYTES:
            del self._tail[:-TAIL_BYTES]
        return head

    def end(self) -> bytes:
        """What is left to print: how much was left out, and the tail. All that comes afterwards is printed."""
        if self._over:
            return b""
        self._over = True
        tail, self._tail = bytes(self._tail[-TAIL_BYTES:]), bytearray()
        start = _last_lines(tail) if len(tail) == self._bytes else max(_last_lines(tail), tail.find(b"\n") + 1)
        # Of one line that is longer than all that is kept there is no beginning.
        tail = tail[start:] or tail
        left_out = self._bytes - len(tail)
        if not left_out:
            return tail
        lines = self._lines - tail.count(b"\n")
        return self._note(f"{left_out:,} bytes in {lines:,} lines left out, the whole log is {self._url}") + tail

    def _head_length(self, piece: bytes) -> int:
        """How many bytes of a piece belong to the head."""
        end = 0
        while self._head_lines and (newline := piece.find(b"\n", end, self._head_bytes)) >= 0:
            end = newline + 1
            self._head_lines -= 1
        if self._head_lines:
            end = min(len(piece), self._head_bytes)
        self._head_bytes -= end
        return end

    def _note(self, text: str) -> bytes:
        start = "\n" if self._in_line else ""
        self._in_line = False
        return f"{start}[logs.mode is store: {text}]\n".encode()


def _last_lines(tail: bytes) -> int:
    """Where the last lines begin."""
    start = len(tail) - tail.endswith(b"\n")
    for _ in range(TAIL_LINES):
        start = tail.rfind(b"\n", 0, start)
        if start < 0:
            return 0
    return start + 1
