"""Which pipelines make the cells of which steps of a store: two that call a step alike would overwrite each other.

A pipeline is known by its file's name and its class, and leaves one marker for each step of which it has sent jobs. It
is looked at when something is about to be sent, by one LIST, and only at the steps of these jobs.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from batch_pipeline.pipeline.workflow import Graph
from batch_pipeline.wire import layout
from batch_pipeline.wire.errors import InvalidPipeline
from batch_pipeline.wire.store import Store


def sharing_problem(store: Store, graph: Graph, steps: Collection[str]) -> str:
    """A sentence about steps that other pipelines of this store have too, if it was never said that this is meant."""
    return _problem(graph, _owners(store, graph, steps))


def shared_steps(store: Store, graph: Graph) -> set[str]:
    """The steps that other pipelines of this store have too, and may read otherwise. One LIST."""
    owners = _owners(store, graph, graph.names)
    return {step for step, names in owners.items() if any(name != graph.identity for name in names)}


def own(store: Store, graph: Graph, steps: Collection[str], *, shared: bool) -> None:
    """Notes that this pipeline makes the cells of these steps.

    Raises InvalidPipeline, with nothing written, if others make them too and it is not said that this is meant.
    """
    owners = _owners(store, graph, steps)
    if not shared and (problem := _problem(graph, owners)):
        raise InvalidPipeline(problem)
    for step, names in owners.items():
        if graph.identity not in names:
            store.put_json(layout.owner(step, graph.identity), {"format": 1})


def _owners(store: Store, graph: Graph, steps: Collection[str]) -> dict[str, list[str]]:
    """Step -> the pipelines that have it, in the order of the graph."""
    owners: dict[str, list[str]] = {step: [] for step in graph.names if step in steps}
    for step, owner in filter(None, map(layout.owner_of, store.keys(layout.OWNERS))):
        if step in owners:
            owners[step].append(owner)
    return owners


def _problem(graph: Graph, owners: Mapping[str, Collection[str]]) -> str:
    others: dict[str, list[str]] = {}
    for step, names in owners.items():
        if names and graph.identity not in names:
            others.setdefault(", ".join(sorted(names)), []).append(step)
    return " ".join(_sentence(graph.identity, who, which) for who, which in others.items())


def _sentence(identity: str, others: str, steps: Collection[str]) -> str:
    names = f"step{'s' * (len(steps) > 1)} {', '.join(map(repr, steps))}"
    return (
        f"{identity} has the {names}, and so has {others} in this store: each would overwrite what the other made."
        " Rename one of them, or give each pipeline a store of its own; if it is meant, say so once with --share-steps."
    )
