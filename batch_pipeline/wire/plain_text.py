"""Normalizes text that steps, tools or records brought, before it is printed: no escape sequence, no bidi control."""

from __future__ import annotations

from typing import Final

#: Characters of a failure's message that are kept.
MOST_CHARACTERS: Final = 1_000


def printable(text: str) -> str:
    """The text with U+FFFD for what a terminal or browser would obey or cannot encode.

    These are control characters, escape sequences' beginnings, marks of direction and lone surrogates.
    """
    return text if text.isprintable() else "".join(one if one.isprintable() else "\ufffd" for one in text)


def one_line(text: str, most: int = MOST_CHARACTERS) -> str:
    """The text in one printable line of at most so many characters, its middle left out where it is longer."""
    line = printable(" ".join(text.split()))
    half = (most - 3) // 2
    return line if len(line) <= most else f"{line[:half]} … {line[-half:]}"
