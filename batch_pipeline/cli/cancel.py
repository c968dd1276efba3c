"""`cancel`: ends live jobs."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from batch_pipeline.cli import complete
from batch_pipeline.cli.call import CommandCall, command, known, names_in
from batch_pipeline.cli.options import CommandOption, SettingOption, common_options, json_option, yes_option
from batch_pipeline.cli.output import data, print_json
from batch_pipeline.report.tables import counted, first_few
from batch_pipeline.wire import layout
from batch_pipeline.wire.contract import CommandExit
from batch_pipeline.wire.errors import BackendFailed, InvalidUse

if TYPE_CHECKING:
    from batch_pipeline.pipeline.workflow import WorkflowTask
    from batch_pipeline.run.cancel import Cancelled
    from batch_pipeline.run.driver_jobs import LiveDriver


def cancel(call: CommandCall) -> int:
    """Cancels the live jobs of RUN, or of all live runs; with --samples only their cells, and no sibling's.

    A driver that runs as a job (`run --driver batch`) is ended first, with the runs that it began, so that it sends
    nothing again. What is done stays; a later run does the rest. The backend ends things in its own time: see `status`.
    """
    from batch_pipeline.run.cancel import cancel as cancel_runs
    from batch_pipeline.run.cancel import close_unbegun
    from batch_pipeline.run.driver_jobs import is_driver

    run, steps = call.options["run"], frozenset(call.options["step"]) or None
    samples = frozenset(name for text in call.options["samples"] for name in names_in(text)) or None
    live = _live(call)
    drivers = [] if steps or samples else _drivers_of(call, run)
    if run and run not in live and not drivers:
        recorded = sorted(call.store.folders(layout.RUNS), reverse=True)
        if known(run, [*live, *recorded], "run") and is_driver(call.store, run):
            return _cancel_driver(call, run)
        return _nothing(call, f"run {run} has ended")
    chosen = _chosen(call, run, drivers)
    if not chosen and not drivers:
        return _nothing(call, "no run is live")
    _ask(call, [*(driver.run_id for driver in drivers), *chosen], steps, samples)
    _end_drivers(call, drivers)
    # What a driver sent before it ended is cancelled too.
    chosen = _chosen(call, run, drivers)
    cancelled: list[Cancelled] = []
    begun = chosen
    while begun:
        cancelled += cancel_runs(call.store, call.settings, begun, steps=steps, samples=samples)
        # A driver may have sent a further wave meanwhile.
        begun = [run_id for run_id in _chosen(call, run, drivers) if run_id not in chosen]
        chosen += begun
    unheard = (
        [] if steps or samples else [run_id for run_id in chosen if run_id not in {one.run_id for one in cancelled}]
    )
    closed = close_unbegun(call.store, unheard)
    return _report(call, cancelled, closed, [driver.run_id for driver in drivers])


def _report(call: CommandCall, cancelled: Sequence[Cancelled], closed: Sequence[str], ids: Sequence[str]) -> int:
    """Tells what was cancelled; `ids` are those of drivers."""
    if call.json:
        from batch_pipeline.report.records import plain

        print_json({"cancelled": [plain(one) for one in cancelled], "closed": list(closed), "drivers": list(ids)})
        return CommandExit.DONE
    for run_id in ids:
        data(f"Cancelled the driver {run_id}.")
    if cancelled or not (closed or ids):
        data(_counted(cancelled))
    for run_id in closed:
        data(f"Closed run {run_id}: it had sent no job.")
    for one in cancelled:
        data(f"  {one}")
    return CommandExit.DONE


def _live(call: CommandCall) -> list[str]:
    return sorted(entry.key.removeprefix(layout.LIVE).removesuffix(".json") for entry in call.store.list(layout.LIVE))


def _drivers_of(call: CommandCall, run: str | None) -> list[LiveDriver]:
    """The live drivers of a store that are cancelled with a run, which one of them may be; all when none is named."""
    from batch_pipeline.records.record import read_record
    from batch_pipeline.run.driver_jobs import live_drivers
    from batch_pipeline.wire.store import NotInStore

    drivers = live_drivers(call.store, call.settings)
    if not drivers or not run:
        return drivers
    try:
        meant = {run, read_record(call.store, run).parent_run}
    except NotInStore:
        return []
    return [driver for driver in drivers if driver.run_id in meant]


def _chosen(call: CommandCall, run: str | None, drivers: Sequence[LiveDriver]) -> list[str]:
    """The live runs that are cancelled: the one that is named and those that its driver began; all for none."""
    from batch_pipeline.run.driver_jobs import runs_of

    if not run:
        return _live(call)
    meant = {run, *(run_id for driver in drivers for run_id in runs_of(call.store, driver.run_id))}
    return [run_id for run_id in _live(call) if run_id in meant]


def _end_drivers(call: CommandCall, drivers: Sequence[LiveDriver]) -> None:
    """Ends drivers and waits for that. Raises InvalidUse where this machine cannot, BackendFailed."""
    from batch_pipeline.records.people import user_name
    from batch_pipeline.run.driver_jobs import end_driver

    for driver in drivers:
        if driver.unreachable:
            raise InvalidUse(driver.unreachable)
        if not end_driver(call.store, driver, user_name()):
            raise BackendFailed(
                f"The driver {driver.run_id} (job {driver.native_id}) has not ended yet and may still submit. Give the"
                " same command again; its jobs go on until then."
            )


def _nothing(call: CommandCall, why: str) -> int:
    print_json({"cancelled": []}) if call.json else data(f"Nothing to cancel: {why}.")
    return CommandExit.DONE


def _cancel_driver(call: CommandCall, run_id: str) -> int:
    """Ends a driver that `submit` began."""
    from batch_pipeline import backends
    from batch_pipeline.cli.wings import identity_of
    from batch_pipeline.records.record import read_record
    from batch_pipeline.run.driver_jobs import cancel_driver
    from batch_pipeline.run.place import reaching

    record = read_record(call.store, run_id)
    if record.ended:
        return _nothing(call, f"run {run_id} has ended")
    backend = backends.create(reaching(call.settings, record))
    try:
        left = cancel_driver(call.store, backend, run_id, identity_of(backend).name)
    finally:
        backend.close()
    if call.json:
        print_json({"cancelled": [{"run_id": run_id}], "go_on": left})
        return CommandExit.DONE
    data(f"Cancelled the driver of run {run_id}.")
    for store in left:
        data(f"Runs that it began may go on: cancel --store {store}")
    return CommandExit.DONE


def _counted(cancelled: Sequence[Cancelled]) -> str:
    if not cancelled:
        return (
            "Nothing to cancel now: none of these cells is live. What a driver sends of them later is cancelled then."
        )
    return f"Cancelled {counted(sum(one.cells for one in cancelled), 'cell')} of {counted(len(cancelled), 'job')}."


def _ask(
    call: CommandCall, chosen: Sequence[str], steps: frozenset[str] | None, samples: frozenset[str] | None
) -> None:
    if call.options["yes"]:
        return
    what = f"the live jobs of {', '.join(chosen)}"
    if steps:
        what += f", step {', '.join(sorted(steps))}"
    if samples:
        what += f", {counted(len(samples), 'sample')} ({first_few(sorted(samples))})"
    if not sys.stdin.isatty():
        raise InvalidUse(f"This would cancel {what}, and there is no terminal to ask on. Give --yes.")
    click.confirm(f"Cancel {what}?", abort=True, err=True)


def make(workflow: type[WorkflowTask] | None, argv: Sequence[str]) -> click.Command:
    """The command."""
    run = click.Argument(["run"], required=False, shell_complete=complete.runs(workflow))
    options: list[click.Parameter] = [
        run,
        *common_options(),
        SettingOption("--sample-list-file", "samples.file", "List for completing names.", metavar="FILE", hidden=True),
        json_option(),
        CommandOption(
            "--step", "Only jobs of this step; repeatable.", multiple=True, shell_complete=complete.steps(workflow)
        ),
        CommandOption(
            "--samples",
            "Only cells of these samples: names with commas between, or @FILE; repeatable.",
            multiple=True,
            metavar="NAMES",
            shell_complete=complete.samples(workflow),
        ),
        yes_option(),
    ]
    return command("cancel", workflow, argv, cancel, options)
