"""`release`: copies a run's results to a dated place that is never changed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from batch_pipeline.cli import complete
from batch_pipeline.cli.call import CommandCall, command
from batch_pipeline.cli.copying import opened, shown
from batch_pipeline.cli.options import CommandOption, common_options, json_option
from batch_pipeline.cli.output import data, print_json, say
from batch_pipeline.report.tables import counted
from batch_pipeline.wire.contract import CommandExit

if TYPE_CHECKING:
    from batch_pipeline.pipeline.workflow import WorkflowTask


def release(call: CommandCall) -> int:
    """Copies the results of RUN, its receipts and records to release/DATE/RUN/, with SHA256SUMS.

    RUN is an id, its beginning or end, or `last`. A release is never changed: one that is there is refused. The same
    command, given again after a kill, goes on with what is missing.
    """
    from batch_pipeline.provenance.release import release as released
    from batch_pipeline.records.registry import resolve

    run = resolve(call.store, call.options["run"])
    to = call.options["to"]
    target = opened(call, to, create=True) if to else call.store
    with shown() as on_copied:
        result = released(call.store, run, target, partial=bool(call.options["partial"]), on_copied=on_copied)
    if call.json:
        from batch_pipeline.report.records import plain

        print_json({"format": 1, "run_id": run.run_id, **plain(result)})
        return CommandExit.DONE
    data(f"Released {counted(result.files, 'file')}, {result.size_bytes:,} bytes: {result.url}")
    if result.removed:
        say(f"Not in it, as removed after use: {counted(result.removed, 'file')}. The records say by which run.")
    if result.missing:
        say(f"Not in it, as not done: {counted(result.missing, 'cell')} of the run.")
    return CommandExit.DONE


def make(workflow: type[WorkflowTask] | None, argv: Sequence[str]) -> click.Command:
    """The command."""
    options = [
        click.Argument(["run"], shell_complete=complete.runs(workflow)),
        *common_options(),
        json_option(),
        CommandOption("--to", "Store below which the release goes; default: the run's own.", metavar="URL"),
        CommandOption("--partial", "Release what is done of a run that is not whole.", is_flag=True),
    ]
    return command("release", workflow, argv, release, options)
