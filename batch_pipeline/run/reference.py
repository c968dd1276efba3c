"""Builds a reference with the pipeline's own builder step: one plain job through the same planner and container.

The builder's inputs are files that the user names. Where the store is a folder they are read in place, else they are
put beside the reference first. A name that is there and was built from other files is refused unless forced: cells
that run at the moment would meet files of both.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from batch_pipeline.config import Settings, place_of_setting
from batch_pipeline.pipeline.images import with_pinned_images
from batch_pipeline.pipeline.plan import Selection, Why
from batch_pipeline.pipeline.resources import with_step_settings
from batch_pipeline.pipeline.samples import SampleList
from batch_pipeline.pipeline.step import Input
from batch_pipeline.pipeline.workflow import Graph, WorkflowTask
from batch_pipeline.records.events import Listener, Outcome
from batch_pipeline.records.request import Request
from batch_pipeline.run import driver
from batch_pipeline.wire import layout
from batch_pipeline.wire.errors import InvalidUse, RunConflict
from batch_pipeline.wire.store import Store


def build_reference(
    workflow: type[WorkflowTask],
    settings: Settings,
    store: Store,
    name: str,
    files: Mapping[str, str],
    listener: Listener,
    *,
    params: Mapping[str, Any] | None = None,
    force: bool = False,
    argv: tuple[str, ...] = (),
) -> Outcome:
    """Builds the reference `name` from port -> file; nothing is done when it is there, built from the same.

    Raises InvalidUse for a port without a file or a file that is not there, RunConflict for a name that is taken.
    """
    graph = Graph.of_reference(workflow, params)
    of_builder = {step: settings.steps[step] for step in graph.names if step in settings.steps}
    graph = with_step_settings(graph, of_builder, place_of=partial(place_of_setting, settings))
    if settings.uses_containers:
        graph = with_pinned_images(graph)
    request = Request(
        workflow=workflow,
        graph=graph,
        samples=SampleList.of([name], origin="the reference's name"),
        store=store,
        settings=settings,
        selection=Selection(force=force),
        reference=name,
        reference_files=_placed(workflow, store, name, files),
        argv=argv,
        # One cell: whether its files are there costs nothing to see.
        check_results=True,
    )
    if not force:
        _refuse_other(request, name)
    return driver.run(request, listener)


def _placed(workflow: type[WorkflowTask], store: Store, name: str, files: Mapping[str, str]) -> dict[str, str]:
    """Port -> URL or key of its file, where the container can read it."""
    builder = Graph.of_reference(workflow).nodes[0].step
    ports = {name: port for name, port in builder.declared(Input).items() if files.get(name) or not port.optional}
    for port in ports:
        if not files.get(port):
            raise InvalidUse(f"The reference needs a file for {port}: give --{port.replace('_', '-')} FILE.")
    placed = {}
    for port in ports:
        file = files[port]
        if "://" in file:
            placed[port] = file
            continue
        path = Path(file).expanduser().absolute()
        if not path.is_file():
            raise InvalidUse(f"The file for {port}, {file}, is not there. Check the path.")
        if store.folder is not None:
            placed[port] = f"file://{path}"
        else:
            placed[port] = layout.reference(name, f"source/{path.name}")
            store.put_file(placed[port], path)
    return placed


def _refuse_other(request: Request, name: str) -> None:
    plan = driver.inspect(replace(request, selection=Selection())).plan
    if plan.why[plan.graph.names[0]][0] is Why.CHANGED:
        raise RunConflict(
            f"Reference {name!r} is there, built from other files or with other parameters. Choose another name, or"
            " give --force to build it again: every sample done with it will run again."
        )
