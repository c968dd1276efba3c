"""`width`: changes how many cells of a step run side by side, while they run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from batch_pipeline.cli import complete
from batch_pipeline.cli.call import CommandCall, command
from batch_pipeline.cli.options import common_options, json_option
from batch_pipeline.cli.output import data, print_json
from batch_pipeline.wire.contract import CommandExit

if TYPE_CHECKING:
    from batch_pipeline.pipeline.workflow import WorkflowTask


def width(call: CommandCall) -> int:
    """Lets at most CELLS cells of STEP run side by side in RUN, or in all live runs that have a width of it.

    A step has one if its class or the settings had `max_parallel` when the run began. More cells start at once; fewer
    let those go on that run. The next run has what the settings say.
    """
    from batch_pipeline.run.widths import change_width

    options = call.options
    changed = change_width(call.store, call.settings, options["step"], options["cells"], options["run"] or "")
    if call.json:
        from batch_pipeline.report.records import plain

        print_json(plain(changed))
        return CommandExit.DONE
    for one in changed:
        data(f"Run {one.run_id}: at most {one.cells:,} cells of {one.step} side by side, before {one.before:,}.")
    return CommandExit.DONE


def make(workflow: type[WorkflowTask] | None, argv: Sequence[str]) -> click.Command:
    """The command."""
    params: list[click.Parameter] = [
        click.Argument(["step"], shell_complete=complete.steps(workflow)),
        click.Argument(["cells"], type=click.IntRange(min=1)),
        click.Argument(["run"], required=False, shell_complete=complete.runs(workflow)),
        *common_options(),
        json_option(),
    ]
    return command("width", workflow, argv, width, params)
