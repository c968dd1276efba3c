"""Wires a pipeline as a DAG: a `WorkflowTask` makes steps and connects ports, `Graph` has them in topological order.

    class Fusions(WorkflowTask):
        def workflow(self):
            picard = self.new_task("picard", Picard, include_non_pf=True)
            kallisto = self.new_task("kallisto", Kallisto)
            picard.in_bam = self.source("{sample}.bam")
            kallisto.in_reads = picard.out_fastq

    if __name__ == "__main__":
        Fusions.main()

The words are sciluigi's, and when a run begins the graph becomes a `sciluigi.WorkflowTask` with one Luigi task a step
(`luigi_adapter`). Until then it is this light thing: importing Luigi costs more than finding out that nothing is to do.
Edges come from ports alone; a cycle or an unconnected input is told by name.

A step with a condition (`when`) is not there for every sample. Who reads it names what else it reads then, as
alternatives: `kallisto.in_reads = trim.out_reads | picard.out_fastq`.

(A little longer than most modules: the class that a pipeline's file declares, and the graph that it makes.)
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Final, TypeVar

from batch_pipeline.pipeline.cell_facts import ANY_MEMORY_MB
from batch_pipeline.pipeline.parameters import require_step_class, task_defaults
from batch_pipeline.pipeline.step import STEP_NAME, Input, Output, Parameter, Reference, Scope, SheetColumn, Step
from batch_pipeline.pipeline.wiring import Connection as Connection
from batch_pipeline.pipeline.wiring import Port as Port
from batch_pipeline.pipeline.wiring import Source as Source
from batch_pipeline.pipeline.wiring import Task as Task
from batch_pipeline.pipeline.wiring import options_of, place_of_caller
from batch_pipeline.wire.errors import InvalidConfig, InvalidPipeline
from batch_pipeline.wire.layout import COHORT

T = TypeVar("T")

#: Name of the task that builds references.
REFERENCE_TASK: Final = "reference"
#: What is declared in a step and nowhere else.
_STEPS = (Parameter, SheetColumn, Input, Output, Reference)


class WorkflowTask:
    """Base of a pipeline: one subclass a file, wired in `workflow()`."""

    #: The step that the `reference` verb runs, or None when the pipeline uses no reference that can be built.
    reference_builder: ClassVar[type[Step] | None] = None
    #: Whether a sample may have several rows in the sheet, one a lane: a port then has the files of all of them.
    lanes: ClassVar[bool] = False

    def __init__(self) -> None:
        self._made: dict[str, Task] = {}

    def workflow(self) -> Any:
        """Makes the tasks and connects their ports."""
        raise InvalidPipeline(
            f"{type(self).__name__} has no workflow(). Define it: def workflow(self) makes the tasks."
        )

    def new_task(self, name: str, step_class: type[Step], *, when: str = "", **params: Any) -> Task:
        """A task of the pipeline: its condition and values of its parameters go before those of the class.

        Raises InvalidPipeline for a name that is taken or cannot be a key, for what is no class of a step, and for an
        unknown or wrong parameter.
        """
        place = place_of_caller()
        if not isinstance(name, str):
            raise InvalidPipeline(
                f"{place}: self.new_task() takes the task's name first, a text, not {name!r}. Write"
                ' self.new_task("NAME", CLASS).'
            )
        if not STEP_NAME.match(name):
            raise InvalidPipeline(
                f"{place}: task name {name!r} must be 1 to 32 lower-case letters, digits and _, beginning with a"
                " letter."
            )
        if name in self._made:
            raise InvalidPipeline(f"{place}: two tasks are called {name!r}; give each its own name.")
        require_step_class(name, step_class, place)
        if step_class.scope is Scope.REFERENCE:
            raise InvalidPipeline(f"{step_class.__name__} builds references; name it as reference_builder instead.")
        self._made[name] = Task(name, step_class, task_defaults(name, step_class, params, place), place)
        if when:
            self._made[name].set_condition(when, place)
        return self._made[name]

    def source(self, *files: str, column: str = "", columns: Sequence[str] = ()) -> Source:
        """Files that come with each sample: names below the sources' prefix, or a column of the sample sheet, or both.

        Names have `{sample}` and parameters of the step that reads them; of an empty one there is no file. `columns`:
        several columns that name a file each. Raises InvalidPipeline for none of these, or both of the last.
        """
        if not files and not column and not columns:
            raise InvalidPipeline("self.source() needs a file name with {sample}, a column, or both.")
        is_text = isinstance(column, str) and not isinstance(columns, str)
        if not is_text or (column and columns) or len(set(columns)) < len(columns):
            raise InvalidPipeline(
                'self.source() takes column="bam", or a tuple of different names: columns=("fastq_1", "fastq_2").'
            )
        return Source(files=files, column=column, columns=tuple(columns), lanes=self.lanes)

    def tasks(self) -> dict[str, Task]:
        """The tasks by name, wired, in the order in which `workflow()` makes them."""
        self._made = {}
        _called(self.workflow, f"{type(self).__name__}.workflow()", "def workflow(self)")
        if not self._made:
            raise InvalidPipeline(f"{type(self).__name__}.workflow() makes no task.")
        return self._made

    @classmethod
    def main(cls) -> None:
        """Hands the pipeline to the command line and ends the process with its exit code."""
        # The one import that goes upwards: the last line of a pipeline's file hands its class to the command line.
        from batch_pipeline.cli import run_command_line

        sys.exit(run_command_line(cls))


def tasks_of(workflow: type[WorkflowTask]) -> dict[str, Task]:
    """The tasks of a pipeline, wired. Raises InvalidPipeline, and what the pipeline's own code raises."""
    for name in (name for owner in workflow.__mro__ for name, item in vars(owner).items() if isinstance(item, _STEPS)):
        # The image of a step has this module, and no need to read sources.
        from batch_pipeline.pipeline.code import place_of

        raise InvalidPipeline(
            f"{place_of(workflow, name)}: {workflow.__name__}.{name} declares something of a step, which no step would"
            " see. Declare it in the steps that use it."
        )
    made: WorkflowTask = _called(workflow, f"{workflow.__name__}()", "def __init__(self)")
    return made.tasks()


def _called(function: Callable[[], T], name: str, signature: str) -> T:
    """The value of a function of the pipeline. Raises InvalidPipeline for one that takes or is something else."""
    try:
        return function()
    except TypeError as error:
        # One that did not come from within is about the call itself.
        if error.__traceback__ is not None and error.__traceback__.tb_next is None:
            raise InvalidPipeline(f"{name} cannot be called ({error}). Write it as {signature}.") from error
        raise


@dataclass(frozen=True, kw_only=True, eq=False)
class Node:
    """One step of a graph with its parameters' values."""

    name: str
    step: Step
    #: Input port -> what feeds it; an optional port that nothing feeds is not in it.
    inputs: Mapping[str, Connection]
    #: Container image, of the settings, of the class, or pinned by `deploy images`; empty: none.
    image: str = ""
    #: What the settings say instead of the class: `settings.STEP_KEYS`.
    settings: Mapping[str, Any] = field(default_factory=dict)
    #: Condition; empty: every sample has the step. And file and line where it is written.
    when: str = ""
    when_place: str = ""

    @property
    def cpus(self) -> float:
        """vCPUs of one child."""
        cpus: float = self.settings.get("cpus", self.step.cpus)
        return cpus

    @property
    def memory_mb(self) -> int:
        """MiB of memory of one child, as its job definition says: any, where each cell is given its own."""
        memory_mb = self.settings.get("memory_mb", self.step.memory_mb)
        return memory_mb if isinstance(memory_mb, int) else ANY_MEMORY_MB

    @property
    def timeout_seconds(self) -> int | None:
        """Seconds that an attempt may run, as its job definition says; None: no limit, or each cell has its own."""
        seconds = self.settings.get("timeout_seconds", self.step.timeout_seconds)
        return seconds if isinstance(seconds, int) and seconds else None

    @property
    def by_evidence(self) -> tuple[str, ...]:
        """Its resources that are no number: they are computed for each cell (`cell_facts`)."""
        values = {name: getattr(self.step, name) for name in ("memory_mb", "timeout_seconds")}
        return tuple(
            name
            for name, value in values.items()
            if name not in self.settings and value is not None and not isinstance(value, int)
        )

    @property
    def max_parallel(self) -> int | None:
        """Cells that may run side by side; None: any number."""
        return self.settings.get("max_parallel", self.step.max_parallel) or None

    @property
    def scope(self) -> Scope:
        """What its cells are. To a plan, references are samples like any other."""
        return Scope.SAMPLE if self.step.scope is Scope.REFERENCE else self.step.scope

    @cached_property
    def upstream(self) -> tuple[str, ...]:
        """Names of the steps that it reads from, each once; a cell may read some of them alone (`choosing`)."""
        return tuple(dict.fromkeys(port.task.name for port in self._options(Port)))

    @cached_property
    def sources(self) -> Mapping[str, Source]:
        """Its input ports that a source feeds, if only where no step does."""
        ports = {name: options_of(connection)[-1] for name, connection in self.inputs.items()}
        return {name: source for name, source in ports.items() if isinstance(source, Source)}

    @cached_property
    def choosing(self) -> Mapping[str, tuple[Port | Source, ...]]:
        """Its input ports whose files depend on the conditions of other steps -> what may feed them."""
        options = {name: options_of(connection) for name, connection in self.inputs.items()}
        return {
            name: of for name, of in options.items() if len(of) > 1 or (isinstance(of[0], Port) and of[0].task.when)
        }

    @cached_property
    def always_read(self) -> tuple[str, ...]:
        """Those of the steps above that it reads whatever conditions say."""
        alone = (options_of(item)[0] for port, item in self.inputs.items() if port not in self.choosing)
        return tuple(dict.fromkeys(one.task.name for one in alone if isinstance(one, Port)))

    @cached_property
    def optional(self) -> frozenset[str]:
        """Its input ports that need no files."""
        return frozenset(name for name, port in self.step.declared(Input).items() if port.optional)

    def _options(self, kind: type[T]) -> Iterator[T]:
        for connection in self.inputs.values():
            yield from (option for option in options_of(connection) if isinstance(option, kind))

    @cached_property
    def outputs(self) -> Mapping[str, Output]:
        """Its output ports."""
        return self.step.declared(Output)

    @cached_property
    def references(self) -> Mapping[str, Reference]:
        """Its reference ports."""
        return self.step.declared(Reference)


@dataclass(frozen=True, kw_only=True)
class Graph:
    """A pipeline as values, a DAG: its steps, each after those that it reads from."""

    name: str
    #: Folder of the pipeline's file; the bundle's names are relative to it.
    root: Path
    nodes: tuple[Node, ...]
    #: Name of the pipeline's file, without its suffix.
    module: str = ""

    @property
    def file(self) -> Path:
        """The pipeline's file."""
        return self.root / f"{self.module}.py"

    @property
    def identity(self) -> str:
        """What the pipeline is known by in a store that it may share with others: file and class."""
        return f"{self.module}.{self.name}" if self.module else self.name

    def __iter__(self) -> Iterator[Node]:
        return iter(self.nodes)

    def __getitem__(self, name: str) -> Node:
        for node in self.nodes:
            if node.name == name:
                return node
        known = ", ".join(node.name for node in self.nodes)
        raise InvalidPipeline(f"There is no step {name!r} in this pipeline; it has: {known}.")

    @property
    def names(self) -> tuple[str, ...]:
        """The steps' names, each after those that it reads from."""
        return tuple(node.name for node in self.nodes)

    def names_by_step(
        self, samples: Collection[str], others: Mapping[str, Collection[str]]
    ) -> dict[str, Collection[str]]:
        """Step -> the names of its cells: samples, COHORT of a gather; `others` has those of groups and parts."""
        return {
            node.name: (COHORT,) if node.scope is Scope.COHORT else others.get(node.name, samples)
            for node in self.nodes
        }

    def downstream(self, name: str) -> frozenset[str]:
        """The step and everything that depends on it."""
        reached = {self[name].name}
        for node in self.nodes:
            if reached.intersection(node.upstream):
                reached.add(node.name)
        return frozenset(reached)

    @classmethod
    def of(
        cls,
        workflow: type[WorkflowTask],
        params: Mapping[str, Any] | None = None,
        place_of: Callable[[str], str] | None = None,
    ) -> Graph:
        """The graph of a pipeline with parameter values by option name (`bootstraps`, or `kallisto.bootstraps`).

        `place_of` gives the place where such a value is written.

        Raises InvalidPipeline for a cycle or an unconnected input, InvalidConfig for an unknown or wrong parameter.
        """
        tasks = tasks_of(workflow)
        values = dict(params or {})
        nodes = {name: _node(task, values, place_of) for name, task in tasks.items()}
        _refuse_unknown(values, tasks, place_of)
        # The image of a step has this module, and no need of that one.
        from batch_pipeline.pipeline.choices import refuse_foreign, require_alternatives

        for task in tasks.values():
            refuse_foreign(nodes[task.name], tasks)
            require_alternatives(task)
        file = file_of(workflow)
        graph = cls(name=workflow.__name__, root=file.parent, nodes=_in_topological_order(nodes), module=file.stem)
        if any(node.step.needs_rows for node in graph):
            from batch_pipeline.pipeline.sheet_rows import require_rows

            require_rows(graph)
        return graph

    @classmethod
    def of_reference(cls, workflow: type[WorkflowTask], params: Mapping[str, Any] | None = None) -> Graph:
        """The one-step graph of the pipeline's reference builder, its inputs fed by sources of the ports' names."""
        builder = workflow.reference_builder
        if builder is None:
            raise InvalidPipeline(f"{workflow.__name__} names no reference_builder; its references are plain files.")
        if builder.when:
            raise InvalidPipeline(
                f"{builder.__name__} has a condition, and a reference is built for no sample. Remove it."
            )
        task = Task(REFERENCE_TASK, builder)
        for port in builder.declared(Input):
            task.connected[port] = Source(files=(), column=port)
        node = _node(task, dict(params or {}))
        return cls(name=workflow.__name__, root=file_of(workflow).parent, nodes=(node,))


def file_of(workflow: type[WorkflowTask]) -> Path:
    """The file that defines the pipeline."""
    file = getattr(sys.modules[workflow.__module__], "__file__", None)
    if file is None:
        raise InvalidPipeline(f"{workflow.__name__} is not defined in a file; a pipeline lives in one, like main.py.")
    return Path(file).resolve()


def _node(task: Task, values_by_option: Mapping[str, Any], place_of: Callable[[str], str] | None = None) -> Node:
    from batch_pipeline.pipeline.choices import place_of_condition, with_parameters

    values = {**task.params}
    for name, parameter in task.step_class.declared(Parameter).items():
        option = f"{task.name}.{name}" if f"{task.name}.{name}" in values_by_option else name
        if option in values_by_option:
            values[name] = _parsed(parameter, values_by_option[option], option, place_of)
    ports = task.step_class.declared(Input)
    open_ports = [name for name, port in ports.items() if name not in task.connected and not port.optional]
    if open_ports:
        raise InvalidPipeline(
            f"{task.place}: input in_{open_ports[0]} of task {task.name} is not connected. Write"
            f" {task.name}.in_{open_ports[0]} = …, another task's out_… port or self.source(…)."
        )
    step = task.step_class(**values)
    _refuse_unknown_fields(task)
    # In the order of declaration: how `workflow()` happens to be written is no part of a fingerprint.
    inputs = {port: with_parameters(task.connected[port], step.params) for port in ports if port in task.connected}
    return Node(
        name=task.name,
        step=step,
        inputs=inputs,
        image=task.step_class.image,
        when=task.when,
        when_place=place_of_condition(task),
    )


def _refuse_unknown_fields(task: Task) -> None:
    """Raises InvalidPipeline for a name in braces in a source that stands for nothing."""
    known = ("sample", *task.step_class.declared(Parameter))
    for port, connection in task.connected.items():
        source = options_of(connection)[-1]
        names = " ".join(source.files) if isinstance(source, Source) else ""
        if unknown := [name for name in re.findall(r"\{([A-Za-z_]\w*)\}", names) if name not in known]:
            raise InvalidPipeline(
                f"{task.places[port]}: {{{unknown[0]}}} in the source of {task.name}.in_{port} stands for nothing;"
                f" there are {', '.join(f'{{{name}}}' for name in known)}."
            )


def _parsed(parameter: Parameter, value: Any, option: str, place_of: Callable[[str], str] | None) -> Any:
    try:
        return parameter.parse(value)
    except InvalidConfig as error:
        place = f"Setting params.{option} ({place_of(option)}): " if place_of else ""
        raise InvalidConfig(f"{place}{error.message}") from error


def _refuse_unknown(
    values: Mapping[str, Any], tasks: Mapping[str, Task], place_of: Callable[[str], str] | None
) -> None:
    known = {name for task in tasks.values() for name in task.step_class.declared(Parameter)}
    known |= {f"{task.name}.{name}" for task in tasks.values() for name in task.step_class.declared(Parameter)}
    unknown = sorted(set(values) - known)
    if unknown:
        place = f" ({place_of(unknown[0])})" if place_of else ""
        raise InvalidConfig(f"No step has a parameter {unknown[0]!r}{place}; there are: {', '.join(sorted(known))}.")


def _in_topological_order(nodes: Mapping[str, Node]) -> tuple[Node, ...]:
    """Nodes in topological order, otherwise as written. Raises InvalidPipeline with the cycle."""
    ordered: dict[str, Node] = {}

    def visit(name: str, path: tuple[str, ...]) -> None:
        if name in ordered:
            return
        if name in path:
            circle = " -> ".join((*path[path.index(name) :], name))
            raise InvalidPipeline(f"The steps form a cycle: {circle}. A step cannot wait for itself; cut one port.")
        for upstream in nodes[name].upstream:
            visit(upstream, (*path, name))
        ordered[name] = nodes[name]

    for name in nodes:
        visit(name, ())
    return tuple(ordered.values())
