"""`pool retry`, `reset`, `cancel`, `delete`, `undo`, `reap`: what people do to tasks, with filters and guards."""

from __future__ import annotations

import sys
from collections.abc import Collection, Sequence
from functools import partial
from typing import TYPE_CHECKING

import click

from batch_pipeline.cli.call import CommandCall, command
from batch_pipeline.cli.options import CommandOption, json_option, yes_option
from batch_pipeline.cli.output import data, print_json, say
from batch_pipeline.pool.cli.call import filter_of, filter_options, now_ms, opened, pool_options, require_some, who
from batch_pipeline.report.tables import counted
from batch_pipeline.wire.contract import CommandExit
from batch_pipeline.wire.errors import InvalidUse

if TYPE_CHECKING:
    from batch_pipeline.pipeline.workflow import WorkflowTask
    from batch_pipeline.pool.base import MoveReport, TaskReader

#: Verb -> what it did, in a word.
_DONE = {"retry": "retried", "reset": "reset", "cancel": "cancelled", "delete": "deleted"}
_MOST_REFUSALS = 10


def retry(call: CommandCall) -> int:
    """Has failed and cancelled tasks done again; what is known of their last attempt stays to be seen."""
    return _move(call, "retry")


def reset(call: CommandCall) -> int:
    """Has tasks done from the beginning, whatever they are. Their history stays, and `undo` takes it back."""
    return _move(call, "reset")


def cancel(call: CommandCall) -> int:
    """Has tasks that have not ended not done. One that a pilot holds needs --force: the pilot then stops it."""
    return _move(call, "cancel")


def delete(call: CommandCall) -> int:
    """Takes tasks out of the pool. Their history stays, and `undo` brings them back."""
    return _move(call, "delete")


def _move(call: CommandCall, verb: str) -> int:
    from ulid import ULID

    from batch_pipeline.pool.task import Action

    require_some(call, verb)
    wanted, action = filter_of(call), Action(verb)
    force, dry_run = bool(call.options["force"]), bool(call.options["dry_run"])
    act = f"{verb}-{ULID()}"
    with opened(call) as pool:
        _refuse_unknown(pool, wanted.ids)
        go = partial(pool.move, wanted, action, now_ms=now_ms(), act=act, who=who(), force=force)
        if not dry_run and not call.options["ids"] and verb != "retry":
            _ask(call, verb, go(dry_run=True))
        report = go(dry_run=dry_run)
    return _tell(call, report, f"would be {_DONE[verb]}" if dry_run else _DONE[verb], "" if dry_run else act)


def _refuse_unknown(pool: TaskReader, ids: Collection[str]) -> None:
    for name in sorted(ids):
        if pool.get(name) is None:
            raise InvalidUse(f"There is no task {name!r} in the pool; nothing was done. `pool show` lists them.")


def _ask(call: CommandCall, verb: str, report: MoveReport) -> None:
    if call.options["yes"] or not report.moved:
        return
    what = (
        f"{verb} {counted(report.moved, 'task')} ({', '.join(report.moved_ids[:5])}{', …' if report.moved > 5 else ''})"
    )
    if not sys.stdin.isatty():
        raise InvalidUse(
            f"This would {what}, and there is no terminal to ask on. Give --yes, or --dry-run to see more."
        )
    click.confirm(f"{what.capitalize()}?", abort=True, err=True)


def undo(call: CommandCall) -> int:
    """Takes back what a retry, reset, cancel or delete did, of the tasks to which nothing happened since.

    ACT is what that verb printed; `show ID` has it too.
    """
    with opened(call) as pool:
        dry_run = bool(call.options["dry_run"])
        report = pool.undo(call.options["act"], now_ms=now_ms(), who=who(), dry_run=dry_run)
    if not report.moved and not report.refused:
        raise InvalidUse(f"There is no act {call.options['act']!r}. `pool show ID` tells those of a task.")
    return _tell(call, report, "would be as before" if dry_run else "as before", "")


def reap(call: CommandCall) -> int:
    """Takes back what pilots hold that are not heard of, and frees tasks that wait for nothing any more.

    Pilots do it too; this is for when there is none.
    """
    with opened(call) as pool:
        expired_ids = pool.reap(now_ms=now_ms())
        freed = pool.sweep(now_ms=now_ms())
    if call.json:
        print_json({"format": 1, "taken": expired_ids, "freed": freed})
    else:
        data(f"Took {counted(len(expired_ids), 'task')} back; freed {freed:,} that waited for nothing.")
    return CommandExit.DONE


def _tell(call: CommandCall, report: MoveReport, word: str, act: str) -> int:
    if call.json:
        refusals = dict(report.refusals)
        record = {"moved": report.moved, "ids": list(report.moved_ids), "refused": report.refused, "refusals": refusals}
        print_json({"format": 1, **record, "act": act})
    else:
        data(f"{counted(report.moved, 'task')} {word}.")
        for sentence in list(report.refusals.values())[:_MOST_REFUSALS]:
            say(f"Refused: {sentence}")
        if report.refused > _MOST_REFUSALS:
            say(f"Refused: {report.refused - _MOST_REFUSALS:,} more.")
        if report.moved and act:
            say(f"Take it back with: pool undo {act}")
    return CommandExit.CONFLICT if report.refused and not report.moved else CommandExit.DONE


def make(name: str, workflow: type[WorkflowTask] | None, argv: Sequence[str]) -> click.Command:
    """The command."""
    options = [*pool_options(), json_option()]
    dry_run = CommandOption("--dry-run", "Say what would be done, and do nothing.", is_flag=True)
    if name == "reap":
        return command(name, workflow, argv, reap, options)
    if name == "undo":
        return command(name, workflow, argv, undo, [click.Argument(["act"]), *options, dry_run])
    options += [
        *filter_options(),
        CommandOption("--all", "All tasks of the pool.", is_flag=True),
        dry_run,
        CommandOption("--force", "Tasks that a pilot holds, too: it is told to stop.", is_flag=True),
        yes_option(),
    ]
    body = {"retry": retry, "reset": reset, "cancel": cancel, "delete": delete}[name]
    return command(name, workflow, argv, body, options)
