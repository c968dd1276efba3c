"""`logs`: what a sample's step said, what a whole cohort's logs say of something, or what a run's drivers decided."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import click

from batch_pipeline.cli import complete
from batch_pipeline.cli.call import CommandCall, command, known, names_in
from batch_pipeline.cli.options import CommandOption, SettingOption, common_options, json_option
from batch_pipeline.cli.output import data, print_json, say
from batch_pipeline.wire.contract import CommandExit
from batch_pipeline.wire.errors import InvalidUse

if TYPE_CHECKING:
    from batch_pipeline.pipeline.workflow import WorkflowTask
    from batch_pipeline.run.logs import LogLine

#: What chooses logs of cells, and means nothing for a driver's.
_OF_CELLS: Final = ("sample", "step", "step_", "samples", "failed", "attempt", "all_attempts", "run", "follow")


def logs(call: CommandCall) -> int:
    """Prints the log of SAMPLE at STEP, or at all steps in order: of the last attempt of the last run.

    Without SAMPLE it searches the logs of the cohort, a line `SAMPLE: LINE` each: logs --step kallisto --grep
    pseudoaligned. --samples and --failed choose among them.

    With --driver it prints what the drivers of a run decided: planned, submitted, adopted, throttled (rate limit),
    retried, recovered, judged. A driver that was killed has left its lines too.
    """
    pattern = _pattern(call.options["grep"])
    if call.options["driver"]:
        return _driver(call, call.options["driver"], pattern)
    whole = [name for name in ("step_", "samples", "failed") if call.options[name]]
    if call.options["attempt"] and call.options["all_attempts"]:
        raise InvalidUse("--attempt and --all-attempts exclude each other. Give one of them.")
    if call.options["sample"] is None:
        if not whole and pattern is None:
            raise InvalidUse("Name a SAMPLE, or search the cohort's logs with --grep PATTERN, --step STEP or --failed.")
        return _cohort(call, pattern)
    if whole:
        flags = ", ".join(f"--{name.rstrip('_')}" for name in whole)
        raise InvalidUse(f"{flags} goes without SAMPLE: it chooses among the logs of all samples. Leave one away.")
    return _one(call, pattern)


def _one(call: CommandCall, pattern: re.Pattern[str] | None) -> int:
    from batch_pipeline.run.logs import logs as read

    step = call.options["step"]
    if step and call.has_pipeline:
        known(step, call.graph.names, "step")
    lines = read(
        call.store,
        call.settings,
        call.options["sample"],
        step=step,
        attempt=call.options["attempt"],
        all_attempts=call.options["all_attempts"],
        run_id=call.options["run"],
        follow=call.options["follow"],
    )
    heading = ""
    for line in lines:
        if pattern is not None and not pattern.search(line.text):
            continue
        if call.json:
            print_json(_record(line))
            continue
        if _heading(line) != heading and (not step or call.options["all_attempts"]):
            heading = _heading(line)
            say(heading)
        data(line.text)
    return CommandExit.DONE


def _cohort(call: CommandCall, pattern: re.Pattern[str] | None) -> int:
    from batch_pipeline.report.tables import counted, spoken
    from batch_pipeline.run.search import logs_of, search

    if call.options["follow"] or call.options["attempt"]:
        raise InvalidUse("--follow and --attempt are about one sample. Name a SAMPLE.")
    samples = frozenset(name for text in call.options["samples"] for name in names_in(text)) or None
    steps = call.options["step_"]
    all_attempts = call.options["all_attempts"]
    wanted = logs_of(
        call.store,
        steps=steps,
        samples=samples,
        run_id=call.options["run"],
        failed=call.options["failed"],
        all_attempts=all_attempts,
    )
    several = len({log.step for log in wanted}) > 1
    with_lines: set[tuple[str, str, int]] = set()
    for line in search(call.store, call.settings, wanted, pattern):
        with_lines.add((line.step, line.sample, line.attempt))
        if call.json:
            print_json(_record(line))
            continue
        place = spoken(line.sample)
        place += f" {line.step}" if several else ""
        place += f" {line.attempt}" if all_attempts else ""
        data(f"{place}: {line.text}")
    what = f"have a line with {call.options['grep']!r}" if pattern is not None else "have a line"
    say(f"{len(with_lines):,} of {counted(len(wanted), 'log')} {what}.")
    return CommandExit.DONE


def _driver(call: CommandCall, run: str, pattern: re.Pattern[str] | None) -> int:
    from batch_pipeline.records.driver_log import newest_logged, read_driver_log
    from batch_pipeline.records.registry import LAST, resolve
    from batch_pipeline.run.driver_jobs import is_driver, log_of, runs_of

    if any(call.options[name] for name in _OF_CELLS):
        raise InvalidUse("--driver goes with --grep and --json alone. Leave the other options away.")
    run_id = newest_logged(call.store) if run == LAST else resolve(call.store, run).run_id
    ids = [run_id] if run_id else []
    if run_id and is_driver(call.store, run_id):
        ids += runs_of(call.store, run_id)
    lines = [line for each in ids for line in read_driver_log(call.store, each)]
    if not lines and run_id:
        lines = [line for text in log_of(call.store, run_id).values() for line in text.splitlines()]
    if not lines:
        of = f" of run {run_id}" if run_id else ""
        raise InvalidUse(f"No driver{of} has left a log in {call.store.url}. `runs` lists what is recorded.")
    for line in lines:
        if pattern is not None and not pattern.search(line):
            continue
        if call.json:
            print_json(_driver_record(line))
        else:
            data(line)
    return CommandExit.DONE


def _driver_record(raw_line: str) -> dict[str, str]:
    at, level, run_id, logger, text = [*raw_line.split(None, 4), "", "", "", ""][:5]
    return {"at": at, "level": level, "run_id": run_id, "logger": logger.rstrip(":"), "text": text}


def _heading(line: LogLine) -> str:
    return f"== {line.step}, attempt {line.attempt}{', running' if line.running else ''}"


def _record(line: LogLine) -> dict[str, object]:
    return {
        "step": line.step,
        "sample": line.sample,
        "attempt": line.attempt,
        "running": line.running,
        "text": line.text,
    }


def _pattern(text: str | None) -> re.Pattern[str] | None:
    try:
        return re.compile(text) if text else None
    except re.error as error:
        raise InvalidUse(f"--grep {text!r} is not a regular expression: {error}. Put a backslash before it.") from error


def make(workflow: type[WorkflowTask] | None, argv: Sequence[str]) -> click.Command:
    """The command."""
    options: list[click.Parameter] = [
        click.Argument(["sample"], required=False, shell_complete=complete.samples(workflow)),
        click.Argument(["step"], required=False, shell_complete=complete.steps(workflow)),
        *common_options(),
        SettingOption("--sample-list-file", "samples.file", "List for completing names.", metavar="FILE", hidden=True),
        CommandOption("--attempt", "This attempt instead of the last.", type=click.IntRange(min=1)),
        CommandOption("--all-attempts", "Every attempt, oldest first.", is_flag=True),
        CommandOption("--run", "This run instead of the last.", metavar="RUN", shell_complete=complete.runs(workflow)),
        CommandOption(
            "--driver",
            "What the drivers of this run decided; `last`: of the newest run that has their log.",
            metavar="RUN",
            shell_complete=complete.runs(workflow),
        ),
        CommandOption("--follow", "Go on until the step has ended.", is_flag=True),
        CommandOption("--grep", "Only lines that match this regular expression.", metavar="PATTERN"),
        CommandOption(
            "--step",
            "Without SAMPLE: the logs of this step; repeatable.",
            name="step_",
            multiple=True,
            metavar="STEP",
            shell_complete=complete.steps(workflow),
        ),
        CommandOption(
            "--samples",
            "Without SAMPLE: of these samples, names with commas between, or @FILE; repeatable.",
            multiple=True,
            metavar="NAMES",
            shell_complete=complete.samples(workflow),
        ),
        CommandOption("--failed", "Without SAMPLE: of cells whose last attempt failed.", is_flag=True),
        json_option(),
    ]
    return command("logs", workflow, argv, logs, options)
