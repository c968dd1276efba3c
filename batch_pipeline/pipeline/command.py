"""The command of a step, run by bash: what the names in its template stand for, at plan time and in the container.

Imported on both sides of the wire, so this module needs the standard library and `wire` alone.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from functools import partial
from typing import Any

from batch_pipeline.pipeline.step import Input, Output, Parameter, Reference, Scope, SheetColumn, Step
from batch_pipeline.wire.command import BASH, Field, Kind, fields_as_code, fields_of, script_of, with_values
from batch_pipeline.wire.errors import InvalidPipeline, StepFailed
from batch_pipeline.wire.job import Job, text_of

#: File of the working directory with the script; its name is hidden, so that no output port means it.
SCRIPT_NAME = ".command.sh"
#: What names the cell in the command of a step.
_WORDS = {Scope.COHORT: ("samples",), Scope.GROUP: ("group", "samples"), Scope.PART: ("sample", "part")}
#: Values of one name that the log repeats.
_LOGGED_VALUES = 100


def names_in_command(step_class: type[Step]) -> dict[Kind, tuple[str, ...]]:
    """The names that the command of a step may use."""
    words = _WORDS.get(step_class.scope, ("sample",))
    return {
        Kind.INPUT: tuple(step_class.declared(Input)),
        Kind.REFERENCE: tuple(step_class.declared(Reference)),
        Kind.OUTPUT: tuple(step_class.declared(Output)),
        Kind.PARAMETER: tuple(step_class.declared(Parameter)),
        Kind.COLUMN: tuple(step_class.declared(SheetColumn)),
        Kind.JOB: (*words, "cpus", "memory_mb", "attempt"),
    }


def kind_of(step_class: type[Step], field: Field) -> Kind:
    """What a name in the command stands for. Raises InvalidPipeline with the names that there are."""
    names = names_in_command(step_class)
    for kind, known in names.items():
        if field.name in known and field.kind in ("", kind.value):
            return kind
    every = ", ".join(f"{{{name}}}" for known in names.values() for name in known)
    raise InvalidPipeline(
        f"{{{field.text}}} in the command of {step_class.__name__} stands for nothing; there are {every}. A brace"
        " itself is written twice: {{ and }}."
    )


def require_command(step_class: type[Step]) -> None:
    """Raises InvalidPipeline for a name in the command that stands for nothing, or for text where only numbers may."""
    for field in fields_of(step_class.command):
        kind = kind_of(step_class, field)
        if kind is Kind.OUTPUT and (output := step_class.declared(Output)[field.name]).many:
            raise InvalidPipeline(
                f"{{{field.text}}} in the command of {step_class.__name__} stands for files that are not there before"
                f" it runs, those like {output.files[0]!r}. Write where the tool is to put them."
            )
    for field in fields_as_code(step_class.command):
        if not _is_number(step_class, field):
            raise InvalidPipeline(
                f"{{{field.text}}} in the command of {step_class.__name__} is a text where bash would run what stands"
                " in it: in arithmetic, a subscript, -gt and the like in [[ ]], let or eval. Declare it as an int, or"
                f" assign it to a variable (value={{{field.text}}}), see that it holds a number, and use that."
            )


def _is_number(step_class: type[Step], field: Field) -> bool:
    kind = kind_of(step_class, field)
    if kind in (Kind.PARAMETER, Kind.COLUMN):
        return (step_class.declared(Parameter) | step_class.declared(SheetColumn))[field.name].kind is not str
    return kind is Kind.JOB and field.name not in ("sample", "samples", "group", "part")


def run_command(step: Step, job: Job) -> None:
    """Runs the command in the working directory. Raises StepFailed when it ends with another exit code than 0."""
    values_of = partial(_values, step, job)
    readable = with_values(step.command, lambda field: _readable(values_of(field)))
    print(f"+ {readable}", flush=True)
    (job.work / SCRIPT_NAME).write_text(script_of(step.command, values_of), encoding="utf-8")
    job.run(*BASH, SCRIPT_NAME, name=f"The command of {job.step}")


def _readable(values: Sequence[str]) -> str:
    """Values for the log: of thousands of files the first ones tell enough."""
    more = f" … ({len(values):,} in all)" if len(values) > _LOGGED_VALUES else ""
    return " ".join(map(shlex.quote, values[:_LOGGED_VALUES])) + more


def _values(step: Step, job: Job, field: Field) -> Sequence[str]:
    """The values that a name stands for in a job, as words of the command."""
    values = [text_of(value) for value in _all_values(step, job, kind_of(type(step), field), field.name)]
    if field.index is None:
        return values
    if field.index >= len(values):
        raise StepFailed(f"The command of {job.step} uses {{{field.text}}}, but {field.name} has {len(values)} files.")
    return [values[field.index]]


def _all_values(step: Step, job: Job, kind: Kind, name: str) -> Sequence[Any]:
    if kind is Kind.INPUT and name in job.gathered_folders:
        return list(job.gathered_directories(name).values())
    if kind is Kind.INPUT and name in job.input_folders:
        return (job.input_directory(name),)
    if kind is Kind.INPUT and name in job.gathered_files:
        return [file for files in job.gathered(name).values() for file in files]
    if kind is Kind.INPUT:
        return job.inputs(name)
    if kind is Kind.REFERENCE:
        return job.references(name)
    if kind is Kind.OUTPUT:
        # Relative, so that the log can be read.
        return [file.relative_to(job.work) for file in job.outputs(name)]
    if kind is Kind.PARAMETER:
        return (step.params[name],)
    if kind is Kind.COLUMN and step.scope in (Scope.COHORT, Scope.GROUP):
        return [values[name] for values in job.gathered_columns.values()]
    if kind is Kind.COLUMN:
        return (job.columns[name],)
    if name == "samples":
        return list(dict.fromkeys(sample for gathered in job.gathered_files.values() for sample in gathered))
    return (getattr(job, name),)
