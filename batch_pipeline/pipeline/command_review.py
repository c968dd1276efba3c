"""Reviews the command of a step: names that stand for nothing, and positions of files that a port never has."""

from __future__ import annotations

from collections.abc import Iterator

from batch_pipeline.pipeline.code import place_of
from batch_pipeline.pipeline.command import kind_of, require_command
from batch_pipeline.pipeline.rows import reads_many
from batch_pipeline.pipeline.step import Output, Reference, Scope, Step
from batch_pipeline.pipeline.wiring import options_of
from batch_pipeline.pipeline.workflow import Node, Port, Source
from batch_pipeline.wire.command import Field, Kind, fields_of
from batch_pipeline.wire.errors import InvalidPipeline


def wrong_commands(step: type[Step]) -> Iterator[str]:
    """What is wrong with a command whatever feeds its step, a sentence with file and line."""
    if not step.command or not isinstance(step.command, str):
        return
    try:
        require_command(step)
    except InvalidPipeline as error:
        yield f"{place_of(step, 'command')}: {error.message}"


def wrong_positions(node: Node) -> Iterator[str]:
    """The positions in the command of a step, `{reads[1]}`, that are out of range for all samples, a sentence each."""
    step = type(node.step)
    if not isinstance(step.command, str) or next(wrong_commands(step), ""):
        return
    for field in fields_of(step.command):
        most = _most_values(node, field)
        if field.index is not None and most is not None and field.index >= most:
            count = "1 file or value" if most == 1 else f"{most} files"
            yield (
                f"{place_of(step, 'command')}: {{{field.text}}} in the command of {step.__name__} is out of range for"
                f" task {node.name}: {field.name} has {count}, of which {{{field.name}[0]}} is the first. Correct the"
                f" number, or what feeds {field.name}."
            )


def _most_values(node: Node, field: Field) -> int | None:
    """How many values a name stands for at most; None: that is not known before the step runs."""
    kind = kind_of(type(node.step), field)
    if kind is Kind.OUTPUT:
        return _files_of_output(node.outputs[field.name])
    if kind is Kind.REFERENCE:
        return len(node.step.declared(Reference)[field.name].files)
    if kind is Kind.INPUT:
        numbers = [
            _files_of_option(node, option) for option in options_of(node.inputs.get(field.name, Source(files=())))
        ]
        known = [number for number in numbers if number is not None]
        return max(known) if len(known) == len(numbers) else None
    gathers = node.scope in (Scope.COHORT, Scope.GROUP) and (kind is Kind.COLUMN or field.name == "samples")
    return None if gathers else 1


def _files_of_output(output: Output) -> int | None:
    return None if output.many else len(output.files)


def _files_of_option(node: Node, option: Port | Source) -> int | None:
    """The files that a cell gets from what may feed a port; None: those of any number of cells."""
    if isinstance(option, Source):
        gathers = node.scope is Scope.COHORT
    else:
        gathers = reads_many(node.scope, option.task.step_class.scope, equal=False)
    if gathers:
        return None
    if isinstance(option, Port):
        return _files_of_output(option.task.step_class.declared(Output)[option.name])
    return None if option.lanes and option.all_columns else max(len(option.files), len(option.all_columns))
