"""What the settings say of steps (`[steps.call]`) instead of their classes: memory, vCPUs, time limit, width, image.

The image is part of a step's fingerprint; the others are not, since they change no result.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import Any

from batch_pipeline.pipeline.workflow import Graph
from batch_pipeline.wire.errors import InvalidConfig


def with_step_settings(
    graph: Graph,
    settings: Mapping[str, Mapping[str, Any]],
    *,
    place_of: Callable[[str], str],
    also_known: Collection[str] = (),
) -> Graph:
    """The graph with what the settings say of its steps.

    Parameters
    ----------
    place_of
        Where a setting, by its dotted name, was written.
    also_known
        Names of steps that are not in this graph and may have settings.

    Raises InvalidConfig with every step that is not there.
    """
    known = (*graph.names, *(name for name in also_known if name not in graph.names))
    problems = [
        f"{place_of(f'steps.{step}.{next(iter(of_step))}')}: there is no step {step!r} in this pipeline;"
        f" it has: {', '.join(known)}."
        for step, of_step in settings.items()
        if step not in known
    ]
    if problems:
        raise InvalidConfig("\n".join(problems))
    nodes = (
        replace(node, settings=settings[node.name], image=settings[node.name].get("image", node.image))
        if node.name in settings
        else node
        for node in graph
    )
    return replace(graph, nodes=tuple(nodes)) if settings else graph
