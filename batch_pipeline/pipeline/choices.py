"""Chooses what each cell reads where that depends on conditions: the first alternative that the sample has. Pure.

A port of which this must be decided has alternatives, or is fed by a step with a condition (`Node.choosing`). Other
steps read the same of every sample, and nothing is computed for them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from typing import Any

from batch_pipeline.pipeline.code import place_of
from batch_pipeline.pipeline.step import Input, Output, Scope
from batch_pipeline.pipeline.wiring import Alternatives, options_of
from batch_pipeline.pipeline.workflow import Connection, Graph, Node, Port, Source, Task
from batch_pipeline.wire.contract import DIRECTORY
from batch_pipeline.wire.errors import InvalidPipeline
from batch_pipeline.wire.job import text_of
from batch_pipeline.wire.layout import COHORT

#: The position of a port that has nothing to read.
NONE = -1


@dataclass(frozen=True, kw_only=True, slots=True)
class Choices:
    """What the cells of a step read, by the position of the sample; a gather has a choice for each sample too."""

    #: Port -> position of the alternative that is read; NONE: there is none.
    by_port: Mapping[str, Sequence[int]]
    #: The steps that are read.
    steps: Sequence[tuple[str, ...]]

    def lack(self, ports: Sequence[str], position: int) -> bool:
        """Whether one of these ports has nothing to read."""
        return any(self.by_port[port][position] == NONE for port in ports)


def choices_of(
    graph: Graph, node: Node, samples: Sequence[str], excluded: Mapping[str, AbstractSet[str]]
) -> Choices | None:
    """What the cells of a step read; None: the same of every sample."""
    if not node.choosing:
        return None
    by_port = {port: _positions(graph, options, samples, excluded) for port, options in node.choosing.items()}
    fixed = [options_of(connection)[0] for port, connection in node.inputs.items() if port not in by_port]
    steps_by_choice: dict[tuple[int, ...], tuple[str, ...]] = {}
    steps = []
    for chosen in zip(*by_port.values(), strict=True):
        if chosen not in steps_by_choice:
            options = [of[at] for of, at in zip(node.choosing.values(), chosen, strict=True) if at != NONE]
            read = {option.task.name for option in (*fixed, *options) if isinstance(option, Port)}
            steps_by_choice[chosen] = tuple(step for step in node.upstream if step in read)
        steps.append(steps_by_choice[chosen])
    return Choices(by_port=by_port, steps=steps)


def gathering_ports(graph: Graph, node: Node) -> tuple[str, ...]:
    """The choosing ports of a gather that take files of samples."""
    return tuple(
        port
        for port, options in node.choosing.items()
        if isinstance(options[0], Port) and graph[options[0].task.name].scope is not Scope.COHORT
    )


def place_of_condition(task: Task) -> str:
    """Where the condition of a task is written. Raises InvalidPipeline for one that is no text."""
    if not isinstance(task.when, str):
        place = task.when_place or place_of(task.step_class, "when")
        raise InvalidPipeline(f"{place}: when of {task.name} must be a text with a condition, not {task.when!r}.")
    if task.when_place or not task.when:
        return task.when_place
    return place_of(task.step_class, "when")


def refuse_foreign(node: Node, tasks: Mapping[str, Task]) -> None:
    """Raises InvalidPipeline for a port that another pipeline's task feeds."""
    for port, connection in node.inputs.items():
        for option in options_of(connection):
            if isinstance(option, Port) and tasks.get(option.task.name) is not option.task:
                raise InvalidPipeline(f"{node.name}.in_{port} is fed by a task that self.new_task() did not make.")


def require_alternatives(task: Task) -> None:
    """Raises InvalidPipeline for a port that a sample may have nothing for, and for an alternative that none takes."""
    for port, connection in task.connected.items():
        options, start = options_of(connection), f"{task.places.get(port, task.name)}: {task.name}.in_{port}"
        for option in options[:-1]:
            if isinstance(option, Source):
                raise InvalidPipeline(f"{start} names alternatives after a source, which are never read. Put it last.")
            if not option.task.when:
                raise InvalidPipeline(
                    f"{start} names alternatives after {option.task.name}.out_{option.name}, which are never read:"
                    f" {option.task.name} has no condition. Give it a `when`, or remove the others."
                )
        if task.step_class.scope is Scope.COHORT:
            scopes = {option.task.step_class.scope for option in options if isinstance(option, Port)}
            if len(scopes) > 1:
                raise InvalidPipeline(f"{start} has results of samples and of a gather as alternatives. Use two ports.")
        forms = {_form(option) for option in options}
        if len(options) > 1 and DIRECTORY in forms and (len(forms) > 1 or task.step_class.scope is Scope.COHORT):
            raise InvalidPipeline(
                f"{start} has a directory as an alternative; those of a port are all files, or all directories of a"
                " sample. Use two ports."
            )
        _require_alternative(task, port, options, start)


def with_parameters(connection: Connection, params: Mapping[str, Any]) -> Connection:
    """A connection with the values of parameters in the names of its source's files; one that is empty names none."""
    *others, last = options_of(connection)
    if not isinstance(last, Source):
        return connection
    texts = {f"{{{name}}}": text_of(value) for name, value in params.items()}
    empty = [field for field, text in texts.items() if not text]
    named = [file for file in last.files if not any(field in file for field in empty)]
    # In one pass: a value may have braces of its own.
    files = (re.sub(r"\{\w+\}", lambda field: texts.get(field[0], field[0]), file) for file in named)
    source = replace(last, files=tuple(files))
    return Alternatives(options=(*others, source)) if others else source


def _form(option: Port | Source) -> str:
    if not isinstance(option, Port):
        return ""
    form: str = option.task.step_class.declared(Output)[option.name].form
    return form


def _require_alternative(task: Task, port: str, options: Sequence[Port | Source], start: str) -> None:
    """A step with a condition of its own may be there for just those samples that have what it reads."""
    first: Port | Source = options[0]
    if len(options) > 1 or not isinstance(first, Port) or not first.task.when or task.when:
        return
    gathers = task.step_class.scope is Scope.COHORT and first.task.step_class.scope is Scope.SAMPLE
    if gathers or task.step_class.declared(Input)[port].optional:
        return
    raise InvalidPipeline(
        f"{start} reads {first.task.name}, which may be excluded (when = {first.task.when!r}). Give it an alternative:"
        f" {first.task.name}.out_{first.name} | …, or declare {port} = Input(optional=True)."
    )


def _positions(
    graph: Graph, options: Sequence[Port | Source], samples: Sequence[str], excluded: Mapping[str, AbstractSet[str]]
) -> Sequence[int]:
    """For each sample the position of the first alternative that no condition excludes."""
    positions = [NONE] * len(samples)
    for at in reversed(range(len(options))):
        option = options[at]
        if isinstance(option, Source):
            absent: AbstractSet[str] = frozenset()
        else:
            absent = excluded.get(option.task.name, frozenset())
            if graph[option.task.name].scope is Scope.COHORT:
                absent = frozenset(samples) if COHORT in absent else frozenset()
        if not absent:
            positions = [at] * len(samples)
        else:
            positions = [was if name in absent else at for was, name in zip(positions, samples, strict=True)]
    return positions
