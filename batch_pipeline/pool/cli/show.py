"""`pool show` and `pool views`: tasks looked at, one by one, as a list, or as PiCaS's views have them."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from itertools import islice
from typing import TYPE_CHECKING

import click

from batch_pipeline.cli.call import CommandCall, command
from batch_pipeline.cli.options import CommandOption, json_option
from batch_pipeline.cli.output import data, print_json, print_table, say
from batch_pipeline.pool.cli.call import filter_of, filter_options, opened, pool_options, url_of
from batch_pipeline.wire.contract import CommandExit
from batch_pipeline.wire.errors import InvalidUse

if TYPE_CHECKING:
    from batch_pipeline.pipeline.workflow import WorkflowTask
    from batch_pipeline.pool.base import Filter, TaskReader
    from batch_pipeline.pool.task import Task, TaskEvent

#: PiCaS's views, in its words, and the states of which each lists the ids.
VIEWS: Mapping[str, Sequence[str]] = {
    "todo": ("todo",),
    "locked": ("held",),
    "done": ("done",),
    "error": ("failed",),
    "waiting": ("waiting",),
    "cancelled": ("cancelled",),
}


def show(call: CommandCall) -> int:
    """Lists the tasks that are meant; tells everything about those that are named by their ids.

    A task's history has every move since it was added, resets and deletions among them.
    """
    from batch_pipeline.pool.files.writing import tasks_of

    wanted = filter_of(call)
    with opened(call) as pool:
        if wanted.ids:
            return _show_some(call, pool, wanted)
        most = call.options["limit"]
        tasks = list(islice(tasks_of(pool, wanted), most + 1))
    if call.json:
        from batch_pipeline.pool.records import record_of_task

        print_json({"format": 1, "tasks": [record_of_task(task) for task in tasks[:most]]})
        return CommandExit.DONE
    print_table(("task", "class", "state", "tries", "owner", "about"), [_row(task) for task in tasks[:most]])
    if len(tasks) > most:
        say(f"There are more than {most:,}: see them with --limit, or all with `pool export`.")
    return CommandExit.DONE


def _row(task: Task) -> tuple[str, str, str, str, str, str]:
    tries = f"{task.attempts}/{task.spec.most_attempts}" + (f" +{task.returns}" if task.returns else "")
    return task.id, task.spec.resource_class, task.state.value, tries, task.owner, _about(task)


def _about(task: Task) -> str:
    if task.state.value == "held":
        return f"{task.progress:.0%}" if task.progress is not None else ""
    error = task.outcome.error if task.outcome and task.state.value != "done" else ""
    return task.reason or error.split("\n", 1)[0][:120]


def _show_some(call: CommandCall, pool: TaskReader, wanted: Filter) -> int:
    from batch_pipeline.pool.records import record_of_event, record_of_task

    histories = {name: (pool.get(name), list(pool.events(task_id=name))) for name in sorted(wanted.ids)}
    unknown = [name for name, (task, events) in histories.items() if task is None and not events]
    if unknown:
        raise InvalidUse(f"There is no task {unknown[0]!r} in {url_of(call)}. `pool show` lists them.")
    if call.json:
        records = [
            {
                "id": name,
                "task": record_of_task(task) if task else None,
                "events": [record_of_event(event) for event in events],
            }
            for name, (task, events) in histories.items()
        ]
        print_json({"format": 1, "tasks": records})
        return CommandExit.DONE
    for name, (task, events) in histories.items():
        _print_task(name, task)
        for event in events:
            data(f"  {_moment(event.at_ms)}  {event.move.value:<10}{_event_words(event)}")
        if call.options["log"] and task is not None:
            _print_log(call, task)
    return CommandExit.DONE


def _print_task(name: str, task: Task | None) -> None:
    if task is None:
        data(f"{name}: deleted")
        return
    spec, outcome = task.spec, task.outcome
    data(f"{name}: {task.state.value}{f' ({task.reason})' if task.reason else ''}")
    lines: dict[str, object] = {
        "command": shlex.join(spec.command) or spec.shell,
        "class": spec.resource_class,
        "priority": spec.priority or "",
        "after": ", ".join(spec.after),
        "item": spec.parent,
        "tries": _row(task)[3],
        "owner": " ".join(filter(None, (task.owner, task.native_id))),
        "progress": "" if task.progress is None else f"{task.progress:.0%}",
        "exit code": "" if outcome is None or outcome.exit_code is None else outcome.exit_code,
        "error": outcome.error if outcome else "",
        "log": outcome.log_key if outcome else "",
        **({f"result {key}": value for key, value in outcome.fields.items()} if outcome else {}),
    }
    for word, value in lines.items():
        if value != "":
            data(f"  {word}: {value}")


def _print_log(call: CommandCall, task: Task) -> None:
    outcome = task.outcome
    if outcome is None:
        return
    if outcome.log_key:
        data(call.store.get(outcome.log_key).decode(errors="replace").rstrip("\n"))
    elif outcome.log_tail:
        data(outcome.log_tail.rstrip("\n"))


def _event_words(event: TaskEvent) -> str:
    parts = (event.owner, event.why, f"[{event.act}]" if event.act else "")
    return "  ".join(part for part in parts if part)


def _moment(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")


def views(call: CommandCall) -> int:
    """Lists the ids of tasks as PiCaS's views have them: todo, locked, done, error; without VIEW, their numbers."""
    from dataclasses import replace

    from batch_pipeline.pool.files.writing import tasks_of
    from batch_pipeline.pool.task import TaskState

    view, wanted = call.options["view"], filter_of(call)
    with opened(call) as pool:
        if view:
            states = frozenset(map(TaskState, VIEWS[view]))
            ids = [task.id for task in tasks_of(pool, replace(wanted, states=states))]
            if call.json:
                print_json(ids)
            elif ids:
                data("\n".join(ids))
            return CommandExit.DONE
        counts = pool.counts()
    numbers = {
        name: sum(counts.of(TaskState(state), wanted.classes or None) for state in VIEWS[name]) for name in VIEWS
    }
    if call.json:
        print_json({"format": 1, "overview_total": numbers})
    else:
        print_table(("view", "tasks"), list(numbers.items()))
    return CommandExit.DONE


def make(name: str, workflow: type[WorkflowTask] | None, argv: Sequence[str]) -> click.Command:
    """The command."""
    options = [*pool_options(), json_option()]
    if name == "views":
        view = click.Argument(["view"], required=False, type=click.Choice(list(VIEWS)), metavar="[VIEW]")
        return command(name, workflow, argv, views, [view, *filter_options(ids=False), *options])
    limit = CommandOption("--limit", "List at most so many.", type=click.IntRange(1), default=100, metavar="N")
    log = CommandOption("--log", "The log of the last attempt too, of named tasks.", is_flag=True)
    return command(name, workflow, argv, show, [*filter_options(), limit, log, *options])
