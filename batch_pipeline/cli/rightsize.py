"""`rightsize`: memory and vCPUs that the steps need, from what their cells took."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from batch_pipeline.cli import complete
from batch_pipeline.cli.call import CommandCall, command, known
from batch_pipeline.cli.options import CommandOption, common_options, json_option
from batch_pipeline.cli.output import data, print_json, print_table, say
from batch_pipeline.wire.contract import CommandExit
from batch_pipeline.wire.errors import InvalidUse

if TYPE_CHECKING:
    from batch_pipeline.pipeline.workflow import WorkflowTask
    from batch_pipeline.provenance.rightsize import ResourceProposal

#: Shares that `--share` may be; `provenance.rightsize` tells the same.
SHARES = ("50", "90", "95", "99", "100")


def rightsize(call: CommandCall) -> int:
    """Proposes memory and vCPUs of each STEP (default: of all) from the receipts of its cells, and changes nothing.

    The table says how many MiB hold 50, 90, 95, 99 and 100 % of the cells, with room. Cells that ran out of memory and
    were never done count as needing twice what they had.
    """
    from batch_pipeline.provenance import rightsize as sizes
    from batch_pipeline.report.tables import counted

    steps = call.options["steps"]
    proposals = sizes.rightsize(
        call.store,
        steps=[known(step, call.graph.names, "step") for step in steps] if call.has_pipeline else steps,
        now=_defined(call),
        most=None if call.options["all"] else sizes.MOST,
        share=int(call.options["share"]),
        headroom=call.options["headroom"],
        progress=_progress,
    )
    if not proposals:
        which = f" of {', '.join(steps)}" if steps else ""
        raise InvalidUse(f"No receipt{which} in {call.store.url} tells what a cell took. Run some samples first.")
    if call.json:
        from batch_pipeline.report.records import plain

        print_json({"format": 1, "share": int(call.options["share"]), "steps": [plain(one) for one in proposals]})
        return CommandExit.DONE
    _show(proposals)
    read, cells = sum(one.cells for one in proposals), sum(one.all_cells for one in proposals)
    if read < cells:
        say(f"From {read:,} of {counted(cells, 'cell')}; --all reads all.")
    return CommandExit.DONE


def _defined(call: CommandCall) -> dict[str, tuple[int, int]] | None:
    """Step -> vCPUs and MiB as the pipeline says now; without a pipeline the receipts tell."""
    if not call.has_pipeline:
        return None
    from batch_pipeline.backends.definitions import configured_definitions, resources

    definitions = configured_definitions(call.graph, call.settings)
    return {step: resources(definition) for step, definition in definitions.items()}


def _show(proposals: Sequence[ResourceProposal]) -> None:
    from batch_pipeline.report.sizes import rightsize_lines, rightsize_rows

    columns = ["step", "cells", "MiB now", "fit now", *(f"{share} %" for share in SHARES), "propose MiB"]
    print_table([*columns, "vCPUs now", "busy", "propose vCPUs"], rightsize_rows(proposals))
    data("")
    for line in rightsize_lines(proposals):
        data(line)


def _progress(done: int, total: int) -> None:
    """A line that is written over, on a terminal only."""
    if sys.stderr.isatty() and (done == total or done % 50 == 0):
        click.echo(f"\r{done:,} of {total:,} receipts", err=True, nl=done == total)


def make(workflow: type[WorkflowTask] | None, argv: Sequence[str]) -> click.Command:
    """The command."""
    options: list[click.Parameter] = [
        click.Argument(["steps"], nargs=-1, metavar="[STEP]...", shell_complete=complete.steps(workflow)),
        *common_options(),
        CommandOption("--all", "Read every receipt, not a thousand a step.", is_flag=True),
        CommandOption(
            "--share",
            "Percent of the cells that the proposal must hold.",
            type=click.Choice(SHARES),
            default="99",
            show_default=True,
        ),
        CommandOption(
            "--headroom",
            "Room above the peaks, as a share of them.",
            type=click.FloatRange(min=0, max=10),
            default=0.2,
            show_default=True,
        ),
        json_option(),
    ]
    return command("rightsize", workflow, argv, rightsize, options)
