"""The JSON documents of a CouchDB database or view, one after another, however large the file.

A list of documents, the `{"docs": […]}` of a bulk request, the `{"rows": […]}` of `_all_docs?include_docs=true`, or
documents one behind the other, a line each. In memory is what is being read, not the file.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any, Final

_PIECE: Final = 1 << 16
#: What stands before the first document of a list: other fields of its object, that hold no list.
_OPENING: Final = re.compile(r'\s*(?:\[|\{\s*(?:"[^"]*"\s*:\s*[^,{}\[\]]*,\s*)*"(?:docs|rows)"\s*:\s*\[)')
_BETWEEN: Final = re.compile(r"[\s,]*")
#: Characters at the end of a piece in which a document that goes on behind it may look wrong: `tru`, `\\u00`.
_UNCLEAR: Final = 16


def documents_of(read: Callable[[int], str]) -> Iterator[tuple[int, Any]]:
    """The documents, each with the line on which it begins; of a view's rows the documents that they include.

    `read` returns up to so many characters, at the end none.

    Raises
    ------
    ValueError
        It is no such JSON, or ends too early; the message has the line.
    """
    buffer, line = read(_PIECE), 1
    opening = _OPENING.match(buffer)
    rest = _Rest(read, buffer, line)
    if opening:
        rest.drop(opening.end())
    while body := rest.next():
        if opening and body[0] == "]":
            return
        document = rest.take()
        included = isinstance(document, dict) and isinstance(document.get("doc"), dict) and "_id" not in document
        yield rest.began, document["doc"] if included else document
    if opening:
        raise ValueError(f"line {rest.line}: the file ends within its list of documents. Was it cut off?")


class _Rest:
    """What of a text is still to be read."""

    def __init__(self, read: Callable[[int], str], buffer: str, line: int) -> None:
        self._read = read
        self._buffer = buffer
        self._decode = json.JSONDecoder().raw_decode
        self._at = 0
        #: Where it stands, and where the document that was taken last began.
        self.line = self.began = line

    def drop(self, end: int) -> None:
        """Passes over the text up to a place."""
        self.line += self._buffer.count("\n", self._at, end)
        self._at = end

    def next(self) -> str:
        """The first character of what follows, blanks and commas passed over; empty: nothing follows."""
        while True:
            blanks = _BETWEEN.match(self._buffer, self._at)
            self.drop(blanks.end() if blanks else self._at)
            if self._at < len(self._buffer) or not self._more(_PIECE):
                return self._buffer[self._at : self._at + 1]

    def take(self) -> Any:
        """The document that begins here. Raises ValueError."""
        size = _PIECE
        while True:
            try:
                document, end = self._decode(self._buffer, self._at)
            except json.JSONDecodeError as error:
                open_ended = error.msg.startswith("Unterminated") or error.pos > len(self._buffer) - _UNCLEAR
                if not open_ended or not self._more(size):
                    line = self.line + self._buffer.count("\n", self._at, error.pos)
                    raise ValueError(f"line {line}: it is no JSON: {error.msg}.") from error
                # A large document is tried again each time it has doubled, not with each piece.
                size *= 2
            else:
                self.began = self.line
                self.drop(end)
                return document

    def _more(self, size: int) -> bool:
        piece = self._read(size)
        self._buffer, self._at = self._buffer[self._at :] + piece, 0
        return bool(piece)
