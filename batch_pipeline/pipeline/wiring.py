"""Alternatives of an input port: `trim.out_reads | picard.out_fastq` is the first that a sample has.

Imported on both sides of the wire, so this module needs the standard library alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


class Connectable:
    """What may be connected to an input port, alone or as one of several alternatives."""

    def __or__(self, other: Any) -> Alternatives:
        return Alternatives(options=(*options_of(self), *options_of(other)))


@dataclass(frozen=True, kw_only=True)
class Alternatives(Connectable):
    """Output ports, and at the end perhaps a source, of which each sample takes the first that it has."""

    options: tuple[Any, ...]


def options_of(connection: Any) -> tuple[Any, ...]:
    """What a port may read from, in order."""
    return connection.options if isinstance(connection, Alternatives) else (connection,)
