"""Lints a pipeline: what is legal and may be a mistake, a warning each, with file and line.

Output ports that no step reads, parameters that their step does not use, resources that are read of the class, images
that are not pinned by digest. Nothing here stops a run; `doctor` prints it. Sources are read, not run.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from batch_pipeline.pipeline.code import class_node, module_file, own_classes, place_of
from batch_pipeline.pipeline.command import kind_of
from batch_pipeline.pipeline.step import Parameter, Step
from batch_pipeline.pipeline.wiring import options_of
from batch_pipeline.pipeline.workflow import Graph, Node, Port
from batch_pipeline.wire.command import Kind, fields_of
from batch_pipeline.wire.errors import InvalidPipeline

#: Resources of a step that its job knows as they are.
_OF_JOB: Final = ("cpus", "memory_mb")


def lint(graph: Graph, *, place_of_setting: Callable[[str], str]) -> list[str]:
    """The warnings of a pipeline, a sentence each.

    Parameters
    ----------
    place_of_setting
        Where a setting, by its dotted name, was written.
    """
    classes = dict.fromkeys(type(node.step) for node in graph)
    return [
        *unread_outputs(graph),
        *(warning for step in classes for warning in unused_parameters(step)),
        *(warning for step in classes for warning in resources_of_class(step)),
        *unpinned_images(graph, place_of_setting),
    ]


def unread_outputs(graph: Graph) -> Iterator[str]:
    """Output ports that no step reads, of steps that have others which are read; a port with a help is a result."""
    read_ports = (port for node in graph for connection in node.inputs.values() for port in options_of(connection))
    read = {(port.task.name, port.name) for port in read_ports if isinstance(port, Port)}
    for node in graph:
        step = type(node.step)
        others = [f"out_{name}" for task, name in sorted(read) if task == node.name]
        unread = [name for name, port in node.outputs.items() if f"out_{name}" not in others and not port.help]
        if others and unread:
            ports = ", ".join(f"out_{name}" for name in unread)
            yield (
                f"{place_of(step, unread[0])}: no step reads {ports} of task {node.name}, but {', '.join(others)}."
                " Connect what was forgotten; a result is known by its help: Output(FILE, help=…)."
            )


def unused_parameters(step: type[Step]) -> Iterator[str]:
    """Parameters that neither the methods of a step, nor its command, nor its script use."""
    declared = step.declared(Parameter)
    used = _used_in_methods(step) | _used_in_command(step) if declared else set()
    texts = [file.read_text(encoding="utf-8", errors="replace") for file in _files_beside(step)] if declared else []
    for name in declared:
        variable = f"PARAM_{name.upper()}"
        if name not in used and "params" not in used and not any(variable in text for text in texts):
            yield (
                f"{place_of(step, name)}: {step.__name__} does not use its parameter {name}, so another value makes the"
                f" same result again. Use it ({_use_of(step, name)}), or remove it."
            )


def resources_of_class(step: type[Step]) -> Iterator[str]:
    """Resources that the methods of a step read of its class, where a job may have others."""
    for owner in own_classes(step):
        for node in ast.walk(class_node(owner) or ast.Module(body=[], type_ignores=[])):
            if isinstance(node, ast.Attribute) and node.attr in _OF_JOB and ast.unparse(node.value) == "self":
                place = f"{Path(inspect.getfile(owner)).resolve()}, line {node.lineno}"
                yield (
                    f"{place}: self.{node.attr} is what the class of {step.__name__} says, and settings may give a job"
                    f" another value. Use job.{node.attr}."
                )


def unpinned_images(graph: Graph, place_of_setting: Callable[[str], str]) -> Iterator[str]:
    """Images that are named by a tag, which may become another image without a change of the fingerprint."""
    steps_by_image: dict[tuple[str, str], list[str]] = {}
    for node in graph:
        if node.image and "@sha256:" not in node.image:
            steps_by_image.setdefault((_place_of_image(node, place_of_setting), node.image), []).append(node.name)
    for (place, image), steps in steps_by_image.items():
        yield (
            f"{place}: the image {image} of {', '.join(steps)} is not pinned by its digest, so another push changes"
            " what runs and no fingerprint. Write NAME@sha256:…"
        )


def _place_of_image(node: Node, place_of_setting: Callable[[str], str]) -> str:
    if "image" in node.settings:
        return place_of_setting(f"steps.{node.name}.image")
    return place_of(type(node.step), "image") if type(node.step).image else place_of_setting("pool.image")


def _use_of(step: type[Step], name: str) -> str:
    if step.script:
        return f"$PARAM_{name.upper()}"
    return f"{{{name}}}" if step.command else f"self.{name}"


def _used_in_command(step: type[Step]) -> set[str]:
    try:
        fields = fields_of(step.command)
        return {field.name for field in fields if kind_of(step, field) is Kind.PARAMETER}
    except InvalidPipeline:
        # The review of the code tells it, as an error.
        return set(step.declared(Parameter))


def _used_in_methods(step: type[Step]) -> set[str]:
    """Attributes that the methods of a step and its bases use; all parameters where `self` is handed on as a whole."""
    names: set[str] = set()
    for owner in own_classes(step):
        definition = class_node(owner)
        if definition is None:
            return set(step.declared(Parameter))
        attributes = [node for node in ast.walk(definition) if isinstance(node, ast.Attribute)]
        names.update(node.attr for node in attributes)
        of_attributes = {id(node.value) for node in attributes}
        mentions = (node for node in ast.walk(definition) if isinstance(node, ast.Name) and node.id == "self")
        if any(id(node) not in of_attributes for node in mentions):
            return set(step.declared(Parameter))
    return names


def _files_beside(step: type[Step]) -> Iterator[Path]:
    """The script of a step, and its further files, which the script may call."""
    folder = module_file(step, Path("/")).parent
    names = (*((step.script,) if step.script else ()), *(step.files if step.script else ()))
    yield from (folder / name for name in names if (folder / name).is_file())
