"""`cancel`: ends live jobs."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from batch_pipeline.cli import complete
from batch_pipeline.cli.call import Call, command, known
from batch_pipeline.cli.options import CommandOption, common_options, json_option, yes_option
from batch_pipeline.cli.output import data, print_json
from batch_pipeline.report.tables import counted
from batch_pipeline.wire import layout
from batch_pipeline.wire.contract import CommandExit
from batch_pipeline.wire.errors import InvalidUse

if TYPE_CHECKING:
    from batch_pipeline.pipeline.workflow import WorkflowTask


def cancel(call: Call) -> int:
    """Cancels the live jobs of RUN, or of all live runs. What is done stays; a later run does the rest."""
    from batch_pipeline.run.cancel import cancel as cancel_runs

    live = sorted(entry.key.removeprefix(layout.LIVE).removesuffix(".json") for entry in call.store.list(layout.LIVE))
    run = call.options["run"]
    chosen = [known(run, live, "live run")] if run and live else live
    if not chosen:
        print_json({"cancelled": []}) if call.json else data("Nothing to cancel: no run is live.")
        return CommandExit.DONE
    _ask(call, chosen)
    steps = frozenset(call.options["step"]) or None
    sentences = cancel_runs(call.store, call.settings, chosen, steps=steps)
    if call.json:
        print_json({"cancelled": sentences})
        return CommandExit.DONE
    data(f"Cancelled {counted(len(sentences), 'job')}.")
    for sentence in sentences:
        data(f"  {sentence}")
    return CommandExit.DONE


def _ask(call: Call, chosen: Sequence[str]) -> None:
    if call.options["yes"]:
        return
    if not sys.stdin.isatty():
        raise InvalidUse(f"This would cancel {', '.join(chosen)}, and nobody is there to ask. Give --yes.")
    click.confirm(f"Cancel the live jobs of {', '.join(chosen)}?", abort=True, err=True)


def make(workflow: type[WorkflowTask] | None, argv: Sequence[str]) -> click.Command:
    """The command."""
    step = CommandOption(
        "--step", "Only jobs of this step; repeatable.", multiple=True, shell_complete=complete.steps(workflow)
    )
    run = click.Argument(["run"], required=False, shell_complete=complete.runs(workflow))
    return command("cancel", workflow, argv, cancel, [run, *common_options(), json_option(), step, yes_option()])
