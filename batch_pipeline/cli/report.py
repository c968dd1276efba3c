"""`report`: writes a page about a run, one HTML file that needs no network."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from batch_pipeline.cli import complete
from batch_pipeline.cli.call import CommandCall, command, known
from batch_pipeline.cli.options import CommandOption, common_options, json_option
from batch_pipeline.cli.output import data, print_json, say, write_file
from batch_pipeline.wire import layout
from batch_pipeline.wire.contract import CommandExit
from batch_pipeline.wire.errors import InvalidUse

if TYPE_CHECKING:
    from batch_pipeline.backends.prices import Tariff
    from batch_pipeline.pipeline.workflow import WorkflowTask
    from batch_pipeline.records.record import RunRecord
    from batch_pipeline.records.results import Cell
    from batch_pipeline.report.page.source import RunSource

#: Cells that may be chosen for their details.
MOST_CHOSEN = 1_000


def report(call: CommandCall) -> int:
    """Writes a page about RUN (default: the newest): how every cell stands, what failed and why, times and costs.

    It is one HTML file with all of its data: it needs no network, and can be kept or sent. RUN is an id, its beginning
    or end, or `last`. Failed cells have their attempts, log, fingerprint and inputs in it, others when they are chosen
    by --cells.
    """
    from batch_pipeline.records.history import now
    from batch_pipeline.records.registry import LAST, resolve
    from batch_pipeline.report.page.details import cells_to_detail, read_details
    from batch_pipeline.report.page.document import PageOptions, page_of_run
    from batch_pipeline.report.page.source import read_run

    run = resolve(call.store, call.options["run"] or LAST)
    source = read_run(call.store, call.settings, run)
    chosen = _chosen(source, call.options["cells"])
    details = read_details(call.store, run.run_id, cells_to_detail(source.failed), chosen)
    options = PageOptions(program=_program(call), written_at=now(), tariff=_tariff(call, run))
    page = "".join(page_of_run(source, details, options))
    target = Path(call.options["output"])
    write_file(target, page)
    for note in source.notes:
        say(note)
    if call.json:
        print_json({"format": 1, "run_id": run.run_id, "file": str(target), "bytes": target.stat().st_size})
    else:
        data(f"Wrote {target} ({target.stat().st_size:,} bytes) about run {run.run_id}.")
    return CommandExit.DONE


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


def _tariff(call: CommandCall, run: RunRecord) -> Tariff:
    """The prices of where the run was. Raises InvalidConfig for a file of prices that cannot be read."""
    from batch_pipeline.backends.prices import tariff_of

    return tariff_of(replace(call.settings, backend=replace(call.settings.backend, name=run.backend)))


def _program(call: CommandCall) -> list[str]:
    """The words by which this command line was called."""
    script = Path(sys.argv[0])
    return ["python", script.name if script.is_absolute() else str(script)] if call.has_pipeline else ["batch-pipeline"]


def make(workflow: type[WorkflowTask] | None, argv: Sequence[str]) -> click.Command:
    """The command."""
    options = [
        click.Argument(["run"], required=False, shell_complete=complete.runs(workflow)),
        *common_options(),
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
    ]
    return command("report", workflow, argv, report, options)
