"""`pool work` and `pool autopilot`: be a pilot, and keep as many pilots as the backlog needs."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Final

import click

from batch_pipeline.cli.call import CommandCall, command
from batch_pipeline.cli.options import CommandOption, SettingOption, json_option
from batch_pipeline.cli.output import print_json, say
from batch_pipeline.pool.cli.call import Duration, now_ms, opened, pairs, pool_options, url_of
from batch_pipeline.report.tables import counted
from batch_pipeline.wire.contract import CommandExit, ContainerExit, Variable
from batch_pipeline.wire.errors import InvalidUse

if TYPE_CHECKING:
    from batch_pipeline.pipeline.workflow import WorkflowTask
    from batch_pipeline.pool.pilots.autopilot import Launcher
    from batch_pipeline.pool.pilots.pilot_config import PilotConfig, Report

_HOOKS: Final = ("prepare_env", "cleanup_env", "prepare_run", "cleanup_run")
_UNTIL: Final = ("empty", "settled", "endless")


def work(call: CommandCall) -> int:
    """Is a pilot: claims tasks, runs their commands, settles them, until nothing is left or a criterion ends it.

    It runs items x nests commands at once. TERM and Ctrl-C give back what it holds within seconds. It ends with 0,
    with 1 when tasks failed for good, with 143 or 130 after a signal. In a job of AWS Batch a signal means 75, and 0
    says that the pilot did its work, whatever became of its tasks.
    """
    from batch_pipeline.pool.pilots.hooks import hooks_of
    from batch_pipeline.pool.pilots.notice import NoticeWatch
    from batch_pipeline.pool.pilots.pilot import Pilot

    scripts = {hook: call.options[hook] or "" for hook in _HOOKS}
    hooks = hooks_of(call.options["hooks"] or "", scripts)
    config = _config(call)
    with ExitStack() as stack:
        pool = stack.enter_context(opened(call))
        if call.options["spot_notice"]:
            stack.enter_context(NoticeWatch(lambda: os.kill(os.getpid(), signal.SIGTERM), tell=say))
        report = Pilot(pool, config, store=lambda: call.new_store, hooks=hooks, tell=say).run()
    _tell(call, config, report)
    if report.signal:
        return _code_of(report.signal)
    # A job of Batch that was a pilot did what it should; what became of its tasks stands in the pool.
    failed = report.stats.failed and not os.environ.get(Variable.JOB_ID)
    return CommandExit.FAILED if failed else CommandExit.DONE


def _config(call: CommandCall) -> PilotConfig:
    from batch_pipeline.pool.pilots.launch import identity
    from batch_pipeline.pool.pilots.pilot_config import PilotConfig, StopCriteria, Until

    options, settings = call.options, call.settings.pool
    owner, native_id = identity(os.environ)
    return PilotConfig(
        owner=options["owner"] or owner,
        native_id=native_id,
        items=settings.items,
        nests=settings.nests,
        classes=frozenset(options["of_class"]) or None,
        class_slots=numbers(options["slots"], "--slots"),
        criteria=StopCriteria(
            until=Until(options["until"]),
            tasks=options["tasks"],
            wall_seconds=options["wall_time"],
            total_seconds=options["total_time"],
            idle_seconds=options["idle_time"],
            scrubs=options["scrubs"],
        ),
        lease_seconds=settings.lease_seconds,
        grace_seconds=options["grace"],
        scratch=options["scratch"] or "",
    )


def _tell(call: CommandCall, config: PilotConfig, report: Report) -> None:
    stats = report.stats
    if call.json:
        numbers_by_word = {"done": stats.done, "failed": stats.failed, "again": stats.again}
        numbers_by_word |= {"released": stats.released, "refused": stats.refused}
        print_json({"format": 1, "owner": config.owner, **numbers_by_word, "seconds": stats.seconds, "why": report.why})
        return
    words = {"failed": stats.failed, "to be done again": stats.again, "given back": stats.released}
    words |= {"taken by others": stats.refused}
    more = "".join(f", {number:,} {word}" for word, number in words.items() if number)
    say(f"Pilot {config.owner}: {counted(stats.done, 'task')} done{more}. It ended because {report.why}.")


def _code_of(number: int) -> int:
    """What a pilot ends with that a signal ended; on AWS Batch, what has it put back."""
    if os.environ.get(Variable.JOB_ID):
        return ContainerExit.INTERRUPTED
    return CommandExit.INTERRUPTED if number == signal.SIGINT else 128 + number


def numbers(texts: Sequence[str], flag: str) -> Mapping[str, int]:
    """`class=number` of a repeatable option. Raises InvalidUse."""
    texts_by_class = pairs(texts, flag)
    wrong = next(
        (f"{name}={value}" for name, value in texts_by_class.items() if not value.isascii() or not value.isdigit()), ""
    )
    if wrong:
        raise InvalidUse(f"{flag} {wrong}: the part after = must be a whole number.")
    return {name: int(value) for name, value in texts_by_class.items()}


def autopilot(call: CommandCall) -> int:
    """Keeps as many pilots as the backlog of each class needs, up to a cap, until the pool is drained.

    Pilots that are queued or at work count. With --once it looks once, for cron. What stands after `--` goes to the
    pilots: `pool autopilot --most 4 -- --items 2`. --on batch sends them to the queue as array jobs.
    """
    from batch_pipeline.pool.pilots.autopilot import Autopilot, Sizing

    options = call.options
    sizing = Sizing(
        most=options["most"], caps=numbers(options["cap"], "--cap"), tasks_per_pilot=options["tasks_per_pilot"]
    )
    with opened(call) as pool:
        launcher = _launcher(call)
        pilot = Autopilot(pool, launcher, sizing, classes=options["of_class"] or None, now_ms=now_ms)
        if options["once"]:
            for sentence in pilot.look():
                say(sentence)
        else:
            for sentence in pilot.until_over(time.sleep, call.settings.watch.poll_seconds):
                say(sentence)
    return CommandExit.DONE


def _launcher(call: CommandCall) -> Launcher:
    from batch_pipeline.pool.settings import batch_launcher, local_launcher

    options, settings = call.options, call.settings
    arguments = tuple(options["arguments"])
    if options["on"] == "here":
        return local_launcher(settings, url_of(call), arguments)
    cpus, memory_mb = options["vcpus"], options["memory"]
    return batch_launcher(settings, call.new_store, url_of(call), arguments, cpus=cpus, memory_mb=memory_mb)


def _pilot_options() -> list[click.Parameter]:
    def lasting(flag: str, help: str, **more: str) -> CommandOption:
        return CommandOption(flag, help, type=Duration(), metavar="TIME", **more)

    return [
        SettingOption("--items", "pool.items", "Items at once.", metavar="N"),
        SettingOption("--nests", "pool.nests", "Sub-tasks of each item at once.", metavar="N"),
        SettingOption(
            "--lease", "pool.lease_seconds", "Seconds for which a task stays a silent pilot's.", metavar="SECONDS"
        ),
        CommandOption(
            "--class", "Only of this resource class; repeatable.", multiple=True, metavar="CLASS", name="of_class"
        ),
        CommandOption("--slots", "How many of a class at once; repeatable.", multiple=True, metavar="CLASS=N"),
        CommandOption("--until", "When it looks no more.", type=click.Choice(_UNTIL), default="settled"),
        CommandOption("--tasks", "Begin at most so many.", type=click.IntRange(0), metavar="N"),
        lasting("--wall-time", "Begin none that would most likely end later; give back what runs then."),
        lasting("--total-time", "Begin none later; what runs goes on to its end."),
        lasting("--idle-time", "End after so long without a task."),
        CommandOption("--scrubs", "End after so many attempts that failed.", type=click.IntRange(1), metavar="N"),
        CommandOption("--grace", "Between TERM and KILL.", type=Duration(), default=5.0, metavar="TIME"),
        CommandOption(
            "--spot-notice",
            "On a Spot instance outside AWS Batch: hear of its end two minutes before, as of TERM.",
            is_flag=True,
        ),
        CommandOption("--hooks", "Class with hooks of your own.", metavar="MODULE:CLASS"),
        CommandOption("--prepare-env", "Line for bash before the first claim.", metavar="LINE", name="prepare_env"),
        CommandOption("--cleanup-env", "Line for bash at the end.", metavar="LINE", name="cleanup_env"),
        CommandOption("--prepare-run", "Line for bash before each command.", metavar="LINE", name="prepare_run"),
        CommandOption("--cleanup-run", "Line for bash after each command.", metavar="LINE", name="cleanup_run"),
        CommandOption("--owner", "Its name in the pool, instead of host and process.", metavar="NAME"),
        CommandOption("--scratch", "Folder for logs and files of tasks that run.", metavar="FOLDER"),
    ]


def _autopilot_options() -> list[click.Parameter]:
    return [
        click.Argument(["arguments"], nargs=-1, type=click.UNPROCESSED, metavar="[-- OPTION…]"),
        CommandOption(
            "--class", "Only this resource class; repeatable.", multiple=True, metavar="CLASS", name="of_class"
        ),
        CommandOption("--most", "Pilots of a class at the most.", type=click.IntRange(0), default=4, metavar="N"),
        CommandOption("--cap", "Pilots of one class at the most; repeatable.", multiple=True, metavar="CLASS=N"),
        CommandOption(
            "--tasks-per-pilot", "Tasks for which one is enough.", type=click.IntRange(1), default=10, metavar="N"
        ),
        CommandOption("--on", "Where pilots run.", type=click.Choice(["here", "batch"]), default="here"),
        CommandOption("--once", "Look once and end.", is_flag=True),
        SettingOption("--queue", "backend.queue", "Job queue of pilots on Batch."),
        SettingOption("--image", "pool.image", "Image of pilots on Batch."),
        CommandOption("--vcpus", "vCPUs of each.", type=click.IntRange(1), default=1, metavar="N"),
        CommandOption("--memory", "MiB of each.", type=click.IntRange(4), default=2048, metavar="MIB"),
    ]


def make(name: str, workflow: type[WorkflowTask] | None, argv: Sequence[str]) -> click.Command:
    """The command."""
    if name == "work":
        return command(name, workflow, argv, work, [*_pilot_options(), *pool_options(), json_option()])
    return command(name, workflow, argv, autopilot, [*_autopilot_options(), *pool_options()])
