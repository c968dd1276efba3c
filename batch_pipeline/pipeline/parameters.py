"""What a task is made with: a class of a step, and values of parameters, `self.new_task("call", Call, quality=30)`.

The values are the defaults of that task. A setting goes before them: its option, variable or line in a settings file.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from batch_pipeline.pipeline.step import Input, Output, Parameter, Reference, SheetColumn, Step
from batch_pipeline.wire.errors import InvalidConfig, InvalidPipeline

_RESOURCES: Final = ("cpus", "memory_mb", "timeout_seconds", "max_parallel", "image")
_DECLARATIONS: Final = (Parameter, SheetColumn, Input, Output, Reference)
#: Names that mean something in every step, so that no port, parameter or column may have them. Not `summary`:
#: pipelines have outputs of that name, and no step that runs needs the method.
_RESERVED: Final = sorted({name for name in vars(Step) if not name.startswith("_")} - {"summary"} | {"params"})


def require_step_class(name: str, candidate: Any, place: str) -> None:
    """Raises InvalidPipeline for what is no subclass of Step, and for a declaration that hides an attribute of Step.

    So does any other value in the place of a method.
    """
    if not (isinstance(candidate, type) and issubclass(candidate, Step)):
        raise InvalidPipeline(
            f"{place}: task {name!r} needs a subclass of Step, not {candidate!r}. Write class NAME(Step), and name the"
            f" class itself: self.new_task({name!r}, NAME)."
        )
    for reserved in _RESERVED:
        value, is_method = getattr(candidate, reserved, None), callable(getattr(Step, reserved, None))
        if isinstance(value, _DECLARATIONS) or (is_method and not callable(value)):
            # The image of a step has this module, and no need to read sources.
            from batch_pipeline.pipeline.code import place_of

            raise InvalidPipeline(
                f"{place_of(candidate, reserved)}: {candidate.__name__} declares the name {reserved!r}, which has"
                " another meaning in every Step. Rename it."
            )


def task_defaults(task: str, step_class: type[Step], params: Mapping[str, Any], place: str) -> dict[str, Any]:
    """The values in their parameters' types. Raises InvalidPipeline, with the place, for an unknown or wrong one."""
    declared = step_class.declared(Parameter)
    defaults = {}
    for name, value in params.items():
        if name not in declared:
            raise InvalidPipeline(f"{place}: {_unknown(task, step_class, name)}")
        try:
            defaults[name] = declared[name].parse(value)
        except InvalidConfig as error:
            raise InvalidPipeline(f"{place}: task {task}: {error.message}") from error
    return defaults


def _unknown(task: str, step_class: type[Step], name: str) -> str:
    """Why a task takes no value of this name, and where the value belongs instead."""
    if name in _RESOURCES:
        return (
            f"task {task} takes no {name}, which is a resource. Set it in {step_class.__name__},"
            f" or in the settings below [steps.{task}]."
        )
    if name.removeprefix("in_") in step_class.declared(Input):
        return f"task {task} takes no port. Connect it after the task is made: {task}.in_{name.removeprefix('in_')} = …"
    for kind in (Output, Reference):
        if name in step_class.declared(kind):
            return f"task {task} takes no {kind.__name__}; {step_class.__name__}.{name} is declared in the class."
    known = ", ".join(step_class.declared(Parameter)) or "none"
    return f"{step_class.__name__} has no parameter {name!r}; it has: {known}."
