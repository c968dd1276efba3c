"""The command template of a step: text for bash in which names in braces stand for files and values of the job.

    command = "bwa mem -t {cpus} {genome} {reads} | samtools sort -o {bam}"

`{reads}` is every file of a port, `{reads[0]}` the first; `{{` and `}}` are braces. A name may be preceded by its kind
(`{reference.genome}`) where a port and a parameter have the same one.

A value never becomes text of the script: it is assigned to a bash array in a line before the template, and its place
in the template gets that array's expansion, which bash does not read again. So no name or parameter can be taken for
a command, whatever it holds and whatever quotes the template puts around it. Where bash does read values again, as
arithmetic (in `((…))` the text `a[$(rm x)]` runs a command), only numbers may stand: `fields_as_code`. A program that
the template writes for another language (`awk '…'`, `bash -c '…'`) is that language's: give it values as arguments.
"""

from __future__ import annotations

import re
import shlex
import textwrap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final

from batch_pipeline.wire.errors import InvalidPipeline

_TOKEN: Final = re.compile(r"\{\{|\}\}|\{([^{}\n]*)\}|[{}]")
_FIELD: Final = re.compile(r"(?:([a-z]+)\.)?([A-Za-z_]\w*)(?:\[(\d+)\])?\Z")
_HERE_DOCUMENT: Final = re.compile(r"(?<!<)<<-?[ \t]*['\"\\]?[^\s\d'\"\\<=]|<<-?['\"\\]?\d+\n")
#: Where bash reads a value as arithmetic or code, up to the value: a subscript, a part of a text, `let` and `eval`.
_READ_AGAIN: Final = re.compile(r"(?:\$\{!?\w+(?:\[|:) *|\b\w+\[|\b(?:let|eval) [^\n;]*)[\"']?\Z")
_COMPARISON: Final = re.compile(r"\s-(?:eq|ne|lt|le|gt|ge)\s")
#: Flags of the bash that runs it: an error, an unset variable and a failed part of a pipe end it.
BASH: Final = ("bash", "-euo", "pipefail")


class Kind(Enum):
    """What a name in a template stands for; the value is the word that may precede it."""

    JOB = "job"  #: `sample`, `cpus`, `memory_mb`, `attempt`, and of a gather `samples`.
    INPUT = "input"
    REFERENCE = "reference"
    OUTPUT = "output"
    PARAMETER = "param"
    COLUMN = "columns"


@dataclass(frozen=True, kw_only=True)
class Field:
    """One name in braces."""

    #: As it is written, without braces.
    text: str
    #: The word before the dot; empty: none.
    kind: str
    name: str
    #: Which of several values; None: all.
    index: int | None


class _Quote(Enum):
    """In which quotes a place of the script is; the value is how an array is expanded there."""

    NONE = '"${%s[@]}"'
    SINGLE = "'\"${%s[*]}\"'"
    DOUBLE = "${%s[*]}"
    ESCAPED = "'\"${%s[*]}\"$'"  #: `$'…'`


def fields_of(template: str) -> list[Field]:
    """The names of a template in order. Raises InvalidPipeline for what is no name, and for one in a here document."""
    fields: list[Field] = []
    before = ""
    for field, text in _pieces(template):
        before += text
        if field is not None and _HERE_DOCUMENT.search(before):
            raise InvalidPipeline(
                f"{{{field.text}}} stands in or behind a here document (<<), in which bash knows no quotes. Write a"
                " script of its own, or use printf."
            )
        fields += [field] if field is not None else []
    return fields


def fields_as_code(template: str) -> list[Field]:
    """The names of a template whose values bash reads as arithmetic or code. Raises InvalidPipeline as `fields_of`."""
    by_place: dict[int, Field] = {}
    script = ""
    for field, text in _pieces(template):
        if field is not None:
            by_place[len(script)] = field
        script += text if field is None else "\0"
    spans = [(match.start(), _end_of_brackets(script, match.start())) for match in re.finditer(r"\(\(", script)]
    spans += [
        match.span() for match in re.finditer(r"\[\[\s.*?\]\]", script, re.DOTALL) if _COMPARISON.search(match[0])
    ]
    return [
        field
        for place, field in by_place.items()
        if any(start < place < end for start, end in spans) or _READ_AGAIN.search(script[:place])
    ]


def _end_of_brackets(script: str, start: int) -> int:
    """Where the round bracket that opens at a place is closed."""
    depth = 0
    for position in range(start, len(script)):
        depth += {"(": 1, ")": -1}.get(script[position], 0)
        if not depth:
            return position
    return len(script)


def script_of(template: str, values_of: Callable[[Field], Sequence[str]]) -> str:
    """The script for bash. Raises InvalidPipeline as `fields_of`, and what `values_of` raises."""
    variables: dict[str, tuple[str, Sequence[str]]] = {}
    lines: list[str] = []
    quotes = _Quotes()
    for field, text in _pieces(template):
        if field is None:
            quotes.read(text)
            lines.append(text)
            continue
        if field.text not in variables:
            # Names of bash are ASCII, unlike those of Python.
            name = f"_{len(variables)}_{field.name if field.name.isascii() else ''}"
            variables[field.text] = (name, values_of(field))
        lines.append(quotes.now.value % variables[field.text][0])
    assigned = [f"{name}=({' '.join(map(shlex.quote, values))})" for name, values in variables.values()]
    return "\n".join(("; ".join(assigned), "".join(lines), ""))


def with_values(template: str, text_of: Callable[[Field], str]) -> str:
    """The command for people to read, with the text of its values in their places; not for a shell."""
    return "".join(text if field is None else text_of(field) for field, text in _pieces(template))


def _pieces(template: str) -> Iterator[tuple[Field | None, str]]:
    """The template as plain text (no field) and fields, in order."""
    text = textwrap.dedent(template).strip()
    position = 0
    for token in _TOKEN.finditer(text):
        yield None, text[position : token.start()]
        position = token.end()
        if token[0] in ("{{", "}}"):
            yield None, token[0][0]
            continue
        field = _FIELD.match(token[1] or "")
        if field is None:
            raise InvalidPipeline(
                f"{token[0]!r} in the command is no name of a file or value. Write {{name}} or {{name[0]}}; a brace"
                " itself is written twice: {{ and }}."
            )
        index = None if field[3] is None else int(field[3])
        yield Field(text=token[1], kind=field[1] or "", name=field[2], index=index), ""
    yield None, text[position:]


class _Quotes:
    """Follows bash's quotes through a script. Where it is misled an expansion is still no command."""

    def __init__(self) -> None:
        #: Of the script, and of each `$(…)` that is open, with the round brackets open in it.
        self._open: list[tuple[_Quote, int]] = [(_Quote.NONE, 0)]

    @property
    def now(self) -> _Quote:
        """The quotes around the place that was read up to."""
        return self._open[-1][0]

    def read(self, text: str) -> None:
        """Goes on behind a piece of the script."""
        position = 0
        while position < len(text):
            quote, brackets = self._open[-1]
            character = text[position]
            if character == "\\" and quote is not _Quote.SINGLE:
                position += 1
            elif character == "'" and quote is not _Quote.DOUBLE:
                opened = _Quote.ESCAPED if text[:position].endswith("$") else _Quote.SINGLE
                self._open[-1] = (opened if quote is _Quote.NONE else _Quote.NONE, brackets)
            elif character == '"' and quote in (_Quote.NONE, _Quote.DOUBLE):
                self._open[-1] = (_Quote.NONE if quote is _Quote.DOUBLE else _Quote.DOUBLE, brackets)
            elif text.startswith("$(", position) and quote in (_Quote.NONE, _Quote.DOUBLE):
                self._open.append((_Quote.NONE, 0))
                position += 1
            elif quote is _Quote.NONE:
                position = self._read_bare(text, position, brackets)
            position += 1

    def _read_bare(self, text: str, position: int, brackets: int) -> int:
        """A character outside of quotes; returns the position of the last one that was read."""
        if text[position] == "(":
            self._open[-1] = (_Quote.NONE, brackets + 1)
        elif text[position] == ")" and brackets:
            self._open[-1] = (_Quote.NONE, brackets - 1)
        elif text[position] == ")" and len(self._open) > 1:
            self._open.pop()
        elif text[position] == "#" and (position == 0 or text[position - 1] in " \t\n;"):
            return (text.find("\n", position) + 1 or len(text)) - 1
        return position
