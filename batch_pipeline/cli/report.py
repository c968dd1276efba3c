"""`report`: writes a page about a run or a store, one HTML file that needs no network."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING

import click

from batch_pipeline.cli import complete
from batch_pipeline.cli.call import CommandCall, command, known
from batch_pipeline.cli.options import (
    CommandOption,
    common_options,
    json_option,
    parameter_options,
    pipeline_options,
)
from batch_pipeline.cli.output import data, print_json, say, write_file
from batch_pipeline.pipeline.workflow import tasks_of
from batch_pipeline.wire import layout
from batch_pipeline.wire.contract import CommandExit
from batch_pipeline.wire.errors import InvalidUse

if TYPE_CHECKING:
    from batch_pipeline.pipeline.workflow import WorkflowTask
    from batch_pipeline.records.results import Cell
    from batch_pipeline.report.page.source import RunSource, StoreSource

#: Cells that may be chosen for their details.
MOST_CHOSEN = 1_000
#: Looks in a row at which no job is live, after which --watch ends: between two waves a driver needs a moment.
QUIET_LOOKS = 3
#: --watch pauses at least so many times as long as it took to write the page.
READING_SHARE = 9


def report(call: CommandCall) -> int:
    """Writes a page about RUN (default: the newest): how every cell stands, what failed and why, times and costs.

    It is one HTML file with all of its data: it needs no network, and can be kept or sent. RUN is an id, its beginning
    or end, or `last`. Failed cells have their attempts, log, fingerprint and inputs in it, others when they are chosen
    by --cells. With --all it is about the store as it stands: all cells of the pipeline, and the runs.
    """
    from batch_pipeline.records.registry import LAST, resolve

    if call.options["all"] and (call.options["run"] or call.options["cells"]):
        raise InvalidUse("--all goes with neither RUN nor --cells. Give one of them.")
    run_id = "" if call.options["all"] else resolve(call.store, call.options["run"] or LAST).run_id
    source = _follow(call, run_id) if call.options["watch"] else _read(call, run_id)
    target = Path(call.options["output"])
    if not call.options["watch"]:
        _write(call, source)
    for note in source.notes:
        say(note)
    if call.json:
        about = {"run_id": run_id} if run_id else {"store": call.store.url}
        print_json({"format": 1, **about, "file": str(target), "bytes": target.stat().st_size})
    else:
        subject = f"run {run_id}" if run_id else f"all cells of {call.store.url}"
        data(f"Wrote {target} ({target.stat().st_size:,} bytes) about {subject}.")
    return CommandExit.DONE


def _follow(call: CommandCall, run_id: str) -> RunSource | StoreSource:
    """Writes the page again and again until nothing is live; returns what the last one was made from.

    While jobs are live it takes at most a tenth of the time: what is read for long is read less often. Ctrl-C leaves a
    page that is not loaded again.
    """
    from batch_pipeline.run.interrupts import pause

    say(f"{call.options['output']} is written every {call.options['every']:g} s while the run goes; Ctrl-C ends that.")
    quiet, seconds = 0, float(call.options["every"])
    while True:
        began = monotonic()
        source = _read(call, run_id)
        quiet = 0 if source.is_live else quiet + 1
        if _has_ended(source) or quiet == QUIET_LOOKS:
            _write(call, source)
            return source
        _write(call, source, reload_seconds=math.ceil(seconds))
        took = monotonic() - began
        seconds = max(call.options["every"], 0 if quiet else READING_SHARE * took)
        try:
            pause(seconds)
        except KeyboardInterrupt:
            _write(call, source)
            raise


def _has_ended(source: RunSource | StoreSource) -> bool:
    from batch_pipeline.report.page.source import RunSource

    return isinstance(source, RunSource) and source.run.ended


def _read(call: CommandCall, run_id: str) -> RunSource | StoreSource:
    """Reads what the page is about: a run, or without its id the store."""
    from batch_pipeline.records.record import read_record
    from batch_pipeline.report.page.source import read_run, read_store
    from batch_pipeline.run.recorded import recorded_status
    from batch_pipeline.run.status import status

    if run_id:
        return read_run(call.store, call.settings, read_record(call.store, run_id))
    current = status(call.request()) if call.has_pipeline else recorded_status(call.store, call.settings)
    return read_store(call.store, current, reference=call.settings.pipeline.reference)


def _write(call: CommandCall, source: RunSource | StoreSource, *, reload_seconds: int = 0) -> None:
    """Writes the page. Raises InvalidUse for cells that the run does not have, or a file that cannot be written."""
    from batch_pipeline.backends.prices import tariff_of
    from batch_pipeline.records.history import now
    from batch_pipeline.report.page.details import cells_to_detail, details_by_run, read_details
    from batch_pipeline.report.page.document import PageOptions, page_of_run, page_of_store, tariff_of_run
    from batch_pipeline.report.page.source import RunSource

    options = PageOptions(
        program=_program(call),
        written_at=now(),
        tariff=tariff_of_run(call.settings, source.run) if isinstance(source, RunSource) else tariff_of(call.settings),
        reload_seconds=reload_seconds,
    )
    if isinstance(source, RunSource):
        chosen = _chosen(source, call.options["cells"])
        details = read_details(call.store, source.run.run_id, cells_to_detail(source.failed), chosen)
        page = page_of_run(source, details, options)
    else:
        page = page_of_store(source, details_by_run(call.store, source.failed), options)
    write_file(Path(call.options["output"]), "".join(page))


def _chosen(source: RunSource, texts: Sequence[str]) -> list[Cell]:
    """The cells that `--cells` names. Raises InvalidUse for one that the run does not have."""
    cells: list[Cell] = []
    for text in (part.strip() for words in texts for part in words.split(",")):
        step, slash, sample = text.partition("/")
        known(step, list(source.steps), "step")
        if source.steps[step].is_gather and sample in ("", layout.COHORT):
            sample = layout.COHORT
        elif not slash:
            raise InvalidUse(f"--cells {text!r} names no sample. Write STEP/SAMPLE.")
        else:
            known(sample, source.steps[step].cells.samples, "sample")
        cells.append((step, sample))
    if len(cells) > MOST_CHOSEN:
        raise InvalidUse(f"--cells names {len(cells):,} cells; a page has details of at most {MOST_CHOSEN:,}.")
    return cells


def _program(call: CommandCall) -> list[str]:
    """The words by which this command line was called."""
    script = Path(sys.argv[0])
    return ["python", script.name if script.is_absolute() else str(script)] if call.has_pipeline else ["batch-pipeline"]


def make(workflow: type[WorkflowTask] | None, argv: Sequence[str]) -> click.Command:
    """The command."""
    options: list[click.Parameter] = [
        click.Argument(["run"], required=False, shell_complete=complete.runs(workflow)),
        *common_options(),
        *(pipeline_options() if workflow is not None else ()),
        json_option(),
        CommandOption(
            "--output", "The file to write.", short="-o", default="report.html", show_default=True, metavar="FILE"
        ),
        CommandOption(
            "--cells",
            "Details of these cells too, with commas between; repeatable.",
            multiple=True,
            metavar="STEP/SAMPLE",
        ),
        CommandOption("--all", "About all cells of the store as they stand now, and its runs.", is_flag=True),
        CommandOption("--watch", "Write it again and again until nothing is live.", is_flag=True),
        CommandOption(
            "--every",
            "With --watch: seconds between two pages, or more, so that a tenth of the time goes into them.",
            type=click.FloatRange(min=1),
            default=30.0,
            show_default=True,
            metavar="SECONDS",
        ),
    ]
    if workflow is not None:
        options += parameter_options(tasks_of(workflow), options)
    return command("report", workflow, argv, report, options)
