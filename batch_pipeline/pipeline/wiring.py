"""Tasks and what is connected to their input ports: output ports of other tasks, sources, and alternatives of these.

`trim.out_reads | picard.out_fastq` are alternatives: the port has the first that a sample has. Imported on both sides
of the wire, so this module needs the standard library and `wire` alone.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from batch_pipeline.pipeline.step import Input, Output, Reference, Step
from batch_pipeline.wire.errors import InvalidPipeline


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


@dataclass(frozen=True, kw_only=True)
class Source(Connectable):
    """Files of a sample that no step made."""

    #: Names below the sources' prefix, with `{sample}` to fill in.
    files: tuple[str, ...]
    #: Column of the sample sheet that names the file instead; empty: none.
    column: str = ""
    #: Columns of the sample sheet of which each names a file; the last ones may be empty.
    columns: tuple[str, ...] = ()
    #: Whether several rows of a sample may name files in these columns.
    lanes: bool = False

    @property
    def all_columns(self) -> tuple[str, ...]:
        """The columns that name its files, in order."""
        return (self.column,) if self.column else self.columns


@dataclass(frozen=True)
class Port(Connectable):
    """An output port of a task."""

    task: Task
    name: str


#: What may be connected to an input port.
Connection: TypeAlias = Port | Source | Alternatives


class Task:
    """One step of a pipeline under its name: `in_<port>` takes, `out_<port>` gives."""

    name: str
    step_class: type[Step]
    #: Values of parameters that are this task's defaults, parsed.
    params: Mapping[str, Any]
    connected: dict[str, Connection]
    #: Port -> file and line of the statement that connects it.
    places: dict[str, str]
    #: Condition (`Step.when`), of the task or of its class, and file and line of the task's own.
    when: str
    when_place: str
    #: File and line of the statement that makes it; empty: no pipeline's.
    place: str

    def __init__(
        self, name: str, step_class: type[Step], params: Mapping[str, Any] | None = None, place: str = ""
    ) -> None:
        object.__setattr__(self, "name", name)
        object.__setattr__(self, "step_class", step_class)
        object.__setattr__(self, "params", dict(params or {}))
        object.__setattr__(self, "connected", {})
        object.__setattr__(self, "places", {})
        object.__setattr__(self, "place", place)
        self.set_condition(step_class.when, "")

    def set_condition(self, when: str, place: str) -> None:
        """Sets the condition, and file and line where it is written; empty: in the class."""
        object.__setattr__(self, "when", when)
        object.__setattr__(self, "when_place", place)

    def __repr__(self) -> str:
        return f"Task({self.name})"

    def __setattr__(self, attribute: str, value: Connection) -> None:
        port = attribute.removeprefix("in_")
        inputs = self.step_class.declared(Input)
        place = place_of_caller()
        if port == attribute or port not in inputs:
            raise InvalidPipeline(f"{place}: {_no_port(self, attribute, 'in_', inputs)}")
        for option in options_of(value):
            if not isinstance(option, (Port, Source)):
                raise InvalidPipeline(
                    f"{place}: {self.name}.{attribute} takes another task's out_… port or self.source(…), not"
                    f" {option!r}."
                )
        self.connected[port] = value
        self.places[port] = place

    def __getattr__(self, attribute: str) -> Port:
        port = attribute.removeprefix("out_")
        outputs = self.step_class.declared(Output)
        if attribute.startswith("__"):
            raise AttributeError(attribute)
        if port == attribute or port not in outputs:
            raise InvalidPipeline(f"{place_of_caller()}: {_no_port(self, attribute, 'out_', outputs)}")
        return Port(self, port)


def place_of_caller() -> str:
    """File and line of the statement that called the function which calls this one."""
    frame = sys._getframe(2)
    return f"{frame.f_code.co_filename}, line {frame.f_lineno}"


def class_for_port(step: type[Step], name: str) -> str:
    """What is wrong with an attribute that is the class of a port (`bam = Input`); empty: nothing."""
    kind = getattr(step, name, None)
    if kind not in (Input, Output, Reference):
        return ""
    argument = "" if kind is Input else '"FILE"'
    return (
        f"{step.__name__}.{name} is the class {kind.__name__} itself, which declares no port. Write {name} ="
        f" {kind.__name__}({argument})."
    )


def _no_port(task: Task, attribute: str, prefix: str, ports: Mapping[str, Any]) -> str:
    """Why a task cannot give or take by this name, and what it declares."""
    bare = attribute.removeprefix("in_").removeprefix("out_")
    if problem := class_for_port(task.step_class, bare):
        return problem
    if prefix == "out_" and bare in task.step_class.declared(Input):
        return f"{task.name}.{attribute} is an input, and only an out_… port can be read from. Connect what feeds it."
    if prefix == "in_" and bare in task.step_class.declared(Output):
        return f"{task.name}.{attribute} is an output, and only an in_… port can be connected to something."
    known = ", ".join(f"{prefix}{name}" for name in ports) or "none"
    return f"Task {task.name} has no port {attribute!r}; {task.step_class.__name__} declares: {known}."
