"""`store`: what is kept in the store beside what it vouches for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from batch_pipeline.cli import complete
from batch_pipeline.cli.call import CommandCall, command
from batch_pipeline.cli.options import CommandOption, common_options, json_option, parameter_options, pipeline_options
from batch_pipeline.cli.output import data, print_json
from batch_pipeline.pipeline.workflow import tasks_of
from batch_pipeline.report.tables import counted
from batch_pipeline.wire import layout
from batch_pipeline.wire.contract import CommandExit
from batch_pipeline.wire.errors import InvalidUse

if TYPE_CHECKING:
    from batch_pipeline.pipeline.workflow import WorkflowTask


def store(call: CommandCall) -> int:
    """Writes the cell table of RUN (by default the newest) once more, from its records and receipts: `store index`.

    A run writes its own when it ends; that of an older version has none, and that of a run of many cells lacks times
    and sizes. RUN is an id, its beginning or end, or `last`.

    `store tidy` removes the temporary outputs of the samples of the list that every cell which reads them is done with,
    as a run does at its end. Give it the parameters of the run.
    """
    action, *names = call.options["what"]
    if action == "tidy" and not names:
        return _tidy(call)
    if action != "index":
        given = " ".join(call.options["what"])
        raise InvalidUse(f"There is no `store {given}`. There are: store index [RUN], store tidy.")
    return _index(call, names)


def _tidy(call: CommandCall) -> int:
    from batch_pipeline.report.records import plain
    from batch_pipeline.report.tables import removed_line
    from batch_pipeline.run.backend import LazyBackend
    from batch_pipeline.run.lock import DriverLock
    from batch_pipeline.run.temporary import has_temporary, remove_used

    request = call.request()
    if not has_temporary(request.graph):
        raise InvalidUse(f"{request.graph.name} has no temporary output. Declare one: Output(FILE, temporary=True).")
    backend = LazyBackend()
    try:
        removed = remove_used(request, backend, DriverLock(request.store))
    finally:
        backend.close()
    if call.json:
        print_json({"format": 1, **plain(removed)})
    else:
        data(removed_line(removed) or "Nothing to remove.")
    return CommandExit.DONE


def _index(call: CommandCall, names: Sequence[str]) -> int:
    from batch_pipeline.records.registry import LAST, resolve
    from batch_pipeline.run.closing import index_run

    if len(names) > 1:
        raise InvalidUse(f"`store index` takes 1 run, not {len(names)}. Give it once for each.")
    run = resolve(call.store, names[0] if names else LAST)
    table = index_run(call.store, run)
    cells = sum(len(step.samples) for step in table.steps.values())
    url = call.store.url_of(layout.run_cells(run.run_id))
    if call.json:
        print_json({"run_id": run.run_id, "cells": cells, "url": url})
    else:
        data(f"The cell table of run {run.run_id} has {counted(cells, 'cell')}: {url}")
    return CommandExit.DONE


def make(workflow: type[WorkflowTask] | None, argv: Sequence[str]) -> click.Command:
    """The command."""
    what = click.Argument(
        ["what"], nargs=-1, required=True, metavar="index [RUN]|tidy", shell_complete=complete.runs(workflow)
    )
    options = [what, *common_options(), *pipeline_options(), json_option()]
    options.append(CommandOption("--accept-code-changes", "Take what other code made for done.", is_flag=True))
    if workflow is not None:
        options += parameter_options(tasks_of(workflow), options)
    return command("store", workflow, argv, store, options)
