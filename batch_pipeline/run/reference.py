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
from batch_pipeline.pipeline.plan import CellState, Plan, Selection, Why
from batch_pipeline.pipeline.resources import with_step_settings
from batch_pipeline.pipeline.samples import SampleList
from batch_pipeline.pipeline.step import Input
from batch_pipeline.pipeline.workflow import Graph, WorkflowTask
from batch_pipeline.records.events import Listener, Outcome
from batch_pipeline.records.request import Request
from batch_pipeline.run import driver
from batch_pipeline.wire import layout
from batch_pipeline.wire.errors import InvalidUse, RunConflict
from batch_pipeline.wire.store import NotInStore, Store


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
    request = _request(workflow, settings, store, name, files, params)
    for port, path in _local_files(files).items():
        if port in request.reference_files and store.folder is None:
            store.put_file(request.reference_files[port], path)
    if not force:
        _refuse_other(request, name)
    return driver.run(replace(request, selection=Selection(force=force), argv=argv), listener)


def missing_reference(
    workflow: type[WorkflowTask],
    settings: Settings,
    store: Store,
    name: str,
    files: Mapping[str, str],
    *,
    params: Mapping[str, Any] | None = None,
) -> str:
    """Why the reference `name` must be built from port -> file; empty: it is there. Uploads and sends nothing.

    A file that is not in a store in S3 yet, or has another size there, is reason enough. Raises as `build_reference`.
    """
    request = _request(workflow, settings, store, name, files, params)
    for port, path in _local_files(files).items():
        if port in request.reference_files and store.folder is None:
            try:
                size_bytes = store.head(request.reference_files[port]).size_bytes
            except NotInStore:
                return f"its file for {port} is not uploaded"
            if size_bytes != path.stat().st_size:
                return f"its file for {port} has changed"
    plan = _refuse_other(request, name)
    ((_, state),) = plan.cells(plan.graph.names[0])
    return "" if state is CellState.DONE else "it is not built"


def builder_graph(workflow: type[WorkflowTask], settings: Settings, params: Mapping[str, Any] | None = None) -> Graph:
    """The graph of the step that builds references, with the settings of that step and its pinned image."""
    graph = Graph.of_reference(workflow, params)
    of_builder = {step: settings.steps[step] for step in graph.names if step in settings.steps}
    graph = with_step_settings(graph, of_builder, place_of=partial(place_of_setting, settings))
    return with_pinned_images(graph) if settings.uses_containers else graph


def _request(
    workflow: type[WorkflowTask],
    settings: Settings,
    store: Store,
    name: str,
    files: Mapping[str, str],
    params: Mapping[str, Any] | None,
) -> Request:
    graph = builder_graph(workflow, settings, params)
    return Request(
        workflow=workflow,
        graph=graph,
        samples=SampleList.of([name], origin="the reference's name"),
        store=store,
        settings=settings,
        reference=name,
        reference_files=_placed(graph, store, name, files),
        # One cell: whether its files are there costs nothing to see.
        check_results=True,
    )


def _placed(graph: Graph, store: Store, name: str, files: Mapping[str, str]) -> dict[str, str]:
    """Port -> URL or key of its file, where the container can read it."""
    declared = graph.nodes[0].step.declared(Input)
    ports = {name: port for name, port in declared.items() if files.get(name) or not port.optional}
    for port in ports:
        if not files.get(port):
            raise InvalidUse(
                f"The reference needs a file for {port}: give --{port.replace('_', '-')} FILE, or with --prepare"
                f" --reference-file {port}=FILE."
            )
    placed = {port: files[port] for port in ports}
    for port, path in _local_files(placed).items():
        if not path.is_file():
            raise InvalidUse(f"The file for {port}, {files[port]}, is not there. Check the path.")
        in_place = store.folder is not None
        placed[port] = f"file://{path}" if in_place else layout.reference(name, f"source/{path.name}")
    return placed


def _local_files(files: Mapping[str, str]) -> dict[str, Path]:
    """Port -> path, of the files that are no URLs."""
    return {port: Path(file).expanduser().absolute() for port, file in files.items() if file and "://" not in file}


def _refuse_other(request: Request, name: str) -> Plan:
    """What there is to do. Raises RunConflict when the reference is there, built from something else."""
    plan = driver.inspect(request).plan
    if plan.why[plan.graph.names[0]][0] is Why.CHANGED:
        raise RunConflict(
            f"Reference {name!r} is there, built from other files or with other parameters, code or image. Choose"
            f" another name, or build it again with `reference {name} --force` and its files: every sample done with"
            " it will run again."
        )
    return plan
