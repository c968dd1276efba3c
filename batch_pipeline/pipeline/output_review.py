"""Reviews the output ports of a step: patterns and directories that cannot be meant, and ports that overlap."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from itertools import combinations

from batch_pipeline.pipeline.code import place_of
from batch_pipeline.pipeline.step import Output, Scope, Step
from batch_pipeline.wire.contract import DIRECTORY, MANY
from batch_pipeline.wire.file_patterns import matches


def wrong_outputs(step: type[Step]) -> Iterator[str]:
    """What is wrong with the names that each output port declares, a sentence each."""
    for port, output in step.declared(Output).items():
        problem = next(_problems(output), "")
        if output.temporary and step.scope is Scope.REFERENCE:
            problem = "is temporary, but every later run reads a reference. Remove temporary=True."
        if problem:
            yield f"{place_of(step, port)}: {step.__name__}.{port} {problem}"


def overlapping_outputs(step: type[Step]) -> Iterator[str]:
    """Files that two output ports have, or would have, a sentence each."""
    reported: set[tuple[str, str]] = set()
    wanted = [(port, output.form, name) for port, output in step.declared(Output).items() for name in output.files]
    for (other, other_form, other_name), (port, form, name) in combinations(wanted, 2):
        if other == port:
            continue
        if form == other_form == "":
            if os.path.normpath(name) == os.path.normpath(other_name):
                yield (
                    f"{place_of(step, port)}: {step.__name__}.{port} names the file {name!r}, which {other} names too;"
                    " each output needs a file of its own."
                )
        elif (other, port) not in reported and _overlap(form, name, other_form, other_name):
            reported.add((other, port))
            yield (
                f"{place_of(step, port)}: {step.__name__}.{port} is {name!r}, and {other} is {other_name!r}: a file"
                " may belong to one output only."
            )


def _problems(output: Output) -> Iterator[str]:
    for name in output.files:
        if not output.many and set(name) & set("*?"):
            yield f"has the pattern {name!r}. Give the Output many=True, or name each file."
        if output.many and "**" in name:
            yield f"has the pattern {name!r}, but ** is not known. Write one * a folder, or a directory: 'qc/'."
        if output.many and name.endswith("/"):
            yield f"has many=True and the directory {name!r}. Leave many=True out, or write a pattern of files."
        if name.endswith("/") and len(output.files) > 1:
            yield f"has the directory {name!r} beside other names. Give each directory a port of its own."
        if unknown := [field for field in re.findall(r"\{[\w.]*\}", name) if field != "{sample}"]:
            yield f"has the name {name!r}, but {unknown[0]} stands for nothing there. Only {{sample}} does; write it."
        if name == "./":
            yield "is the working directory itself. Let the step write into a folder of it: Output('qc/')."


def _overlap(form: str, name: str, other_form: str, other_name: str) -> bool:
    """Whether two names, one of them a directory or a pattern, surely or likely stand for one file."""
    if DIRECTORY in (form, other_form):
        first, second = sorted(((form, name), (other_form, other_name)), key=lambda one: one[0] != DIRECTORY)
        folder, parts = (os.path.normpath(one).split("/") for _, one in (first, second))
        # A pattern stands for no folder, and for none of what lies deeper than itself.
        is_apart = second[0] == MANY and len(parts) <= len(folder)
        return not is_apart and all(_may_match(*pair) for pair in zip(folder, parts, strict=False))
    if form == other_form == MANY:
        return name == other_name
    pattern, file = (name, other_name) if form == MANY else (other_name, name)
    return matches(os.path.normpath(file), pattern)


def _may_match(part: str, other: str) -> bool:
    return part == other or matches(part, other) or matches(other, part)
