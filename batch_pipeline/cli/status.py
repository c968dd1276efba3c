"""`status`: how far every step is, why cells failed, what changed for one sample."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from batch_pipeline.cli import complete
from batch_pipeline.cli.call import Call, command, known
from batch_pipeline.cli.options import (
    CommandOption,
    SettingOption,
    common_options,
    json_option,
    parameter_options,
    pipeline_options,
    steps_of,
)
from batch_pipeline.cli.output import data, print_json, print_table, say
from batch_pipeline.wire.contract import CommandExit
from batch_pipeline.wire.errors import InvalidUse

if TYPE_CHECKING:
    from batch_pipeline.pipeline.workflow import WorkflowTask
    from batch_pipeline.run.status import Explanation, Status


def status(call: Call) -> int:
    """Shows how far every step is, and groups what failed by its cause. Ends with 1 when a cell failed."""
    from batch_pipeline.run import status as reader

    request = call.request()
    sample = call.options["explain"]
    if sample and call.options["watch"]:
        raise InvalidUse("--explain and --watch exclude each other. Give one of them.")
    if sample:
        known(sample, request.samples.by_name, "sample")
        return _explain(call, list(reader.explain(request, sample)))
    if call.options["watch"]:
        from batch_pipeline.cli.run import finish, watched

        outcome = watched(call, lambda listener: reader.watch(request, listener))
        if not isinstance(outcome, int) and not outcome.run_ids and not call.json:
            data("Nothing to watch: no run is live.")
            return CommandExit.DONE
        return finish(call, outcome)
    found = reader.status(request)
    if call.json:
        print_json(_record(found))
    else:
        _tell(found)
    return CommandExit.FAILED if found.failed else CommandExit.DONE


def _tell(found: Status) -> None:
    from batch_pipeline.cli.failures import print_failures
    from batch_pipeline.report.tables import blocked_lines, status_rows

    rows = status_rows(found.plan, found.progress, found.failed)
    moving = ("running", "waiting") if found.live_runs else ()
    shown = ["cells", "done", *moving, "failed", "to run", "cannot run"]
    values = [[getattr(row, name.replace(" ", "_")) for name in shown] for row in rows]
    print_table(["step", *shown, ""], [[row.step, *cells, row.words] for row, cells in zip(rows, values, strict=True)])
    if found.live_runs:
        say(f"Live: {', '.join(found.live_runs)}.")
    print_failures(found.failed)
    for line in blocked_lines(found.plan.blocked):
        data(f"Cannot run: {line}")


def _record(found: Status) -> dict[str, object]:
    from batch_pipeline.report.records import FORMAT, failed_record, progress_record
    from batch_pipeline.report.tables import status_rows

    rows = status_rows(found.plan, found.progress, found.failed)
    return {
        "format": FORMAT,
        "steps": [
            step | {"to_run": row.to_run, "cannot_run": row.cannot_run}
            for step, row in zip(progress_record(found.progress), rows, strict=True)
        ],
        "failed": failed_record(found.failed),
        "live_runs": list(found.live_runs),
        "blocked": [{"step": step, "sample": name, "message": why} for (step, name), why in found.plan.blocked.items()],
    }


def _explain(call: Call, told: Sequence[Explanation]) -> int:
    if call.json:
        from batch_pipeline.report.records import plain

        print_json(plain(told))
        return CommandExit.DONE
    for part in told:
        word = _word(part.state)
        data(f"{part.step}: {part.sentence if part.sentence.startswith(word) else f'{word}: {part.sentence}'}")
    return CommandExit.DONE


def _word(state: object) -> str:
    return str(getattr(state, "value", state))


def make(workflow: type[WorkflowTask] | None, argv: Sequence[str]) -> click.Command:
    """The command."""
    options = [*common_options(), *pipeline_options(), json_option()]
    options += [
        CommandOption(
            "--explain",
            "Say for each step of one sample what state it is in and what changed.",
            metavar="SAMPLE",
            shell_complete=complete.samples(workflow),
        ),
        CommandOption("--watch", "Follow the live jobs until they end; submits nothing.", is_flag=True),
        SettingOption(
            "--on-interrupt",
            "watch.on_interrupt",
            "What Ctrl-C does to the jobs while watching.",
            type=click.Choice(["ask", "leave", "cancel"]),
        ),
    ]
    if workflow is not None:
        options += parameter_options(steps_of(workflow), options)
    return command("status", workflow, argv, status, options)
