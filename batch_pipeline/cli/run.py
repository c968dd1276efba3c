"""`run`: does what is missing. The default verb."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import click

from batch_pipeline.cli import complete, plan, prepare
from batch_pipeline.cli.call import CommandCall, command
from batch_pipeline.cli.driver_job import driver_option
from batch_pipeline.cli.options import (
    CommandOption,
    SettingOption,
    common_options,
    event_options,
    json_option,
    parameter_options,
    pipeline_options,
    prepare_options,
    run_options,
    selection_options,
    yes_option,
)
from batch_pipeline.cli.output import data, one_reader, print_json, print_store_calls, say
from batch_pipeline.config import COMMAND_LINE
from batch_pipeline.pipeline.workflow import tasks_of
from batch_pipeline.wire.contract import CommandExit
from batch_pipeline.wire.errors import InvalidUse

if TYPE_CHECKING:
    from batch_pipeline.luigi_adapter.preparer import Preparer
    from batch_pipeline.pipeline.workflow import WorkflowTask
    from batch_pipeline.records.events import Listener, Outcome
    from batch_pipeline.records.request import Request

Result = TypeVar("Result")
#: What may become of the jobs of an interrupted command.
_ANSWERS = click.Choice(["leave", "cancel"], case_sensitive=False)


def run(call: CommandCall) -> int:
    """Runs what is missing: plans, submits one array job a step, and watches until all of them have ended.

    Cells that are done stay as they are. The command may be killed at any time and given again: it goes on where it
    was. With --detach it ends as soon as everything is queued. With --driver batch the driver, which sends further jobs
    (cells that go again, gathers), is a job itself, and all goes on without this machine. With --prepare it first makes
    what is missing of images, job definitions, code and the reference, as tasks of the same Luigi workflow.
    """
    if call.options["dry_run"]:
        return plan.plan(call)
    _require_bound(call)
    with call.events:
        return _run(call)


def _run(call: CommandCall) -> int:
    prepare.require_permission(call)
    if call.options["images"]:
        _bring_images_up_to_date(call)
    preparer = watched(call, partial(prepare.prepare, call)) if call.options["prepare"] else None
    if isinstance(preparer, int):
        return preparer
    request = call.request(writes=True)
    if call.options["failed"]:
        from batch_pipeline.run.status import only_failed

        narrowed = only_failed(request)
        if narrowed is None:
            from batch_pipeline.records.events import Outcome

            data("Nothing to do: no sample has failed.")
            call.events.finished(Outcome(run_ids=(), progress={}, failed=()))
            return CommandExit.DONE
        request = narrowed
    if file := call.options["resume"]:
        from batch_pipeline.cli.driver_job import resumed

        return finish(call, watched(call, lambda listener: resumed(request, file, listener)))
    if call.settings.backend.driver == "batch":
        from batch_pipeline.cli.driver_job import run_as_job

        if (code := run_as_job(call, request)) is not None:
            return code
    detach = bool(call.options["detach"])
    return finish(call, watched(call, lambda listener: drive(request, listener, detach=detach, preparer=preparer)))


def _require_bound(call: CommandCall) -> None:
    """Raises InvalidUse where `--max-cost-cancel` would do nothing."""
    settings = call.settings
    if settings.origins.get("prices.max_cost_cancel") != COMMAND_LINE:
        return
    if not settings.prices.max_cost:
        raise InvalidUse("--max-cost-cancel needs a bound, and prices.max_cost is 0. Give --max-cost too.")
    if call.options["detach"] and settings.backend.driver != "batch":
        raise InvalidUse(
            "--max-cost-cancel acts while a driver follows the run, and with --detach none does. Leave one of them out,"
            " or give --driver batch too."
        )


def _bring_images_up_to_date(call: CommandCall) -> None:
    """Builds and pushes what `deploy images` would, and reads the pins again."""
    from batch_pipeline.cli.wings import deploy_images

    push = call.settings.backend.name == "aws"
    for image in deploy_images(call.graph, call.settings, say=say, only=(), push=push, force=False):
        if image.built:
            say(f"Built image {image.name}: {image.image}")
    del call.graph


def drive(request: Request, listener: Listener, *, detach: bool = False, preparer: Preparer | None = None) -> Outcome:
    """Runs the driver, imported no sooner than now."""
    from batch_pipeline.run import driver

    return driver.run(request, listener, detach=detach, preparer=preparer)


def watched(call: CommandCall, drive: Callable[[Listener], Result]) -> Result | int:
    """Drives with live progress; on Ctrl-C asks what shall become of the jobs and returns the exit code instead."""
    from batch_pipeline.cli.progress import listening
    from batch_pipeline.records.events import CompositeListener

    try:
        with listening() as listener:
            return drive(CompositeListener([listener, call.events]))
    except KeyboardInterrupt as error:
        from batch_pipeline.cli.events import INTERRUPTED

        call.events.stop(INTERRUPTED, "Interrupted; what was submitted goes on unless it is cancelled.")
        return _interrupted(call, tuple(getattr(error, "run_ids", ())))


def _interrupted(call: CommandCall, run_ids: Sequence[str]) -> int:
    if not run_ids:
        say("Interrupted; nothing was submitted.")
        return CommandExit.INTERRUPTED
    if _answer(call) == "cancel":
        from batch_pipeline.run.cancel import cancel

        for sentence in cancel(call.store, call.settings, run_ids):
            say(f"Cancelled {sentence}")
    else:
        say(f"The jobs of {', '.join(run_ids)} go on. See them with `status`; the same command follows them again.")
    return CommandExit.INTERRUPTED


def _answer(call: CommandCall) -> str:
    """`leave` or `cancel`; a second Ctrl-C, or no terminal to ask on, leaves the jobs running."""
    wanted = call.settings.watch.on_interrupt
    if wanted != "ask":
        return wanted
    if call.options.get("yes") or not sys.stdin.isatty():
        return "leave"
    try:
        answer: str = click.prompt(
            "\nLeave the jobs running, or cancel them?",
            type=_ANSWERS,
            value_proc=_answered,
            default="leave",
            err=True,
        )
    except (click.Abort, KeyboardInterrupt):
        return "leave"
    return answer


def _answered(text: str) -> str:
    """A whole answer or its first letter. Raises click.BadParameter for anything else."""
    whole = {answer[0]: answer for answer in _ANSWERS.choices}.get(text.strip().lower(), text)
    answer: str = _ANSWERS.convert(whole, None, None)
    return answer


def finish(call: CommandCall, outcome: Outcome | int) -> int:
    """Tells how it ended and returns the exit code."""
    if isinstance(outcome, int):
        return outcome
    call.events.finished(outcome)
    if call.verbose:
        print_store_calls(dict(outcome.store_calls))
    if call.json:
        from batch_pipeline.report.records import outcome_record, spending_record

        print_json(outcome_record(outcome) | spending_record(call.store, outcome))
    elif not call.options.get("quiet"):
        _tell(outcome, has_pipeline=call.has_pipeline)
        _tell_spending(call, outcome)
    if outcome.interrupted:
        return CommandExit.INTERRUPTED
    return CommandExit.DONE if outcome.ok else CommandExit.FAILED


def _tell_spending(call: CommandCall, outcome: Outcome) -> None:
    from batch_pipeline.records.spent import read_records, spent_in
    from batch_pipeline.report.spending import spent_notes, spent_words, took_words

    if outcome.detached or outcome.interrupted or not outcome.run_ids:
        return
    records = read_records(call.store, outcome.run_ids)
    spent = spent_in(records)
    words = spent_words(spent, sum(record.done for record in records))
    if took := took_words(records):
        say(f"Took {took}{': ' if words else ''}{words}.")
    for note in spent_notes(spent):
        say(note)


def _tell(outcome: Outcome, *, has_pipeline: bool) -> None:
    from batch_pipeline.cli.failures import print_failures
    from batch_pipeline.report.tables import blocked_lines, counted, nothing_to_do, unsent_line, with_cells

    if outcome.detached:
        data(f"Queued: {', '.join(outcome.run_ids)}. The jobs go on by themselves; see `status`.")
        if left := unsent_line(outcome):
            data(left)
        return
    if not outcome.run_ids and not outcome.blocked:
        data(nothing_to_do(outcome.progress))
        _tell_removed(outcome)
        return
    # The last word of the progress was the same.
    if not (outcome.run_ids and one_reader()):
        for name, step in with_cells(outcome.progress).items():
            data(f"{name}: {step.line}")
    for again in outcome.again:
        data(again.line)
    _tell_removed(outcome)
    print_failures(outcome.failed, has_pipeline=has_pipeline)
    if left := unsent_line(outcome):
        data(left)
    if outcome.stopped_by:
        data(f"Not {'sent' if outcome.unsent else 'retried'}: {outcome.stopped_by}")
    if outcome.blocked:
        data(f"{counted(len(outcome.blocked), 'cell')} cannot run:")
        for line in blocked_lines(outcome.blocked):
            data(f"  {line}")


def _tell_removed(outcome: Outcome) -> None:
    from batch_pipeline.report.tables import removed_line

    if line := removed_line(outcome.removed):
        data(line)


def make(workflow: type[WorkflowTask] | None, argv: Sequence[str]) -> click.Command:
    """The command."""
    options = [*common_options(), *pipeline_options(), *run_options(), json_option(), yes_option()]
    options += selection_options(complete.steps(workflow), complete.samples(workflow))
    options += [
        CommandOption("--dry-run", "Show the plan and do nothing.", is_flag=True),
        SettingOption("--pilots", "pool.pilots", "Run the cells through N pilots, not as array jobs.", metavar="N"),
        SettingOption("--items", "pool.items", "Cells that a pilot runs at once.", metavar="N"),
        SettingOption("--nests", "pool.nests", "Factor: a pilot runs N times --items cells at once.", metavar="N"),
        SettingOption(
            "--pool", "pool.url", "Pool of the pilots.", metavar="URL", default_text="SQLite beside the store"
        ),
        driver_option(),
        *event_options(),
        CommandOption("--resume", "In the job of a driver: the file of what it was ordered.", hidden=True),
        CommandOption("--detach", "End as soon as everything is queued.", is_flag=True),
        CommandOption("--images", "Build and push the steps' images first, those that are stale.", is_flag=True),
        *prepare_options(),
    ]
    if workflow is not None:
        options += parameter_options(tasks_of(workflow), options)
    return command("run", workflow, argv, run, options)
