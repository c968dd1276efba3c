"""`logs`: what a sample's step said."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from batch_pipeline.cli import complete
from batch_pipeline.cli.call import Call, command, known
from batch_pipeline.cli.options import CommandOption, SettingOption, common_options, json_option
from batch_pipeline.cli.output import data, print_json, say
from batch_pipeline.wire.contract import CommandExit
from batch_pipeline.wire.errors import InvalidUse

if TYPE_CHECKING:
    from batch_pipeline.pipeline.workflow import WorkflowTask
    from batch_pipeline.run.logs import LogLine


def logs(call: Call) -> int:
    """Prints the log of SAMPLE at STEP, or at all steps in order: of the last attempt of the last run."""
    from batch_pipeline.run.logs import logs as read

    pattern = _pattern(call.options["grep"])
    step = call.options["step"]
    if step and call.has_pipeline:
        known(step, call.graph.names, "step")
    lines = read(
        call.store,
        call.settings,
        call.options["sample"],
        step=step,
        attempt=call.options["attempt"],
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
        if _heading(line) != heading and not step:
            heading = _heading(line)
            say(heading)
        data(line.text)
    return CommandExit.DONE


def _heading(line: LogLine) -> str:
    return f"== {line.step}, {f'attempt {line.attempt}' if line.attempt else 'running'}"


def _record(line: LogLine) -> dict[str, object]:
    return {"step": line.step, "sample": line.sample, "attempt": line.attempt, "text": line.text}


def _pattern(text: str | None) -> re.Pattern[str] | None:
    try:
        return re.compile(text) if text else None
    except re.error as error:
        raise InvalidUse(f"--grep {text!r} is not a regular expression: {error}. Put a backslash before it.") from error


def make(workflow: type[WorkflowTask] | None, argv: Sequence[str]) -> click.Command:
    """The command."""
    options: list[click.Parameter] = [
        click.Argument(["sample"], shell_complete=complete.samples(workflow)),
        click.Argument(["step"], required=False, shell_complete=complete.steps(workflow)),
        *common_options(),
        SettingOption("--sample-list-file", "samples.file", "List for completing names.", metavar="FILE", hidden=True),
        CommandOption("--attempt", "This attempt instead of the last.", type=click.IntRange(min=1)),
        CommandOption("--run", "This run instead of the last.", metavar="RUN", shell_complete=complete.runs(workflow)),
        CommandOption("--follow", "Go on until the step has ended.", is_flag=True),
        CommandOption("--grep", "Only lines that match this regular expression.", metavar="PATTERN"),
        json_option(),
    ]
    return command("logs", workflow, argv, logs, options)
