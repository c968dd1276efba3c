"""What the steps of `single.py` share."""

from __future__ import annotations

from collections.abc import Mapping

TAB = "\t"


def split(text: str) -> list[str]:
    """The words of a text, sorted."""
    return sorted(text.split())


def listed(counts: Mapping[str, int]) -> str:
    """A table of words."""
    return "".join(f"{word}{TAB}{count}\n" for word, count in sorted(counts.items()))


def idle(text: str) -> str:
    """Nobody calls it."""
    return text
