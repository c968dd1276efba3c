"""`runs`: the history of a store."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from batch_pipeline.cli.call import Call, command
from batch_pipeline.cli.options import CommandOption, common_options, json_option
from batch_pipeline.cli.output import data, print_json, print_table
from batch_pipeline.wire.contract import CommandExit

if TYPE_CHECKING:
    from batch_pipeline.pipeline.workflow import WorkflowTask
    from batch_pipeline.run.record import RunRecord


def runs(call: Call) -> int:
    """Lists the runs of the store, newest first: who began what, when, and how it ended."""
    from batch_pipeline.run.record import runs as recorded

    found = recorded(call.store, most=call.options["number"])
    if call.json:
        from batch_pipeline.report.records import plain

        print_json([plain(run) | {"ended": run.ended, "ok": run.ok} for run in found])
        return CommandExit.DONE
    if not found:
        data(f"No run is recorded in {call.store.url}.")
        return CommandExit.DONE
    print_table(
        ["run", "pipeline", "started (UTC)", "by", "samples", "jobs", "state", "command"], [_row(run) for run in found]
    )
    return CommandExit.DONE


def _row(run: RunRecord) -> list[object]:
    began = run.started_at[:19].replace("T", " ")
    by = f"{run.user}@{run.host}"
    told = run.description or " ".join(run.argv)
    return [run.run_id, run.pipeline, began, by, run.samples, run.jobs, state_of(run), told]


def state_of(run: RunRecord) -> str:
    """A run's state in words."""
    if not run.ended:
        return "live"
    return f"{run.done:,} done" if run.ok else f"{run.done:,} done, {run.failed:,} failed"


def make(workflow: type[WorkflowTask] | None, argv: Sequence[str]) -> click.Command:
    """The command."""
    number = CommandOption("--number", "How many at most.", type=click.IntRange(min=1), default=20, show_default=True)
    return command("runs", workflow, argv, runs, [*common_options(), json_option(), number])
