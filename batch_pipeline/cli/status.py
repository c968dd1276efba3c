"""`status`: how far every step is, why cells failed, what changed for one sample."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import click

from batch_pipeline.cli import complete
from batch_pipeline.cli.call import CommandCall, command, known
from batch_pipeline.cli.options import (
    CommandOption,
    SettingOption,
    common_options,
    json_option,
    parameter_options,
    pipeline_options,
)
from batch_pipeline.cli.output import data, print_json, print_table, say
from batch_pipeline.pipeline.step import Scope
from batch_pipeline.pipeline.workflow import tasks_of
from batch_pipeline.wire import layout
from batch_pipeline.wire.contract import CommandExit, EndReason
from batch_pipeline.wire.errors import InvalidUse

if TYPE_CHECKING:
    from batch_pipeline.pipeline.workflow import WorkflowTask
    from batch_pipeline.records.record import RunRecord
    from batch_pipeline.run.status import Explanation, Status


def status(call: CommandCall) -> int:
    """Shows how far every step is, and groups what failed by its cause. Ends with 1 when a cell failed.

    Without a pipeline's file, or of the RUN that is named, it is told as the run recorded it.
    """
    sample = call.options.get("explain")
    if sample and (call.options["watch"] or call.options["run"]):
        raise InvalidUse("--explain goes with neither --watch nor --run. Give one of them.")
    if call.options["watch"]:
        return follow(call)
    if not call.has_pipeline or call.options["run"]:
        from batch_pipeline.run.recorded import recorded_status

        return _show(call, recorded_status(call.store, call.settings, call.options["run"] or ""))
    from batch_pipeline.run import status as reader

    request = call.request()
    if sample:
        gathers = [node.name for node in request.graph if node.scope is Scope.COHORT]
        whole = sample in (*gathers, layout.COHORT) and sample not in request.samples.by_name
        if not whole and not any(node.scope in (Scope.PART, Scope.GROUP) for node in request.graph):
            known(sample, [*request.samples.names, *gathers], "sample")
        explanations = reader.explain(request, layout.COHORT if whole else sample)
        return _explain(
            call, [part for part in explanations if part.step == sample or sample not in gathers or not whole]
        )
    return _show(call, reader.status(request))


def follow(call: CommandCall) -> int:
    """Follows the live jobs to their end, with the pipeline or as their run recorded it; submits nothing.

    A driver that runs as a job is followed in their stead, as further jobs may come.
    """
    with call.events:
        return _follow(call)


def _follow(call: CommandCall) -> int:
    from batch_pipeline.cli.run import finish, watched
    from batch_pipeline.run.driver_jobs import live_drivers

    if not call.options["run"] and (drivers := live_drivers(call.store, call.settings)):
        from batch_pipeline.cli.driver_job import follow_driver

        return follow_driver(call, drivers[-1])
    if not call.has_pipeline or call.options["run"]:
        from batch_pipeline.run.recorded import watch_recorded

        run = call.options["run"] or ""
        outcome = watched(call, lambda listener: watch_recorded(call.store, call.settings, listener, run))
    else:
        from batch_pipeline.run.status import watch

        request = call.request()
        outcome = watched(call, lambda listener: watch(request, listener))
    if not isinstance(outcome, int) and not outcome.run_ids and not call.json:
        call.events.finished(outcome)
        data("Nothing to watch: no run is live.")
        return CommandExit.DONE
    return finish(call, outcome)


def _show(call: CommandCall, current: Status) -> int:
    from batch_pipeline.run.driver_jobs import live_drivers

    runs = _runs(call, current)
    drivers = live_drivers(call.store, call.settings)
    if call.json:
        from batch_pipeline.records.spent import wall_seconds

        spending = [{"run_id": run.run_id, "wall_seconds": wall_seconds([run]), "spent": run.spent} for run in runs]
        print_json(_record(current) | {"runs": spending, "drivers": [driver.run_id for driver in drivers]})
    else:
        _tell(current, has_pipeline=call.has_pipeline)
        _tell_spending(runs)
    for driver in drivers:
        say(driver.unreachable or f"Driver {driver.run_id} runs as job {driver.native_id}; `watch` follows it.")
    # What somebody cancelled did not fail.
    failed = any(cell.reason is not EndReason.CANCELLED for cell in current.failed)
    return CommandExit.FAILED if failed else CommandExit.DONE


def _runs(call: CommandCall, current: Status) -> list[RunRecord]:
    """The live runs with what they spent so far, by some of their cells; else the newest of the pipeline."""
    from batch_pipeline.records.registry import Query, find_runs
    from batch_pipeline.records.spent import read_records, spent_record
    from batch_pipeline.run.live import submissions

    if current.live_runs:
        live = read_records(call.store, current.live_runs)
        jobs = {run.run_id: submissions(call.store, run.run_id) for run in live}
        spent = {run_id: spent_record(call.store, run_id, sent, call.settings) or {} for run_id, sent in jobs.items()}
        return [replace(run, spent=spent[run.run_id]) for run in live]
    if call.options["run"]:
        return read_records(call.store, [call.options["run"]])
    name = call.settings.pipeline.name or (call.workflow.__name__ if call.has_pipeline else "")
    return find_runs(call.store, Query(pipeline=name), most=1)


def _tell_spending(runs: Sequence[RunRecord]) -> None:
    from batch_pipeline.records.history import seconds_since
    from batch_pipeline.records.spent import Spent
    from batch_pipeline.report.estimates import lasting
    from batch_pipeline.report.spending import run_spent_words, spent_notes, took_words

    for run in runs:
        took = took_words([run])
        began = f"took {took}" if took else f"began {lasting(seconds_since(run.started_at))} ago"
        words = run_spent_words(run)
        say(f"Run {run.run_id} {began}{f', spent {words}' if words else ''}.")
        for note in spent_notes(Spent.from_json(run.spent)):
            say(note)


def _tell(current: Status, *, has_pipeline: bool) -> None:
    from batch_pipeline.cli.failures import print_failures
    from batch_pipeline.report.tables import blocked_lines, status_rows, with_cells

    rows = status_rows(current.plan, with_cells(current.progress), current.failed)
    moving = ("running", "waiting") if current.live_runs else ()
    ended = ("failed", "cancelled") if any(row.cancelled for row in rows) else ("failed",)
    final = ("excluded",) if any(row.excluded for row in rows) else ()
    shown = ["cells", "done", *moving, *ended, "to run", "cannot run", *final]
    values = [[getattr(row, name.replace(" ", "_")) for name in shown] for row in rows]
    print_table(["step", *shown, ""], [[row.step, *cells, row.words] for row, cells in zip(rows, values, strict=True)])
    if current.live_runs:
        say(f"Live: {', '.join(current.live_runs)}.")
    for note in current.notes:
        say(note)
    print_failures(current.failed, has_pipeline=has_pipeline)
    for line in blocked_lines(current.plan.blocked):
        data(f"Cannot run: {line}")


def _record(current: Status) -> dict[str, object]:
    from batch_pipeline.report.records import FORMAT, failed_record, progress_record
    from batch_pipeline.report.tables import status_rows

    rows = status_rows(current.plan, current.progress, current.failed)
    return {
        "format": FORMAT,
        "steps": [
            step | {"cancelled": row.cancelled, "to_run": row.to_run, "cannot_run": row.cannot_run}
            for step, row in zip(progress_record(current.progress), rows, strict=True)
        ],
        "failed": failed_record(current.failed),
        "live_runs": list(current.live_runs),
        "notes": list(current.notes),
        "blocked": [
            {"step": step, "sample": name, "message": why} for (step, name), why in current.plan.blocked.items()
        ],
    }


def _explain(call: CommandCall, explanations: Sequence[Explanation]) -> int:
    if call.json:
        from batch_pipeline.report.records import plain

        print_json(plain(explanations))
        return CommandExit.DONE
    for part in explanations:
        word = _word(part.state)
        of = f" of {part.cell}" if part.cell not in (call.options["explain"], layout.COHORT) else ""
        data(f"{part.step}{of}: {part.sentence if part.sentence.startswith(word) else f'{word}: {part.sentence}'}")
    return CommandExit.DONE


def _word(state: object) -> str:
    return str(getattr(state, "value", state))


def watch_options(workflow: type[WorkflowTask] | None) -> list[click.Parameter]:
    """What `status` and `watch` take alike."""
    options = [*common_options(), *(pipeline_options() if workflow is not None else ()), json_option()]
    options += [
        CommandOption("--run", "As this run recorded it.", metavar="RUN", shell_complete=complete.runs(workflow)),
        SettingOption(
            "--on-interrupt",
            "watch.on_interrupt",
            "What Ctrl-C does to the jobs while watching.",
            type=click.Choice(["ask", "leave", "cancel"]),
        ),
    ]
    if workflow is not None:
        options += parameter_options(tasks_of(workflow), options)
    return options


def make(workflow: type[WorkflowTask] | None, argv: Sequence[str]) -> click.Command:
    """The command."""
    options = watch_options(workflow)
    options.append(CommandOption("--watch", "Follow the live jobs until they end: the same as `watch`.", is_flag=True))
    if workflow is not None:
        explain = CommandOption(
            "--explain",
            "Say for each step of one sample, or for a gather, what state it is in and what changed.",
            metavar="SAMPLE|GATHER",
            shell_complete=complete.samples(workflow),
        )
        options.append(explain)
    return command("status", workflow, argv, status, options)
