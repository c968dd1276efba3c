"""`store`: what is kept in the store beside what it vouches for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from batch_pipeline.cli import complete
from batch_pipeline.cli.call import CommandCall, command
from batch_pipeline.cli.options import common_options, json_option
from batch_pipeline.cli.output import data, print_json
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
    """
    from batch_pipeline.records.registry import LAST, resolve
    from batch_pipeline.run.closing import index_run

    action, *names = call.options["what"]
    if action != "index":
        raise InvalidUse(f"There is no `store {action}`. There is: store index [RUN].")
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
        ["what"], nargs=-1, required=True, metavar="index [RUN]", shell_complete=complete.runs(workflow)
    )
    return command("store", workflow, argv, store, [what, *common_options(), json_option()])
